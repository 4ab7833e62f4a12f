//! RFC 4271 §8.2.2: every event in every state gives the answer that the RFC gives.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod script;

use std::time::Duration;

use bgp::{Cause, ConnId, PeerConfig, PeerState};
use bgp_packet::{Cease, Family, Notification};
use script::*;

/// Where the peer is brought to before the event. The RFC's Connect and Active are one here but for who connects:
/// the speaker listens all the time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Idle,
    Connect,
    Active,
    /// TCP is there and the DelayOpenTimer runs (still Connect or Active to the RFC).
    Delayed,
    OpenSent,
    OpenConfirm,
    Established,
}

const ALL: [From; 7] = [
    From::Idle,
    From::Connect,
    From::Active,
    From::Delayed,
    From::OpenSent,
    From::OpenConfirm,
    From::Established,
];

/// Events of RFC 4271 §8.1, with their numbers there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    ManualStart,           // 1
    ManualStop,            // 2
    ConnectRetryExpires,   // 9
    HoldTimerExpires,      // 10
    KeepaliveTimerExpires, // 11
    DelayOpenTimerExpires, // 12
    TcpOpens,              // 16
    PeerConnects,          // 17
    TcpFails,              // 18
    Open,                  // 19, 20
    HeaderError,           // 21
    OpenError,             // 22
    NotificationVersion,   // 24
    Notification,          // 25
    Keepalive,             // 26
    Update,                // 27
    UpdateError,           // 28
    RouteRefresh,          // RFC 2918
}

struct Bench {
    script: Script,
    conn: Option<ConnId>,
}

fn bench(from: From) -> Bench {
    let mut config = PeerConfig::new(OWN);
    config.passive = matches!(from, From::Active | From::Delayed | From::OpenSent | From::OpenConfirm);
    config.passive |= from == From::Established;
    config.admin_down = from == From::Idle;
    config.delay_open = Duration::from_secs(if from == From::Delayed { 10 } else { 0 });
    let mut script = Script::new(with_peer(config));
    let mut conn = None;
    script.pass(1);
    match from {
        From::Idle | From::Active => {}
        From::Connect => {
            let did = script.did();
            let [Did::Connect(c)] = did[..] else { panic!("{did:?}") };
            conn = Some(c);
        }
        _ => {
            let c = script.accept();
            conn = Some(c);
            if matches!(from, From::OpenConfirm | From::Established) {
                script.say_open(c, &open());
            }
            if from == From::Established {
                script.say(c, &keepalive());
            }
        }
    }
    let expected = match from {
        From::Idle => PeerState::Idle,
        From::Connect | From::Delayed => PeerState::Connect,
        From::Active => PeerState::Active,
        From::OpenSent => PeerState::OpenSent,
        From::OpenConfirm => PeerState::OpenConfirm,
        From::Established => PeerState::Established,
    };
    assert_eq!(script.state(), expected);
    script.did();
    Bench { script, conn }
}

/// Whether the event can happen in the state at all: bytes need a connection, a timer must run.
fn happens(from: From, event: Event) -> bool {
    let connected = matches!(from, From::Delayed | From::OpenSent | From::OpenConfirm | From::Established);
    match event {
        Event::ManualStart | Event::ManualStop | Event::PeerConnects => true,
        Event::ConnectRetryExpires | Event::TcpOpens => from == From::Connect,
        Event::TcpFails => connected || from == From::Connect,
        Event::HoldTimerExpires => connected && from != From::Delayed,
        Event::KeepaliveTimerExpires => from == From::Established,
        Event::DelayOpenTimerExpires => from == From::Delayed,
        _ => connected,
    }
}

fn apply(bench: &mut Bench, event: Event) {
    let script = &mut bench.script;
    let peer = peer_address().ip();
    let now = script.now;
    let bytes = match event {
        Event::ManualStart => return script.speaker.enable(peer, now),
        Event::ManualStop => return script.speaker.disable(peer, "", now),
        Event::ConnectRetryExpires => return script.pass(5),
        Event::HoldTimerExpires => return script.pass(90),
        Event::KeepaliveTimerExpires => return script.pass(30),
        Event::DelayOpenTimerExpires => return script.pass(10),
        Event::TcpOpens => {
            return script.speaker.handle_connected(bench.conn.unwrap(), own_address(), now);
        }
        Event::PeerConnects => {
            let _ = script.speaker.handle_incoming(peer_address(), own_address(), now);
            return;
        }
        Event::TcpFails if script.state() == PeerState::Connect && bench.conn.is_some_and(|_| true) => {
            let conn = bench.conn.unwrap();
            script.refuse(conn);
            return;
        }
        Event::TcpFails => return script.lose(bench.conn.unwrap()),
        Event::Open => bytes_of(|out| open().encode(out)),
        Event::HeaderError => [&[0xff; 16][..], &[0, 19, 9]].concat(),
        Event::OpenError => bytes_of(|out| open_of(OWN + 1).encode(out)),
        Event::NotificationVersion => bytes_of(|out| Notification::new(2, 1).encode(out)),
        Event::Notification => bytes_of(|out| Notification::cease(Cease::AdministrativeShutdown).encode(out)),
        Event::Keepalive => keepalive(),
        Event::Update => announce(&attributes(), &["10.0.2.0/26"]),
        Event::UpdateError => [&[0xff; 16][..], &[0, 23, 2, 0, 9, 0, 0]].concat(),
        Event::RouteRefresh => refresh(Family::Ipv4, 0),
    };
    script.say(bench.conn.unwrap(), &bytes);
}

/// The RFC's answer: the state after, and the NOTIFICATION that goes out. A session that ended is in Active here,
/// where the RFC says Idle: the speaker begins anew by itself after IdleHoldTime, and listens meanwhile.
fn answer(from: From, event: Event) -> (PeerState, Option<(u8, u8)>) {
    use PeerState::{Active, Connect, Established, Idle, OpenConfirm, OpenSent};
    let same = match from {
        From::Idle => Idle,
        From::Connect | From::Delayed => Connect,
        From::Active => Active,
        From::OpenSent => OpenSent,
        From::OpenConfirm => OpenConfirm,
        From::Established => Established,
    };
    let fsm = |from| match from {
        From::OpenSent => (Active, Some((5, 1))),
        From::OpenConfirm => (Active, Some((5, 2))),
        From::Established => (Active, Some((5, 3))),
        _ => (Active, None),
    };
    match (from, event) {
        (_, Event::ManualStart) => (same, None),
        // In Idle nothing is to be stopped; before OPEN nothing is said.
        (From::OpenSent | From::OpenConfirm, Event::ManualStop) => (Idle, Some((6, 2))),
        // The peer would keep our routes otherwise: Hard Reset (RFC 8538 §4).
        (From::Established, Event::ManualStop) => (Idle, Some((6, 9))),
        (_, Event::ManualStop) => (Idle, None),
        (From::Idle, Event::PeerConnects) => (Idle, None),
        // A new connection of the peer replaces one that has come to nothing yet.
        (From::Connect | From::Active, Event::PeerConnects) => (OpenSent, None),
        (From::Delayed, Event::PeerConnects) => (Connect, None),
        (From::OpenSent | From::OpenConfirm, Event::PeerConnects) => (OpenSent, None),
        (From::Established, Event::PeerConnects) => (Established, None),
        (_, Event::ConnectRetryExpires) => (Connect, None),
        (From::OpenSent, Event::HoldTimerExpires) => (Active, Some((4, 0))),
        (_, Event::HoldTimerExpires) => (Active, Some((4, 0))),
        (_, Event::KeepaliveTimerExpires) => (Established, None),
        (_, Event::DelayOpenTimerExpires | Event::TcpOpens) => (OpenSent, None),
        (_, Event::TcpFails) => (Active, None),
        (From::Delayed | From::OpenSent, Event::Open) => (OpenConfirm, None),
        // Events 21 and 22 are answered when our OPEN has gone out (SendNOTIFICATIONwithoutOPEN is off).
        (From::Delayed, Event::HeaderError) => (Active, None),
        (_, Event::HeaderError) => (Active, Some((1, 3))),
        (From::Delayed | From::OpenSent, Event::OpenError) => (Active, Some((2, 2))),
        (_, Event::NotificationVersion | Event::Notification) => (Active, None),
        (From::OpenConfirm, Event::Keepalive) => (Established, None),
        (From::Established, Event::Keepalive | Event::Update | Event::RouteRefresh) => (Established, None),
        (From::Established, Event::UpdateError) => (Active, Some((3, 1))),
        (from, _) => fsm(from),
    }
}

#[test]
fn every_event_in_every_state_gives_the_answer_of_the_rfc() {
    let events = [
        Event::ManualStart,
        Event::ManualStop,
        Event::ConnectRetryExpires,
        Event::HoldTimerExpires,
        Event::KeepaliveTimerExpires,
        Event::DelayOpenTimerExpires,
        Event::TcpOpens,
        Event::PeerConnects,
        Event::TcpFails,
        Event::Open,
        Event::HeaderError,
        Event::OpenError,
        Event::NotificationVersion,
        Event::Notification,
        Event::Keepalive,
        Event::Update,
        Event::UpdateError,
        Event::RouteRefresh,
    ];
    let mut tried = 0;
    for from in ALL {
        for event in events.into_iter().filter(|event| happens(from, *event)) {
            let mut bench = bench(from);
            apply(&mut bench, event);
            let notified = bench.script.notified();
            let (state, notification) = answer(from, event);
            let after = (bench.script.state(), notified.first().copied());
            assert_eq!(after, (state, notification), "{event:?} in {from:?}");
            tried += 1;
        }
    }
    assert_eq!(tried, 69, "pairs of state and event");
}

#[test]
fn a_message_that_is_cut_anywhere_waits_for_its_rest() {
    let bytes = bytes_of(|out| open().encode(out));
    for cut in 0..bytes.len() {
        let mut script = Script::new(with_peer(PeerConfig { passive: true, ..PeerConfig::new(OWN) }));
        let conn = script.accept();

        let used = script.speaker.handle_data(conn, &bytes[..cut], script.now);

        assert_eq!((used, script.state()), (0, PeerState::OpenSent), "cut at {cut}");
        script.say(conn, &bytes);
        assert_eq!(script.state(), PeerState::OpenConfirm);
    }
}

#[test]
fn a_silent_connection_is_given_up_and_the_peer_tried_again() {
    let mut script = Script::new(with_peer(PeerConfig::new(OWN)));
    script.pass(1);
    let did = script.did();
    let [Did::Connect(conn)] = did[..] else { panic!("{did:?}") };
    script.speaker.handle_connected(conn, own_address(), script.now);

    script.pass(24);

    assert_eq!(script.status().cause, Cause::OpenTimeout);
    let did = script.did();
    assert!(did.contains(&Did::Notification(Notification::new(4, 0))), "{did:?}");
    assert!(matches!(did.last(), Some(Did::Connect(_))), "no other try: {did:?}");
}

#[test]
fn attempts_slow_down_and_spread_out() {
    let mut script = Script::new(with_peer(PeerConfig::new(OWN)));
    let begin = script.now;
    let mut tries = Vec::new();
    while script.now < begin + Duration::from_secs(60) {
        for did in script.did() {
            let Did::Connect(conn) = did else { continue };
            tries.push(script.now);
            script.refuse(conn);
        }
        script.now = script.speaker.poll_timeout().unwrap();
        let now = script.now;
        script.speaker.handle_timeout(now);
    }
    let gaps: Vec<Duration> = tries.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps[0] < Duration::from_millis(300), "{gaps:?}");
    let (least, most) = (Duration::from_millis(3750), Duration::from_secs(5));
    assert!(gaps[6..].iter().all(|gap| (least..=most).contains(gap)), "{gaps:?}");
    assert!(gaps[6..].windows(2).any(|w| w[0] != w[1]), "no jitter: {gaps:?}");
}
