//! How people and programs look into a running speaker and steer it.
//!
//! Owns what is asked on the unix sockets, the words of the answers, and the figures for Prometheus.
//! Both speakers, the node's and the route reflector, use it. Never knows a TCP connection of a peer, the
//! kernel or the cluster: what belongs to these comes in as [`Owner`].

mod bird;
mod cause;
mod console;
mod event_log;
mod framed;
mod gobgp;
mod health;
mod metrics;
mod observers;
mod recording;
mod routes;
mod socket;
mod watchers;
mod words;

pub use bird::{BirdSocket, utc};
pub use cause::cause_name;
pub use console::{Call, Calls, Console, KernelRoutes, Owner, Subject, console};
pub use event_log::EventLog;
pub use health::{Health, Readiness};
pub use metrics::Metrics;
pub use observers::Observers;
pub use operator_socket::ControlSocket;
pub use recording::Recording;
pub use socket::control_socket;
