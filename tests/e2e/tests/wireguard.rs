//! WireGuard on a stock kernel, in a virtual machine: this kernel may have none.
//!
//! The tests that are ignored are what the others run inside of the machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use e2e::{Cluster, Options, programs, within};
use kernel::{
    Driver, WireguardLink, WireguardLinks as _, WireguardPeer, WireguardPeerKey, WireguardPeers as _,
};
use kernel_linux::{WireguardDriver, WireguardPeerDriver};
use model::{Cidr, WireguardKey};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Says that this is the inside of the machine.
const INSIDE: &str = "OCICAT_TEST_INSIDE_VM";
const LINK: &str = "wireguard.cali";
const LINK_V6: &str = "wg-v6.cali";

#[test]
fn links_and_who_is_behind_them_are_in_the_kernel_as_written() {
    in_a_machine("inside_two_ends_talk");
}

#[test]
#[ignore = "takes minutes; `make test-wireguard` runs it"]
fn switched_on_and_off_under_a_ping_in_a_cluster() {
    in_a_machine("inside_a_cluster_is_switched");
}

/// Runs one test of this program in a machine with WireGuard.
fn in_a_machine(test: &str) {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(programs().join("lab"))
        .args(["vm", "--engine", "qemu", "--timeout", "1500", "--", "env"])
        .arg(format!("{INSIDE}=1"))
        .arg(own)
        .args(["--ignored", "--exact", "--nocapture", test])
        .output()
        .expect("lab starts");

    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("test result: ok. 1 passed"), "the test did not run: {text}");
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

#[test]
#[ignore = "another test runs it in a machine"]
fn inside_two_ends_talk() {
    if !is_inside() {
        return;
    }
    let mut ends = [End::new(1), End::new(2)];
    run(
        "ip",
        &["link", "add", "up1", "netns", "end1", "type", "veth", "peer", "name", "up2", "netns", "end2"],
    );
    for end in &ends {
        end.run(
            "ip",
            &["address", "add", &format!("192.0.2.{}/24", end.number), "dev", &format!("up{}", end.number)],
        );
        end.run("ip", &["link", "set", &format!("up{}", end.number), "up"]);
    }

    let keys = ends.each_mut().map(|end| end.make_link());
    assert_ne!(keys[0], keys[1]);
    assert_eq!(ends[0].make_link(), keys[0], "a link that is as it should be keeps its key");

    ends[0].put(keys[1], &ends[0].peer(&["10.2.0.0/26", "10.9.0.9/32"]));
    ends[1].put(keys[0], &ends[1].peer(&["10.1.0.0/26"]));
    for end in &mut ends {
        let other = end.peer_key(keys[end.other() - 1]);
        let session = || {
            end.peers.greet(std::slice::from_ref(&other)).unwrap();
            end.peers.sessions().unwrap()
        };
        within(60, "both come to terms", session, |all| {
            all.get(&other).is_some_and(|s| s.handshake.is_some())
        });
    }
    ends[0].run("ip", &["route", "add", "10.2.0.0/26", "dev", LINK]);
    ends[1].run("ip", &["route", "add", "10.1.0.0/26", "dev", LINK]);
    ends[0].run("ping", &["-c", "1", "-W", "60", "10.2.0.1"]);

    ends[0].ranges_move(keys[1]);
    ends[0].many_ranges(keys[1]);
    ends[0].takes_ipv6();
    for mut end in ends {
        let present: Vec<_> = end.peers.list().unwrap().into_keys().collect();
        assert!(end.peers.apply(&[], &present).is_empty());
        assert_eq!(end.peers.list().unwrap(), BTreeMap::new());
        assert!(end.links.apply(&[], &[LINK.to_owned(), LINK_V6.to_owned()]).is_empty());
        assert_eq!(end.links.list().unwrap(), BTreeMap::new());
        assert_eq!(end.peers.sessions().unwrap(), BTreeMap::new(), "nobody is behind no link");
    }
}

/// One end in a network namespace of its own, with the sockets that its drivers have opened there.
struct End {
    number: usize,
    links: WireguardDriver,
    peers: WireguardPeerDriver,
}

impl End {
    fn new(number: usize) -> Self {
        let name = format!("end{number}");
        run("ip", &["netns", "add", &name]);
        let open = move || {
            enter(&name);
            (WireguardDriver::new().unwrap(), WireguardPeerDriver::new().unwrap())
        };
        let (links, peers) = std::thread::spawn(open).join().unwrap();
        Self { number, links, peers }
    }

    fn other(&self) -> usize {
        3 - self.number
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        run("ip", &[&["netns", "exec", &format!("end{}", self.number), program], arguments].concat());
    }

    /// Makes the link and gives back its public key.
    fn make_link(&mut self) -> WireguardKey {
        let address = format!("10.{}.0.1", self.number).parse().ok();
        self.put_link(LINK, WireguardLink { port: 51820, mtu: Some(1420), address })
    }

    fn put_link(&mut self, link: &str, wanted: WireguardLink) -> WireguardKey {
        let name = format!("end{}", self.number);
        let links = &mut self.links;
        // Sysctls are those of the namespace of whoever writes.
        let apply = move || {
            enter(&name);
            let failures = links.apply(&[(link.to_owned(), wanted.clone())], &[]);
            assert!(failures.is_empty(), "{failures:?}");
            assert_eq!(links.list().unwrap().get(link), Some(&wanted));
            links.keys()[link]
        };
        std::thread::scope(|scope| scope.spawn(apply).join()).unwrap()
    }

    fn peer_key(&self, key: WireguardKey) -> WireguardPeerKey {
        WireguardPeerKey { interface: LINK.to_owned(), key }
    }

    fn peer(&self, ranges: &[&str]) -> WireguardPeer {
        let address = IpAddr::from([192, 0, 2, u8::try_from(self.other()).unwrap()]);
        let allowed = ranges.iter().map(|range| range.parse().unwrap()).collect();
        WireguardPeer { endpoint: SocketAddr::new(address, 51820), allowed, keep_alive: 0 }
    }

    /// Writes the peer and reads it back.
    fn put(&mut self, key: WireguardKey, wanted: &WireguardPeer) {
        let key = self.peer_key(key);
        let failures = self.peers.apply(&[(key.clone(), wanted.clone())], &[]);
        assert!(failures.is_empty(), "{failures:?}");
        let found = self.peers.list().unwrap();
        assert_eq!(found.get(&key), Some(wanted), "{found:?}");
    }

    fn ranges(&mut self, key: WireguardKey) -> Vec<String> {
        let key = self.peer_key(key);
        self.peers.list().unwrap()[&key].allowed.iter().map(ToString::to_string).collect()
    }

    /// What one gives up, and what moves to somebody else, is with nobody but the one who has it.
    fn ranges_move(&mut self, key: WireguardKey) {
        let stranger = WireguardKey([9; 32]);
        self.put(stranger, &self.peer(&["10.9.0.9/32", "fd00::/64"]));
        assert_eq!(self.ranges(key), ["10.2.0.0/26"]);
        self.put(stranger, &self.peer(&["fd00::/64"]));
        self.put(key, &self.peer(&["10.2.0.0/26", "10.9.0.9/32"]));
        assert_eq!(self.ranges(stranger), ["fd00::/64"]);
        let mut found = self.peers.list().unwrap();
        found.retain(|_, peer| peer.allowed.is_empty());
        assert_eq!(found, BTreeMap::new(), "nothing is left of taking ranges away");
    }

    /// The link for IPv6 has addresses of that, inside and outside.
    fn takes_ipv6(&mut self) {
        let address = "fd00:10::1".parse().ok();
        self.put_link(LINK_V6, WireguardLink { port: 51821, mtu: Some(1400), address });
        let key = WireguardPeerKey { interface: LINK_V6.to_owned(), key: WireguardKey([7; 32]) };
        let allowed = BTreeSet::from(["fd00:20::/122".parse().unwrap(), "2001:db8::2/128".parse().unwrap()]);
        let endpoint = "[2001:db8::2]:51821".parse().unwrap();
        let wanted = WireguardPeer { endpoint, allowed, keep_alive: 25 };
        let failures = self.peers.apply(&[(key.clone(), wanted.clone())], &[]);
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(self.peers.list().unwrap().get(&key), Some(&wanted));
    }

    /// More than fit into one message.
    fn many_ranges(&mut self, key: WireguardKey) {
        let many: BTreeSet<Cidr> =
            (0..3000_u32).map(|at| format!("10.128.{}.{}/32", at / 250, at % 250).parse().unwrap()).collect();
        self.put(key, &WireguardPeer { allowed: many, ..self.peer(&[]) });
        self.put(key, &self.peer(&["10.2.0.0/26"]));
    }
}

fn enter(name: &str) {
    let netns = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&netns), Some(LinkNameSpaceType::Network)).unwrap();
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "another test runs it in a machine"]
fn inside_a_cluster_is_switched() {
    if !is_inside() {
        return;
    }
    let switch = Switch::new();

    switch.without_loss("on", || switch.turn(true));
    let capture = switch.capture();
    assert!(capture.contains("UDP") && !capture.contains("ICMP"), "{capture}");
    switch.route_get_says("WireGuard");

    switch.without_loss("a restart", || {
        switch.cluster.lab_ok(&["kill", "n1", "felix"]);
        switch.cluster.well_again("n1");
        switch.arrives(true);
    });
    switch.without_loss("off", || switch.turn(false));
    switch.route_get_says("none");
    for node in ["n1", "n2"] {
        let links = || switch.cluster.exec(node, &["ip", "-o", "link", "show"]);
        within(60, "the link goes", links, |links| !links.contains(LINK));
    }
}

/// Two nodes with a pod each.
struct Switch {
    cluster: Cluster,
    pods: [String; 2],
}

impl Switch {
    fn new() -> Self {
        let cluster = Cluster::up("wg", &Options { nodes: 2, subnets: 1, ..Options::default() });
        for node in 1..=2 {
            cluster.pod(&format!("p{node}"), &format!("n{node}"));
        }
        cluster.pods_ready();
        let pods = [cluster.address("p1"), cluster.address("p2")];
        cluster.expect_probe("default/p1", "default/p2", 80, "allowed");
        Self { cluster, pods }
    }

    fn turn(&self, on: bool) {
        let configuration = format!(
            "apiVersion: crd.projectcalico.org/v1\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
             spec: {{wireguardEnabled: {on}}}\n"
        );
        self.cluster.apply(&configuration);
        self.arrives(on);
    }

    /// Waits until both nodes send as they are told.
    fn arrives(&self, on: bool) {
        for (node, to) in [("n1", &self.pods[1]), ("n2", &self.pods[0])] {
            let way = || self.cluster.exec(node, &["ip", "route", "get", to]);
            let what = format!("WireGuard {on} on {node}");
            within(100, &what, way, |way| way.contains(&format!("dev {LINK}")) == on);
        }
    }

    fn without_loss(&self, what: &str, turn: impl FnOnce()) {
        let pings = [("default/p1", 1), ("default/p2", 0)];
        let pings = pings.map(|(from, to)| self.cluster.ping(from, &self.pods[to]));
        turn();
        let tallies = pings.map(|ping| ping.stop().unwrap());
        assert!(tallies.iter().all(|tally| tally.sent > 0 && tally.lost() == 0), "{what}: {tallies:?}");
    }

    /// What goes over the first node's uplink under a ping.
    fn capture(&self) -> String {
        let _ping = self.cluster.ping("default/p1", &self.pods[1]);
        let port = ["-c", "10", "-n", "-i", "eth0", "udp", "port", "51820", "or", "icmp"];
        self.cluster.exec("n1", &[&["timeout", "300", "tcpdump", "-Q", "out"], &port[..]].concat())
    }

    fn route_get_says(&self, encapsulation: &str) {
        let look = || {
            let output = Command::new(programs().join("ocicat"))
                .args(["route", "get", "default/p1", "default/p2", "-o", "json"])
                .args(["--kubeconfig", self.cluster.kubeconfig()])
                .output()
                .unwrap();
            let ways: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let route = &ways[0]["nodes"][0]["route"];
            (output.status.code(), route["encapsulation"].as_str().unwrap_or_default().to_owned())
        };
        let wanted = (Some(0), encapsulation.to_owned());
        within(60, "route get", look, |seen| *seen == wanted);
    }
}
