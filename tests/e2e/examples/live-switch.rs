//! Turns a pool through IPIP, VXLAN and direct routing while pods of all nodes ask one another a thousand times a second,
//! and counts what is never answered. `make measure-switch` runs it in a virtual machine with a distribution's kernel,
//! which has IPIP.
//!
//! `MODES` takes some of the ways, in any order; `RATE` is packets a second for each ordered pair of pods.

#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use e2e::{Cluster, Options, within};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const POOL: &str = "default-ipv4-ippool";
const PORT: u16 = 7100;
/// Name, `ipipMode`, `vxlanMode`, and the link that leads to another subnet and to one's own.
const WAYS: [(&str, &str, &str, [&str; 2]); 5] = [
    ("direct", "Never", "Never", ["eth", "eth"]),
    ("ipip-cross", "CrossSubnet", "Never", ["tunl0", "eth"]),
    ("ipip", "Always", "Never", ["tunl0", "tunl0"]),
    ("vxlan-cross", "Never", "CrossSubnet", ["vxlan.calico", "eth"]),
    ("vxlan", "Never", "Always", ["vxlan.calico", "vxlan.calico"]),
];
const SEQUENCE: &str = "ipip-cross,ipip,vxlan,ipip,direct,ipip,vxlan-cross,ipip-cross,vxlan,direct";
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(3);
/// Traffic goes on so long after the last route has turned.
const AFTER: Duration = Duration::from_secs(2);

fn main() {
    let cluster = Cluster::up("switch", &Options::default());
    for (at, node) in NODES.iter().enumerate() {
        cluster.pod(&format!("p{}", at + 1), node);
    }
    cluster.pods_ready();
    let pods: Vec<String> = (1..=3).map(|at| cluster.address(&format!("p{at}"))).collect();
    let subnets: Vec<String> = NODES.iter().map(|node| subnet(&cluster, node)).collect();
    for pod in 1..=3 {
        echo(&cluster, pod);
    }
    // What is lost before the pods' first routes have come says nothing of a switch.
    for (from, to) in pairs() {
        let (from, to) = (format!("default/p{}", from + 1), format!("default/p{}", to + 1));
        within(
            180,
            "pods reach each other",
            || cluster.probe(&from, &to, 80),
            |verdict| verdict == "allowed",
        );
    }
    let modes = std::env::var("MODES").unwrap_or_else(|_| SEQUENCE.to_owned());
    let rate: u32 = std::env::var("RATE").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let mut before = "direct";
    for mode in modes.split(',') {
        let (name, ipip, vxlan, links) = WAYS.into_iter().find(|way| way.0 == mode).expect("a way of WAYS");
        let streams: Vec<Stream> =
            pairs().map(|(from, to)| Stream::start(&cluster, from, &pods[to], rate)).collect();
        let start = Instant::now();
        let patch = format!(r#"{{"spec": {{"ipipMode": "{ipip}", "vxlanMode": "{vxlan}"}}}}"#);
        cluster.kubectl_ok(&["patch", "ippool", POOL, "--type", "merge", "-p", &patch]);
        for (from, to) in pairs() {
            let link = links[usize::from(subnets[from] == subnets[to])];
            let way = || cluster.exec(NODES[from], &["ip", "route", "get", &pods[to]]);
            let is_there = |way: &String| way.contains(&format!("dev {link}"));
            within(180, &format!("{name}: {} leads to {}", NODES[from], NODES[to]), way, is_there);
        }
        let turned = start.elapsed();
        sleep(AFTER);
        let seconds = start.elapsed().as_secs_f64();
        let (mut sent, mut lost) = (0, 0);
        for ((from, to), stream) in pairs().zip(streams) {
            let (of_stream, unanswered) = stream.stop();
            sent += of_stream;
            lost += unanswered.len();
            if let (Some(first), Some(last)) = (unanswered.first(), unanswered.last()) {
                let (from, to, count) = (NODES[from], NODES[to], unanswered.len());
                println!("  {from} to {to}: {count} of {of_stream}, from number {first} to {last}");
            }
        }
        let pace = sent as f64 / seconds / pairs().count() as f64;
        println!(
            "{before} to {name}: {lost} of {sent} packets lost; {pace:.0} a second for each of {} pairs; seen turned after {:.1} s",
            pairs().count(),
            turned.as_secs_f64()
        );
        before = name;
    }
}

/// Every ordered pair of nodes.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to)
}

/// What the node's address begins with; subnets of a lab are of 24 bits.
fn subnet(cluster: &Cluster, node: &str) -> String {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    let address = cluster.kubectl_ok(&["get", "node", node, "-o", path]);
    address.rsplit_once('.').unwrap().0.to_owned()
}

/// Sends back what comes, until the program ends.
fn echo(cluster: &Cluster, pod: usize) {
    let socket = cluster.inside(&format!("default/p{pod}"), || UdpSocket::bind(("0.0.0.0", PORT))).unwrap();
    make_room(&socket);
    spawn(move || {
        let mut packet = [0; 8];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(&packet[..length], from);
        }
    });
}

/// What a reader that waits for the processor has no time for is kept: that says nothing of the network.
fn make_room(socket: &UdpSocket) {
    set_socket_recv_buffer_size_force(socket, 64 << 20).unwrap();
}

/// Numbered packets from one pod to another.
struct Stream {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<BTreeSet<u64>>,
}

impl Stream {
    fn start(cluster: &Cluster, from: usize, to: &str, rate: u32) -> Self {
        let to: SocketAddr = format!("{to}:{PORT}").parse().unwrap();
        let socket =
            cluster.inside(&format!("default/p{}", from + 1), || UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.connect(to).unwrap();
        make_room(&socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (receiving, over) = (socket.try_clone().unwrap(), is_over.clone());
        let receiver = spawn(move || {
            let (mut packet, mut seen) = ([0; 8], BTreeSet::new());
            loop {
                match receiving.recv(&mut packet) {
                    Ok(_) => _ = seen.insert(u64::from_be_bytes(packet)),
                    // Nothing has come for as long as an answer may take.
                    Err(_) if over.load(Ordering::Relaxed) => return seen,
                    Err(_) => {}
                }
            }
        });
        let (over, count) = (is_over.clone(), sent.clone());
        let sender = spawn(move || {
            let (pause, mut next) = (Duration::from_secs(1) / rate, Instant::now());
            while !over.load(Ordering::Relaxed) {
                // One that the node refuses to send is lost, too.
                let _ = socket.send(&count.fetch_add(1, Ordering::Relaxed).to_be_bytes());
                next = (next + pause).max(Instant::now());
                sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { is_over, sent, sender, receiver }
    }

    /// Packets sent, and those of them that were never answered.
    fn stop(self) -> (u64, Vec<u64>) {
        self.is_over.store(true, Ordering::Relaxed);
        self.sender.join().expect("it sends without panic");
        let seen = self.receiver.join().expect("it receives without panic");
        let sent = self.sent.load(Ordering::Relaxed);
        (sent, (0..sent).filter(|number| !seen.contains(number)).collect())
    }
}
