//! Nexthop objects in the real kernel, each test in a network namespace of its own. Needs root.

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::{in_new_netns, run};
use kernel::{Driver, NextHop, NexthopId, NexthopObject, PROTO_BIRD, Route, RouteKey, RouteKind};
use kernel_linux::{NexthopDriver, RouteDriver, RouteEvent, RouteEvents, RouteOwner, Rtnl};

fn way(gateway: &str, interface: &str, onlink: bool) -> NexthopObject {
    let gateway: IpAddr = gateway.parse().expect("an address");
    NexthopObject::Way(NextHop { gateway: Some(gateway), interface: Some(interface.to_owned()), onlink })
}

fn number(n: u32) -> NexthopId {
    NexthopId::ours(NexthopId::FIRST_WAY.number() + n).expect("a number of ours")
}

fn by(destination: &str, id: NexthopId) -> (RouteKey, Route) {
    let kind = RouteKind::Nexthop(id, Vec::new());
    let key = RouteKey::new(destination.parse().expect("a prefix"), 1024);
    (key, Route { kind, protocol: PROTO_BIRD, source: None, mtu: None })
}

/// A LAN with both families, and another link without addresses.
fn links() {
    for link in ["eth0", "eth1"] {
        run("ip", &["link", "add", link, "type", "veth", "peer", "name", &format!("{link}p")]);
        run("ip", &["link", "set", &format!("{link}p"), "up"]);
        run("ip", &["link", "set", link, "up"]);
    }
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "eth0"]);
    run("ip", &["addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad"]);
}

fn drivers() -> (NexthopDriver, RouteDriver) {
    let routes = RouteDriver::new(vec![RouteOwner::Protocol(PROTO_BIRD)]).expect("a socket for routes");
    (NexthopDriver::new(PROTO_BIRD).expect("a socket for nexthops"), routes)
}

#[test]
fn routes_of_both_families_follow_their_objects_and_are_read_back() {
    in_new_netns(|| {
        links();
        run("ip", &["nexthop", "add", "id", "7", "via", "192.0.2.77", "dev", "eth0"]);
        let (mut objects, mut routes) = drivers();
        let group = NexthopObject::Group(BTreeSet::from([number(0), number(1)]));
        let wanted = [
            (number(0), way("192.0.2.2", "eth0", false)),
            (number(1), way("198.51.100.9", "eth1", true)),
            (number(2), way("2001:db8::2", "eth0", false)),
            (number(3), way("fe80::9", "eth1", false)),
            (NexthopId::GROUPS, group),
        ];
        assert!(objects.apply(&wanted, &[]).is_empty());
        assert_eq!(objects.list().unwrap(), wanted.into_iter().collect());
        // One of each was there before, without an object.
        run("ip", &["route", "add", "10.0.1.0/26", "via", "192.0.2.9", "metric", "1024", "proto", "bird"]);
        run(
            "ip",
            &["-6", "route", "add", "fd00:1::/64", "via", "2001:db8::9", "metric", "1024", "proto", "bird"],
        );
        let puts = [
            by("10.0.1.0/26", number(0)),
            by("10.0.2.0/26", NexthopId::GROUPS),
            by("10.0.3.0/26", number(3)),
            by("fd00:1::/64", number(2)),
        ];
        assert!(routes.apply(&puts, &[]).is_empty());

        let listed = routes.list().unwrap();
        assert_eq!(listed.len(), 4);
        assert!(puts.iter().all(|(key, route)| route.is_realised_by(&listed[key])), "{listed:?}");
        let gateways = |listed: &std::collections::BTreeMap<RouteKey, Route>, at: usize| -> Vec<String> {
            listed[&puts[at].0].hops().iter().map(|hop| hop.gateway.unwrap().to_string()).collect()
        };
        assert_eq!(gateways(&listed, 1), ["192.0.2.2", "198.51.100.9"]);
        assert_eq!(gateways(&listed, 2), ["fe80::9"]);
        run("sysctl", &["-qw", "net.ipv4.nexthop_compat_mode=0"]);
        assert_eq!(routes.list().unwrap(), listed, "routes that do not say where they lead");
        run("sysctl", &["-qw", "net.ipv4.nexthop_compat_mode=1"]);

        // One message takes all along, through the other link.
        assert!(objects.apply(&[(number(0), way("198.51.100.8", "eth1", true))], &[]).is_empty());
        let looked_up = Rtnl::open().unwrap().lookup("10.0.1.5".parse().unwrap()).unwrap().unwrap();
        assert_eq!(
            (looked_up.gateway.unwrap().to_string().as_str(), &*looked_up.interface),
            ("198.51.100.8", "eth1")
        );
        assert_eq!(gateways(&routes.list().unwrap(), 1), ["198.51.100.8", "198.51.100.9"]);

        // Back to routes that name their ways, and nothing of ours is left.
        let hop =
            NextHop { gateway: "192.0.2.2".parse().ok(), interface: Some("eth0".to_owned()), onlink: false };
        let plain = Route { kind: RouteKind::Unicast(vec![hop]), ..puts[0].1.clone() };
        assert!(routes.apply(&[(puts[0].0, plain)], &[]).is_empty());
        assert_eq!(routes.list().unwrap()[&puts[0].0].nexthop(), None);
        assert!(routes.apply(&[], &puts.each_ref().map(|(key, _)| *key)).is_empty());
        let ids = [number(0), number(1), number(2), number(3), NexthopId::GROUPS];
        assert!(objects.apply(&[], &ids).is_empty());
        assert!(routes.list().unwrap().is_empty() && objects.list().unwrap().is_empty());
        assert!(run("ip", &["nexthop"]).contains("id 7 via 192.0.2.77"), "somebody else's stays");
    });
}

#[test]
fn a_refused_object_is_named_and_stops_no_other_and_others_doings_are_told() {
    in_new_netns(|| {
        links();
        let (mut objects, mut routes) = drivers();
        let ports = vec![objects.port().unwrap(), routes.port().unwrap()];
        let mut events = RouteEvents::open(ports).unwrap();

        let failures = objects.apply(
            &[
                (number(0), way("192.0.2.2", "eth0", false)),
                (number(1), way("192.0.2.3", "gone0", false)),
                (number(2), way("203.0.113.1", "eth0", false)),
            ],
            &[],
        );
        let failed: Vec<_> = failures.iter().map(|(id, _)| *id).collect();
        assert_eq!(failed, [number(1), number(2)], "{failures:?}");
        assert!(failures[0].1.to_string().contains("gone0"), "{failures:?}");
        assert!(routes.apply(&[by("10.0.1.0/26", number(0))], &[]).is_empty());
        assert_eq!(routes.apply(&[by("10.0.2.0/26", number(5))], &[]).len(), 1, "there is no such object");

        let id = number(0).number().to_string();
        run("ip", &["nexthop", "replace", "id", &id, "via", "192.0.2.4", "dev", "eth0", "proto", "static"]);
        run("ip", &["nexthop", "del", "id", &id]);
        let mut told = Vec::new();
        while told.len() < 2 {
            let nexthops = events.receive().unwrap().into_iter();
            told.extend(nexthops.filter(|event| matches!(event, RouteEvent::Nexthop { .. })));
        }
        let changed = Some(way("192.0.2.4", "eth0", false));
        assert_eq!(told[0], RouteEvent::Nexthop { id: number(0), protocol: 4, object: changed });
        assert_eq!(told[1], RouteEvent::Nexthop { id: number(0), protocol: 4, object: None });
        assert!(routes.list().unwrap().is_empty(), "its route went with it");
    });
}
