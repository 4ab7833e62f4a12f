//! What BFD says of a path, and what a reflector passes on between its clients.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;

use std::net::Ipv4Addr;

use bgp::{BfdConfig, BfdFailure, BfdState, Event, PeerConfig, PeerState};
use net::*;

/// Two nodes with a session that is watched by BFD; node 1 has a route of node 2.
fn watched_pair(notification: bool) -> Net {
    let mut net = Net::new(5);
    for (n, other) in [(1, 2), (2, 1)] {
        let mut config = config(n);
        let bfd = Some(BfdConfig::default());
        let restart_time = if notification { 120 } else { 0 };
        config.peers.insert(key(other), PeerConfig { bfd, restart_time, ..peer(n, 64512) });
        net.start(n, config, false);
    }
    net.speaker(2).originate(prefix("10.0.2.0/26"), local());
    net.until("a route", 5, |net| net.has(1, "10.0.2.0/26"));
    net.take_events(1);
    net
}

fn fail(net: &mut Net, forwarding_lost: bool) -> Vec<Event> {
    let now = net.now;
    let failure = BfdFailure::DetectionTimeExpired(900);
    net.speaker(1).handle_bfd(key(2), BfdState::Up, None, now);
    net.speaker(1).handle_bfd(key(2), BfdState::Down, Some((failure, forwarding_lost)), now);
    std::iter::from_fn(|| net.speaker(1).poll_event()).collect()
}

#[test]
fn a_path_that_bfd_finds_down_ends_the_session_and_is_named() {
    let mut net = watched_pair(false);

    let events = fail(&mut net, false);

    let [Event::PeerDown { cause, routes_kept: false, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(cause.to_string(), "BFD: nothing heard for 900 ms: the path or the peer is down");
    assert!(!net.has(1, "10.0.2.0/26"));
    net.until("the session is back", 10, |net| net.state(1, 2) == PeerState::Established);
}

#[test]
fn routes_outlive_a_failure_that_a_restart_may_explain_and_no_other() {
    for forwarding_lost in [false, true] {
        let mut net = watched_pair(true);

        let events = fail(&mut net, forwarding_lost);

        let [Event::PeerDown { routes_kept, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(*routes_kept, !forwarding_lost);
        assert_eq!(net.has(1, "10.0.2.0/26"), !forwarding_lost);
    }
}

#[test]
fn a_path_that_was_never_up_and_a_peer_without_bfd_end_nothing() {
    let mut net = watched_pair(true);
    let now = net.now;

    net.speaker(1).handle_bfd(key(2), BfdState::Down, None, now);
    net.speaker(1).handle_bfd(key(2), BfdState::AdminDown, None, now);

    assert_eq!(net.state(1, 2), PeerState::Established);
    assert_eq!(net.speaker(1).peer_at(ip(2)).unwrap().bfd, Some(BfdState::AdminDown));
    assert!(net.take_events(1).iter().all(|e| !matches!(e, Event::PeerDown { .. })));
}

#[test]
fn a_reflector_may_leave_its_clients_to_themselves() {
    let mut net = Net::new(5);
    let mut reflector = config(1);
    reflector.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
    for n in 2..=4 {
        // Node 4 is no client.
        let client = PeerConfig { reflector_client: n < 4, ..peer(1, 64512) };
        reflector.peers.insert(key(n), client);
        let mut config = config(n);
        config.peers.insert(key(1), peer(n, 64512));
        net.start(n, config, false);
        net.speaker(n).originate(prefix(&format!("10.0.{n}.0/26")), local());
    }
    net.start(1, reflector.clone(), false);
    net.until("reflection", 10, |net| net.has(3, "10.0.2.0/26") && net.has(4, "10.0.2.0/26"));

    reflector.client_to_client = false;
    let now = net.now;
    net.speaker(1).reconfigure(reflector.clone(), now);
    net.until("clients among themselves", 5, |net| !net.has(3, "10.0.2.0/26") && !net.has(2, "10.0.3.0/26"));
    assert!(net.has(4, "10.0.2.0/26") && net.has(2, "10.0.4.0/26"), "others are served as before");

    reflector.client_to_client = true;
    let now = net.now;
    net.speaker(1).reconfigure(reflector, now);
    net.until("reflection again", 5, |net| net.has(3, "10.0.2.0/26"));
    assert_eq!(net.speaker(1).peer_at(ip(2)).unwrap().sessions, 1);
}
