//! `NetworkPolicy`, `GlobalNetworkPolicy` and `Tier`.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::int_or_string::{PortValue, ProtocolValue};
use super::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuleAction {
    Allow,
    Deny,
    Log,
    Pass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyType {
    Ingress,
    Egress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PerformanceHint {
    AssumeNeededOnEveryNode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TierAction {
    #[default]
    Deny,
    Pass,
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
    derive = "PartialEq",
    doc = "Policy for the pods of one namespace, in Calico's language.",
    selectable = ".spec.tier",
    printcolumn(name = "TIER", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "ORDER", type_ = "number", json_path = ".spec.order"),
    printcolumn(name = "SELECTOR", type_ = "string", json_path = ".spec.selector"),
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
    /// Kept, not acted upon yet.
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
    derive = "PartialEq",
    doc = "Policy for pods of any namespace, in Calico's language.",
    selectable = ".spec.tier",
    printcolumn(name = "TIER", type_ = "string", json_path = ".spec.tier"),
    printcolumn(name = "ORDER", type_ = "number", json_path = ".spec.order"),
    printcolumn(name = "SELECTOR", type_ = "string", json_path = ".spec.selector"),
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
    /// For host endpoints. Kept, not acted upon yet.
    pub do_not_track: Option<bool>,
    /// For host endpoints. Kept, not acted upon yet.
    #[serde(rename = "preDNAT")]
    pub pre_dnat: Option<bool>,
    /// For host endpoints. Kept, not acted upon yet.
    pub apply_on_forward: Option<bool>,
    /// Kept, not acted upon yet.
    #[schemars(length(max = 8))]
    pub performance_hints: Option<Vec<PerformanceHint>>,
}

/// One rule: all that is set must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    pub action: RuleAction,
    /// 4 or 6.
    #[schemars(extend("enum" = [4, 6]))]
    pub ip_version: Option<i32>,
    pub protocol: Option<ProtocolValue>,
    pub not_protocol: Option<ProtocolValue>,
    pub icmp: Option<IcmpSpec>,
    #[serde(rename = "notICMP")]
    pub not_icmp: Option<IcmpSpec>,
    pub source: Option<EntityRuleSpec>,
    pub destination: Option<EntityRuleSpec>,
    /// A rule with this never matches yet when it allows.
    pub http: Option<HttpSpec>,
    pub metadata: Option<RuleMetadata>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IcmpSpec {
    #[serde(rename = "type")]
    #[schemars(range(min = 0, max = 254))]
    pub type_: Option<i32>,
    #[schemars(range(min = 0, max = 255))]
    pub code: Option<i32>,
}

/// One side of a packet; nothing set matches every address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EntityRuleSpec {
    #[schemars(length(max = 256), inner(regex(pattern = text::NET)))]
    pub nets: Option<Vec<String>>,
    #[schemars(length(max = 256), inner(regex(pattern = text::NET)))]
    pub not_nets: Option<Vec<String>>,
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub selector: Option<String>,
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub not_selector: Option<String>,
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub namespace_selector: Option<String>,
    /// A rule with this never matches yet when it allows.
    pub services: Option<ServiceMatch>,
    #[schemars(length(max = 50))]
    pub ports: Option<Vec<PortValue>>,
    #[schemars(length(max = 50))]
    pub not_ports: Option<Vec<PortValue>>,
    pub service_accounts: Option<ServiceAccountMatch>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceMatch {
    pub name: Option<String>,
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceAccountMatch {
    #[schemars(length(max = 256))]
    pub names: Option<Vec<String>>,
    #[schemars(regex(pattern = text::SELECTOR), length(max = 1024))]
    pub selector: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpSpec {
    #[schemars(length(max = 20))]
    pub methods: Option<Vec<String>>,
    #[schemars(length(max = 20))]
    pub paths: Option<Vec<HttpPath>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpPath {
    pub exact: Option<String>,
    pub prefix: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleMetadata {
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A named step in the evaluation of policies.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "Tier",
    plural = "tiers",
    derive = "PartialEq",
    doc = "A named step in the evaluation of policies.",
    printcolumn(name = "ORDER", type_ = "number", json_path = ".spec.order"),
    printcolumn(name = "DEFAULTACTION", type_ = "string", json_path = ".spec.defaultAction"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Ascending; 1000000 unless given.
    pub order: Option<f64>,
    /// What becomes of packets that no policy of the tier decides on.
    #[serde(default)]
    pub default_action: TierAction,
}

fn default_tier() -> String {
    "default".to_owned()
}
