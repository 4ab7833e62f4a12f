//! VXLAN between nodes: the pool's mode is a dial that is turned while packets run, and nobody loses one.

use std::net::Ipv4Addr;

use e2e::{Cluster, Options, within};
use ping::RunningPing;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Every pair of nodes; an answer takes the other direction.
const PAIRS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];

struct Dial {
    cluster: Cluster,
    pods: Vec<String>,
    nodes: Vec<Ipv4Addr>,
}

impl Dial {
    fn new(test: &str) -> Self {
        let cluster = Cluster::up(test, &Options::default());
        for (at, node) in NODES.iter().enumerate() {
            cluster.pod(&format!("p{}", at + 1), node);
        }
        cluster.pods_ready();
        let pods: Vec<String> = (1..=3).map(|at| cluster.address(&format!("p{at}"))).collect();
        let address = |node: &&str| {
            let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
            cluster.kubectl_ok(&["get", "node", node, "-o", path]).parse().expect("a node has an address")
        };
        let nodes = NODES.iter().map(address).collect();
        for (from, to) in PAIRS {
            cluster.expect_probe(
                &format!("default/p{}", from + 1),
                &format!("default/p{}", to + 1),
                80,
                "allowed",
            );
        }
        Self { cluster, pods, nodes }
    }

    /// The lab's subnets are of 24 bits.
    fn is_near(&self, from: usize, to: usize) -> bool {
        self.nodes[from].octets()[..3] == self.nodes[to].octets()[..3]
    }

    fn patch(&self, spec: &str) {
        let patch = format!("{{\"spec\": {spec}}}");
        self.cluster.kubectl_ok(&["patch", "ippool", "default-ipv4-ippool", "--type", "merge", "-p", &patch]);
    }

    /// Waits until every node sends to every other pod as `mode` says, by one route alone.
    fn arrives(&self, mode: &str) {
        for (from, to) in (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(a, b)| a != b) {
            let tunnelled = mode == "Always" || mode == "CrossSubnet" && !self.is_near(from, to);
            let look = || {
                let way = self.cluster.exec(NODES[from], &["ip", "route", "get", &self.pods[to]]);
                let all = self.cluster.exec(NODES[from], &["ip", "route", "show", "match", &self.pods[to]]);
                let of_block = all.lines().filter(|line| !line.starts_with("default")).count();
                (way.contains("dev vxlan.calico"), of_block, all)
            };
            let what = format!("{mode}: {} leads to {}", NODES[from], NODES[to]);
            within(30, &what, look, |(through, count, _)| (*through, *count) == (tunnelled, 1));
        }
    }

    fn pings(&self) -> Vec<RunningPing> {
        PAIRS.map(|(from, to)| self.cluster.ping(&format!("default/p{}", from + 1), &self.pods[to])).into()
    }

    /// Whatever happens in `turn`, no packet between nodes is lost.
    fn without_loss(&self, what: &str, turn: impl FnOnce()) {
        let pings = self.pings();
        turn();
        for ((from, to), ping) in PAIRS.into_iter().zip(pings) {
            let tally = ping.stop().expect("ping ran");
            assert_eq!(tally.lost(), 0, "{what}: {} to {}: {tally}", NODES[from], NODES[to]);
            assert!(tally.sent > 0, "{what}: the ping did not run");
        }
    }

    fn turn(&self, mode: &str) {
        self.without_loss(mode, || {
            self.patch(&format!("{{\"vxlanMode\": \"{mode}\"}}"));
            self.arrives(mode);
        });
    }
}

#[test]
fn the_mode_is_turned_live_without_losing_a_packet() {
    let dial = Dial::new("vxlan");

    for mode in ["Always", "CrossSubnet", "Never", "CrossSubnet", "Always", "Never"] {
        dial.turn(mode);
    }
}

#[test]
fn daemons_that_die_in_the_middle_of_a_turn_lose_nothing() {
    let dial = Dial::new("vxlandie");
    dial.turn("Always");

    dial.without_loss("deaths", || {
        for (mode, node, daemon) in [("Never", "n1", "felix"), ("Always", "n2", "bird-lite")] {
            dial.patch(&format!("{{\"vxlanMode\": \"{mode}\"}}"));
            dial.cluster.lab_ok(&["kill", node, daemon]);
            dial.cluster.well_again(node);
            dial.arrives(mode);
        }
    });
}
