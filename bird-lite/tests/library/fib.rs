//! Lookup of next hops in the node's own routes.

use bird_lite::fib::{Fib, Resolved};
use kernel::{NextHop, PROTO_BIRD, Route, RouteKey, RouteKind};

use crate::world::{address, cidr};

/// A route as an administrator or the kernel makes it; without a gateway it is a connected one.
pub(crate) fn route(to: &str, gateway: Option<&str>, interface: &str) -> (RouteKey, Route) {
    with_metric(to, 0, gateway, interface)
}

fn with_metric(to: &str, metric: u32, gateway: Option<&str>, interface: &str) -> (RouteKey, Route) {
    let hop = NextHop { gateway: gateway.map(address), interface: Some(interface.to_owned()), onlink: false };
    let route = Route { kind: RouteKind::Unicast(vec![hop]), protocol: 2, source: None, mtu: None };
    (RouteKey::new(cidr(to), metric), route)
}

fn resolved(gateway: &str, interface: &str, on_link: bool) -> Option<Resolved> {
    Some(Resolved { gateway: address(gateway), interface: interface.to_owned(), on_link })
}

#[test]
fn the_longest_prefix_decides_and_then_the_lowest_metric() {
    let fib = Fib::new([
        with_metric("0.0.0.0/0", 100, Some("192.0.2.253"), "eth0"),
        with_metric("0.0.0.0/0", 50, Some("192.0.2.254"), "eth0"),
        route("192.0.2.0/24", None, "eth0"),
        route("192.0.2.128/25", None, "eth1"),
    ]);

    assert_eq!(fib.resolve(address("192.0.2.9")), resolved("192.0.2.9", "eth0", true));
    assert_eq!(fib.resolve(address("192.0.2.200")), resolved("192.0.2.200", "eth1", true));
    assert_eq!(fib.resolve(address("198.51.100.9")), resolved("192.0.2.254", "eth0", false));
    assert_eq!(fib.resolve(address("2001:db8::9")), None);
}

#[test]
fn families_do_not_mix() {
    let fib = Fib::new([
        route("0.0.0.0/0", Some("192.0.2.254"), "eth0"),
        route("::/0", Some("fe80::1"), "eth0"),
        route("2001:db8::/64", None, "eth1"),
    ]);

    assert_eq!(fib.resolve(address("2001:db8::9")), resolved("2001:db8::9", "eth1", true));
    assert_eq!(fib.resolve(address("2001:db8:1::9")), resolved("fe80::1", "eth0", false));
}

#[test]
fn learned_routes_and_blackholes_lead_to_no_next_hop() {
    let (key, mut learned) = route("198.51.100.0/24", Some("192.0.2.9"), "eth0");
    learned.protocol = PROTO_BIRD;
    let hole = Route { kind: RouteKind::Blackhole, protocol: 4, source: None, mtu: None };
    let fib = Fib::new([(key, learned), (RouteKey::new(cidr("203.0.113.0/24"), 0), hole)]);

    assert_eq!(fib.resolve(address("198.51.100.9")), None);
    assert_eq!(fib.resolve(address("203.0.113.9")), None);
}
