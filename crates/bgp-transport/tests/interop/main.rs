//! Real sessions with BIRD 2, GoBGP 3, FRR 8, OpenBGPD 7 and ExaBGP: one table of stories, each told with every daemon that
//! can do it. Needs root. `INTEROP_PEER=bird,frr` chooses the daemons at run time.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bird;
#[path = "../common/mod.rs"]
mod common;
mod daemon;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;

use bgp::{Cause, Config, MaxPrefix, Password, PeerConfig, PeerStatus, Speaker};
use bgp_packet::{Capability, Community, Role};

use bird::Bird;
use common::*;
use daemon::{Daemon, Wish, is_wanted};
use exabgp::ExaBgp;
use frr::Frr;
use gobgp::GoBgp;
use openbgpd::OpenBgpd;

const OURS: [&str; 2] = ["10.0.1.0/26", "fd00:1::/122"];
const THEIRS: [&str; 2] = ["192.0.2.0/24", "2001:db8:1::/48"];

fn peer() -> PeerConfig {
    PeerConfig { local_address: Some(US.parse().unwrap()), ..PeerConfig::new(64513) }
}

fn status(speaker: &Speaker) -> PeerStatus {
    speaker.peers().remove(0)
}

/// Both sides have all routes of the other.
fn exchanged(daemon: &dyn Daemon, lab: &Lab, speaker: &Speaker) -> bool {
    is_up(speaker)
        && daemon.announces().iter().all(|theirs| has(speaker, theirs))
        && OURS.iter().all(|ours| daemon.has(lab, ours))
}

/// Starts a daemon as `wish` says and a speaker as `settings` say, and waits until all routes are exchanged and
/// `check` holds.
fn converge(
    daemon: &dyn Daemon,
    wish: Wish,
    settings: impl FnOnce(&mut Config) + Send,
    check: impl Fn(&Speaker, &Lab) -> bool + Send + Sync,
) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, wish);
    lab.run(|| async {
        let mut config = config(peer());
        settings(&mut config);
        let mut driver = start(config, false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        until(&mut driver, "what was asked for", |s| check(s, &lab)).await;
    });
}

fn only_peer(config: &mut Config) -> &mut PeerConfig {
    config.peers.values_mut().next().unwrap()
}

fn exchanges_and_withdraws(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish::default());
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        for ours in OURS {
            driver.speaker_mut().withdraw(prefix(ours));
            until(&mut driver, "our withdrawal", |_| !daemon.has(&lab, ours)).await;
        }
        daemon.withdraw_own(&lab);
        for theirs in daemon.announces() {
            until(&mut driver, "their withdrawal", |s| !has(s, theirs)).await;
        }
    });
}

/// We die without a word and come back: the peer keeps our routes all the time.
fn keeps_our_routes_over_our_restart(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish::default());
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        drop(driver);
        let end = std::time::Instant::now() + DEADLINE;
        while daemon.session(&lab).contains(daemon.up()) {
            assert!(std::time::Instant::now() < end, "they do not see that we are gone");
            tokio::task::yield_now().await;
        }
        let kept = |stage: &str| {
            OURS.iter().for_each(|ours| assert!(daemon.has(&lab, ours), "{ours} is gone {stage}"));
        };
        kept("while we are away");
        let mut driver = start(config(peer()), true);
        until(&mut driver, "session up again", is_up).await;
        until(&mut driver, "restart complete", |s| !s.is_restarting()).await;
        until(&mut driver, "all routes again", |s| exchanged(daemon, &lab, s)).await;
        kept("after we came back");
    });
}

/// The peer dies without a word: its routes stay here until it is back and has said all.
fn its_routes_are_kept_over_its_restart(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    let processes = daemon.start(&mut lab, Wish::default());
    let ours = lab.ours.clone();
    let ((up_tx, up_rx), (gone_tx, gone_rx)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            in_namespace(&ours, || async move {
                let mut driver = start(config(peer()), false);
                until(&mut driver, "routes", |s| is_up(s) && THEIRS.iter().all(|r| has(s, r))).await;
                up_tx.send(()).unwrap();
                until(&mut driver, "session down", |s| !is_up(s)).await;
                THEIRS.iter().for_each(|r| assert!(has(driver.speaker(), r), "{r} was not kept"));
                gone_rx.recv().unwrap();
                until(&mut driver, "session up again", is_up).await;
                until(&mut driver, "no stale routes", |s| status(s).stale == 0).await;
                until(&mut driver, "routes again", |s| THEIRS.iter().all(|r| has(s, r))).await;
            });
        });
        up_rx.recv().unwrap();
        processes.iter().for_each(|p| lab.kill(*p));
        daemon.start(&mut lab, Wish { restarted: true, ..Wish::default() });
        gone_tx.send(()).unwrap();
        thread.join().unwrap();
    });
}

/// Standard, extended and large communities go both ways as they are.
fn communities_of_all_kinds(daemon: &dyn Daemon) {
    let wish = Wish { communities: true, ..Wish::default() };
    converge(
        daemon,
        wish,
        |_| {},
        |speaker, _| {
            daemon.announces().iter().all(|theirs| {
                let route = speaker.route(&prefix(theirs)).unwrap();
                let attributes = &route.attributes;
                attributes.communities == [Community(64513 << 16 | 7)]
                    && attributes.extended_communities == [[0, 2, 0xfc, 1, 0, 0, 0, 9]]
                    && attributes.large_communities.iter().map(ToString::to_string).eq(["64513:1:2"])
            })
        },
    );
}

fn passwords_agree(daemon: &dyn Daemon) {
    let wish = Wish { password: Some("correct-horse"), ..Wish::default() };
    let ours = |config: &mut Config| {
        only_peer(config).password = Some(Password::new("correct-horse".to_owned()));
    };
    converge(daemon, wish, ours, |_, _| true);
}

fn ttl_security_on_both_sides(daemon: &dyn Daemon) {
    let wish = Wish { ttl_security: true, ..Wish::default() };
    converge(daemon, wish, |config| only_peer(config).ttl_security = Some(1), |_, _| true);
}

fn no_hold_time(daemon: &dyn Daemon) {
    let wish = Wish { hold_time: Some(0), ..Wish::default() };
    converge(daemon, wish, |config| only_peer(config).hold_time = 0, |s, _| status(s).hold_time == 0);
}

/// Our AS needs four octets; the peer, which knows two only, sees AS_TRANS and our path in AS4_PATH.
fn a_peer_of_two_octets(daemon: &dyn Daemon) {
    let wish = Wish { two_octets: true, ..Wish::default() };
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, wish);
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        let four = |c: &Capability| matches!(c, Capability::FourOctetAs(_));
        assert!(!status(driver.speaker()).capabilities_received.iter().any(four));
    });
}

fn internal_sessions(daemon: &dyn Daemon) {
    let wish = Wish { internal: true, ..Wish::default() };
    converge(
        daemon,
        wish,
        |config| only_peer(config).asn = Some(64512),
        |speaker, _| {
            let route = speaker.route(&prefix(THEIRS[0])).unwrap();
            status(speaker).internal && route.attributes.local_pref == Some(100) && !route.external
        },
    );
}

fn several_paths_are_negotiated_both_ways(daemon: &dyn Daemon) {
    let wish = Wish { add_path: true, ..Wish::default() };
    let ours = |config: &mut Config| {
        only_peer(config).add_path_receive = true;
        only_peer(config).add_path_send_max = Some(4);
    };
    converge(daemon, wish, ours, |speaker, _| {
        let both = |c: &Capability| match c {
            Capability::AddPath(families) => {
                families.len() == 2 && families.iter().all(|(_, mode)| mode.receives() && mode.sends())
            }
            _ => false,
        };
        let status = status(speaker);
        status.capabilities_received.iter().any(both) && status.capabilities_sent.iter().any(both)
    });
}

fn we_answer_its_refresh(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish::default());
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        let (sent, sessions) =
            (status(driver.speaker()).messages_sent.update, status(driver.speaker()).sessions);
        daemon.refresh(&lab);
        until(&mut driver, "our answer", |s| status(s).messages_sent.update >= sent + 2).await;
        until(&mut driver, "all routes still", |s| exchanged(daemon, &lab, s)).await;
        assert_eq!(status(driver.speaker()).sessions, sessions);
    });
}

fn it_answers_our_refresh(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish::default());
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        let (got, sessions) =
            (status(driver.speaker()).messages_received.update, status(driver.speaker()).sessions);
        assert!(driver.speaker_mut().refresh_in(THEM.parse::<std::net::IpAddr>().unwrap()));
        until(&mut driver, "their answer", |s| {
            status(s).messages_received.update >= got + daemon.announces().len() as u64
        })
        .await;
        until(&mut driver, "all routes still", |s| exchanged(daemon, &lab, s)).await;
        assert_eq!(status(driver.speaker()).sessions, sessions);
    });
}

fn more_routes_than_we_take(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish::default());
    lab.run(|| async {
        let mut config = config(peer());
        only_peer(&mut config).max_prefix = [Some(MaxPrefix::new(0)), None];
        let mut driver = start(config, false);
        let ended = |s: &Speaker| matches!(status(s).cause, Cause::MaxPrefix { limit: 0, .. });
        until(&mut driver, "the limit", ended).await;
        assert!(!THEIRS.iter().any(|theirs| has(driver.speaker(), theirs)));
    });
}

/// The daemon ends the session because we announce more than it takes.
fn more_routes_than_it_takes(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish { limit: Some(1), ..Wish::default() });
    lab.run(|| async {
        let mut config = config(peer());
        only_peer(&mut config).restart_time = 0;
        let mut driver = start(config, false);
        let none = bgp_packet::PathAttributes::new(std::net::IpAddr::from([0, 0, 0, 0]).into());
        for i in 0..5_u8 {
            driver.speaker_mut().originate(prefix(&format!("10.0.{i}.128/26")), none.clone());
        }
        let ended = |s: &Speaker| {
            matches!(&status(s).cause, Cause::NotificationReceived(n) if (n.code, n.subcode) == (6, 1))
        };
        until(&mut driver, "their limit", ended).await;
    });
}

fn the_reason_of_a_shutdown_is_heard(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish::default());
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        daemon.shut_down(&lab, "maintenance");
        let heard = |s: &Speaker| !is_up(s) && status(s).cause.to_string().contains("maintenance");
        until(&mut driver, "the reason", heard).await;
    });
}

fn our_reason_of_a_shutdown_is_heard(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish::default());
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        let them = THEM.parse::<std::net::IpAddr>().unwrap();
        driver.speaker_mut().disable(them, "spring-cleaning", std::time::Instant::now());
        until(&mut driver, "the end", |_| !daemon.session(&lab).contains(daemon.up())).await;
        until(&mut driver, "the reason", |_| said(daemon, &lab).contains("spring-cleaning")).await;
    });
}

/// What the daemon says of the session, and its log.
fn said(daemon: &dyn Daemon, lab: &Lab) -> String {
    let log = std::fs::read_to_string(lab.dir.join("log0")).unwrap_or_default();
    daemon.session(lab) + &log
}

fn extended_messages_are_negotiated(daemon: &dyn Daemon) {
    let wish = Wish { extended_messages: true, ..Wish::default() };
    converge(
        daemon,
        wish,
        |config| only_peer(config).extended_messages = true,
        |speaker, _| status(speaker).capabilities_received.contains(&Capability::ExtendedMessage),
    );
}

/// IPv4 routes go over with an IPv6 next hop.
fn ipv4_by_an_ipv6_next_hop(daemon: &dyn Daemon) {
    let wish = Wish { extended_next_hop: true, ..Wish::default() };
    converge(
        daemon,
        wish,
        |config| only_peer(config).extended_next_hop = true,
        |speaker, _| {
            let offers = |c: &Capability| matches!(c, Capability::ExtendedNextHop(_));
            status(speaker).capabilities_received.iter().any(offers)
        },
    );
}

fn long_lived_restart_is_negotiated(daemon: &dyn Daemon) {
    let wish = Wish { long_lived: true, ..Wish::default() };
    converge(
        daemon,
        wish,
        |config| only_peer(config).long_lived_stale_time = Some(60),
        |speaker, _| {
            let offers = |c: &Capability| matches!(c, Capability::LongLivedGracefulRestart(_));
            status(speaker).capabilities_received.iter().any(offers)
        },
    );
}

/// The daemon dies and does not come back: its routes are kept for its restart time, then for the long time, then go.
fn its_routes_age_to_their_end(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    let processes = daemon.start(&mut lab, Wish { long_lived: true, ..Wish::default() });
    let ours = lab.ours.clone();
    let (up_tx, up_rx) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            in_namespace(&ours, || async move {
                let peer = PeerConfig { long_lived_stale_time: Some(60), ..peer() };
                let mut driver = start(config(peer), false);
                until(&mut driver, "routes", |s| is_up(s) && THEIRS.iter().all(|r| has(s, r))).await;
                up_tx.send(()).unwrap();
                let mut down = std::time::Instant::now();
                until(&mut driver, "session down", |s| {
                    if is_up(s) {
                        down = std::time::Instant::now();
                    }
                    !is_up(s)
                })
                .await;
                THEIRS.iter().for_each(|r| assert!(has(driver.speaker(), r), "{r} was not kept"));
                until(&mut driver, "its end", |s| !THEIRS.iter().any(|r| has(s, r))).await;
                // Three seconds of a restart, and three more.
                assert!(down.elapsed().as_secs() >= 5, "gone after {:?} already", down.elapsed());
            });
        });
        up_rx.recv().unwrap();
        processes.iter().for_each(|p| lab.kill(*p));
        thread.join().unwrap();
    });
}

/// We die and do not come back: the peer keeps our routes for our restart time, then marked as stale for our long time
/// (RFC 9494), then no longer.
fn our_routes_age_to_their_end(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish { long_lived: true, ..Wish::default() });
    lab.run(|| async {
        let peer = PeerConfig { restart_time: 2, long_lived_stale_time: Some(20), ..peer() };
        let mut driver = start(config(peer), false);
        until(&mut driver, "all routes", |s| exchanged(daemon, &lab, s)).await;
        drop(driver);
        let end = std::time::Instant::now() + DEADLINE;
        let mut marked = [false; OURS.len()];
        while OURS.iter().any(|ours| daemon.has(&lab, ours)) {
            let told = OURS.map(|ours| daemon.route(&lab, ours));
            for (marked, told) in marked.iter_mut().zip(&told) {
                *marked |= told.contains(daemon.stale());
            }
            assert!(std::time::Instant::now() < end, "they keep our routes for ever: {told:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(marked, [true; OURS.len()], "our routes go without a long time");
    });
}

/// Both of two paths to one prefix are here, and one stays when the other is taken back.
fn two_paths_to_one_prefix(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish { add_path: true, two_paths: true, ..Wish::default() });
    lab.run(|| async {
        let mut driver = start(config(PeerConfig { add_path_receive: true, ..peer() }), false);
        let paths = |s: &Speaker| s.routes_to(&prefix(THEIRS[0]));
        until(&mut driver, "two paths", |s| paths(s).len() == 2).await;
        let both = paths(driver.speaker());
        assert_ne!(both[0].path_id, both[1].path_id);
        let marked = |p: &bgp::RouteStatus| p.attributes.communities == [Community(64513 << 16 | 2)];
        assert_eq!(both.iter().filter(|p| marked(p)).count(), 1);
        daemon.withdraw_own(&lab);
        until(&mut driver, "the other path", |s| matches!(&paths(s)[..], [only] if marked(only))).await;
    });
}

/// Two foreign clients, and we between them.
fn reflects_between(one: &dyn Daemon, other: &dyn Daemon) {
    let mut first = Lab::new(one.name());
    let mut second = Lab::beside(&first, other.name());
    let wish = Wish { internal: true, ..Wish::default() };
    one.start(&mut first, wish);
    other.start(&mut second, wish);
    let of = |daemon: &dyn Daemon, lab: &Lab| -> Vec<String> {
        daemon.announces().iter().map(|route| lab.say(route)).collect()
    };
    first.run(|| async {
        let client = |us: String| PeerConfig {
            local_address: Some(us.parse().unwrap()),
            asn: Some(64512),
            reflector_client: true,
            next_hop: bgp::NextHopMode::SelfAddress,
            ..PeerConfig::new(64512)
        };
        let mut config = config(client(first.say(US)));
        config.cluster_id = Some(config.router_id);
        config.peers.insert(second.say(THEM).parse().unwrap(), client(second.say(US)));
        let mut driver = start(config, false);
        let second_listens = std::net::SocketAddr::new(second.say(US).parse().unwrap(), 179);
        let first_listens = std::net::SocketAddr::new(US.parse().unwrap(), 179);
        driver.listen(&[first_listens, second_listens]).unwrap_or_else(|e| panic!("{}", e[0]));
        until(&mut driver, "the routes of the second at the first", |s| {
            is_up(s) && of(other, &second).iter().all(|route| one.has(&first, route))
        })
        .await;
        until(&mut driver, "our route at the second", |_| other.has(&second, OURS[0])).await;
        let second_peer: bgp::PeerKey = second.say(THEM).parse().unwrap();
        let reflected = |s: &Speaker| {
            let routes = s.advertised(second_peer);
            one.announces().iter().all(|theirs| {
                routes.iter().filter(|r| r.prefix == prefix(theirs)).any(|r| {
                    r.attributes.originator_id == Some(THEM.parse().unwrap())
                        && r.attributes.cluster_list == [std::net::Ipv4Addr::new(10, 99, 0, 1)]
                })
            })
        };
        until(&mut driver, "the routes of the first for the second", reflected).await;
        other.withdraw_own(&second);
        until(&mut driver, "the withdrawal", |_| {
            !of(other, &second).iter().any(|route| one.has(&first, route))
        })
        .await;
    });
}

/// It is our provider: its routes come marked, and ours go although they are marked for nobody.
fn roles_agree(daemon: &dyn Daemon) {
    let wish = Wish { role: true, ..Wish::default() };
    let ours = |config: &mut Config| {
        only_peer(config).role = Some(Role::Customer);
        only_peer(config).strict_role = true;
    };
    converge(daemon, wish, ours, |speaker, _| {
        let route = speaker.route(&prefix(THEIRS[0])).unwrap();
        route.attributes.only_to_customer == Some(64513)
    });
}

/// What we do not know passes on, with the Partial bit.
fn unknown_attributes_pass_on(daemon: &dyn Daemon) {
    let mut lab = Lab::new(daemon.name());
    daemon.start(&mut lab, Wish::default());
    lab.run(|| async {
        let mut driver = start(config(peer()), false);
        until(&mut driver, "routes", |s| THEIRS.iter().all(|theirs| has(s, theirs))).await;
        for theirs in THEIRS {
            let route = driver.speaker().route(&prefix(theirs)).unwrap();
            let unknown = &route.attributes.unknown;
            assert_eq!(unknown.len(), 1, "{theirs}");
            assert_eq!((unknown[0].code, &unknown[0].value[..]), (0x63, &[1, 2, 3, 4][..]));
        }
    });
}

/// Each story with each daemon that can do it. BIRD, GoBGP, FRR and OpenBGPD must be installed, ExaBGP may.
macro_rules! stories {
    ($($daemon:ident $module:ident: $($story:ident)*;)*) => {$(
        mod $module {
            use super::Daemon as _;

            $(#[test]
            fn $story() {
                let required = super::$daemon.name() != "exabgp";
                if super::is_wanted(&super::$daemon, required) {
                    super::$story(&super::$daemon);
                }
            })*
        }
    )*};
}

stories! {
    Bird with_bird:
        exchanges_and_withdraws
        keeps_our_routes_over_our_restart
        its_routes_are_kept_over_its_restart
        communities_of_all_kinds
        passwords_agree
        ttl_security_on_both_sides
        no_hold_time
        a_peer_of_two_octets
        internal_sessions
        several_paths_are_negotiated_both_ways
        we_answer_its_refresh
        it_answers_our_refresh
        more_routes_than_we_take
        more_routes_than_it_takes
        the_reason_of_a_shutdown_is_heard
        our_reason_of_a_shutdown_is_heard
        extended_messages_are_negotiated
        ipv4_by_an_ipv6_next_hop
        long_lived_restart_is_negotiated
        its_routes_age_to_their_end
        our_routes_age_to_their_end
        two_paths_to_one_prefix
        roles_agree;
    GoBgp with_gobgp:
        exchanges_and_withdraws
        keeps_our_routes_over_our_restart
        its_routes_are_kept_over_its_restart
        communities_of_all_kinds
        passwords_agree
        ttl_security_on_both_sides
        internal_sessions
        several_paths_are_negotiated_both_ways
        it_answers_our_refresh
        more_routes_than_we_take
        more_routes_than_it_takes
        the_reason_of_a_shutdown_is_heard
        our_reason_of_a_shutdown_is_heard
        long_lived_restart_is_negotiated
        its_routes_age_to_their_end
        our_routes_age_to_their_end
        two_paths_to_one_prefix;
    Frr with_frr:
        exchanges_and_withdraws
        keeps_our_routes_over_our_restart
        its_routes_are_kept_over_its_restart
        communities_of_all_kinds
        passwords_agree
        ttl_security_on_both_sides
        no_hold_time
        internal_sessions
        several_paths_are_negotiated_both_ways
        we_answer_its_refresh
        it_answers_our_refresh
        more_routes_than_we_take
        more_routes_than_it_takes
        the_reason_of_a_shutdown_is_heard
        our_reason_of_a_shutdown_is_heard
        extended_messages_are_negotiated
        roles_agree;
    OpenBgpd with_openbgpd:
        exchanges_and_withdraws
        keeps_our_routes_over_our_restart
        communities_of_all_kinds
        passwords_agree
        ttl_security_on_both_sides
        a_peer_of_two_octets
        internal_sessions
        several_paths_are_negotiated_both_ways
        we_answer_its_refresh
        more_routes_than_we_take
        more_routes_than_it_takes
        the_reason_of_a_shutdown_is_heard
        our_reason_of_a_shutdown_is_heard;
    ExaBgp with_exabgp:
        unknown_attributes_pass_on;
}

/// Pairs of foreign clients, each with us between them.
macro_rules! pairs {
    ($($name:ident: $one:ident $other:ident;)*) => {
        mod with_us_between {
            $(#[test]
            fn $name() {
                if super::is_wanted(&super::$one, true) && super::is_wanted(&super::$other, true) {
                    super::reflects_between(&super::$one, &super::$other);
                }
            })*
        }
    };
}

pairs! {
    frr_and_bird: Frr Bird;
    frr_and_openbgpd: Frr OpenBgpd;
    gobgp_and_bird: GoBgp Bird;
}
