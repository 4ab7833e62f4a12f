//! What a node tells of the policies that it has in its kernel. Owns how that is written; what it says is the
//! caller's.

use kube::Api;
use kube::api::{Patch, PatchParams};
use model::NodeName;
use serde_json::json;

use crate::Result;
use crate::client::Datastore;
use crate::crd::{NodePolicyStatus, NodePolicyStatusSpec};

/// In whose name the object's fields are.
const MANAGER: &str = "felix";

impl Datastore {
    /// Writes the whole `NodePolicyStatus` of a node, and makes it where there is none.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn write_node_policies(&self, node: &NodeName, spec: &NodePolicyStatusSpec) -> Result<()> {
        let api: Api<NodePolicyStatus> = Api::all(self.client());
        let object = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "NodePolicyStatus",
            "metadata": { "name": node.as_str() },
            "spec": spec,
        });
        let what = || format!("NodePolicyStatus {node}");
        let parameters = PatchParams::apply(MANAGER).force();
        self.bounded(what, api.patch(node.as_str(), &parameters, &Patch::Apply(object))).await.map(drop)
    }
}
