//! Staged policies: what a policy would do, looked at before it is enforced.

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::{GlobalNetworkPolicySpec, NetworkPolicySpec, PolicyType};

/// What becomes of the policy of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StagedAction {
    #[default]
    Set,
    Delete,
    Learn,
    Ignore,
}

/// A NetworkPolicy that is not enforced.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedNetworkPolicy",
    plural = "stagednetworkpolicies",
    namespaced,
    shortname = "snp",
    derive = "PartialEq",
    doc = "A NetworkPolicy that is not enforced, only looked at.",
    selectable = ".spec.tier",
    printcolumn(name = "TIER", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "ACTION", type_ = "string", json_path = ".spec.stagedAction"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StagedNetworkPolicySpec {
    #[serde(default)]
    pub staged_action: StagedAction,
    #[serde(flatten)]
    pub policy: NetworkPolicySpec,
}

/// A GlobalNetworkPolicy that is not enforced.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedGlobalNetworkPolicy",
    plural = "stagedglobalnetworkpolicies",
    shortname = "sgnp",
    derive = "PartialEq",
    doc = "A GlobalNetworkPolicy that is not enforced, only looked at.",
    selectable = ".spec.tier",
    printcolumn(name = "TIER", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "ACTION", type_ = "string", json_path = ".spec.stagedAction"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StagedGlobalNetworkPolicySpec {
    #[serde(default)]
    pub staged_action: StagedAction,
    #[serde(flatten)]
    pub policy: GlobalNetworkPolicySpec,
}

/// A Kubernetes NetworkPolicy that is not enforced.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedKubernetesNetworkPolicy",
    plural = "stagedkubernetesnetworkpolicies",
    namespaced,
    shortname = "sknp",
    derive = "PartialEq",
    doc = "A Kubernetes NetworkPolicy that is not enforced, only looked at.",
    printcolumn(name = "ACTION", type_ = "string", json_path = ".spec.stagedAction"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StagedKubernetesNetworkPolicySpec {
    #[serde(default)]
    pub staged_action: StagedAction,
    pub pod_selector: Option<LabelSelector>,
    #[schemars(length(max = 1024))]
    pub ingress: Option<Vec<NetworkPolicyIngressRule>>,
    #[schemars(length(max = 1024))]
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
    #[schemars(length(max = 2))]
    pub policy_types: Option<Vec<PolicyType>>,
}
