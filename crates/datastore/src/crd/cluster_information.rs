//! `ClusterInformation`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What tools want to know of the cluster.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "ClusterInformation",
    plural = "clusterinformations",
    shortname = "clusterinfo",
    derive = "PartialEq",
    doc = "What tools want to know of the cluster. Must be named default.",
    printcolumn(name = "READY", type_ = "boolean", json_path = ".spec.datastoreReady"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// Kept, not acted upon yet.
    #[serde(rename = "clusterGUID")]
    pub cluster_guid: Option<String>,
    /// Kept, not acted upon yet.
    pub cluster_type: Option<String>,
    /// Kept, not acted upon yet.
    pub calico_version: Option<String>,
    /// false stops garbage collection of addresses, and allows to split a pool.
    pub datastore_ready: Option<bool>,
    /// Kept, not acted upon yet.
    pub variant: Option<String>,
}
