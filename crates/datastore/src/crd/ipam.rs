//! What IPAM keeps: `IPAMBlock`, `BlockAffinity`, `IPAMHandle`, `IPAMConfiguration`.
//!
//! Names and fields are Calico's, so that its tools read them.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;

/// A range of addresses that belongs to one node, and who holds each address.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPAMBlock",
    plural = "ipamblocks",
    derive = "PartialEq",
    doc = "A range of addresses that belongs to one node, and who holds each address. Written by IPAM only.",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "AFFINITY", type_ = "string", json_path = ".spec.affinity"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IPAMBlockSpec {
    #[schemars(regex(pattern = text::CIDR), length(max = 49))]
    pub cidr: String,
    /// `host:<node>`; absent when nobody owns the block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// One entry an address: index into attributes, or null when it is free.
    pub allocations: Vec<Option<i64>>,
    /// Free ordinals, the one to take next first.
    pub unallocated: Vec<i64>,
    pub attributes: Vec<AllocationAttribute>,
    /// Begins at nanoseconds since the epoch, grows with every write.
    #[serde(default)]
    pub sequence_number: i64,
    /// By ordinal: the sequence number at which that address was given out.
    #[serde(default)]
    pub sequence_number_for_allocation: BTreeMap<String, i64>,
    /// Marked for deletion: reads as absent.
    #[serde(default)]
    pub deleted: bool,
    /// Unused; older readers want it.
    #[serde(default)]
    pub strict_affinity: bool,
}

/// Who holds an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AllocationAttribute {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// node, namespace, pod, uid, interface, timestamp, type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secondary: BTreeMap<String, String>,
    /// Kept, not acted upon yet.
    #[serde(default, rename = "alternateOwnerAttrs", skip_serializing_if = "BTreeMap::is_empty")]
    pub alternate_owner_attrs: BTreeMap<String, String>,
    /// When it was released and its cool-down began.
    #[serde(rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    #[default]
    Confirmed,
    Pending,
    PendingDeletion,
}

/// A node's claim on a block.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BlockAffinity",
    plural = "blockaffinities",
    shortname = "affinity",
    shortname = "affinities",
    derive = "PartialEq",
    doc = "A node's claim on a block. Written by IPAM only.",
    printcolumn(name = "NODE", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "STATE", type_ = "string", json_path = ".spec.state"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BlockAffinitySpec {
    #[schemars(regex(pattern = text::CIDR), length(max = 49))]
    pub cidr: String,
    pub node: String,
    #[serde(default)]
    pub state: AffinityState,
    /// host or virtual.
    #[serde(default = "host", rename = "type")]
    pub type_: String,
    #[serde(default)]
    pub deleted: bool,
}

/// How many addresses of each block one owner holds.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPAMHandle",
    plural = "ipamhandles",
    derive = "PartialEq",
    doc = "How many addresses of each block one owner holds. Written by IPAM only.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct IPAMHandleSpec {
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// Number of addresses by block CIDR.
    #[serde(default)]
    pub block: BTreeMap<String, i32>,
    #[serde(default)]
    pub deleted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Switch {
    Enabled,
    Disabled,
}

/// Settings of IPAM; the one named `default` counts.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPAMConfiguration",
    plural = "ipamconfigurations",
    shortname = "ipamconfig",
    shortname = "ipamconfigs",
    derive = "PartialEq",
    doc = "Settings of IPAM. Must be named default.",
    printcolumn(name = "STRICT", type_ = "boolean", json_path = ".spec.strictAffinity"),
    printcolumn(name = "MAXBLOCKS", type_ = "integer", json_path = ".spec.maxBlocksPerHost"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.strictAffinity || self.autoAllocateBlocks",
     "message": "with strictAffinity and autoAllocateBlocks both false no address could be given out"},
]))]
pub struct IPAMConfigurationSpec {
    /// Never take addresses from another node's block.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Claim further blocks when the node's own are full.
    #[serde(default = "yes")]
    pub auto_allocate_blocks: bool,
    /// 0 means the built-in limit of 20.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000000))]
    pub max_blocks_per_host: i32,
    /// Kept, not acted upon: virtual machines get an address for each of their pods.
    #[serde(rename = "kubeVirtVMAddressPersistence")]
    pub kube_virt_vm_address_persistence: Option<Switch>,
    /// How long a released address rests before it is given out again: 60 unless given, 0 for not at all.
    #[schemars(range(min = 0, max = 1200))]
    pub ip_cooldown_seconds: Option<i32>,
}

/// Addresses that nobody gets who does not ask for them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPReservation",
    plural = "ipreservations",
    derive = "PartialEq",
    doc = "Addresses that nobody gets who does not ask for them.",
    printcolumn(name = "CIDRS", type_ = "string", json_path = ".spec.reservedCIDRs"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct IPReservationSpec {
    /// Ranges, or single addresses.
    #[serde(default, rename = "reservedCIDRs")]
    #[schemars(length(max = 1024), inner(regex(pattern = text::NET), length(max = 49)))]
    pub reserved_cidrs: Vec<String>,
}

fn host() -> String {
    "host".to_owned()
}

fn yes() -> bool {
    true
}
