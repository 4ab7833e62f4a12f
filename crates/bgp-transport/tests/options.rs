//! Socket options as peers feel them: passwords, TTL security, link-local peers, addresses that come and go.
//! Speakers of ours in network namespaces. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::{IpAddr, Ipv4Addr, TcpStream};

use bgp::{Config, DynamicNeighbours, Password, PeerConfig, PeerKey};
use common::node::*;

/// A speaker of AS 64512 at `address`, with one peer.
fn speaker(id: u8, address: &str, peer: &str, settings: PeerConfig) -> Config {
    let mut config = Config::new(64512, Ipv4Addr::new(10, 0, 0, id));
    let settings = PeerConfig { local_address: Some(ip(address)), ..settings };
    config.peers.insert(ip(peer).into(), settings);
    config
}

fn with_password(password: &str) -> PeerConfig {
    PeerConfig { password: Some(Password::new(password.to_owned())), ..PeerConfig::new(64512) }
}

fn set_password(node: &Node, peer: &str, password: &'static str) {
    let peer = ip(peer);
    node.reconfigure(move |config| {
        let peer = config.peers.get_mut(&PeerKey::from(peer)).unwrap();
        peer.password = Some(Password::new(password.to_owned()));
    });
}

/// Addresses of two speakers in one namespace, and that namespace.
fn loopback(pair: [&str; 2]) -> Namespace {
    let namespace = Namespace::new();
    for address in pair {
        let len = if address.contains(':') { 128 } else { 32 };
        namespace.ip(&format!("addr add {address}/{len} dev lo"));
    }
    namespace
}

#[test]
fn passwords_must_agree_and_may_change_live() {
    for pair in [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]] {
        let namespace = loopback(pair);
        let [a, b] = pair;
        let one = Node::start(&namespace, speaker(1, a, b, with_password("first")), &[at(a, 179)]);
        let two = Node::start(&namespace, speaker(2, b, a, with_password("second")), &[at(b, 179)]);
        one.until("a cause", |n| n.peer(ip(b)).unwrap().cause.to_string().contains("MD5 mismatch suspected"));
        assert!(!one.is_up(ip(b)));

        set_password(&two, a, "first");
        one.until("the right password", |n| n.is_up(ip(b)));

        set_password(&one, b, "third");
        one.until("the session to end", |n| !n.is_up(ip(b)));
        set_password(&two, a, "third");
        one.until("the changed password", |n| n.is_up(ip(b)));
    }
}

#[test]
fn a_range_of_neighbours_has_one_password() {
    let namespace = loopback(["192.0.2.1", "192.0.2.66"]);
    namespace.ip("addr add 192.0.2.67/32 dev lo");
    let mut reflector = Config::new(64512, Ipv4Addr::new(10, 0, 0, 1));
    let range = |password| DynamicNeighbours::new("192.0.2.64/26".parse().unwrap(), with_password(password));
    reflector.dynamic = vec![range("one")];
    let reflector = Node::start(&namespace, reflector, &[at("192.0.2.1", 179)]);
    let client =
        |id, own, settings| Node::start(&namespace, speaker(id, own, "192.0.2.1", settings), &[at(own, 179)]);
    let knows = client(2, "192.0.2.66", with_password("one"));
    let stranger = client(3, "192.0.2.67", PeerConfig::new(64512));

    knows.until("a client with the password", |n| n.is_up(ip("192.0.2.1")));
    stranger.until("a cause", |n| n.peer(ip("192.0.2.1")).unwrap().cause.to_string().contains("timed out"));

    reflector.reconfigure(move |config| config.dynamic = vec![range("two")]);
    set_password(&knows, "192.0.2.1", "two");
    knows.until("the new password", |n| {
        n.is_up(ip("192.0.2.1")) && n.peer(ip("192.0.2.1")).unwrap().sessions > 1
    });
    assert!(!stranger.is_up(ip("192.0.2.1")));
}

#[test]
fn ttl_security_counts_hops_and_changes_live() {
    let (a, router, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    a.join(&router, "l1");
    b.join(&router, "l2");
    for (namespace, link, address) in [
        (&a, "l1", "10.1.0.2"),
        (&router, "l1", "10.1.0.1"),
        (&router, "l2", "10.2.0.1"),
        (&b, "l2", "10.2.0.2"),
    ] {
        namespace.ip(&format!("addr add {address}/24 dev {link}"));
    }
    for (namespace, link, v6) in
        [(&a, "l1", "fd01::2"), (&router, "l1", "fd01::1"), (&router, "l2", "fd02::1"), (&b, "l2", "fd02::2")]
    {
        namespace.ip(&format!("addr add {v6}/64 dev {link} nodad"));
    }
    router.exec("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    a.ip("route add default via 10.1.0.1");
    b.ip("route add default via 10.2.0.1");
    a.ip("route add default via fd01::1");
    b.ip("route add default via fd02::1");
    for (one, two) in [("10.1.0.2", "10.2.0.2"), ("fd01::2", "fd02::2")] {
        let far = PeerConfig { ttl_security: Some(2), ..PeerConfig::new(64512) };
        let near = PeerConfig { ttl_security: Some(1), ..PeerConfig::new(64512) };
        let first = Node::start(&a, speaker(1, one, two, far.clone()), &[at(one, 179)]);
        let second = Node::start(&b, speaker(2, two, one, near), &[at(two, 179)]);
        second.until("an attempt to fail", |n| {
            n.peer(ip(one)).unwrap().cause.to_string().contains("timed out")
        });
        assert!(
            !second.is_up(ip(one)) && !first.is_up(ip(two)),
            "a peer behind a router passed for a neighbour"
        );

        let peer: PeerKey = ip(one).into();
        let local_address = Some(ip(two));
        second.reconfigure(move |c| drop(c.peers.insert(peer, PeerConfig { local_address, ..far })));
        second.until("two hops", |n| n.is_up(ip(one)));
    }
}

#[test]
fn the_same_link_local_address_on_two_links_is_two_peers() {
    let (a, b) = (Namespace::new(), Namespace::new());
    for link in ["l1", "l2"] {
        a.join(&b, link);
        a.ip(&format!("addr add fe80::a/64 dev {link} nodad"));
        b.ip(&format!("addr add fe80::b/64 dev {link} nodad"));
    }
    let node = |namespace: &Namespace, id, own: &str, other: &str| {
        let mut config = Config::new(64512, Ipv4Addr::new(10, 0, 0, id));
        let links = ["l1", "l2"].map(|link| namespace.index(link));
        // The one that is to end ends soon; the other one outlives whatever a busy machine does.
        for (scope, hold_time) in links.into_iter().zip([3, 90]) {
            let local_address = Some(ip(own));
            let settings = PeerConfig { local_address, hold_time, ..PeerConfig::new(64512) };
            config.peers.insert(PeerKey::new(ip(other), scope), settings);
        }
        (Node::start(namespace, config, &[at("::", 179)]), links)
    };
    let (one, links) = node(&a, 1, "fe80::a", "fe80::b");
    let (_two, _) = node(&b, 2, "fe80::b", "fe80::a");

    one.until("both sessions", |n| links.iter().all(|scope| n.is_up(PeerKey::new(ip("fe80::b"), *scope))));

    a.ip("link set l1 down");
    let [first, second] = links.map(|scope| PeerKey::new(ip("fe80::b"), scope));
    one.until("the session over the link to end", |n| !n.is_up(first));
    assert!(one.is_up(second) && one.peer(second).unwrap().flaps == 0, "the other link's session stays");
}

#[test]
fn listening_moves_live_and_only_there() {
    let namespace = loopback(["192.0.2.1", "192.0.2.2"]);
    let settings = PeerConfig { port: 1179, ..PeerConfig::new(64512) };
    let passive = PeerConfig { passive: true, ..PeerConfig::new(64512) };
    let server =
        Node::start(&namespace, speaker(1, "192.0.2.1", "192.0.2.2", passive), &[at("192.0.2.1", 179)]);
    let client = Node::start(&namespace, speaker(2, "192.0.2.2", "192.0.2.1", settings), &[]);
    client.until("a cause", |n| n.peer(ip("192.0.2.1")).unwrap().cause.to_string().contains("refused"));

    server.ask(|driver| driver.listen(&[at("192.0.2.1", 1179)]).unwrap());
    client.until("the new port", |n| n.is_up(ip("192.0.2.1")));
    server.ask(|driver| driver.listen(&[at("192.0.2.1", 2179)]).unwrap());

    let connect = |address: &'static str, port| {
        let name = namespace.name.clone();
        let thread = std::thread::spawn(move || {
            let (tx, rx) = std::sync::mpsc::channel();
            common::in_namespace(&name, || async move {
                tx.send(TcpStream::connect(at(address, port)).is_ok()).unwrap();
            });
            rx.recv().unwrap()
        });
        thread.join().unwrap()
    };
    assert!(connect("192.0.2.1", 2179), "the port that is listened on now");
    assert!(!connect("192.0.2.1", 1179) && !connect("192.0.2.2", 2179), "nowhere else");
    assert_eq!(client.peer(ip("192.0.2.1")).unwrap().sessions, 1, "the session did not notice");

    let missing = server.ask(|driver| driver.listen(&[at("192.0.2.1", 2179), at("198.51.100.9", 179)]));
    let said = missing.unwrap_err()[0].to_string();
    assert_eq!(said, "cannot listen on 198.51.100.9:179: the address is not on this host");
}

#[test]
fn an_address_that_goes_takes_its_session_and_no_other() {
    let (a, b) = (Namespace::new(), Namespace::new());
    a.join(&b, "l1");
    for (namespace, addresses) in [(&a, ["10.1.0.1", "10.2.0.1"]), (&b, ["10.1.0.2", "10.2.0.2"])] {
        addresses.iter().for_each(|address| namespace.ip(&format!("addr add {address}/24 dev l1")));
    }
    let node = |namespace: &Namespace, id, own: [&str; 2], others: [&str; 2]| {
        let mut config = Config::new(64512, Ipv4Addr::new(10, 0, 0, id));
        // The one that is to end ends soon; the other one outlives whatever a busy machine does.
        for ((own, other), hold_time) in own.into_iter().zip(others).zip([3, 90]) {
            let local_address = Some(ip(own));
            let settings = PeerConfig { local_address, hold_time, ..PeerConfig::new(64512) };
            config.peers.insert(ip(other).into(), settings);
        }
        Node::start(namespace, config, &own.map(|own| at(own, 179)))
    };
    let one = node(&a, 1, ["10.1.0.1", "10.2.0.1"], ["10.1.0.2", "10.2.0.2"]);
    let _two = node(&b, 2, ["10.1.0.2", "10.2.0.2"], ["10.1.0.1", "10.2.0.1"]);
    let [first, second]: [IpAddr; 2] = ["10.1.0.2", "10.2.0.2"].map(ip);
    one.until("both sessions", |n| n.is_up(first) && n.is_up(second));

    a.ip("addr del 10.1.0.1/24 dev l1");
    one.until("the session to end, and why", |n| {
        let cause = n.peer(first).unwrap().cause.to_string();
        !n.is_up(first) && cause.starts_with("source address 10.1.0.1 is not on this host")
    });
    a.ip("addr add 10.1.0.1/24 dev l1");
    one.until("the session to come back", |n| n.is_up(first));

    assert_eq!(one.peer(second).unwrap().flaps, 0, "the other session was disturbed");
}
