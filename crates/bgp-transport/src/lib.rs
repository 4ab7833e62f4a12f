//! The edge between sockets and a speaker.
//!
//! Owns listening, connecting, socket options (source address, TCP MD5, TTL, timeouts), reading, writing and
//! the loop that carries bytes and time. Never knows a message, a route or a state of the protocol.

mod bfd_door;
mod connection;
mod dial;
mod discovery;
mod driver;
mod farewell;
mod limits;
mod listener;
mod options;
mod poller;
mod port_owner;
mod udp;

pub use discovery::RouterDiscovery;
pub use driver::Driver;
pub use limits::raise_descriptor_limit;
pub use listener::ListenError;
pub use port_owner::{PortOwner, port_owner};
