//! From mesh to reflectors and back, while every node learns of it at another time: no route is ever missing.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use bgp::{Cause, Change, Config, Event, PeerConfig, PeerKey, PeerState};
use net::*;

const SIZE: u8 = 6;
/// Nodes that become reflectors.
const REFLECTORS: [u8; 2] = [1, 2];

fn others(n: u8) -> BTreeSet<PeerKey> {
    (1..=SIZE).filter(|m| *m != n).map(key).collect()
}

fn meshed(n: u8) -> Config {
    Config { retire: others(n), ..mesh(n, SIZE) }
}

/// Nodes 1 and 2 reflect; the others know only them.
fn reflected(n: u8) -> Config {
    let mut config = meshed(n);
    if REFLECTORS.contains(&n) {
        config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, n));
        let clients = config.peers.iter_mut().filter(|(k, _)| !REFLECTORS.iter().any(|r| key(*r) == **k));
        clients.for_each(|(_, peer)| peer.reflector_client = true);
    } else {
        config.peers.retain(|k, _| REFLECTORS.iter().any(|r| key(*r) == *k));
    }
    config
}

fn block(n: u8) -> String {
    format!("10.0.{n}.0/26")
}

fn complete(net: &mut Net) -> bool {
    (1..=SIZE).all(|n| (1..=SIZE).all(|m| net.has(n, &block(m))))
}

/// Which sessions are up, seen from both sides.
fn sessions(net: &mut Net) -> BTreeSet<(u8, u8)> {
    let pairs = (1..=SIZE).flat_map(|n| (1..=SIZE).map(move |m| (n, m)));
    pairs.filter(|(n, m)| n != m && net.state(*n, *m) == PeerState::Established).collect()
}

fn wanted(config: fn(u8) -> Config) -> BTreeSet<(u8, u8)> {
    let has = |n: u8, m: u8| config(n).peers.contains_key(&key(m));
    let pairs = (1..=SIZE).flat_map(|n| (1..=SIZE).map(move |m| (n, m)));
    pairs.filter(|(n, m)| n != m && has(*n, *m) && has(*m, *n)).collect()
}

/// Lets the nodes go over one after another, `gap` apart, and waits until exactly the wanted sessions are there.
fn go_over(net: &mut Net, order: &[u8], gap: Duration, config: fn(u8) -> Config) {
    for n in order {
        let end = net.now + gap;
        let now = net.now;
        net.speaker(*n).reconfigure(config(*n), now);
        net.run_until(end, |net| assert!(complete(net), "a route is missing after node {n} changed"));
    }
    net.until("the wanted sessions", 300, |net| {
        assert!(complete(net), "a route is missing while sessions end");
        sessions(net) == wanted(config) && (1..=SIZE).all(|n| net.speaker(n).retiring().is_empty())
    });
}

#[test]
fn no_route_is_missing_for_a_moment_on_the_way_to_reflectors_and_back() {
    let orders: [[u8; 6]; 4] =
        [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [3, 1, 6, 2, 5, 4], [4, 6, 1, 5, 3, 2]];
    for (order, gap) in orders.iter().zip([0, 300, 2_000, 9_000]) {
        let gap = Duration::from_millis(gap);
        let mut net = Net::new(20);
        for n in 1..=SIZE {
            net.start(n, meshed(n), false);
            net.speaker(n).originate(prefix(&block(n)), local());
        }
        net.until("the mesh", 30, |net| complete(net) && sessions(net) == wanted(meshed));
        net.run(10);

        go_over(&mut net, order, gap, reflected);
        net.run_until(net.now + Duration::from_secs(200), |net| assert!(complete(net), "later"));
        go_over(&mut net, order, gap, meshed);
        net.run_until(net.now + Duration::from_secs(400), |net| assert!(complete(net), "later"));

        // What was there in both was never touched.
        let kept = |n: u8, m: u8| net_sessions(&mut net, n, m);
        let mut kept = kept;
        assert_eq!((kept(1, 2), kept(1, 3), kept(2, 6)), (1, 1, 1), "a session was begun anew");
        let cluster_lists = (1..=SIZE).flat_map(|n| (1..=SIZE).map(move |m| (n, m))).collect::<Vec<_>>();
        for (n, m) in cluster_lists {
            let route = net.speaker(n).route(&prefix(&block(m))).unwrap();
            assert!(route.attributes.cluster_list.is_empty(), "{n} has the route of {m} from a reflector");
        }
    }
}

fn net_sessions(net: &mut Net, n: u8, m: u8) -> u64 {
    net.speaker(n).peer_at(ip(m)).unwrap().sessions
}

#[test]
fn a_retiring_peer_goes_when_its_routes_come_another_way_and_its_cause_says_so() {
    let mut net = Net::new(5);
    for n in 1..=3 {
        net.start(n, mesh(n, 3), false);
        net.speaker(n).originate(prefix(&block(n)), local());
    }
    net.until("the mesh", 10, |net| net.all_up() && net.has(3, &block(2)));
    net.run(10);
    net.take_events(3);
    let mut alone = mesh(3, 3);
    alone.peers.remove(&key(2));
    alone.retire = BTreeSet::from([key(2)]);

    let now = net.now;
    let changes = net.speaker(3).reconfigure(alone.clone(), now);

    assert_eq!(changes, [Change::PeerRetiring(key(2))]);
    net.run(60);
    assert_eq!(net.speaker(3).retiring(), [key(2)], "nobody else has its route");
    assert!(net.has(3, &block(2)));
    let mut reflector = mesh(1, 3);
    reflector.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
    reflector.peers.values_mut().for_each(|p| p.reflector_client = true);
    let now = net.now;
    net.speaker(1).reconfigure(reflector, now);
    net.run(10);
    assert_eq!(net.speaker(3).retiring(), []);
    assert!(net.has(3, &block(2)) && net.has(2, &block(3)));
    let down = net.take_events(3).into_iter().find(|e| matches!(e, Event::PeerDown { .. }));
    assert!(matches!(down, Some(Event::PeerDown { cause: Cause::Retired, .. })), "{down:?}");
}

#[test]
fn a_retiring_peer_that_is_wanted_again_keeps_its_session_and_one_that_is_gone_does_not() {
    let mut net = Net::new(5);
    for n in 1..=3 {
        net.start(n, mesh(n, 3), false);
        net.speaker(n).originate(prefix(&block(n)), local());
    }
    net.until("the mesh", 10, |net| net.all_up() && net.has(3, &block(2)));
    let mut alone = mesh(3, 3);
    alone.peers.retain(|k, _| *k == key(1));
    alone.retire = BTreeSet::from([key(2)]);
    let now = net.now;
    net.speaker(3).reconfigure(alone.clone(), now);
    net.run(20);

    let now = net.now;
    net.speaker(3).reconfigure(mesh(3, 3), now);
    net.run(20);
    assert!(net.all_up() && net_sessions(&mut net, 3, 2) == 1);

    let now = net.now;
    net.speaker(3).reconfigure(alone.clone(), now);
    alone.retire.clear();
    let changes = net.speaker(3).reconfigure(alone, now);
    assert_eq!(changes, [Change::PeerRemoved(key(2))], "its node is gone");
    assert!(!net.has(3, &block(2)));
}

#[test]
fn a_reflector_that_is_to_be_none_reflects_until_the_limit_only_where_peers_may_retire() {
    for may_retire in [true, false] {
        let mut net = Net::new(5);
        for n in 1..=3 {
            let mut config = config(n);
            if n == 1 {
                config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
                [2, 3].into_iter().for_each(|m| {
                    let client = PeerConfig { reflector_client: true, ..peer(1, 64512) };
                    config.peers.insert(key(m), client);
                });
            } else {
                config.peers.insert(key(1), peer(n, 64512));
            }
            net.start(n, config, false);
            net.speaker(n).originate(prefix(&block(n)), local());
        }
        net.until("reflection", 10, |net| net.has(2, &block(3)) && net.has(3, &block(2)));
        let mut plain = mesh(1, 3);
        plain.retire_limit = Duration::from_secs(30);
        plain.retire = if may_retire { BTreeSet::from([key(2), key(3)]) } else { BTreeSet::new() };

        let now = net.now;
        net.speaker(1).reconfigure(plain.clone(), now);
        net.run(20);
        let now = net.now;
        net.speaker(1).reconfigure(plain, now);
        net.run(8);
        assert_eq!(net.has(2, &block(3)), may_retire, "after 28 seconds, told twice");
        net.run(4);
        assert!(!net.has(2, &block(3)) && net.has(2, &block(1)));
        assert_eq!(net_sessions(&mut net, 1, 2), 1);
    }
}

#[test]
fn no_peer_retires_for_longer_than_the_limit() {
    let mut net = Net::new(5);
    for n in 1..=2 {
        net.start(n, mesh(n, 2), false);
        net.speaker(n).originate(prefix(&block(n)), local());
    }
    net.until("the session", 10, |net| net.has(1, &block(2)));
    let limit = Duration::from_secs(30);
    let alone = Config { retire: others(1), retire_limit: limit, ..config(1) };
    let now = net.now;
    net.speaker(1).reconfigure(alone, now);

    net.run(28);
    assert!(net.has(1, &block(2)));
    net.run(5);
    assert!(!net.has(1, &block(2)) && net.speaker(1).peers().is_empty());
}

#[test]
fn routes_of_a_retiring_peer_stay_when_it_closes_first() {
    let mut net = Net::new(5);
    for n in 1..=2 {
        net.start(n, mesh(n, 2), false);
        net.speaker(n).originate(prefix(&block(n)), local());
    }
    net.until("the session", 10, |net| net.has(1, &block(2)));
    let now = net.now;
    net.speaker(1).reconfigure(Config { retire: others(1), ..config(1) }, now);

    // Node 2 knows of no retiring and says so: Hard Reset.
    net.speaker(2).reconfigure(config(2), now);
    net.run(60);

    assert!(net.has(1, &block(2)), "the route went although nobody else has it");
    net.run(70);
    assert!(!net.has(1, &block(2)));
}

#[test]
fn what_retires_and_what_stays_are_told_apart() {
    let mut net = Net::new(5);
    for n in 1..=3 {
        net.start(n, mesh(n, 3), false);
    }
    net.until("the mesh", 10, |net| net.all_up());
    let mut config = mesh(3, 3);
    config.peers.remove(&key(2));
    config.retire = BTreeSet::from([key(2)]);
    config.peers.insert(key(1), PeerConfig { description: "stays".into(), ..peer(3, 64512) });
    let now = net.now;
    let changes = net.speaker(3).reconfigure(config, now);
    assert_eq!(changes, [Change::PeerRetiring(key(2)), Change::PeerUpdated(key(1))]);
    net.run(10);
    assert_eq!(net.state(3, 2), PeerState::Established);
}
