//! What crashed, confused or robbed other speakers, as regression tests over whole sessions: one each, named after
//! the advisory. What a single message can do is tested in `crates/bgp-packet/tests/known_attacks.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod script;

use std::net::Ipv4Addr;

use bgp::{Password, PeerConfig, PeerState};
use bgp_packet::{AsPath, NextHop, PathAttributes, RawAttribute};
use script::*;

fn passive() -> PeerConfig {
    PeerConfig { passive: true, ..PeerConfig::new(OWN) }
}

/// A header of a type that nobody has.
fn nonsense() -> Vec<u8> {
    let mut message = keepalive();
    message[18] = 99;
    message
}

#[test]
fn cve_2023_46565_the_connection_breaks_while_a_notification_is_on_its_way() {
    for steps in 0..3 {
        for told_before in [false, true] {
            let mut script = Script::new(with_peer(passive()));
            let conn = script.accept();
            if steps > 0 {
                script.say_open(conn, &open());
            }
            if steps > 1 {
                script.say(conn, &keepalive());
            }
            let unread = script.speaker.poll_output();

            script.say(conn, &nonsense());
            if told_before {
                assert_eq!(script.notified(), [(1, 3)], "after {steps} messages");
            }
            script.lose(conn);
            script.lose(conn);
            script.say(conn, &keepalive());
            script.speaker.handle_sent(conn, 10_000);
            drop(unread);
            script.did();
            script.pass(60);

            script.establish(&open());
        }
    }
}

#[test]
fn cve_2019_5892_attribute_255_neither_ends_a_session_nor_is_lost() {
    let mut script = Script::new(with_peer(passive()));
    let conn = script.establish(&open());
    let unknown = RawAttribute { flags: 0xe0, code: 255, value: vec![1, 2, 3].into() };

    let marked = PathAttributes { unknown: vec![unknown.clone()], ..attributes() };
    script.say(conn, &announce(&marked, &["10.0.2.0/26"]));

    assert_eq!(script.state(), PeerState::Established);
    let route = script.speaker.route(&"10.0.2.0/26".parse().unwrap()).unwrap();
    assert_eq!(route.attributes.unknown, [unknown]);
}

#[test]
fn ghsa_frrj_87jh_2772_an_empty_as_path_from_every_kind_of_peer() {
    for asn in [OWN, 64513] {
        let mut script = Script::new(with_peer(PeerConfig { passive: true, ..PeerConfig::new(asn) }));
        let conn = script.establish(&open_of(asn));

        let empty = PathAttributes { as_path: AsPath::default(), ..attributes() };
        script.say(conn, &announce(&empty, &["10.0.2.0/26"]));
        script.say(conn, &withdraw(&["10.0.2.0/26"]));
        script.say(conn, &announce(&attributes(), &["10.0.3.0/26"]));
        script.did();

        assert_eq!(script.state(), PeerState::Established, "AS {asn}");
    }
}

#[test]
fn cve_2026_30405_next_hops_that_lead_nowhere_are_not_used() {
    for hop in [[0, 0, 0, 0], [127, 0, 0, 1], [192, 0, 2, 1], [224, 0, 0, 5], [255, 255, 255, 255]] {
        let mut script = Script::new(with_peer(passive()));
        let conn = script.establish(&open());

        let lost = PathAttributes { next_hop: NextHop::V4(Ipv4Addr::from(hop)), ..attributes() };
        script.say(conn, &announce(&attributes(), &["10.0.2.0/26"]));
        script.say(conn, &announce(&lost, &["10.0.2.0/26"]));

        assert_eq!(script.state(), PeerState::Established, "{hop:?}");
        assert!(!script.has("10.0.2.0/26"), "{hop:?} is used");
    }
}

#[test]
fn cve_2026_6720_a_password_is_in_no_text() {
    const CANARY: &str = "tweet-tweet";
    let mut peer = PeerConfig::new(OWN);
    peer.password = Some(Password::new(CANARY.to_owned()));
    let config = with_peer(peer);
    let mut texts = vec![format!("{config:?}")];
    let mut script = Script::new(config);

    for _ in 0..3 {
        while let Some(output) = script.speaker.poll_output() {
            texts.push(format!("{output:?}"));
            if let bgp::Output::Connect { conn, .. } = output {
                script.refuse(conn);
            }
        }
        script.pass(30);
        texts.push(format!("{:?} {}", script.status(), script.status().cause));
        texts.extend(script.events().iter().map(|event| format!("{event:?}")));
    }
    texts.push(format!("{:?}", script.speaker));

    assert!(texts.iter().any(|text| text.contains("Connect")), "{texts:?}");
    assert!(!texts.iter().any(|text| text.contains(CANARY)));
}
