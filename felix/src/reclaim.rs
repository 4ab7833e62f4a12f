//! Takes back what nobody on this node uses any more: addresses, empty blocks, endpoints and links whose container
//! is gone. Answers, when the cluster asks, that this node lives.
//!
//! In two phases: what seems unused is a suspect first, and what was a suspect for the whole grace period is judged
//! by this node's own interfaces and endpoints once more, and by its Pod's object. What the API server says can keep
//! an address; that it says nothing takes none. The rules are `ipam::gc`'s.

mod adds;
mod ground;
mod suspected;
mod watched;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use ipam::gc::{Allocation, Leak, OwnTruth, PodAnswer, Suspects, User, is_idle, is_used_by, own_suspects};
use model::{AffinityState, Cidr, PodKey, Update};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::cluster::OwnNode;
use crate::endpoint_store::{StoredEndpoint, handle};
use crate::metrics::Metrics;

pub use adds::Adds;
pub use ground::NodeGround;
pub use suspected::Suspected;
pub use watched::Watched;

/// What a node sees of its own, and what it does about it.
pub trait Ground: Send + Sync + 'static {
    /// Interfaces, endpoints, ADDs and DELs as they are now.
    ///
    /// # Errors
    /// When the kernel or the files cannot be read: then nothing is known.
    fn look(&self) -> io::Result<View>;
    /// Is this network namespace still there, or where nobody can see it?
    fn is_netns(&self, netns: &str) -> bool;
    /// How long something must seem unused, if the cluster's settings say so.
    fn leak_grace(&self) -> impl Future<Output = Result<Option<Duration>>> + Send;
    /// What the API server says of a Pod.
    fn pod(&self, key: &PodKey) -> impl Future<Output = Result<PodAnswer>> + Send;
    /// May IPAM be written to?
    fn is_ready(&self) -> impl Future<Output = Result<bool>> + Send;
    /// Frees addresses of one handle unless an ADD for it has begun; nobody has used them for `idle` seconds.
    fn take_back(
        &self,
        handle: &str,
        leaks: &[Leak],
        idle: u64,
    ) -> impl Future<Output = Result<usize>> + Send;
    /// Gives up an empty block.
    fn release_block(&self, cidr: Cidr) -> impl Future<Output = Result<()>> + Send;
    /// Says that this node lives.
    fn answer(&self) -> impl Future<Output = Result<()>> + Send;
    /// Does what a DEL would have done.
    fn take_down(&self, endpoint: &StoredEndpoint);
    /// Takes a link out of service, to be deleted.
    fn retire(&self, link: &str) -> io::Result<()>;
}

/// What [`Ground::look`] saw.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub truth: OwnTruth,
    pub endpoints: Vec<StoredEndpoint>,
    /// Links of pods, in service or not: name and the container that they are of.
    pub links: BTreeMap<String, String>,
}

impl View {
    /// Is there a pod on this node?
    fn has_pods(&self) -> bool {
        !self.endpoints.is_empty() || !self.links.is_empty()
    }
}

/// See the module.
pub struct Reclaimer<G> {
    pub ground: G,
    /// Filled by whoever follows the datastore.
    pub watched: Arc<Mutex<Watched>>,
    /// Wakes [`run`](Self::run) when something is asked.
    pub asked: Arc<Notify>,
    /// What is suspected, for whoever asks.
    pub suspected: Arc<Mutex<Suspected>>,
    pub metrics: Arc<Metrics>,
    grace: Duration,
    /// Nobody decided it on this node: what the cluster's settings say counts, as they were read at this time.
    asks_grace: bool,
    asked_grace: Option<Instant>,
    addresses: Suspects<String, Vec<Leak>>,
    blocks: Suspects<Cidr, u64>,
    claims: Suspects<Cidr, &'static str>,
    endpoints: Suspects<String, ()>,
    links: Suspects<String, String>,
}

/// Suspects that are dealt with in one look; the others wait for the next.
const BATCH: usize = 64;
/// How long something must seem unused where nobody says anything: longer than any ADD takes.
const GRACE: Duration = Duration::from_secs(300);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Notes an update; true when this node is asked whether it lives.
pub fn observe(watched: &Mutex<Watched>, update: &Update) -> bool {
    let mut watched = watched.lock();
    watched.observe(update);
    matches!(update, Update::BlockAffinity(..)) && watched.is_asked()
}

impl<G: Ground> Reclaimer<G> {
    /// Suspects are confirmed after `grace`, else after what the cluster's settings say; zero takes nothing back.
    pub fn new(
        ground: G,
        watched: Arc<Mutex<Watched>>,
        metrics: Arc<Metrics>,
        decided: Option<Duration>,
    ) -> Self {
        let grace = decided.unwrap_or(GRACE);
        Self {
            ground,
            watched,
            asked: Arc::default(),
            suspected: Arc::default(),
            metrics,
            grace,
            asks_grace: decided.is_none(),
            asked_grace: None,
            addresses: Suspects::new(grace),
            blocks: Suspects::new(grace),
            claims: Suspects::new(grace),
            endpoints: Suspects::new(grace),
            links: Suspects::new(grace),
        }
    }

    /// Looks now and then, once everything has been listed; never returns.
    pub async fn run(mut self, mut own: watch::Receiver<OwnNode>) {
        if own.wait_for(|own| own.in_sync).await.is_err() {
            return;
        }
        let asked = self.asked.clone();
        loop {
            self.turn(Instant::now()).await;
            let pause = (self.grace / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            tokio::select! {
                () = asked.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look, and what follows from it.
    pub async fn turn(&mut self, now: Instant) {
        let view = match self.ground.look() {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(%error, "cannot see what is in use on this node; nothing is taken back");
                return self.forget();
            }
        };
        self.say_that_we_live(&view).await;
        self.ask_grace(now).await;
        let found = self.find(now, &view);
        self.metrics.ipam_suspects.set(i64::try_from(self.addresses.len()).unwrap_or(i64::MAX));
        self.suspected.lock().set(self.grace, &self.addresses);
        if found.is_empty() {
            return;
        }
        match self.ground.is_ready().await {
            Ok(true) => self.act(found).await,
            Ok(false) => tracing::info!("the datastore is not ready (datastoreReady); nothing is taken back"),
            Err(error) => tracing::warn!(%error, "nothing is taken back, it is tried again"),
        }
    }

    /// Reads the cluster's settings where they count, while there is somebody to suspect.
    async fn ask_grace(&mut self, now: Instant) {
        let is_recent = self.asked_grace.is_some_and(|at| now.saturating_duration_since(at) < LONGEST_PAUSE);
        if !self.asks_grace || self.addresses.is_empty() || is_recent {
            return;
        }
        let grace = match self.ground.leak_grace().await {
            Ok(grace) => grace.unwrap_or(GRACE),
            Err(error) => return tracing::debug!(%error, "the settings of garbage collection are not known"),
        };
        self.asked_grace = Some(now);
        self.grace = grace;
        self.addresses.set_grace(grace);
        self.blocks.set_grace(grace);
        self.claims.set_grace(grace);
        self.endpoints.set_grace(grace);
        self.links.set_grace(grace);
    }

    /// Whoever looked cannot be trusted: what was found before counts no more.
    fn forget(&mut self) {
        self.addresses.clear_all();
        self.blocks.clear_all();
        self.claims.clear_all();
        self.endpoints.clear_all();
        self.links.clear_all();
        self.suspected.lock().set(self.grace, &self.addresses);
    }

    /// A node without a Node object and without pods has nothing to say: it is to be forgotten.
    async fn say_that_we_live(&self, view: &View) {
        let must = {
            let watched = self.watched.lock();
            watched.is_asked() && (watched.has_node() || view.has_pods())
        };
        if must && let Err(error) = self.ground.answer().await {
            tracing::warn!(%error, "cannot tell the cluster that this node lives");
        }
    }

    fn find(&mut self, now: Instant, view: &View) -> Found {
        let watched = self.watched.lock();
        let own = watched.own().cloned().collect::<Vec<_>>();
        let suspects = own_suspects(own, &view.truth, |allocation| {
            watched.has_pod(allocation)
                || allocation.netns.as_deref().is_some_and(|netns| self.ground.is_netns(netns))
        });
        let cooldown = watched.cooldown();
        let spare = watched.spare(|block| is_idle(block, nanoseconds(), cooldown));
        let claims = watched.stale_claims();
        let is_stale = |endpoint: &&StoredEndpoint| {
            !view.links.contains_key(&endpoint.host_interface)
                && !watched.knows_pod(&endpoint.pod_key(), &endpoint.uid)
        };
        let endpoints = view.endpoints.iter().filter(is_stale).map(|e| (e.container_id.clone(), ()));
        // Both halves of a handle, `<network>.<container ID>`, may have dots in them.
        let ends = view
            .truth
            .handles
            .iter()
            .flat_map(|handle| handle.match_indices('.').map(move |(dot, _)| &handle[dot + 1..]));
        let stored = view.endpoints.iter().map(|endpoint| endpoint.container_id.as_str());
        let known: HashSet<&str> = stored.chain(ends).collect();
        let is_lost = |container: &str| !known.contains(container);
        let links = view.links.iter().filter(|(_, container)| is_lost(container));
        let links = links.map(|(link, container)| (link.clone(), container.clone()));
        Found {
            addresses: self.addresses.look(now, suspects),
            blocks: self.blocks.look(now, spare.iter().map(|spare| (spare.cidr, spare.sequence_number))),
            claims: self.claims.look(now, claims.into_iter().map(|(cidr, state)| (cidr, word(state)))),
            endpoints: {
                let gone = self.endpoints.look(now, endpoints);
                let gone: HashSet<&str> = gone.iter().map(|(id, ())| id.as_str()).collect();
                let is_gone = |e: &&StoredEndpoint| gone.contains(e.container_id.as_str());
                view.endpoints.iter().filter(is_gone).cloned().collect()
            },
            links: self.links.look(now, links),
        }
    }

    async fn act(&mut self, found: Found) {
        for (handle, leaks) in found.addresses.into_iter().take(BATCH) {
            match self.take_back(&handle, &leaks).await {
                Ok(0) => {}
                Ok(freed) => {
                    let addresses: Vec<_> = leaks.iter().map(|leak| leak.address).collect();
                    tracing::info!(handle, ?addresses, "addresses that nobody uses taken back");
                    self.metrics.ipam_reclaimed.inc_by(freed as u64);
                }
                Err(error) => {
                    tracing::warn!(handle, %error, "cannot take addresses back, it is tried again");
                    continue;
                }
            }
            self.addresses.clear(&handle);
        }
        let claims = found.claims.into_iter().map(|(cidr, _)| cidr);
        for cidr in found.blocks.into_iter().map(|(cidr, _)| cidr).chain(claims).take(BATCH) {
            match self.ground.release_block(cidr).await {
                Ok(()) => tracing::info!(block = %cidr, "empty block given up"),
                Err(error) => tracing::warn!(block = %cidr, %error, "cannot give up an empty block"),
            }
            self.blocks.clear(&cidr);
            self.claims.clear(&cidr);
        }
        for endpoint in found.endpoints.into_iter().take(BATCH) {
            self.endpoints.clear(&endpoint.container_id);
            if self.is_pod_there(&endpoint).await {
                continue;
            }
            tracing::info!(pod = %endpoint.pod_key(), "pod and interface are gone; endpoint dropped");
            self.ground.take_down(&endpoint);
        }
        for (link, container) in found.links.into_iter().take(BATCH) {
            self.retire(&link, &container).await;
            self.links.clear(&link);
        }
    }

    /// Asks the API server for the Pods that the addresses were given to; what one of them uses stays.
    async fn take_back(&self, handle: &str, leaks: &[Leak]) -> Result<usize> {
        let judged: Vec<Allocation> = {
            let watched = self.watched.lock();
            let is_leak = |a: &&Allocation| leaks.contains(&Leak::of(a));
            watched.own().filter(is_leak).cloned().collect()
        };
        if self.is_used(&judged).await? {
            return Ok(0);
        }
        self.ground.take_back(handle, leaks, self.grace.as_secs()).await
    }

    async fn is_used(&self, allocations: &[Allocation]) -> Result<bool> {
        for allocation in allocations {
            if let User::Pod { key, .. } = &allocation.user
                && is_used_by(allocation, &self.ground.pod(key).await?).is_ok()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Also when nobody can be asked.
    async fn is_pod_there(&self, endpoint: &StoredEndpoint) -> bool {
        if endpoint.namespace.is_empty() {
            return false;
        }
        match self.ground.pod(&endpoint.pod_key()).await {
            Ok(PodAnswer::Present { uid, is_finished, .. }) => {
                !is_finished && (endpoint.uid.is_empty() || uid == endpoint.uid)
            }
            Ok(PodAnswer::Absent) => false,
            Err(error) => {
                tracing::warn!(pod = %endpoint.pod_key(), %error, "a stale endpoint stays for now");
                true
            }
        }
    }

    /// A link whose container has no endpoint: its ADD died half-way, and no DEL came. The addresses that were given
    /// to the container, if any, tell its Pod.
    async fn retire(&self, link: &str, container: &str) {
        let given: Vec<Allocation> = {
            let watched = self.watched.lock();
            watched.own().filter(|a| a.is_of_container(|id| id == container)).cloned().collect()
        };
        match self.is_used(&given).await {
            Ok(true) => {}
            Ok(false) => match self.ground.retire(link) {
                Ok(()) => tracing::info!(link, container, "link of no endpoint taken out of service"),
                Err(error) => {
                    tracing::warn!(link, %error, "cannot take a link of no endpoint out of service")
                }
            },
            Err(error) => tracing::warn!(link, %error, "a link of no endpoint stays for now"),
        }
    }
}

/// What was found often enough.
struct Found {
    addresses: Vec<(String, Vec<Leak>)>,
    blocks: Vec<(Cidr, u64)>,
    claims: Vec<(Cidr, &'static str)>,
    endpoints: Vec<StoredEndpoint>,
    links: Vec<(String, String)>,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.blocks.is_empty()
            && self.claims.is_empty()
            && self.endpoints.is_empty()
            && self.links.is_empty()
    }
}

fn word(state: AffinityState) -> &'static str {
    match state {
        AffinityState::Pending => "pending",
        AffinityState::Confirmed => "confirmed",
        AffinityState::PendingDeletion => "pending deletion",
    }
}

fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The handle that an endpoint's addresses have.
fn handle_of(endpoint: &StoredEndpoint) -> String {
    handle(&endpoint.network, &endpoint.container_id)
}

#[cfg(test)]
mod tests;
