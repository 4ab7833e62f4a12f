//! Fields of both generations of the API. What is unknown here is not read: a peer or protocol of which
//! nothing is known has nothing set, and fails closed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
pub(super) struct PolicySpec {
    pub(super) priority: Option<i32>,
    pub(super) subject: Subject,
    /// Each is read by itself, so that one that cannot be read fails closed alone.
    #[serde(default)]
    pub(super) ingress: Vec<Value>,
    #[serde(default)]
    pub(super) egress: Vec<Value>,
}

/// Exactly one is set.
#[derive(Debug, Deserialize)]
pub(super) struct Subject {
    pub(super) namespaces: Option<LabelSelector>,
    pub(super) pods: Option<NamespacedPods>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct NamespacedPods {
    pub(super) namespace_selector: LabelSelector,
    pub(super) pod_selector: LabelSelector,
}

#[derive(Debug, Deserialize)]
pub(super) struct RuleSpec {
    pub(super) name: Option<String>,
    /// Allow in v1alpha1 is Accept in v1alpha2.
    pub(super) action: String,
    #[serde(default)]
    pub(super) from: Vec<Peer>,
    #[serde(default)]
    pub(super) to: Vec<Peer>,
    /// v1alpha2.
    pub(super) protocols: Option<Vec<ProtocolMatch>>,
    /// v1alpha1.
    pub(super) ports: Option<Vec<AdminPort>>,
}

/// Exactly one is set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Peer {
    pub(super) namespaces: Option<LabelSelector>,
    pub(super) pods: Option<NamespacedPods>,
    pub(super) networks: Option<Vec<String>>,
    pub(super) nodes: Option<Value>,
    pub(super) domain_names: Option<Value>,
}

/// Exactly one is set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProtocolMatch {
    pub(super) tcp: Option<Ports>,
    pub(super) udp: Option<Ports>,
    pub(super) sctp: Option<Ports>,
    pub(super) destination_named_port: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ports {
    pub(super) destination_port: Option<Port>,
}

/// Exactly one is set.
#[derive(Debug, Deserialize)]
pub(super) struct Port {
    pub(super) number: Option<i32>,
    pub(super) range: Option<Range>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Range {
    pub(super) start: i32,
    pub(super) end: i32,
}

/// Exactly one is set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminPort {
    pub(super) port_number: Option<AdminPortNumber>,
    pub(super) port_range: Option<AdminPortRange>,
    pub(super) named_port: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AdminPortNumber {
    pub(super) protocol: Option<String>,
    pub(super) port: i32,
}

#[derive(Debug, Deserialize)]
pub(super) struct AdminPortRange {
    pub(super) protocol: Option<String>,
    pub(super) start: i32,
    pub(super) end: i32,
}
