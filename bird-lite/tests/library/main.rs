//! The pure library on one small cluster: what a node announces and to whom, whom it peers with, and what it
//! makes of learned routes. No socket, no kernel, no clock.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod announcements;
mod fib;
mod kernel_routes;
#[path = "../../../crates/bgp/tests/net/mod.rs"]
mod net;
mod node_status;
mod peer_events;
mod peers;
mod policy;
mod route_table;
mod services;
mod strangers;
mod vectors;
mod world;
