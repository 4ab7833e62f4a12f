//! The agent's life as a list of steps.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use datastore::crd::{NodePolicyEntry, NodePolicyStatusSpec};
use datastore::{Datastore, Interest};
use felix_dataplane::{Dataplane as KernelDataplane, Ownership};
use felix_render::{RenderSettings, Renderer};
use kernel::{Link, Optional};
use kernel_linux::{Backend, Conntrack, IptablesTools, Namespaces, Rtnl};
use model::{Family, FelixConfiguration, NodeName, PodCidrBlocks, Update};
use operator_socket::ControlSocket;
use parking_lot::{Mutex, RwLock};
use probes::{Response, Status};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::address_book::AddressBook;
use crate::adopt::{self, Adoption};
use crate::backend::Backends;
use crate::checks::{self, Features};
use crate::cluster::{Cluster, OwnNode};
use crate::command::{Command, Dataplane};
use crate::connections::Connections;
use crate::del_queue::DelQueue;
use crate::drivers::{Linux, Opened};
use crate::drop_log::{DropLog, Names};
use crate::endpoint_store::EndpointStore;
use crate::events;
use crate::first_start::FirstStart;
use crate::handle_locks::HandleLocks;
use crate::health::{Component, Health};
use crate::interfaces::Interfaces;
use crate::ipam::ClusterAddresses;
use crate::journal::Journal;
use crate::keep_up;
use crate::kernel_doors::{self, Doors};
use crate::kernel_watch;
use crate::listeners::{self, Server};
use crate::logging::LogLevel;
use crate::metrics::Metrics;
use crate::network_condition;
use crate::node_address::NodeAddresses;
use crate::operator::Operator;
use crate::pod_cidrs::OfPodCidrs;
use crate::pod_mtus::PodMtus;
use crate::pods::KnownPods;
use crate::policy_status::{self, PolicyStatus, Programmed, Told};
use crate::reaper;
use crate::reclaim::{self, Adds, NodeGround, Reclaimer, Suspected, Watched};
use crate::rule_mode::{self, RuleMode};
use crate::server;
use crate::service::{NodeService, PodSettings};
use crate::settings::Settings;
use crate::shaper::Shaper;
use crate::start_settings::Networking;
use crate::state_files::StateFiles;
use crate::strict::Strict;
use crate::tunnel_address::TunnelAddress;
use crate::wireguard::{self, OwnKeys};
use crate::wireguard_metrics::WireguardMetrics;
use crate::worker::{Parts, Published, Worker};

/// How often the DEL queue is looked at without being told: the CNI plugin writes to it while the agent starts.
const QUEUE_CHECK: Duration = Duration::from_secs(30);
/// First pause before releasing addresses is tried again.
const RELEASE_RETRY: Duration = Duration::from_secs(1);

/// How often counted drops become records.
const DROPS_TICK: Duration = Duration::from_secs(1);
/// How long the name of a rule that dropped is waited for; the packet is told of without, later ones with it.
const NAMING: Duration = Duration::from_secs(5);

/// Which addresses the command line has named: they stay, whatever the cluster says.
#[derive(Clone, Copy, Debug)]
pub struct FixedAddresses {
    pub health: bool,
    pub metrics: bool,
}

type Service = NodeService<Arc<ClusterAddresses>, KnownPods<Datastore>>;

/// Runs until SIGTERM or SIGINT, then leaves everything as it is.
pub async fn run(settings: Settings, fixed: FixedAddresses, log_level: LogLevel) -> Result<()> {
    tracing::info!(node = %settings.node, version = env!("CARGO_PKG_VERSION"), "felix starts");
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let health = Health::new();
    let metrics = Arc::new(Metrics::new(settings.node.as_str()));
    let [health_server, metrics_server] = serve_health(&settings, fixed, &health, &metrics).await?;

    let features = checks::features();
    let doors = tokio::select! {
        opened = open_kernel(&settings, features, &health) => opened,
        _ = terminated.recv() => return Ok(()),
        _ = interrupted.recv() => return Ok(()),
    };
    let (store, unreadable) = EndpointStore::open(&settings.state_dir)
        .with_context(|| format!("open state directory {}", settings.state_dir.display()))?;
    unreadable.iter().for_each(|file| tracing::error!(%file, "endpoint"));

    let datastore = connect(&settings).await?;
    let updates = datastore.watch(Interest::felix(settings.node.clone()));
    let cluster = Arc::new(Cluster::new(settings.node.clone()));
    let addresses = ClusterAddresses::new(&datastore, settings.node.clone(), &settings.state_dir, &store)?;
    let addresses = Arc::new(addresses);

    let (dataplane, commands) = Dataplane::channel();
    let namespaces = datastore.watch_namespace_annotations();
    let pods = KnownPods::new(cluster.clone(), datastore.clone(), namespaces, settings.node.clone());
    let service = Arc::new(service(&settings, store, &dataplane, pods, &addresses, &metrics, &health)?);
    let drivers = &doors.opened.drivers;
    let own_ports = kernel_watch::own_ports(drivers)?;
    let published = start_worker(&settings, features, doors, &service, commands, &health, &metrics)?;
    let figures = WireguardMetrics::new(settings.node.as_str(), published.configuration.clone());
    metrics.collect(Box::new(figures));
    kernel_watch::links(&dataplane, own_ports)?;
    kernel_watch::rules(&dataplane);
    tokio::spawn(listeners::follow(health_server, metrics_server, published.configuration.clone()));
    tokio::spawn(forward(cluster.own(), published.configuration.clone(), features.ipv6));
    follow_configuration(published.configuration, log_level);
    tokio::spawn(report_policies(settings.node.clone(), published.policies, datastore.clone()));

    let reclaimer = reclaimer(&settings, &service, &datastore, &addresses, &metrics);
    let book = Arc::new(AddressBook::default());
    let _operator =
        serve_operator(&settings, &dataplane, &service, &book, &metrics, reclaimer.suspected.clone())?;
    tokio::spawn({
        let (cluster, dataplane, addresses) = (cluster.clone(), dataplane.clone(), addresses.clone());
        let (watched, asked) = (reclaimer.watched.clone(), reclaimer.asked.clone());
        let adoption = Mutex::new(Adoption::new(settings.node.clone(), settings.overrides.clone()));
        let service = service.clone();
        let also = move |update: &Update| {
            // Before the dataplane hears of it: what it does not know it would sweep.
            adopt::observe(&service, &mut adoption.lock(), update);
            addresses.observe(update);
            book.observe(update);
            if reclaim::observe(&watched, update) {
                asked.notify_one();
            }
        };
        let pod_cidrs = settings.start.uses_pod_cidrs.then(PodCidrBlocks::default);
        async move { cluster.follow(updates, pod_cidrs, &dataplane, also).await }
    });
    tokio::spawn(keep_up::keep_up(addresses.clone(), cluster.own()));
    let annotate = addresses.clone();
    let (of_cluster, links) = (cluster.clone(), published.links.clone());
    tokio::spawn(tunnel_addresses(settings.start.uses_pod_cidrs, of_cluster, addresses, links));
    start_node(&settings, &cluster, published.links, &annotate, &datastore, &health, &metrics);
    tokio::spawn(wireguard::run(published.wireguard_keys, cluster.own(), annotate));
    tokio::spawn(reclaimer.run(cluster.own()));
    tokio::spawn(release_addresses(service.clone(), cluster));
    serve_plugin(&settings, service, &health)?;

    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    tracing::info!("felix ends; what is in the kernel stays");
    if settings.start.backend != Networking::None {
        network_condition::end(&settings.node, &datastore).await;
    }
    dataplane.send(Command::Stop);
    Ok(())
}

/// Talks to nobody yet.
async fn connect(settings: &Settings) -> Result<Datastore> {
    let datastore = Datastore::connect(settings.kubeconfig.as_deref()).await?;
    Ok(match settings.typha.clone()? {
        Some(typha) => datastore.through_typha(typha, &settings.node, "felix"),
        None => datastore,
    })
}

/// Keeps the addresses of the tunnels: of IPAM, or of the node's own range where another plugin gives out addresses.
async fn tunnel_addresses(
    uses_pod_cidrs: bool,
    cluster: Arc<Cluster>,
    addresses: Arc<ClusterAddresses>,
    links: watch::Receiver<Arc<Vec<Link>>>,
) {
    let annotate = addresses.clone();
    if uses_pod_cidrs {
        let own = OfPodCidrs(cluster.own());
        TunnelAddress::new(cluster, own, annotate).with_links(links).run().await;
    } else {
        TunnelAddress::new(cluster, addresses, annotate).with_links(links).run().await;
    }
}

/// What makes a machine a node of the cluster: its address, the pools of a new cluster, and that its network is up.
fn start_node(
    settings: &Settings,
    cluster: &Arc<Cluster>,
    links: watch::Receiver<Arc<Vec<Link>>>,
    annotate: &Arc<ClusterAddresses>,
    datastore: &Datastore,
    health: &Health,
    metrics: &Arc<Metrics>,
) {
    let (node, start) = (settings.node.clone(), settings.start.clone());
    let others = cluster.clone();
    tokio::spawn(
        NodeAddresses {
            settings: start.clone(),
            own: cluster.own(),
            links: links.clone(),
            others: Box::new(move |address| others.others_at(address)),
            annotate: annotate.clone(),
            health: health.clone(),
            events: events::spawn(datastore.clone(), node.clone()),
            interfaces: Interfaces::default(),
        }
        .run(),
    );
    if start.backend != Networking::None {
        let has_speaker = start.backend == Networking::Bird;
        let (datastore, health) = (datastore.clone(), health.clone());
        tokio::spawn(network_condition::run(node.clone(), datastore, health, has_speaker));
    }
    let first_start = FirstStart {
        node,
        settings: start,
        cluster: cluster.clone(),
        own: cluster.own(),
        links,
        datastore: datastore.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
    };
    tokio::spawn(first_start.run());
}

async fn open_kernel(settings: &Settings, features: Features, health: &Health) -> Doors {
    let ownership = Ownership::from(&settings.overrides.apply(FelixConfiguration::default()));
    let open = move || kernel_doors::open(features, &ownership);
    kernel_doors::wait(health, kernel_doors::FIRST_PAUSE, open).await
}

/// Name of this host.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Opens the servers of health and metrics where the command line, or else the environment, says.
async fn serve_health(
    settings: &Settings,
    fixed: FixedAddresses,
    health: &Health,
    metrics: &Arc<Metrics>,
) -> Result<[Server; 2]> {
    let (health, figures) = (health.clone(), metrics.clone());
    let mut health = Server::new(fixed.health, move |path| match path {
        "/liveness" => health.liveness(Instant::now()),
        "/readiness" => health.readiness(),
        "/startup" => health.startup(),
        "/metrics" => figures.scrape(),
        _ => not_found("/liveness, /readiness, /startup and /metrics"),
    });
    let figures = metrics.clone();
    let mut metrics = Server::new(fixed.metrics, move |path| match path {
        "/metrics" => figures.scrape(),
        _ => not_found("/metrics"),
    });
    let refused = |address: SocketAddr| {
        format!("listen on {address}; another agent may run, or choose --health-listen")
    };
    let address = settings.health_listen;
    health.listen(Some(address)).await.with_context(|| refused(address))?;
    if let Some(address) = settings.metrics_listen {
        metrics.listen(Some(address)).await.with_context(|| refused(address))?;
    }
    Ok([health, metrics])
}

fn not_found(known: &str) -> Response {
    Response::text(Status::NotFound, format!("there is nothing here but {known}\n"))
}

fn service(
    settings: &Settings,
    store: EndpointStore,
    dataplane: &Dataplane,
    pods: KnownPods<Datastore>,
    addresses: &Arc<ClusterAddresses>,
    metrics: &Arc<Metrics>,
    health: &Health,
) -> Result<Service> {
    let configuration = settings.overrides.apply(FelixConfiguration::default());
    let directory = settings.del_queue();
    let health = health.clone();
    Ok(NodeService {
        store: Mutex::new(store),
        queue: DelQueue::open(&directory)
            .with_context(|| format!("open DEL queue {}", directory.display()))?,
        queued: Notify::new(),
        addresses: addresses.clone(),
        pods,
        dataplane: dataplane.clone(),
        settings: RwLock::new(PodSettings { interface_prefix: configuration.interface_prefix, mtu: None }),
        metrics: metrics.clone(),
        not_ready: Box::new(move || health.reason_against(&[Component::Datastore, Component::Dataplane])),
        adds: Adds::default(),
        locks: HandleLocks::default(),
    })
}

/// Takes back what nobody on this node uses.
fn reclaimer(
    settings: &Settings,
    service: &Arc<Service>,
    datastore: &Datastore,
    addresses: &Arc<ClusterAddresses>,
    metrics: &Arc<Metrics>,
) -> Reclaimer<NodeGround<Arc<ClusterAddresses>, KnownPods<Datastore>>> {
    let ground = NodeGround {
        service: service.clone(),
        datastore: datastore.clone(),
        ipam: addresses.client(),
        endpoint_files: EndpointStore::directory(&settings.state_dir),
    };
    let watched = Arc::new(Mutex::new(Watched::new(settings.node.clone())));
    Reclaimer::new(ground, watched, metrics.clone(), settings.leak_grace)
}

/// What the dataplane's thread publishes.
struct Subscriptions {
    links: watch::Receiver<Arc<Vec<Link>>>,
    configuration: watch::Receiver<Arc<FelixConfiguration>>,
    policies: watch::Receiver<Arc<Told>>,
    wireguard_keys: watch::Receiver<OwnKeys>,
}

fn start_worker(
    settings: &Settings,
    features: Features,
    Doors { backend, opened: Opened { drivers, has_iptables } }: Doors,
    service: &Arc<Service>,
    commands: Receiver<Command>,
    health: &Health,
    metrics: &Arc<Metrics>,
) -> Result<Subscriptions> {
    let configuration = settings.overrides.apply(FelixConfiguration::default());
    let mut rtnl = Rtnl::open()?;
    let (links, link_changes) = watch::channel(Arc::default());
    let (keys, wireguard_keys) = watch::channel(None);
    let (configurations, configuration_changes) = watch::channel(Arc::new(configuration));
    let render = RenderSettings {
        ipv6: drivers.ip6tables.is_some(),
        random_fully: true,
        ipip: features.ipip,
        rp_filter: checks::rp_filter(),
        no_checksum_offload: checks::has_bad_checksum_offload(),
        ..RenderSettings::default()
    };
    let pod_settings = {
        let (service, metrics) = (service.clone(), metrics.clone());
        move |settings: PodSettings| {
            metrics.mtu.set(settings.mtu.unwrap_or_default().into());
            *service.settings.write() = settings;
        }
    };
    let (connections, flusher) = Connections::new();
    let told = service.dataplane.clone();
    std::thread::Builder::new().name("connections".to_owned()).spawn(move || {
        let flush = |addresses: &BTreeSet<IpAddr>| Conntrack::open()?.flush(addresses);
        flusher.run(flush, || told.send(Command::Flushed));
    })?;
    let families: Vec<_> = Family::ALL
        .into_iter()
        .filter(|family| *family == Family::V4 || drivers.ip6tables.is_some())
        .collect();
    let mut kernel = KernelDataplane::new(drivers, Instant::now());
    for family in Family::ALL {
        let leftovers = backend.and_then(|backend| IptablesTools::of_leftovers(backend.other(), family));
        leftovers.into_iter().for_each(|tools| kernel.sweep_iptables(family, Optional::present(tools)));
    }
    let open_tools = Box::new(|backend, family| IptablesTools::new(backend, family).map(Optional::present));
    let (policies, reports) = PolicyStatus::new();
    let (strict, checker) = Strict::new();
    let judge = service.dataplane.clone();
    std::thread::Builder::new()
        .name("strict".to_owned())
        .spawn(move || checker.run(Conntrack::open, |packets| judge.stopped(packets)))?;
    let worker = Worker::<Linux>::new(Parts {
        node: settings.node.clone(),
        renderer: Renderer::new(render),
        dataplane: kernel,
        strict,
        shaper: shaper(),
        pod_mtus: pod_mtus(settings, metrics)?,
        policies,
        rule_mode: RuleMode::new(rule_mode::kube_proxy_uses_nftables().unwrap_or(false), has_iptables),
        backends: Backends::new(backend.unwrap_or(Backend::Nft), families, open_tools),
        overrides: settings.overrides.clone(),
        endpoints: service.store.lock().iter().map(|endpoint| endpoint.local()).collect(),
        links: Box::new(move || rtnl.links()),
        connections,
        health: health.clone(),
        journal: Journal::new(metrics.clone()),
        published: Published {
            links,
            configuration: configurations,
            pod_settings: Box::new(pod_settings),
            wireguard_keys: keys,
        },
    });
    let health = health.clone();
    std::thread::Builder::new().name("dataplane".to_owned()).spawn(move || {
        // Runs also when the thread panics: liveness must tell.
        let _guard = DeadOnDrop(health);
        worker.run(&commands);
    })?;
    Ok(Subscriptions {
        links: link_changes,
        configuration: configuration_changes,
        policies: reports,
        wireguard_keys,
    })
}

/// Opens its socket when a pod is to be limited for the first time, and looks for what an earlier run left.
fn shaper() -> Shaper {
    let shaped = Rtnl::open().and_then(|mut rtnl| rtnl.shaped()).unwrap_or_default();
    let mut rtnl = None;
    let mut shaper = Shaper::new(Box::new(move |interface, shaping| {
        let rtnl = match &mut rtnl {
            Some(rtnl) => rtnl,
            none => none.insert(Rtnl::open()?),
        };
        rtnl.shape(interface, shaping)
    }));
    shaper.found(shaped);
    shaper
}

/// Keeps what it gave in a file.
fn pod_mtus(settings: &Settings, metrics: &Metrics) -> Result<PodMtus> {
    const NAME: &str = "given";
    let directory = settings.state_dir.join("pod-mtus");
    let (files, found) =
        StateFiles::open(directory.clone()).with_context(|| format!("open {}", directory.display()))?;
    let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).ok()?).ok();
    let given = found.iter().find_map(read).unwrap_or_default();
    let keep = move |given: &BTreeSet<u32>| {
        if let Err(error) = files.put(NAME, given) {
            tracing::warn!(%error, "after the next start of felix, pods keep the MTU that they have");
        }
    };
    let mut rtnl = Rtnl::open()?;
    let set = move |pods: &BTreeSet<_>, mtu, given: &BTreeSet<u32>| {
        let mut namespaces = Namespaces::default();
        pods.iter().map(|pod: &String| rtnl.set_pod_mtu(pod, mtu, given, &mut namespaces)).collect()
    };
    Ok(PodMtus::new(Box::new(set), Box::new(keep), given, metrics.mtu_mismatches.clone()))
}

struct DeadOnDrop(Health);

impl Drop for DeadOnDrop {
    fn drop(&mut self) {
        self.0.dataplane_dead();
    }
}

/// Turns forwarding on as soon as the configuration is known and wants it.
async fn forward(
    mut own: watch::Receiver<OwnNode>,
    mut configuration: watch::Receiver<Arc<FelixConfiguration>>,
    ipv6: bool,
) {
    if own.wait_for(|own| own.in_sync).await.is_err() {
        return;
    }
    let mut was_wanted = false;
    loop {
        let present = configuration.borrow_and_update().clone();
        if present.ip_forwarding && !was_wanted {
            checks::enable_forwarding(ipv6 && present.ipv6);
        }
        was_wanted = present.ip_forwarding;
        if configuration.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the cluster which policies this node has in its kernel.
async fn report_policies(node: NodeName, reports: watch::Receiver<Arc<Told>>, datastore: Datastore) {
    let write = |told: Arc<Told>| {
        let entry = |programmed: &Programmed| NodePolicyEntry {
            generation: programmed.generation,
            uid: programmed.uid.to_string(),
            error: programmed.error.clone(),
        };
        let endpoints = told.host_endpoints.iter();
        let spec = NodePolicyStatusSpec {
            policies: told.policies.iter().map(|(id, of)| (id.clone(), entry(of))).collect(),
            host_endpoints: endpoints.map(|(of, name)| (of.clone(), name.to_string())).collect(),
            problems: told.problems.clone(),
        };
        let (datastore, node) = (datastore.clone(), node.clone());
        async move { datastore.write_node_policies(&node, &spec).await }
    };
    policy_status::report(&node, policy_status::PACE, reports, write).await;
}

fn follow_configuration(mut configuration: watch::Receiver<Arc<FelixConfiguration>>, log_level: LogLevel) {
    tokio::spawn(async move {
        let mut present = None;
        loop {
            let severity = configuration.borrow_and_update().log_severity;
            if present != Some(severity) {
                log_level.set(severity);
                present = Some(severity);
            }
            if configuration.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Drains the DEL queue when something comes, when something failed, and now and then.
async fn release_addresses(service: Arc<Service>, cluster: Arc<Cluster>) {
    let mut own = cluster.own();
    if own.wait_for(|own| own.in_sync).await.is_err() {
        return;
    }
    drop_stale(&service, &cluster);
    let retired = Arc::new(Notify::new());
    tokio::spawn(reaper::run(retired.clone(), QUEUE_CHECK));
    let mut pause = RELEASE_RETRY;
    loop {
        let left = service.drain().await;
        retired.notify_one();
        pause = if left > 0 { (pause * 2).min(QUEUE_CHECK) } else { RELEASE_RETRY };
        let wait = if left > 0 { pause } else { QUEUE_CHECK };
        tokio::select! {
            () = service.queued.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Endpoints whose pod and whose interface are both gone: their DEL was lost while nobody was there to take it.
fn drop_stale(service: &Service, cluster: &Cluster) {
    let Ok(mut rtnl) = Rtnl::open() else { return };
    let stored: Vec<_> = service.store.lock().iter().cloned().collect();
    for endpoint in stored {
        let is_there = rtnl.link_by_name(&endpoint.host_interface).map_or(true, |link| link.is_some());
        if !is_there && !cluster.has_pod(&endpoint.pod_key(), &endpoint.uid) {
            tracing::info!(pod = %endpoint.pod_key(), "pod and interface are gone; endpoint dropped");
            service.take_down(&endpoint);
        }
    }
}

/// Listens for dropped packets, and for operators who want to know.
fn serve_operator(
    settings: &Settings,
    dataplane: &Dataplane,
    service: &Arc<Service>,
    addresses: &Arc<AddressBook>,
    metrics: &Arc<Metrics>,
    suspected: Arc<Mutex<Suspected>>,
) -> Result<ControlSocket> {
    let drops = DropLog::new(metrics.clone());
    let (pods, reasons, tiers) = (service.clone(), dataplane.clone(), dataplane.clone());
    drops.listen(Names {
        node: settings.node.to_string(),
        addresses: addresses.clone(),
        pod_of: Box::new(move |interface| {
            let store = pods.store.lock();
            let endpoint = store.iter().find(|endpoint| endpoint.host_interface == interface);
            endpoint.map(|endpoint| endpoint.pod_key().to_string())
        }),
        reason_of: Box::new(move |prefix| {
            let prefix = prefix.to_owned();
            reasons.look_blocking(NAMING, move |worker| worker.reason(&prefix)).ok().flatten()
        }),
        policies_of: Box::new(move |place| {
            let place = place.clone();
            tiers.look_blocking(NAMING, move |worker| worker.tier_policies(&place)).unwrap_or_default()
        }),
    })?;
    let writer = drops.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(DROPS_TICK);
        loop {
            tick.tick().await;
            writer.handle_timeout(Instant::now());
        }
    });
    let path = settings.socket.with_file_name(proto::felix::SOCKET);
    let operator =
        Operator { node: settings.node.as_str().into(), drops, dataplane: dataplane.clone(), suspected };
    ControlSocket::bind(&path, operator).with_context(|| format!("open socket {}", path.display()))
}

fn serve_plugin(settings: &Settings, service: Arc<Service>, health: &Health) -> Result<()> {
    let listener = server::bind(&settings.socket)?;
    tokio::spawn(server::serve(listener, move |request, came| {
        let service = service.clone();
        async move { service.answer(request, came).await }
    }));
    health.set_ready(Component::Socket);
    tracing::info!(socket = %settings.socket.display(), "CNI socket open");
    Ok(())
}
