//! What a node tells the cluster of itself: `CalicoNodeStatus` and Events. Owns how these are asked for and
//! written; what they say is the caller's.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use model::NodeName;
use serde_json::json;
use tokio::sync::mpsc;

use crate::Result;
use crate::client::Datastore;
use crate::crd::{CalicoNodeStatus, CalicoNodeStatusSpec, CalicoNodeStatusStatus};
use crate::objects::Custom;
use crate::watch::Kind;

/// Where Events about things without a namespace are.
pub(crate) const EVENT_NAMESPACE: &str = "default";

/// Something that an operator may want to know of, about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// It is not as it should be.
    pub is_warning: bool,
    /// In CamelCase, one word.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Datastore {
    /// Watches what is asked of a node: the name of each `CalicoNodeStatus` with its spec, `None` when it asks
    /// this node no more. Ends when the receiver is dropped.
    pub fn watch_node_statuses(
        &self,
        node: NodeName,
    ) -> mpsc::Receiver<(String, Option<CalicoNodeStatusSpec>)> {
        let (sender, changes) = mpsc::channel(16);
        let mut events = self.watch_objects::<Custom<CalicoNodeStatus>>(Kind::CalicoNodeStatus);
        tokio::spawn(async move {
            let (mut known, mut listed) = (BTreeSet::<String>::new(), BTreeSet::new());
            while let Some(event) = events.next().await {
                let changed = match event {
                    Ok(watcher::Event::Init) => {
                        listed.clear();
                        continue;
                    }
                    Ok(watcher::Event::InitApply(object)) => {
                        listed.extend(object.metadata.name.clone());
                        vec![change(object, &node)]
                    }
                    Ok(watcher::Event::InitDone) => {
                        let gone = known.difference(&listed).cloned();
                        gone.map(|name| (name, None)).collect()
                    }
                    Ok(watcher::Event::Apply(object)) => vec![change(object, &node)],
                    Ok(watcher::Event::Delete(object)) => {
                        vec![(object.metadata.name.unwrap_or_default(), None)]
                    }
                    // The kind may not exist; nobody asks then.
                    Err(error) => {
                        tracing::debug!(%error, "cannot read CalicoNodeStatus, it is retried");
                        continue;
                    }
                };
                for (name, spec) in changed {
                    let is_news = match &spec {
                        Some(_) => {
                            known.insert(name.clone());
                            true
                        }
                        None => known.remove(&name),
                    };
                    if is_news && sender.send((name, spec)).await.is_err() {
                        return;
                    }
                }
            }
        });
        changes
    }

    /// Writes the status of a `CalicoNodeStatus`.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn write_node_status(&self, name: &str, status: &CalicoNodeStatusStatus) -> Result<()> {
        let api: Api<CalicoNodeStatus> = Api::all(self.client());
        let patch = json!({ "status": status });
        let what = || format!("CalicoNodeStatus {name}");
        self.bounded(what, api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)))
            .await
            .map(drop)
    }

    /// Makes an Event about a node, as the `component` that says it. `now` is an RFC 3339 time.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn publish(
        &self,
        component: &str,
        node: &NodeName,
        event: &NodeEvent,
        now: &str,
    ) -> Result<()> {
        // Kubernetes' own Events about nodes have the name in place of the uid.
        let about =
            json!({ "apiVersion": "v1", "kind": "Node", "name": node.as_str(), "uid": node.as_str() });
        let name = json!({ "generateName": format!("{node}."), "namespace": EVENT_NAMESPACE });
        self.make_event(name, about, (component, node), event, now).await
    }

    /// Makes an Event about a pool, unless there is one that says the same: however many nodes say it, it is one.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn publish_once_about_pool(
        &self,
        pool: &str,
        source: (&str, &NodeName),
        event: &NodeEvent,
        now: &str,
    ) -> Result<()> {
        let mut hasher = std::hash::DefaultHasher::new();
        (&event.reason, &event.message).hash(&mut hasher);
        let about = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "name": pool });
        let name = format!("{pool}.{:016x}", hasher.finish());
        let name = json!({ "name": name, "namespace": EVENT_NAMESPACE });
        match self.make_event(name, about, source, event, now).await {
            Err(crate::Error::AlreadyExists { .. }) => Ok(()),
            made => made,
        }
    }

    async fn make_event(
        &self,
        metadata: serde_json::Value,
        about: serde_json::Value,
        (component, node): (&str, &NodeName),
        event: &NodeEvent,
        now: &str,
    ) -> Result<()> {
        let api: Api<core::Event> = Api::namespaced(self.client(), EVENT_NAMESPACE);
        let what = || format!("Event {} about {}", event.reason, about["name"].as_str().unwrap_or_default());
        let object = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": about,
            "type": if event.is_warning { "Warning" } else { "Normal" },
            "reason": event.reason, "message": event.message,
            "source": { "component": component, "host": node.as_str() },
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        let object: core::Event = serde_json::from_value(object)
            .map_err(|error| crate::Error::of(what, kube::Error::SerdeError(error)))?;
        self.bounded(what, api.create(&PostParams::default(), &object)).await.map(drop)
    }
}

/// One that cannot be read asks nothing.
fn change(object: Custom<CalicoNodeStatus>, node: &NodeName) -> (String, Option<CalicoNodeStatusSpec>) {
    let spec = serde_json::from_value::<CalicoNodeStatusSpec>(object.spec).ok();
    (object.metadata.name.unwrap_or_default(), spec.filter(|spec| spec.node == node.as_str()))
}
