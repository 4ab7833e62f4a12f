//! Finds the Pod that an ADD is about: what has been watched, else one request to the API server. And this node's
//! own subnets, which never change once they are there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use datastore::Datastore;
use model::{Labels, NodeName, Pod, PodKey};
use tokio::sync::{OnceCell, watch};
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::service::Pods;

/// How long ADD waits for the watch before it asks: the kubelet often knows a Pod a moment earlier.
const WATCH_PATIENCE: Duration = Duration::from_millis(100);

/// Reads from the API server.
pub trait FetchPod: Send + Sync + 'static {
    fn fetch(&self, pod: &PodKey) -> impl Future<Output = Result<Option<Pod>>> + Send;

    /// `spec.podCIDRs` of a Node.
    fn subnets(&self, node: &NodeName) -> impl Future<Output = Result<Vec<String>>> + Send;
}

impl FetchPod for Datastore {
    async fn fetch(&self, pod: &PodKey) -> Result<Option<Pod>> {
        Ok(self.pod(pod).await?)
    }

    async fn subnets(&self, node: &NodeName) -> Result<Vec<String>> {
        Ok(self.pod_cidrs(node).await?)
    }
}

/// See the module's description.
pub struct KnownPods<F> {
    cluster: Arc<Cluster>,
    fetch: F,
    namespaces: watch::Receiver<Option<BTreeMap<String, Labels>>>,
    node: NodeName,
    subnets: OnceCell<Vec<String>>,
}

impl<F> KnownPods<F> {
    /// `namespaces` holds the annotations of all namespaces; `None` until they have been listed.
    pub fn new(
        cluster: Arc<Cluster>,
        fetch: F,
        namespaces: watch::Receiver<Option<BTreeMap<String, Labels>>>,
        node: NodeName,
    ) -> Self {
        Self { cluster, fetch, namespaces, node, subnets: OnceCell::new() }
    }
}

impl<F: FetchPod> Pods for KnownPods<F> {
    async fn annotations(&self, pod: &PodKey, uid: &str) -> Result<Option<Labels>> {
        let ask = async {
            sleep(WATCH_PATIENCE).await;
            let found = self.fetch.fetch(pod).await?;
            let found = found.filter(|found| uid.is_empty() || found.uid == uid);
            Ok(found.map(|found| found.annotations))
        };
        tokio::select! {
            biased;
            annotations = self.cluster.wait_for_pod(pod, uid) => Ok(Some(annotations)),
            answer = ask => answer,
        }
    }

    async fn namespace_annotations(&self, namespace: &str) -> Result<Labels> {
        let mut namespaces = self.namespaces.clone();
        let found = |all: &Option<BTreeMap<String, Labels>>| all.as_ref()?.get(namespace).cloned();
        // Mostly it is there, and this does not wait.
        let known = timeout(WATCH_PATIENCE, namespaces.wait_for(|all| found(all).is_some()));
        if let Ok(Ok(all)) = known.await {
            return Ok(found(&all).unwrap_or_default());
        }
        if self.namespaces.borrow().is_none() {
            bail!("namespaces have not been listed yet");
        }
        Ok(Labels::new())
    }

    async fn node_subnets(&self) -> Result<Vec<String>> {
        let ask = || async {
            let subnets = self.fetch.subnets(&self.node).await.map_err(Some)?;
            // The cluster may give them a moment after the node has come: none is not remembered.
            if subnets.is_empty() { Err(None) } else { Ok(subnets) }
        };
        match self.subnets.get_or_try_init(ask).await {
            Ok(subnets) => Ok(subnets.clone()),
            Err(None) => Ok(Vec::new()),
            Err(Some(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use model::Update;

    use super::*;

    #[tokio::test]
    async fn a_pod_that_is_not_watched_yet_is_asked_for_once() {
        let pods = known(Some(web("u1")));

        let found = pods.annotations(&key(), "u1").await.unwrap();

        assert_eq!(found, Some(web("u1").annotations));
        assert_eq!(pods.fetch.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_watched_pod_costs_no_request() {
        let pods = known(None);
        pods.cluster.observe(&Update::Pod(key(), Some(web("u1"))));

        assert!(pods.annotations(&key(), "u1").await.unwrap().is_some());
        assert_eq!(pods.fetch.asked.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_earlier_pod_of_the_same_name_is_another() {
        let pods = known(Some(web("u1")));
        pods.cluster.observe(&Update::Pod(key(), Some(web("u1"))));

        assert_eq!(pods.annotations(&key(), "u2").await.unwrap(), None);
    }

    #[tokio::test]
    async fn annotations_of_namespaces_are_those_watched() {
        let mut pods = known(None);

        assert_eq!(pods.namespace_annotations("prod").await.unwrap()["pools"], "far");
        assert_eq!(pods.namespace_annotations("other").await.unwrap(), Labels::new());
        pods.namespaces = watch::channel(None).1;
        assert!(pods.namespace_annotations("prod").await.is_err(), "not listed is not none");
    }

    #[tokio::test]
    async fn the_nodes_subnets_are_asked_for_until_they_are_there() {
        let pods = known(None);

        assert!(pods.node_subnets().await.unwrap().is_empty());
        for _ in 0..2 {
            assert_eq!(pods.node_subnets().await.unwrap(), ["10.244.1.0/24"]);
        }
        assert_eq!(pods.fetch.asked.load(Ordering::Relaxed), 2);
    }

    struct Server {
        pod: Option<Pod>,
        asked: AtomicUsize,
    }

    impl FetchPod for Server {
        async fn fetch(&self, _: &PodKey) -> Result<Option<Pod>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(self.pod.clone())
        }

        async fn subnets(&self, _: &NodeName) -> Result<Vec<String>> {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(if asked == 0 { Vec::new() } else { vec!["10.244.1.0/24".to_owned()] })
        }
    }

    fn known(pod: Option<Pod>) -> KnownPods<Server> {
        let cluster = Arc::new(Cluster::new(NodeName::from("n1")));
        let prod = Labels::from([("pools".to_owned(), "far".to_owned())]);
        let (_, namespaces) = watch::channel(Some(BTreeMap::from([("prod".to_owned(), prod)])));
        KnownPods::new(cluster, Server { pod, asked: AtomicUsize::new(0) }, namespaces, NodeName::from("n1"))
    }

    fn key() -> PodKey {
        PodKey::new("default", "web")
    }

    fn web(uid: &str) -> Pod {
        Pod {
            key: key(),
            uid: uid.to_owned(),
            node: Some(NodeName::from("n1")),
            addresses: Vec::new(),
            labels: Labels::new(),
            ports: Vec::new(),
            service_account: None,
            host_network: false,
            annotations: Labels::from([("a".to_owned(), "b".to_owned())]),
        }
    }
}
