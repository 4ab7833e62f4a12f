//! Lookup of next hops in the node's own routes.

use bird_lite::fib::{Fib, Resolved, Unclear};
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
    at_metric(0, gateway, interface, on_link)
}

fn at_metric(metric: u32, gateway: &str, interface: &str, on_link: bool) -> Option<Resolved> {
    Some(Resolved { gateway: address(gateway), interface: interface.to_owned(), on_link, metric })
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
    assert_eq!(fib.resolve(address("198.51.100.9")), at_metric(50, "192.0.2.254", "eth0", false));
    assert_eq!(fib.resolve(address("2001:db8::9")), None);
}

#[test]
fn families_do_not_mix() {
    let fib = Fib::new([
        route("0.0.0.0/0", Some("192.0.2.254"), "eth0"),
        with_metric("::/0", 1024, Some("fe80::1"), "eth0"),
        with_metric("2001:db8::/64", 256, None, "eth1"),
    ]);

    assert_eq!(fib.resolve(address("2001:db8::9")), at_metric(256, "2001:db8::9", "eth1", true));
    assert_eq!(fib.resolve(address("2001:db8:1::9")), at_metric(1024, "fe80::1", "eth0", false));
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

#[test]
fn events_keep_the_copy_as_reading_would() {
    let steps = [
        route("192.0.2.0/24", None, "eth0"),
        with_metric("0.0.0.0/0", 100, Some("192.0.2.253"), "eth0"),
        with_metric("0.0.0.0/0", 50, Some("192.0.2.254"), "eth0"),
        route("10.0.1.7/32", None, "cali1"),
    ];
    let mut fib = Fib::default();

    for (i, (key, route)) in steps.iter().enumerate() {
        assert_eq!(fib.put(*key, route.clone(), false), Ok(true));
        assert_eq!(fib.put(*key, route.clone(), true), Ok(false), "the same again");
        assert_eq!(fib, Fib::new(steps[..=i].iter().cloned()));
    }
    assert_eq!(fib.remove_through("cali1"), [cidr("10.0.1.7/32")]);
    for (i, (key, _)) in steps[..3].iter().enumerate() {
        assert_eq!(fib.remove(*key), Ok(true));
        assert_eq!(fib.remove(*key), Ok(false), "it is gone");
        assert_eq!(fib, Fib::new(steps[i + 1..3].iter().cloned()));
    }
}

#[test]
fn a_route_beside_another_of_the_same_key_is_unclear() {
    let (key, one) = route("203.0.113.0/24", Some("192.0.2.1"), "eth0");
    let (_, two) = route("203.0.113.0/24", Some("192.0.2.2"), "eth0");
    let mut fib = Fib::new([(key, one.clone()), (key, two.clone())]);

    assert_eq!(fib.remove(key), Err(Unclear));
    let mut fib_of_one = Fib::new([(key, one)]);
    assert_eq!(fib_of_one.put(key, two.clone(), false), Err(Unclear));
    assert_eq!(fib_of_one.put(key, two, true), Ok(true));
    assert_eq!(fib_of_one.resolve(address("203.0.113.9")), resolved("192.0.2.2", "eth0", false));
}

#[test]
fn a_foreign_blackhole_hides_the_default_route() {
    let hole = Route { kind: RouteKind::Blackhole, protocol: 4, source: None, mtu: None };
    let fib = Fib::new([
        route("0.0.0.0/0", Some("192.0.2.254"), "eth0"),
        (RouteKey::new(cidr("203.0.113.0/24"), 0), hole),
    ]);

    assert_eq!(fib.resolve(address("203.0.113.9")), None);
}
