//! `NetworkSet` and `GlobalNetworkSet`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;

/// Prefixes that rules of one namespace select by the labels of this object.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "NetworkSet",
    plural = "networksets",
    namespaced,
    shortname = "netsets",
    derive = "PartialEq",
    doc = "Prefixes that rules select by the labels of this object, as if they were endpoints of its namespace.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct NetworkSetSpec {
    #[serde(flatten)]
    pub members: NetworkSetMembers,
}

/// Prefixes that rules select by the labels of this object.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "GlobalNetworkSet",
    plural = "globalnetworksets",
    shortname = "gnetsets",
    derive = "PartialEq",
    doc = "Prefixes that rules select by the labels of this object, in no namespace.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct GlobalNetworkSetSpec {
    #[serde(flatten)]
    pub members: NetworkSetMembers,
}

/// What sets of both kinds hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkSetMembers {
    /// Prefixes or addresses of either family.
    #[schemars(length(max = 20_000), inner(regex(pattern = text::NET), length(max = 43)))]
    pub nets: Option<Vec<String>>,
}
