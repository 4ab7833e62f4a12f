//! What the kernel in memory refuses.

use std::sync::Arc;
use std::time::Instant;

use kernel::fake::{Entry, FakeKernel};
use kernel::{
    Driver, IpSet, IpSetKind, IpSetMember, IpSetName, IpSetPort, IpSets, Neighbour, NeighbourKey, NextHop,
    PROTO_BOOT, Route, RouteKey, RouteKind, Table,
};
use model::Family;

/// Any instant will do: only differences matter.
#[expect(clippy::disallowed_methods, reason = "a test begins at some instant")]
fn clock() -> Instant {
    Instant::now()
}

fn key() -> RouteKey {
    RouteKey::new("10.65.0.2/32".parse().expect("a prefix"), 1024)
}

fn through(interface: &str) -> Route {
    let hop = NextHop { gateway: None, interface: Some(interface.to_owned()), onlink: false };
    Route { kind: RouteKind::Unicast(vec![hop]), protocol: PROTO_BOOT, source: None, mtu: None }
}

#[test]
fn routes_and_neighbours_need_their_link_and_go_with_it() {
    let kernel = FakeKernel::new();
    let neighbour = NeighbourKey { interface: "cali1".to_owned(), address: [10, 65, 0, 2].into() };
    let mut routes = Table::new(kernel.routes());
    let mut neighbours = Table::new(kernel.neighbours());
    routes.set(key(), Some(through("cali1")));
    neighbours.set(neighbour, Some(Neighbour { mac: [2; 6] }));

    let start = clock();
    assert_eq!(routes.apply(start).failed.len(), 1);
    assert_eq!(neighbours.apply(start).failed.len(), 1);
    kernel.add_link("cali1");
    assert_eq!(routes.apply(routes.poll_timeout().unwrap()).written, 1);
    assert_eq!(neighbours.apply(neighbours.poll_timeout().unwrap()).written, 1);

    kernel.remove_link("cali1");
    assert!(kernel.state().routes.is_empty() && kernel.state().neighbours.is_empty());
    assert_eq!(routes.resync().unwrap(), 1);
}

#[test]
fn a_set_that_a_rule_looks_up_is_not_destroyed() {
    let kernel = FakeKernel::new();
    let name = IpSetName::new(Family::V4, "s:x");
    let set = IpSet { kind: IpSetKind::Net, family: Family::V4, members: Default::default() };
    kernel.state().ip_sets.insert(name.clone(), set);
    let mut sets = kernel.ip_sets();
    let rule = "-m set --match-set cali40s:x src -j DROP".to_owned();
    let tables = (Family::V4, kernel::IptablesTable::Filter);
    let input = |kernel: &FakeKernel, rules| {
        kernel.state().chains.get_mut(&tables).expect("a table").rules.insert("INPUT".to_owned(), rules);
    };

    input(&kernel, vec![rule]);
    assert_eq!(sets.destroy(std::slice::from_ref(&name)).len(), 1);
    input(&kernel, vec![]);
    assert!(sets.destroy(&[name]).is_empty());
}

#[test]
fn a_set_holds_no_prefix_of_length_0() {
    let kernel = FakeKernel::new();
    let all = IpSetMember::Net("0.0.0.0/0".parse().unwrap());
    let set = IpSet { kind: IpSetKind::Net, family: Family::V4, members: Arc::new([all].into()) };

    let mut sets = IpSets::new(kernel.ip_sets());
    sets.set(IpSetName::new(Family::V4, "s:x"), &set);

    assert_eq!(sets.apply_puts(clock()).failed.len(), 1);
}

#[test]
fn what_it_is_told_to_refuse_fails_until_healed() {
    let kernel = FakeKernel::new();
    kernel.add_link("cali1");
    kernel.refuse(Entry::Route(key()));
    let mut routes = kernel.routes();

    assert_eq!(routes.apply(&[(key(), through("cali1"))], &[]).len(), 1);
    kernel.heal();
    assert!(routes.apply(&[(key(), through("cali1"))], &[]).is_empty());
    assert_eq!(kernel.state().writes, 1);
}

#[test]
fn sysctls_of_a_link_need_the_link() {
    let kernel = FakeKernel::new();
    let of_link = ("net/ipv4/conf/cali1/proxy_arp".to_owned(), "1".to_owned());
    let global = ("net/ipv4/ip_forward".to_owned(), "1".to_owned());

    let failures = kernel.sysctls().apply(&[of_link, global], &[]);

    assert_eq!(failures.len(), 1);
    assert_eq!(kernel.state().sysctls.len(), 1);
}
