//! Peers that do what they should not: others are not disturbed, and nothing grows without bound.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod script;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp::{Config, DynamicNeighbours, Output, PeerConfig, PeerState, Refused};
use bgp_packet::{AsPath, Capability, Cease, Family, Notification, Open, PathAttributes};
use script::*;

fn passive() -> PeerConfig {
    PeerConfig { passive: true, ..PeerConfig::new(OWN) }
}

/// The `n`th stranger.
fn stranger(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + n).into(), 40000)
}

/// One configured peer, and everybody from 10/8 may come.
fn open_house() -> Config {
    let mut config = with_peer(passive());
    config.dynamic = vec![DynamicNeighbours::new("10.0.0.0/8".parse().unwrap(), PeerConfig::new(OWN))];
    config
}

#[test]
fn a_thousand_half_open_connections_disturb_nobody_and_leave_nothing() {
    let mut config = open_house();
    config.max_half_open = 1000;
    let mut script = Script::new(config);
    let conn = script.establish(&open());
    let own = own_address();
    for n in 0..1000 {
        let now = script.now;
        script.speaker.handle_incoming(stranger(n), own, now).unwrap();
    }
    let refused = script.speaker.handle_incoming(stranger(1000), own, script.now);
    assert_eq!(refused, Err(Refused::TooManyHalfOpen));
    // One address has one attempt, however often it connects.
    let now = script.now;
    script.speaker.handle_incoming(stranger(7), own, now).unwrap();
    assert_eq!(script.speaker.peers().len(), 1001);

    script.say(conn, &announce(&attributes(), &["10.0.2.0/26"]));
    assert!(script.has("10.0.2.0/26"));
    script.pass(11);

    assert_eq!(script.speaker.peers().len(), 1, "strangers are remembered");
    assert_eq!(script.state(), PeerState::Established);
    let now = script.now;
    assert!(script.speaker.handle_incoming(stranger(1000), own, now).is_ok(), "the places are free again");
}

#[test]
fn thousands_of_dynamic_clients_come_talk_and_go() {
    const CLIENTS: u32 = 2000;
    let mut script = Script::new(Config { max_dynamic: CLIENTS as usize, ..open_house() });
    let mut conns = Vec::new();
    for n in 0..CLIENTS {
        let now = script.now;
        let conn = script.speaker.handle_incoming(stranger(n), own_address(), now).unwrap();
        script.say_open(conn, &Open { router_id: Ipv4Addr::from(0x0a00_0000 + n + 1), ..open() });
        script.say(conn, &keepalive());
        script.say(conn, &announce(&attributes(), &[&format!("172.16.{}.{}/32", n / 256, n % 256)]));
        conns.push(conn);
    }
    assert_eq!(script.speaker.routes_count(), CLIENTS as usize);
    let refused = script.speaker.handle_incoming(stranger(CLIENTS), own_address(), script.now);
    assert_eq!(refused, Err(Refused::TooMany));

    let gone = bytes_of(|out| Notification::cease(Cease::PeerDeconfigured).hard_reset().encode(out));
    conns.into_iter().for_each(|conn| script.say(conn, &gone));
    script.did();

    assert_eq!((script.speaker.routes_count(), script.speaker.peers().len()), (0, 1));
}

#[test]
fn a_path_of_16_000_hops_is_taken_and_goes_on_only_in_messages_that_can_hold_it() {
    // Segments hold 255 each (RFC 4271 §4.3).
    let long = (0..16_000).fold(AsPath::default(), |path, n| path.prepended(65_000 + n % 500));
    let long = PathAttributes { as_path: long, ..attributes() };
    for extended in [true, false] {
        let mut config = with_peer(PeerConfig { reflector_client: true, ..passive() });
        config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
        let other: SocketAddr = "192.0.2.3:40000".parse().unwrap();
        let receiver = PeerConfig { reflector_client: true, ..passive() };
        config.peers.insert(other.ip().into(), receiver);
        let mut script = Script::new(config);
        let sender = script.establish(&open());
        let mut theirs = Open { router_id: Ipv4Addr::new(192, 0, 2, 3), ..open() };
        theirs.capabilities.extend(extended.then_some(Capability::ExtendedMessage));
        let now = script.now;
        let receiver = script.speaker.handle_incoming(other, own_address(), now).unwrap();
        script.say_open(receiver, &theirs);
        script.say(receiver, &keepalive());
        script.did();

        let message = announce(&long, &["10.0.2.0/26"]);
        assert!(message.len() > 60_000);
        script.say(sender, &message);
        script.say(sender, &announce(&attributes(), &["10.0.3.0/26"]));

        assert_eq!(script.state(), PeerState::Established);
        assert!(script.has("10.0.2.0/26"));
        let did = script.did();
        let reached: Vec<String> = did
            .iter()
            .flat_map(|d| if let Did::Reach(p, _) = d { p.clone() } else { vec![] })
            .map(|p| p.to_string())
            .collect();
        assert_eq!(reached.contains(&"10.0.2.0/26".to_owned()), extended, "{reached:?}");
        assert!(reached.contains(&"10.0.3.0/26".to_owned()), "another route was lost with it");
    }
}

#[test]
fn damage_at_any_octet_in_any_state_ends_at_most_its_own_connection() {
    let update = announce(&attributes(), &["10.0.2.0/26", "10.0.3.0/26"]);
    let messages = [
        bytes_of(|out| open().encode(out)),
        keepalive(),
        update,
        refresh(Family::Ipv4, 0),
        bytes_of(|out| Notification::cease_with_text(Cease::AdministrativeReset, "text").encode(out)),
    ];
    let other: SocketAddr = "192.0.2.3:40000".parse().unwrap();
    for steps in 0..3 {
        for message in &messages {
            for at in 0..message.len() {
                for damage in [0x01, 0x80, 0xff] {
                    let mut config = with_peer(passive());
                    config.peers.insert(other.ip().into(), passive());
                    let mut script = Script::new(config);
                    let bystander = script.speaker.handle_incoming(other, own_address(), script.now).unwrap();
                    script.say_open(bystander, &Open { router_id: Ipv4Addr::new(192, 0, 2, 3), ..open() });
                    script.say(bystander, &keepalive());
                    let conn = script.accept();
                    if steps > 0 {
                        script.say_open(conn, &open());
                    }
                    if steps > 1 {
                        script.say(conn, &keepalive());
                    }
                    let mut damaged = message.clone();
                    damaged[at] ^= damage;

                    script.say(conn, &damaged);
                    script.say(conn, &keepalive());
                    script.did();
                    script.pass(5);

                    let status = script.speaker.peer_at(other.ip()).unwrap();
                    assert_eq!(status.state, PeerState::Established, "octet {at} of {message:?}");
                }
            }
        }
    }
}

#[test]
fn a_storm_of_notifications_leaves_a_short_memory_and_slows_our_attempts_down() {
    let mut script = Script::new(with_peer(PeerConfig::new(OWN)));
    let no = bytes_of(|out| Notification::new(2, 5).encode(out));
    let begin = script.now;
    let mut tries = 0;
    while script.now < begin + Duration::from_secs(600) {
        for did in script.did() {
            if let Did::Connect(conn) = did {
                tries += 1;
                let now = script.now;
                script.speaker.handle_connected(conn, own_address(), now);
                script.say(conn, &no);
            }
        }
        // And it connects itself, again and again.
        let conn = script.accept();
        script.say(conn, &no);
        script.pass(1);
    }

    assert!((10..60).contains(&tries), "{tries} attempts in ten minutes");
    assert!(script.status().history.len() <= 16);
    assert!(script.events().len() <= 2, "the owner hears of one cause once");
}

#[test]
fn a_peer_that_reads_nothing_while_it_asks_for_everything_costs_a_window_of_memory() {
    let mut script = Script::new(with_peer(PeerConfig { reflector_client: true, ..passive() }));
    for n in 0..20_000_u32 {
        let local = PathAttributes::new(bgp_packet::NextHop::V4(Ipv4Addr::UNSPECIFIED));
        let prefix = bgp_packet::Prefix::host(Ipv4Addr::from(0xac10_0000 + n).into());
        script.speaker.originate(prefix, PathAttributes { med: Some(n), ..local });
    }
    let mut open = open();
    open.capabilities.push(Capability::EnhancedRouteRefresh);
    let conn = script.establish(&open);
    let mut waiting = 0;
    for _ in 0..1000 {
        script.say(conn, &refresh(Family::Ipv4, 0));
        // Nothing is taken: `handle_sent` is never called.
        while let Some(output) = script.speaker.poll_output() {
            if let Output::Send { bytes, .. } = output {
                waiting += bytes.len();
            }
        }
    }

    assert!(waiting < 2 * 1024 * 1024, "{waiting} octets wait for one peer");
    assert_eq!(script.state(), PeerState::Established);
}

#[test]
fn a_flood_of_changes_of_one_route_ends_in_the_last_of_them() {
    let mut script = Script::new(with_peer(PeerConfig { reflector_client: true, ..passive() }));
    let conn = script.establish(&open());
    for n in 0..10_000 {
        let changed = PathAttributes { med: Some(n), ..attributes() };
        script.say(conn, &announce(&changed, &["10.0.2.0/26"]));
        script.say(conn, &withdraw(&["10.0.3.0/26"]));
    }
    let route = script.speaker.route(&"10.0.2.0/26".parse().unwrap()).unwrap();
    assert_eq!((route.attributes.med, script.speaker.routes_count()), (Some(9_999), 1));
}
