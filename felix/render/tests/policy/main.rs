//! From the datastore to the verdict on a packet: calc and renderer together, into a fake dataplane.

#![allow(clippy::unwrap_used, reason = "clippy exempts only the test functions themselves")]

mod base_chains;
mod calico;
mod cases;
mod cluster;
mod convert;
mod dataplane;
mod golden;
mod hosts;
mod kubernetes;
mod live;
mod matrix;
mod nftables;
mod node;
mod random;
mod way;
