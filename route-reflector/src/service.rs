//! The loop of the process. Owns the order in which the parts get their turn, and what probes are told.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use bgp::{Config, PeerKey, Speaker, Start};
use bgp_api::{BirdSocket, EventLog, Health, Metrics, Owner, Readiness, Recording, Subject, control_socket};
use bgp_transport::{Driver, RouterDiscovery};
use tokio::signal::unix::{SignalKind, signal};

use crate::Arguments;
use crate::config::{self, Settings};
use crate::nodes::{Choice, Nodes};
use crate::watch::Watch;

/// How often an address that cannot be listened on is tried again.
const LISTEN_RETRY: Duration = Duration::from_secs(2);
/// How often it is looked whether links that the file names have come.
const LINKS_AGAIN: Duration = Duration::from_secs(5);
/// How long the first list of nodes is waited for at start. Who connects meanwhile would be refused.
const FIRST_LIST: Duration = Duration::from_secs(30);
/// Descriptors that are not sessions: files, sockets of the operator, probes.
const OTHER_DESCRIPTORS: u64 = 128;

/// Runs until asked to stop.
pub(crate) async fn run(arguments: &Arguments, settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut reload = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    check_descriptors(&settings);
    // A socket that an earlier run left behind means that clients may still hold what it reflected.
    let restarted = arguments.socket.exists();
    let (console, mut calls) = bgp_api::console();
    let mut control = control_socket(&arguments.socket, console.clone())
        .with_context(|| format!("listen on {}", arguments.socket.display()))?;
    let _bird = match &arguments.bird_socket {
        Some(path) => {
            let bound = BirdSocket::bind(path, None, console.clone());
            Some(bound.with_context(|| format!("listen on {}", path.display()))?)
        }
        None => None,
    };
    let health = Health::default();
    if let Some(http) = arguments.http {
        let listening = health.listen(http, console, Metrics::default()).await;
        listening.with_context(|| format!("listen on {http}"))?;
    }
    let mut watch = Watch::new().context("watch files")?;
    let mut nodes = watch_nodes(settings.nodes.as_ref(), Nodes::default(), FIRST_LIST).await?;
    let config = with_others(&settings, &nodes, None);
    let speaker =
        start_speaker(config, restarted, calls.observers().recording(), arguments.record.as_deref())?;
    let mut service = Service::start(settings, speaker, health)?;
    tracing::info!(restarted, "reflecting");
    service.watch_files(&arguments.config, &mut watch);
    loop {
        let retry = service.listen_retry;
        tokio::select! {
            () = service.driver.turn() => {}
            call = calls.next() => {
                let owner = service.owner();
                call.run(Subject { speaker: Some(service.driver.speaker_mut()), owner, now: now() });
            }
            () = watch.changed() => nodes = service.reload(&arguments.config, &mut watch, nodes).await,
            _ = reload.recv() => nodes = service.reload(&arguments.config, &mut watch, nodes).await,
            () = nodes.changed() => service.reconfigure(&nodes),
            () = changed(&mut service.discovery) => service.reconfigure(&nodes),
            () = sleep_until(service.links_at) => service.discover(),
            () = sleep_until(retry) => service.listen(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        calls.observers().look(service.driver.speaker_mut());
        service.report();
    }
    tracing::info!("stopping; clients keep their routes by graceful restart");
    // The next run must find the socket: see above.
    control.keep_file();
    Ok(())
}

/// Watches the cluster that the file asks for, or none.
async fn watch_nodes(choice: Option<&Choice>, nodes: Nodes, patience: Duration) -> anyhow::Result<Nodes> {
    match choice {
        None => Ok(Nodes::default()),
        Some(choice) if nodes.is_of(choice) => Ok(nodes),
        Some(choice) => Nodes::watch(choice, patience).await.context("watch the cluster's nodes"),
    }
}

/// Each session needs a descriptor: says so at the start, not when they run out.
fn check_descriptors(settings: &Settings) {
    let limit = bgp_transport::raise_descriptor_limit();
    let speaker = &settings.speaker;
    let ranges = if speaker.dynamic.is_empty() { 0 } else { speaker.max_dynamic };
    let wanted = (speaker.peers.len() + ranges) as u64 + OTHER_DESCRIPTORS;
    if limit < wanted {
        tracing::warn!(
            limit,
            wanted,
            "too few descriptors for all clients: raise LimitNOFILE or lower maxClients"
        );
    }
}

async fn changed(discovery: &mut Option<RouterDiscovery>) {
    match discovery {
        Some(discovery) => discovery.changed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

struct Service {
    event_log: EventLog,
    settings: Settings,
    driver: Driver,
    health: Health,
    readiness: Option<Readiness>,
    started: Instant,
    reconfigured: Instant,
    /// Addresses that cannot be listened on, and why.
    listen_problems: Vec<String>,
    listen_retry: Option<Instant>,
    /// Hears routers while some peer is named by its link.
    discovery: Option<RouterDiscovery>,
    /// When the links are looked at again: they may come and go.
    links_at: Option<Instant>,
    /// What is wrong with the file as it is now; the settings before it are in force.
    file_problem: Option<String>,
}

impl Service {
    fn start(settings: Settings, speaker: Speaker, health: Health) -> anyhow::Result<Self> {
        let driver = Driver::new(speaker).context("start driver")?;
        let mut service = Self {
            event_log: EventLog::default(),
            settings,
            driver,
            health,
            readiness: None,
            started: now(),
            reconfigured: now(),
            listen_problems: Vec::new(),
            listen_retry: None,
            discovery: None,
            links_at: None,
            file_problem: None,
        };
        service.listen();
        service.discover();
        Ok(service)
    }

    fn listen(&mut self) {
        let errors = self.driver.listen(&self.settings.listen).err().unwrap_or_default();
        let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
        if problems != self.listen_problems {
            problems.iter().for_each(|problem| tracing::error!("{problem}"));
            self.listen_problems = problems;
        }
        self.listen_retry = (!self.listen_problems.is_empty()).then(|| now() + LISTEN_RETRY);
    }

    /// Takes over the file as it is now; a file with an error changes nothing.
    async fn reload(&mut self, path: &Path, watch: &mut Watch, nodes: Nodes) -> Nodes {
        let settings = match config::read(path) {
            Ok(settings) => settings,
            Err(error) => {
                self.refuse(&error);
                return nodes;
            }
        };
        self.file_problem = None;
        if settings == self.settings {
            return nodes;
        }
        // Sessions do not wait for a cluster that is new.
        let nodes = match watch_nodes(settings.nodes.as_ref(), nodes, Duration::ZERO).await {
            Ok(nodes) => nodes,
            Err(error) => {
                self.refuse(&error);
                Nodes::default()
            }
        };
        self.settings = settings;
        self.discover();
        self.reconfigure(&nodes);
        self.listen();
        self.watch_files(path, watch);
        nodes
    }

    fn refuse(&mut self, error: &anyhow::Error) {
        let problem = format!("configuration not changed: {error:#}");
        if self.file_problem.as_ref() != Some(&problem) {
            tracing::error!("{problem}");
            self.file_problem = Some(problem);
        }
    }

    /// Brings the speaker to what file and cluster say, by the differences.
    fn reconfigure(&mut self, nodes: &Nodes) {
        let config = with_others(&self.settings, nodes, self.discovery.as_ref());
        for change in self.driver.speaker_mut().reconfigure(config, now()) {
            tracing::info!(?change, "configuration");
            self.reconfigured = now();
        }
    }

    /// Listens for routers on the links that the file names and that are there.
    fn discover(&mut self) {
        self.links_at = None;
        if self.settings.links.is_empty() {
            self.discovery = None;
            return;
        }
        self.links_at = Some(now() + LINKS_AGAIN);
        if self.discovery.is_none() {
            match RouterDiscovery::new() {
                Ok(discovery) => self.discovery = Some(discovery),
                Err(error) => tracing::error!(%error, "cannot hear routers on links: CAP_NET_RAW is needed"),
            }
        }
        let links = self.settings.links.keys().filter_map(|name| config::interface_index(name).ok());
        if let Some(discovery) = &mut self.discovery {
            discovery.set_links(links, now());
        }
    }

    fn watch_files(&self, path: &Path, watch: &mut Watch) {
        watch.add(std::iter::once(path).chain(self.settings.password_files.iter().map(AsRef::as_ref)));
    }

    fn problems(&self) -> Vec<String> {
        self.listen_problems.iter().chain(&self.file_problem).cloned().collect()
    }

    fn owner(&self) -> Owner {
        Owner {
            version: env!("CARGO_PKG_VERSION"),
            started: Some(self.started),
            reconfigured: Some(self.reconfigured),
            listening: self.driver.listening().collect(),
            problems: self.problems(),
            ..Owner::default()
        }
    }

    /// Logs what happened and tells probes. Ready is who listens everywhere and has heard, after a restart, what
    /// clients have; peers that are down are no reason.
    fn report(&mut self) {
        while let Some(event) = self.driver.speaker_mut().poll_event() {
            self.event_log.log(&event, now());
        }
        let mut reasons = self.listen_problems.clone();
        if self.driver.speaker().is_restarting() {
            reasons.push("restarting: waiting for clients to send their routes again".to_owned());
        }
        let readiness = Readiness { ready: reasons.is_empty(), reasons };
        if self.readiness.as_ref() != Some(&readiness) {
            self.health.set(readiness.clone());
            self.readiness = Some(readiness);
        }
    }
}

fn start_speaker(
    config: Config,
    restarted: bool,
    recording: &Recording,
    record: Option<&Path>,
) -> anyhow::Result<Speaker> {
    let start = Start { seed: seed(), forwarding_kept: restarted, ..Start::default() };
    let at = now();
    let mut speaker = Speaker::new(config, start, at);
    if let Some(path) = record {
        let started = recording.start(path, &mut speaker, at);
        started.with_context(|| format!("record into {}", path.display()))?;
    }
    Ok(speaker)
}

/// What the file says, with who else is known by now: nodes of the cluster, routers on links.
fn with_others(settings: &Settings, nodes: &Nodes, discovery: Option<&RouterDiscovery>) -> Config {
    let mut config = settings.speaker.clone();
    let routers = discovery.map(RouterDiscovery::routers).unwrap_or_default();
    for (link, peer) in &settings.links {
        let Ok(index) = config::interface_index(link) else { continue };
        if let Some(router) = routers.get(&index) {
            config.peers.insert(PeerKey::new(IpAddr::V6(*router), index), peer.clone());
        }
    }
    if let Some(choice) = &settings.nodes {
        nodes.add_clients(choice, &mut config);
    }
    config
}

fn now() -> Instant {
    Instant::now()
}

fn seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    time.as_nanos() as u64
}
