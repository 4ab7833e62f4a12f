//! The dataplane's own thread: carries what the datastore, the CNI plugin and the kernel say to the calculation,
//! the renderer and the dataplane, and their outcome to whoever waits for it. Decides nothing itself.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use felix_calc::{Calc, Change, ClosedReason, EndpointPolicies};
use felix_dataplane::{Dataplane, EndpointState, Ownership, Ports, Refresh, Touched};
use felix_render::{Renderer, RuleDataplane, policy_chains};
use kernel::Link;
use model::{
    FelixConfiguration, HostInterface, LocalEndpoint, NodeName, SettingNote, SettingReason, SettingSource,
    Update,
};
use tokio::sync::{oneshot, watch};

use crate::backend::Backends;
use crate::command::{Command, Waiter};
use crate::connections::Connections;
use crate::health::{Component, Health};
use crate::journal::Journal;
use crate::metrics::AddStage;
use crate::mtu::Encapsulation;
use crate::pod_mtus::PodMtus;
use crate::pod_options::PodOptions;
use crate::policy_status::{PolicyStatus, Surroundings};
use crate::rule_mode::RuleMode;
use crate::service::PodSettings;
use crate::settings::Overrides;
use crate::shaper::Shaper;
use crate::strict::Strict;
use crate::wireguard::OwnKeys;
use crate::worker::strangers::Strangers;
use crate::worker::turn::Turn;

/// How long to wait for more news from the datastore before writing what came so far.
const COALESCE: Duration = Duration::from_millis(3);
/// Why a node is not ready on which only nftables would work.
const NO_WAY: &str = "nftablesMode is Disabled, but iptables or IP sets do not work on this node";

/// Everything that the thread starts with.
pub struct Parts<P: Ports> {
    pub node: NodeName,
    pub renderer: Renderer,
    pub dataplane: Dataplane<P>,
    pub overrides: Overrides,
    /// Endpoints of an earlier run.
    pub endpoints: Vec<LocalEndpoint>,
    /// Reads all links with their addresses.
    pub links: Box<dyn FnMut() -> io::Result<Vec<Link>> + Send>,
    pub connections: Connections,
    pub backends: Backends<P::Iptables>,
    pub strict: Strict,
    pub shaper: Shaper,
    pub pod_mtus: PodMtus,
    pub policies: PolicyStatus,
    pub rule_mode: RuleMode,
    pub health: Health,
    pub journal: Journal,
    /// Where the other parts of the agent learn what the thread finds out.
    pub published: Published,
}

/// What the thread finds out for the other parts of the agent.
pub struct Published {
    /// The node's own links, without those of pods.
    pub links: watch::Sender<Arc<Vec<Link>>>,
    pub configuration: watch::Sender<Arc<FelixConfiguration>>,
    pub pod_settings: Box<dyn Fn(PodSettings) + Send>,
    /// By what other nodes may know this one's WireGuard.
    pub wireguard_keys: watch::Sender<OwnKeys>,
}

/// The thread's state.
pub struct Worker<P: Ports> {
    calc: Calc,
    renderer: Renderer,
    dataplane: Dataplane<P>,
    overrides: Overrides,
    read_links: Box<dyn FnMut() -> io::Result<Vec<Link>> + Send>,
    connections: Connections,
    strangers: Strangers,
    backends: Backends<P::Iptables>,
    policies: PolicyStatus,
    pod_options: PodOptions,
    shaper: Shaper,
    pod_mtus: PodMtus,
    /// When the oldest news came that is not in the kernel yet.
    arrived: Option<Instant>,
    strict: Strict,
    /// Pods whose connections are to be compared with policy as soon as the kernel has it.
    touched: BTreeSet<HostInterface>,
    rule_mode: RuleMode,
    health: Health,
    journal: Journal,
    published: Published,
    node: NodeName,
    configuration: Arc<FelixConfiguration>,
    node_addresses: Vec<IpAddr>,
    host_links: Arc<Vec<Link>>,
    pod_link_indexes: HashSet<u32>,
    /// When the links are to be looked at again.
    links_at: Option<Instant>,
    /// What pools may put around packets.
    encapsulations: BTreeSet<Encapsulation>,
    in_sync: bool,
    is_first: bool,
    /// Was the dataplane said to be ready?
    is_ready: bool,
    closed: BTreeMap<HostInterface, ClosedReason>,
    waiting: BTreeMap<HostInterface, Vec<oneshot::Sender<Instant>>>,
    turn: Turn,
    inspections: Vec<(HostInterface, oneshot::Sender<EndpointState>)>,
}

impl<P: Ports> Worker<P> {
    pub fn new(parts: Parts<P>) -> Self {
        let configuration = Arc::new(parts.overrides.apply(FelixConfiguration::default()));
        let mut worker = Self {
            calc: Calc::new(parts.node.clone()),
            renderer: parts.renderer,
            dataplane: parts.dataplane,
            overrides: parts.overrides,
            read_links: parts.links,
            connections: parts.connections,
            strangers: Strangers::default(),
            backends: parts.backends,
            strict: parts.strict,
            policies: parts.policies,
            pod_options: PodOptions::default(),
            shaper: parts.shaper,
            pod_mtus: parts.pod_mtus,
            arrived: None,
            touched: BTreeSet::new(),
            rule_mode: parts.rule_mode,
            health: parts.health,
            journal: parts.journal,
            published: parts.published,
            node: parts.node,
            configuration,
            node_addresses: Vec::new(),
            host_links: Arc::default(),
            pod_link_indexes: HashSet::new(),
            links_at: Some(Instant::now()),
            encapsulations: BTreeSet::new(),
            in_sync: false,
            is_first: true,
            is_ready: false,
            closed: BTreeMap::new(),
            waiting: BTreeMap::new(),
            turn: Turn::begin(Instant::now()),
            inspections: Vec::new(),
        };
        for endpoint in parts.endpoints {
            worker.connections.up(&endpoint);
            worker.pod_mtus.up(&endpoint.interface, Instant::now());
            for update in worker.strangers.up(&endpoint, &worker.node) {
                worker.calc.apply(update);
            }
            worker.calc.set_local_endpoint(endpoint.interface.clone(), Some(endpoint));
        }
        worker.configure(None);
        worker
    }

    /// Works until told to stop; the kernel is left as it is.
    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            if !self.in_sync {
                self.look_at_links(Instant::now());
            }
            let Some(batch) = receive(commands, self.poll_timeout()) else { return };
            self.health.dataplane_busy(Instant::now());
            for command in batch {
                if matches!(command, Command::Stop) {
                    self.health.dataplane_idle();
                    return;
                }
                self.handle(command, Instant::now());
            }
            self.look_at_links(Instant::now());
            if self.in_sync {
                self.apply();
            }
            self.answer();
            self.health.dataplane_idle();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let dataplane = self.dataplane.poll_timeout().filter(|_| self.in_sync);
        let mtus = self.pod_mtus.poll_timeout().filter(|_| self.in_sync);
        [dataplane, self.links_at, self.shaper.poll_timeout(), mtus].into_iter().flatten().min()
    }

    fn handle(&mut self, command: Command, now: Instant) {
        match command {
            Command::Updates(updates, arrived) => {
                self.arrived = Some(self.arrived.map_or(arrived, |earlier| earlier.min(arrived)));
                updates.into_iter().for_each(|update| self.update(update));
            }
            Command::EndpointUp { endpoint, waiter } => {
                if let Some(waiter) = &waiter {
                    self.journal.add_stage(AddStage::Queue, now.saturating_duration_since(waiter.since));
                }
                self.endpoint_up(endpoint, waiter, now);
            }
            Command::EndpointDown(interface) => self.endpoint_down(interface),
            Command::Inspect { interface, reread, reply } => {
                if reread {
                    self.dataplane.resync(now);
                    self.shaper.recheck(&interface);
                }
                self.inspections.push((interface, reply));
            }
            Command::Rules(events) => {
                events.into_iter().for_each(|event| self.dataplane.rules_written(event, now));
            }
            Command::Hinted(hinted) => {
                self.backends.hint(hinted);
                self.change_backend(now);
            }
            Command::KubeProxy { nftables } => {
                self.rule_mode.look(nftables);
                self.change_mode(now);
            }
            Command::Links(events) => events.into_iter().for_each(|event| self.event(event, now)),
            Command::Look(question) => question.answer(self),
            // The answers behind every turn tell those who waited for it.
            Command::Flushed | Command::Stop => {}
        }
    }

    fn endpoint_up(&mut self, endpoint: LocalEndpoint, waiter: Option<Waiter>, now: Instant) {
        let interface = endpoint.interface.clone();
        self.dataplane.link_changed(&interface);
        self.pod_mtus.up(&interface, now);
        self.connections.up(&endpoint);
        for update in self.strangers.up(&endpoint, &self.node) {
            self.calc.apply(update);
        }
        self.calc.set_local_endpoint(interface.clone(), Some(endpoint));
        if let Some(Waiter { programmed, .. }) = waiter {
            self.waiting.entry(interface).or_default().push(programmed);
        }
    }

    fn endpoint_down(&mut self, interface: HostInterface) {
        self.waiting.remove(&interface);
        self.connections.down(&interface);
        self.pod_mtus.down(&interface);
        self.strangers.down(&interface).into_iter().for_each(|update| self.calc.apply(update));
        self.calc.set_local_endpoint(interface, None);
    }

    fn update(&mut self, update: Update) {
        self.policies.update(&update);
        match update {
            Update::FelixConfiguration(cluster) => self.configure(cluster.map(|boxed| *boxed)),
            Update::InSync => {
                self.in_sync = true;
                self.change_mode(Instant::now());
                self.calc.apply(Update::InSync);
                self.health.set_ready(Component::Datastore);
                self.journal.in_sync();
            }
            Update::Node(name, node) => {
                if name == self.node {
                    let addresses = node.iter().flat_map(|node| [node.ipv4, node.ipv6]);
                    self.node_addresses = addresses.flatten().map(|address| address.address).collect();
                    self.publish_pod_settings();
                }
                self.calc.apply(Update::Node(name, node));
            }
            update => self.calc.apply(update),
        }
    }

    /// Puts the configuration in force: what the cluster says, and the environment over it.
    fn configure(&mut self, cluster: Option<FelixConfiguration>) {
        let mut configuration = self.overrides.apply(cluster.unwrap_or_default());
        let now = Instant::now();
        self.keep_prefix(&mut configuration);
        self.dataplane.set_ownership(&Ownership::from(&configuration));
        self.dataplane.set_max_set_size(configuration.max_ipset_size);
        kernel_linux::set_lock_probe_interval(configuration.iptables_lock_probe_interval);
        self.journal.settings(&configuration.notes);
        if configuration.policy_conntrack_strict && !self.configuration.policy_conntrack_strict {
            // What was let through so far was never compared.
            self.touched.extend(self.dataplane.pod_interfaces().cloned());
        }
        self.dataplane.set_refresh(Refresh::from(&configuration), now);
        if configuration.chain_insert_mode != self.configuration.chain_insert_mode || !self.in_sync {
            self.dataplane.set_insert_mode(configuration.chain_insert_mode);
        }
        self.backends.set(configuration.iptables_backend);
        self.change_backend(now);
        self.rule_mode.set(configuration.nftables_mode);
        self.change_mode(now);
        self.calc.apply(Update::FelixConfiguration(Some(Box::new(configuration.clone()))));
        self.configuration = Arc::new(configuration);
        self.published.configuration.send_replace(self.configuration.clone());
        self.publish_pod_settings();
    }

    /// Once pods have interfaces, another prefix would leave these without policy: it waits for the next start.
    fn keep_prefix(&mut self, configuration: &mut FelixConfiguration) {
        if !self.in_sync {
            return;
        }
        let present = &self.configuration.interface_prefix;
        if configuration.interface_prefix != *present {
            let value = std::mem::replace(&mut configuration.interface_prefix, present.clone());
            configuration.notes.push(SettingNote {
                name: "interfacePrefix".to_owned(),
                value,
                source: SettingSource::Default,
                reason: SettingReason::NotActedUpon(
                    "it takes force when felix restarts; drain the node before",
                ),
            });
        }
    }

    /// Moves policy to nftables or back, where that is wanted and can be.
    fn change_mode(&mut self, now: Instant) {
        let wanted = self.rule_mode.wants_nftables();
        if wanted == self.dataplane.uses_nftables() {
            return;
        }
        if !self.dataplane.use_nftables(wanted, now) {
            tracing::warn!("policy stays in iptables: this kernel takes no tables of nftables");
            return;
        }
        tracing::info!(nftables = wanted, "where policy is enforced");
        self.renderer.set_dataplane(if wanted { RuleDataplane::Nftables } else { RuleDataplane::Iptables });
    }

    fn change_backend(&mut self, now: Instant) {
        for (family, driver) in self.backends.change() {
            self.dataplane.replace_iptables(family, driver, now);
        }
    }

    fn apply(&mut self) {
        self.turn = Turn::begin(Instant::now());
        for change in self.calc.flush() {
            self.note(&change);
            self.renderer.apply(change);
        }
        let output = self.renderer.flush();
        let touched = self.configuration.policy_conntrack_strict.then(|| Touched::from(&output));
        self.dataplane.want(output);
        if let Some(touched) = touched.filter(|touched| !touched.is_empty()) {
            self.touched.extend(self.dataplane.touched_pods(&touched));
        }
        let started = Instant::now();
        self.pod_mtus.apply_smaller(started);
        let (health, turn) = (&self.health, &mut self.turn);
        turn.calculated(started);
        let report = self.dataplane.apply(started, |step| {
            let now = Instant::now();
            health.dataplane_busy(now);
            turn.stepped(step, now);
        });
        self.connections.routes_gone();
        self.shaper.apply(started);
        self.pod_mtus.apply(started);
        if report.failed.is_empty() && !self.touched.is_empty() {
            let touched = std::mem::take(&mut self.touched);
            self.strict.changed(touched.iter().flat_map(|pod| self.connections.addresses_of(pod)));
        }
        let dataplane = &self.dataplane;
        let surroundings = Surroundings {
            host_endpoints: self.renderer.governed_interfaces(),
            problems: self
                .renderer
                .problems()
                .into_iter()
                .chain(self.pod_options.problems())
                .chain(self.policies.not_understood())
                .chain(self.policies.without_tier())
                .chain(self.shaper.problems())
                .chain(self.cluster_problems())
                .collect(),
        };
        self.journal.problems(&surroundings.problems);
        self.policies.applied(surroundings, |key| {
            let mut chains = policy_chains(key).into_iter();
            chains.find_map(|chain| dataplane.missing_chain(&chain))
        });
        if report.failed.is_empty() {
            let arrived = self.arrived.take().filter(|_| !report.changed.is_empty() && !self.is_first);
            self.journal.latency(arrived.map(|arrived| arrived.elapsed()));
        }
        self.tell_wireguard_keys();
        self.journal.applied(&report, &self.dataplane, started.elapsed(), self.is_first);
        self.is_first = false;
        self.tell_readiness();
    }

    /// Tells other parts of the agent the keys that are in the kernel now.
    fn tell_wireguard_keys(&self) {
        let keys = Some(self.dataplane.wireguard_keys());
        self.published.wireguard_keys.send_if_modified(|told| {
            let is_new = *told != keys;
            told.clone_from(&keys);
            is_new
        });
    }

    /// Ready after the first write, unless policy shall go through what the node does not have.
    fn tell_readiness(&mut self) {
        let may_lack = !self.dataplane.uses_nftables() && !self.rule_mode.has_iptables();
        if may_lack && !self.dataplane.status().failing.is_empty() {
            self.health.set_unready(Component::Dataplane, NO_WAY);
            self.is_ready = false;
        } else if !std::mem::replace(&mut self.is_ready, true) {
            self.health.set_ready(Component::Dataplane);
        }
    }

    fn note(&mut self, change: &Change) {
        match change {
            Change::Endpoint(interface, endpoint) => {
                let closed = endpoint.as_ref().and_then(|endpoint| match endpoint.policies {
                    EndpointPolicies::Closed(reason) => Some(reason),
                    EndpointPolicies::Open { .. } => None,
                });
                match closed {
                    Some(reason) => self.closed.insert(interface.clone(), reason),
                    None => self.closed.remove(interface),
                };
            }
            Change::Pools(pools) => {
                self.encapsulations = Encapsulation::of_pools(pools);
                self.publish_pod_settings();
            }
            _ => {}
        }
        self.policies.change(change);
        self.pod_options.change(change);
        self.shaper.change(change);
        self.journal.change(change);
    }

    /// Tells those who wait for endpoints how these have come.
    fn answer(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|interface, waiters| {
            if self.state(interface) != EndpointState::Programmed {
                waiters.retain(|waiter| !waiter.is_closed());
                return !waiters.is_empty();
            }
            for waiter in waiters.drain(..) {
                self.turn.stages().into_iter().for_each(|(stage, took)| self.journal.add_stage(stage, took));
                // Whoever waited may have given up.
                let _ = waiter.send(Instant::now());
            }
            false
        });
        self.waiting = waiting;
        for (interface, reply) in std::mem::take(&mut self.inspections) {
            let state = match (self.state(&interface), self.shaper.missing(&interface)) {
                (EndpointState::Programmed, Some(missing)) => EndpointState::Missing(vec![missing]),
                (state, _) => state,
            };
            let _ = reply.send(state);
        }
    }

    fn state(&self, interface: &str) -> EndpointState {
        if !self.in_sync {
            return EndpointState::Missing(vec!["the datastore is not in sync yet".to_owned()]);
        }
        if !self.connections.is_clean(interface) {
            let reason = "connections of the pod that had its address before are not forgotten yet";
            return EndpointState::Missing(vec![reason.to_owned()]);
        }
        match (self.closed.get(interface), self.dataplane.endpoint(interface)) {
            (Some(reason), EndpointState::Missing(mut what)) => {
                what.insert(0, reason.to_string());
                EndpointState::Missing(what)
            }
            (Some(reason), EndpointState::Programmed) => EndpointState::Missing(vec![reason.to_string()]),
            (_, state) => state,
        }
    }
}

/// What waits, and what follows within the time in which news from the datastore is gathered. `None`: nobody
/// will ever send again.
fn receive(commands: &Receiver<Command>, deadline: Option<Instant>) -> Option<Vec<Command>> {
    let first = match deadline {
        None => Some(commands.recv().ok()?),
        Some(at) => match commands.recv_timeout(at.saturating_duration_since(Instant::now())) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return None,
        },
    };
    let mut batch: Vec<Command> = first.into_iter().collect();
    let gather_until = Instant::now() + COALESCE;
    while !batch.is_empty() {
        let can_wait = batch.iter().all(|command| matches!(command, Command::Updates(..)));
        let patience =
            if can_wait { gather_until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
        match commands.recv_timeout(patience) {
            Ok(command) => batch.push(command),
            Err(_) => break,
        }
    }
    Some(batch)
}

mod links;
pub mod look;
mod problems;
mod strangers;
#[cfg(test)]
pub(crate) mod tests;
mod turn;
