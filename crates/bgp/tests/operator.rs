//! What an operator does to running sessions.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;

use bgp::{Cause, PeerState};
use net::*;

#[test]
fn a_peer_that_was_switched_off_stays_off_over_a_change_of_configuration() {
    let mut net = Net::new(1);
    (1..=3).for_each(|n| net.start(n, mesh(n, 3), false));
    net.until("mesh", 30, |net| net.all_up());
    let now = net.now;
    net.speaker(1).originate(prefix("10.0.1.0/26"), local());
    net.until("route", 5, |net| net.has(2, "10.0.1.0/26"));

    net.speaker(1).disable(ip(2), "rack 7 is moved", now);
    net.until("down", 5, |net| net.state(2, 1) != PeerState::Established);
    let mut changed = mesh(1, 3);
    changed.peers.get_mut(&ip(2).into()).unwrap().description = "renamed".to_owned();
    let now = net.now;
    net.speaker(1).reconfigure(changed, now);
    net.run(60);

    let seen = net.speaker(1).peer_at(ip(2)).unwrap();
    assert_eq!((seen.state, seen.cause), (PeerState::Idle, Cause::Disabled("rack 7 is moved".into())));
    assert!(!net.has(2, "10.0.1.0/26"), "a peer that is switched off keeps no route over a restart");
    assert_eq!(net.state(1, 3), PeerState::Established);
    let theirs = net.speaker(2).peer_at(ip(1)).unwrap();
    let told = theirs.history.iter().find_map(|turn| match &turn.cause {
        Some(Cause::NotificationReceived(n)) => Some(n.to_string()),
        _ => None,
    });
    assert!(told.is_some(), "{theirs:?}");

    let now = net.now;
    net.speaker(1).enable(ip(2), now);
    net.until("up again", 60, |net| net.all_up() && net.has(2, "10.0.1.0/26"));
}

#[test]
fn a_soft_reset_asks_and_sends_without_ending_the_session() {
    let mut net = Net::new(1);
    (1..=2).for_each(|n| net.start(n, mesh(n, 2), false));
    net.speaker(2).originate(prefix("10.0.2.0/26"), local());
    net.speaker(1).originate(prefix("10.0.1.0/26"), local());
    net.until("mesh", 30, |net| net.has(1, "10.0.2.0/26") && net.has(2, "10.0.1.0/26"));
    let before = net.speaker(1).peer_at(ip(2)).unwrap();

    assert!(net.speaker(1).refresh_in(ip(2)));
    net.speaker(1).refresh_out(ip(2));
    net.run(2);

    let after = net.speaker(1).peer_at(ip(2)).unwrap();
    assert_eq!(after.sessions, before.sessions);
    assert_eq!(after.messages_sent.route_refresh, before.messages_sent.route_refresh + 2);
    assert!(after.messages_received.update > before.messages_received.update, "{after:?}");
    assert!(after.messages_sent.update > before.messages_sent.update, "{after:?}");
    assert!(!net.speaker(1).refresh_in(ip(9)), "nobody is there to be asked");
}

#[test]
fn a_peer_tells_its_history_its_timers_and_what_was_negotiated() {
    let mut net = Net::new(1);
    (1..=2).for_each(|n| net.start(n, mesh(n, 2), false));
    net.until("mesh", 30, |net| net.all_up());
    let now = net.now;
    net.speaker(1).reset(ip(2), "", now);
    net.until("up again", 30, |net| net.all_up());

    let seen = net.speaker(1).peer_at(ip(2)).unwrap();

    let turns: Vec<Option<Cause>> = seen.history.iter().map(|turn| turn.cause.clone()).collect();
    assert_eq!(&turns[..3], [None, Some(Cause::AdministrativeReset), None]);
    assert_eq!(seen.flaps, 1);
    assert!(seen.timers.hold.unwrap() > net.now && seen.timers.keepalive.unwrap() > net.now);
    assert_eq!(seen.capabilities_sent.len(), seen.capabilities_received.len());
    assert!(seen.messages_received.open >= 2, "{seen:?}");
}
