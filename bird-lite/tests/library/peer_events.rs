//! Events about peers are few, whatever the peers do.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bgp::{Cause, Event, PeerKey};
use bird_lite::peer_events::PeerEvents;

fn key(n: u8) -> PeerKey {
    PeerKey::from(IpAddr::from([192, 0, 2, n]))
}

fn down(n: u8, cause: Cause) -> Event {
    Event::PeerDown { peer: key(n), cause, routes_kept: false }
}

#[test]
fn what_comes_together_is_one_event_for_each_reason() {
    let start = Instant::now();
    let mut events = PeerEvents::default();

    (1..=20).for_each(|n| events.note(&down(n, Cause::HoldTimerExpired(90)), start));
    events.note(&Event::PeerUp { peer: key(30) }, start);
    assert!(events.take(start).is_empty(), "what comes a moment later belongs to it");
    let told = events.take(events.deadline().unwrap());

    let reasons: Vec<&str> = told.iter().map(|event| event.reason.as_str()).collect();
    assert_eq!(reasons, ["BGPPeerUp", "BGPPeerDownHoldTimerExpired"]);
    assert!(told[1].is_warning && told[1].message.contains("192.0.2.1, 192.0.2.2"), "{told:?}");
    assert!(told[1].message.contains("12 more") && told[1].message.contains("90 s"), "{told:?}");
    assert_eq!(events.deadline(), None);
}

#[test]
fn a_session_that_flaps_for_an_hour_makes_one_event_a_minute() {
    let start = Instant::now();
    let mut events = PeerEvents::default();
    let mut told = Vec::new();

    for second in 0..3600 {
        let now = start + Duration::from_secs(second);
        let event =
            if second % 2 == 0 { down(1, Cause::PeerRestarted) } else { Event::PeerUp { peer: key(1) } };
        events.note(&event, now);
        told.extend(events.take(now));
    }

    assert!((50..=61).contains(&told.len()), "{} events", told.len());
    assert!(told[1].message.contains("turns)"), "{told:?}");
}
