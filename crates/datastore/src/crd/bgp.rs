//! `BGPConfiguration` and `BGPPeer`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ipam::Switch;
use super::text;

/// BGP settings of the cluster (`default`) or of one node (`node.<name>`).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPConfiguration",
    plural = "bgpconfigurations",
    shortname = "bgpconfig",
    shortname = "bgpconfigs",
    derive = "PartialEq",
    doc = "BGP settings of the cluster (named default) or of one node (named node.<name>).",
    printcolumn(name = "ASNUMBER", type_ = "integer", json_path = ".spec.asNumber"),
    printcolumn(name = "MESH", type_ = "boolean", json_path = ".spec.nodeToNodeMeshEnabled"),
    printcolumn(name = "PORT", type_ = "integer", json_path = ".spec.listenPort"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.communities) || size(self.communities) == 0 || (has(self.prefixAdvertisements) && size(self.prefixAdvertisements) > 0)",
     "message": "communities are used by prefixAdvertisements only: give those too", "fieldPath": ".communities"},
    {"rule": "!has(self.nodeMeshPassword) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
     "message": "nodeMeshPassword needs the mesh", "fieldPath": ".nodeMeshPassword"},
    {"rule": "!has(self.nodeMeshMaxRestartTime) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
     "message": "nodeMeshMaxRestartTime needs the mesh", "fieldPath": ".nodeMeshMaxRestartTime"},
]))]
pub struct BGPConfigurationSpec {
    /// Log level of the speaker. Kept, not acted upon yet.
    #[schemars(length(max = 16))]
    pub log_severity_screen: Option<String>,
    /// Every node peers with every other; true unless given.
    pub node_to_node_mesh_enabled: Option<bool>,
    /// AS of nodes that set none; 64512 unless given.
    #[schemars(range(min = 1, max = 4294967295i64))]
    pub as_number: Option<i64>,
    /// Port on which the speakers listen; 179 unless given.
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: Option<i32>,
    /// Service ranges to announce. Kept, not acted upon yet.
    #[serde(rename = "serviceClusterIPs")]
    #[schemars(length(max = 64))]
    pub service_cluster_ips: Option<Vec<CidrEntry>>,
    /// Kept, not acted upon yet.
    #[serde(rename = "serviceExternalIPs")]
    #[schemars(length(max = 64))]
    pub service_external_ips: Option<Vec<CidrEntry>>,
    /// Kept, not acted upon yet.
    #[serde(rename = "serviceLoadBalancerIPs")]
    #[schemars(length(max = 64))]
    pub service_load_balancer_ips: Option<Vec<CidrEntry>>,
    /// Kept, not acted upon yet.
    pub service_load_balancer_aggregation: Option<Switch>,
    /// Names for communities. Kept, not acted upon yet.
    #[schemars(length(max = 500))]
    pub communities: Option<Vec<NamedCommunity>>,
    /// Communities to attach. Kept, not acted upon yet.
    #[schemars(length(max = 500))]
    pub prefix_advertisements: Option<Vec<PrefixAdvertisement>>,
    /// MD5 secret of the mesh. Kept, not acted upon yet.
    pub node_mesh_password: Option<BGPPassword>,
    /// Graceful restart time in the mesh. Kept, not acted upon yet.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub node_mesh_max_restart_time: Option<String>,
    /// NodeIP: listen on the node's address only. Kept, not acted upon yet.
    pub bind_mode: Option<BindMode>,
    /// Interfaces whose addresses are not looked at. Kept, not acted upon yet.
    #[schemars(length(max = 64))]
    pub ignored_interfaces: Option<Vec<String>>,
    /// Kept, not acted upon yet.
    #[serde(rename = "localWorkloadPeeringIPV4")]
    #[schemars(regex(pattern = text::ADDRESS), length(max = 45))]
    pub local_workload_peering_ip_v4: Option<String>,
    /// Kept, not acted upon yet.
    #[serde(rename = "localWorkloadPeeringIPV6")]
    #[schemars(regex(pattern = text::ADDRESS), length(max = 45))]
    pub local_workload_peering_ip_v6: Option<String>,
    /// Which routes the speaker programs. Kept, not acted upon yet.
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// Kept, not acted upon yet.
    #[schemars(range(min = 1, max = 2147483646))]
    pub ipv4_normal_route_priority: Option<i32>,
    /// Kept, not acted upon yet.
    #[schemars(range(min = 1, max = 2147483646))]
    pub ipv6_normal_route_priority: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CidrEntry {
    #[schemars(regex(pattern = text::CIDR), length(max = 49))]
    pub cidr: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamedCommunity {
    #[schemars(length(max = 253))]
    pub name: String,
    #[schemars(regex(pattern = text::COMMUNITY), length(max = 32))]
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrefixAdvertisement {
    #[schemars(regex(pattern = text::CIDR), length(max = 49))]
    pub cidr: String,
    /// Names or values.
    #[schemars(length(max = 50))]
    pub communities: Option<Vec<String>>,
}

/// Where a password is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPPassword {
    pub secret_key_ref: Option<SecretKeyRef>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    pub name: Option<String>,
    pub key: String,
    pub optional: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BindMode {
    None,
    NodeIP,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProgramClusterRoutes {
    Enabled,
    Disabled,
    EnabledIPIPOnly,
    EnabledNoEncapOnly,
}

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
    printcolumn(name = "ASNUMBER", type_ = "integer", json_path = ".spec.asNumber"),
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
    {"rule": "has(self.peerIP) || has(self.peerSelector) || has(self.localWorkloadSelector)",
     "message": "one of peerIP and peerSelector must say whom to peer with"},
    {"rule": "!has(self.peerIP) || has(self.asNumber)", "message": "asNumber is needed with peerIP",
     "fieldPath": ".asNumber"},
    {"rule": "!has(self.reachableBy) || has(self.peerIP)", "message": "reachableBy needs peerIP",
     "fieldPath": ".reachableBy"},
    {"rule": "!has(self.reachableBy) || !has(self.peerIP) || self.reachableBy.contains(':') == self.peerIP.matches('^([[]|[^.]*$)')",
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
    #[schemars(range(min = 1, max = 4294967295i64))]
    pub as_number: Option<i64>,
    /// AS that the nodes present to this peer instead of their own.
    #[serde(rename = "localASNumber")]
    #[schemars(range(min = 1, max = 4294967295i64))]
    pub local_as_number: Option<i64>,
    /// Nodes to peer with, instead of an address.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub peer_selector: Option<String>,
    /// Deprecated: use nextHopMode Keep.
    pub keep_original_next_hop: Option<bool>,
    /// Next hop that is announced to the peer; Auto unless given.
    pub next_hop_mode: Option<NextHopMode>,
    /// MD5 secret. Kept, not acted upon yet: the session is refused rather than left open.
    pub password: Option<BGPPassword>,
    /// None: the kernel chooses the source address.
    pub source_address: Option<SourceAddress>,
    /// Graceful restart time that is announced.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub max_restart_time: Option<String>,
    /// Interval of keepalives; the hold time is three times as long.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub keepalive_time: Option<String>,
    /// Kept, not acted upon yet.
    #[serde(rename = "numAllowedLocalASNumbers")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub num_allowed_local_as_numbers: Option<i32>,
    /// Number of hops (GTSM). Kept, not acted upon yet.
    #[schemars(range(min = 0, max = 255))]
    pub ttl_security: Option<i32>,
    /// Gateway to the peer. Kept, not acted upon yet.
    #[schemars(regex(pattern = text::ADDRESS), length(max = 45))]
    pub reachable_by: Option<String>,
    /// Names of BGPFilters. Kept, not acted upon yet.
    #[schemars(length(max = 100))]
    pub filters: Option<Vec<String>>,
    /// Pods to peer with. Kept, not acted upon yet.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub local_workload_selector: Option<String>,
    /// Whether the selected nodes get the opposite half by themselves.
    pub reverse_peering: Option<ReversePeering>,
}
