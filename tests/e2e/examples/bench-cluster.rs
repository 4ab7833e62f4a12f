//! Measures a whole cluster in one run: start, pod start, policy latency, idle cost.
//!
//! `make bench` runs it with optimised programs; docs/benchmarks.md keeps method and figures.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use e2e::{Cluster, Options};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Pods that stand beside the measured ones, and policies that select them.
const CROWD: usize = 97;
const POLICIES: usize = 100;
const ROUNDS: usize = 15;
/// With `--far`: what a cluster of a thousand nodes has elsewhere.
const FAR_PODS: usize = 30_000;
const FAR_NODES: usize = 1_000;
const FAR_ROUNDS: usize = 100;

/// Source port of the next probe. None is used twice: conntrack would let it pass as part of an old flow.
static NEXT_PORT: AtomicU16 = AtomicU16::new(10_000);

fn main() -> Outcome<()> {
    let begin = Instant::now();
    let cluster = Cluster::up("bench", &Options::default());
    report("lab up, three nodes to Ready", begin.elapsed(), "5 s");
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(measure(&cluster))
}

async fn measure(cluster: &Cluster) -> Outcome<()> {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
    let client =
        Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?;
    idle(cluster, "idle, no pods").await?;
    pod_start(&client).await?;
    crowd(cluster, &client).await?;
    policy_latency(cluster, &client, ROUNDS, "").await?;
    idle(cluster, &format!("idle, {} pods and {POLICIES} policies", CROWD + 3)).await?;
    if std::env::args().any(|argument| argument == "--far") {
        far_pods(&client).await?;
        let beside = format!(", {FAR_PODS} pods on {FAR_NODES} other nodes");
        policy_latency(cluster, &client, FAR_ROUNDS, &beside).await?;
    }
    Ok(())
}

/// As many pods as so many nodes have, elsewhere: every agent knows them, none runs here.
async fn far_pods(client: &Client) -> Outcome<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let begin = Instant::now();
    let made = futures_util::stream::iter(0..FAR_PODS).map(|number| {
        let pods = pods.clone();
        async move {
            let name = format!("far-{number}");
            let address = format!("10.{}.{}.{}", 100 + number / 65_536, number / 256 % 256, number % 256);
            let far = json!({
                "metadata": {"name": name, "labels": {"app": format!("far-{}", number % 500), "far": "yes"}},
                "spec": {
                    "nodeName": format!("far-{}", number % FAR_NODES),
                    "containers": [{"name": "c", "image": "lab/responder"}],
                },
            });
            pods.create(&PostParams::default(), &serde_json::from_value(far)?).await?;
            let status =
                json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            Ok::<_, Box<dyn std::error::Error>>(())
        }
    });
    made.buffer_unordered(64).try_collect::<Vec<()>>().await?;
    report(&format!("{FAR_PODS} pods written"), begin.elapsed(), "no limit");
    Ok(())
}

/// From the API's answer to the creation of a pod until its condition Ready is seen by a watcher.
async fn pod_start(client: &Client) -> Outcome<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("start-{round}");
        let begin = Instant::now();
        create_and_wait(&pods, &name, &format!("n{}", round % 3 + 1)).await?;
        times.push(begin.elapsed());
    }
    report(&format!("pod created to Ready, median of {ROUNDS}"), median(&mut times), "300 ms");
    for round in 0..ROUNDS {
        pods.delete(&format!("start-{round}"), &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn create_and_wait(pods: &Api<Pod>, name: &str, node: &str) -> Outcome<()> {
    let list = pods.list(&Default::default()).await?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let watch = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = pods.watch(&watch, &version).await?.boxed();
    pods.create(&PostParams::default(), &pod(name, node)?).await?;
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Modified(pod) = event
            && is_ready(&pod)
        {
            return Ok(());
        }
    }
    Err(format!("the watch of {name} ended").into())
}

async fn crowd(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let policies: Api<NetworkPolicy> = Api::default_namespaced(client.clone());
    for number in 0..CROWD {
        pods.create(
            &PostParams::default(),
            &pod(&format!("crowd-{number}"), &format!("n{}", number % 3 + 1))?,
        )
        .await?;
    }
    for (name, node) in [("from", "n1"), ("to", "n3"), ("other", "n2")] {
        pods.create(&PostParams::default(), &pod(name, node)?).await?;
    }
    for number in 0..POLICIES {
        let selected = format!("crowd-{}", number % CROWD);
        policies
            .create(&PostParams::default(), &policy(&format!("crowd-{number}"), &selected, "crowd-0")?)
            .await?;
    }
    cluster.pods_ready();
    Ok(())
}

/// From the moment the API is asked to create a policy until the first packet of a new flow is dropped: the
/// last of the probes sent every millisecond that was still answered.
async fn policy_latency(cluster: &Cluster, client: &Client, rounds: usize, beside: &str) -> Outcome<()> {
    let policies: Api<NetworkPolicy> = Api::default_namespaced(client.clone());
    let namespace = format!("/run/netns/{}-default-from", cluster.name());
    let target: SocketAddr = format!("{}:80", cluster.address("to")).parse()?;
    let mut times = Vec::new();
    for round in 0..rounds {
        let name = format!("closing-{round}");
        let prober = std::thread::spawn({
            let namespace = namespace.clone();
            move || probe_until_closed(&namespace, target)
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        let asked = Instant::now();
        policies.create(&PostParams::default(), &policy(&name, "to", "other")?).await?;
        let last_open = prober.join().map_err(|_| "the prober ended badly")??;
        times.push(last_open.saturating_duration_since(asked));
        policies.delete(&name, &DeleteParams::default()).await?;
        cluster.expect_probe("default/from", "default/to", 80, "allowed");
    }
    let what = format!("policy created to enforced, {} pods and {POLICIES} policies{beside}", CROWD + 3);
    report(&format!("{what}, median of {rounds}"), median(&mut times), "10 ms");
    report(&format!("{what}, 99th percentile"), times[(times.len() * 99).div_ceil(100) - 1], "100 ms");
    Ok(())
}

/// Sends a UDP packet from a new port every millisecond; when the last answered one was sent,
/// once 300 ms have passed without an answer.
fn probe_until_closed(namespace: &str, target: SocketAddr) -> Result<Instant, String> {
    let text = |error: std::io::Error| error.to_string();
    let file = File::open(namespace).map_err(|error| format!("{namespace}: {error}"))?;
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let mut open: Vec<(Duration, UdpSocket)> = Vec::new();
    let mut last = Duration::ZERO;
    while begin.elapsed() < last + Duration::from_millis(300) {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let socket = UdpSocket::bind(("0.0.0.0", port)).map_err(text)?;
        socket.set_nonblocking(true).map_err(text)?;
        socket.connect(target).map_err(text)?;
        let sent = begin.elapsed();
        socket.send(b"?").map_err(text)?;
        open.push((sent, socket));
        std::thread::sleep(Duration::from_millis(1));
        open.retain(|(sent, socket)| match socket.recv(&mut [0; 256]) {
            Ok(_) => {
                last = last.max(*sent);
                false
            }
            Err(error) => {
                error.kind() == ErrorKind::WouldBlock && begin.elapsed() < *sent + Duration::from_millis(300)
            }
        });
        if begin.elapsed() > Duration::from_secs(30) {
            return Err("the policy was not enforced within 30 s".to_owned());
        }
    }
    Ok(begin + last)
}

/// CPU time and memory of the daemons of the first node while nothing happens.
async fn idle(cluster: &Cluster, title: &str) -> Outcome<()> {
    const WINDOW: Duration = Duration::from_secs(20);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status: serde_json::Value = serde_json::from_str(&cluster.lab_ok(&["status", "-o", "json"]))?;
    let node = status["nodes"].as_array().and_then(|nodes| nodes.first().cloned()).unwrap_or_default();
    let mut before = BTreeMap::new();
    for daemon in ["felix", "bird-lite"] {
        let agents = node["agents"].as_array().ok_or("the lab's status has no agents")?;
        let agent = agents.iter().find(|agent| agent["name"] == daemon);
        let pid = agent.and_then(|agent| agent["pid"].as_u64()).ok_or(format!("{daemon} has no process"))?;
        before.insert(daemon, (pid, cpu_ticks(pid)?));
    }
    tokio::time::sleep(WINDOW).await;
    for (daemon, (pid, ticks)) in before {
        let spent = cpu_ticks(pid)? - ticks;
        let percent = spent as f64 / WINDOW.as_secs_f64(); // 100 ticks a second
        println!(
            "{title}: {daemon:10} {percent:.2} % of a core (≤ 0.5 %), {:.1} MB resident (≤ 25 MB)",
            resident_mb(pid)?
        );
    }
    Ok(())
}

fn cpu_ticks(pid: u64) -> Outcome<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn resident_mb(pid: u64) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse::<f64>()? / 1024.0)
}

fn report(what: &str, time: Duration, limit: &str) {
    println!("{what}: {:.1} ms (≤ {limit})", time.as_secs_f64() * 1000.0);
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn pod(name: &str, node: &str) -> Outcome<Pod> {
    let ports = json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]);
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "lab/responder", "ports": ports}]},
    }))?)
}

fn policy(name: &str, selected: &str, from: &str) -> Outcome<NetworkPolicy> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": selected}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}]}],
        },
    }))?)
}
