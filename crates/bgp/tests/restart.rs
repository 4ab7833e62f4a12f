//! Graceful restart in both roles (RFC 4724, RFC 8538), and the long-lived one (RFC 9494).

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod script;

use bgp::{Event, PeerConfig, PeerState, Reason};
use bgp_packet::{
    Capability, Cease, Community, Family, GracefulRestart, Notification, Open, PathAttributes, code,
};
use script::*;

const ROUTE: &str = "10.0.2.0/26";
const ROUTE6: &str = "2001:db8:2::/64";

fn v6() -> PathAttributes {
    let next_hop = bgp_packet::NextHop::V6("2001:db8::2".parse().unwrap(), None);
    PathAttributes { local_pref: Some(100), ..PathAttributes::new(next_hop) }
}

fn passive() -> PeerConfig {
    PeerConfig { passive: true, ..PeerConfig::new(OWN) }
}

/// An OPEN with graceful restart as given: R, N, time, and by family the F bit.
fn open_with(r: bool, n: bool, time: u16, families: &[(Family, bool)]) -> Open {
    let families = families.iter().map(|(family, forwarding)| ((*family).into(), *forwarding)).collect();
    let restart = GracefulRestart { restarting: r, notification: n, restart_time: time, families };
    let mut open = open();
    open.capabilities.retain(|c| !matches!(c, Capability::GracefulRestart(_)));
    open.capabilities.push(Capability::GracefulRestart(restart));
    open
}

fn plain() -> Open {
    let mut open = open();
    open.capabilities.retain(|c| !matches!(c, Capability::GracefulRestart(_)));
    open
}

const BOTH: [(Family, bool); 2] = [(Family::Ipv4, true), (Family::Ipv6, true)];

/// A session that has told a route of each family and End-of-RIB.
fn told(config: PeerConfig, open: &Open) -> (Script, bgp::ConnId) {
    let mut script = Script::new(with_peer(config));
    let conn = script.establish(open);
    script.say(conn, &announce(&attributes(), &[ROUTE]));
    script.say(conn, &announce(&v6(), &[ROUTE6]));
    Family::ALL.into_iter().for_each(|f| script.say(conn, &end_of_rib(f)));
    (script, conn)
}

/// How a session ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Lost,
    Received(Cease),
    HoldTimer,
    HardReset,
    Header,
    ConnectsAgain,
}

/// Which routes survive which end, by what the peer's OPEN says. The rows with names are capability sets as these
/// implementations send them.
#[test]
fn routes_survive_exactly_the_ends_that_the_capabilities_say() {
    let v4 = [(Family::Ipv4, true)];
    let no_forwarding = [(Family::Ipv4, false), (Family::Ipv6, false)];
    let (keep4, keep, none) = ((true, false), (true, true), (false, false));
    let all = [
        End::Lost,
        End::Received(Cease::AdministrativeReset),
        End::HoldTimer,
        End::HardReset,
        End::Header,
        End::ConnectsAgain,
    ];
    let table = [
        ("no capability (ExaBGP)", plain(), [none; 6]),
        ("helper only, no families (Arista, NX-OS)", open_with(false, false, 120, &[]), [none; 6]),
        ("time 0 (IOS default)", open_with(false, false, 0, &BOTH), [none; 6]),
        ("without N (BIRD 2)", open_with(false, false, 120, &BOTH), [keep, none, none, none, none, keep]),
        ("with N (FRR, GoBGP)", open_with(false, true, 120, &BOTH), [keep, keep, keep, none, keep, keep]),
        ("R in the OPEN", open_with(true, true, 120, &BOTH), [keep, keep, keep, none, keep, keep]),
        ("one family", open_with(false, true, 120, &v4), [keep4, keep4, keep4, none, keep4, keep4]),
        // The F bit says what was kept at the last restart; the next may keep more.
        ("F bits clear", open_with(false, true, 120, &no_forwarding), [keep, keep, keep, none, keep, keep]),
    ];
    for (name, open, expected) in table {
        for (end, expected) in all.into_iter().zip(expected) {
            let (mut script, conn) = told(passive(), &open);
            if matches!(end, End::ConnectsAgain) {
                script.pass(10);
                script.say(conn, &keepalive());
            }
            match end {
                End::Lost => script.lose(conn),
                End::Received(cease) => {
                    script.say(conn, &bytes_of(|out| Notification::cease(cease).encode(out)));
                }
                End::HoldTimer => script.pass(95),
                End::HardReset => {
                    let inner = Notification::cease(Cease::AdministrativeReset);
                    script.say(conn, &bytes_of(|out| inner.hard_reset().encode(out)));
                }
                End::Header => script.say(conn, &[0; 19]),
                End::ConnectsAgain => {
                    let again = script.accept();
                    script.say_open(again, &open);
                }
            }
            // A peer without graceful restart that connects again does not take over an old session's place.
            let stays = matches!(end, End::ConnectsAgain) && open.graceful_restart().is_none();
            let expected = if stays { (true, true) } else { expected };
            assert_eq!((script.has(ROUTE), script.has(ROUTE6)), expected, "{name}, {end:?}");
        }
    }
}

#[test]
fn kept_routes_go_when_the_restart_time_is_over() {
    let (mut script, conn) = told(passive(), &open_with(false, true, 60, &BOTH));
    script.lose(conn);
    script.pass(58);
    assert!(script.has(ROUTE) && script.status().stale == 2);
    script.pass(4);
    assert!(!script.has(ROUTE) && !script.has(ROUTE6));
}

#[test]
fn the_f_bits_of_the_new_open_decide_family_by_family_and_end_of_rib_sweeps() {
    let (mut script, conn) = told(passive(), &open());
    script.lose(conn);

    let back = open_with(true, true, 120, &[(Family::Ipv4, true), (Family::Ipv6, false)]);
    let conn = script.establish(&back);

    assert!(script.has(ROUTE), "forwarding was kept");
    assert!(!script.has(ROUTE6), "forwarding was lost");
    script.say(conn, &announce(&attributes(), &["10.0.3.0/26"]));
    script.say(conn, &end_of_rib(Family::Ipv6));
    assert!(script.has(ROUTE), "the other family's End-of-RIB");
    script.say(conn, &end_of_rib(Family::Ipv4));
    assert!(!script.has(ROUTE) && script.has("10.0.3.0/26"), "what was not repeated goes");
}

#[test]
fn a_peer_that_comes_back_without_the_capability_or_a_family_keeps_nothing() {
    for back in [plain(), open_with(true, true, 120, &[])] {
        let (mut script, conn) = told(passive(), &open());
        script.lose(conn);
        script.establish(&back);
        assert!(!script.has(ROUTE) && !script.has(ROUTE6));
    }
}

#[test]
fn a_peer_that_comes_back_and_never_ends_is_not_waited_for_forever() {
    let (mut script, conn) = told(passive(), &open());
    script.lose(conn);
    script.establish(&Open { hold_time: 0, ..open() });
    script.pass(170);
    assert!(script.has(ROUTE));
    script.pass(20);
    assert!(!script.has(ROUTE) && script.state() == PeerState::Established);
}

#[test]
fn a_second_restart_inside_the_window_takes_what_was_stale_and_keeps_what_is_new() {
    let (mut script, conn) = told(passive(), &open());
    script.lose(conn);
    let conn = script.establish(&open());
    script.say(conn, &announce(&attributes(), &["10.0.3.0/26"]));

    script.lose(conn);

    assert!(!script.has(ROUTE), "stale since the first restart");
    assert!(script.has("10.0.3.0/26"), "told after it");
}

#[test]
fn a_host_that_slept_over_the_restart_time_gives_the_peer_a_moment() {
    let (mut script, conn) = told(passive(), &open());
    script.lose(conn);
    script.now += std::time::Duration::from_secs(100_000);
    let now = script.now;
    script.speaker.handle_timeout(now);
    assert!(script.has(ROUTE));

    script.establish(&open());
    assert!(script.has(ROUTE));
}

#[test]
fn a_cold_start_defers_nothing_and_a_restart_says_so_in_its_first_open_only() {
    let bits = |did: Vec<Did>| {
        let open = did.into_iter().find_map(|d| if let Did::Open(o) = d { Some(o) } else { None }).unwrap();
        let gr = open.graceful_restart().unwrap().clone();
        (gr.restarting, gr.notification, gr.families[0].1)
    };
    for kept in [false, true] {
        let mut script = Script::starting(with_peer(passive()), kept);
        assert_eq!(script.speaker.is_restarting(), kept);

        let conn = script.accept();
        assert_eq!(bits(script.did()), (kept, true, kept), "R, N and F of the first OPEN");
        script.say_open(conn, &open());
        script.say(conn, &keepalive());
        script.lose(conn);
        script.did();
        script.accept();

        // The process lives on: it has not restarted, and its forwarding was kept.
        assert_eq!(bits(script.did()), (false, true, true), "R, N and F of the next OPEN");
    }
}

#[test]
fn end_of_rib_is_sent_for_every_family_also_an_empty_one() {
    let mut script = Script::new(with_peer(passive()));
    script.establish(&open());
    let did = script.did();
    for family in Family::ALL {
        assert!(did.contains(&Did::EndOfRib(family)), "{did:?}");
    }
}

/// A reflector that has restarted, with a client that is there and one that is not.
fn restarted() -> Script {
    let mut config = with_peer(PeerConfig { reflector_client: true, ..passive() });
    config.cluster_id = Some(std::net::Ipv4Addr::new(244, 0, 0, 1));
    let away = "192.0.2.3".parse::<std::net::IpAddr>().unwrap();
    config.peers.insert(away.into(), PeerConfig { reflector_client: true, ..passive() });
    Script::starting(config, true)
}

#[test]
fn a_restarted_speaker_waits_for_those_who_are_there_and_not_for_those_who_are_not() {
    let mut script = restarted();
    let conn = script.establish(&open());
    script.say(conn, &announce(&attributes(), &[ROUTE]));
    assert!(!script.did().iter().any(|d| matches!(d, Did::EndOfRib(_))), "before it knows what there is");
    script.pass(11);
    assert!(script.speaker.is_restarting(), "the peer that is there has not ended yet");

    Family::ALL.into_iter().for_each(|family| script.say(conn, &end_of_rib(family)));
    let now = script.now;
    script.speaker.handle_timeout(now);

    assert!(!script.speaker.is_restarting(), "somebody who is away is waited for");
    assert!(script.events().contains(&Event::RestartComplete));
    assert!(script.did().contains(&Did::EndOfRib(Family::Ipv6)));
}

#[test]
fn two_that_have_both_restarted_do_not_wait_for_one_another() {
    let mut script = Script::starting(with_peer(passive()), true);
    script.establish(&open_with(true, true, 120, &BOTH));
    assert!(!script.speaker.is_restarting());
}

#[test]
fn forwarding_state_is_not_swept_before_one_who_restarted_too_has_told_all() {
    let mut script = Script::starting(with_peer(passive()), true);
    let conn = script.establish(&open_with(true, true, 120, &BOTH));
    assert!(script.did().contains(&Did::EndOfRib(Family::Ipv4)), "the other one may wait for this");
    script.say(conn, &end_of_rib(Family::Ipv4));
    assert!(!script.events().contains(&Event::RestartComplete), "IPv6 is still to come");

    // What it had told goes with the session.
    script.lose(conn);
    assert!(!script.events().contains(&Event::RestartComplete));

    let conn = script.establish(&open_with(true, true, 120, &BOTH));
    Family::ALL.into_iter().for_each(|family| script.say(conn, &end_of_rib(family)));
    assert!(script.events().contains(&Event::RestartComplete));
}

#[test]
fn one_who_restarted_too_and_tells_nothing_holds_the_sweep_no_longer_than_its_time() {
    let mut script = Script::starting(with_peer(PeerConfig { restart_time: 30, ..passive() }), true);
    script.establish(&Open { hold_time: 0, ..open_with(true, true, 120, &BOTH) });
    script.pass(29);
    assert!(!script.events().contains(&Event::RestartComplete));
    script.pass(2);
    assert!(script.events().contains(&Event::RestartComplete));
}

#[test]
fn nobody_is_waited_for_longer_than_a_minute() {
    let mut script = Script::starting(with_peer(PeerConfig { restart_time: 4095, ..passive() }), true);
    script.establish(&Open { hold_time: 0, ..open() });
    script.pass(58);
    assert!(script.speaker.is_restarting());
    script.pass(3);
    assert!(!script.speaker.is_restarting());
}

fn long_lived(forwarding: bool, seconds: u32) -> Open {
    let mut open = open_with(false, true, 60, &BOTH);
    let families = Family::ALL.map(|f| (f.into(), forwarding, seconds)).to_vec();
    open.capabilities.push(Capability::LongLivedGracefulRestart(families));
    open
}

fn long_lived_config() -> PeerConfig {
    PeerConfig { long_lived_stale_time: Some(3600), reflector_client: true, ..passive() }
}

#[test]
fn routes_outlive_the_restart_time_as_the_last_choice_but_for_those_that_must_not() {
    let (mut script, conn) = told(long_lived_config(), &long_lived(true, 1000));
    let unwilling = PathAttributes { communities: vec![Community::NO_LLGR], ..attributes() };
    script.say(conn, &announce(&unwilling, &["10.0.3.0/26"]));
    script.lose(conn);
    script.pass(62);

    assert!(script.has(ROUTE) && !script.has("10.0.3.0/26"));
    // Anything else is better now, however bad.
    let other = "192.0.2.3:40000".parse().unwrap();
    let mut config = with_peer(long_lived_config());
    config.peers.insert("192.0.2.3".parse::<std::net::IpAddr>().unwrap().into(), passive());
    let now = script.now;
    script.speaker.reconfigure(config, now);
    let conn = script.speaker.handle_incoming(other, own_address(), now).unwrap();
    script.say_open(conn, &Open { router_id: "192.0.2.3".parse().unwrap(), ..open() });
    script.say(conn, &keepalive());
    let worse = PathAttributes { local_pref: Some(1), ..attributes() };
    script.say(conn, &announce(&worse, &[ROUTE]));
    let best = script.speaker.routes_to(&ROUTE.parse().unwrap()).into_iter().find_map(|r| r.best);
    assert_eq!(best, Some(Reason::LongLivedStale));

    script.lose(conn);
    script.pass(1000);
    assert!(!script.has(ROUTE6), "the stale time is over");
}

#[test]
fn a_second_restart_inside_the_long_window_drops_nothing_and_does_not_prolong_it() {
    let (mut script, conn) = told(long_lived_config(), &long_lived(true, 1000));
    script.lose(conn);
    script.pass(100);
    let conn = script.establish(&long_lived(true, 1000));
    assert!(script.has(ROUTE));
    script.lose(conn);
    assert!(script.has(ROUTE), "RFC 9494 §4.2");
    script.pass(900);
    assert!(script.has(ROUTE));
    script.pass(70);
    assert!(!script.has(ROUTE), "the time of the first restart goes on");
}

#[test]
fn a_peer_that_comes_back_without_its_long_lived_forwarding_loses_its_routes() {
    let (mut script, conn) = told(long_lived_config(), &long_lived(true, 1000));
    script.lose(conn);
    script.pass(100);
    script.establish(&long_lived(false, 1000));
    assert!(!script.has(ROUTE));
}

#[test]
fn long_lived_routes_go_only_to_peers_that_know_what_they_are() {
    for knows in [true, false] {
        let mut config = with_peer(long_lived_config());
        config.cluster_id = Some(std::net::Ipv4Addr::new(244, 0, 0, 1));
        let other = "192.0.2.3".parse::<std::net::IpAddr>().unwrap();
        config.peers.insert(other.into(), long_lived_config());
        let mut script = Script::new(config);
        let conn = script.establish(&long_lived(true, 1000));
        let theirs = Open {
            hold_time: 0,
            router_id: "192.0.2.3".parse().unwrap(),
            ..if knows { long_lived(true, 1000) } else { open() }
        };
        let now = script.now;
        let third = script.speaker.handle_incoming((other, 40000).into(), own_address(), now).unwrap();
        script.say_open(third, &theirs);
        script.say(third, &keepalive());
        script.say(conn, &announce(&attributes(), &[ROUTE]));
        script.did();
        script.lose(conn);
        script.did();

        script.pass(62);

        let did = script.did();
        let sent = did.iter().find_map(|d| match d {
            Did::Reach(_, attributes) => Some(attributes.communities.contains(&Community::LLGR_STALE)),
            Did::Unreach(_) => Some(false),
            _ => None,
        });
        assert_eq!(sent, Some(knows), "{did:?}");
    }
}

#[test]
fn our_own_error_is_told_and_survives_only_with_the_n_bit() {
    let (mut script, _) = told(passive(), &open_with(false, false, 120, &BOTH));
    script.did();
    script.pass(95);
    assert_eq!(script.notified(), [(code::HOLD_TIMER, 0)]);
    assert!(!script.has(ROUTE));
}
