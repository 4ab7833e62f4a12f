//! `Tier`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TierAction {
    #[default]
    Deny,
    Pass,
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
