//! What the CNI plugin can ask for ([`proto::node`]), over the endpoint store, IPAM and the dataplane.
//!
//! ADD's second half returns only when the pod's route and policy are in the kernel: a pod never runs without
//! its policy. DEL always succeeds once it is on disk; addresses are released in the background.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use model::{Labels, PodKey, host_interface_name};
use parking_lot::{Mutex, RwLock};
use proto::node::reply::{Allocated, Done, Failed, Outcome};
use proto::node::request::{Allocate, Attachment, Call, EndpointCheck, EndpointDown, EndpointUp};
use proto::node::{Failure, Reply, Request};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::addresses::{AddressError, AddressRequest, Addresses};
use crate::annotations::PodRequests;
use crate::command::{Command, Dataplane};
use crate::del_queue::{DelQueue, Waiting};
use crate::endpoint_store::{EndpointStore, StoredEndpoint, check_container_id, handle, pod_key};
use crate::metrics::{Call as CallLabels, Metrics};
use crate::reclaim::Adds;
use felix_dataplane::EndpointState;

/// How long ADD waits for the kernel when the plugin names no time, and at most.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long the dataplane may take to say what it is about.
const INSPECT_PATIENCE: Duration = Duration::from_secs(2);
/// CHECK reads the kernel's tables back first.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);

/// Reads the annotations of a Pod of this node.
pub trait Pods: Send + Sync + 'static {
    /// From what has been watched, else from the API server; `None` when there is no such Pod.
    fn annotations(&self, pod: &PodKey, uid: &str) -> impl Future<Output = Result<Option<Labels>>> + Send;
}

/// What the service takes from the live configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSettings {
    pub interface_prefix: String,
    /// `None` until the node's uplinks are known.
    pub mtu: Option<u32>,
}

/// Answers the CNI plugin.
pub struct NodeService<A, P> {
    pub store: Mutex<EndpointStore>,
    pub queue: DelQueue,
    /// Wakes whoever drains the queue.
    pub queued: Notify,
    pub addresses: A,
    pub pods: P,
    pub dataplane: Dataplane,
    pub settings: RwLock<PodSettings>,
    pub metrics: Arc<Metrics>,
    /// Why the agent cannot serve ADD; `None` when it can.
    pub not_ready: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// ADDs whose pod is not there yet.
    pub adds: Adds,
    /// A release and a new allocation of one container must not overlap.
    pub release_lock: tokio::sync::Mutex<()>,
}

/// A call that failed, as the plugin is told.
struct Refusal(Failure, String);

impl<A: Addresses, P: Pods> NodeService<A, P> {
    /// Answers one request.
    pub async fn answer(&self, request: Request) -> Reply {
        let (name, outcome) = match request.call {
            Some(Call::Allocate(call)) => ("Allocate", self.allocate(call).await),
            Some(Call::EndpointUp(call)) => ("EndpointUp", self.endpoint_up(call).await),
            Some(Call::EndpointDown(call)) => ("EndpointDown", self.endpoint_down(&call)),
            Some(Call::EndpointCheck(call)) => ("EndpointCheck", self.endpoint_check(&call).await),
            Some(Call::Status(_)) => ("Status", self.status()),
            None => ("Unknown", Err(invalid("the request is of no kind that this agent knows; update it"))),
        };
        let (label, outcome) = match outcome {
            Ok(outcome) => ("done", outcome),
            Err(Refusal(failure, message)) => {
                tracing::warn!(call = name, ?failure, %message, "CNI call failed");
                ("failed", Outcome::Failed(Failed { failure: failure.into(), message }))
            }
        };
        let labels = CallLabels { call: name.to_owned(), outcome: label.to_owned() };
        self.metrics.cni_calls.get_or_create(&labels).inc();
        Reply { outcome: Some(outcome) }
    }

    async fn allocate(&self, call: Allocate) -> Result<Outcome, Refusal> {
        let attachment = attachment(call.attachment)?;
        let pod = pod_key(&attachment.namespace, &attachment.pod, &attachment.container_id);
        let PodSettings { interface_prefix, mtu } = self.settings.read().clone();
        let mtu = mtu.ok_or_else(|| retry("the MTU is not known yet: the agent is starting"))?;
        let requests = self.pod_requests(&pod, &attachment).await?;
        let mut exact = parse_addresses(&call.addresses)?;
        if exact.is_empty() {
            exact = requests.addresses;
        }
        let request = AddressRequest {
            handle: handle(&attachment.network, &attachment.container_id),
            namespace: attachment.namespace.clone(),
            pod: attachment.pod.clone(),
            uid: attachment.uid.clone(),
            interface: attachment.interface.clone(),
            ipv4: call.ipv4,
            ipv6: call.ipv6,
            exact,
            ipv4_pools: first_given(requests.ipv4_pools, call.ipv4_pools),
            ipv6_pools: first_given(requests.ipv6_pools, call.ipv6_pools),
        };
        let _exclusive = self.release_lock.lock().await;
        self.finish_earlier_del(&attachment).await?;
        if !self.adds.begin(&request.handle, Instant::now()) {
            return Err(retry("the container's earlier addresses are being taken back"));
        }
        let mut addresses = self.addresses.allocate(request).await.map_err(|error| match error {
            AddressError::Invalid(message) => invalid(message),
            AddressError::Unavailable(message) => retry(message),
        })?;
        addresses.sort();
        Ok(Outcome::Allocated(Allocated {
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            mtu,
            host_interface: host_interface_name(&interface_prefix, &pod),
            mac: requests.mac.map(Vec::from).unwrap_or_default(),
        }))
    }

    async fn pod_requests(&self, pod: &PodKey, attachment: &Attachment) -> Result<PodRequests, Refusal> {
        if attachment.namespace.is_empty() {
            return Ok(PodRequests::default());
        }
        let annotations = self.pods.annotations(pod, &attachment.uid).await;
        let annotations = annotations.map_err(|error| retry(format!("cannot read Pod {pod}: {error:#}")))?;
        let annotations = annotations
            .ok_or_else(|| retry(format!("the API server has no Pod {pod} with UID {:?}", attachment.uid)))?;
        PodRequests::parse(&annotations).map_err(|error| invalid(format!("Pod {pod}: {error}")))
    }

    /// An earlier DEL of the same container whose addresses are still held must not release the new ones.
    async fn finish_earlier_del(&self, attachment: &Attachment) -> Result<(), Refusal> {
        let (waiting, _) =
            self.queue.list().map_err(|error| retry(format!("read the DEL queue: {error}")))?;
        let is_same = |w: &&Waiting| container_id(&w.call) == Some(&attachment.container_id);
        for waiting in waiting.iter().filter(is_same) {
            self.release_one(waiting)
                .await
                .map_err(|error| retry(format!("finish the container's earlier DEL: {error:#}")))?;
        }
        Ok(())
    }

    async fn endpoint_up(&self, call: EndpointUp) -> Result<Outcome, Refusal> {
        let started = Instant::now();
        let attachment = attachment(call.attachment)?;
        let endpoint = StoredEndpoint {
            addresses: parse_addresses(&call.addresses)?,
            mac: call.mac.try_into().map_err(|_| invalid("the MAC address has not six bytes"))?,
            host_interface: interface_name(call.host_interface)?,
            container_id: attachment.container_id,
            interface: attachment.interface,
            network: attachment.network,
            namespace: attachment.namespace,
            pod: attachment.pod,
            uid: attachment.uid,
        };
        let local = endpoint.local();
        let handle = handle(&endpoint.network, &endpoint.container_id);
        if self.adds.were_taken_back(&handle) {
            return Err(retry("this ADD took so long that its addresses were taken back"));
        }
        let stored = self.store.lock().put(endpoint);
        stored.map_err(|error| retry(format!("store the endpoint: {error}")))?;
        self.adds.end(&handle);
        let programmed = self.dataplane.endpoint_up(local.clone());
        let wait = match call.timeout_ms {
            0 => DEFAULT_WAIT,
            milliseconds => Duration::from_millis(milliseconds.into()).min(LONGEST_WAIT),
        };
        match timeout(wait, programmed).await {
            Ok(Ok(())) => {
                self.metrics.time_to_policy.observe(started.elapsed().as_secs_f64());
                tracing::info!(pod = %local.pod, interface = local.interface, addresses = ?local.addresses,
                    milliseconds = started.elapsed().as_millis() as u64, "pod connected");
                Ok(Outcome::Done(Done {}))
            }
            Ok(Err(_)) => Err(retry(format!("the endpoint of {} was taken down meanwhile", local.pod))),
            Err(_) => {
                Err(retry(format!("not programmed after {wait:?}: {}", self.missing(&local.interface).await)))
            }
        }
    }

    async fn missing(&self, interface: &str) -> String {
        match self.dataplane.inspect(interface, false, INSPECT_PATIENCE).await {
            Ok(EndpointState::Missing(what)) => what.join("; "),
            Ok(EndpointState::Programmed) => "it came just now".to_owned(),
            Ok(EndpointState::Unknown) => format!("{interface} is not an endpoint of this node"),
            Err(silent) => silent.to_string(),
        }
    }

    fn endpoint_down(&self, call: &EndpointDown) -> Result<Outcome, Refusal> {
        // What cannot be a container of ours was never added: deleting it is done.
        let Some(attachment) = call.attachment.clone() else { return Ok(Outcome::Done(Done {})) };
        if check_container_id(&attachment).is_err() {
            return Ok(Outcome::Done(Done {}));
        }
        self.queue.put(call).map_err(|error| retry(format!("queue the DEL: {error}")))?;
        self.adds.end(&handle(&attachment.network, &attachment.container_id));
        self.forget(call).map_err(|error| retry(format!("forget the endpoint: {error:#}")))?;
        self.queued.notify_one();
        Ok(Outcome::Done(Done {}))
    }

    /// Deletes an endpoint for which no DEL will come any more.
    pub fn take_down(&self, endpoint: &StoredEndpoint) {
        let attachment = Attachment {
            container_id: endpoint.container_id.clone(),
            interface: endpoint.interface.clone(),
            network: endpoint.network.clone(),
            ..Attachment::default()
        };
        let call = EndpointDown { attachment: Some(attachment), addresses_only: false };
        if let Err(Refusal(_, message)) = self.endpoint_down(&call) {
            tracing::warn!(message, container = endpoint.container_id, "stale endpoint stays");
        }
    }

    /// Takes the endpoint of a DEL out of service, unless its interface belongs to a newer sandbox.
    fn forget(&self, call: &EndpointDown) -> Result<()> {
        let Some(attachment) = call.attachment.as_ref().filter(|_| !call.addresses_only) else {
            return Ok(());
        };
        let mut store = self.store.lock();
        if store.get(&attachment.container_id).is_none_or(|e| is_other_interface(e, attachment)) {
            return Ok(());
        }
        if let Some(endpoint) =
            store.remove(&attachment.container_id).context("delete the endpoint's file")?
        {
            tracing::info!(pod = %endpoint.pod_key(), interface = endpoint.host_interface, "pod disconnected");
            self.dataplane.send(Command::EndpointDown(endpoint.host_interface));
        }
        Ok(())
    }

    /// Does what all waiting DELs ask for; returns how many are left because something failed.
    pub async fn drain(&self) -> usize {
        let (waiting, set_aside) = match self.queue.list() {
            Ok(lists) => lists,
            Err(error) => {
                tracing::warn!(%error, "cannot read the DEL queue");
                return 1;
            }
        };
        for path in set_aside {
            tracing::warn!(path = %path.display(), "a file in the DEL queue is no request; set aside");
        }
        let mut left = 0;
        for waiting in waiting {
            let _exclusive = self.release_lock.lock().await;
            if let Err(error) = self.release_one(&waiting).await {
                tracing::warn!(container = waiting.name, error = %format!("{error:#}"), "DEL stays queued");
                left += 1;
            }
        }
        self.metrics.releases_pending.set(left as i64);
        left
    }

    async fn release_one(&self, waiting: &Waiting) -> Result<()> {
        self.forget(&waiting.call)?;
        let Some(attachment) = &waiting.call.attachment else { return Ok(()) };
        let keeps = self.store.lock().get(&attachment.container_id).is_some();
        if !keeps {
            self.addresses.release(&handle(&attachment.network, &attachment.container_id)).await?;
        }
        self.queue.remove(&waiting.name).context("remove it from the DEL queue")
    }

    async fn endpoint_check(&self, call: &EndpointCheck) -> Result<Outcome, Refusal> {
        let attachment = attachment(call.attachment.clone())?;
        let stored = self.store.lock().get(&attachment.container_id).cloned();
        let Some(stored) = stored else {
            return Err(permanent(format!("container {} is not known", attachment.container_id)));
        };
        let wanted = parse_addresses(&call.addresses)?;
        if !wanted.is_empty() && wanted != sorted(&stored.addresses) {
            return Err(permanent(format!("the addresses are {:?}, not {wanted:?}", stored.addresses)));
        }
        match self.dataplane.inspect(&stored.host_interface, true, CHECK_PATIENCE).await {
            Ok(EndpointState::Programmed) => Ok(Outcome::Done(Done {})),
            Ok(EndpointState::Missing(what)) => Err(permanent(what.join("; "))),
            Ok(EndpointState::Unknown) => {
                Err(permanent(format!("{} is not programmed", stored.host_interface)))
            }
            Err(silent) => Err(retry(silent.to_string())),
        }
    }

    fn status(&self) -> Result<Outcome, Refusal> {
        match (self.not_ready)() {
            None => Ok(Outcome::Done(Done {})),
            Some(reason) => Err(retry(reason)),
        }
    }
}

fn attachment(attachment: Option<Attachment>) -> Result<Attachment, Refusal> {
    let attachment = attachment.ok_or_else(|| invalid("the request names no container"))?;
    check_container_id(&attachment).map_err(|error| invalid(error.to_string()))?;
    Ok(attachment)
}

/// Sorted, IPv4 first; refuses what is no address.
fn parse_addresses(texts: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    let parse = |text: &String| text.parse().map_err(|_| invalid(format!("{text:?} is not an IP address")));
    let addresses: Vec<IpAddr> = texts.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(sorted(&addresses))
}

fn sorted(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses = addresses.to_vec();
    addresses.sort();
    addresses
}

/// IFNAMSIZ and what `dev_valid_name` of the kernel refuses; names go into rules and sysctl paths.
fn interface_name(name: String) -> Result<String, Refusal> {
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if (1..=15).contains(&name.len()) && is_plain && !name.starts_with('.') {
        Ok(name)
    } else {
        Err(invalid(format!("{name:?} is not the name of an interface of ours")))
    }
}

fn is_other_interface(endpoint: &StoredEndpoint, attachment: &Attachment) -> bool {
    !attachment.interface.is_empty() && attachment.interface != endpoint.interface
}

fn container_id(call: &EndpointDown) -> Option<&String> {
    call.attachment.as_ref().map(|attachment| &attachment.container_id)
}

fn first_given(first: Vec<String>, second: Vec<String>) -> Vec<String> {
    if first.is_empty() { second } else { first }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal(Failure::Invalid, message.into())
}

fn retry(message: impl Into<String>) -> Refusal {
    Refusal(Failure::Retry, message.into())
}

fn permanent(message: impl Into<String>) -> Refusal {
    Refusal(Failure::Permanent, message.into())
}

#[cfg(test)]
mod tests;
