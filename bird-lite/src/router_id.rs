//! BGP Identifiers. Owns where a node's one comes from.

use std::net::{AddrParseError, IpAddr, Ipv4Addr};
use std::str::FromStr;

use bgp_packet::Family;
use model::Node;
use sha2::{Digest, Sha256};

use crate::sessions::address;

/// Where a node's BGP Identifier comes from (`CALICO_ROUTER_ID`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterId {
    /// Its IPv4 address; one derived from its name when it has none.
    #[default]
    Address,
    /// `hash`: derived from its name.
    Hash,
    /// This one.
    Fixed(Ipv4Addr),
}

impl FromStr for RouterId {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text {
            "" => Ok(Self::Address),
            "hash" => Ok(Self::Hash),
            text => text.parse().map(Self::Fixed),
        }
    }
}

impl RouterId {
    /// The BGP Identifier of a node.
    pub fn of(self, node: &Node) -> Ipv4Addr {
        match (self, address(node, Family::Ipv4)) {
            (Self::Fixed(id), _) => id,
            (Self::Address, Some(IpAddr::V4(address))) => address,
            _ => {
                let hash = Sha256::digest(node.name.as_str().as_bytes());
                let first = if hash[0] > 223 { hash[0] - 32 } else { hash[0] };
                Ipv4Addr::new(first, hash[1], hash[2], hash[3])
            }
        }
    }
}
