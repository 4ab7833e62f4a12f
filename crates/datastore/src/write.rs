//! Reads and writes of single objects: nodes, pods, namespaces.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use model::{Labels, Node, NodeName, Pod, PodKey};
use serde_json::json;

use crate::client::Datastore;
use crate::convert::{self, Problems};
use crate::objects::{NamespaceObject, NodeObject, PodObject};
use crate::{Error, Result};

/// What a node says about its network (condition `NetworkUnavailable`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkState {
    Up,
    /// With the reason for people.
    Down(String),
}

impl Datastore {
    /// One Node; `None` when it does not exist.
    pub async fn node(&self, name: &NodeName) -> Result<Option<Node>> {
        let api: Api<NodeObject> = Api::all(self.client());
        let found = self.get(&api, name.as_str(), || format!("node {name}")).await?;
        Ok(found.and_then(|object| convert::node(&object, &mut Problems::default())))
    }

    /// One Pod; `None` when it does not exist.
    pub async fn pod(&self, key: &PodKey) -> Result<Option<Pod>> {
        let api: Api<PodObject> = Api::namespaced(self.client(), &key.namespace);
        let found = self.get(&api, &key.name, || format!("pod {key}")).await?;
        Ok(found.and_then(|object| convert::pod(&object, &mut Problems::default())))
    }

    /// Labels and Calico's annotations of a Namespace; `None` when it does not exist.
    pub async fn namespace(&self, name: &str) -> Result<Option<(Labels, Labels)>> {
        let api: Api<NamespaceObject> = Api::all(self.client());
        let found = self.get(&api, name, || format!("namespace {name}")).await?;
        Ok(found.map(|object| {
            let meta = object.metadata;
            (meta.labels.unwrap_or_default(), meta.annotations.unwrap_or_default())
        }))
    }

    /// `spec.podCIDRs` of a Node; empty where there is no such Node or it has none.
    pub async fn pod_cidrs(&self, name: &NodeName) -> Result<Vec<String>> {
        let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client());
        let found = self.get(&api, name.as_str(), || format!("node {name}")).await?;
        let spec = found.and_then(|node| node.spec).unwrap_or_default();
        Ok(spec.pod_cidrs.unwrap_or_else(|| spec.pod_cidr.into_iter().collect()))
    }

    /// Sets annotations of a Node; `None` takes one away. Others stay as they are.
    pub async fn annotate_node(
        &self,
        name: &NodeName,
        annotations: &BTreeMap<&str, Option<String>>,
    ) -> Result<()> {
        let api: Api<NodeObject> = Api::all(self.client());
        let patch = json!({"metadata": {"annotations": annotations}});
        let what = || format!("node {name}");
        self.bounded(what, api.patch_status(name.as_str(), &PatchParams::default(), &Patch::Merge(patch)))
            .await
            .map(drop)
    }

    /// Sets annotations of a Pod, unless a Pod with another UID has taken its name meanwhile.
    pub async fn annotate_pod(
        &self,
        key: &PodKey,
        uid: &str,
        annotations: &BTreeMap<&str, String>,
    ) -> Result<()> {
        let api: Api<PodObject> = Api::namespaced(self.client(), &key.namespace);
        let patch = json!({"metadata": {"uid": uid, "annotations": annotations}});
        let what = || format!("pod {key}");
        self.bounded(what, api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)))
            .await
            .map(drop)
    }

    /// Says whether the node's network is up; the scheduler keeps pods off a node whose is not. `now` is an
    /// RFC 3339 time.
    pub async fn set_network_state(&self, name: &NodeName, state: &NetworkState, now: &str) -> Result<()> {
        let (status, reason, message) = match state {
            NetworkState::Up => ("False", "CalicoIsUp", "Calico is running on this node"),
            NetworkState::Down(message) => ("True", "CalicoIsDown", message.as_str()),
        };
        let patch = json!({"status": {"conditions": [{
            "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }]}});
        let api: Api<core::Node> = Api::all(self.client());
        let what = || format!("node {name}");
        self.bounded(what, api.patch_status(name.as_str(), &PatchParams::default(), &Patch::Strategic(patch)))
            .await
            .map(drop)
    }

    async fn get<K>(&self, api: &Api<K>, name: &str, what: impl Fn() -> String) -> Result<Option<K>>
    where
        K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        self.bounded(what, api.get_opt(name)).await
    }

    /// A request with a bound on its time, and an error that says what it was about.
    pub(crate) async fn bounded<T>(
        &self,
        what: impl Fn() -> String,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(crate::client::REQUEST_TIMEOUT, request).await {
            Ok(result) => result.map_err(|error| Error::of(what, error)),
            Err(_) => {
                let reason = format!("no answer within {} s", crate::client::REQUEST_TIMEOUT.as_secs());
                Err(Error::Unavailable { what: what(), reason })
            }
        }
    }
}
