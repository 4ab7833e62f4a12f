//! A run that is recorded plays again to the same outputs.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;

use std::sync::Arc;

use bgp::{Action, Condition, Password, Policy, PrefixMatch, PrefixSet, ReplayError, Rule, replay};
use net::*;

/// A mesh of three with a policy, a reset, a withdrawal, a change of configuration and a death.
fn eventful(net: &mut Net) -> Vec<String> {
    for n in 1..=3 {
        let mut config = mesh(n, 3);
        let inside = PrefixSet::new([PrefixMatch::within(prefix("10.0.0.0/8"))]);
        let rule =
            Rule { name: "pods".to_owned(), when: vec![Condition::Prefix(inside)], then: Action::Accept };
        let peers = config.peers.values_mut();
        peers.for_each(|peer| peer.import = Arc::new(Policy::new(vec![rule.clone()], false)));
        net.start(n, config, false);
    }
    let now = net.now;
    net.speaker(1).start_recording(now);
    net.speaker(1).originate(prefix("10.0.1.0/26"), local());
    net.speaker(2).originate(prefix("10.0.2.0/26"), local());
    net.speaker(2).originate(prefix("192.0.2.0/24"), local());
    net.until("routes", 30, |net| net.all_up() && net.has(1, "10.0.2.0/26") && net.has(3, "10.0.1.0/26"));
    net.run(100);
    let now = net.now;
    net.speaker(1).reset(ip(3), "again", now);
    net.until("up again", 60, |net| net.all_up());
    net.speaker(1).withdraw(prefix("10.0.1.0/26"));
    net.speaker(1).refresh_in(ip(2));
    net.run(5);
    let mut changed = mesh(1, 3);
    changed.peers.get_mut(&ip(2).into()).unwrap().password = Some(Password::new("verysecret".to_owned()));
    let now = net.now;
    net.speaker(1).reconfigure(changed, now);
    net.run(5);
    net.kill(3);
    net.run(200);
    std::iter::from_fn(|| net.speaker(1).poll_record()).collect()
}

#[test]
fn a_recorded_run_plays_again_to_the_same_outputs() {
    let mut net = Net::new(7);
    let epoch = net.now;
    let lines = eventful(&mut net);

    let mut steps = 0;
    let replayed = replay(lines.iter().map(String::as_str), epoch, |_| steps += 1).unwrap();

    assert!(replayed.is_complete);
    assert!(replayed.differences.is_empty(), "{:#?}", replayed.differences.first());
    assert!(replayed.inputs > 50 && replayed.outputs > 50 && steps > 50, "{replayed:?}");
    let routes = |speaker: &bgp::Speaker| -> Vec<String> {
        let all = speaker.routes().into_iter();
        all.map(|r| format!("{} {:?} {:?} {}", r.prefix, r.source, r.rejected_by, r.stale)).collect()
    };
    assert_eq!(routes(&replayed.speaker), routes(net.speaker(1)));
    assert!(!routes(&replayed.speaker).is_empty());
    assert_eq!(replayed.speaker.poll_timeout(), net.speaker(1).poll_timeout());
}

#[test]
fn a_password_is_in_no_line_and_a_changed_run_is_told_from_the_recorded_one() {
    let mut net = Net::new(7);
    let epoch = net.now;
    let mut lines = eventful(&mut net);
    assert!(lines.iter().all(|line| !line.contains("verysecret")));
    assert!(lines.iter().any(|line| line.contains("recorded 0")), "it shows that there was one");

    let at = lines.iter().position(|line| line.contains("\"Withdraw\"")).unwrap();
    lines.remove(at);
    let replayed = replay(lines.iter().map(String::as_str), epoch, |_| {}).unwrap();

    let first = replayed.differences.first().unwrap();
    assert!(first.line > at && first.recorded != first.replayed, "{first:?}");
}

#[test]
fn a_recording_that_begins_in_flight_says_so_and_garbage_is_refused_by_its_line() {
    let mut net = Net::new(7);
    let epoch = net.now;
    (1..=2).for_each(|n| net.start(n, mesh(n, 2), false));
    net.until("mesh", 30, |net| net.all_up());
    let now = net.now;
    net.speaker(1).start_recording(now);
    net.run(60);
    let mut lines: Vec<String> = std::iter::from_fn(|| net.speaker(1).poll_record()).collect();
    net.speaker(1).stop_recording();
    assert_eq!(net.speaker(1).poll_record(), None);

    let replayed = replay(lines.iter().map(String::as_str), epoch, |_| {}).unwrap();
    assert!(!replayed.is_complete && replayed.inputs > 0);
    lines.insert(1, "{}".to_owned());
    let error = replay(lines.iter().map(String::as_str), epoch, |_| {}).unwrap_err();
    assert!(matches!(error, ReplayError::Line(2, _)), "{error}");
    assert!(matches!(replay(std::iter::empty(), epoch, |_| {}), Err(ReplayError::Begin(1))));
}
