//! `NodePolicyStatus`: which policies one node has in its kernel.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Written by the node of the same name alone; `controllers` sums them up in the status of the policies.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "NodePolicyStatus",
    plural = "nodepolicystatuses",
    derive = "PartialEq",
    doc = "Which policies the node of this name needs and has in its kernel. Written by the node.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodePolicyStatusSpec {
    /// By policy ID such as gnp/deny-all; those that the node needs.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub policies: BTreeMap<String, NodePolicyEntry>,
    /// Which host endpoint governs an interface of the node; * for all that have none of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub host_endpoints: BTreeMap<String, String>,
    /// What is not in force as somebody wants it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub problems: Vec<String>,
}

/// One policy on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePolicyEntry {
    /// The generation that is in the kernel; 0 while none is.
    #[serde(default)]
    pub generation: i64,
    /// UID of the policy.
    #[serde(default)]
    pub uid: String,
    /// Why a newer generation is not in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub error: Option<String>,
}
