//! `BGPPeer`: whom nodes peer with.

use std::net::IpAddr;
use std::time::Duration;

use crate::{NodeName, SecretKey, Selector};

/// Which nodes a `BGPPeer` is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerSelection {
    /// Neither `node` nor `nodeSelector`.
    AllNodes,
    Node(NodeName),
    Selector(Selector),
}

/// What next hop is announced to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextHopMode {
    #[default]
    Auto,
    SelfAddress,
    Keep,
}

/// Whom the nodes peer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerTarget {
    /// An address; `None` as port is 179, or the listening port of the node that has the address.
    Address(IpAddr, Option<u16>),
    /// The nodes that the selector matches.
    Nodes(Selector),
    /// Pods of the node itself that the selector matches.
    LocalWorkloads(Selector),
}

/// `BGPPeer` of `projectcalico.org/v3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    pub name: String,
    /// Who peers.
    pub nodes: PeerSelection,
    /// With whom.
    pub target: PeerTarget,
    /// The peer's AS; `None` takes the node's own.
    pub as_number: Option<u32>,
    /// AS that the nodes present instead of their own.
    pub local_as_number: Option<u32>,
    pub next_hop_mode: NextHopMode,
    pub keepalive_time: Option<Duration>,
    pub max_restart_time: Option<Duration>,
    /// Bind to the node's address; false leaves the choice to the kernel.
    pub source_address_is_node_ip: bool,
    /// Where the MD5 password is.
    pub password: Option<SecretKey>,
    /// How often the own AS may be in a received path.
    pub allowed_local_as_numbers: u32,
    /// Generalised TTL security: how many hops away the peer may be.
    pub ttl_security: Option<u8>,
    /// Gateway through which the peer is reached.
    pub reachable_by: Option<IpAddr>,
    /// Names of `BGPFilter`s in the order in which they are asked.
    pub filters: Vec<String>,
    /// Nodes that are chosen as peers have the other half of the session by themselves.
    pub reverse: bool,
}

impl BgpPeer {
    /// A peering of all nodes with an address, everything else as Calico has it by default.
    pub fn new(name: &str, target: PeerTarget, as_number: Option<u32>) -> Self {
        Self {
            name: name.to_owned(),
            nodes: PeerSelection::AllNodes,
            target,
            as_number,
            local_as_number: None,
            next_hop_mode: NextHopMode::Auto,
            keepalive_time: None,
            max_restart_time: None,
            source_address_is_node_ip: true,
            password: None,
            allowed_local_as_numbers: 0,
            ttl_security: None,
            reachable_by: None,
            filters: Vec::new(),
            reverse: true,
        }
    }
}
