//! The pure part of a node's speaker: from what the cluster says to what the speaker should do, and from its
//! Loc-RIB to kernel routes.
//!
//! Owns the meaning of BGPConfiguration, BGPPeer, nodes, pools and blocks for BGP. Never talks to the API
//! server, the kernel or a peer: [`main`] wires those.

mod app;
pub mod cluster;
pub mod convert;
mod dataplane;
pub mod export;
pub mod fib;
pub mod filters;
pub mod first_sessions;
pub mod kernel_routes;
pub mod legs;
mod log_level;
mod monitor;
pub mod next_hops;
pub mod nexthop_objects;
mod node_addresses;
pub mod node_status;
pub mod origin;
mod passwords;
pub mod peer_events;
mod peering_addresses;
pub mod peers;
mod policies;
mod program;
mod reporter;
pub mod route_table;
mod router_id;
pub mod services;
mod session_settings;
mod sessions;

pub use program::{command, main};
