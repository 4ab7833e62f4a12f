//! VXLAN links and who is behind them, against the real kernel, as root.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use common::{in_new_netns, run};
use kernel::{
    Driver, FdbEntry, FdbKey, NextHop, PROTO_BIRD, PROTO_FELIX, Route, RouteKey, RouteKind, VxlanLink,
};
use kernel_linux::{FdbDriver, RouteDriver, RouteOwner, VxlanDriver};

const NAME: &str = "vxlan.calico";

fn wanted() -> VxlanLink {
    VxlanLink {
        vni: 4096,
        port: 4789,
        local: "192.0.2.1".parse().unwrap(),
        parent: "eth0".to_owned(),
        mac: [0x66, 1, 2, 3, 4, 5],
        mtu: Some(1450),
        address: "10.65.0.1".parse().ok(),
        no_checksum_offload: false,
    }
}

fn uplink() {
    run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "far0"]);
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "eth0"]);
    run("ip", &["link", "set", "eth0", "up"]);
    run("ip", &["link", "set", "far0", "up"]);
}

fn put<D: Driver>(driver: &mut D, key: D::Key, value: D::Value)
where
    D::Key: Debug,
{
    let failures = driver.apply(&[(key, value)], &[]);
    assert!(failures.is_empty(), "{failures:?}");
}

fn is_kept(driver: &mut VxlanDriver, wanted: &VxlanLink) -> bool {
    driver.list().unwrap().get(NAME).is_some_and(|actual| VxlanDriver::matches(wanted, actual))
}

#[test]
fn a_link_is_kept_as_wanted() {
    in_new_netns(|| {
        uplink();
        let mut driver = VxlanDriver::new(&[NAME]).unwrap();
        assert_eq!(driver.list().unwrap(), BTreeMap::new());
        put(&mut driver, NAME.to_owned(), wanted());
        assert!(is_kept(&mut driver, &wanted()), "{:?}", driver.list());
        let shown = run("ip", &["-d", "link", "show", NAME]);
        for word in ["vxlan id 4096", "local 192.0.2.1", "dev eth0", "dstport 4789", "nolearning", "mtu 1450"]
        {
            assert!(shown.contains(word), "no {word}: {shown}");
        }

        for disturb in [
            &["addr", "add", "10.9.9.9/24", "dev", NAME][..],
            &["addr", "del", "10.65.0.1/32", "dev", NAME],
            &["link", "set", NAME, "down"],
            &["link", "set", NAME, "mtu", "1400"],
            &["link", "set", NAME, "address", "02:00:00:00:00:01"],
            &["link", "del", NAME],
        ] {
            run("ip", disturb);
            assert!(!is_kept(&mut driver, &wanted()), "not seen: ip {disturb:?}");
            put(&mut driver, NAME.to_owned(), wanted());
            assert!(is_kept(&mut driver, &wanted()), "not repaired: ip {disturb:?}: {:?}", driver.list());
        }

        let other = VxlanLink { vni: 7, port: 8472, address: None, ..wanted() };
        put(&mut driver, NAME.to_owned(), other.clone());
        assert!(is_kept(&mut driver, &other), "{:?}", driver.list());
        let addresses = run("ip", &["-4", "addr", "show", NAME]);
        assert!(
            addresses.contains("inet 192.0.0.8/32 scope host"),
            "its reverse path check asks for one: {addresses}"
        );
        let quiet = VxlanLink { no_checksum_offload: true, ..other };
        put(&mut driver, NAME.to_owned(), quiet.clone());
        assert!(is_kept(&mut driver, &quiet), "{:?}", driver.list());

        assert!(driver.apply(&[], &[NAME.to_owned()]).is_empty());
        assert_eq!(driver.list().unwrap(), BTreeMap::new());
    });
}

#[test]
fn another_links_number_is_named_and_a_missing_parent_too() {
    in_new_netns(|| {
        uplink();
        run(
            "ip",
            &["link", "add", "theirs", "type", "vxlan", "id", "4096", "dstport", "4789", "dev", "eth0"],
        );
        let mut driver = VxlanDriver::new(&[NAME]).unwrap();

        let taken = driver.apply(&[(NAME.to_owned(), wanted())], &[]);
        let lost = VxlanLink { parent: "eth9".to_owned(), ..wanted() };
        let lost = driver.apply(&[(NAME.to_owned(), lost)], &[]);

        assert!(taken[0].1.to_string().contains("another link has VNI 4096"), "{taken:?}");
        assert!(lost[0].1.to_string().contains("no link eth9"), "{lost:?}");
    });
}

#[test]
fn forwarding_entries_come_change_and_go() {
    in_new_netns(|| {
        uplink();
        put(&mut VxlanDriver::new(&[NAME]).unwrap(), NAME.to_owned(), wanted());
        let mut fdb = FdbDriver::new(&[NAME]).unwrap();
        let key = FdbKey { interface: NAME.to_owned(), mac: [0x66, 9, 9, 9, 9, 9] };
        let to = |text: &str| FdbEntry { destination: text.parse().unwrap() };

        put(&mut fdb, key.clone(), to("192.0.2.2"));
        assert_eq!(fdb.list().unwrap(), BTreeMap::from([(key.clone(), to("192.0.2.2"))]));
        put(&mut fdb, key.clone(), to("192.0.2.3"));
        assert_eq!(fdb.list().unwrap(), BTreeMap::from([(key.clone(), to("192.0.2.3"))]));

        assert!(fdb.apply(&[], std::slice::from_ref(&key)).is_empty());
        assert!(fdb.apply(&[], &[key]).is_empty(), "what is not there counts as deleted");
        assert_eq!(fdb.list().unwrap(), BTreeMap::new());
    });
}

#[test]
fn routes_of_the_agent_and_of_the_speaker_stand_side_by_side() {
    in_new_netns(|| {
        uplink();
        let owner = RouteOwner::ProtocolElsewhere { protocol: PROTO_FELIX, prefix: "cali".to_owned() };
        let mut ours = RouteDriver::new(vec![owner]).unwrap();
        let mut speakers = RouteDriver::new(vec![RouteOwner::Protocol(PROTO_BIRD)]).unwrap();
        let destination = "10.65.2.0/26".parse().unwrap();
        let (first, second) = (RouteKey::new(destination, 0), RouteKey::new(destination, 1024));
        let route = |protocol, onlink| {
            let gateway = "192.0.2.2".parse().ok();
            let hop = NextHop { gateway, interface: Some("eth0".to_owned()), onlink };
            Route { kind: RouteKind::Unicast(vec![hop]), protocol, source: None, mtu: None }
        };
        put(&mut ours, first, route(PROTO_FELIX, true));
        run("ip", &["route", "add", "blackhole", "10.65.9.0/26", "proto", "bird"]);
        assert!(!ours.of_others().unwrap().contains(&destination));

        put(&mut speakers, second, route(PROTO_BIRD, false));

        assert_eq!(ours.list().unwrap().into_keys().collect::<Vec<_>>(), [first]);
        let others: BTreeSet<_> = ours.of_others().unwrap();
        assert!(others.contains(&destination), "{others:?}");
        assert!(!others.contains(&"10.65.9.0/26".parse().unwrap()), "a blackhole leads nowhere");
        assert!(ours.apply(&[], &[first]).is_empty());
        assert_eq!(speakers.list().unwrap().into_keys().filter(|key| *key == second).count(), 1);
    });
}
