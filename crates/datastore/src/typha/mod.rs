//! Everything about typha that touches a socket or a file: how a program of a node finds it and listens to it, and
//! what both sides agree on about TLS. The machines are [`fanout`]'s.

mod discovery;
mod feed;
mod settings;
mod tls;
mod wire;

pub(crate) use feed::Feed;
pub use settings::{Place, Settings, WrongSetting};
pub use tls::{Files, Identity, ServerTls, TlsError, client_config, peer_matches};
pub use wire::Incoming;

pub use crate::objects::FIELDS;
pub use discovery::{Found, service_endpoints};
