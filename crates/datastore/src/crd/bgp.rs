//! `BGPConfiguration`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::int_or_string::AsNumberValue;
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
    printcolumn(name = "ASNUMBER", type_ = "string", json_path = ".spec.asNumber"),
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
    /// Log level of the speaker: None, Trace, Debug, Info, Warning, Error or Fatal.
    #[schemars(regex(pattern = text::LOG_SEVERITY), length(max = 16))]
    pub log_severity_screen: Option<String>,
    /// Every node peers with every other; true unless given.
    pub node_to_node_mesh_enabled: Option<bool>,
    /// AS of nodes that set none; 64512 unless given.
    pub as_number: Option<AsNumberValue>,
    /// Port on which the speakers listen; 179 unless given.
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: Option<i32>,
    /// Ranges of Service cluster IPs to announce.
    #[serde(rename = "serviceClusterIPs")]
    #[schemars(length(max = 64))]
    pub service_cluster_ips: Option<Vec<CidrEntry>>,
    /// Ranges of Service external IPs to announce; a single address is announced for the Services that have it.
    #[serde(rename = "serviceExternalIPs")]
    #[schemars(length(max = 64))]
    pub service_external_ips: Option<Vec<CidrEntry>>,
    /// Ranges of Service load balancer IPs to announce.
    #[serde(rename = "serviceLoadBalancerIPs")]
    #[schemars(length(max = 64))]
    pub service_load_balancer_ips: Option<Vec<CidrEntry>>,
    /// Disabled: announce each Service's address instead of the load balancer ranges.
    pub service_load_balancer_aggregation: Option<Switch>,
    /// Names for communities.
    #[schemars(length(max = 500))]
    pub communities: Option<Vec<NamedCommunity>>,
    /// Communities to attach to routes inside ranges.
    #[schemars(length(max = 500))]
    pub prefix_advertisements: Option<Vec<PrefixAdvertisement>>,
    /// MD5 password of the mesh.
    pub node_mesh_password: Option<BGPPassword>,
    /// Graceful restart time in the mesh.
    #[schemars(regex(pattern = text::DURATION), length(max = 32))]
    pub node_mesh_max_restart_time: Option<String>,
    /// NodeIP: listen on the node's addresses only.
    pub bind_mode: Option<BindMode>,
    /// Interfaces whose networks are not announced; this speaker announces no network of an interface anyway.
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub ignored_interfaces: Option<Vec<String>>,
    /// Address that the node has towards pods that peer with it; see localWorkloadSelector of BGPPeer.
    #[serde(rename = "localWorkloadPeeringIPV4")]
    #[schemars(regex(pattern = text::ADDRESS), length(max = 45))]
    pub local_workload_peering_ip_v4: Option<String>,
    /// The same for IPv6.
    #[serde(rename = "localWorkloadPeeringIPV6")]
    #[schemars(regex(pattern = text::ADDRESS), length(max = 45))]
    pub local_workload_peering_ip_v6: Option<String>,
    /// Which routes to pods of other nodes the speaker programs; both IPIP and unencapsulated ones unless given.
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// Kernel metric of routes; 1024 unless given.
    #[schemars(range(min = 1, max = 2147483646))]
    pub ipv4_normal_route_priority: Option<i32>,
    /// Kernel metric of IPv6 routes; 1024 unless given.
    #[schemars(range(min = 1, max = 2147483646))]
    pub ipv6_normal_route_priority: Option<i32>,
    /// Ocicat's own: how many equally good paths the route of a prefix may have (ECMP); 64 unless given.
    #[schemars(range(min = 1, max = 64))]
    pub maximum_paths: Option<i32>,
    /// Ocicat's own: nothing is taken from external peers that have no BGPFilter with import rules (RFC 8212); false
    /// unless given. What goes out is always filtered.
    pub ebgp_requires_policy: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CidrEntry {
    #[schemars(regex(pattern = text::CIDR), length(max = 49))]
    pub cidr: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamedCommunity {
    #[schemars(regex(pattern = text::NAME), length(max = 253))]
    pub name: String,
    #[schemars(regex(pattern = text::COMMUNITY), length(max = 32))]
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrefixAdvertisement {
    #[schemars(regex(pattern = text::CIDR), length(max = 49))]
    pub cidr: String,
    /// Names or values.
    #[schemars(length(max = 50), inner(regex(pattern = text::COMMUNITY_OR_NAME), length(max = 253)))]
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
    #[schemars(regex(pattern = text::NAME), length(max = 253))]
    pub name: Option<String>,
    #[schemars(regex(pattern = text::SECRET_KEY), length(max = 253))]
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
