//! A running lab: brings it up in order, interferes with it on request, tells how it stands.
//! The daemon owns one; the commands reach it through `daemon`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tokio::sync::watch;

use crate::agents::Agent;
use crate::api_server::{ApiServer, TOKEN_RENEWAL};
use crate::cluster::Cluster;
use crate::control::{Failure, FaultAction};
use crate::controllers::{CONTROLLERS, Controllers};
use crate::kubelet::Kubelet;
use crate::manifest::Manifest;
use crate::names::Place;
use crate::node::{LabNode, NodeContext, Runs, typha_address};
use crate::node_pod::PodMaker;
use crate::options::{LabOptions, SHIPPED, TorKind};
use crate::policy_kinds;
use crate::scheduler::Scheduler;
use crate::status::LabStatus;
use crate::topology;
use crate::tor::Tor;

/// How long the nodes may take to become Ready.
const READY_LIMIT: Duration = Duration::from_secs(600);
/// How long a removed node's pods may take to go.
const DRAIN_LIMIT: Duration = Duration::from_secs(180);

/// How far a lab is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Coming up; what is being done.
    Starting(String),
    /// Every node was Ready.
    Ready,
    /// It did not come up; why.
    Failed(String),
    /// Being removed.
    Stopping,
}

impl Phase {
    /// The word in status.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting(_) => "starting",
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
            Self::Stopping => "stopping",
        }
    }
}

/// A lab that has come up.
pub struct Lab {
    options: LabOptions,
    phase: watch::Sender<Phase>,
    api: ApiServer,
    context: NodeContext,
    kubelet: Arc<Kubelet>,
    tor: Tor,
    controllers: Option<Controllers>,
    nodes: Mutex<BTreeMap<u32, Arc<LabNode>>>,
    /// One change of the set of nodes at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Lab {
    /// Builds everything and starts the nodes; [`Lab::wait_ready`] then waits for them.
    pub async fn start(options: LabOptions, phase: watch::Sender<Phase>) -> anyhow::Result<Arc<Self>> {
        let say = |text: String| phase.send_replace(Phase::Starting(text));
        let (name, family) = (options.name.clone(), options.family);
        say(format!("router namespace with {} subnets", options.subnets));
        let (lab, subnets) = (name.clone(), options.subnets);
        tokio::task::spawn_blocking(move || topology::build_router(&lab, subnets, family)).await??;
        say("API server".to_owned());
        let api = ApiServer::start(&options).await.context("start the API server")?;
        let cluster = Cluster::connect(&name.kubeconfig()).await?;
        wait_healthy(&cluster).await?;
        say("CRDs, IPPools and BGPPeers".to_owned());
        let manifest = manifest(&options)?;
        let mut crds: Vec<Value> = manifest.definitions().cloned().collect();
        if options.external.is_none() {
            crds.extend(policy_kinds::definitions());
        }
        cluster.apply_crds(&crds).await?;
        let has_accounts = options.manifest.is_some() && options.external.is_none();
        if has_accounts {
            for object in manifest.applied() {
                cluster.apply(object).await?;
            }
            api.renew_tokens()?;
        }
        api.write_controllers_kubeconfig(has_accounts)?;
        cluster.create_pools(family, &options.pod_cidr, options.encap.as_str()).await?;
        if options.tor != TorKind::None {
            cluster.create_tor_peers(family, subnets).await?;
        }
        say(format!("{} as top-of-rack router", options.tor.as_str()));
        let tor = Tor::start(&name, options.tor, family)?;
        let controllers = options.controllers.then(|| Controllers::start(&options)).transpose()?;
        let scheduler = Scheduler::new(cluster.clone());
        let kubelet = Kubelet::new(name.clone(), cluster.clone(), Arc::clone(&scheduler));
        let context = NodeContext {
            lab: name,
            family,
            bin_dir: options.bin_dir.clone(),
            cluster,
            runs: match (options.agents, &options.manifest) {
                (false, _) => Runs::Nothing,
                (true, None) => Runs::Programs,
                (true, Some(_)) => Runs::Pod(Arc::new(PodMaker::new(manifest, &options))),
            },
            typha: options.typha.then(|| typha_address(&options)),
        };
        let lab = Arc::new(Self {
            options,
            phase,
            api,
            context,
            kubelet,
            tor,
            controllers,
            nodes: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        });
        lab.start_nodes().await?;
        tokio::spawn(scheduler.run());
        tokio::spawn(Arc::clone(&lab.kubelet).run());
        if has_accounts {
            tokio::spawn(renew_tokens(Arc::downgrade(&lab)));
        }
        Ok(lab)
    }

    async fn start_nodes(self: &Arc<Self>) -> anyhow::Result<()> {
        let count = self.options.nodes;
        self.phase.send_replace(Phase::Starting(format!("{count} nodes")));
        let mut starting = tokio::task::JoinSet::new();
        for index in 1..=count {
            let place = Place::of(index, count, self.options.subnets);
            let lab = Arc::clone(self);
            starting.spawn(async move { lab.start_node(place).await });
        }
        while let Some(done) = starting.join_next().await {
            done??;
        }
        Ok(())
    }

    async fn start_node(&self, place: Place) -> anyhow::Result<()> {
        let name = place.name();
        let node = LabNode::start(self.context.clone(), place)
            .await
            .with_context(|| format!("start node {name}"))?;
        self.kubelet.add_host(&name, node.host());
        lock(&self.nodes).insert(place.index, node);
        Ok(())
    }

    /// Waits until every node is Ready; the error says which is not and where to look.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let mut told = None;
        loop {
            let waiting: Vec<Arc<LabNode>> = self.nodes().into_iter().filter(|n| !n.is_ready()).collect();
            if waiting.is_empty() {
                self.phase.send_replace(Phase::Ready);
                return Ok(());
            }
            let names: Vec<String> = waiting.iter().map(|n| why_unready(n)).collect();
            if Instant::now() >= deadline {
                anyhow::bail!("nodes not Ready after {} s: {}", READY_LIMIT.as_secs(), names.join("; "));
            }
            if told.as_ref() != Some(&names) {
                self.phase.send_replace(Phase::Starting(format!("waiting for {}", names.join("; "))));
                told = Some(names);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How the lab stands.
    pub async fn status(&self) -> LabStatus {
        let mut pods = self.kubelet.pods();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        let phase = self.phase.borrow().word().to_owned();
        LabStatus {
            name: self.options.name.to_string(),
            phase,
            kubeconfig: self.options.name.kubeconfig(),
            state_dir: self.options.name.state_dir(),
            family: self.options.family,
            pod_cidr: self.options.pod_cidr.clone(),
            encap: self.options.encap.as_str().to_owned(),
            apiserver: self.api.status().await,
            controllers: self.controllers.iter().flat_map(Controllers::agents).map(|a| a.status()).next(),
            tor: self.tor.status(),
            nodes: self.nodes().iter().map(|n| n.status()).collect(),
            pods,
        }
    }

    /// Kills, stops or starts programs; returns what was done, for the user.
    pub async fn fault(
        &self,
        action: FaultAction,
        target: &str,
        component: Option<&str>,
    ) -> Result<String, Failure> {
        if target == "apiserver" {
            return self.fault_api(action).await;
        }
        let node = if matches!(target, "tor" | CONTROLLERS) { None } else { Some(self.node(target)?) };
        let all: &[Arc<Agent>] = match (&node, target, &self.controllers) {
            (Some(node), ..) => node.agents(),
            (None, "tor", _) => self.tor.agents(),
            (None, _, controllers) => controllers.as_ref().map_or(&[], Controllers::agents),
        };
        let chosen: Vec<&Arc<Agent>> =
            all.iter().filter(|a| component.is_none_or(|c| c == a.name())).collect();
        if let (Some(component), true) = (component, chosen.is_empty()) {
            return Err(Failure::unknown("program", component, all.iter().map(|a| a.name())));
        }
        if chosen.is_empty() {
            return Err(Failure::usage(format!("{target} runs no programs")));
        }
        let mut done = Vec::new();
        for agent in chosen {
            match action {
                FaultAction::Kill if agent.kill() => done.push(format!("killed {}", agent.name())),
                FaultAction::Kill => return Err(Failure::failed(format!("{} is not running", agent.name()))),
                FaultAction::Stop => {
                    agent.stop().await;
                    done.push(format!("stopped {}", agent.name()));
                }
                FaultAction::Start => {
                    agent.resume();
                    done.push(format!("started {}", agent.name()));
                }
            }
        }
        Ok(format!("{target}: {}", done.join(", ")))
    }

    async fn fault_api(&self, action: FaultAction) -> Result<String, Failure> {
        let failed = |e: anyhow::Error| Failure::failed(format!("{e:#}"));
        match action {
            FaultAction::Stop => self.api.stop().await.map_err(failed)?,
            FaultAction::Start => self.api.resume().await.map_err(failed)?,
            FaultAction::Kill => {
                self.api.stop().await.map_err(failed)?;
                self.api.resume().await.map_err(failed)?;
            }
        }
        let words = match action {
            FaultAction::Stop => "stopped; its data stays",
            FaultAction::Start => "started",
            FaultAction::Kill => "cut off and started again",
        };
        Ok(format!("apiserver: {words}"))
    }

    /// Adds the next node; returns its name when it is Ready.
    pub async fn add_node(&self, subnet: Option<u32>) -> Result<String, Failure> {
        let _one = self.changing.lock().await;
        let index = lock(&self.nodes).keys().max().copied().unwrap_or(0) + 1;
        if index > crate::names::MAX_NODES_PER_SUBNET {
            return Err(Failure::usage(format!("node n{index} would have no address")));
        }
        let mut place = Place::of(index, self.options.nodes, self.options.subnets);
        if let Some(subnet) = subnet {
            if subnet >= self.options.subnets {
                return Err(Failure::usage(format!("subnet {subnet} is not in 0..{}", self.options.subnets)));
            }
            place.subnet = subnet;
        }
        self.start_node(place).await.map_err(|e| Failure::failed(format!("{e:#}")))?;
        let node = self.node(&place.name())?;
        let deadline = Instant::now() + READY_LIMIT;
        while !node.is_ready() {
            if Instant::now() >= deadline {
                return Err(Failure::failed(format!("added, but not Ready: {}", why_unready(&node))));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(place.name())
    }

    /// Removes a node with its pods.
    pub async fn remove_node(&self, name: &str) -> Result<(), Failure> {
        let _one = self.changing.lock().await;
        let node = self.node(name)?;
        self.kubelet.drain(name, DRAIN_LIMIT).await.map_err(Failure::failed)?;
        self.kubelet.remove_host(name);
        node.remove().await.map_err(|e| Failure::failed(format!("{e:#}")))?;
        lock(&self.nodes).remove(&node.place.index);
        Ok(())
    }

    /// Pulls or plugs a node's cable.
    pub fn set_link(&self, node: &str, up: bool) -> Result<(), Failure> {
        self.node(node)?.set_link(up).map_err(|e| Failure::failed(format!("link of {node}: {e}")))
    }

    /// Ends all programs; namespaces and files are `cleanup`'s.
    pub async fn end(&self) {
        self.phase.send_replace(Phase::Stopping);
        let mut ending = tokio::task::JoinSet::new();
        for node in self.nodes() {
            ending.spawn(async move { node.end().await });
        }
        self.tor.end().await;
        if let Some(controllers) = &self.controllers {
            controllers.end().await;
        }
        while ending.join_next().await.is_some() {}
        if let Err(e) = self.api.stop().await {
            tracing::warn!(error = %e, "API server not stopped");
        }
    }

    fn node(&self, name: &str) -> Result<Arc<LabNode>, Failure> {
        let nodes = self.nodes();
        nodes.iter().find(|n| n.place.name() == name).cloned().ok_or_else(|| {
            let names: Vec<String> = nodes.iter().map(|n| n.place.name()).collect();
            Failure::unknown(
                "node",
                name,
                names.iter().map(String::as_str).chain(["tor", CONTROLLERS, "apiserver"]),
            )
        })
    }

    fn nodes(&self) -> Vec<Arc<LabNode>> {
        lock(&self.nodes).values().cloned().collect()
    }
}

/// The manifest that was named, or the shipped one.
fn manifest(options: &LabOptions) -> anyhow::Result<Manifest> {
    let Some(path) = options.manifest.as_deref().filter(|path| *path != Path::new(SHIPPED)) else {
        return Manifest::read(None);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Manifest::read(Some(&text)).with_context(|| path.display().to_string())
}

/// Gives the processes new tokens for as long as there is a lab.
async fn renew_tokens(lab: Weak<Lab>) {
    loop {
        tokio::time::sleep(TOKEN_RENEWAL).await;
        let Some(lab) = lab.upgrade() else { return };
        if let Err(error) = lab.api.renew_tokens() {
            tracing::warn!(%error, "tokens not renewed");
        }
    }
}

async fn wait_healthy(cluster: &Cluster) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !cluster.is_healthy().await {
        anyhow::ensure!(Instant::now() < deadline, "the API server does not answer /readyz");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn why_unready(node: &LabNode) -> String {
    let agents: Vec<String> = node
        .agents()
        .iter()
        .map(|a| a.status())
        .filter(|a| a.ready != Some(true))
        .map(|a| match &a.last_exit {
            Some(exit) if a.state != "running" => {
                format!("{} {} ({exit}; {})", a.name, a.state, a.log.display())
            }
            _ => format!("{} {}", a.name, a.state),
        })
        .collect();
    format!("{} [{}]", node.place.name(), agents.join(", "))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
