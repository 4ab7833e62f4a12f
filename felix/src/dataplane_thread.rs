//! The start of the dataplane's thread: what it is made of, and what it publishes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use anyhow::{Context as _, Result};
use felix_dataplane::{Dataplane as KernelDataplane, Drivers};
use felix_render::{RenderSettings, Renderer};
use kernel::{Link, Optional};
use kernel_linux::{Backend, Conntrack, IptablesTools, Namespaces, Rtnl};
use model::{Family, FelixConfiguration};
use tokio::sync::watch;

use crate::backend::Backends;
use crate::checks::{self, Features};
use crate::command::{Command, Dataplane};
use crate::connections::Connections;
use crate::drivers::{Linux, Opened};
use crate::health::Health;
use crate::journal::Journal;
use crate::kernel_doors::Doors;
use crate::metrics::Metrics;
use crate::pod_mtus::PodMtus;
use crate::policy_status::{PolicyStatus, Told};
use crate::rule_mode::{self, RuleMode};
use crate::service::{NodeService, PodSettings};
use crate::settings::Settings;
use crate::shaper::Shaper;
use crate::state_files::StateFiles;
use crate::strict::Strict;
use crate::wireguard::OwnKeys;
use crate::worker::{Parts, Published, Worker};

/// What the dataplane's thread publishes.
pub struct Subscriptions {
    pub links: watch::Receiver<Arc<Vec<Link>>>,
    pub configuration: watch::Receiver<Arc<FelixConfiguration>>,
    pub policies: watch::Receiver<Arc<Told>>,
    pub wireguard_keys: watch::Receiver<OwnKeys>,
}

/// Starts the thread. It ends by [`Command::Stop`]; when it panics, liveness tells.
///
/// # Errors
/// What the system says of sockets, threads and the state directory.
pub fn start<A: Send + Sync + 'static, P: Send + Sync + 'static>(
    settings: &Settings,
    features: Features,
    Doors { backend, opened: Opened { drivers, has_iptables } }: Doors,
    service: &Arc<NodeService<A, P>>,
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
    let families: Vec<_> = Family::ALL
        .into_iter()
        .filter(|family| *family == Family::V4 || drivers.ip6tables.is_some())
        .collect();
    let open_tools = Box::new(|backend, family| IptablesTools::new(backend, family).map(Optional::present));
    let (policies, reports) = PolicyStatus::new();
    let worker = Worker::<Linux>::new(Parts {
        node: settings.node.clone(),
        renderer: Renderer::new(render),
        dataplane: kernel_dataplane(drivers, backend),
        strict: strict(&service.dataplane)?,
        shaper: shaper(),
        pod_mtus: pod_mtus(settings, metrics)?,
        policies,
        rule_mode: RuleMode::new(rule_mode::kube_proxy_uses_nftables().unwrap_or(false), has_iptables),
        backends: Backends::new(backend.unwrap_or(Backend::Nft), families, open_tools),
        overrides: settings.overrides.clone(),
        endpoints: service.store.lock().iter().map(|endpoint| endpoint.local()).collect(),
        links: Box::new(move || rtnl.links()),
        connections: connections(&service.dataplane)?,
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

/// Forgets the kernel's connections in a thread of its own: walking them takes long.
fn connections(dataplane: &Dataplane) -> Result<Connections> {
    let (connections, flusher) = Connections::new();
    let told = dataplane.clone();
    std::thread::Builder::new().name("connections".to_owned()).spawn(move || {
        let flush = |addresses: &BTreeSet<IpAddr>| Conntrack::open()?.flush(addresses);
        flusher.run(flush, || told.send(Command::Flushed));
    })?;
    Ok(connections)
}

/// Judges connections in a thread of its own.
fn strict(dataplane: &Dataplane) -> Result<Strict> {
    let (strict, checker) = Strict::new();
    let judge = dataplane.clone();
    std::thread::Builder::new()
        .name("strict".to_owned())
        .spawn(move || checker.run(Conntrack::open, |packets| judge.stopped(packets)))?;
    Ok(strict)
}

/// Rules of ours that stand in the other backend are swept.
fn kernel_dataplane(drivers: Drivers<Linux>, backend: Option<Backend>) -> KernelDataplane<Linux> {
    let mut kernel = KernelDataplane::new(drivers, Instant::now());
    for family in Family::ALL {
        let leftovers = backend.and_then(|backend| IptablesTools::of_leftovers(backend.other(), family));
        leftovers.into_iter().for_each(|tools| kernel.sweep_iptables(family, Optional::present(tools)));
    }
    kernel
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
