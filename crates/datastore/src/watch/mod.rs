//! List and watch of every kind as one stream of [`Update`]s.

#[cfg(test)]
mod fields;
mod follow;
pub(crate) mod kinds;
pub(crate) mod namespaces;
pub(crate) mod secrets;
pub(crate) mod sources;
pub(crate) mod tracker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::SelectAll;
use futures_util::{StreamExt, stream};
use kube::Client;
use kube::runtime::utils::Backoff;
use model::{NodeName, Update};
use tokio::sync::mpsc;

pub use follow::Followed;
pub(crate) use follow::follow;
use sources::EventStream;
pub use sources::RawStream;
use tracker::{Event, Tracker, Viewer};

use crate::typha::Feed;

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Node,
    Pod,
    Namespace,
    ServiceAccount,
    KubernetesNetworkPolicy,
    NetworkPolicy,
    GlobalNetworkPolicy,
    StagedNetworkPolicy,
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    /// These three of `policy.networking.k8s.io`.
    ClusterNetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    Tier,
    NetworkSet,
    GlobalNetworkSet,
    HostEndpoint,
    Profile,
    IpPool,
    IpamBlock,
    BlockAffinity,
    IpamConfiguration,
    IpReservation,
    BgpConfiguration,
    BgpPeer,
    BgpFilter,
    FelixConfiguration,
    /// Watched once the BGP settings announce Services.
    Service,
    /// Watched once the BGP settings announce Services (by a speaker), or a rule names one (by felix).
    EndpointSlice,
    /// Pods of this node alone; watched once a BGPPeer chooses some of them as peers.
    LocalPod,
    /// Who asks what of a node. It becomes no [`Update`].
    CalicoNodeStatus,
    /// Nodes by their metadata alone: names, UIDs and labels, without a status that changes all the time.
    NodeName,
}

impl Kind {
    /// What felix needs: everything but who peers with whom.
    pub const FELIX: [Kind; 26] = [
        Kind::Node,
        Kind::Pod,
        Kind::Namespace,
        Kind::ServiceAccount,
        Kind::KubernetesNetworkPolicy,
        Kind::NetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::StagedNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy,
        Kind::ClusterNetworkPolicy,
        Kind::AdminNetworkPolicy,
        Kind::BaselineAdminNetworkPolicy,
        Kind::Tier,
        Kind::NetworkSet,
        Kind::GlobalNetworkSet,
        Kind::HostEndpoint,
        Kind::Profile,
        Kind::IpPool,
        Kind::IpamBlock,
        Kind::BlockAffinity,
        Kind::IpamConfiguration,
        Kind::IpReservation,
        // Its Service ranges, for service loop prevention.
        Kind::BgpConfiguration,
        Kind::FelixConfiguration,
        Kind::EndpointSlice,
    ];

    /// Every kind that is the same for all nodes, by the name that typha gives it.
    pub const SHARED: [(Kind, &str); 30] = [
        (Kind::Node, "Node"),
        (Kind::Pod, "Pod"),
        (Kind::Namespace, "Namespace"),
        (Kind::ServiceAccount, "ServiceAccount"),
        (Kind::KubernetesNetworkPolicy, "KubernetesNetworkPolicy"),
        (Kind::NetworkPolicy, "NetworkPolicy"),
        (Kind::GlobalNetworkPolicy, "GlobalNetworkPolicy"),
        (Kind::StagedNetworkPolicy, "StagedNetworkPolicy"),
        (Kind::StagedGlobalNetworkPolicy, "StagedGlobalNetworkPolicy"),
        (Kind::StagedKubernetesNetworkPolicy, "StagedKubernetesNetworkPolicy"),
        (Kind::ClusterNetworkPolicy, "ClusterNetworkPolicy"),
        (Kind::AdminNetworkPolicy, "AdminNetworkPolicy"),
        (Kind::BaselineAdminNetworkPolicy, "BaselineAdminNetworkPolicy"),
        (Kind::Tier, "Tier"),
        (Kind::NetworkSet, "NetworkSet"),
        (Kind::GlobalNetworkSet, "GlobalNetworkSet"),
        (Kind::HostEndpoint, "HostEndpoint"),
        (Kind::Profile, "Profile"),
        (Kind::IpPool, "IPPool"),
        (Kind::IpamBlock, "IPAMBlock"),
        (Kind::BlockAffinity, "BlockAffinity"),
        (Kind::IpamConfiguration, "IPAMConfiguration"),
        (Kind::IpReservation, "IPReservation"),
        (Kind::BgpConfiguration, "BGPConfiguration"),
        (Kind::BgpPeer, "BGPPeer"),
        (Kind::BgpFilter, "BGPFilter"),
        (Kind::FelixConfiguration, "FelixConfiguration"),
        (Kind::Service, "Service"),
        (Kind::EndpointSlice, "EndpointSlice"),
        (Kind::CalicoNodeStatus, "CalicoNodeStatus"),
    ];

    /// Its name among [`Kind::SHARED`].
    pub fn shared_name(self) -> Option<&'static str> {
        Self::SHARED.iter().find(|(kind, _)| *kind == self).map(|(_, name)| *name)
    }

    /// The kind of this name among [`Kind::SHARED`].
    pub fn shared(name: &str) -> Option<Self> {
        Self::SHARED.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// Kinds that not every cluster has: without them it is whole.
    fn is_optional(self) -> bool {
        matches!(
            self,
            Kind::ClusterNetworkPolicy
                | Kind::AdminNetworkPolicy
                | Kind::BaselineAdminNetworkPolicy
                | Kind::IpReservation
        )
    }

    /// What a speaker needs.
    pub const SPEAKER: [Kind; 10] = [
        Kind::Node,
        Kind::IpPool,
        Kind::IpamBlock,
        Kind::BlockAffinity,
        Kind::BgpConfiguration,
        Kind::BgpPeer,
        Kind::BgpFilter,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::LocalPod,
    ];

    /// Is it watched only once something needs it? A node that announces no Service, and has no rule that names
    /// one, has no use for thousands of EndpointSlices.
    pub fn is_on_demand(self) -> bool {
        matches!(self, Kind::Service | Kind::EndpointSlice | Kind::LocalPod)
    }
}

/// What a watcher wants to hear of, and who it is.
#[derive(Clone, Debug)]
pub struct Interest {
    pub kinds: Vec<Kind>,
    /// Settings named `node.<this>` count besides those named `default`.
    pub node: NodeName,
    /// Variables of the environment that win over settings: `CALICO_ADVERTISE_CLUSTER_IPS` over
    /// serviceClusterIPs.
    pub overrides: BTreeMap<String, String>,
}

impl Interest {
    /// What felix on `node` needs.
    pub fn felix(node: NodeName) -> Self {
        Self { kinds: Kind::FELIX.to_vec(), node, overrides: BTreeMap::new() }
    }

    /// What says how packets may go, cluster-wide; for whoever asks once.
    pub fn policy() -> Self {
        let kinds = Kind::FELIX.into_iter().chain([Kind::Service]).collect();
        Self { kinds, node: NodeName::from(""), overrides: BTreeMap::new() }
    }

    /// What bird-lite on `node` needs; `overrides` may have `CALICO_ADVERTISE_CLUSTER_IPS`.
    pub fn speaker(node: NodeName, overrides: BTreeMap<String, String>) -> Self {
        Self { kinds: Kind::SPEAKER.to_vec(), node, overrides }
    }
}

/// Where to listen.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) client: Client,
    /// Kinds that are the same for all nodes come from there.
    pub(crate) typha: Option<Feed>,
}

impl Source {
    /// Events of kinds, for who lives on `node`.
    fn events(&self, kinds: Vec<Kind>, node: &NodeName) -> Vec<EventStream> {
        let (shared, own): (Vec<Kind>, Vec<Kind>) =
            kinds.into_iter().partition(|kind| self.typha.is_some() && kind.shared_name().is_some());
        let own = own.into_iter().map(|kind| sources::watch(self.client.clone(), kind, node));
        let mut all: Vec<EventStream> = own.collect();
        if let Some(typha) = self.typha.as_ref().filter(|_| !shared.is_empty()) {
            let decoders: BTreeMap<Kind, _> =
                shared.iter().map(|kind| (*kind, sources::decoder(*kind))).collect();
            let events =
                stream::unfold((typha.subscribe(shared), decoders), |(mut raw, decoders)| async move {
                    loop {
                        let (kind, event) = raw.recv().await?;
                        if let Some(decode) = decoders.get(&kind) {
                            return Some(((kind, decode(event)), (raw, decoders)));
                        }
                    }
                });
            all.push(events.boxed());
        }
        all
    }
}

/// Starts to watch; the task ends when the receiver is dropped.
///
/// Connection losses, restarts of the API server and expired revisions are dealt with inside: the stream has no
/// end and no error. A slow receiver slows the watch down instead of filling memory.
pub(crate) fn spawn(source: Source, interest: Interest) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(CHANNEL);
    tokio::spawn(async move {
        let Interest { mut kinds, node, overrides } = interest;
        kinds.sort();
        kinds.dedup();
        let mut tracker = Tracker::new(Viewer { node: node.clone(), overrides }, kinds.iter().copied());
        run(&mut tracker, &source, &node, &sender).await;
    });
    receiver
}

/// Everything as it is now, also of kinds that are watched on demand.
///
/// As patient as a watch: whoever calls sets a limit.
pub(crate) async fn snapshot(client: Client, interest: Interest) -> Vec<Update> {
    let source = Source { client, typha: None };
    let Interest { mut kinds, node, overrides } = interest;
    kinds.sort();
    kinds.dedup();
    let mut tracker = Tracker::new(Viewer { node: node.clone(), overrides }, kinds.iter().copied());
    tracker.wake(|_| true);
    let mut updates = Vec::new();
    let mut events: SelectAll<EventStream> = SelectAll::new();
    while !tracker.is_in_sync() {
        events.extend(source.events(tracker.take_woken(), &node));
        let Some((kind, event)) = events.next().await else { break };
        tracker.handle(kind, event, &mut updates);
    }
    updates
}

/// Updates that wait for the receiver.
const CHANNEL: usize = 256;

async fn run(tracker: &mut Tracker, source: &Source, node: &NodeName, sender: &mpsc::Sender<Update>) {
    let mut updates = Vec::new();
    let mut events: SelectAll<EventStream> = SelectAll::new();
    loop {
        events.extend(source.events(tracker.take_woken(), node));
        let next = tokio::select! {
            next = events.next() => next,
            () = sender.closed() => return,
        };
        let Some((kind, event)) = next else { return };
        if matches!(event, Event::Missing) && !tracker.is_in_sync() && !kind.is_optional() {
            tracing::warn!(
                ?kind,
                "the API server does not know this kind, it counts as empty: apply manifests/crds.yaml"
            );
        }
        tracker.handle(kind, event, &mut updates);
        for update in updates.drain(..) {
            if sender.send(update).await.is_err() {
                return;
            }
        }
    }
}

/// Waits between attempts: a tenth of a second at first, doubled up to five seconds, with some spread so that a
/// thousand nodes do not come back at once.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    next: Duration,
    spread: u32,
    /// The API server does not know the kind, and need not: there is no hurry.
    absent: Arc<AtomicBool>,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(5);
    const ABSENT: Duration = Duration::from_secs(30);

    pub(crate) fn new() -> Self {
        // The process number differs between nodes well enough.
        Self { next: Self::FIRST, spread: std::process::id(), absent: Arc::default() }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = match self.absent.load(Ordering::Relaxed) {
            true => Self::ABSENT,
            false => self.next,
        };
        self.next = (self.next * 2).min(Self::LAST);
        self.spread = self.spread.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(wait + wait * (self.spread >> 24) / 512)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}
