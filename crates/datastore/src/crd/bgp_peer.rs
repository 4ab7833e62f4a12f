//! `BGPPeer`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bgp::BGPPassword;
use super::int_or_string::AsNumberValue;
use super::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NextHopMode {
    Auto,
    #[serde(rename = "Self")]
    SelfAddress,
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceAddress {
    UseNodeIP,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReversePeering {
    Auto,
    Manual,
}

/// A router, or a set of nodes, that nodes peer with.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPPeer",
    plural = "bgppeers",
    derive = "PartialEq",
    doc = "A router, or a set of nodes, that nodes peer with.",
    printcolumn(name = "PEERIP", type_ = "string", json_path = ".spec.peerIP"),
    printcolumn(name = "ASNUMBER", type_ = "string", json_path = ".spec.asNumber"),
    printcolumn(name = "NODE", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "NODESELECTOR", type_ = "string", json_path = ".spec.nodeSelector"),
    printcolumn(name = "PEERSELECTOR", type_ = "string", json_path = ".spec.peerSelector", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.node) || !has(self.nodeSelector)", "message": "node and nodeSelector exclude each other"},
    {"rule": "!has(self.peerIP) || !has(self.peerSelector)", "message": "peerIP and peerSelector exclude each other"},
    {"rule": "!has(self.asNumber) || !has(self.peerSelector)",
     "message": "asNumber and peerSelector exclude each other: the nodes' own AS numbers are used"},
    {"rule": "has(self.peerIP) || has(self.peerSelector) || has(self.localWorkloadSelector) || has(self.interface)",
     "message": "one of peerIP, peerSelector and interface must say whom to peer with"},
    {"rule": "!has(self.interface) || (!has(self.peerIP) && !has(self.peerSelector) && !has(self.localWorkloadSelector) && has(self.asNumber))",
     "message": "interface needs asNumber and excludes peerIP, peerSelector and localWorkloadSelector"},
    {"rule": "!has(self.strictRole) || !self.strictRole || has(self.role)", "message": "strictRole needs role",
     "fieldPath": ".strictRole"},
    {"rule": "!has(self.peerIP) || has(self.asNumber)", "message": "asNumber is needed with peerIP",
     "fieldPath": ".asNumber"},
    {"rule": "!has(self.reachableBy) || has(self.peerIP)", "message": "reachableBy needs peerIP",
     "fieldPath": ".reachableBy"},
    {"rule": "!has(self.reachableBy) || !has(self.peerIP) || self.reachableBy.contains(':') == (self.peerIP.startsWith('[') || !self.peerIP.contains('.'))",
     "message": "reachableBy and peerIP must be of one family", "fieldPath": ".reachableBy"},
    {"rule": "!has(self.keepOriginalNextHop) || !self.keepOriginalNextHop || !has(self.nextHopMode)",
     "message": "keepOriginalNextHop and nextHopMode exclude each other"},
    {"rule": "!has(self.localWorkloadSelector) || (!has(self.peerIP) && !has(self.peerSelector) && has(self.asNumber))",
     "message": "localWorkloadSelector needs asNumber and excludes peerIP and peerSelector"},
]))]
pub struct BGPPeerSpec {
    /// The node that peers; with no nodeSelector either, all nodes do.
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// The nodes that peer.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub node_selector: Option<String>,
    /// Address of the peer, with a port unless it is 179: `192.0.2.1`, `192.0.2.1:1790`, `[2001:db8::1]:1790`.
    #[serde(rename = "peerIP")]
    #[schemars(regex(pattern = text::PEER_ADDRESS), length(max = 64))]
    pub peer_ip: Option<String>,
    /// AS of the peer.
    pub as_number: Option<AsNumberValue>,
    /// AS that the nodes present to this peer instead of their own.
    #[serde(rename = "localASNumber")]
    pub local_as_number: Option<AsNumberValue>,
    /// Nodes to peer with, instead of an address.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub peer_selector: Option<String>,
    /// Deprecated: use nextHopMode Keep.
    pub keep_original_next_hop: Option<bool>,
    /// Next hop that is announced to the peer; Auto unless given.
    pub next_hop_mode: Option<NextHopMode>,
    /// MD5 password; while it cannot be read the session stays down.
    pub password: Option<BGPPassword>,
    /// None: the kernel chooses the source address.
    pub source_address: Option<SourceAddress>,
    /// Graceful restart time that is announced.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub max_restart_time: Option<String>,
    /// Interval of keepalives; the hold time is three times as long.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub keepalive_time: Option<String>,
    /// How often the own AS may be in a received path; 0 unless given.
    #[serde(rename = "numAllowedLocalASNumbers")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub num_allowed_local_as_numbers: Option<i32>,
    /// Generalised TTL security: how many hops away the peer may be.
    #[schemars(range(min = 0, max = 255))]
    pub ttl_security: Option<i32>,
    /// Gateway through which the peer is reached: a route to it is kept in the kernel.
    #[schemars(regex(pattern = text::ADDRESS), length(max = 45))]
    pub reachable_by: Option<String>,
    /// Names of BGPFilters in the order in which they are asked.
    #[schemars(length(max = 100), inner(regex(pattern = text::NAME), length(max = 253)))]
    pub filters: Option<Vec<String>>,
    /// Pods of the node itself to peer with, by their labels; they connect to localWorkloadPeeringIPV4 or V6 of
    /// BGPConfiguration.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub local_workload_selector: Option<String>,
    /// Whether the selected nodes get the opposite half by themselves.
    pub reverse_peering: Option<ReversePeering>,
    /// Ocicat's own: peer with the router at the other end of this link of the node, by the link-local address that its
    /// router advertisements come from (unnumbered).
    #[schemars(regex(pattern = text::INTERFACE), length(max = 15))]
    pub interface: Option<String>,
    /// Ocicat's own: what the node is to the peer (RFC 9234); for external peers.
    pub role: Option<Role>,
    /// Ocicat's own: a peer that names no role is refused.
    pub strict_role: Option<bool>,
    /// Ocicat's own: watch the path to the peer (RFC 5880); off unless given.
    pub bfd: Option<Bfd>,
    /// Ocicat's own: several paths for a prefix (RFC 7911); off unless given.
    pub add_path: Option<AddPath>,
}

/// Roles of RFC 9234, as the node has them towards the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

/// BFD towards a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// Milliseconds between packets that are sent; 300 unless given.
    #[schemars(range(min = 10, max = 60000))]
    pub min_tx: Option<i32>,
    /// Milliseconds between packets that can be taken; 300 unless given.
    #[schemars(range(min = 10, max = 60000))]
    pub min_rx: Option<i32>,
    /// So many missing packets end the session; 3 unless given.
    #[schemars(range(min = 1, max = 255))]
    pub detect_multiplier: Option<i32>,
    /// The peer is several hops away.
    pub multihop: Option<bool>,
}

/// Several paths for a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddPath {
    pub receive: Option<bool>,
    /// How many are sent at most.
    #[schemars(range(min = 0, max = 255))]
    pub send: Option<i32>,
}
