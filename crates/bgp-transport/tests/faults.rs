//! Peers that misbehave on the level of connections: others do not notice. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use bgp::{Config, DynamicNeighbours, PeerConfig};
use bgp_packet::{AfiSafi, Capability, Family, NextHop, Open, PathAttributes, Prefix, encode_keepalive};
use common::node::*;
use rustix::net::{AddressFamily, SocketType};

/// A server at 127.0.0.1 that takes anybody of 127.0.0.0/8.
fn server(namespace: &Namespace, hold_time: u16) -> Node {
    let mut config = Config::new(64512, Ipv4Addr::new(10, 0, 0, 1));
    let template = PeerConfig { reflector_client: true, hold_time, ..PeerConfig::new(64512) };
    config.cluster_id = Some(Ipv4Addr::new(10, 0, 0, 1));
    config.dynamic = vec![DynamicNeighbours::new("127.0.0.0/8".parse().unwrap(), template)];
    Node::start(namespace, config, &[at("127.0.0.1", 179)])
}

fn client(namespace: &Namespace, n: u8) -> Node {
    let own = Ipv4Addr::new(127, 9, 0, n);
    let mut config = Config::new(64512, Ipv4Addr::new(10, 9, 0, n));
    // A third of it may pass without a word from a busy machine, and no session is lost for that.
    let settings = PeerConfig { local_address: Some(own.into()), hold_time: 20, ..PeerConfig::new(64512) };
    config.peers.insert(ip("127.0.0.1").into(), settings);
    Node::start(namespace, config, &[])
}

/// Connections from `own` addresses, made inside the namespace.
fn connect(namespace: &Namespace, own: Vec<Ipv4Addr>) -> Vec<TcpStream> {
    let name = namespace.name.clone();
    let thread = std::thread::spawn(move || {
        let (tx, rx) = std::sync::mpsc::channel();
        common::in_namespace(&name, || async move {
            for own in own {
                let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
                rustix::net::bind(&socket, &SocketAddr::from((own, 0))).unwrap();
                rustix::net::connect(&socket, &at("127.0.0.1", 179)).unwrap();
                tx.send(TcpStream::from(socket)).unwrap();
            }
        });
        rx.into_iter().collect()
    });
    thread.join().unwrap()
}

/// An OPEN and a KEEPALIVE: all that a session needs from its other side.
fn greet(mut stream: &TcpStream, id: u8) {
    let capabilities =
        vec![Capability::Multiprotocol(AfiSafi::from(Family::Ipv4)), Capability::FourOctetAs(64512)];
    let open = Open { asn: 64512, hold_time: 0, router_id: Ipv4Addr::new(10, 8, 0, id), capabilities };
    let mut bytes = Vec::new();
    open.encode(&mut bytes);
    encode_keepalive(&mut bytes);
    stream.write_all(&bytes).unwrap();
}

fn originate(node: &Node, count: u32) {
    node.ask(move |driver| {
        for i in 0..count {
            let address = Ipv4Addr::from(0x0a00_0000 + (i << 4));
            let prefix = Prefix::new(address.into(), 28).unwrap();
            let attributes = PathAttributes::new(NextHop::V4(Ipv4Addr::UNSPECIFIED));
            driver.speaker_mut().originate(prefix, attributes);
        }
    });
}

fn routes(node: &Node) -> usize {
    node.ask(|driver| driver.speaker().routes_count())
}

#[test]
fn a_thousand_connections_that_say_nothing_disturb_nobody() {
    let namespace = Namespace::new();
    let server = server(&namespace, 90);
    let own = (0..1000_u32).map(|i| Ipv4Addr::from(0x7f10_0000 + i)).collect();
    let silent = connect(&namespace, own);

    let late = client(&namespace, 1);
    late.until("a session in spite of them", |n| n.is_up(ip("127.0.0.1")));
    originate(&server, 10);
    late.until("its routes", |n| routes(n) == 10);

    assert_eq!(silent.len(), 1000);
    let half_open = server.ask(|driver| driver.speaker().peers().len());
    assert!(half_open <= 1001, "{half_open} peers for 1001 connections");
}

#[test]
fn an_address_has_one_half_open_connection() {
    let namespace = Namespace::new();
    let server = server(&namespace, 90);
    let same = connect(&namespace, vec![Ipv4Addr::new(127, 16, 0, 1); 200]);

    server.until("one of them left", |n| n.ask(|driver| driver.speaker().peers().len()) == 1);

    // All but the last are closed: after our OPEN comes the end.
    let closed = same[..199].iter().filter(|stream| {
        let mut rest = Vec::new();
        let mut stream: &TcpStream = stream;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_end(&mut rest).is_ok()
    });
    assert_eq!(closed.count(), 199);
}

#[test]
fn a_peer_that_stops_reading_delays_nobody() {
    let namespace = Namespace::new();
    let server = server(&namespace, 90);
    let stuck = connect(&namespace, vec![Ipv4Addr::new(127, 16, 0, 1)]);
    greet(&stuck[0], 1);
    server.until("the session that will be stuck", |n| n.is_up(ip("127.16.0.1")));
    let live = client(&namespace, 1);
    live.until("a session", |n| n.is_up(ip("127.0.0.1")));

    originate(&server, 300_000);

    live.until("all routes", |n| routes(n) == 300_000);
    let status = server.peer(ip("127.16.0.1")).unwrap();
    assert_eq!(status.state, bgp::PeerState::Established, "it may stay as long as it answers in time");
    assert_eq!(live.peer(ip("127.0.0.1")).unwrap().sessions, 1, "the hold time held");
}

#[test]
fn a_peer_that_floods_does_not_delay_keepalives_of_others() {
    let namespace = Namespace::new();
    let server = server(&namespace, 90);
    let quiet = client(&namespace, 1);
    let flooding = client(&namespace, 2);
    quiet.until("a session", |n| n.is_up(ip("127.0.0.1")));
    flooding.until("a session", |n| n.is_up(ip("127.0.0.1")));

    for round in 0..3 {
        originate(&flooding, 100_000);
        quiet.until("the flood", |n| routes(n) == 100_000);
        flooding.ask(|driver| {
            let all: Vec<Prefix> = driver.speaker().routes().iter().map(|r| r.prefix).collect();
            all.into_iter().for_each(|prefix| driver.speaker_mut().withdraw(prefix));
        });
        quiet.until("the ebb", |n| routes(n) == 0);
        assert_eq!(quiet.peer(ip("127.0.0.1")).unwrap().sessions, 1, "round {round}");
    }
    assert_eq!(server.peer(ip("127.9.0.1")).unwrap().sessions, 1);
}
