//! `HostEndpoint`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::int_or_string::ProtocolValue;
use super::text;

/// An interface of a node, or all of them, that policy protects.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "HostEndpoint",
    plural = "hostendpoints",
    shortname = "hep",
    shortname = "heps",
    derive = "PartialEq",
    doc = "An interface of a node, or all of them, that policy protects.",
    printcolumn(name = "NODE", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "INTERFACE", type_ = "string", json_path = ".spec.interfaceName"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(has(self.interfaceName) && size(self.interfaceName) > 0) || (has(self.expectedIPs) && size(self.expectedIPs) > 0)",
     "message": "interfaceName or expectedIPs is needed"},
]))]
pub struct HostEndpointSpec {
    /// Name of the node.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// Name of the interface, or * for all.
    #[schemars(regex(pattern = r"^(\*|[a-zA-Z0-9_.-]{1,15})?$"), length(max = 15))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
    /// Addresses of the interface.
    #[serde(rename = "expectedIPs")]
    #[schemars(length(max = 256), inner(regex(pattern = text::ADDRESS), length(max = 45)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_ips: Option<Vec<String>>,
    /// Names of Profiles, in the order of evaluation.
    #[schemars(length(max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    /// Named ports.
    #[schemars(length(max = 256))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<HostEndpointPort>>,
}

/// A port with a name that rules can use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostEndpointPort {
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    pub protocol: ProtocolValue,
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}
