//! IP sets against the real kernel, as root; `ipset` is the witness.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use common::{in_new_netns, run};
use kernel::{Driver, IpSet, IpSetKind, IpSetMember, IpSetName};
use kernel_linux::IpSetDriver;
use model::{Cidr, Family, Protocol};

fn nets(family: Family, members: &[&str]) -> IpSet {
    let net = |text: &&str| IpSetMember::Net(text.parse().expect("a prefix"));
    IpSet { kind: IpSetKind::Net, family, members: Arc::new(members.iter().map(net).collect()) }
}

fn ports(family: Family, members: &[(&str, Protocol, u16)]) -> IpSet {
    let member = |(address, protocol, port): &(&str, Protocol, u16)| {
        IpSetMember::IpPort(address.parse().expect("an address"), *protocol, *port)
    };
    IpSet { kind: IpSetKind::IpPort, family, members: Arc::new(members.iter().map(member).collect()) }
}

fn name(family: Family, id: &str) -> IpSetName {
    IpSetName::new(family, id)
}

fn members(set: &str) -> BTreeSet<String> {
    let listed = run("ipset", &["list", set]);
    let members = listed.split("Members:\n").nth(1).unwrap_or_default();
    members.lines().map(str::to_owned).collect()
}

fn put(driver: &mut IpSetDriver, name: &IpSetName, set: &IpSet) {
    let failures = driver.apply(&[(name.clone(), set.clone())], &[]);
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn sets_of_both_kinds_and_families_read_back_as_they_were_written() {
    in_new_netns(|| {
        for (family, nets, ports) in [
            (
                Family::V4,
                nets(Family::V4, &["10.0.0.0/8", "10.65.0.2/32", "0.0.0.0/1", "128.0.0.0/1"]),
                ports(Family::V4, &[("10.65.0.2", Protocol::TCP, 80), ("10.65.0.2", Protocol::UDP, 53)]),
            ),
            (
                Family::V6,
                nets(Family::V6, &["fd00::/8", "fd00::2/128"]),
                ports(Family::V6, &[("fd00::2", Protocol::TCP, 80), ("fd00::3", Protocol::SCTP, 65535)]),
            ),
        ] {
            let mut driver = IpSetDriver::new(family).unwrap();
            let wanted = BTreeMap::from([(name(family, "s:nets"), nets), (name(family, "n:ports"), ports)]);

            wanted.iter().for_each(|(name, set)| put(&mut driver, name, set));

            assert_eq!(driver.list().unwrap(), wanted);
            assert_eq!(IpSetDriver::new(family).unwrap().list().unwrap(), wanted);
        }
        assert_eq!(
            members("cali40s:nets"),
            ["0.0.0.0/1", "10.0.0.0/8", "10.65.0.2", "128.0.0.0/1"].map(str::to_owned).into()
        );
        assert_eq!(
            members("cali60n:ports"),
            ["fd00::2,tcp:80", "fd00::3,sctp:65535"].map(str::to_owned).into()
        );
        assert!(run("ipset", &["list", "cali40s:nets"]).contains("maxelem 1048576"));
    });
}

#[test]
fn only_members_that_differ_are_touched() {
    in_new_netns(|| {
        let key = name(Family::V4, "s:x");
        let mut driver = IpSetDriver::new(Family::V4).unwrap();
        put(&mut driver, &key, &nets(Family::V4, &["10.0.0.1/32", "10.0.0.2/32"]));
        // Behind the driver's back: a full rewrite would undo it, a change of others does not.
        run("ipset", &["del", "cali40s:x", "10.0.0.1"]);

        put(&mut driver, &key, &nets(Family::V4, &["10.0.0.1/32", "10.0.0.3/32"]));
        assert_eq!(members("cali40s:x"), ["10.0.0.3".to_owned()].into());

        let listed = driver.list().unwrap();
        assert_eq!(listed[&key], nets(Family::V4, &["10.0.0.3/32"]));
        put(&mut driver, &key, &nets(Family::V4, &["10.0.0.1/32", "10.0.0.3/32"]));
        assert_eq!(members("cali40s:x"), ["10.0.0.1", "10.0.0.3"].map(str::to_owned).into());
    });
}

#[test]
fn a_hundred_thousand_members_round_trip() {
    in_new_netns(|| {
        let member = |i: u32| IpSetMember::Net(Cidr::host(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i))));
        let set = IpSet {
            kind: IpSetKind::Net,
            family: Family::V4,
            members: Arc::new((0..100_000).map(member).collect()),
        };
        let key = name(Family::V4, "s:big");
        let mut driver = IpSetDriver::new(Family::V4).unwrap();

        put(&mut driver, &key, &set);

        assert_eq!(driver.list().unwrap(), BTreeMap::from([(key, set)]));
    });
}

#[test]
fn a_set_of_the_wrong_type_is_replaced_as_soon_as_no_rule_uses_it() {
    in_new_netns(|| {
        run("ipset", &["create", "cali40s:x", "hash:ip,port"]);
        let rule = ["-A", "INPUT", "-m", "set", "--match-set", "cali40s:x", "src,src", "-j", "DROP"];
        run("iptables-legacy", &rule);
        let key = name(Family::V4, "s:x");
        let wanted = [(key.clone(), nets(Family::V4, &["10.0.0.1/32"]))];
        let mut driver = IpSetDriver::new(Family::V4).unwrap();
        driver.list().unwrap();

        let failures = driver.apply(&wanted, &[]);
        assert_eq!(failures[0].1.kind(), io::ErrorKind::ResourceBusy, "{failures:?}");
        run("iptables-legacy", &["-F", "INPUT"]);
        assert!(driver.apply(&wanted, &[]).is_empty());

        assert!(run("ipset", &["list", "cali40s:x"]).contains("Type: hash:net"));
        assert_eq!(members("cali40s:x"), ["10.0.0.1".to_owned()].into());
        assert_eq!(run("ipset", &["list", "-n"]), "cali40s:x\n");
    });
}

#[test]
fn a_set_in_use_is_not_destroyed_and_says_why() {
    in_new_netns(|| {
        let key = name(Family::V4, "s:x");
        let mut driver = IpSetDriver::new(Family::V4).unwrap();
        put(&mut driver, &key, &nets(Family::V4, &["10.0.0.1/32"]));
        let rule = ["-A", "INPUT", "-m", "set", "--match-set", "cali40s:x", "src", "-j", "DROP"];
        run("iptables-legacy", &rule);

        let failures = driver.apply(&[], &[key.clone(), name(Family::V4, "s:gone")]);

        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].1.kind(), io::ErrorKind::ResourceBusy);
        assert!(failures[0].1.to_string().contains("cali40s:x: the set is in use"), "{}", failures[0].1);
        run("iptables-legacy", &["-F", "INPUT"]);
        assert!(driver.apply(&[], &[key]).is_empty());
        assert_eq!(run("ipset", &["list", "-n"]), "");
    });
}

#[test]
fn other_peoples_sets_are_left_alone() {
    in_new_netns(|| {
        run("ipset", &["create", "mine", "hash:ip"]);
        run("ipset", &["create", "cali60s:six", "hash:net", "family", "inet6"]);
        run("ipset", &["create", "cali40s:mac", "bitmap:port", "range", "0-9"]);
        let mut driver = IpSetDriver::new(Family::V4).unwrap();

        assert_eq!(driver.list().unwrap(), BTreeMap::new());
    });
}

#[test]
fn what_the_kernel_refuses_is_named_and_stops_no_other() {
    in_new_netns(|| {
        let mut driver = IpSetDriver::new(Family::V4).unwrap();
        let (bad, good) = (name(Family::V4, "s:bad"), name(Family::V4, "s:good"));

        let failures = driver.apply(
            &[
                (bad.clone(), nets(Family::V4, &["0.0.0.0/0", "10.0.0.1/32"])),
                (good.clone(), nets(Family::V4, &["10.0.0.1/32"])),
                (name(Family::V6, "s:six"), nets(Family::V6, &["fd00::/8"])),
            ],
            &[],
        );

        assert_eq!(failures.len(), 2, "{failures:?}");
        assert!(failures[0].1.to_string().contains("cali40s:bad"), "{}", failures[0].1);
        assert_eq!(failures[1].1.kind(), io::ErrorKind::InvalidInput);
        put(&mut driver, &bad, &nets(Family::V4, &["10.0.0.1/32"]));
        assert_eq!(members("cali40s:bad"), ["10.0.0.1".to_owned()].into());
        assert_eq!(members("cali40s:good"), ["10.0.0.1".to_owned()].into());
    });
}
