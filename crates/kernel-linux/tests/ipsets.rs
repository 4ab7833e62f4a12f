//! IP sets against the real kernel, as root; `ipset` is the witness.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use common::{in_new_netns, run};
use kernel::{IpSet, IpSetKind, IpSetMember, IpSetName, IpSetPort, IpSets};
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

/// A table that wants these sets, over what the kernel holds.
fn table(wanted: &BTreeMap<IpSetName, IpSet>) -> IpSets<IpSetDriver> {
    let mut table = IpSets::new(IpSetDriver::open().expect("IP sets, and root"));
    wanted.iter().for_each(|(name, set)| table.set(name.clone(), set));
    table.resync().expect("the sets can be read");
    table
}

fn apply(table: &mut IpSets<IpSetDriver>) {
    let now = Instant::now();
    let (puts, deletes) = (table.apply_puts(now), table.apply_deletes(now));
    assert!(puts.failed.is_empty() && deletes.failed.is_empty(), "{puts:?} {deletes:?}");
}

#[test]
fn sets_of_both_kinds_and_families_read_back_as_they_were_written() {
    in_new_netns(|| {
        let wanted = BTreeMap::from([
            (
                name(Family::V4, "s:n"),
                nets(Family::V4, &["10.0.0.0/8", "10.65.0.2/32", "0.0.0.0/1", "128.0.0.0/1"]),
            ),
            (
                name(Family::V4, "n:p"),
                ports(Family::V4, &[("10.65.0.2", Protocol::TCP, 80), ("10.65.0.2", Protocol::UDP, 53)]),
            ),
            (name(Family::V6, "s:n"), nets(Family::V6, &["fd00::/8", "fd00::2/128"])),
            (
                name(Family::V6, "n:p"),
                ports(Family::V6, &[("fd00::2", Protocol::TCP, 80), ("fd00::3", Protocol::SCTP, 65535)]),
            ),
        ]);
        let mut table = table(&wanted);

        apply(&mut table);

        assert_eq!(IpSetDriver::open().unwrap().list().unwrap(), wanted);
        assert_eq!((table.resync().unwrap(), table.check().unwrap()), (0, 0));
        assert_eq!(
            members("cali40s:n"),
            ["0.0.0.0/1", "10.0.0.0/8", "10.65.0.2", "128.0.0.0/1"].map(str::to_owned).into()
        );
        assert_eq!(members("cali60n:p"), ["fd00::2,tcp:80", "fd00::3,sctp:65535"].map(str::to_owned).into());
        assert!(run("ipset", &["list", "cali40s:n"]).contains("maxelem 1048576"));
        wanted.keys().for_each(|name| table.remove(name));
        apply(&mut table);
        assert_eq!(run("ipset", &["list", "-n"]), "");
    });
}

#[test]
fn only_members_that_differ_are_touched() {
    in_new_netns(|| {
        let key = name(Family::V4, "s:x");
        let wanted = nets(Family::V4, &["10.0.0.1/32", "10.0.0.2/32"]);
        let mut table = table(&BTreeMap::from([(key.clone(), wanted)]));
        apply(&mut table);
        // Behind the table's back: a full rewrite would undo it, a change of others does not.
        run("ipset", &["del", "cali40s:x", "10.0.0.1"]);

        table.change(&key, [member("10.0.0.3/32")], &[member("10.0.0.2/32")]);
        apply(&mut table);
        assert_eq!(members("cali40s:x"), ["10.0.0.3".to_owned()].into());

        assert_eq!(table.check().unwrap(), 1, "one member is missing");
        apply(&mut table);
        assert_eq!(members("cali40s:x"), ["10.0.0.1", "10.0.0.3"].map(str::to_owned).into());
    });
}

#[test]
fn what_is_flushed_destroyed_or_made_by_others_is_put_right() {
    in_new_netns(|| {
        let key = name(Family::V4, "s:x");
        let wanted = BTreeMap::from([(key.clone(), nets(Family::V4, &["10.0.0.1/32"]))]);
        let mut table = table(&wanted);
        apply(&mut table);

        for broken in
            [&["flush", "cali40s:x"][..], &["destroy", "cali40s:x"], &["del", "cali40s:x", "10.0.0.1"]]
        {
            run("ipset", broken);
            assert_eq!(table.check().unwrap(), 1, "{broken:?}");
            apply(&mut table);
            assert_eq!(members("cali40s:x"), ["10.0.0.1".to_owned()].into(), "{broken:?}");
        }
        // Without looking first: a change of a set that is gone, and the making of one that is there.
        run("ipset", &["destroy", "cali40s:x"]);
        run("ipset", &["create", "cali40s:y", "hash:net"]);
        run("ipset", &["add", "cali40s:y", "10.8.8.8"]);
        table.change(&key, [member("10.0.0.2/32")], &[]);
        table.set(name(Family::V4, "s:y"), &nets(Family::V4, &["10.0.0.3/32"]));
        apply(&mut table);
        assert_eq!(members("cali40s:x"), ["10.0.0.1", "10.0.0.2"].map(str::to_owned).into());
        assert_eq!(members("cali40s:y"), ["10.0.0.3".to_owned()].into());
    });
}

#[test]
fn a_hundred_thousand_members_come_and_most_go() {
    in_new_netns(|| {
        let member = |i: u32| IpSetMember::Net(Cidr::host(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i))));
        let all: BTreeSet<_> = (0..100_000).map(member).collect();
        let set = IpSet { kind: IpSetKind::Net, family: Family::V4, members: Arc::new(all) };
        let key = name(Family::V4, "s:big");
        let mut table = table(&BTreeMap::from([(key.clone(), set.clone())]));
        apply(&mut table);
        assert_eq!(IpSetDriver::open().unwrap().list().unwrap(), BTreeMap::from([(key.clone(), set)]));

        let few = nets(Family::V4, &["10.0.0.1/32", "10.9.0.0/16"]);
        table.set(key.clone(), &few);
        apply(&mut table);

        assert_eq!(IpSetDriver::open().unwrap().list().unwrap(), BTreeMap::from([(key, few)]));
    });
}

#[test]
fn a_set_of_the_wrong_type_is_replaced_as_soon_as_no_rule_uses_it() {
    in_new_netns(|| {
        run("ipset", &["create", "cali40s:x", "hash:ip,port"]);
        let rule = ["-A", "INPUT", "-m", "set", "--match-set", "cali40s:x", "src,src", "-j", "DROP"];
        run("iptables-legacy", &rule);
        let key = name(Family::V4, "s:x");
        let mut table = table(&BTreeMap::from([(key, nets(Family::V4, &["10.0.0.1/32"]))]));

        let refused = table.apply_puts(Instant::now());
        assert!(refused.failed[0].1.to_string().contains("in use"), "{refused:?}");
        run("iptables-legacy", &["-F", "INPUT"]);
        assert_eq!(table.apply_puts(table.poll_timeout().unwrap()).written, 1);

        assert!(run("ipset", &["list", "cali40s:x"]).contains("Type: hash:net"));
        assert_eq!(members("cali40s:x"), ["10.0.0.1".to_owned()].into());
        assert_eq!(run("ipset", &["list", "-n"]), "cali40s:x\n");
    });
}

#[test]
fn a_set_in_use_is_not_destroyed_and_says_why() {
    in_new_netns(|| {
        run("ipset", &["create", "cali40s:x", "hash:net"]);
        let rule = ["-A", "INPUT", "-m", "set", "--match-set", "cali40s:x", "src", "-j", "DROP"];
        run("iptables-legacy", &rule);
        let names = [name(Family::V4, "s:x"), name(Family::V4, "s:gone")];
        let mut driver = IpSetDriver::open().unwrap();

        let failures = driver.destroy(&names);

        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].1.kind(), io::ErrorKind::ResourceBusy);
        assert!(
            failures[0].1.to_string().contains("cali40s:x: destroy: the set is in use"),
            "{}",
            failures[0].1
        );
        run("iptables-legacy", &["-F", "INPUT"]);
        assert!(driver.destroy(&names).is_empty());
        assert_eq!(run("ipset", &["list", "-n"]), "");
    });
}

#[test]
fn a_set_that_a_rule_of_others_holds_stays_pending_while_all_else_is_done() {
    in_new_netns(|| {
        let (old, gone, wanted) =
            (name(Family::V4, "s:old"), name(Family::V4, "s:gone"), name(Family::V4, "s:w"));
        let sets = [&old, &gone].map(|name| (name.clone(), nets(Family::V4, &["10.0.0.1/32"])));
        let mut table = table(&BTreeMap::from(sets));
        apply(&mut table);
        let rule = ["-A", "OUTPUT", "-m", "set", "--match-set", old.as_str(), "dst", "-j", "ACCEPT"];
        run("iptables-legacy", &rule);

        table.remove(&old);
        table.remove(&gone);
        table.set(wanted.clone(), &nets(Family::V4, &["10.0.0.2/32"]));
        let now = Instant::now();
        let (puts, deletes) = (table.apply_puts(now), table.apply_deletes(now));

        assert_eq!((puts.written, puts.failed.len(), deletes.deleted), (1, 0, 1), "{puts:?} {deletes:?}");
        let failing: Vec<_> = table.failing().map(|(name, why)| (name.clone(), why.to_owned())).collect();
        assert!(failing.len() == 1 && failing[0].0 == old && failing[0].1.contains("in use"), "{failing:?}");
        assert!(table.is_pending(&old) && table.pending() == 1);
        assert_eq!(members(old.as_str()), ["10.0.0.1".to_owned()].into(), "whoever holds it loses nothing");

        // Once more in vain, and then nobody holds it any more.
        assert_eq!(table.apply_deletes(table.poll_timeout().unwrap()).failed.len(), 1);
        run("iptables-legacy", &["-F", "OUTPUT"]);
        assert_eq!(table.apply_deletes(table.poll_timeout().unwrap()).deleted, 1);
        assert_eq!((table.pending(), table.poll_timeout()), (0, None));
        assert_eq!(run("ipset", &["list", "-n"]), format!("{wanted}\n"));
    });
}

#[test]
fn other_peoples_sets_are_left_alone() {
    in_new_netns(|| {
        run("ipset", &["create", "mine", "hash:ip"]);
        run("ipset", &["create", "cali40s:mac", "bitmap:port", "range", "0-9"]);
        run("ipset", &["create", "cali40s:old", "hash:net"]);
        let mut table = table(&BTreeMap::new());

        apply(&mut table);

        // A name of ours is ours, whatever it is.
        assert_eq!(run("ipset", &["list", "-n"]), "mine\n");
    });
}

#[test]
fn what_the_kernel_refuses_is_named_and_stops_no_other() {
    in_new_netns(|| {
        let (bad, good) = (name(Family::V4, "s:bad"), name(Family::V4, "s:good"));
        let mut table = table(&BTreeMap::from([
            (bad.clone(), nets(Family::V4, &["0.0.0.0/0", "10.0.0.1/32"])),
            (good, nets(Family::V4, &["10.0.0.1/32"])),
        ]));

        let applied = table.apply_puts(Instant::now());

        assert_eq!(applied.failed.len(), 1, "{applied:?}");
        assert!(applied.failed[0].1.to_string().contains("cali40s:bad"), "{applied:?}");
        assert_eq!(table.failing().map(|(name, _)| name).collect::<Vec<_>>(), [&bad]);
        assert_eq!(members("cali40s:good"), ["10.0.0.1".to_owned()].into());
        table.set(bad, &nets(Family::V4, &["10.0.0.1/32"]));
        apply(&mut table);
        assert_eq!(members("cali40s:bad"), ["10.0.0.1".to_owned()].into());
    });
}

fn member(net: &str) -> IpSetMember {
    IpSetMember::Net(net.parse().expect("a prefix"))
}
