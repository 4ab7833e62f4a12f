//! Which policies are in force where: what nodes said (`NodePolicyStatus`), and the status of the policies that
//! sums it up. Owns how both are spelled; what the status says is the caller's.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource};
use model::{NodeName, PolicyKey, PolicyKind};
use serde_json::json;
use tokio::sync::mpsc;

use crate::Result;
use crate::client::Datastore;
use crate::crd::{self, NodePolicyEntry, NodePolicyStatus, PolicyStatus};
use crate::watch::Retry;

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

    /// Watches what nodes say; `None` when one says nothing any more. Ends when the receiver is dropped.
    pub fn watch_node_policies(&self) -> mpsc::Receiver<(NodeName, Option<NodeReport>)> {
        let (sender, changes) = mpsc::channel(64);
        let api: Api<NodePolicyStatus> = Api::all(self.client());
        tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).backoff(Retry::new()).boxed();
            let (mut known, mut listed) = (BTreeSet::<String>::new(), BTreeSet::new());
            while let Some(event) = events.next().await {
                let changed: Vec<(String, Option<NodeReport>)> = match event {
                    Ok(watcher::Event::Init) => {
                        listed.clear();
                        continue;
                    }
                    Ok(watcher::Event::InitApply(object)) => {
                        listed.extend(object.metadata.name.clone());
                        vec![said(object)]
                    }
                    Ok(watcher::Event::InitDone) => {
                        known.difference(&listed).map(|name| (name.clone(), None)).collect()
                    }
                    Ok(watcher::Event::Apply(object)) => vec![said(object)],
                    Ok(watcher::Event::Delete(object)) => {
                        vec![(object.metadata.name.unwrap_or_default(), None)]
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot read NodePolicyStatus, it is retried");
                        continue;
                    }
                };
                for (name, report) in changed {
                    match report {
                        Some(_) => _ = known.insert(name.clone()),
                        None => _ = known.remove(&name),
                    }
                    if sender.send((NodeName::from(name.as_str()), report)).await.is_err() {
                        return;
                    }
                }
            }
        });
        changes
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

fn said(object: NodePolicyStatus) -> (String, Option<NodeReport>) {
    (object.meta().name.clone().unwrap_or_default(), Some(object.spec.policies))
}
