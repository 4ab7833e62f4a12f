//! The kubelet stand-in: one watch of all pods, one worker for each pod that is bound to a node of the lab.
//! It decides nothing about placement; see `scheduler`.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::{Notify, Semaphore, watch};

use crate::cluster::Cluster;
use crate::cni::CniNode;
use crate::names::LabName;
use crate::pod_worker::{Desired, PodWorker, is_host_network, key_of};
use crate::scheduler::Scheduler;
use crate::status::PodStatus;

/// How many pods are wired or unwired at the same time.
const PARALLEL: usize = 8;

/// Annotation of pods; `none` keeps the lab's kubelet from running them.
const KUBELET: &str = "lab/kubelet";

/// What a pod needs to know of its node.
#[derive(Debug)]
pub struct HostNode {
    /// The node's addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// How to call the CNI plugin there.
    pub cni: CniNode,
}

/// The kubelets of all nodes of a lab in one.
pub struct Kubelet {
    pub(crate) lab: LabName,
    pub(crate) cluster: Cluster,
    pub(crate) turns: Semaphore,
    scheduler: Arc<Scheduler>,
    hosts: Mutex<BTreeMap<String, Arc<HostNode>>>,
    pods: Mutex<BTreeMap<String, Entry>>,
    relist: Notify,
}

struct Entry {
    desired: watch::Sender<Desired>,
    view: Arc<Mutex<PodStatus>>,
}

impl Kubelet {
    /// Prepares a kubelet without nodes.
    pub fn new(lab: LabName, cluster: Cluster, scheduler: Arc<Scheduler>) -> Arc<Self> {
        Arc::new(Self {
            lab,
            cluster,
            turns: Semaphore::new(PARALLEL),
            scheduler,
            hosts: Mutex::default(),
            pods: Mutex::default(),
            relist: Notify::new(),
        })
    }

    /// Takes a node on; pods that were bound to it before are looked at again.
    pub fn add_host(&self, name: &str, host: HostNode) {
        lock(&self.hosts).insert(name.to_owned(), Arc::new(host));
        self.relist.notify_one();
    }

    /// Lets a node go, after its pods are gone.
    pub fn remove_host(&self, name: &str) {
        lock(&self.hosts).remove(name);
    }

    pub(crate) fn host(&self, name: &str) -> Option<Arc<HostNode>> {
        lock(&self.hosts).get(name).cloned()
    }

    /// The pods as they stand, by name.
    pub fn pods(&self) -> Vec<PodStatus> {
        lock(&self.pods).values().map(|entry| lock(&entry.view).clone()).collect()
    }

    /// Deletes a node's pods through the API and waits until nothing of them is left.
    pub async fn drain(&self, node: &str, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            let left: Vec<String> =
                self.pods().into_iter().filter(|p| p.node == node).map(|p| p.name).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("pods still on {node}: {}", left.join(", ")));
            }
            for key in &left {
                if let Some((namespace, name)) = key.split_once('/') {
                    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
                    self.cluster
                        .delete_gracefully(&path)
                        .await
                        .map_err(|e| format!("delete pod {key}: {e}"))?;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Follows the API server's pods for ever. Pods keep running while the server is away.
    pub async fn run(self: Arc<Self>) {
        loop {
            let api: Api<Pod> = Api::all(self.cluster.client());
            let stream = watcher(api, watcher::Config::default()).backoff(Reconnect::default());
            pin_mut!(stream);
            let mut listed: HashSet<String> = HashSet::new();
            loop {
                let event = tokio::select! {
                    event = stream.next() => event,
                    () = self.relist.notified() => break,
                };
                match event {
                    Some(Ok(event)) => self.handle(event, &mut listed),
                    Some(Err(e)) => tracing::warn!(error = %e, "watch of pods interrupted"),
                    None => break,
                }
            }
        }
    }

    fn handle(self: &Arc<Self>, event: watcher::Event<Pod>, listed: &mut HashSet<String>) {
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(pod) => {
                listed.insert(key_of(&pod));
                self.apply(pod);
            }
            watcher::Event::InitDone => {
                let gone: Vec<String> =
                    lock(&self.pods).keys().filter(|key| !listed.contains(*key)).cloned().collect();
                for key in gone {
                    self.remove(&key);
                }
                self.scheduler.retain(listed);
            }
            watcher::Event::Apply(pod) => self.apply(pod),
            watcher::Event::Delete(pod) => {
                let key = key_of(&pod);
                self.scheduler.remove(&key);
                self.remove(&key);
            }
        }
    }

    fn apply(self: &Arc<Self>, pod: Pod) {
        self.scheduler.observe(&pod);
        if is_anothers(&pod) {
            return;
        }
        let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.clone()) else { return };
        let Some(host) = self.host(&node) else { return };
        let key = key_of(&pod);
        let mut pods = lock(&self.pods);
        if let Some(entry) = pods.get(&key) {
            {
                let mut view = lock(&entry.view);
                view.host_network = is_host_network(&pod);
                view.node = node;
            }
            entry.desired.send_replace(Some(Arc::new(pod)));
            return;
        }
        let view = Arc::new(Mutex::new(new_view(&key, &node, &host, is_host_network(&pod))));
        let (desired, follow) = watch::channel(Some(Arc::new(pod)));
        pods.insert(key.clone(), Entry { desired, view: Arc::clone(&view) });
        tokio::spawn(PodWorker::new(Arc::clone(self), view).run(key, follow));
    }

    fn remove(&self, key: &str) {
        if let Some(entry) = lock(&self.pods).get(key) {
            entry.desired.send_replace(None);
        }
    }

    /// Ends a worker's entry, unless the pod came back in the meantime.
    pub(crate) fn forget(&self, key: &str, desired: &watch::Receiver<Desired>) -> bool {
        let mut pods = lock(&self.pods);
        let finished = desired.borrow().is_none();
        if finished {
            pods.remove(key);
        }
        finished
    }
}

/// Is the pod run by a real container runtime on the node's network?
fn is_anothers(pod: &Pod) -> bool {
    let annotation = pod.metadata.annotations.as_ref().and_then(|all| all.get(KUBELET));
    annotation.is_some_and(|value| value == "none")
}

fn new_view(key: &str, node: &str, host: &HostNode, host_network: bool) -> PodStatus {
    PodStatus {
        name: key.to_owned(),
        node: node.to_owned(),
        addresses: Vec::new(),
        ready: false,
        phase: "creating".to_owned(),
        host_network,
        netns: if host_network { host.cni.netns.clone() } else { PathBuf::new() },
        message: None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pauses between attempts to reach an API server that is away: short, so that a restart is noticed at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reconnect {
    failures: u32,
}

impl Iterator for Reconnect {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(100 << self.failures.min(4));
        self.failures += 1;
        Some(pause)
    }
}

impl kube::runtime::utils::Backoff for Reconnect {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
