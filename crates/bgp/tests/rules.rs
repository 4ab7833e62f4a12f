//! Rules that capabilities, communities and limits put upon routes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod script;

use std::sync::Arc;
use std::time::Duration;

use bgp::{
    Action, Cause, Condition, Config, Event, MaxPrefix, MaxPrefixAction, PeerConfig, PeerState, Policy,
    Rejection, Rule, SourceKind,
};
use bgp_packet::{
    AsPath, Capability, Community, Family, Notification, Open, PathAttributes, Role, RouteRefresh,
};
use script::*;

const OTHER: u32 = 65001;

fn passive(asn: u32) -> PeerConfig {
    PeerConfig { passive: true, ..PeerConfig::new(asn) }
}

fn external() -> PathAttributes {
    PathAttributes { local_pref: None, as_path: AsPath::default().prepended(OTHER), ..attributes() }
}

fn reached(did: &[Did]) -> Vec<(String, &PathAttributes)> {
    let routes = did.iter().filter_map(|d| if let Did::Reach(p, a) = d { Some((p, a)) } else { None });
    routes.flat_map(|(prefixes, a)| prefixes.iter().map(move |p| (p.to_string(), a))).collect()
}

fn rejection(script: &Script, prefix: &str) -> Option<Rejection> {
    script.speaker.routes_to(&prefix.parse().unwrap())[0].rejection
}

fn local() -> PathAttributes {
    PathAttributes::new(bgp_packet::NextHop::V4(std::net::Ipv4Addr::UNSPECIFIED))
}

#[test]
fn a_route_that_leaks_is_kept_and_named_and_what_comes_from_above_is_marked() {
    let config = PeerConfig { role: Some(Role::Provider), ..passive(OTHER) };
    let mut script = Script::new(with_peer(config));
    script.context.internal = false;
    let conn = script.establish(&open_of(OTHER));
    script.did();

    let leaked = PathAttributes { only_to_customer: Some(OTHER), ..external() };
    script.say(conn, &announce(&leaked, &["10.0.2.0/26"]));
    script.say(conn, &announce(&external(), &["10.0.3.0/26"]));
    script.speaker.originate("10.0.1.0/26".parse().unwrap(), local());

    assert!(!script.has("10.0.2.0/26") && script.has("10.0.3.0/26"));
    assert_eq!(rejection(&script, "10.0.2.0/26"), Some(Rejection::RouteLeak));
    let did = script.did();
    let (_, sent) = reached(&did)[0].clone();
    assert_eq!(sent.only_to_customer, Some(OWN), "a customer must not pass it upwards");

    let config = PeerConfig { role: Some(Role::Customer), ..passive(OTHER) };
    let mut script = Script::new(with_peer(config));
    let conn = script.establish(&open_of(OTHER));
    script.say(conn, &announce(&external(), &["10.0.3.0/26"]));
    let route = script.speaker.route(&"10.0.3.0/26".parse().unwrap()).unwrap();
    assert_eq!(route.attributes.only_to_customer, Some(OTHER));
}

#[test]
fn an_external_peer_without_a_policy_gives_and_gets_nothing_when_one_is_required() {
    let rule = Rule { name: "all".into(), when: vec![], then: Action::Accept };
    let all = Arc::new(Policy::new(vec![rule], false));
    let policies = [(false, false), (true, false), (true, true)];
    for (required, explicit) in policies {
        let mut peer = passive(OTHER);
        if explicit {
            (peer.import, peer.export) = (all.clone(), all.clone());
        }
        let mut script = Script::new(Config { ebgp_requires_policy: required, ..with_peer(peer) });
        script.context.internal = false;
        let conn = script.establish(&open_of(OTHER));
        script.did();
        script.say(conn, &announce(&external(), &["10.0.3.0/26"]));
        script.speaker.originate("10.0.1.0/26".parse().unwrap(), local());

        let open_door = !required || explicit;
        assert_eq!(script.has("10.0.3.0/26"), open_door);
        assert_eq!(reached(&script.did()).is_empty(), !open_door);
        if !open_door {
            assert_eq!(rejection(&script, "10.0.3.0/26"), Some(Rejection::NoPolicy));
        }
    }
}

#[test]
fn a_graceful_shutdown_makes_routes_the_last_choice_on_both_sides_without_a_new_session() {
    let mut script = Script::new(with_peer(passive(OTHER)));
    script.context.internal = false;
    let conn = script.establish(&open_of(OTHER));
    script.speaker.originate("10.0.1.0/26".parse().unwrap(), local());
    script.say(conn, &announce(&external(), &["10.0.3.0/26"]));
    let announced = PathAttributes { communities: vec![Community::GRACEFUL_SHUTDOWN], ..external() };
    script.say(conn, &announce(&announced, &["10.0.4.0/26"]));
    let preference = |script: &Script, prefix: &str| {
        script.speaker.route(&prefix.parse().unwrap()).unwrap().attributes.local_pref
    };
    assert_eq!((preference(&script, "10.0.3.0/26"), preference(&script, "10.0.4.0/26")), (None, Some(0)));
    script.did();

    let now = script.now;
    let shutting = with_peer(PeerConfig { graceful_shutdown: true, ..passive(OTHER) });
    script.speaker.reconfigure(shutting, now);

    assert_eq!(preference(&script, "10.0.3.0/26"), Some(0));
    let did = script.did();
    let [(prefix, sent)] = &reached(&did)[..] else { panic!("{did:?}") };
    assert_eq!(
        (prefix.as_str(), &sent.communities[..]),
        ("10.0.1.0/26", &[Community::GRACEFUL_SHUTDOWN][..])
    );
    script.speaker.reconfigure(with_peer(passive(OTHER)), now);
    assert_eq!(preference(&script, "10.0.3.0/26"), None);
    assert!(reached(&script.did())[0].1.communities.is_empty());
    assert_eq!(script.status().sessions, 1);
}

#[test]
fn an_internal_peer_of_a_speaker_that_shuts_down_gets_the_least_preference() {
    let mut script = Script::new(Config { graceful_shutdown: true, ..with_peer(passive(OWN)) });
    script.establish(&open());
    script.did();

    script.speaker.originate("10.0.1.0/26".parse().unwrap(), local());

    let did = script.did();
    let (_, sent) = reached(&did)[0].clone();
    assert_eq!((sent.local_pref, &sent.communities[..]), (Some(0), &[Community::GRACEFUL_SHUTDOWN][..]));
}

fn limited(action: MaxPrefixAction) -> Config {
    let limit = MaxPrefix { limit: 4, warning_percent: 75, action };
    with_peer(PeerConfig { max_prefix: [Some(limit), None], ..passive(OWN) })
}

fn flood(script: &mut Script, conn: bgp::ConnId, routes: std::ops::Range<u8>) {
    for n in routes {
        script.say(conn, &announce(&attributes(), &[&format!("10.0.{n}.0/26")]));
    }
}

#[test]
fn too_many_routes_warn_once_then_end_the_session_for_the_wanted_time() {
    let mut script = Script::new(limited(MaxPrefixAction::Restart(Duration::from_secs(60))));
    let conn = script.establish(&open());
    script.did();
    script.events();

    flood(&mut script, conn, 0..4);
    let warnings = script.events();
    assert!(matches!(warnings[..], [Event::MaxPrefixWarning { received: 3, limit: 4, .. }]), "{warnings:?}");
    flood(&mut script, conn, 4..9);

    let status = script.status();
    let words = status.cause.to_string();
    assert_eq!(words, "max-prefix: 5 of 4 ipv4-unicast routes; tried again after 60 s");
    assert_eq!((status.state, status.received), (PeerState::Idle, 0), "routes beyond the limit were kept");
    let notification = script.did().into_iter().find_map(|d| match d {
        Did::Notification(n) => Some(n),
        _ => None,
    });
    // A Hard Reset around Cease/1 with AFI, SAFI and the limit.
    assert_eq!(notification.unwrap().data, [6, 1, 0, 1, 1, 0, 0, 0, 4]);
    let refused = script.speaker.handle_incoming(peer_address(), own_address(), script.now);
    assert_eq!(refused, Err(bgp::Refused::AdminDown));

    script.pass(61);
    script.establish(&open());
}

#[test]
fn a_peer_beyond_its_limit_stays_down_until_it_is_enabled_or_only_warns() {
    let mut script = Script::new(limited(MaxPrefixAction::StayDown));
    let conn = script.establish(&open());
    flood(&mut script, conn, 0..9);
    script.pass(100_000);
    assert_eq!(script.state(), PeerState::Idle);
    let (peer, now) = (peer_address().ip(), script.now);
    script.speaker.enable(peer, now);
    script.establish(&open());

    let mut script = Script::new(limited(MaxPrefixAction::Warn));
    let conn = script.establish(&open());
    flood(&mut script, conn, 0..9);
    assert_eq!((script.state(), script.status().received), (PeerState::Established, 9));
}

#[test]
fn a_lower_limit_counts_at_once() {
    let mut script = Script::new(with_peer(passive(OWN)));
    let conn = script.establish(&open());
    flood(&mut script, conn, 0..9);

    let now = script.now;
    script.speaker.reconfigure(limited(MaxPrefixAction::StayDown), now);

    assert!(matches!(script.status().cause, Cause::MaxPrefix { received: 9, limit: 4, .. }));
}

fn enhanced() -> Open {
    let mut open = open();
    open.capabilities.push(Capability::EnhancedRouteRefresh);
    open
}

#[test]
fn a_refresh_is_answered_in_brackets_by_family_where_both_sides_know_them() {
    for knows in [true, false] {
        let mut script = Script::new(with_peer(passive(OWN)));
        script.speaker.originate("10.0.1.0/26".parse().unwrap(), local());
        let conn = script.establish(&if knows { enhanced() } else { open() });
        script.did();

        script.say(conn, &refresh(Family::Ipv4, 0));

        let did = script.did();
        let mark = |subtype| Did::Refresh(RouteRefresh { family: Family::Ipv4.into(), subtype });
        if knows {
            assert_eq!((did.len(), &did[0], &did[2]), (3, &mark(1), &mark(2)), "{did:?}");
        }
        assert_eq!(reached(&did).len(), 1, "{did:?}");
    }
}

#[test]
fn what_a_bracketed_answer_does_not_repeat_goes_at_its_end_and_not_before() {
    let mut script = Script::new(with_peer(passive(OWN)));
    let conn = script.establish(&enhanced());
    script.say(conn, &announce(&attributes(), &["10.0.2.0/26", "10.0.3.0/26"]));
    script.say(conn, &end_of_rib(Family::Ipv4));

    script.say(conn, &refresh(Family::Ipv4, 1));
    script.say(conn, &announce(&attributes(), &["10.0.2.0/26"]));
    assert!(script.has("10.0.2.0/26") && script.has("10.0.3.0/26"));
    script.say(conn, &refresh(Family::Ipv6, 2));
    assert!(script.has("10.0.3.0/26"), "the end of another family's answer");
    script.say(conn, &refresh(Family::Ipv4, 2));

    assert!(script.has("10.0.2.0/26") && !script.has("10.0.3.0/26"));
}

#[test]
fn an_answer_that_never_ends_is_taken_as_ended_and_one_that_breaks_off_loses_nothing() {
    let mut script = Script::new(with_peer(passive(OWN)));
    let conn = script.establish(&Open { hold_time: 0, ..enhanced() });
    script.say(conn, &announce(&attributes(), &["10.0.2.0/26"]));
    script.say(conn, &end_of_rib(Family::Ipv4));
    script.say(conn, &refresh(Family::Ipv4, 1));
    script.pass(200);
    assert!(!script.has("10.0.2.0/26"));

    script.say(conn, &announce(&attributes(), &["10.0.2.0/26"]));
    script.say(conn, &refresh(Family::Ipv4, 1));
    script.lose(conn);
    assert!(script.has("10.0.2.0/26"), "the peer restarts, and its routes are kept");
}

#[test]
fn the_text_of_a_shutdown_is_shown_at_the_other_side() {
    let mut script = Script::new(with_peer(passive(OWN)));
    let conn = script.establish(&open());
    script.say(conn, &announce(&attributes(), &["10.0.2.0/26"]));
    let inner = Notification::cease_with_text(bgp_packet::Cease::AdministrativeShutdown, "rack 7 is moved");

    script.say(conn, &bytes_of(|out| inner.hard_reset().encode(out)));

    let cause = script.status().cause.to_string();
    assert!(cause.contains("rack 7 is moved"), "{cause}");
    assert!(!script.has("10.0.2.0/26"), "a Hard Reset ends graceful restart, too");
}

#[test]
fn routes_of_a_peer_that_is_away_are_judged_as_those_of_the_session_that_told_them() {
    let configured = |import| {
        with_peer(PeerConfig { role: Some(Role::Customer), import: Arc::new(import), ..passive(OTHER) })
    };
    let mut script = Script::new(configured(Policy::accept()));
    let conn = script.establish(&open_of(OTHER));
    script.say(conn, &announce(&external(), &["10.0.3.0/26"]));
    script.lose(conn);
    let when = vec![Condition::Source(vec![SourceKind::Internal])];
    let no_internal = Rule { name: "internal".into(), when, then: Action::Reject };

    let now = script.now;
    script.speaker.reconfigure(configured(Policy::new(vec![no_internal], true)), now);

    let route = script.speaker.route(&"10.0.3.0/26".parse().unwrap()).unwrap();
    assert_eq!((route.stale, route.attributes.only_to_customer), (true, Some(OTHER)));
}
