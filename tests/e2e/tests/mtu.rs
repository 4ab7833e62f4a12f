//! The MTU of pods that run follows the pools and the settings, and no connection stalls over it.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use e2e::{Cluster, Options, programs, within};
use serde_json::Value;

/// What an IPv4 header and that of an echo request take of the MTU.
const HEADERS: u32 = 28;
/// What those of IPv4 and TCP take, with the option of timestamps.
const TCP_HEADERS: u32 = 20 + 20 + 12;

#[test]
fn running_pods_follow_and_a_connection_with_full_segments_goes_on() {
    let cluster = Cluster::up("mtu", &Options { nodes: 2, ..Options::default() });
    cluster.pod("p1", "n1");
    cluster.pod("p2", "n2");
    cluster.pods_ready();
    cluster.expect_probe("default/p1", "default/p2", 80, "allowed");
    let stream = Stream::start(&cluster);
    assert_eq!(mtus(&cluster), [1500; 4]);
    carries(&cluster, 1500);

    settings(&cluster, 1400);
    follows(&cluster, 1400);
    carries(&cluster, 1400);
    stream.goes_on("with a smaller MTU");
    // Packets also take the way over the router, before the session between the nodes is up.
    let is_learned = |way: &Value| way["mtu"] == 1400 && way["nodes"][0]["route"]["protocol"] == "bird";
    let way = within(30, "the way that is told", || route_get(&cluster), is_learned);
    assert_eq!(way["nodes"].as_array().unwrap().len(), 2, "{way}");

    settings(&cluster, 0);
    pool(&cluster, "Always");
    follows(&cluster, 1450);
    carries(&cluster, 1450);
    stream.goes_on("in a tunnel");

    // Somebody else gave this pod its MTU: it keeps it.
    cluster.exec("default/p2", &["ip", "link", "set", "eth0", "mtu", "1300"]);
    settings(&cluster, 1350);
    let pods = || mtus(&cluster);
    within(60, "p1 follows, and the node sends p2 no more than it takes", pods, |mtus| {
        *mtus == [1350, 1350, 1300, 1300]
    });
    stream.goes_on("to a pod with an MTU of its own");
}

#[test]
fn segments_fit_through_a_tunnel_that_pods_know_nothing_of() {
    let cluster = Cluster::up("mss", &Options { nodes: 2, ..Options::default() });
    cluster.pod("p1", "n1");
    cluster.pod("p2", "n2");
    cluster.pods_ready();
    cluster.expect_probe("default/p1", "default/p2", 80, "allowed");
    let listener = cluster.inside("default/p2", || TcpListener::bind("0.0.0.0:7000").unwrap());
    std::thread::spawn(move || listener.incoming().flatten().collect::<Vec<_>>());

    // Pods keep the MTU of the link although VXLAN takes 50 bytes of it.
    spec(&cluster, "{mtu: 1500, clampMSSToPMTU: true}");
    pool(&cluster, "Always");

    let segments = || (segment_size(&cluster).unwrap_or_default(), mtus(&cluster));
    let clamped = 1450 - TCP_HEADERS;
    within(60, "segments that fit into the tunnel", segments, |now| *now == (clamped, vec![1500; 4]));
    spec(&cluster, "{mtu: 1500, clampMSSToPMTU: false}");
    within(60, "what the pods' links take", segments, |now| *now == (1500 - TCP_HEADERS, vec![1500; 4]));
}

/// What a new connection from p1 to p2 takes for a segment, bytes, before either end has sent one.
fn segment_size(cluster: &Cluster) -> Option<u32> {
    let address: SocketAddr = format!("{}:7000", cluster.address("p2")).parse().unwrap();
    let connection = cluster.inside("default/p1", || TcpStream::connect(address)).ok()?;
    let port = format!("sport = :{}", connection.local_addr().ok()?.port());
    let state = cluster.exec("default/p1", &["ss", "-tinH", &port]);
    state.split_whitespace().find_map(|word| word.strip_prefix("mss:")?.parse().ok())
}

/// Both sides of both pods: p1's, its node's, p2's, its node's.
fn mtus(cluster: &Cluster) -> Vec<u32> {
    let mut all = Vec::new();
    for (pod, node) in [("p1", "n1"), ("p2", "n2")] {
        all.push(mtu(&cluster.exec(&format!("default/{pod}"), &["ip", "-o", "link", "show", "eth0"])));
        let links = cluster.exec(node, &["ip", "-o", "link", "show"]);
        let link = links.lines().find(|line| line.contains(": cali"));
        all.push(mtu(link.unwrap_or_else(|| panic!("no pod's link in {links}"))));
    }
    all
}

fn mtu(link: &str) -> u32 {
    let mut words = link.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no MTU in {link}"))
}

fn follows(cluster: &Cluster, mtu: u32) {
    within(60, &format!("all pods have MTU {mtu}"), || mtus(cluster), |all| all.iter().all(|is| *is == mtu));
}

/// Packets of this size that may not be cut go through; larger ones do not leave the pod.
fn carries(cluster: &Cluster, mtu: u32) {
    let address = cluster.address("p2");
    let ping = |size: u32| {
        let size = (size - HEADERS).to_string();
        let command = ["ping", "-n", "-c1", "-W10", "-M", "do", "-s", &size, &address];
        cluster.lab(&[&["exec", "default/p1", "--"], &command[..]].concat()).status.success()
    };
    within(60, &format!("packets of {mtu} bytes go through"), || ping(mtu), |is_so| *is_so);
    assert!(!ping(mtu + 1), "more than {mtu} bytes");
}

fn settings(cluster: &Cluster, mtu: u32) {
    spec(cluster, &format!("{{mtu: {mtu}}}"));
}

fn pool(cluster: &Cluster, vxlan_mode: &str) {
    let patch = format!(r#"{{"spec": {{"ipipMode": "Never", "vxlanMode": "{vxlan_mode}"}}}}"#);
    cluster.kubectl_ok(&["patch", "ippool", "default-ipv4-ippool", "--type", "merge", "-p", &patch]);
}

fn spec(cluster: &Cluster, spec: &str) {
    cluster.apply(&format!(
        "apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {{name: default}}
spec: {spec}
"
    ));
}

fn route_get(cluster: &Cluster) -> Value {
    let output = std::process::Command::new(programs().join("ocicat"))
        .args([
            "route",
            "get",
            "default/p1",
            "default/p2",
            "-o",
            "json",
            "--kubeconfig",
            cluster.kubeconfig(),
        ])
        .output()
        .unwrap();
    let ways: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    ways[0].clone()
}

/// A connection from p1 to p2 that always has more to send.
struct Stream {
    received: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
}

impl Stream {
    fn start(cluster: &Cluster) -> Self {
        let (received, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let address: SocketAddr = format!("{}:7000", cluster.address("p2")).parse().unwrap();
        let listener = cluster.inside("default/p2", || TcpListener::bind("0.0.0.0:7000").unwrap());
        let mut sender = cluster.inside("default/p1", || TcpStream::connect(address).unwrap());
        let (mut receiver, _) = listener.accept().unwrap();
        let over = ends.clone();
        std::thread::spawn(move || {
            let chunk = vec![0; 64 * 1024];
            while !over.load(Ordering::Relaxed) && sender.write_all(&chunk).is_ok() {
                // Other tests want the processor, too.
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let count = received.clone();
        std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = receiver.read(&mut chunk) {
                count.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
        Self { received, ends }
    }

    /// A megabyte more than now comes.
    fn goes_on(&self, when: &str) {
        let enough = self.received.load(Ordering::Relaxed) + (1 << 20);
        let received = || self.received.load(Ordering::Relaxed);
        within(60, &format!("the connection goes on {when}"), received, |now| *now >= enough);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}
