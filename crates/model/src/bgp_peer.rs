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
    /// The router at the other end of the node's link with this name, by its IPv6 link-local address, which is heard
    /// from its router advertisements.
    Interface(String),
}

/// What a node is to an external peer (RFC 9234).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BgpRole {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

/// How the path to a peer is watched (RFC 5880).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdSettings {
    /// Milliseconds between packets that are sent.
    pub min_tx: u32,
    /// Milliseconds between packets that can be taken.
    pub min_rx: u32,
    /// So many that are missing end the session.
    pub detect_multiplier: u8,
    /// The peer is several hops away (RFC 5883).
    pub multihop: bool,
}

impl Default for BfdSettings {
    fn default() -> Self {
        Self { min_tx: 300, min_rx: 300, detect_multiplier: 3, multihop: false }
    }
}

/// Several paths for a prefix (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    pub receive: bool,
    /// How many paths to a prefix are sent at most; 0 sends the best alone, without an identifier.
    pub send: u8,
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
    /// Own settings, which Calico has none of.
    pub role: Option<BgpRole>,
    /// With `role`: a peer that names no role is refused.
    pub strict_role: bool,
    pub bfd: Option<BfdSettings>,
    pub add_path: AddPath,
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
            role: None,
            strict_role: false,
            bfd: None,
            add_path: AddPath::default(),
        }
    }
}
