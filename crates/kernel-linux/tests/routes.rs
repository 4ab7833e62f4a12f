//! Routes and neighbours against the real kernel, as root; `ip` is the witness.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use common::{in_new_netns, new_netns, run};
use kernel::{
    Driver, Neighbour, NeighbourKey, NextHop, PROTO_BIRD, PROTO_BOOT, PROTO_FELIX, Route, RouteKey, RouteKind,
};
use kernel_linux::{NeighbourDriver, RouteDriver, RouteOwner, Rtnl};

fn key(destination: &str, metric: u32) -> RouteKey {
    RouteKey::new(destination.parse().expect("a prefix"), metric)
}

fn hop(gateway: Option<&str>, interface: Option<&str>, onlink: bool) -> NextHop {
    let gateway = gateway.map(|text| text.parse().expect("an address"));
    NextHop { gateway, interface: interface.map(str::to_owned), onlink }
}

fn route(protocol: u8, hops: Vec<NextHop>) -> Route {
    Route { kind: RouteKind::Unicast(hops), protocol, source: None, mtu: None }
}

fn blackhole() -> Route {
    Route { kind: RouteKind::Blackhole, protocol: PROTO_BIRD, source: None, mtu: None }
}

fn bird() -> RouteDriver {
    RouteDriver::new(vec![RouteOwner::Protocol(PROTO_BIRD)]).expect("a netlink socket")
}

/// `name` with 192.0.2.1/24 and 2001:db8::1/64, up; the other end has no address.
fn add_link(name: &str) {
    run("ip", &["link", "add", name, "type", "veth", "peer", "name", &format!("{name}p")]);
    run("ip", &["link", "set", name, "up"]);
    run("ip", &["link", "set", &format!("{name}p"), "up"]);
}

fn add_uplink() {
    add_link("up0");
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "up0"]);
    run("ip", &["addr", "add", "2001:db8::1/64", "dev", "up0", "nodad"]);
}

/// The kernel makes the main table with its first route, and knows none before that.
#[test]
fn a_node_without_any_route_has_none() {
    assert_eq!(new_netns().run(|| bird().list()).unwrap(), BTreeMap::new());
}

#[test]
fn every_kind_of_route_reads_back_as_it_was_written() {
    in_new_netns(|| {
        add_uplink();
        add_link("cali1");
        let via = |gateway: &str| hop(Some(gateway), Some("up0"), false);
        let full = Route {
            source: Some("192.0.2.1".parse().unwrap()),
            mtu: Some(1400),
            ..route(PROTO_BIRD, vec![hop(Some("10.255.0.9"), Some("up0"), true)])
        };
        let wanted = BTreeMap::from([
            (key("10.1.0.0/26", 0), route(PROTO_BIRD, vec![via("192.0.2.2")])),
            (key("10.1.0.64/26", 1024), full),
            (key("10.1.0.128/26", 0), route(PROTO_BIRD, vec![via("192.0.2.2"), via("192.0.2.3")])),
            (key("10.2.0.0/26", 0), blackhole()),
            (key("10.65.0.2/32", 1024), route(PROTO_BIRD, vec![hop(None, Some("cali1"), false)])),
            (key("fd00:1::/122", 0), route(PROTO_BIRD, vec![via("2001:db8::2")])),
            (key("fd00:2::/122", 5), route(PROTO_BIRD, vec![via("2001:db8::2"), via("2001:db8::3")])),
            (key("fd00:3::/122", 0), blackhole()),
            (key("fd00:65::2/128", 0), route(PROTO_BIRD, vec![hop(None, Some("cali1"), false)])),
            (key("0.0.0.0/0", 0), route(PROTO_BIRD, vec![via("192.0.2.254")])),
            // RFC 8950.
            (key("10.3.0.0/26", 0), route(PROTO_BIRD, vec![via("2001:db8::2")])),
        ]);
        let mut driver = bird();

        let puts: Vec<_> = wanted.clone().into_iter().collect();
        let failures = driver.apply(&puts, &[]);
        assert!(failures.is_empty(), "{failures:?}");

        assert_eq!(driver.list().unwrap(), wanted);
        let shown = run("ip", &["route"]) + &run("ip", &["-6", "route"]);
        for line in [
            "10.1.0.64/26 via 10.255.0.9 dev up0 proto bird src 192.0.2.1 metric 1024 onlink mtu 1400",
            "blackhole 10.2.0.0/26 proto bird",
            "10.65.0.2 dev cali1 proto bird scope link metric 1024",
            "blackhole fd00:3::/122 dev lo proto bird metric 1024",
            "fd00:65::2 dev cali1 proto bird metric 1024",
            "10.3.0.0/26 via inet6 2001:db8::2 dev up0 proto bird",
        ] {
            assert!(shown.contains(line), "no {line:?} in\n{shown}");
        }

        let keys: Vec<_> = wanted.into_keys().collect();
        let failures = driver.apply(&[], &keys);
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(driver.list().unwrap(), BTreeMap::new());
        assert!(driver.apply(&[], &keys).is_empty(), "deleting what is gone succeeds");
    });
}

#[test]
fn ten_thousand_routes_come_and_go_in_batches() {
    in_new_netns(|| {
        add_link("cali1");
        let mut driver = bird();
        let address = |i: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i));
        let all: Vec<_> = (0..10_000)
            .map(|i| {
                let key = RouteKey::new(model::Cidr::host(address(i)), 1024);
                (key, route(PROTO_BIRD, vec![hop(None, Some("cali1"), false)]))
            })
            .collect();

        assert!(driver.apply(&all, &[]).is_empty());
        assert_eq!(driver.list().unwrap(), all.iter().cloned().collect());
        let half: Vec<_> = all.iter().step_by(2).map(|(key, _)| *key).collect();
        assert!(driver.apply(&[], &half).is_empty());

        assert_eq!(driver.list().unwrap(), all.into_iter().skip(1).step_by(2).collect());
    });
}

#[test]
fn a_bad_route_stops_no_other_and_is_named() {
    in_new_netns(|| {
        add_uplink();
        let mut driver = bird();
        let good = |gateway: &str| route(PROTO_BIRD, vec![hop(Some(gateway), None, false)]);
        let nowhere = route(PROTO_BIRD, vec![hop(None, Some("cali9"), false)]);

        let failures = driver.apply(
            &[
                (key("10.1.0.0/26", 0), good("192.0.2.2")),
                (key("10.2.0.0/26", 0), good("203.0.113.1")),
                (key("10.3.0.0/26", 0), nowhere),
                (key("10.4.0.0/26", 0), route(PROTO_BIRD, vec![])),
                (key("10.5.0.0/26", 0), good("192.0.2.3")),
            ],
            &[],
        );

        let failed: Vec<_> = failures.iter().map(|(key, _)| key.destination.to_string()).collect();
        assert_eq!(failed.len(), 3, "{failures:?}");
        for (key, error) in &failures {
            assert!(error.to_string().contains(&key.destination.to_string()), "{error}");
        }
        let reason = |destination: &str| {
            let found = failures.iter().find(|(key, _)| key.destination.to_string() == destination);
            found.map(|(_, error)| error.to_string()).unwrap()
        };
        assert!(reason("10.2.0.0/26").contains("Nexthop has invalid gateway"), "{}", reason("10.2.0.0/26"));
        assert!(reason("10.3.0.0/26").contains("no link cali9"), "{}", reason("10.3.0.0/26"));
        let listed: Vec<_> = driver.list().unwrap().into_keys().collect();
        assert_eq!(listed, [key("10.1.0.0/26", 0), key("10.5.0.0/26", 0)]);
    });
}

#[test]
fn a_route_is_replaced_in_one_step_whoever_made_it() {
    in_new_netns(|| {
        add_uplink();
        run("ip", &["route", "add", "10.1.0.0/26", "via", "192.0.2.9", "proto", "static"]);
        let mut driver = bird();
        let over = |gateway: &str| route(PROTO_BIRD, vec![hop(Some(gateway), Some("up0"), false)]);

        for wanted in [over("192.0.2.2"), blackhole(), over("192.0.2.3")] {
            assert!(driver.apply(&[(key("10.1.0.0/26", 0), wanted.clone())], &[]).is_empty());
            assert_eq!(driver.list().unwrap(), BTreeMap::from([(key("10.1.0.0/26", 0), wanted)]));
        }
    });
}

#[test]
fn ipv6_multipath_is_replaced_whole() {
    in_new_netns(|| {
        add_uplink();
        let mut driver = bird();
        let via = |gateway: &str| hop(Some(gateway), Some("up0"), false);
        let wide = route(PROTO_BIRD, vec![via("2001:db8::2"), via("2001:db8::3")]);
        let other = route(PROTO_BIRD, vec![via("2001:db8::3"), via("2001:db8::4")]);
        let narrow = route(PROTO_BIRD, vec![via("2001:db8::5")]);

        for wanted in [wide, other, narrow.clone(), blackhole(), narrow] {
            let failures = driver.apply(&[(key("fd00:1::/64", 0), wanted.clone())], &[]);
            assert!(failures.is_empty(), "{failures:?}");
            let listed = driver.list().unwrap();
            assert_eq!(listed.len(), 1, "{listed:?}");
            let actual = &listed[&key("fd00:1::/64", 0)];
            assert!(RouteDriver::matches(&wanted, actual), "{wanted:?} became {actual:?}");
        }
    });
}

#[test]
fn only_our_own_routes_are_listed_and_deleted() {
    in_new_netns(|| {
        add_uplink();
        add_link("cali1");
        run("ip", &["route", "add", "10.1.0.1/32", "dev", "cali1", "proto", "boot"]);
        run("ip", &["route", "add", "10.1.0.2/32", "dev", "cali1", "proto", "static"]);
        run("ip", &["route", "add", "10.1.0.3/32", "dev", "cali1", "proto", "bird"]);
        run("ip", &["route", "add", "10.1.0.4/32", "dev", "up0", "proto", "80"]);
        run("ip", &["route", "add", "10.1.0.5/32", "dev", "up0", "proto", "static"]);
        run("ip", &["route", "add", "10.1.0.6/32", "dev", "up0", "proto", "80", "table", "77"]);
        let mut felix = RouteDriver::new(vec![
            RouteOwner::Protocol(PROTO_FELIX),
            RouteOwner::Interface { prefix: "cali".to_owned(), except: vec![PROTO_BIRD] },
        ])
        .unwrap();

        let ours: Vec<_> = felix.list().unwrap().into_keys().map(|key| key.destination.to_string()).collect();
        assert_eq!(ours, ["10.1.0.1/32", "10.1.0.2/32", "10.1.0.4/32"]);
        // Known by protocol alone, a route that somebody else put in our place is not deleted.
        assert!(bird().apply(&[], &[key("10.1.0.5/32", 0)]).is_empty());
        assert!(run("ip", &["route"]).contains("10.1.0.5"));
    });
}

#[test]
fn a_route_that_another_writer_put_in_our_place_is_not_deleted() {
    in_new_netns(|| {
        add_uplink();
        add_link("cali1");
        let owner = RouteOwner::Interface { prefix: "cali".to_owned(), except: vec![PROTO_BIRD] };
        let mut felix = RouteDriver::new(vec![RouteOwner::Protocol(PROTO_FELIX), owner]).unwrap();
        let pod = key("10.65.0.2/32", 1024);
        let local = route(PROTO_BOOT, vec![hop(None, Some("cali1"), false)]);
        let remote = route(PROTO_BIRD, vec![hop(Some("192.0.2.2"), Some("up0"), false)]);
        assert!(felix.apply(&[(pod, local)], &[]).is_empty());

        // The pod has moved to another node, and the speaker was faster.
        assert!(bird().apply(&[(pod, remote.clone())], &[]).is_empty());
        assert!(felix.apply(&[], &[pod]).is_empty());

        assert_eq!(bird().list().unwrap(), BTreeMap::from([(pod, remote)]));
    });
}

#[test]
fn routes_to_pods_are_as_the_plugin_writes_them() {
    in_new_netns(|| {
        add_link("cali1");
        run(
            "ip",
            &["route", "add", "10.1.0.1", "dev", "cali1", "proto", "boot", "scope", "link", "metric", "1024"],
        );
        let owner = RouteOwner::Interface { prefix: "cali".to_owned(), except: vec![] };

        let listed = RouteDriver::new(vec![owner]).unwrap().list().unwrap();

        let wanted = route(PROTO_BOOT, vec![hop(None, Some("cali1"), false)]);
        assert_eq!(listed, BTreeMap::from([(key("10.1.0.1/32", 1024), wanted)]));
    });
}

#[test]
fn the_kernel_says_how_it_would_reach_an_address() {
    in_new_netns(|| {
        add_uplink();
        run("ip", &["route", "add", "10.1.0.0/26", "via", "192.0.2.9"]);
        run("ip", &["route", "add", "blackhole", "10.2.0.0/26"]);
        let mut rtnl = Rtnl::open().unwrap();
        let mut ask = |address: &str| rtnl.lookup(address.parse().unwrap()).unwrap();

        let far = ask("10.1.0.5").unwrap();
        assert_eq!((far.gateway, far.interface.as_str()), ("192.0.2.9".parse().ok(), "up0"));
        assert_eq!(far.source, "192.0.2.1".parse().ok());
        assert_eq!(ask("192.0.2.7").unwrap().gateway, None);
        assert_eq!(ask("2001:db8::7").unwrap().interface, "up0");
        assert!(ask("192.0.2.1").unwrap().is_local);
        assert_eq!((ask("10.2.0.1"), ask("203.0.113.1"), ask("fd00::1")), (None, None, None));
    });
}

/// `spec/felix.md` §12, 24: who does not want others' routes removed keeps them.
#[test]
fn routes_of_others_to_pods_are_ours_or_not() {
    in_new_netns(|| {
        add_link("cali1");
        run("ip", &["route", "add", "10.65.0.9", "dev", "cali1", "proto", "static"]);
        run("ip", &["route", "add", "10.65.0.2", "dev", "cali1", "proto", "boot"]);
        let prefix = "cali".to_owned();
        let all = RouteOwner::Interface { prefix: prefix.clone(), except: vec![PROTO_BIRD] };
        let own = RouteOwner::InterfaceProtocols { prefix, protocols: vec![PROTO_BOOT] };
        let mut driver = RouteDriver::new(vec![all]).unwrap();
        assert_eq!(driver.list().unwrap().len(), 2);

        driver.set_owners(vec![own]);

        let found: Vec<_> = driver.list().unwrap().into_keys().collect();
        assert_eq!(found, [key("10.65.0.2/32", 0)]);
    });
}

#[test]
fn all_routes_are_listed_for_those_who_resolve_next_hops() {
    in_new_netns(|| {
        add_uplink();

        let all = Rtnl::open().unwrap().all_routes().unwrap();

        let connected = all.iter().find(|(found, _)| *found == key("192.0.2.0/24", 0)).unwrap();
        assert_eq!(connected.1.protocol, 2);
        assert_eq!(connected.1.kind, RouteKind::Unicast(vec![hop(None, Some("up0"), false)]));
        assert!(all.iter().any(|(found, _)| found.destination == "2001:db8::/64".parse().unwrap()));
    });
}

#[test]
fn neighbours_are_permanent_and_only_ours() {
    in_new_netns(|| {
        add_link("cali1");
        add_uplink();
        run("ip", &["neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "up0"]);
        run(
            "ip",
            &["neigh", "add", "10.9.9.9", "lladdr", "02:00:00:00:00:09", "nud", "stale", "dev", "cali1"],
        );
        let mut driver = NeighbourDriver::new(vec!["cali".to_owned()]).unwrap();
        let on = |interface: &str, address: &str| NeighbourKey {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
        };
        let wanted = BTreeMap::from([
            (on("cali1", "10.65.0.2"), Neighbour { mac: [2, 0, 0, 0, 0, 1] }),
            (on("cali1", "fd00::2"), Neighbour { mac: [2, 0, 0, 0, 0, 1] }),
        ]);

        let mut puts: Vec<_> = wanted.clone().into_iter().collect();
        puts.push((on("cali9", "10.65.0.3"), Neighbour { mac: [2, 0, 0, 0, 0, 2] }));
        let failures = driver.apply(&puts, &[]);

        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(
            (&failures[0].0, failures[0].1.kind()),
            (&on("cali9", "10.65.0.3"), io::ErrorKind::NotFound)
        );
        assert_eq!(driver.list().unwrap(), wanted);
        let shown = run("ip", &["neigh", "show", "dev", "cali1"]);
        assert!(shown.contains("10.65.0.2 lladdr 02:00:00:00:00:01 PERMANENT"), "{shown}");
        let deletes = [on("cali1", "10.65.0.2"), on("cali1", "fd00::2"), on("cali9", "10.65.0.3")];
        assert!(driver.apply(&[], &deletes).is_empty());
        assert_eq!(driver.list().unwrap(), BTreeMap::new());
        assert!(run("ip", &["neigh", "show", "dev", "up0"]).contains("PERMANENT"));
    });
}
