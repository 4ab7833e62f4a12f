//! Events of the real kernel, as root.

mod common;

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{in_new_netns, run};
use kernel::LinkEvent;
use kernel_linux::events::Events;

/// Long enough for any machine; a test that passes waits for what it needs only.
const LIMIT: Duration = Duration::from_secs(120);

fn listen() -> Receiver<LinkEvent> {
    let (sender, receiver) = channel();
    let events = Events::open().expect("a netlink socket");
    events.spawn(move |event| sender.send(event).is_ok()).expect("a thread");
    receiver
}

fn wait_for(events: &Receiver<LinkEvent>, wanted: impl Fn(&LinkEvent) -> bool) {
    let mut seen = Vec::new();
    while !seen.last().is_some_and(&wanted) {
        seen.push(events.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("only {seen:?}")));
    }
}

#[test]
fn every_kind_of_change_is_heard_of() {
    in_new_netns(|| {
        let events = listen();

        run("ip", &["link", "add", "cali1", "type", "veth", "peer", "name", "p1"]);
        wait_for(&events, |e| matches!(e, LinkEvent::Link { name, .. } if name == "cali1"));
        run("ip", &["link", "set", "cali1", "up"]);
        wait_for(&events, |e| matches!(e, LinkEvent::Link { name, .. } if name == "cali1"));
        run("ip", &["addr", "add", "192.0.2.1/32", "dev", "cali1"]);
        wait_for(&events, |e| matches!(e, LinkEvent::Address { .. }));
        run("ip", &["route", "add", "10.0.0.1", "dev", "cali1", "proto", "80"]);
        wait_for(&events, |e| *e == LinkEvent::Route { protocol: 80 });
        run("ip", &["route", "del", "10.0.0.1"]);
        wait_for(&events, |e| *e == LinkEvent::Route { protocol: 80 });
        run("ip", &["neigh", "add", "10.0.0.1", "lladdr", "02:00:00:00:00:01", "dev", "cali1"]);
        wait_for(&events, |e| matches!(e, LinkEvent::Neighbour { .. }));
        run("ip", &["link", "del", "cali1"]);
        wait_for(&events, |e| matches!(e, LinkEvent::LinkGone { name, .. } if name == "cali1"));
    });
}

#[test]
fn lost_events_are_said_to_be_lost() {
    in_new_netns(|| {
        run("ip", &["link", "add", "cali1", "type", "veth", "peer", "name", "p1"]);
        run("ip", &["link", "set", "cali1", "up"]);
        let mut events = Events::open().unwrap();

        let file = std::env::temp_dir().join(format!("kernel-linux-events-{}", std::process::id()));
        let text: String =
            (0..40_000).map(|i| format!("route add 10.{}.{}.1 dev cali1\n", i / 250, i % 250)).collect();
        std::fs::write(&file, text).unwrap();
        run("ip", &["-batch", &file.to_string_lossy()]);
        std::fs::remove_file(&file).unwrap();

        let mut seen = Vec::new();
        for _ in 0..100 {
            seen = events.receive().unwrap();
            if seen.contains(&LinkEvent::Overrun) {
                break;
            }
        }
        assert!(seen.contains(&LinkEvent::Overrun), "{seen:?}");
    });
}
