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
use proto::node::reply::{Allocated, Collected, CollectedEndpoint, Done, Failed, NodeSubnets, Outcome};
use proto::node::request::{Allocate, Attachment, Call, Collect, EndpointCheck, EndpointDown, EndpointUp};
use proto::node::{Failure, Reply, Request};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::addresses::{AddressError, AddressRequest, Addresses};
use crate::annotations::{FeatureControl, PodRequests};
use crate::command::{Command, Dataplane};
use crate::del_queue::{DelQueue, Waiting};
use crate::endpoint_store::{EndpointStore, StoredEndpoint, check_container_id, handle, pod_key};
use crate::handle_locks::HandleLocks;
use crate::metrics::{AddStage, Call as CallLabels, Metrics};
use crate::reclaim::Adds;
use felix_dataplane::EndpointState;

/// How long ADD waits for the kernel when the plugin names no time, and at most.
const DEFAULT_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long the dataplane may take to say what it is about.
const INSPECT_PATIENCE: Duration = Duration::from_secs(2);
/// CHECK reads the kernel's tables back first.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);

/// What the cluster says about this node's pods.
pub trait Pods: Send + Sync + 'static {
    /// A Pod's annotations, from what has been watched, else from the API server; `None` when there is no such Pod.
    fn annotations(&self, pod: &PodKey, uid: &str) -> impl Future<Output = Result<Option<Labels>>> + Send;

    /// The annotations of a namespace; none when there is no such namespace.
    fn namespace_annotations(&self, namespace: &str) -> impl Future<Output = Result<Labels>> + Send;

    /// The subnets that the cluster gave this node (`spec.podCIDRs`); none where it gives nodes none.
    fn node_subnets(&self) -> impl Future<Output = Result<Vec<String>>> + Send;
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
    pub locks: HandleLocks,
}

/// A call that failed, as the plugin is told.
struct Refusal(Failure, String);

impl<A: Addresses, P: Pods> NodeService<A, P> {
    /// Answers one request, whose connection came at `came`.
    pub async fn answer(&self, request: Request, came: Instant) -> Reply {
        if matches!(request.call, Some(Call::Allocate(_) | Call::EndpointUp(_))) {
            self.metrics.add_stage(AddStage::Decode, came.elapsed());
        }
        let (name, outcome) = match request.call {
            Some(Call::Allocate(call)) => ("Allocate", self.allocate(call).await),
            Some(Call::EndpointUp(call)) => ("EndpointUp", self.endpoint_up(call).await),
            Some(Call::EndpointDown(call)) => ("EndpointDown", self.endpoint_down(&call)),
            Some(Call::EndpointCheck(call)) => ("EndpointCheck", self.endpoint_check(&call).await),
            Some(Call::Status(_)) => ("Status", self.status()),
            Some(Call::Collect(call)) => ("Collect", self.collect(&call)),
            Some(Call::NodeSubnets(_)) => ("NodeSubnets", self.node_subnets().await),
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
        let began = Instant::now();
        let attachment = attachment(call.attachment.clone())?;
        let pod = pod_key(&attachment.namespace, &attachment.pod, &attachment.container_id);
        let PodSettings { interface_prefix, mtu } = self.settings.read().clone();
        let mtu = mtu.ok_or_else(|| retry("the MTU is not known yet: the agent is starting"))?;
        let allowed = FeatureControl { no_ipam: call.may_bypass_ipam, floating: call.may_float };
        let requests = self.pod_requests(&pod, &attachment, allowed).await?;
        let mac = requests.mac;
        let mut addresses = if call.delegated {
            requests.without_ipam().map_err(|error| invalid(format!("Pod {pod}: {error}")))?;
            Vec::new()
        } else if requests.unmanaged.is_empty() {
            self.assign(&pod, &attachment, call, requests).await?
        } else {
            self.nobody_has(&requests.unmanaged, &attachment.container_id)?;
            requests.unmanaged
        };
        addresses.sort();
        self.adds.goes_on(&handle(&attachment.network, &attachment.container_id), Instant::now());
        self.metrics.add_stage(AddStage::Allocate, began.elapsed());
        Ok(Outcome::Allocated(Allocated {
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            mtu,
            host_interface: host_interface_name(&interface_prefix, &pod),
            mac: mac.map(Vec::from).unwrap_or_default(),
        }))
    }

    /// Addresses out of the cluster's pools.
    async fn assign(
        &self,
        pod: &PodKey,
        attachment: &Attachment,
        call: Allocate,
        requests: PodRequests,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let mut exact = parse_addresses(&call.addresses)?;
        if exact.is_empty() {
            exact.clone_from(&requests.addresses);
        }
        let (ipv4, ipv6) = requests.families.unwrap_or((call.ipv4, call.ipv6));
        let gets =
            |is_v4: bool| exact.iter().any(|a| a.is_ipv4() == is_v4) || if is_v4 { ipv4 } else { ipv6 };
        if let Some(address) = requests.floating.iter().find(|address| !gets(address.is_ipv4())) {
            return Err(invalid(format!(
                "Pod {pod}: it gets no address of the family of floating IP {address}"
            )));
        }
        let request = AddressRequest {
            handle: handle(&attachment.network, &attachment.container_id),
            namespace: attachment.namespace.clone(),
            pod: attachment.pod.clone(),
            uid: attachment.uid.clone(),
            interface: attachment.interface.clone(),
            netns: call.netns,
            ipv4,
            ipv6,
            exact,
            ipv4_pools: first_given(requests.ipv4_pools, call.ipv4_pools),
            ipv6_pools: first_given(requests.ipv6_pools, call.ipv6_pools),
        };
        let _exclusive = self.locks.lock(&request.handle).await;
        self.finish_earlier_del(attachment).await?;
        if !self.adds.begin(&request.handle, Instant::now()) {
            return Err(retry("the container's earlier addresses are being taken back"));
        }
        let given = self.addresses.allocate(request).await.map_err(|error| match error {
            AddressError::Invalid(message) => invalid(message),
            AddressError::Unavailable(message) => retry(message),
        })?;
        // A pod that was adopted may use an address that no block shows as its own yet.
        self.nobody_has(&given, &attachment.container_id).map_err(|Refusal(_, message)| retry(message))?;
        Ok(given)
    }

    /// IPAM does not watch over these; at least no other pod of this node may have them.
    fn nobody_has(&self, addresses: &[IpAddr], container_id: &str) -> Result<(), Refusal> {
        let store = self.store.lock();
        let others = store.iter().filter(|endpoint| endpoint.container_id != container_id);
        let mut taken = others.flat_map(|other| other.addresses.iter().map(move |address| (address, other)));
        match taken.find(|(address, _)| addresses.contains(address)) {
            Some((address, other)) => {
                Err(invalid(format!("address {address} is in use by {}", other.pod_key())))
            }
            None => Ok(()),
        }
    }

    async fn pod_requests(
        &self,
        pod: &PodKey,
        attachment: &Attachment,
        allowed: FeatureControl,
    ) -> Result<PodRequests, Refusal> {
        if attachment.namespace.is_empty() {
            return Ok(PodRequests::default());
        }
        let annotations = self.pods.annotations(pod, &attachment.uid).await;
        let annotations = annotations.map_err(|error| retry(format!("cannot read Pod {pod}: {error:#}")))?;
        let annotations = annotations
            .ok_or_else(|| retry(format!("the API server has no Pod {pod} with UID {:?}", attachment.uid)))?;
        let namespace = self.pods.namespace_annotations(&pod.namespace).await;
        let namespace =
            namespace.map_err(|error| retry(format!("namespace {}: {error:#}", pod.namespace)))?;
        PodRequests::parse(&annotations, &namespace, allowed)
            .map_err(|error| invalid(format!("Pod {pod}: {error}")))
    }

    /// An earlier DEL of the same container whose addresses are still held must not release the new ones.
    async fn finish_earlier_del(&self, attachment: &Attachment) -> Result<(), Refusal> {
        let waiting = self.queue.of_container(&attachment.container_id);
        for waiting in &waiting.map_err(|error| retry(format!("read the DEL queue: {error}")))? {
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
        let storing = Instant::now();
        let stored = self.store.lock().put(endpoint);
        stored.map_err(|error| retry(format!("store the endpoint: {error}")))?;
        self.metrics.add_stage(AddStage::Store, storing.elapsed());
        if let Some(heard) = self.adds.end(&handle) {
            self.metrics.add_stage(AddStage::Link, started.saturating_duration_since(heard));
        }
        let programmed = self.dataplane.endpoint_up(local.clone());
        let wait = match call.timeout_ms {
            0 => DEFAULT_WAIT,
            milliseconds => Duration::from_millis(milliseconds.into()).min(LONGEST_WAIT),
        };
        match timeout(wait, programmed).await {
            Ok(Ok(at)) => {
                self.metrics.add_stage(AddStage::Reply, at.elapsed());
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

    /// Takes over a pod that another agent connected.
    ///
    /// # Errors
    /// When its file cannot be written; the dataplane knows it all the same.
    pub fn adopt(&self, endpoint: StoredEndpoint) -> std::io::Result<()> {
        let local = endpoint.local();
        let stored = self.store.lock().put(endpoint);
        self.dataplane.send(Command::EndpointUp { endpoint: local, waiter: None });
        stored.map(drop)
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
        if let Err(Refusal(_, message)) = self.endpoint_down(&down_of(endpoint)) {
            tracing::warn!(message, container = endpoint.container_id, "stale endpoint stays");
        }
    }

    /// GC: lets all endpoints of a network go but those that the runtime still has.
    fn collect(&self, call: &Collect) -> Result<Outcome, Refusal> {
        let is_valid = |endpoint: &StoredEndpoint| {
            let is_same = |valid: &Attachment| {
                valid.container_id == endpoint.container_id && !is_other_interface(endpoint, valid)
            };
            call.valid.iter().any(is_same)
        };
        let store = self.store.lock();
        let gone = store.iter().filter(|endpoint| endpoint.network == call.network && !is_valid(endpoint));
        let gone: Vec<StoredEndpoint> = gone.cloned().collect();
        drop(store);
        let mut endpoints = Vec::new();
        for endpoint in gone {
            self.endpoint_down(&down_of(&endpoint))?;
            let StoredEndpoint { container_id, host_interface, .. } = endpoint;
            endpoints.push(CollectedEndpoint { container_id, host_interface });
        }
        Ok(Outcome::Collected(Collected { endpoints }))
    }

    async fn node_subnets(&self) -> Result<Outcome, Refusal> {
        let subnets = self.pods.node_subnets().await;
        let subnets =
            subnets.map_err(|error| retry(format!("cannot read this node's podCIDRs: {error:#}")))?;
        Ok(Outcome::NodeSubnets(NodeSubnets { subnets }))
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
            let _exclusive = self.locks.lock(&handle_of(&waiting.call)).await;
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

/// What a DEL would have said.
fn down_of(endpoint: &StoredEndpoint) -> EndpointDown {
    let attachment = Attachment {
        container_id: endpoint.container_id.clone(),
        interface: endpoint.interface.clone(),
        network: endpoint.network.clone(),
        ..Attachment::default()
    };
    EndpointDown { attachment: Some(attachment), addresses_only: false }
}

fn is_other_interface(endpoint: &StoredEndpoint, attachment: &Attachment) -> bool {
    !attachment.interface.is_empty() && attachment.interface != endpoint.interface
}

fn handle_of(call: &EndpointDown) -> String {
    call.attachment.as_ref().map_or_else(String::new, |one| handle(&one.network, &one.container_id))
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
