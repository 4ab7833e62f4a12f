//! A minimal scheduler: pods that name no node go in turn to the Ready nodes that fit their nodeSelector.
//! No resources, no affinity, no taints beyond `spec.unschedulable`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

use crate::cluster::{Cluster, PodRef, status_code};
use crate::kubelet::Reconnect;
use crate::pod_worker::{is_deleting, key_of, name_of, namespace_of, uid};

/// Places pods; fed by the pod watch and its own watch of nodes.
pub struct Scheduler {
    cluster: Cluster,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, Candidate>,
    /// Pods by key with the node they are bound to.
    placed: HashMap<String, Placed>,
    waiting: BTreeMap<String, Waiting>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Candidate {
    labels: BTreeMap<String, String>,
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    uid: String,
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    namespace: String,
    name: String,
    uid: String,
    selector: BTreeMap<String, String>,
    told: bool,
}

impl Scheduler {
    /// Prepares a scheduler that knows no nodes yet.
    pub fn new(cluster: Cluster) -> Arc<Self> {
        Arc::new(Self { cluster, state: Mutex::default() })
    }

    /// Follows the nodes for ever.
    pub async fn run(self: Arc<Self>) {
        let api: Api<Node> = Api::all(self.cluster.client());
        let stream = watcher(api, watcher::Config::default()).backoff(Reconnect::default());
        pin_mut!(stream);
        let mut listed = HashSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(node)) => {
                    listed.extend(node.metadata.name.clone());
                    self.set_node(&node);
                }
                Ok(watcher::Event::InitDone) => self.lock().nodes.retain(|name, _| listed.contains(name)),
                Ok(watcher::Event::Apply(node)) => self.set_node(&node),
                Ok(watcher::Event::Delete(node)) => {
                    self.lock().nodes.remove(node.metadata.name.as_deref().unwrap_or_default());
                }
                Err(e) => tracing::warn!(error = %e, "watch of nodes interrupted"),
            }
        }
    }

    /// Notes a pod as the API server shows it, and places it if it has no node.
    pub fn observe(self: &Arc<Self>, pod: &Pod) {
        let key = key_of(pod);
        let spec = pod.spec.as_ref();
        if let Some(node) = spec.and_then(|s| s.node_name.clone()) {
            let mut state = self.lock();
            state.waiting.remove(&key);
            state.placed.insert(key, Placed { uid: uid(pod).to_owned(), node });
            return;
        }
        let ours =
            spec.and_then(|s| s.scheduler_name.as_deref()).is_none_or(|name| name == "default-scheduler");
        let gated = spec.and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
        if !ours || gated || is_deleting(pod) {
            self.remove(&key);
            return;
        }
        let waiting = Waiting {
            namespace: namespace_of(pod).to_owned(),
            name: name_of(pod).to_owned(),
            uid: uid(pod).to_owned(),
            selector: spec.and_then(|s| s.node_selector.clone()).unwrap_or_default().into_iter().collect(),
            told: false,
        };
        {
            let mut state = self.lock();
            // A pod that is being bound shows up unbound once more when something else of it changes.
            let known = state.placed.get(&key).map(|p| &p.uid).or(state.waiting.get(&key).map(|w| &w.uid));
            if known == Some(&waiting.uid) {
                return;
            }
            state.waiting.insert(key.clone(), waiting);
        }
        self.place(&key);
    }

    /// Forgets a pod.
    pub fn remove(&self, key: &str) {
        let mut state = self.lock();
        state.waiting.remove(key);
        state.placed.remove(key);
    }

    /// Forgets all pods but these.
    pub fn retain(&self, keys: &HashSet<String>) {
        let mut state = self.lock();
        state.waiting.retain(|key, _| keys.contains(key));
        state.placed.retain(|key, _| keys.contains(key));
    }

    fn set_node(self: &Arc<Self>, node: &Node) {
        let Some(name) = node.metadata.name.clone() else { return };
        let candidate = candidate(node);
        let waiting: Vec<String> = {
            let mut state = self.lock();
            let changed = state.nodes.insert(name, candidate.clone()) != Some(candidate.clone());
            if !changed || !candidate.open {
                return;
            }
            state.waiting.keys().cloned().collect()
        };
        for key in waiting {
            self.place(&key);
        }
    }

    fn place(self: &Arc<Self>, key: &str) {
        let mut state = self.lock();
        let Some(pod) = state.waiting.get(key).cloned() else { return };
        let Some(node) = state.choose(&pod.selector) else {
            if !std::mem::replace(&mut state.waiting.get_mut(key).expect("it was there just now").told, true)
            {
                tokio::spawn(Arc::clone(self).tell_unplaced(pod));
            }
            return;
        };
        state.waiting.remove(key);
        state.placed.insert(key.to_owned(), Placed { uid: pod.uid.clone(), node: node.clone() });
        drop(state);
        tokio::spawn(Arc::clone(self).bind(key.to_owned(), pod, node));
    }

    async fn bind(self: Arc<Self>, key: String, pod: Waiting, node: String) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let path = format!("/api/v1/namespaces/{}/pods/{}/binding", pod.namespace, pod.name);
        let done = self.cluster.create(&path, &binding).await;
        let Err(e) = done else { return };
        if status_code(&e) == Some(404) {
            self.remove(&key);
            return;
        }
        tracing::warn!(pod = key, error = %e, "pod not bound");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let still = {
            let mut state = self.lock();
            let ours = state.placed.get(&key).is_some_and(|p| p.uid == pod.uid);
            if ours {
                state.placed.remove(&key);
                state.waiting.insert(key.clone(), pod);
            }
            ours
        };
        if still {
            self.place(&key);
        }
    }

    async fn tell_unplaced(self: Arc<Self>, pod: Waiting) {
        let nodes = self.lock().nodes.len();
        let text = format!(
            "0/{nodes} nodes are available: none is Ready, schedulable and fits the pod's nodeSelector"
        );
        let about = PodRef { namespace: &pod.namespace, name: &pod.name, uid: &pod.uid };
        self.cluster.event(&about, "Warning", "FailedScheduling", &text).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The fitting node with the fewest pods; the first by name among equals.
    fn choose(&self, selector: &BTreeMap<String, String>) -> Option<String> {
        let mut load: HashMap<&str, usize> = HashMap::new();
        for pod in self.placed.values() {
            *load.entry(&pod.node).or_default() += 1;
        }
        self.nodes
            .iter()
            .filter(|(_, node)| node.open && selector.iter().all(|(k, v)| node.labels.get(k) == Some(v)))
            .min_by_key(|(name, _)| load.get(name.as_str()).copied().unwrap_or(0))
            .map(|(name, _)| name.clone())
    }
}

fn candidate(node: &Node) -> Candidate {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let closed = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
    Candidate {
        labels: node.metadata.labels.clone().unwrap_or_default().into_iter().collect(),
        open: ready && !closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(nodes: &[(&str, &str, bool)]) -> State {
        let mut state = State::default();
        for (name, zone, open) in nodes {
            let labels = BTreeMap::from([("zone".to_owned(), (*zone).to_owned())]);
            state.nodes.insert((*name).to_owned(), Candidate { labels, open: *open });
        }
        state
    }

    #[test]
    fn pods_go_round_the_open_nodes() {
        let mut state = state(&[("n1", "a", true), ("n2", "a", false), ("n3", "b", true)]);
        let mut order = Vec::new();
        for i in 0..4 {
            let node = state.choose(&BTreeMap::new()).unwrap();
            state.placed.insert(format!("x/{i}"), Placed { uid: String::new(), node: node.clone() });
            order.push(node);
        }
        assert_eq!(order, ["n1", "n3", "n1", "n3"]);
    }

    #[test]
    fn a_selector_that_nothing_fits_places_nowhere() {
        let state = state(&[("n1", "a", true), ("n3", "b", true)]);
        let want = |zone: &str| BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        assert_eq!(state.choose(&want("b")).as_deref(), Some("n3"));
        assert_eq!(state.choose(&want("c")), None);
    }
}
