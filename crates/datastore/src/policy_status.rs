//! Which policies are in force where: what nodes said (`NodePolicyStatus`), and the status of the policies that
//! sums it up. Owns how both are spelled; what the status says is the caller's.

use std::collections::BTreeMap;

use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use model::{NodeName, PolicyKey, PolicyKind, Tier};
use serde_json::json;
use tokio::sync::mpsc;

use crate::Result;
use crate::client::Datastore;
use crate::crd::{self, NodePolicyEntry, NodePolicyStatus, PolicyStatus};
use crate::watch::{Followed, follow};

/// What one node says, by policy ID.
pub type NodeReport = BTreeMap<String, NodePolicyEntry>;

impl Datastore {
    /// Deletes what a node said that is no more; one that said nothing counts as deleted.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn forget_node_policies(&self, node: &NodeName) -> Result<()> {
        let api: Api<NodePolicyStatus> = Api::all(self.client());
        let what = || format!("NodePolicyStatus {node}");
        match self.bounded(what, api.delete(node.as_str(), &Default::default())).await {
            Ok(_) | Err(crate::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Watches what nodes say. Ends when the receiver is dropped.
    pub fn watch_node_policies(&self) -> mpsc::Receiver<Followed<NodeReport>> {
        let api: Api<NodePolicyStatus> = Api::all(self.client());
        follow(api, watcher::Config::default(), |object| object.spec.policies)
    }

    /// The status of every NetworkPolicy and GlobalNetworkPolicy that has one.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn policy_statuses(&self) -> Result<BTreeMap<PolicyKey, PolicyStatus>> {
        let mut found = BTreeMap::new();
        for kind in [PolicyKind::NetworkPolicy, PolicyKind::GlobalNetworkPolicy] {
            let api: Api<DynamicObject> = Api::all_with(self.client(), &resource(kind));
            let list = self.bounded(|| format!("list of {kind}"), api.list(&ListParams::default())).await?;
            for object in list.items {
                let status = serde_json::from_value(object.data["status"].clone());
                let (Some(name), Ok(status)) = (&object.metadata.name, status) else { continue };
                found.insert(PolicyKey::new(kind, object.metadata.namespace.as_deref(), name), status);
            }
        }
        Ok(found)
    }

    /// Writes the status of a NetworkPolicy or GlobalNetworkPolicy.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn write_policy_status(&self, key: &PolicyKey, status: &PolicyStatus) -> Result<()> {
        let api: Api<DynamicObject> = match key.namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, &resource(key.kind)),
            None => Api::all_with(self.client(), &resource(key.kind)),
        };
        let patch = json!({ "status": status });
        let what = || format!("status of {key}");
        self.bounded(what, api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)))
            .await
            .map(drop)
    }

    /// Is there a Tier of this name, made or built in?
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn has_tier(&self, name: &str) -> Result<bool> {
        if Tier::built_in(name).is_some() {
            return Ok(true);
        }
        let api: Api<crd::Tier> = Api::all(self.client());
        let this = ListParams::default().fields(&format!("metadata.name={name}")).limit(1);
        let found = self.bounded(|| format!("Tier {name}"), api.list_metadata(&this)).await?;
        Ok(!found.items.is_empty())
    }

    /// IDs of Calico's policies in one tier, staged ones too; at most some.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn policies_in_tier(&self, tier: &str) -> Result<Vec<PolicyKey>> {
        let mut found = Vec::new();
        let kinds = [
            PolicyKind::GlobalNetworkPolicy,
            PolicyKind::NetworkPolicy,
            PolicyKind::StagedGlobalNetworkPolicy,
            PolicyKind::StagedNetworkPolicy,
        ];
        for kind in kinds {
            let api: Api<DynamicObject> = Api::all_with(self.client(), &resource(kind));
            let some = ListParams::default().fields(&format!("spec.tier={tier}")).limit(10);
            let list =
                self.bounded(|| format!("list of {kind} in tier {tier}"), api.list_metadata(&some)).await?;
            found.extend(list.items.into_iter().filter_map(|object| {
                let meta = object.metadata;
                Some(PolicyKey::new(kind, meta.namespace.as_deref(), meta.name.as_deref()?))
            }));
        }
        Ok(found)
    }
}

fn resource(kind: PolicyKind) -> ApiResource {
    match kind {
        PolicyKind::NetworkPolicy => ApiResource::erase::<crd::NetworkPolicy>(&()),
        PolicyKind::StagedNetworkPolicy => ApiResource::erase::<crd::StagedNetworkPolicy>(&()),
        PolicyKind::StagedGlobalNetworkPolicy => ApiResource::erase::<crd::StagedGlobalNetworkPolicy>(&()),
        _ => ApiResource::erase::<crd::GlobalNetworkPolicy>(&()),
    }
}
