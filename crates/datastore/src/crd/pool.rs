//! `IPPool`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;

/// How packets between nodes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EncapMode {
    #[default]
    Never,
    Always,
    CrossSubnet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IPPoolAllowedUse {
    Workload,
    Tunnel,
    LoadBalancer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AssignmentMode {
    #[default]
    Automatic,
    Manual,
}

/// A range from which pods and tunnels get their addresses.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPPool",
    plural = "ippools",
    shortname = "pool",
    shortname = "pools",
    shortname = "ipp",
    derive = "PartialEq",
    doc = "A range from which pods and tunnels get their addresses.",
    status = "IPPoolStatus",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "IPIPMODE", type_ = "string", json_path = ".spec.ipipMode"),
    printcolumn(name = "VXLANMODE", type_ = "string", json_path = ".spec.vxlanMode"),
    printcolumn(name = "NAT", type_ = "boolean", json_path = ".spec.natOutgoing"),
    printcolumn(name = "DISABLED", type_ = "boolean", json_path = ".spec.disabled"),
    printcolumn(name = "SELECTOR", type_ = "string", json_path = ".spec.nodeSelector", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.ipipMode == 'Never' || self.vxlanMode == 'Never'",
     "message": "ipipMode and vxlanMode exclude each other: set one of them to Never"},
    {"rule": "self.ipipMode == 'Never' || !self.cidr.contains(':')",
     "message": "ipipMode is for IPv4 only: use Never for an IPv6 pool", "fieldPath": ".ipipMode"},
    {"rule": "has(self.blockSize) == has(oldSelf.blockSize)",
     "message": "blockSize cannot change once the pool exists", "fieldPath": ".blockSize"},
    {"rule": "!has(self.blockSize) || (self.cidr.contains(':') ? self.blockSize >= 116 : self.blockSize <= 32)",
     "message": "blockSize must be 20 to 32 for an IPv4 pool and 116 to 128 for an IPv6 pool",
     "fieldPath": ".blockSize"},
    {"rule": "self.disabled || int(self.cidr.split('/')[1]) <= (has(self.blockSize) ? self.blockSize : (self.cidr.contains(':') ? 122 : 26))",
     "message": "the pool is smaller than one block: use a shorter prefix, or a longer blockSize",
     "fieldPath": ".cidr"},
    {"rule": "!('LoadBalancer' in self.allowedUses) || size(self.allowedUses) == 1",
     "message": "LoadBalancer excludes the other uses", "fieldPath": ".allowedUses"},
    {"rule": "!('LoadBalancer' in self.allowedUses) || (self.ipipMode == 'Never' && self.vxlanMode == 'Never')",
     "message": "a pool for load balancers has no encapsulation", "fieldPath": ".allowedUses"},
]))]
pub struct IPPoolSpec {
    /// The range; cannot change.
    #[schemars(regex(pattern = text::CIDR), length(max = 49), extend("x-kubernetes-validations" = [
        {"rule": "self == oldSelf", "message": "cidr cannot change: create another pool and disable this one"},
        {"rule": "!self.startsWith('169.254.') && !self.lowerAscii().startsWith('fe80:')",
         "message": "link-local addresses cannot be pod addresses"},
    ]))]
    pub cidr: String,
    /// VXLAN between nodes.
    #[serde(default)]
    pub vxlan_mode: EncapMode,
    /// IPIP between nodes; IPv4 only.
    #[serde(default)]
    pub ipip_mode: EncapMode,
    /// Masquerade packets from this pool to addresses outside every pool.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// No new addresses; those given out keep working.
    #[serde(default)]
    pub disabled: bool,
    /// Do not announce addresses of this pool to BGP peers.
    #[serde(default, rename = "disableBGPExport")]
    pub disable_bgp_export: bool,
    /// Prefix length of a block: 26 for IPv4 and 122 for IPv6 unless given; cannot change.
    #[schemars(range(min = 20, max = 128), extend("x-kubernetes-validations" = [
        {"rule": "self == oldSelf", "message": "blockSize cannot change: create another pool and disable this one"},
    ]))]
    pub block_size: Option<i32>,
    /// Nodes that take addresses from this pool.
    #[serde(default = "all")]
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub node_selector: String,
    /// Namespaces whose pods take addresses from this pool.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub namespace_selector: Option<String>,
    /// What the addresses are for.
    #[serde(default = "workload_and_tunnel")]
    #[schemars(length(max = 3))]
    pub allowed_uses: Vec<IPPoolAllowedUse>,
    /// Manual: only for who asks for this pool by name.
    #[serde(default)]
    pub assignment_mode: AssignmentMode,
}

/// State of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IPPoolStatus {
    /// Type Allocatable says whether addresses are given out, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PoolCondition>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolCondition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub last_transition_time: Option<String>,
    pub observed_generation: Option<i64>,
}

fn all() -> String {
    "all()".to_owned()
}

fn workload_and_tunnel() -> Vec<IPPoolAllowedUse> {
    vec![IPPoolAllowedUse::Workload, IPPoolAllowedUse::Tunnel]
}
