//! BFD on real sockets: between speakers of ours, and with FRR's bfdd. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::Ipv4Addr;

use bgp::{BfdConfig, BfdState, Config, PeerConfig, PeerKey, PeerState};
use common::node::*;
use common::{Lab, THEM, US, start, until};

/// Two seconds of silence end a session: a busy machine keeps a thread waiting for less.
fn watched(multihop: bool) -> PeerConfig {
    let bfd = BfdConfig { min_tx: 100, min_rx: 100, detect_multiplier: 20, multihop };
    PeerConfig { bfd: Some(bfd), restart_time: 0, ..PeerConfig::new(64512) }
}

/// The time that no machine keeps a thread waiting: for sessions that nothing may end.
fn patient(min_tx: u32) -> PeerConfig {
    let bfd = BfdConfig { min_tx, min_rx: min_tx, detect_multiplier: 100, multihop: false };
    PeerConfig { bfd: Some(bfd), ..watched(false) }
}

fn node(namespace: &Namespace, id: u8, own: &str, other: PeerKey, settings: PeerConfig) -> Node {
    let mut config = Config::new(64512, Ipv4Addr::new(10, 0, 0, id));
    config.peers.insert(other, PeerConfig { local_address: Some(ip(own)), ..settings });
    let any = if own.contains(':') { "::" } else { "0.0.0.0" };
    Node::start(namespace, config, &[at(any, 179)])
}

fn bfd(node: &Node, peer: PeerKey) -> Option<BfdState> {
    node.peer(peer).unwrap().bfd
}

fn cause(node: &Node, peer: PeerKey) -> String {
    node.peer(peer).unwrap().cause.to_string()
}

#[test]
fn a_cut_path_ends_the_session_long_before_the_hold_timer() {
    for multihop in [false, true] {
        for (own, other) in [("10.1.0.1", "10.1.0.2"), ("fd01::1", "fd01::2"), ("fe80::1", "fe80::2")] {
            let (a, b) = (Namespace::new(), Namespace::new());
            if multihop && own.starts_with("fe80") {
                continue;
            }
            // Two bridged links, so that neither side sees the other's go down.
            let wire = Namespace::new();
            wire.ip("link add br0 type bridge");
            wire.ip("link set br0 up");
            for (side, link, address) in [(&a, "l1", own), (&b, "l2", other)] {
                side.join(&wire, link);
                wire.ip(&format!("link set {link} master br0"));
                let (len, flags) = if address.contains(':') { (64, " nodad") } else { (24, "") };
                side.ip(&format!("addr add {address}/{len} dev {link}{flags}"));
            }
            let to_b = PeerKey::new(ip(other), a.index("l1"));
            let to_a = PeerKey::new(ip(own), b.index("l2"));
            let one = node(&a, 1, own, to_b, watched(multihop));
            let two = node(&b, 2, other, to_a, watched(multihop));
            one.until("BFD up", |n| bfd(n, to_b) == Some(BfdState::Up));
            two.until("BFD up", |n| bfd(n, to_a) == Some(BfdState::Up));

            wire.ip("link set l2 down");

            // Nothing is watched while there is no session.
            one.until("the end", |n| {
                cause(n, to_b).starts_with("BFD: nothing heard for 2000 ms") && bfd(n, to_b).is_none()
            });
            wire.ip("link set l2 up");
            one.until("BFD up again", |n| bfd(n, to_b) == Some(BfdState::Up));
        }
    }
}

#[test]
fn switching_bfd_off_and_on_or_changing_its_pace_leaves_the_session() {
    let (namespace, other) = (Namespace::new(), Namespace::new());
    namespace.join(&other, "l1");
    namespace.ip("addr add 10.1.0.1/24 dev l1");
    other.ip("addr add 10.1.0.2/24 dev l1");
    let (to_b, to_a): (PeerKey, PeerKey) = (ip("10.1.0.2").into(), ip("10.1.0.1").into());
    let one = node(&namespace, 1, "10.1.0.1", to_b, patient(300));
    let two = node(&other, 2, "10.1.0.2", to_a, patient(300));
    one.until("BFD up", |n| bfd(n, to_b) == Some(BfdState::Up));

    let set = |node: &Node, peer: PeerKey, bfd: Option<BfdConfig>| {
        node.reconfigure(move |config| config.peers.get_mut(&peer).unwrap().bfd = bfd);
    };
    set(&two, to_a, None);
    one.until("the word of the other side", |n| bfd(n, to_b) == Some(BfdState::AdminDown));
    set(&two, to_a, patient(400).bfd);
    one.until("BFD up again", |n| bfd(n, to_b) == Some(BfdState::Up));
    two.until("BFD up again", |n| bfd(n, to_a) == Some(BfdState::Up));

    for (node, peer) in [(&one, to_b), (&two, to_a)] {
        let status = node.peer(peer).unwrap();
        assert_eq!((status.state, status.flaps), (PeerState::Established, 0), "{}", status.cause);
    }
}

const FRR_BFDD: &str = "
bfd
 peer 10.99.0.1 local-address 10.99.0.2
  detect-multiplier 20
  receive-interval 100
  transmit-interval 100
  no shutdown
";

const FRR_BGPD: &str = "
router bgp 64513
 bgp router-id 10.99.0.2
 no bgp ebgp-requires-policy
 neighbor 10.99.0.1 remote-as 64512
 neighbor 10.99.0.1 timers connect 1
";

#[test]
fn frr_and_we_watch_each_other() {
    let mut lab = Lab::new("bfd");
    let dir = lab.dir.to_str().unwrap().to_owned();
    let pid = |name: &str| lab.dir.join(name).to_str().unwrap().to_owned();
    let (zebra_pid, bfdd_pid, bgpd_pid) = (pid("zebra.pid"), pid("bfdd.pid"), pid("bgpd.pid"));
    let zserv = pid("zserv.api");
    let bfdd_config = lab.file("bfdd.conf", FRR_BFDD);
    let bgpd_config = lab.file("bgpd.conf", FRR_BGPD);
    let zebra_config = lab.file("zebra.conf", "");
    let common = ["-z", &zserv, "--vty_socket", &dir, "-P", "0"];
    let with = |more: &[&'static str], config: &str, pid: &str| -> Vec<String> {
        let own = ["-f", config, "-i", pid];
        own.iter().chain(more).chain(&common).map(|s| (*s).to_owned()).collect()
    };
    let mut spawn = |program: &str, args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        lab.spawn("frr", program, &args)
    };
    spawn("/usr/lib/frr/zebra", with(&[], &zebra_config, &zebra_pid));
    let bfdd = spawn("/usr/lib/frr/bfdd", with(&[], &bfdd_config, &bfdd_pid));
    spawn("/usr/lib/frr/bgpd", with(&["-S", "-n"], &bgpd_config, &bgpd_pid));
    let (up, is_up) = std::sync::mpsc::channel();
    let ours = lab.ours.clone();
    let thread = std::thread::spawn(move || {
        common::in_namespace(&ours, || async move {
            let settings =
                PeerConfig { asn: Some(64513), local_address: Some(US.parse().unwrap()), ..watched(false) };
            let mut driver = start(common::config(settings), false);
            let peer = |s: &bgp::Speaker| s.peer_at(ip(THEM)).unwrap();
            until(&mut driver, "BFD up", |s| peer(s).bfd == Some(BfdState::Up)).await;
            up.send(()).unwrap();
            until(&mut driver, "the end", |s| peer(s).cause.to_string().starts_with("BFD: ")).await;
        });
    });
    if is_up.recv().is_ok() {
        let said = lab.query("vtysh", &["--vty_socket", &dir, "-d", "bfdd", "-c", "show bfd peers brief"]);
        assert!(said.contains(" up"), "{said}");
        lab.kill(bfdd);
    }
    if thread.join().is_err() {
        let said = lab.query("vtysh", &["--vty_socket", &dir, "-d", "bfdd", "-c", "show bfd peers"]);
        panic!("FRR says: {said}");
    }
}
