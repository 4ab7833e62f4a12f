//! One node of a lab: its namespace, felix and bird-lite in it, and its Node object, kept Ready while they are.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::agents::{Agent, AgentSpec};
use crate::cluster::{Cluster, status_code, timestamp};
use crate::cni::CniNode;
use crate::kubelet::HostNode;
use crate::names::{Family, LabName, Place, netns_path, zone};
use crate::netns;
use crate::node_pod::PodMaker;
use crate::options::LabOptions;
use crate::status::NodeStatus;
use crate::topology;

/// How often a node that was never ready is asked, one that is no longer, and one that is.
const STARTING: Duration = Duration::from_millis(40);
const UNREADY: Duration = Duration::from_millis(250);
const READY: Duration = Duration::from_secs(2);
/// So many checks in a row must fail before a ready node counts as not ready: a restart takes less.
const STRIKES: u32 = 3;

/// The program by which nodes may hear of the cluster.
pub const TYPHA: &str = "typha";
const TYPHA_PORT: u16 = 5473;
const TYPHA_HEALTH: u16 = 9093;
const FELIX_HEALTH: u16 = 9099;
const BIRD_LITE_HEALTH: u16 = 9098;

/// What all nodes of a lab have in common.
#[derive(Clone)]
pub struct NodeContext {
    /// The lab.
    pub lab: LabName,
    /// Its families.
    pub family: Family,
    /// Where felix, bird-lite and the CNI plugins are.
    pub bin_dir: PathBuf,
    /// The API server.
    pub cluster: Cluster,
    /// What a node runs.
    pub runs: Runs,
    /// Where the first node's typha listens, if it has one.
    pub typha: Option<SocketAddr>,
}

/// What a node runs.
#[derive(Clone)]
pub enum Runs {
    /// No felix and bird-lite.
    Nothing,
    /// felix and bird-lite with all rights, as they are quickest to start.
    Programs,
    /// The pod of a manifest.
    Pod(Arc<PodMaker>),
}

/// A running node.
pub struct LabNode {
    /// Where it sits.
    pub place: Place,
    context: NodeContext,
    agents: Vec<Arc<Agent>>,
    ready: AtomicBool,
    link_up: AtomicBool,
    watcher: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl LabNode {
    /// Builds the node, registers it and starts its programs.
    pub async fn start(context: NodeContext, place: Place) -> anyhow::Result<Arc<Self>> {
        let name = place.name();
        let dir = context.lab.state_dir().join(&name);
        std::fs::create_dir_all(dir.join("felix")).with_context(|| format!("make {}", dir.display()))?;
        let (lab, family) = (context.lab.clone(), context.family);
        tokio::task::spawn_blocking(move || topology::add_node(&lab, place, family)).await??;
        register(&context.cluster, place, &node_object(place)).await?;
        let mut agents = match &context.runs {
            Runs::Nothing => Vec::new(),
            Runs::Programs => agent_specs(&context, place),
            Runs::Pod(pod) => pod.prepare(&context.lab, &name).await?,
        };
        let is_first = place.index == 1 && !agents.is_empty();
        agents.extend(context.typha.filter(|_| is_first).map(|address| typha_spec(&context, place, address)));
        let node = Arc::new(Self {
            place,
            context,
            agents: agents.into_iter().map(Agent::start).collect(),
            ready: AtomicBool::new(false),
            link_up: AtomicBool::new(true),
            watcher: std::sync::Mutex::default(),
        });
        let task = tokio::spawn(Arc::clone(&node).keep_ready());
        *node.watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(task);
        Ok(node)
    }

    /// Whether the Node object says Ready.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The supervised programs.
    pub fn agents(&self) -> &[Arc<Agent>] {
        &self.agents
    }

    /// What the kubelet stand-in needs to run pods here.
    pub fn host(&self) -> HostNode {
        let name = self.place.name();
        let dir = self.context.lab.state_dir().join(&name);
        HostNode {
            addresses: self.place.addresses(self.context.family),
            cni: CniNode {
                netns: self.netns(),
                felix_socket: dir.join("felix.sock"),
                bin_dir: self.context.bin_dir.clone(),
                family: self.context.family,
                log: dir.join("cni.log"),
                node: name,
            },
        }
    }

    /// What status shows.
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            name: self.place.name(),
            addresses: self.place.addresses(self.context.family),
            subnet: self.place.subnet,
            ready: self.is_ready(),
            link: if self.link_up.load(Ordering::Relaxed) { "up" } else { "down" }.to_owned(),
            netns: self.netns(),
            agents: self.agents.iter().map(|a| a.status()).collect(),
        }
    }

    /// Pulls or plugs the node's cable.
    pub fn set_link(&self, up: bool) -> io::Result<()> {
        topology::set_link(&self.context.lab, &self.place.name(), up)?;
        self.link_up.store(up, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the programs and the upkeep of the Node object; namespace and object stay.
    pub async fn end(&self) {
        let task = self.watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
        }
        for agent in &self.agents {
            agent.end().await;
        }
    }

    /// Removes what [`LabNode::start`] made; the pods must be gone.
    pub async fn remove(&self) -> anyhow::Result<()> {
        self.end().await;
        let name = self.place.name();
        self.context.cluster.delete(&node_path(&name), None).await.context("delete the Node object")?;
        let lab = self.context.lab.clone();
        tokio::task::spawn_blocking(move || topology::remove_node(&lab, &name)).await??;
        let dir = self.context.lab.state_dir().join(self.place.name());
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
    }

    fn netns(&self) -> PathBuf {
        netns_path(&self.context.lab.netns(&self.place.name()))
    }

    async fn keep_ready(self: Arc<Self>) {
        let mut published = None;
        let mut strikes = 0;
        let mut ever = false;
        loop {
            let seen = self.check_agents().await;
            strikes = if seen { 0 } else { strikes + 1 };
            let ready = seen || (ever && published == Some(true) && strikes < STRIKES);
            if published != Some(ready) {
                match self.publish(ready).await {
                    Ok(()) => published = Some(ready),
                    Err(e) => {
                        tracing::warn!(node = %self.place.name(), error = %e, "node status not written")
                    }
                }
                self.ready.store(published == Some(true), Ordering::Relaxed);
            }
            ever |= ready;
            let pause = match (published == Some(true) && seen, ever) {
                (true, _) => READY,
                (false, true) => UNREADY,
                (false, false) => STARTING,
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn check_agents(&self) -> bool {
        let netns = self.netns();
        let mut all = true;
        for agent in &self.agents {
            let ready = match agent.readiness() {
                Some(address) => answers_ready(&netns, address).await,
                None => agent.status().state == "running",
            };
            agent.set_ready(ready);
            all &= ready;
        }
        all
    }

    async fn publish(&self, ready: bool) -> kube::Result<()> {
        let path = format!("{}/status", node_path(&self.place.name()));
        let patch = json!({"status": node_status(self.place, self.context.family, ready, &timestamp())});
        match self.context.cluster.patch(&path, &patch).await {
            // Somebody deleted the object: a kubelet registers its node again.
            Err(e) if status_code(&e) == Some(404) => {
                self.context.cluster.create("/api/v1/nodes", &node_object(self.place)).await?;
                self.context.cluster.patch(&path, &patch).await
            }
            other => other,
        }
    }
}

async fn register(cluster: &Cluster, place: Place, object: &Value) -> anyhow::Result<()> {
    let name = place.name();
    let made =
        cluster.create("/api/v1/nodes", object).await.with_context(|| format!("create Node {name}"))?;
    if !made {
        let labels = json!({"metadata": {"labels": object["metadata"]["labels"]}});
        cluster.patch(&node_path(&name), &labels).await.with_context(|| format!("label Node {name}"))?;
    }
    Ok(())
}

/// The programs with the lab's own kubeconfig and all rights.
fn agent_specs(context: &NodeContext, place: Place) -> Vec<AgentSpec> {
    let name = place.name();
    let dir = context.lab.state_dir().join(&name);
    let kubeconfig = context.lab.node_kubeconfig();
    let spec = |program: &str, port: u16, more: &[String]| {
        let socket = dir.join(format!("{program}.sock"));
        let mut command = vec![
            context.bin_dir.join(program).display().to_string(),
            "--node-name".to_owned(),
            name.clone(),
            "--kubeconfig".to_owned(),
            kubeconfig.display().to_string(),
            "--socket".to_owned(),
            socket.display().to_string(),
            "--health-listen".to_owned(),
            format!("127.0.0.1:{port}"),
        ];
        command.extend_from_slice(more);
        AgentSpec {
            name: program.to_owned(),
            command,
            environment: vec![(
                "XTABLES_LOCKFILE".to_owned(),
                dir.join("xtables.lock").display().to_string(),
            )],
            netns: netns_path(&context.lab.netns(&name)),
            log: dir.join(format!("{program}.log")),
            readiness: Some((Ipv4Addr::LOCALHOST, port).into()),
            confinement: None,
        }
    };
    let state = ["--state-dir".to_owned(), dir.join("felix").display().to_string()];
    vec![spec("felix", FELIX_HEALTH, &state), spec("bird-lite", BIRD_LITE_HEALTH, &[])]
}

/// Where the typha of a lab listens: on its first node.
pub fn typha_address(options: &LabOptions) -> SocketAddr {
    let first = Place::of(1, options.nodes, options.subnets);
    let address = if options.family.has_v4() { first.v4().into() } else { first.v6().into() };
    SocketAddr::new(address, TYPHA_PORT)
}

fn typha_spec(context: &NodeContext, place: Place, address: SocketAddr) -> AgentSpec {
    let name = place.name();
    let health = SocketAddr::from((Ipv4Addr::LOCALHOST, TYPHA_HEALTH));
    let (kubeconfig, program) = (context.lab.node_kubeconfig(), context.bin_dir.join(TYPHA));
    let command = [
        program.display().to_string(),
        "--kubeconfig".to_owned(),
        kubeconfig.display().to_string(),
        "--listen".to_owned(),
        address.to_string(),
        "--health-listen".to_owned(),
        health.to_string(),
        "--service".to_owned(),
        "none".to_owned(),
    ];
    AgentSpec {
        name: TYPHA.to_owned(),
        command: command.into(),
        environment: Vec::new(),
        netns: netns_path(&context.lab.netns(&name)),
        log: context.lab.state_dir().join(&name).join(format!("{TYPHA}.log")),
        readiness: Some(health),
        confinement: None,
    }
}

fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

fn node_object(place: Place) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": place.name(), "labels": {
            "kubernetes.io/hostname": place.name(),
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "topology.kubernetes.io/zone": zone(place.subnet),
        }},
        "spec": {},
    })
}

fn node_status(place: Place, family: Family, ready: bool, now: &Value) -> Value {
    let mut addresses: Vec<Value> =
        place.addresses(family).iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
    addresses.push(json!({"type": "Hostname", "address": place.name()}));
    let (status, reason, message) = if ready {
        ("True", "KubeletReady", "felix and bird-lite are ready")
    } else {
        ("False", "KubeletNotReady", "felix or bird-lite is not ready")
    };
    let resources = json!({"cpu": "2", "memory": "4Gi", "pods": "110"});
    json!({
        "addresses": addresses,
        "capacity": resources,
        "allocatable": resources,
        "conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now}],
        "nodeInfo": {
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "bootID": "", "machineID": place.name(), "systemUUID": place.name(),
            "containerRuntimeVersion": concat!("lab://", env!("CARGO_PKG_VERSION")),
            "kernelVersion": kernel_release(),
            "kubeProxyVersion": "",
            "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "-lab"),
            "operatingSystem": "linux",
            "osImage": "network namespace",
        },
    })
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// Whether `GET /readiness` at an address of a network namespace answers 200 within five seconds.
pub(crate) async fn answers_ready(netns: &Path, at: SocketAddr) -> bool {
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, ask_readiness(netns, at)).await.is_ok_and(|r| r.unwrap_or(false))
}

async fn ask_readiness(netns: &Path, at: SocketAddr) -> io::Result<bool> {
    let socket = netns::enter(netns, TcpSocket::new_v4).await?;
    let mut stream = socket.connect(at).await?;
    stream.write_all(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    (&mut stream).take(4096).read_to_end(&mut answer).await?;
    Ok(is_200(&answer))
}

fn is_200(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.") && answer.get(8..12) == Some(b" 200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_status_200_is_ready() {
        assert!(is_200(b"HTTP/1.1 200 OK\r\n\r\n"));
        assert!(is_200(b"HTTP/1.0 200\r\n"));
        assert!(!is_200(b"HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(!is_200(b"HTTP/1.1"));
    }

    #[test]
    fn node_tells_its_zone_and_addresses() {
        let place = Place::of(3, 3, 2);
        assert_eq!(node_object(place)["metadata"]["labels"]["topology.kubernetes.io/zone"], "subnet-1");
        let status = node_status(place, Family::V4, false, &json!("NOW"));
        assert_eq!(
            status["addresses"],
            json!([{"type": "InternalIP", "address": "172.20.1.13"}, {"type": "Hostname", "address": "n3"}])
        );
        assert_eq!(status["conditions"][0]["status"], "False");
    }
}
