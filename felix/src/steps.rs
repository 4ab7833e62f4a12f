//! The agent's life as a list of steps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use datastore::crd::{NodePolicyEntry, NodePolicyStatusSpec};
use datastore::{Datastore, Interest};
use felix_dataplane::Ownership;
use kernel::Link;
use model::{FelixConfiguration, NodeName, PodCidrBlocks, Update};
use operator_socket::ControlSocket;
use parking_lot::{Mutex, RwLock};
use probes::{Response, Status};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::address_book::AddressBook;
use crate::adopt::{self, Adoption};
use crate::checks::{self, Features};
use crate::cluster::{Cluster, OwnNode};
use crate::command::{Command, Dataplane};
use crate::dataplane_thread;
use crate::del_queue::DelQueue;
use crate::drop_log::{DropLog, Names};
use crate::endpoint_store::EndpointStore;
use crate::events;
use crate::first_start::FirstStart;
use crate::handle_locks::HandleLocks;
use crate::health::{Component, Health};
use crate::interfaces::Interfaces;
use crate::ipam::ClusterAddresses;
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
use crate::pods::KnownPods;
use crate::policy_status::{self, Programmed, Told};
use crate::reclaim::{self, Adds, NodeGround, Reclaimer, Suspected, Watched};
use crate::release;
use crate::server;
use crate::service::{NodeService, PodSettings};
use crate::settings::Settings;
use crate::start_settings::Networking;
use crate::tunnel_address::TunnelAddress;
use crate::wireguard::{self};
use crate::wireguard_metrics::WireguardMetrics;

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
type OwnReclaimer = Reclaimer<NodeGround<Arc<ClusterAddresses>, KnownPods<Datastore>>>;

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
    let published =
        dataplane_thread::start(&settings, features, doors, &service, commands, &health, &metrics)?;
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
    let also = observer(&settings, &service, &addresses, &book, &reclaimer);
    let pod_cidrs = settings.start.uses_pod_cidrs.then(PodCidrBlocks::default);
    tokio::spawn({
        let (cluster, dataplane) = (cluster.clone(), dataplane.clone());
        async move { cluster.follow(updates, pod_cidrs, &dataplane, also).await }
    });
    tokio::spawn(keep_up::keep_up(addresses.clone(), cluster.own()));
    let annotate = addresses.clone();
    let (of_cluster, links) = (cluster.clone(), published.links.clone());
    tokio::spawn(tunnel_addresses(settings.start.uses_pod_cidrs, of_cluster, addresses, links));
    start_node(&settings, &cluster, published.links, &annotate, &datastore, &health, &metrics);
    tokio::spawn(wireguard::run(published.wireguard_keys, cluster.own(), annotate));
    tokio::spawn(reclaimer.run(cluster.own()));
    tokio::spawn(release::run(service.clone(), cluster));
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

/// What hears of the cluster before the dataplane does: what that does not know it would sweep.
fn observer(
    settings: &Settings,
    service: &Arc<Service>,
    addresses: &Arc<ClusterAddresses>,
    book: &Arc<AddressBook>,
    reclaimer: &OwnReclaimer,
) -> impl Fn(&Update) + Send + Sync + 'static {
    let (service, addresses, book) = (service.clone(), addresses.clone(), book.clone());
    let (watched, asked) = (reclaimer.watched.clone(), reclaimer.asked.clone());
    let adoption = Mutex::new(Adoption::new(settings.node.clone(), settings.overrides.clone()));
    move |update: &Update| {
        adopt::observe(&service, &mut adoption.lock(), update);
        addresses.observe(update);
        book.observe(update);
        if reclaim::observe(&watched, update) {
            asked.notify_one();
        }
    }
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
) -> OwnReclaimer {
    let ground = NodeGround {
        service: service.clone(),
        datastore: datastore.clone(),
        ipam: addresses.client(),
        endpoint_files: EndpointStore::directory(&settings.state_dir),
    };
    let watched = Arc::new(Mutex::new(Watched::new(settings.node.clone())));
    Reclaimer::new(ground, watched, metrics.clone(), settings.leak_grace)
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
