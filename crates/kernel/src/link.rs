//! Links.

use std::net::IpAddr;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Administratively up: routes through it can be written, whether or not it has a carrier.
    pub up: bool,
    pub mtu: u32,
    pub mac: Option<[u8; 6]>,
    /// `ip link set alias`: for our veths the container ID.
    pub alias: Option<String>,
    /// Addresses with their prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Something about links, addresses, routes or neighbours changed in the kernel: look again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkEvent {
    /// A link came, went up or down, or changed.
    Link {
        index: u32,
        name: String,
    },
    LinkGone {
        index: u32,
        name: String,
    },
    /// An address came or went on a link.
    Address {
        index: u32,
    },
    /// A route came or went; `protocol` tells whose.
    Route {
        protocol: u8,
    },
    Neighbour {
        index: u32,
    },
    /// A forwarding entry of a bridge or a VXLAN link came or went; also one that is our own doing.
    Forwarding {
        index: u32,
    },
    /// Events were lost: look at everything again.
    Overrun,
}
