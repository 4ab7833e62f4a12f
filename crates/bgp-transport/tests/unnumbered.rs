//! Two speakers on one link, neither of which knows an address of the other. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/mod.rs"]
mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use bgp::{Config, PeerConfig, PeerKey, Speaker, Start};
use bgp_packet::{NextHop, PathAttributes};
use bgp_transport::{Driver, RouterDiscovery};
use common::node::Namespace;
use common::{DEADLINE, in_namespace, prefix};

/// Hears the other, peers with it, and waits until it has its route.
async fn peer(
    index: u32,
    number: u8,
    done: std::sync::mpsc::Sender<u8>,
    over: std::sync::mpsc::Receiver<()>,
) {
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut discovery = RouterDiscovery::new().unwrap();
    discovery.set_links([index], Instant::now());
    tokio::time::timeout_at(end, discovery.changed()).await.expect("a router on the link");
    let router = PeerKey::new(IpAddr::V6(discovery.routers()[&index]), index);
    let mut config = Config::new(64512 + u32::from(number), Ipv4Addr::new(192, 0, 2, number));
    let other = PeerConfig { extended_next_hop: true, ..PeerConfig::new(64512 + u32::from(3 - number)) };
    config.peers.insert(router, other);
    let start = Start { seed: u64::from(number), report_routes: true, ..Start::default() };
    let mut driver = Driver::new(Speaker::new(config, start, Instant::now())).unwrap();
    let anywhere = SocketAddr::new("::".parse().unwrap(), 179);
    driver.listen(&[anywhere]).unwrap_or_else(|e| panic!("{}", e[0]));
    let own = PathAttributes::new(NextHop::V4(Ipv4Addr::UNSPECIFIED));
    driver.speaker_mut().originate(prefix(&format!("10.0.{number}.0/26")), own);
    let wanted = prefix(&format!("10.0.{}.0/26", 3 - number));
    let mut told = false;
    while over.try_recv().is_err() {
        assert!(tokio::time::Instant::now() < end, "no route: {:?}", driver.speaker().peers()[0].cause);
        tokio::select! {
            () = driver.turn() => {}
            () = discovery.changed() => {}
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
        }
        while driver.speaker_mut().poll_event().is_some() {}
        if let Some(route) = driver.speaker().route(&wanted).filter(|_| !told) {
            assert_eq!(route.next_hops, [router], "IPv4 goes by way of the link");
            told = true;
            done.send(number).unwrap();
        }
    }
}

#[test]
fn routers_on_a_link_hear_one_another_and_exchange_ipv4_routes() {
    let (one, two) = (Namespace::new(), Namespace::new());
    one.join(&two, "l0");
    std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel();
        let mut ends = Vec::new();
        for (namespace, number) in [(&one, 1), (&two, 2)] {
            let (index, name, done) = (namespace.index("l0"), namespace.name.clone(), done.clone());
            let (end, over) = std::sync::mpsc::channel();
            ends.push(end);
            scope.spawn(move || in_namespace(&name, || peer(index, number, done, over)));
        }
        drop(done);
        assert_eq!(is_done.iter().take(2).map(u32::from).sum::<u32>(), 3, "both have a route");
        for end in ends {
            let _ = end.send(());
        }
    });
}
