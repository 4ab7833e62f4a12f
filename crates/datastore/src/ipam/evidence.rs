//! What garbage collection asks the API server before it believes that something is gone.

use std::collections::BTreeMap;

use ::ipam::gc::PodAnswer;
use k8s_openapi::api::core::v1 as core;
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use model::{Handle, NodeName, PodKey};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::convert::{self, Problems};
use crate::crd;
use crate::objects::{NodeObject, PodObject};
use crate::{Datastore, NodeEvent, Result};

/// Objects of one page of a list.
const PAGE: u32 = 500;

impl Datastore {
    /// What there is to say of one Pod.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn pod_answer(&self, key: &PodKey) -> Result<PodAnswer> {
        let api: Api<PodObject> = Api::namespaced(self.client(), &key.namespace);
        let found = self.bounded(|| format!("pod {key}"), api.get_opt(&key.name)).await?;
        Ok(found.as_ref().map_or(PodAnswer::Absent, answer))
    }

    /// Pods that are bound to a node, but for those in the node's own network; of all nodes without a name.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn pod_answers(&self, node: Option<&NodeName>) -> Result<BTreeMap<PodKey, PodAnswer>> {
        let mut params = ListParams::default();
        if let Some(node) = node {
            params = params.fields(&format!("spec.nodeName={node}"));
        }
        let mut answers = BTreeMap::new();
        self.pages("pods", params, |object: PodObject| {
            let meta = &object.metadata;
            let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
            if object.spec.host_network != Some(true) {
                answers.insert(PodKey::new(namespace, name), answer(&object));
            }
        })
        .await?;
        Ok(answers)
    }

    /// Is there a Node of this name?
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn has_node(&self, name: &NodeName) -> Result<bool> {
        let api: Api<NodeObject> = Api::all(self.client());
        let found = self.bounded(|| format!("node {name}"), api.get_opt(name.as_str())).await?;
        Ok(found.is_some())
    }

    /// May the datastore be written to? `false` while a `ClusterInformation` says `datastoreReady: false`.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn is_ready(&self) -> Result<bool> {
        let api: Api<crd::ClusterInformation> = Api::all(self.client());
        let what = || "ClusterInformation default".to_owned();
        // A cluster that does not know the kind has nobody who could say no.
        let found = self.bounded(what, api.get_opt("default")).await?;
        Ok(found.is_none_or(|object| object.spec.datastore_ready != Some(false)))
    }

    /// Shows every IPAM handle, a page at a time.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn each_handle(&self, mut show: impl FnMut(Handle)) -> Result<()> {
        self.pages("IPAM handles", ListParams::default(), |object: crd::IPAMHandle| {
            show(convert::handle(&object.spec, &mut Problems::default()));
        })
        .await
    }

    /// Makes an Event about an IP pool. `now` is an RFC 3339 time.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn publish_about_pool(&self, pool: &str, event: &NodeEvent, now: &str) -> Result<()> {
        let about = json!({ "apiVersion": crd::API_VERSION, "kind": "IPPool", "name": pool });
        self.publish_about("default", about, event, now).await
    }

    /// Makes an Event about an object, in a namespace.
    pub(crate) async fn publish_about(
        &self,
        namespace: &str,
        about: serde_json::Value,
        event: &NodeEvent,
        now: &str,
    ) -> Result<()> {
        let api: Api<core::Event> = Api::namespaced(self.client(), namespace);
        let name = about["name"].as_str().unwrap_or_default().to_owned();
        let what = || format!("Event about {name}");
        let object = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "generateName": format!("{name}."), "namespace": namespace },
            "involvedObject": about,
            "type": if event.is_warning { "Warning" } else { "Normal" },
            "reason": event.reason, "message": event.message,
            "source": { "component": "ocicat-controllers" },
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        let object: core::Event = serde_json::from_value(object)
            .map_err(|error| crate::Error::of(what, kube::Error::SerdeError(error)))?;
        self.bounded(what, api.create(&PostParams::default(), &object)).await.map(drop)
    }

    /// Lists a kind by pages, so that no list of the whole cluster is in memory at once.
    pub(crate) async fn pages<K>(&self, what: &str, params: ListParams, mut show: impl FnMut(K)) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client());
        let mut params = params.limit(PAGE);
        loop {
            let page = self.bounded(|| what.to_owned(), api.list(&params)).await?;
            page.items.into_iter().for_each(&mut show);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }
}

fn answer(object: &PodObject) -> PodAnswer {
    let pod = convert::pod(object, &mut Problems::default());
    let is_finished = matches!(object.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    PodAnswer::Present {
        uid: object.uid().unwrap_or_default(),
        node: pod.as_ref().and_then(|pod| pod.node.clone()),
        addresses: pod.map(|pod| pod.addresses).unwrap_or_default(),
        is_finished,
    }
}
