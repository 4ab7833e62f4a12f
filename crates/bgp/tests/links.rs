//! What links do to sessions: latencies that differ, connections that break, silence; and topologies that live on
//! when something of them is gone.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;
mod script;

use std::net::Ipv4Addr;

use bgp::{Cause, DynamicNeighbours, Event, PeerConfig, PeerState, Refused};
use net::*;
use script::Script;

fn block(n: u8) -> String {
    format!("10.0.{n}.0/26")
}

/// A mesh whose node `n` announces a block.
fn meshed(size: u8, latency: u64) -> Net {
    let mut net = Net::new(latency);
    for n in 1..=size {
        net.start(n, mesh(n, size), false);
        net.speaker(n).originate(prefix(&block(n)), local());
    }
    net
}

fn complete(net: &mut Net, nodes: &[u8]) -> bool {
    nodes.iter().all(|n| nodes.iter().all(|m| net.has(*n, &block(*m))))
}

#[test]
fn connections_that_cross_end_as_one_session_whatever_each_direction_takes() {
    for there in [0, 1, 7, 90, 400, 1100] {
        for back in [0, 3, 80, 410, 900] {
            let mut net = meshed(2, 0);
            net.lag(1, 2, there);
            net.lag(2, 1, back);

            net.until("one session", 60, |net| complete(net, &[1, 2]));
            net.run(120);

            let seen = [(1, 2), (2, 1)].map(|(n, m)| net.speaker(n).peer_at(ip(m)).unwrap());
            let names = (there, back);
            assert!(seen.iter().all(|p| p.state == PeerState::Established), "{names:?} ms");
            assert!(seen.iter().all(|p| p.flaps <= 1), "{names:?} ms: {seen:?}");
        }
    }
}

#[test]
fn a_connection_that_breaks_is_made_anew_and_no_route_is_missed() {
    let mut net = meshed(3, 5);
    net.until("the mesh", 10, |net| net.all_up() && complete(net, &[1, 2, 3]));
    net.run(10);

    for _ in 0..5 {
        net.break_between(1, 2);
        assert!(complete(&mut net, &[1, 2, 3]), "routes went with the connection");
        net.until("the session again", 30, |net| net.all_up());
        net.run(20);
        assert!(complete(&mut net, &[1, 2, 3]));
    }

    let causes = net.take_events(3).into_iter().filter(|e| matches!(e, Event::PeerDown { .. })).count();
    assert_eq!(causes, 0, "others were disturbed");
    let seen = net.speaker(1).peer_at(ip(2)).unwrap();
    assert_eq!((seen.flaps, seen.sessions), (5, 6));
    assert!(matches!(&seen.history[1].cause, Some(Cause::Closed(_))), "{:?}", seen.history);
}

#[test]
fn one_direction_that_is_dead_is_found_by_the_side_that_hears_nothing() {
    let mut net = meshed(2, 5);
    net.until("the session", 10, |net| complete(net, &[1, 2]));
    net.cut_one_way(1, 2);

    net.run(100);

    let history = net.speaker(2).peer_at(ip(1)).unwrap().history;
    let expired = Some(Cause::HoldTimerExpired(90));
    assert!(history.iter().any(|turn| turn.cause == expired), "{history:?}");
    net.heal();
    net.until("the session again", 60, |net| net.all_up());
    assert!(complete(&mut net, &[1, 2]));
}

#[test]
fn clients_of_two_reflectors_lose_nothing_with_one_of_them() {
    // Both reflect for the same clients in one cluster, and know one another.
    let mut net = Net::new(5);
    let cluster = Some(Ipv4Addr::new(244, 0, 0, 1));
    for n in [1, 2] {
        let mut config = config(n);
        config.cluster_id = cluster;
        let client = PeerConfig { reflector_client: true, ..peer(n, 64512) };
        config.dynamic = vec![DynamicNeighbours::new(prefix("192.0.2.0/24"), client)];
        config.peers.insert(key(3 - n), peer(n, 64512));
        net.start(n, config, false);
    }
    for n in 3..=7 {
        let mut config = config(n);
        for reflector in [1, 2] {
            config.peers.insert(key(reflector), PeerConfig { restart_time: 0, ..peer(n, 64512) });
        }
        net.start(n, config, false);
        net.speaker(n).originate(prefix(&block(n)), local());
    }
    let clients: Vec<u8> = (3..=7).collect();
    net.until("reflection", 10, |net| complete(net, &clients) && net.all_up());
    net.run(5);

    net.kill(1);
    let end = net.now + std::time::Duration::from_secs(300);
    net.run_until(end, |net| assert!(complete(net, &clients), "a route went with one reflector"));
}

#[test]
fn a_ring_of_networks_finds_the_other_way_round_and_no_route_circles() {
    // Five networks in a ring, each announces a block.
    const SIZE: u8 = 5;
    let mut net = Net::new(5);
    let next = |n: u8| n % SIZE + 1;
    let before = |n: u8| (n + SIZE - 2) % SIZE + 1;
    for n in 1..=SIZE {
        let mut config = config_in(n, 65000 + u32::from(n));
        for m in [next(n), before(n)] {
            config.peers.insert(key(m), PeerConfig { restart_time: 0, ..peer(n, 65000 + u32::from(m)) });
        }
        net.start(n, config, false);
        net.speaker(n).originate(prefix(&block(n)), local());
    }
    let all: Vec<u8> = (1..=SIZE).collect();
    net.until("the ring", 20, |net| net.all_up() && complete(net, &all));
    net.run(5);
    let hops =
        |net: &mut Net, n, m| net.speaker(n).route(&prefix(&block(m))).unwrap().attributes.as_path.hops();
    assert_eq!((hops(&mut net, 1, 2), hops(&mut net, 1, 3)), (1, 2));

    net.cut(1, 2);
    net.break_between(1, 2);
    net.run(30);

    assert!(complete(&mut net, &all));
    assert_eq!(hops(&mut net, 1, 2), 4, "the other way round");
    net.speaker(2).withdraw(prefix(&block(2)));
    net.run(5);
    assert!(all.iter().all(|n| !net.has(*n, &block(2))), "a route that nobody has goes round and round");
}

#[test]
fn link_local_neighbours_on_two_links_are_two_peers_and_a_range_may_name_its_link() {
    let mut config = bgp::Config::new(64512, Ipv4Addr::new(192, 0, 2, 1));
    let template = PeerConfig { asn: None, extended_next_hop: true, ..PeerConfig::new(64512) };
    let mut range = DynamicNeighbours::new(prefix("fe80::/10"), template);
    range.interface = Some(3);
    config.dynamic = vec![range];
    let active = "fe80::9%4".parse().unwrap();
    config.peers.insert(active, PeerConfig::new(65001));
    let mut script = Script::new(config);
    let from = |text: &str| text.parse().unwrap();
    let (own, now) = (from("[fe80::1%3]:179"), script.now);

    let first = script.speaker.handle_incoming(from("[fe80::2%3]:40000"), own, now);
    let elsewhere = script.speaker.handle_incoming(from("[fe80::2%5]:40000"), own, now);

    assert!(first.is_ok());
    assert_eq!(elsewhere, Err(Refused::NotConfigured), "the range is of another link");
    let peers: Vec<String> = script.speaker.peers().iter().map(|p| p.peer.to_string()).collect();
    assert_eq!(peers, ["fe80::2%3", "fe80::9%4"]);
    script.pass(1);
    let connects = std::iter::from_fn(|| script.speaker.poll_output()).find_map(|output| match output {
        bgp::Output::Connect { remote, .. } => Some(remote.to_string()),
        _ => None,
    });
    assert_eq!(connects.as_deref(), Some("[fe80::9%4]:179"));
}
