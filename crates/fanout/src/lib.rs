//! One watch of the cluster for many nodes, as two machines: the [`Server`] that holds what the API server says
//! and the [`Follower`] that takes it in elsewhere. The language between them is [`proto::typha`].
//!
//! Owns what each client is sent next, what a slow one may miss, and how one that comes back catches up. Never
//! understands an object: it is a name and octets. Never opens a socket.

mod chunk;
mod follower;
mod log;
mod rebalance;
mod server;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use follower::{Follower, ProtocolError};
pub use rebalance::connection_limit;
pub use server::{ClientId, ClientView, Counters, Limits, Server};

/// Namespace (empty for cluster-wide objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Name {
    /// Namespace and name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// What happens to the objects of one kind, on the way into a [`Server`] and out of a [`Follower`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All objects follow; those that are known and do not come until [`Event::Listed`] are gone.
    ListBegins,
    /// The object is there and says this.
    Put(Name, Bytes),
    Gone(Name),
    Listed,
    /// The API server does not know this kind.
    Missing,
}
