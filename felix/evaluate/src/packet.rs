//! One packet, and where it begins and ends.

use std::net::IpAddr;
use std::sync::Arc;

use model::{Family, NodeName, PodKey, Protocol};

/// What sends or receives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Through the pod's own interface; a pod of the node's network counts as [`Place::Node`].
    Pod(PodKey),
    /// A process of the node itself.
    Node(NodeName),
    /// None of the cluster's.
    Outside,
}

/// One end of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub place: Place,
    /// As it stands in the packet when policy sees it: after the translation of a Service.
    pub address: IpAddr,
    /// The interface of this end's node through which the packet leaves or enters it, where the other end
    /// is not on the same node. Only host endpoints ask; of `None`, only that of all interfaces applies.
    pub link: Option<Arc<str>>,
}

impl Side {
    /// An end whose node has no host endpoint of a single interface, or whose interface is not known.
    pub fn new(place: Place, address: IpAddr) -> Self {
        Self { place, address, link: None }
    }
}

/// The first packet of a connection: what belongs to an established one is accepted before policy is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: Side,
    pub to: Side,
    pub protocol: Protocol,
    /// 0 where the protocol has none.
    pub source_port: u16,
    /// After the translation of a Service; 0 where the protocol has none.
    pub destination_port: u16,
    /// Type and code, of ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// Destination and port before a Service's address was translated, where it was.
    pub original_destination: Option<(IpAddr, u16)>,
}

impl Packet {
    /// A packet to a port, from one that no policy speaks about.
    pub fn new(from: Side, to: Side, protocol: Protocol, destination_port: u16) -> Self {
        Self {
            from,
            to,
            protocol,
            source_port: 40_000,
            destination_port,
            icmp: None,
            original_destination: None,
        }
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.from.address)
    }
}
