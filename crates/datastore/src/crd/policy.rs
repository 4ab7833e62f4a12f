//! `NetworkPolicy` and `GlobalNetworkPolicy`, and what their status says.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::RuleSpec;
use super::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyType {
    Ingress,
    Egress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PerformanceHint {
    AssumeNeededOnEveryNode,
}

/// Policy for the pods of one namespace, in Calico's language.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "NetworkPolicy",
    plural = "networkpolicies",
    namespaced,
    shortname = "cnp",
    shortname = "caliconetworkpolicy",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "Policy for the pods of one namespace, in Calico's language.",
    selectable = ".spec.tier",
    printcolumn(name = "TIER", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "ORDER", type_ = "number", json_path = ".spec.order"),
    printcolumn(name = "SELECTOR", type_ = "string", json_path = ".spec.selector"),
    printcolumn(name = "NODES", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "PROGRAMMED", type_ = "integer", json_path = ".status.programmed"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    #[serde(default = "default_tier")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(max = 63))]
    pub tier: String,
    /// Ascending; last unless given.
    pub order: Option<f64>,
    #[schemars(length(max = 1024))]
    pub ingress: Option<Vec<RuleSpec>>,
    #[schemars(length(max = 1024))]
    pub egress: Option<Vec<RuleSpec>>,
    /// Pods that the policy applies to; all of the namespace unless given.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub selector: Option<String>,
    /// Directions that the policy decides; by default those that it has rules for.
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-validations" = [
        {"rule": "size(self) < 2 || self[0] != self[1]", "message": "a type is given twice"}]))]
    pub types: Option<Vec<PolicyType>>,
    /// Service accounts of the pods that the policy applies to.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub service_account_selector: Option<String>,
    /// AssumeNeededOnEveryNode: in the kernel of every node.
    #[schemars(length(max = 8))]
    pub performance_hints: Option<Vec<PerformanceHint>>,
}

/// Policy for pods of any namespace, in Calico's language.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "GlobalNetworkPolicy",
    plural = "globalnetworkpolicies",
    shortname = "gnp",
    shortname = "cgnp",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "Policy for pods and host endpoints of any namespace, in Calico's language.",
    selectable = ".spec.tier",
    printcolumn(name = "TIER", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "ORDER", type_ = "number", json_path = ".spec.order"),
    printcolumn(name = "SELECTOR", type_ = "string", json_path = ".spec.selector"),
    printcolumn(name = "NODES", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "PROGRAMMED", type_ = "integer", json_path = ".status.programmed"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!(has(self.doNotTrack) && self.doNotTrack && has(self.preDNAT) && self.preDNAT)",
     "message": "doNotTrack and preDNAT exclude each other"},
    {"rule": "!((has(self.doNotTrack) && self.doNotTrack) || (has(self.preDNAT) && self.preDNAT)) || (has(self.applyOnForward) && self.applyOnForward)",
     "message": "doNotTrack and preDNAT need applyOnForward", "fieldPath": ".applyOnForward"},
    {"rule": "!(has(self.preDNAT) && self.preDNAT && has(self.egress) && size(self.egress) > 0)",
     "message": "a preDNAT policy has no egress rules", "fieldPath": ".egress"},
]))]
pub struct GlobalNetworkPolicySpec {
    #[serde(default = "default_tier")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(max = 63))]
    pub tier: String,
    /// Ascending; last unless given.
    pub order: Option<f64>,
    #[schemars(length(max = 1024))]
    pub ingress: Option<Vec<RuleSpec>>,
    #[schemars(length(max = 1024))]
    pub egress: Option<Vec<RuleSpec>>,
    /// Endpoints that the policy applies to; all unless given.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub selector: Option<String>,
    /// Directions that the policy decides; by default those that it has rules for.
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-validations" = [
        {"rule": "size(self) < 2 || self[0] != self[1]", "message": "a type is given twice"}]))]
    pub types: Option<Vec<PolicyType>>,
    /// Service accounts of the pods that the policy applies to.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub service_account_selector: Option<String>,
    /// Namespaces of the pods that the policy applies to.
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub namespace_selector: Option<String>,
    /// For host endpoints: before connection tracking.
    pub do_not_track: Option<bool>,
    /// For host endpoints: before destination NAT.
    #[serde(rename = "preDNAT")]
    pub pre_dnat: Option<bool>,
    /// For host endpoints: also what they forward.
    pub apply_on_forward: Option<bool>,
    /// AssumeNeededOnEveryNode: in the kernel of every node.
    #[schemars(length(max = 8))]
    pub performance_hints: Option<Vec<PerformanceHint>>,
}

pub(super) fn default_tier() -> String {
    "default".to_owned()
}

/// Where the policy is in force; written by `controllers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Nodes that need it.
    pub nodes: Option<i64>,
    /// How many of them have it in the kernel at the observed generation.
    pub programmed: Option<i64>,
    /// Programmed: every node that needs it has it.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<PolicyCondition>>,
}

/// A condition as Kubernetes has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCondition {
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    pub observed_generation: Option<i64>,
    /// RFC 3339.
    pub last_transition_time: String,
    pub reason: String,
    pub message: String,
}
