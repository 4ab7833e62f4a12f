//! Permanent neighbour entries.

use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighbourKey {
    pub interface: String,
    pub address: IpAddr,
}

/// The MAC behind an address; always NUD_PERMANENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub mac: [u8; 6],
}
