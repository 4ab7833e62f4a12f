//! `Profile`.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::RuleSpec;

/// What decides after the last tier.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "Profile",
    plural = "profiles",
    derive = "PartialEq",
    doc = "Rules that decide after the last tier for the endpoints that name it, and labels that they inherit.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ProfileSpec {
    #[schemars(length(max = 1024))]
    pub ingress: Option<Vec<RuleSpec>>,
    #[schemars(length(max = 1024))]
    pub egress: Option<Vec<RuleSpec>>,
    /// Labels that endpoints with this profile inherit.
    pub labels_to_apply: Option<BTreeMap<String, String>>,
}
