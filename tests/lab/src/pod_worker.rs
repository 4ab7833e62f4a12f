//! One pod from its binding to its end: network namespace, CNI, responder, status; one task a pod name.
//! Which pods there are is `kubelet`'s business.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::cluster::{PodRef, status_code, timestamp};
use crate::cni::{Added, Sandbox};
use crate::kubelet::{HostNode, Kubelet};
use crate::names::{fnv1a, netns_path};
use crate::pod_status::{PodState, declared_ports, status_patch};
use crate::responder::Responder;
use crate::status::PodStatus;
use crate::topology;

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What the API server last said about the pod of this name: `None` when it is gone.
pub(crate) type Desired = Option<Arc<Pod>>;

/// The task's own state.
pub(crate) struct PodWorker {
    kubelet: Arc<Kubelet>,
    view: Arc<Mutex<PodStatus>>,
    live: Option<Live>,
    /// Consecutive failures.
    failures: u32,
    attempts: u32,
}

/// A pod that is wired.
struct Live {
    pod: Arc<Pod>,
    host: Arc<HostNode>,
    /// Absent for pods on the host's network.
    sandbox: Option<(Sandbox, Option<Added>)>,
    addresses: Vec<IpAddr>,
    responder: Option<Responder>,
    published: bool,
}

enum Next {
    /// Nothing to do until the API server says something new.
    Wait,
    /// Try again after a pause.
    Retry,
    /// Go on at once.
    Again,
}

impl PodWorker {
    pub(crate) fn new(kubelet: Arc<Kubelet>, view: Arc<Mutex<PodStatus>>) -> Self {
        Self { kubelet, view, live: None, failures: 0, attempts: 0 }
    }

    /// Follows the pod of this name until there is none and nothing of it is left.
    pub(crate) async fn run(mut self, key: String, mut desired: watch::Receiver<Desired>) {
        loop {
            let want = desired.borrow_and_update().clone();
            if want.is_none() && self.live.is_none() {
                if self.kubelet.forget(&key, &desired) {
                    return;
                }
                continue;
            }
            match self.step(want).await {
                Next::Again => self.failures = 0,
                Next::Wait => {
                    self.failures = 0;
                    if desired.changed().await.is_err() {
                        return;
                    }
                }
                Next::Retry => {
                    let pause = (FIRST_RETRY * 2_u32.pow(self.failures.min(6))).min(LONGEST_RETRY);
                    self.failures += 1;
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        gone = desired.changed() => if gone.is_err() { return },
                    }
                }
            }
        }
    }

    async fn step(&mut self, want: Desired) -> Next {
        if let Some(live) = &mut self.live {
            let same = want.as_ref().filter(|pod| uid(pod) == uid(&live.pod) && !is_deleting(pod));
            let Some(pod) = same else { return self.tear_down().await };
            live.pod = Arc::clone(pod);
            return if live.published { Next::Wait } else { self.publish_running().await };
        }
        let Some(pod) = want else { return Next::Again };
        if is_deleting(&pod) {
            return self.delete_object(&pod).await;
        }
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Next::Wait;
        }
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        match self.kubelet.host(node) {
            Some(host) => self.set_up(pod, host).await,
            None => Next::Wait,
        }
    }

    async fn set_up(&mut self, pod: Arc<Pod>, host: Arc<HostNode>) -> Next {
        self.note("creating", None, |_| ());
        let live = if is_host_network(&pod) {
            Live {
                pod,
                sandbox: None,
                addresses: host.addresses.clone(),
                host,
                responder: None,
                published: false,
            }
        } else {
            match self.wire(&pod, &host).await {
                Ok((sandbox, added)) => {
                    let addresses = added.addresses.clone();
                    let sandbox = Some((sandbox, Some(added)));
                    Live { pod, sandbox, addresses, host, responder: None, published: false }
                }
                Err(message) => return self.failed_set_up(&pod, &host, &message).await,
            }
        };
        let netns = live.netns();
        let name = key_of(&live.pod);
        let responder = Responder::start(&netns, declared_ports(&live.pod), &name).await;
        let addresses = live.addresses.clone();
        let live = self.live.insert(live);
        live.responder = Some(responder.unwrap_or_else(|e| {
            let mut none = Responder::default();
            none.failures.push(format!("cannot enter {}: {e}", netns.display()));
            none
        }));
        self.note("running", None, |view| {
            view.addresses = addresses;
            view.netns = netns;
        });
        self.publish_running().await
    }

    /// Makes the namespace and calls ADD; after a failure nothing is left.
    async fn wire(&mut self, pod: &Pod, host: &HostNode) -> Result<(Sandbox, Added), String> {
        let (namespace, name) = (namespace_of(pod), name_of(pod));
        let netns = self.kubelet.lab.pod_netns(namespace, name);
        self.attempts += 1;
        let sandbox = Sandbox {
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            uid: uid(pod).to_owned(),
            container_id: container_id(uid(pod), self.attempts),
            netns: netns_path(&netns),
        };
        let _turn = self.kubelet.turns.acquire().await.map_err(|e| e.to_string())?;
        topology::create_netns(&self.kubelet.lab, &netns)
            .map_err(|e| format!("cannot make network namespace {netns}: {e}"))?;
        match host.cni.add(&sandbox).await {
            Ok(added) => Ok((sandbox, added)),
            Err(e) => {
                if let Err(again) = unwire(&self.kubelet, host, &sandbox, None).await {
                    tracing::warn!(pod = name, error = again, "clean-up after a failed ADD");
                }
                Err(e.to_string())
            }
        }
    }

    async fn failed_set_up(&mut self, pod: &Pod, host: &HostNode, message: &str) -> Next {
        tracing::warn!(pod = %key_of(pod), message, "pod not wired");
        let text = format!("Failed to create pod sandbox: {message}");
        self.note("creating", Some(text.clone()), |_| ());
        let state = PodState::Waiting { reason: "FailedCreatePodSandBox", message: &text };
        self.patch_status(pod, &host.addresses, &state).await.ok();
        self.kubelet.cluster.event(&pod_ref(pod), "Warning", "FailedCreatePodSandBox", &text).await;
        Next::Retry
    }

    async fn publish_running(&mut self) -> Next {
        let Some(live) = &self.live else { return Next::Again };
        let failures = live.responder.as_ref().map(|r| r.failures.clone()).unwrap_or_default();
        let container = live.sandbox.as_ref().map_or(uid(&live.pod), |(s, _)| s.container_id.as_str());
        let state =
            PodState::Running { addresses: &live.addresses, container_id: container, failures: &failures };
        let done = self.patch_status(&live.pod, &live.host.addresses, &state).await;
        let message = (!failures.is_empty()).then(|| failures.join("; "));
        let ready = done.is_ok() && failures.is_empty();
        self.note("running", message, |view| view.ready = ready);
        if let Some(live) = &mut self.live {
            live.published = done.is_ok();
        }
        if done.is_ok() { Next::Wait } else { Next::Retry }
    }

    async fn tear_down(&mut self) -> Next {
        let Some(live) = &mut self.live else { return Next::Again };
        live.responder = None;
        if let Some((sandbox, added)) = &live.sandbox {
            let undone = unwire(&self.kubelet, &live.host, sandbox, added.as_ref()).await;
            if let Err(message) = undone {
                let pod = Arc::clone(&live.pod);
                let text = format!("Failed to remove pod sandbox: {message}");
                tracing::warn!(pod = %key_of(&pod), message, "pod not unwired");
                self.note("terminating", Some(text.clone()), |view| view.ready = false);
                self.kubelet.cluster.event(&pod_ref(&pod), "Warning", "FailedKillPod", &text).await;
                return Next::Retry;
            }
        }
        self.live = None;
        self.note("terminating", None, |view| {
            view.ready = false;
            view.addresses.clear();
        });
        Next::Again
    }

    async fn delete_object(&self, pod: &Pod) -> Next {
        let path = format!("/api/v1/namespaces/{}/pods/{}", namespace_of(pod), name_of(pod));
        match self.kubelet.cluster.delete(&path, Some(uid(pod))).await {
            Ok(()) => Next::Wait,
            Err(e) => {
                tracing::warn!(pod = %key_of(pod), error = %e, "pod object not deleted");
                Next::Retry
            }
        }
    }

    async fn patch_status(
        &self,
        pod: &Pod,
        host: &[IpAddr],
        state: &PodState<'_>,
    ) -> Result<(), kube::Error> {
        let path = format!("/api/v1/namespaces/{}/pods/{}/status", namespace_of(pod), name_of(pod));
        let patch = status_patch(pod, host, state, &timestamp());
        match self.kubelet.cluster.patch(&path, &patch).await {
            // It is being deleted; the watch will say so.
            Err(e) if status_code(&e) == Some(404) => Ok(()),
            Err(e) => {
                tracing::warn!(pod = %key_of(pod), error = %e, "pod status not written");
                Err(e)
            }
            Ok(()) => Ok(()),
        }
    }

    fn note(&self, phase: &str, message: Option<String>, change: impl FnOnce(&mut PodStatus)) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        phase.clone_into(&mut view.phase);
        view.message = message;
        change(&mut view);
    }
}

impl Live {
    fn netns(&self) -> PathBuf {
        self.sandbox.as_ref().map_or_else(|| self.host.cni.netns.clone(), |(s, _)| s.netns.clone())
    }
}

/// DEL with the namespace, the namespace itself, DEL without it.
async fn unwire(
    kubelet: &Kubelet,
    host: &HostNode,
    sandbox: &Sandbox,
    added: Option<&Added>,
) -> Result<(), String> {
    if sandbox.netns.exists() {
        host.cni.delete(sandbox, added).await.map_err(|e| e.to_string())?;
        if let Some(name) = sandbox.netns.file_name().and_then(|n| n.to_str()) {
            topology::remove_netns(&kubelet.lab, name).map_err(|e| format!("remove {name}: {e}"))?;
        }
    }
    host.cni.delete_again(sandbox).await.map_err(|e| e.to_string())
}

/// A sandbox id as containerd makes them: 64 hexadecimal digits, never twice the same.
fn container_id(uid: &str, attempt: u32) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    (0..4).map(|part| format!("{:016x}", fnv1a(format!("{part} {uid} {attempt} {now}").as_bytes()))).collect()
}

pub(crate) fn key_of(pod: &Pod) -> String {
    format!("{}/{}", namespace_of(pod), name_of(pod))
}

pub(crate) fn namespace_of(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

pub(crate) fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(crate) fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

pub(crate) fn pod_ref(pod: &Pod) -> PodRef<'_> {
    PodRef { namespace: namespace_of(pod), name: name_of(pod), uid: uid(pod) }
}
