//! Whole topologies: what operators build, on a net without sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;

use std::net::Ipv4Addr;
use std::sync::Arc;

use bgp::{
    Action, Cause, Change, Condition, Config, DynamicNeighbours, Event, Operation, PeerConfig, PeerState,
    Policy, PrefixMatch, PrefixSet, RouteSource, Rule,
};
use bgp_packet::Prefix;
use net::*;

/// A mesh whose node `n` announces `10.0.n.0/26`.
fn mesh_of(size: u8, latency: u64) -> Net {
    let mut net = Net::new(latency);
    for n in 1..=size {
        net.start(n, mesh(n, size), false);
        net.speaker(n).originate(prefix(&format!("10.0.{n}.0/26")), local());
    }
    net
}

fn converged(net: &mut Net, size: u8) -> bool {
    (1..=size).all(|n| (1..=size).all(|m| net.has(n, &format!("10.0.{m}.0/26"))))
}

#[test]
fn a_mesh_converges_in_round_trips_and_each_route_points_at_its_node() {
    let mut net = mesh_of(12, 5);

    net.until("convergence", 3, |net| converged(net, 12));

    net.run(2);
    assert!(net.all_up());
    let route = net.speaker(1).route(&prefix("10.0.7.0/26")).unwrap();
    assert_eq!((route.source, route.next_hops), (RouteSource::Peer(key(7)), vec![key(7)]));
}

#[test]
fn nodes_that_connect_to_each_other_at_once_end_with_one_session() {
    // The net's start makes every pair connect from both sides; latency makes the attempts cross.
    for latency in [0, 1, 30, 300, 900] {
        let mut net = mesh_of(3, latency);
        net.until("convergence", 30, |net| converged(net, 3) && net.all_up());

        net.run(200);

        let downs = (1..=3).flat_map(|n| net.take_events(n));
        let downs = downs.filter(|e| matches!(e, Event::PeerDown { .. })).count();
        assert!(downs <= 2, "sessions flapped {downs} times at latency {latency} ms");
        assert!(net.all_up());
        let counted = (1..=3).flat_map(|n| net.speaker(n).peers()).map(|peer| peer.flaps).sum::<u64>();
        assert_eq!(counted, 0, "a collision at latency {latency} ms counts as a flap");
    }
}

#[test]
fn a_withdrawn_route_goes_everywhere() {
    let mut net = mesh_of(4, 5);
    net.until("convergence", 5, |net| converged(net, 4));

    net.speaker(2).withdraw(prefix("10.0.2.0/26"));

    net.until("withdrawal", 1, |net| [1, 3, 4].iter().all(|n| !net.has(*n, "10.0.2.0/26")));
}

#[test]
fn routes_of_a_node_that_restarts_stay_and_unwanted_ones_go_when_it_has_sent_all() {
    let mut net = mesh_of(3, 5);
    net.speaker(1).originate(prefix("10.9.9.9/32"), local());
    net.until("convergence", 5, |net| converged(net, 3) && net.has(2, "10.9.9.9/32"));

    net.kill(1);
    net.run(20);
    assert!(net.has(2, "10.0.1.0/26") && net.has(3, "10.0.1.0/26"), "routes went with the process");

    net.start(1, mesh(1, 3), true);
    net.speaker(1).originate(prefix("10.0.1.0/26"), local());
    let mut gap = false;
    net.until("return", 30, |net| {
        gap |= !net.has(2, "10.0.1.0/26");
        net.all_up() && !net.has(2, "10.9.9.9/32") && !net.has(3, "10.9.9.9/32")
    });
    net.until("end of restart", 30, |net| !net.speaker(1).is_restarting());
    assert!(!gap, "the route was missing for a moment");
    assert!(net.take_events(1).contains(&Event::RestartComplete));
    assert!(net.has(1, "10.0.2.0/26") && net.has(1, "10.0.3.0/26"));
}

#[test]
fn a_second_restart_takes_what_was_stale_already() {
    let mut net = mesh_of(2, 5);
    net.speaker(1).originate(prefix("10.9.9.9/32"), local());
    net.until("convergence", 5, |net| net.has(2, "10.9.9.9/32"));
    net.kill(1);
    net.run(1);
    net.start(1, mesh(1, 2), true);
    net.until("session", 30, |net| net.state(2, 1) == PeerState::Established);

    net.kill(1);
    net.run(1);

    assert!(!net.has(2, "10.9.9.9/32"));
}

#[test]
fn routes_of_a_node_that_stays_away_go_after_its_restart_time() {
    let mut net = mesh_of(2, 5);
    net.until("convergence", 5, |net| converged(net, 2));

    net.kill(1);
    net.run(115);
    assert!(net.has(2, "10.0.1.0/26"));
    net.run(10);

    assert!(!net.has(2, "10.0.1.0/26"));
}

#[test]
fn a_node_that_lost_its_forwarding_state_loses_its_stale_routes_at_once() {
    let mut net = mesh_of(2, 5);
    net.until("convergence", 5, |net| converged(net, 2));
    net.kill(1);
    net.run(1);

    net.start(1, mesh(1, 2), false);
    net.until("session", 30, |net| net.state(2, 1) == PeerState::Established);

    assert!(!net.has(2, "10.0.1.0/26"));
}

#[test]
fn a_silent_path_ends_the_session_by_the_hold_timer_and_keeps_the_routes() {
    let mut net = mesh_of(2, 5);
    net.until("convergence", 5, |net| converged(net, 2));

    net.cut(1, 2);
    net.run(95);

    assert_eq!(net.speaker(2).peer_at(ip(1)).unwrap().sessions, 1);
    let causes = net.take_events(2).into_iter().filter_map(|e| match e {
        Event::PeerDown { cause, routes_kept, .. } => Some((cause, routes_kept)),
        _ => None,
    });
    // Both sides announced that NOTIFICATIONs do not end graceful restart (RFC 8538).
    assert_eq!(causes.collect::<Vec<_>>(), [(Cause::HoldTimerExpired(90), true)]);
    net.heal();
    net.until("session again", 20, |net| net.all_up());
}

/// Node 1 reflects for 2..=size, which know only it.
fn reflector(size: u8, restarted: bool, net: &mut Net) {
    let mut config = config(1);
    config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
    let client = PeerConfig { reflector_client: true, ..peer(1, 64512) };
    config.dynamic = vec![DynamicNeighbours::new(prefix("192.0.2.0/24"), client)];
    net.start(1, config, restarted);
    if restarted {
        return;
    }
    for n in 2..=size {
        let mut config = net::config(n);
        config.peers.insert(key(1), peer(n, 64512));
        net.start(n, config, false);
        net.speaker(n).originate(prefix(&format!("10.0.{n}.0/26")), local());
    }
}

fn reflected(net: &mut Net, size: u8) -> bool {
    (2..=size).all(|n| (2..=size).all(|m| net.has(n, &format!("10.0.{m}.0/26"))))
}

#[test]
fn a_reflector_takes_clients_by_range_and_passes_their_routes_on_unchanged() {
    let mut net = Net::new(5);
    reflector(6, false, &mut net);

    net.until("reflection", 5, |net| reflected(net, 6));

    let route = net.speaker(2).route(&prefix("10.0.5.0/26")).unwrap();
    assert_eq!(route.next_hops, [key(5)]);
    assert_eq!(route.attributes.originator_id, Some(Ipv4Addr::new(192, 0, 2, 5)));
    assert_eq!(route.attributes.cluster_list, [Ipv4Addr::new(244, 0, 0, 1)]);
    let back = net.speaker(1).advertised(ip(5));
    assert!(back.iter().all(|r| r.prefix != prefix("10.0.5.0/26")), "sent back to its originator");
    assert!(net.speaker(1).peer_at(ip(5)).unwrap().dynamic);
}

#[test]
fn clients_keep_every_route_while_their_reflector_restarts() {
    let mut net = Net::new(5);
    reflector(5, false, &mut net);
    net.until("reflection", 5, |net| reflected(net, 5));

    net.kill(1);
    net.run(3);
    reflector(5, true, &mut net);
    let mut gap = false;
    net.until("return", 40, |net| {
        gap |= !reflected(net, 5);
        !net.speaker(1).is_restarting()
    });
    net.until("all clients served", 40, |net| {
        gap |= !reflected(net, 5);
        (2..=5).all(|n| net.speaker(n).peers()[0].stale == 0 && net.state(n, 1) == PeerState::Established)
    });

    assert!(!gap, "a route was missing for a moment");
}

#[test]
fn an_external_peer_gets_our_as_and_address_and_internal_attributes_stay_inside() {
    let mut net = Net::new(5);
    for n in [1, 2] {
        net.start(n, mesh(n, 2), false);
    }
    let mut border = mesh(2, 2);
    border.peers.insert(key(3), peer(2, 65000));
    let now = net.now;
    net.speaker(2).reconfigure(border, now);
    let mut tor = config_in(3, 65000);
    tor.peers.insert(key(2), peer(3, 64512));
    net.start(3, tor, false);
    net.speaker(1).originate(prefix("10.0.1.0/26"), local());
    net.speaker(3).originate(prefix("203.0.113.0/24"), local());

    net.until("exchange", 5, |net| net.has(3, "10.0.1.0/26") && net.has(1, "203.0.113.0/24"));

    let outside = net.speaker(3).route(&prefix("10.0.1.0/26")).unwrap();
    assert_eq!(outside.attributes.as_path.to_string(), "64512");
    assert_eq!((outside.next_hops, outside.attributes.local_pref), (vec![key(2)], None));
    let inside = net.speaker(1).route(&prefix("203.0.113.0/24")).unwrap();
    assert_eq!(inside.next_hops, [key(3)], "an internal peer gets the next hop unchanged");
    assert_eq!(inside.attributes.local_pref, Some(100));
}

#[test]
fn a_router_that_peers_with_every_node_of_a_mesh_takes_the_way_to_the_owner() {
    let mut net = Net::new(5);
    let mut router = config_in(9, 65000);
    for n in 1..=3 {
        let mut node = mesh(n, 3);
        node.peers.insert(key(9), peer(n, 65000));
        net.start(n, node, false);
        net.speaker(n).originate(prefix(&format!("10.0.{n}.0/26")), local());
        router.peers.insert(key(n), peer(9, 64512));
    }
    net.start(9, router, false);

    net.until("convergence", 10, |net| {
        net.all_up() && (1..=3).all(|n| net.has(9, &format!("10.0.{n}.0/26")))
    });
    net.run(2);

    for n in 1..=3 {
        let route = net.speaker(9).route(&prefix(&format!("10.0.{n}.0/26"))).unwrap();
        assert_eq!(route.next_hops, [key(n)], "the way to the block of node {n}");
    }
}

#[test]
fn a_wrong_as_is_named_on_both_sides() {
    let mut net = Net::new(5);
    let mut one = config(1);
    one.peers.insert(key(2), peer(1, 65001));
    net.start(1, one, false);
    net.start(2, mesh(2, 2), false);

    net.run(3);

    let cause = net.speaker(1).peer_at(ip(2)).unwrap().cause;
    assert_eq!(cause.to_string(), "wrong AS: expected 65001, got 64512");
    let cause = net.speaker(2).peer_at(ip(1)).unwrap().cause;
    assert!(cause.to_string().contains("Bad Peer AS"), "{cause}");
}

#[test]
fn a_peer_that_does_not_run_is_refused_and_a_stranger_is_not_let_in() {
    let mut net = Net::new(5);
    net.start(1, mesh(1, 2), false);
    net.run(1);
    let cause = net.speaker(1).peer_at(ip(2)).unwrap().cause;
    assert!(cause.to_string().contains("refused"), "{cause}");

    net.start(
        9,
        {
            let mut c = config(9);
            c.peers.insert(key(1), peer(9, 64512));
            c
        },
        false,
    );
    net.run(5);
    assert_ne!(net.state(9, 1), PeerState::Established);
    assert!(net.speaker(1).peer_at(ip(9)).is_none());
}

#[test]
fn a_change_of_one_peer_touches_no_other_session() {
    let mut net = mesh_of(4, 5);
    net.until("convergence", 5, |net| converged(net, 4) && net.all_up());
    net.run(10);
    let since: Vec<_> = net.speaker(1).peers().iter().map(|p| p.since).collect();

    let rule = Rule {
        name: "not 10.0.3.0/26".into(),
        when: vec![Condition::Prefix(PrefixSet::new([PrefixMatch::within(prefix("10.0.3.0/26"))]))],
        then: Action::Reject,
    };
    let mut changed = mesh(1, 4);
    let policy = Policy::new(vec![rule], true);
    changed.peers.get_mut(&key(3)).unwrap().import = Arc::new(policy);
    let now = net.now;
    let changes = net.speaker(1).reconfigure(changed.clone(), now);
    net.run(5);

    assert_eq!(changes, [Change::PeerUpdated(key(3))]);
    assert!(!net.has(1, "10.0.3.0/26"));
    assert_eq!(net.speaker(1).peers().iter().map(|p| p.since).collect::<Vec<_>>(), since);
    assert_eq!(net.speaker(1).peer_at(ip(3)).unwrap().received, 1, "what is rejected stays visible");

    let now = net.now;
    let changes = net.speaker(1).reconfigure(mesh(1, 4), now);
    assert_eq!(changes, [Change::PeerUpdated(key(3))]);
    assert!(net.has(1, "10.0.3.0/26"), "a policy that lets the route in again needs no new session");
    changed = mesh(1, 4);
    changed.peers.remove(&key(4));
    let now = net.now;
    assert_eq!(net.speaker(1).reconfigure(changed, now), [Change::PeerRemoved(key(4))]);
    net.run(1);
    assert!(!net.has(1, "10.0.4.0/26") && net.has(1, "10.0.2.0/26"));
    assert!(!net.has(4, "10.0.1.0/26"), "a peer that was removed for good keeps nothing");
}

#[test]
fn an_export_policy_that_changes_sends_only_the_difference() {
    let mut net = mesh_of(2, 5);
    net.until("convergence", 5, |net| converged(net, 2));
    let mut silent = mesh(1, 2);
    silent.peers.get_mut(&key(2)).unwrap().export = Arc::new(Policy::reject());

    let now = net.now;
    net.speaker(1).reconfigure(silent, now);
    net.until("withdrawal", 1, |net| !net.has(2, "10.0.1.0/26"));
    let now = net.now;
    net.speaker(1).reconfigure(mesh(1, 2), now);
    net.until("announcement", 1, |net| net.has(2, "10.0.1.0/26"));

    assert_eq!(net.speaker(2).peer_at(ip(1)).unwrap().sessions, 1);
}

#[test]
fn going_from_mesh_to_reflector_on_the_same_sessions_loses_nothing() {
    let mut net = mesh_of(3, 5);
    net.until("convergence", 5, |net| converged(net, 3) && net.all_up());

    let mut config = mesh(1, 3);
    config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
    config.peers.values_mut().for_each(|p| p.reflector_client = true);
    let now = net.now;
    net.speaker(1).reconfigure(config, now);
    net.run(1);
    for (n, other) in [(2, 3), (3, 2)] {
        let mut config = mesh(n, 3);
        config.peers.remove(&key(other));
        let now = net.now;
        net.speaker(n).reconfigure(config, now);
        assert!(converged(&mut net, 3), "the reflected route was not there before the session went");
    }
    net.run(5);

    assert!(converged(&mut net, 3));
    assert_eq!(net.speaker(1).peers().iter().map(|p| p.sessions).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn several_equal_routes_are_reported_together() {
    let mut net = Net::new(5);
    let mut config = mesh(1, 3);
    config.max_paths = 64;
    net.start(1, config, false);
    for n in [2, 3] {
        net.start(n, mesh(n, 3), false);
        net.speaker(n).originate(prefix("10.96.0.0/12"), local());
    }

    net.until("both", 5, |net| {
        net.speaker(1).route(&prefix("10.96.0.0/12")).is_some_and(|r| r.next_hops == [key(2), key(3)])
    });
}

/// AS 65000 + n; node 1 has the route, and each of the others would rather go by the next one in the ring than directly.
fn bad_gadget(n: u8, next: Option<u8>) -> Config {
    let asn = |n: u8| 65000 + u32::from(n);
    let prefer = |next: u8| {
        let rule = Rule {
            name: "by the next one".to_owned(),
            when: vec![Condition::AsPathPrefix(vec![asn(next), asn(1)])],
            then: Action::Modify(vec![Operation::SetLocalPref(200)]),
        };
        Policy::new(vec![rule], true).into()
    };
    let mut config = config_in(n, asn(n));
    for other in (1..=4).filter(|other| *other != n) {
        let mut settings = peer(n, asn(other));
        if next == Some(other) {
            settings.import = prefer(other);
        }
        config.peers.insert(key(other), settings);
    }
    config
}

/// How often the way of node 2 changes within some seconds.
fn turns(net: &mut Net, route: &Prefix, seconds: u64) -> usize {
    let (mut turns, mut last) = (0, None);
    let end = net.now + std::time::Duration::from_secs(seconds);
    net.run_until(end, |net| {
        let way = net.speaker(2).route(route).map(|r| r.source);
        turns += usize::from(std::mem::replace(&mut last, way) != way);
    });
    turns
}

/// Preferences that conflict have no state in which all are content (RFC 4264, RFC 3345): every speaker turns in circles
/// then, and comes to rest as soon as one gives in.
#[test]
fn preferences_that_conflict_turn_in_circles_until_one_gives_in() {
    let mut net = Net::new(5);
    for (n, next) in [(1, None), (2, Some(3)), (3, Some(4)), (4, Some(2))] {
        net.start(n, bad_gadget(n, next), false);
    }
    net.until("all sessions", 10, Net::all_up);
    let route = prefix("10.0.1.0/26");
    net.speaker(1).originate(route, local());
    assert!(turns(&mut net, &route, 10) > 100, "there is no state to rest in");

    let now = net.now;
    net.speaker(2).reconfigure(bad_gadget(2, None), now);
    net.run(2);

    assert!(turns(&mut net, &route, 10) <= 1, "only the first look counts");
    let source = |net: &mut Net, n| net.speaker(n).route(&route).unwrap().source;
    assert_eq!(source(&mut net, 2), RouteSource::Peer(key(1)));
    assert_eq!(source(&mut net, 4), RouteSource::Peer(key(2)), "who may still have its way has it");
    assert_eq!(source(&mut net, 3), RouteSource::Peer(key(1)));
}
