//! What two OPENs make together, and which OPEN is refused.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod script;

use std::net::Ipv4Addr;
use std::time::Duration;

use bgp::{Cause, PeerConfig, PeerState};
use bgp_packet::{AddPathMode, Capability, Family, GracefulRestart, Open, Role, UpdateContext};
use script::*;

fn passive(peer: PeerConfig) -> Script {
    Script::new(with_peer(PeerConfig { passive: true, ..peer }))
}

fn opens(script: &mut Script) -> Open {
    let did = script.did();
    let open = did.into_iter().find_map(|did| if let Did::Open(open) = did { Some(open) } else { None });
    open.expect("an OPEN was sent")
}

/// What the speaker answers to an OPEN: the state, the cause, the NOTIFICATION.
fn answer(config: PeerConfig, open: &Open) -> (PeerState, Cause, Vec<(u8, u8)>) {
    let mut script = passive(config);
    let conn = script.accept();
    script.did();
    script.say_open(conn, open);
    let status = script.status();
    (status.state, status.cause, script.notified())
}

#[test]
fn our_open_says_what_the_configuration_wants() {
    let families = vec![Family::Ipv6, Family::Ipv4];
    let mut script = passive(PeerConfig {
        families,
        hold_time: 2,
        extended_next_hop: true,
        add_path_receive: true,
        add_path_send_max: Some(4),
        long_lived_stale_time: Some(3600),
        role: Some(Role::Provider),
        ..PeerConfig::new(65001)
    });
    script.accept();

    let open = opens(&mut script);

    let (v4, v6) = (Family::Ipv4.into(), Family::Ipv6.into());
    let restart = GracefulRestart {
        restarting: false,
        notification: true,
        restart_time: 120,
        families: vec![(v4, false), (v6, false)],
    };
    let expected = [
        Capability::Multiprotocol(v4),
        Capability::Multiprotocol(v6),
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::FourOctetAs(OWN),
        Capability::ExtendedMessage,
        Capability::ExtendedNextHop(vec![(v4, 2)]),
        Capability::Role(Role::Provider),
        Capability::AddPath(vec![(v4, AddPathMode::Both), (v6, AddPathMode::Both)]),
        Capability::GracefulRestart(restart),
        Capability::LongLivedGracefulRestart(vec![(v4, false, 3600), (v6, false, 3600)]),
    ];
    assert_eq!(open.capabilities, expected);
    assert_eq!(open.hold_time, 3, "1 and 2 seconds must not be proposed");
}

#[test]
fn an_internal_peer_hears_of_no_role_and_without_graceful_restart_there_is_no_long_lived_one() {
    let config = PeerConfig {
        role: Some(Role::Peer),
        restart_time: 0,
        long_lived_stale_time: Some(60),
        ..PeerConfig::new(OWN)
    };
    let mut script = passive(config);
    script.accept();

    let open = opens(&mut script);

    let odd = |c: &Capability| {
        let restart = matches!(c, Capability::GracefulRestart(_) | Capability::LongLivedGracefulRestart(_));
        restart || matches!(c, Capability::Role(_))
    };
    assert!(!open.capabilities.iter().any(odd), "{open:?}");
}

#[test]
fn what_does_not_fit_is_refused_with_the_subcode_of_the_rfc_and_named() {
    let ours = PeerConfig { role: Some(Role::Provider), ..PeerConfig::new(65001) };
    let strict = PeerConfig { strict_role: true, ..ours.clone() };
    let with = |role| {
        let mut open = open_of(65001);
        open.capabilities.push(Capability::Role(role));
        open
    };
    let twice = {
        let mut open = with(Role::Customer);
        open.capabilities.push(Capability::Role(Role::Peer));
        open
    };
    let other_family = {
        let v6 = Capability::Multiprotocol(Family::Ipv6.into());
        Open { capabilities: vec![v6, Capability::FourOctetAs(OWN)], ..open() }
    };
    let v4_only = PeerConfig { families: vec![Family::Ipv4], ..PeerConfig::new(OWN) };
    let same_id = Ipv4Addr::new(192, 0, 2, 1);
    let cases = [
        (PeerConfig::new(65001), open(), "wrong AS: expected 65001, got 64512", Some((2, 2))),
        (
            PeerConfig::new(OWN),
            Open { router_id: same_id, ..open() },
            "own identifier 192.0.2.1",
            Some((2, 3)),
        ),
        (v4_only, other_family, "no address family is configured on both sides", Some((2, 7))),
        (ours.clone(), with(Role::Peer), "it must be Customer, got Peer", Some((2, 11))),
        (ours.clone(), twice, "several roles", Some((2, 11))),
        (strict, open_of(65001), "names no role and must be Customer", Some((2, 11))),
        (ours.clone(), with(Role::Customer), "", None),
        (ours, open_of(65001), "", None),
        // Another AS may have our identifier (RFC 6286).
        (PeerConfig::new(65001), Open { router_id: same_id, ..open_of(65001) }, "", None),
        (PeerConfig { asn: None, ..PeerConfig::new(OWN) }, open_of(65099), "", None),
    ];
    for (config, open, words, notification) in cases {
        let (state, cause, notified) = answer(config, &open);
        assert_eq!(notified, notification.into_iter().collect::<Vec<_>>(), "{cause}");
        if notification.is_some() {
            assert!(cause.to_string().contains(words), "{cause} does not say {words}");
        }
        let expected = if notification.is_some() { PeerState::Active } else { PeerState::OpenConfirm };
        assert_eq!(state, expected, "{cause}");
    }
}

#[test]
fn hold_times_of_1_and_2_seconds_are_refused_and_0_sends_no_keepalive() {
    for hold_time in [1, 2] {
        let mut script = passive(PeerConfig::new(OWN));
        let conn = script.accept();
        script.did();
        let mut bytes = bytes_of(|out| open().encode(out));
        bytes[22..24].copy_from_slice(&[0, hold_time]);
        script.say(conn, &bytes);
        assert_eq!(script.notified(), [(2, 6)]);
    }
    let mut script = passive(PeerConfig::new(OWN));
    script.establish(&Open { hold_time: 0, ..open() });
    script.did();

    script.pass(3600);

    assert_eq!((script.state(), script.status().hold_time), (PeerState::Established, 0));
    assert_eq!(script.did(), []);
}

#[test]
fn keepalives_leave_at_the_wanted_interval_but_at_least_thrice_in_a_hold_time() {
    for (wanted, hold_time, least, most) in
        [(None, 90, 8, 11), (Some(10), 90, 24, 33), (Some(60), 30, 24, 33)]
    {
        let mut script = passive(PeerConfig { keepalive_interval: wanted, ..PeerConfig::new(OWN) });
        let conn = script.establish(&Open { hold_time, ..open() });
        script.did();
        for _ in 0..24 {
            script.pass(10);
            script.say(conn, &keepalive());
        }
        let sent = script.did().iter().filter(|did| **did == Did::Keepalive).count();
        assert!((least..=most).contains(&sent), "{wanted:?} of {hold_time}: {sent} in 240 s");
        assert_eq!(script.state(), PeerState::Established);
    }
}

#[test]
fn messages_longer_than_4096_octets_are_for_those_who_take_them() {
    let routes: Vec<String> = (0..2000).map(|n| format!("10.{}.{}.0/26", n / 256, n % 256)).collect();
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let long = announce(&attributes(), &routes);
    assert!(long.len() > 4096);
    for extended_messages in [true, false] {
        let mut script = passive(PeerConfig { extended_messages, ..PeerConfig::new(OWN) });
        let conn = script.establish(&open());
        script.did();

        script.say(conn, &long);

        let expected = if extended_messages { vec![] } else { vec![(1, 2)] };
        assert_eq!(script.notified(), expected);
    }
    // Before Established nothing may be so long (RFC 8654 §4).
    let mut script = passive(PeerConfig::new(OWN));
    let conn = script.accept();
    script.did();
    script.say(conn, &long);
    assert_eq!(script.notified(), [(1, 2)]);
}

#[test]
fn several_paths_go_only_where_both_sides_want_them() {
    let v4 = Family::Ipv4.into();
    let table = [
        // Do we receive, do we send, what does the peer say: are identifiers read, are they written?
        (true, true, Some(AddPathMode::Both), true, true),
        (true, false, Some(AddPathMode::Both), true, false),
        (false, true, Some(AddPathMode::Both), false, true),
        (true, true, Some(AddPathMode::Receive), false, true),
        (true, true, Some(AddPathMode::Send), true, false),
        (true, true, None, false, false),
    ];
    for (receive, send, theirs, reads, writes) in table {
        let mut script = passive(PeerConfig {
            add_path_receive: receive,
            add_path_send_max: send.then_some(4),
            reflector_client: true,
            ..PeerConfig::new(OWN)
        });
        let mut open = open();
        open.capabilities.extend(theirs.map(|mode| Capability::AddPath(vec![(v4, mode)])));
        let conn = script.establish(&open);
        script.did();

        let options = bgp_packet::EncodeOptions { as4: true, add_path: [reads, false], ..Default::default() };
        let routes = [(7_u32, "10.0.2.0/26".parse::<bgp_packet::Prefix>().unwrap())];
        let bytes = bytes_of(|out| bgp_packet::encode_reach(out, &attributes(), &routes, options).unwrap());
        script.say(conn, &bytes);
        assert!(script.has("10.0.2.0/26"), "{theirs:?}: {:?}", script.status().last_problem);

        script.context = UpdateContext { add_path: [writes, false], ..script.context };
        let local = bgp_packet::PathAttributes::new(bgp_packet::NextHop::V4(Ipv4Addr::UNSPECIFIED));
        script.speaker.originate("10.0.1.0/26".parse().unwrap(), local);
        let did = script.did();
        assert!(matches!(&did[..], [Did::Reach(p, _)] if p[0].to_string() == "10.0.1.0/26"), "{did:?}");
    }
}

#[test]
fn an_open_that_is_delayed_waits_for_the_peers_and_no_longer_than_wanted() {
    let config = PeerConfig { delay_open: Duration::from_secs(10), ..PeerConfig::new(OWN) };
    let mut script = passive(config.clone());
    let conn = script.accept();
    assert_eq!(script.did(), []);
    script.say_open(conn, &open());
    let did = script.did();
    assert!(matches!(did[..], [Did::Open(_), Did::Keepalive]), "{did:?}");

    let mut script = passive(config);
    script.accept();
    script.pass(9);
    assert_eq!(script.did(), []);
    script.pass(2);
    assert!(matches!(script.did()[..], [Did::Open(_)]));
}

#[test]
fn a_peer_that_reads_nothing_loses_its_session_though_it_talks() {
    let send_hold_time = Some(Duration::from_secs(120));
    let mut script = passive(PeerConfig { send_hold_time, ..PeerConfig::new(OWN) });
    let conn = script.establish(&open());
    script.did();
    // The kernel takes nothing from here on: nobody asks for what was sent.
    for _ in 0..30 {
        if script.state() != PeerState::Established {
            break;
        }
        script.pass(10);
        script.say(conn, &keepalive());
    }

    let cause = script.status().cause;
    assert_eq!(cause, Cause::SendHoldTimerExpired(Duration::from_secs(120)));
    assert!(cause.to_string().contains("read nothing for 120 s"));
}

#[test]
fn a_host_that_slept_gives_its_peers_a_moment_before_it_judges_them() {
    let mut script = passive(PeerConfig::new(OWN));
    let conn = script.establish(&open());

    script.now += Duration::from_secs(3600);
    let now = script.now;
    script.speaker.handle_timeout(now);
    assert_eq!(script.state(), PeerState::Established);
    script.pass(1);
    script.say(conn, &keepalive());
    script.pass(60);
    assert_eq!(script.state(), PeerState::Established, "what the peer had said was not heard");

    script.pass(100);
    assert_eq!(script.status().cause, Cause::HoldTimerExpired(90));
}
