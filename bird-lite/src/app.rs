//! The loop of the process. Owns the order in which the parts get their turn; decides nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::first_sessions::{FirstSessions, Session};
use crate::origin::Origins;
use crate::peer_events::PeerEvents;
use crate::peers::{Plan, Planner, RouterId};
use anyhow::Context;
use bgp::{Change, Config, Event, PeerKey, PeerState, PeerStatus, Speaker, Start};
use bgp_api::{
    BirdSocket, Console, ControlSocket, EventLog, Health, KernelRoutes, Metrics, Observers, Owner, Readiness,
    Subject, control_socket,
};
use bgp_packet::Family;
use bgp_transport::{Driver, RouterDiscovery};
use datastore::{Datastore, Interest, NodeEvent, typha};
use model::{NodeName, PodCidrBlocks, Secret, Update};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::dataplane::Dataplane;
use crate::log_level::LogLevel;
use crate::reporter;

/// Updates that are taken in before they are acted upon.
const UPDATE_BATCH: usize = 1024;
/// When a speaker that could not be started is tried again.
const START_RETRY: Duration = Duration::from_secs(2);
/// How often a port that another process holds is tried again.
const LISTEN_RETRY: Duration = Duration::from_secs(2);

/// Command line.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node_name: NodeName,
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of the Secrets that peerings refer to.
    pub(crate) namespace: String,
    pub(crate) router_id: RouterId,
    pub(crate) log_level: LogLevel,
    pub(crate) socket: PathBuf,
    /// File to record into from the speaker's start.
    pub(crate) record: Option<PathBuf>,
    /// `CALICO_ADVERTISE_CLUSTER_IPS`.
    pub(crate) advertise_cluster_ips: Option<String>,
    pub(crate) bird_socket: PathBuf,
    pub(crate) health_listen: SocketAddr,
    /// Learned routes refer to nexthop objects where the kernel has such.
    pub(crate) nexthop_objects: bool,
    /// `USE_POD_CIDR`: blocks follow from nodes.
    pub(crate) pod_cidrs: Option<PodCidrBlocks>,
    /// Typha, from which the cluster is heard in place of the API server.
    pub(crate) typha: Option<typha::Settings>,
}

/// Runs until asked to stop.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let (console, mut calls) = bgp_api::console();
    let health = Health::default();
    let metrics = Metrics::default();
    health
        .listen(settings.health_listen, console.clone(), metrics.clone())
        .await
        .with_context(|| format!("listen on {}", settings.health_listen))?;
    let _control = control_socket(&settings.socket, console.clone())
        .with_context(|| format!("listen on {}", settings.socket.display()))?;
    let _bird = bird_sockets(&settings.bird_socket, &console);
    let (dataplane, mut kernel_events) =
        Dataplane::open(settings.nexthop_objects).context("read the kernel's routes")?;
    let datastore = connect(settings.kubeconfig.as_deref(), settings.typha, &settings.node_name).await?;
    let ranges = settings.advertise_cluster_ips.map(|text| ("CALICO_ADVERTISE_CLUSTER_IPS".to_owned(), text));
    let interest = Interest::speaker(settings.node_name.clone(), ranges.into_iter().collect());
    let mut updates = datastore.watch(interest);
    let (wanted_secrets, asked) = watch::channel(BTreeSet::new());
    let mut secrets = datastore.watch_secrets(&settings.namespace, asked);
    let events = reporter::events(datastore.clone(), settings.node_name.clone());
    tokio::spawn(reporter::statuses(datastore.clone(), settings.node_name.clone(), console.clone()));
    let mut app = App {
        metrics,
        unwritten_since: None,
        event_log: EventLog::default(),
        peer_events: PeerEvents::default(),
        events,
        observers: calls.observers().clone(),
        record: settings.record,
        cluster: Cluster::new(settings.node_name).with_namespace(settings.namespace),
        pod_cidrs: settings.pod_cidrs,
        dataplane,
        driver: None,
        start_retry: None,
        discovery: None,
        links: BTreeSet::new(),
        planner: Planner::new(settings.router_id),
        log_level: settings.log_level,
        origins: Origins::default(),
        secrets: wanted_secrets,
        wanted_secrets: BTreeSet::new(),
        plan_problems: Vec::new(),
        listen_problems: Vec::new(),
        listen_retry: None,
        health,
        first_sessions: FirstSessions::default(),
        started: now(),
        reconfigured: None,
    };
    app.report_health();
    loop {
        let deadline = app.deadline();
        tokio::select! {
            update = updates.recv() => match update {
                Some(update) => app.updates(update, &mut updates),
                None => anyhow::bail!("the watch of the cluster has ended"),
            },
            Some(secret) = secrets.recv() => app.secret(secret),
            () = turn(&mut app.driver) => {}
            () = changed(&mut app.discovery) => app.heard_routers(),
            Some(events) = kernel_events.recv() => app.dataplane.events(&app.cluster, events, now()),
            call = calls.next() => app.call(call),
            () = sleep_until(deadline) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        app.carry_on();
        if let Some(driver) = &mut app.driver {
            app.observers.look(driver.speaker_mut());
        }
    }
    tracing::info!("stopping; routes stay, peers keep ours by graceful restart");
    Ok(())
}

/// The cluster is heard from typha, if there is one.
async fn connect(
    kubeconfig: Option<&Path>,
    typha: Option<typha::Settings>,
    node: &NodeName,
) -> anyhow::Result<Datastore> {
    let datastore = Datastore::connect(kubeconfig).await.context("connect to the cluster")?;
    Ok(match typha {
        Some(typha) => datastore.through_typha(typha, node, "bird-lite"),
        None => datastore,
    })
}

/// What only serves those who are used to BIRD must not keep the node from its routes.
fn bird_sockets(path: &Path, console: &Console) -> Vec<ControlSocket> {
    let sockets = [(path.to_owned(), Family::Ipv4), (path.with_file_name("bird6.ctl"), Family::Ipv6)];
    let bind = |(path, family): (PathBuf, Family)| {
        let bound = BirdSocket::bind(&path, Some(family), console.clone());
        bound.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "no socket for birdc")).ok()
    };
    sockets.into_iter().filter_map(bind).collect()
}

async fn turn(driver: &mut Option<Driver>) {
    match driver {
        Some(driver) => driver.turn().await,
        None => std::future::pending().await,
    }
}

async fn changed(discovery: &mut Option<RouterDiscovery>) {
    match discovery {
        Some(discovery) => discovery.changed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    Instant::now()
}

struct App {
    metrics: Metrics,
    /// When the first change of the table came that may not be in the kernel yet.
    unwritten_since: Option<Instant>,
    event_log: EventLog,
    peer_events: PeerEvents,
    events: mpsc::Sender<NodeEvent>,
    observers: Observers,
    /// Where to record as soon as there is a speaker.
    record: Option<PathBuf>,
    cluster: Cluster,
    /// Makes blocks of what the cluster gave nodes for their pods, where these are the blocks.
    pod_cidrs: Option<PodCidrBlocks>,
    dataplane: Dataplane,
    /// `None` until the cluster and this node's address are known.
    driver: Option<Driver>,
    /// When a start that failed is tried again.
    start_retry: Option<Instant>,
    /// Hears routers while some peering needs it.
    discovery: Option<RouterDiscovery>,
    /// Links on which routers are to be heard.
    links: BTreeSet<String>,
    planner: Planner,
    log_level: LogLevel,
    origins: Origins,
    /// Says which Secrets are to be read.
    secrets: watch::Sender<BTreeSet<String>>,
    wanted_secrets: BTreeSet<String>,
    /// What the cluster asks for and does not get.
    plan_problems: Vec<String>,
    listen_problems: Vec<String>,
    listen_retry: Option<Instant>,
    health: Health,
    first_sessions: FirstSessions,
    started: Instant,
    reconfigured: Option<Instant>,
}

impl App {
    fn updates(&mut self, first: Update, rest: &mut mpsc::Receiver<Update>) {
        let mut next = Some(first);
        for _ in 0..UPDATE_BATCH {
            let Some(update) = next else { break };
            self.apply(update);
            next = rest.try_recv().ok();
        }
        if let Some(update) = next {
            self.apply(update);
        }
        self.reconcile();
    }

    fn apply(&mut self, update: Update) {
        match &mut self.pod_cidrs {
            Some(blocks) => blocks.apply(update).into_iter().for_each(|update| self.cluster.apply(update)),
            None => self.cluster.apply(update),
        }
    }

    /// Takes over what a Secret says.
    fn secret(&mut self, (name, secret): (String, Secret)) {
        if self.wanted_secrets.contains(&name) {
            self.cluster.apply(Update::Secret(name, Some(secret)));
            self.reconcile();
        }
    }

    /// Brings speaker and kernel to what the cluster says, by what has changed.
    fn reconcile(&mut self) {
        if !self.cluster.in_sync {
            return;
        }
        let now = now();
        let mut changes = self.cluster.take_changes();
        if changes.is_empty() {
            return;
        }
        let is_new = self.driver.is_none();
        self.log_level.set(self.cluster.configuration.log_severity);
        if changes.peers || is_new || !self.replan_nodes(&changes.nodes, now) {
            self.replan(now);
            changes.all_routes |= self.cluster.take_changes().all_routes;
        }
        let Some(driver) = &mut self.driver else { return };
        let all = changes.all_routes || is_new;
        for (prefix, route) in self.origins.update(&self.cluster, &changes.prefixes, all) {
            match route {
                Some(origin) => driver.speaker_mut().originate(prefix, origin),
                None => driver.speaker_mut().withdraw(prefix),
            }
        }
        if all {
            self.dataplane.decide_all(&self.cluster);
            self.listen(now);
        } else {
            if changes.ways {
                self.dataplane.ways_changed(&self.cluster);
            }
            self.dataplane.decide_some(&self.cluster, &changes.prefixes);
        }
    }

    /// Takes over that some other nodes came, went or changed. Gives back whether that is all that there is to do.
    fn replan_nodes(&mut self, nodes: &BTreeSet<NodeName>, now: Instant) -> bool {
        if nodes.is_empty() {
            return true;
        }
        let (Some(driver), Some(changes)) = (&mut self.driver, self.planner.changes(&self.cluster, nodes))
        else {
            return false;
        };
        let changes = driver.speaker_mut().reconfigure_peers(changes, now);
        if !changes.is_empty() {
            self.reconfigured = Some(now);
        }
        changes.into_iter().for_each(log_change);
        true
    }

    /// Brings the speaker's configuration to what the cluster says; starts the speaker once there is one.
    fn replan(&mut self, now: Instant) {
        let Some(plan) = self.planner.plan(&self.cluster) else {
            if self.driver.is_none() {
                tracing::warn!(node = %self.cluster.node_name, "waiting for the Node and its address");
            }
            return;
        };
        let Plan { config, secrets, gateways, links, pod_links, problems } = plan;
        problems.iter().filter(|p| !self.plan_problems.contains(p)).for_each(|p| tracing::warn!("{p}"));
        self.plan_problems = problems;
        self.want_secrets(secrets);
        self.cluster.set_gateways(gateways);
        self.dataplane.set_peering(pod_links, self.cluster.configuration.local_workload_peering().collect());
        self.links = links;
        self.discover(now);
        match &mut self.driver {
            Some(driver) => {
                for change in driver.speaker_mut().reconfigure(config, now) {
                    self.reconfigured = Some(now);
                    log_change(change);
                }
            }
            None => self.start(config, now),
        }
    }

    fn start(&mut self, config: Config, now: Instant) {
        let forwarding_kept = self.dataplane.has_adopted();
        tracing::info!(asn = config.asn, router_id = %config.router_id, forwarding_kept, "speaker starts");
        let start = Start { seed: seed(), forwarding_kept, report_routes: true, track_next_hops: true };
        if !forwarding_kept {
            self.dataplane.allow_sweep();
        }
        let mut speaker = Speaker::new(config, start, now);
        if let Some(path) = self.record.take()
            && let Err(error) = self.observers.recording().start(&path, &mut speaker, now)
        {
            tracing::error!(path = %path.display(), %error, "cannot record");
        }
        match Driver::new(speaker) {
            Ok(driver) => self.driver = Some(driver),
            Err(error) => {
                tracing::error!(%error, "cannot start the speaker");
                self.start_retry = Some(now + START_RETRY);
            }
        }
    }

    /// Listens for routers on the links that peerings name and that are there.
    fn discover(&mut self, now: Instant) {
        if self.links.is_empty() {
            self.discovery = None;
            return self.cluster.set_routers(BTreeMap::new());
        }
        if self.discovery.is_none() {
            match RouterDiscovery::new() {
                Ok(discovery) => self.discovery = Some(discovery),
                Err(error) => return tracing::error!(%error, "cannot hear routers on links"),
            }
        }
        let Some(discovery) = &mut self.discovery else { return };
        let indexes = self.dataplane.link_indexes();
        discovery.set_links(self.links.iter().filter_map(|name| indexes.get(name).copied()), now);
    }

    /// Takes over which routers were heard.
    fn heard_routers(&mut self) {
        let Some(discovery) = &self.discovery else { return };
        let routers = discovery.routers();
        let indexes = self.dataplane.link_indexes().into_iter();
        let known = indexes
            .filter_map(|(name, index)| Some((name, PeerKey::new(IpAddr::V6(*routers.get(&index)?), index))));
        self.cluster.set_routers(known.filter(|(name, _)| self.links.contains(name)).collect());
        self.reconcile();
    }

    /// Tries again what failed for lack of a descriptor.
    fn start_again(&mut self, now: Instant) {
        self.replan(now);
        let Some(driver) = &mut self.driver else { return };
        for (prefix, origin) in self.origins.update(&self.cluster, &BTreeSet::new(), true) {
            if let Some(origin) = origin {
                driver.speaker_mut().originate(prefix, origin);
            }
        }
        self.dataplane.decide_all(&self.cluster);
        self.listen(now);
    }

    /// Secrets that no session refers to are forgotten and no longer read.
    fn want_secrets(&mut self, wanted: BTreeSet<String>) {
        if wanted == self.wanted_secrets {
            return;
        }
        self.secrets.send_replace(wanted.clone());
        for name in self.wanted_secrets.difference(&wanted) {
            self.cluster.apply(Update::Secret(name.clone(), None));
        }
        self.wanted_secrets = wanted;
    }

    fn listen(&mut self, now: Instant) {
        let Some(driver) = &mut self.driver else { return };
        let addresses = self.cluster.listen_addresses();
        let problems = match driver.listen(&addresses) {
            Ok(()) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        };
        // A kernel without IPv6 is no problem as long as IPv4 is listened on, and the other way round.
        let problems = if driver.listening().next().is_some() { Vec::new() } else { problems };
        if problems != self.listen_problems {
            problems.iter().for_each(|problem| tracing::error!("{problem}"));
        }
        self.listen_retry = (!problems.is_empty()).then(|| now + LISTEN_RETRY);
        self.listen_problems = problems;
    }

    fn deadline(&self) -> Option<Instant> {
        let timers =
            [self.dataplane.deadline(), self.listen_retry, self.start_retry, self.peer_events.deadline()];
        timers.into_iter().chain([self.first_sessions.deadline()]).flatten().min()
    }

    /// Takes what the speaker has to say to the kernel, and lets the kernel's side work.
    fn carry_on(&mut self) {
        let now = now();
        if self.listen_retry.is_some_and(|at| at <= now) {
            self.listen(now);
        }
        if self.start_retry.is_some_and(|at| at <= now) {
            self.start_retry = None;
            self.start_again(now);
        }
        if let Some(driver) = &mut self.driver {
            self.dataplane.answer(driver.speaker_mut());
            while let Some((prefix, route)) = driver.speaker_mut().poll_route() {
                self.unwritten_since.get_or_insert(now);
                self.dataplane.learn(&self.cluster, prefix, route);
            }
            while let Some(event) = driver.speaker_mut().poll_event() {
                if event == Event::RestartComplete {
                    self.dataplane.allow_sweep();
                }
                self.peer_events.note(&event, now);
                self.event_log.log(&event, now);
            }
            for event in self.peer_events.take(now) {
                // What nobody can take in time is lost: the log has it.
                let _ = self.events.try_send(event);
            }
            self.dataplane.work(&self.cluster, now);
            if self.dataplane.take_links_changed() {
                self.discover(now);
            }
            if self.unwritten_since.is_some() && self.dataplane.pending().is_empty() {
                let took = self.unwritten_since.take().map(|since| since.elapsed());
                took.into_iter().for_each(|took| self.metrics.observe_update_to_kernel(took));
            }
        }
        self.report_health();
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.listen_problems.clone();
        if !self.cluster.in_sync {
            problems.push("the API server has not been heard yet".to_owned());
        } else if self.cluster.node().is_none() {
            problems.push(format!("the cluster has no Node named {}", self.cluster.node_name));
        } else if self.driver.is_none() {
            problems.push(format!("Node {} has no address yet", self.cluster.node_name));
        }
        problems
    }

    fn report_health(&mut self) {
        let mut reasons = self.problems();
        if let Some(driver) = &mut self.driver {
            let speaker = driver.speaker_mut();
            reasons.extend_from_slice(self.first_sessions.look(now(), || first_sessions(speaker)));
        }
        if reasons.is_empty() && !self.dataplane.is_synced() {
            reasons.push("kernel routes have not been written yet".to_owned());
        }
        self.health.set(Readiness { ready: reasons.is_empty(), reasons });
    }

    fn call(&mut self, call: bgp_api::Call) {
        let owner = Owner {
            node: self.cluster.node_name.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            started: Some(self.started),
            reconfigured: self.reconfigured,
            listening: self.driver.iter().flat_map(Driver::listening).collect(),
            kernel: Some(KernelRoutes { written: self.dataplane.count(), pending: self.dataplane.pending() }),
            problems: [self.problems(), self.plan_problems.clone()].concat(),
        };
        let speaker = self.driver.as_mut().map(Driver::speaker_mut);
        call.run(Subject { speaker, owner, now: now() });
    }
}

/// The sessions of peers that the configuration names.
fn first_sessions(speaker: &Speaker) -> Vec<Session> {
    let peers = speaker.peers().into_iter().filter(|peer| !peer.dynamic && !peer.retiring);
    let session = |peer: PeerStatus| {
        let is_up = peer.state == PeerState::Established;
        Session { peer: peer.peer, kind: peer.kind, cause: (!is_up).then(|| peer.cause.to_string()) }
    };
    peers.map(session).collect()
}

fn log_change(change: Change) {
    match change {
        Change::PeerUpdated(peer) => tracing::debug!(%peer, "settings changed"),
        change => tracing::info!(?change, "configuration"),
    }
}

/// Spreads the timers of nodes that start at once.
fn seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    time.as_nanos() as u64 ^ u64::from(std::process::id()) << 32
}
