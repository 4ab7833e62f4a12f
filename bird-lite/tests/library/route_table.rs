//! The table of learned routes over a kernel in memory: what stands stays until something better stands.

use std::time::Instant;

use bird_lite::cluster::Cluster;
use bird_lite::fib::Fib;
use bird_lite::kernel_routes::Context;
use bird_lite::nexthop_objects::NexthopObjects;
use bird_lite::route_table::RouteTable;
use kernel::fake::{Entry, FakeKernel, FakeNexthops, FakeRoutes};
use kernel::{NextHop, NexthopId, NexthopObject, PROTO_BIRD, PROTO_FELIX, Route, RouteKey, RouteKind};
use model::{AffinityState, EncapMode, IpPool, Update};

use crate::kernel_routes::{FAR, THERE, fib, from_mesh, ipip, lan, learned, tunnel};
use crate::world::*;

struct World {
    cluster: Cluster,
    fib: Fib,
    tunnel_up: bool,
    kernel: FakeKernel,
    table: RouteTable<FakeRoutes, FakeNexthops>,
    now: Instant,
}

impl World {
    /// A kernel with the LAN's link and, as an earlier run left them, some routes.
    #[allow(clippy::disallowed_methods)]
    fn new(left: &[(RouteKey, Route)], nexthop_objects: bool) -> Self {
        let kernel = FakeKernel::new();
        kernel.add_link("eth0");
        kernel.state().routes.extend(left.iter().cloned());
        let table = open(&kernel, nexthop_objects);
        Self { cluster: cluster(2), fib: fib(), tunnel_up: false, kernel, table, now: Instant::now() }
    }

    /// The process ends and another one begins.
    fn restart(&mut self, nexthop_objects: bool) {
        self.table = open(&self.kernel, nexthop_objects);
    }

    fn learn(&mut self, prefix: &str, route: Option<bgp::Route>) {
        let context = Context { cluster: &self.cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.learn(context, prefix.parse().unwrap(), route);
    }

    /// Something has changed: decides, and writes everything that may be written.
    fn settle(&mut self) {
        let context = Context { cluster: &self.cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.decide_all(context);
        self.table.apply(true, self.now);
    }

    /// The node's own routes to a destination have changed.
    fn fib_changed(&mut self, within: model::Cidr) {
        let context = Context { cluster: &self.cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.fib_changed(context, Some(within));
        self.table.apply(true, self.now);
    }

    /// What ways depend on beside the node's own routes has changed.
    fn ways_changed(&mut self) {
        let context = Context { cluster: &self.cluster, fib: &self.fib, tunnel_up: self.tunnel_up };
        self.table.ways_changed(context);
        self.table.apply(true, self.now);
    }

    /// What the kernel has for a destination: where it leads, by an object or not.
    fn kind(&self, destination: &str) -> Option<RouteKind> {
        let state = self.kernel.state();
        let mut found = state.routes.iter().filter(|(key, _)| key.destination == cidr(destination));
        let route = found.next().map(|(_, route)| state.told(route));
        assert_eq!(found.next(), None, "two routes to {destination}");
        route.map(|route| match route.kind {
            RouteKind::Nexthop(_, hops) => RouteKind::Unicast(hops),
            kind => kind,
        })
    }

    /// The object that the route to a destination refers to.
    fn nexthop(&self, destination: &str) -> Option<NexthopId> {
        let state = self.kernel.state();
        state.routes.iter().find(|(key, _)| key.destination == cidr(destination))?.1.nexthop()
    }

    /// How many entries the kernel was told so far.
    fn writes(&self) -> usize {
        self.kernel.state().writes
    }
}

fn open(kernel: &FakeKernel, nexthop_objects: bool) -> RouteTable<FakeRoutes, FakeNexthops> {
    let objects = NexthopObjects::adopt(kernel.nexthops(), nexthop_objects).unwrap();
    RouteTable::adopt(kernel.routes(), objects).unwrap()
}

/// The same story with nexthop objects and without.
fn both(left: &[(RouteKey, Route)], story: impl Fn(World)) {
    [false, true].into_iter().for_each(|nexthop_objects| story(World::new(left, nexthop_objects)));
}

fn via(hop: NextHop) -> Option<RouteKind> {
    Some(RouteKind::Unicast(vec![hop]))
}

fn left_behind(destination: &str, hop: NextHop) -> (RouteKey, Route) {
    let route = Route { kind: RouteKind::Unicast(vec![hop]), protocol: PROTO_BIRD, source: None, mtu: None };
    (RouteKey::new(cidr(destination), 1024), route)
}

fn vxlan() -> IpPool {
    IpPool { vxlan_mode: EncapMode::Always, ..pool("10.0.0.0/16") }
}

/// What felix would write, and the node's own routes with it.
fn agents(destination: &str) -> (RouteKey, Route) {
    let hop =
        NextHop { gateway: Some(address("10.0.9.1")), interface: Some("eth0".to_owned()), onlink: true };
    let kind = RouteKind::Unicast(vec![hop]);
    let route = Route { kind, protocol: PROTO_FELIX, source: None, mtu: None };
    (RouteKey::new(cidr(destination), 0), route)
}

#[test]
fn a_pool_that_turns_to_vxlan_keeps_the_old_way_until_the_agent_has_its_own() {
    both(&[], |mut world| {
        world.learn(THERE, Some(from_mesh(FAR)));
        world.settle();
        let before = world.kind(THERE);
        assert_eq!(before, via(lan("192.0.2.254")));

        put_pool(&mut world.cluster, vxlan());
        world.ways_changed();
        world.settle();
        assert_eq!(world.kind(THERE), before, "the agent has no route yet");
        assert!(world.table.pending()[0].1.contains("felix has not written"), "{:?}", world.table.pending());

        let (key, route) = agents(THERE);
        world.fib.put(key, route, false).unwrap();
        world.fib_changed(key.destination);
        assert_eq!(world.kind(THERE), None);
        assert_eq!(world.table.pending(), []);

        put_pool(&mut world.cluster, pool("10.0.0.0/16"));
        world.ways_changed();
        assert_eq!(world.kind(THERE), before, "and back, beside the agent's");
    });
}

#[test]
fn a_route_that_an_earlier_run_left_is_handed_over_as_well() {
    both(&[left_behind(THERE, lan("192.0.2.254"))], |mut world| {
        put_pool(&mut world.cluster, vxlan());
        world.learn(THERE, Some(from_mesh(FAR)));
        world.settle();
        assert_eq!(world.kind(THERE), via(lan("192.0.2.254")));

        let (key, route) = agents(THERE);
        world.fib.put(key, route, false).unwrap();
        world.fib_changed(key.destination);
        assert_eq!(world.kind(THERE), None);
    });
}

#[test]
fn a_destination_that_is_gone_is_handed_to_nobody() {
    both(&[], |mut world| {
        world.learn(THERE, Some(from_mesh(FAR)));
        world.settle();
        put_pool(&mut world.cluster, vxlan());
        world.settle();

        world.learn(THERE, None);
        world.settle();

        assert_eq!(world.kind(THERE), None);
        assert_eq!(world.table.pending(), []);
    });
}

#[test]
fn a_pool_that_turns_to_ipip_keeps_the_old_way_until_the_tunnel_is_there() {
    both(&[], |mut world| {
        world.learn(THERE, Some(from_mesh(FAR)));
        world.settle();
        assert_eq!(world.kind(THERE), via(lan("192.0.2.254")));

        put_pool(&mut world.cluster, ipip(EncapMode::Always));
        world.settle();

        assert_eq!(world.kind(THERE), via(lan("192.0.2.254")), "the old way is gone");
        let pending = world.table.pending();
        assert!(pending.len() == 1 && pending[0].0 == THERE && pending[0].1.contains("tunl0"), "{pending:?}");

        world.kernel.add_link("tunl0");
        world.tunnel_up = true;
        world.settle();

        assert_eq!(world.kind(THERE), via(tunnel(FAR)));
        assert_eq!(world.table.pending(), []);
    });
}

#[test]
fn a_way_of_an_earlier_run_stays_when_the_new_one_cannot_be_had() {
    both(&[left_behind(THERE, lan("192.0.2.254")), left_behind("10.0.8.0/26", lan(FAR))], |mut world| {
        put_pool(&mut world.cluster, ipip(EncapMode::Always));

        world.learn(THERE, Some(from_mesh(FAR)));
        world.settle();

        assert_eq!(world.kind(THERE), via(lan("192.0.2.254")));
        assert_eq!(world.kind("10.0.8.0/26"), None, "nobody announces it any more");
    });
}

#[test]
fn nothing_of_an_earlier_run_goes_before_the_sweep_is_allowed() {
    both(&[left_behind(THERE, lan(FAR))], |mut world| {
        world.table.apply(false, world.now);
        assert_eq!(world.kind(THERE), via(lan(FAR)));

        world.table.apply(true, world.now);
        assert_eq!(world.kind(THERE), None);
    });
}

#[test]
fn a_withdrawn_route_goes_also_while_its_new_way_is_missing() {
    both(&[], |mut world| {
        world.learn(THERE, Some(from_mesh(FAR)));
        world.settle();
        put_pool(&mut world.cluster, ipip(EncapMode::Always));
        world.settle();

        world.learn(THERE, None);
        world.settle();

        assert_eq!(world.kind(THERE), None);
        assert_eq!(world.table.pending(), []);
    });
}

#[test]
fn a_block_that_changes_hands_turns_from_blackhole_to_route_and_back() {
    both(&[], |mut world| {
        world.learn(OWN_BLOCK, Some(from_mesh(FAR)));
        world.settle();
        assert_eq!(world.kind(OWN_BLOCK), Some(RouteKind::Blackhole), "what is here is shadowed");

        let node = world.cluster.node_name.clone();
        world.cluster.apply(Update::BlockAffinity(node, cidr(OWN_BLOCK), None));
        world.settle();
        assert_eq!(world.kind(OWN_BLOCK), via(lan("192.0.2.254")));

        claim(&mut world.cluster, OWN_BLOCK, AffinityState::Confirmed);
        world.settle();
        assert_eq!(world.kind(OWN_BLOCK), Some(RouteKind::Blackhole));
    });
}

#[test]
fn a_route_that_the_kernel_refuses_is_named_and_stops_no_other() {
    both(&[], |mut world| {
        let refused = RouteKey::new(cidr(THERE), 1024);
        world.kernel.refuse(Entry::Route(refused));

        world.learn(THERE, Some(from_mesh(FAR)));
        world.learn("10.0.8.0/26", Some(from_mesh(FAR)));
        world.settle();

        assert_eq!(world.kind("10.0.8.0/26"), via(lan("192.0.2.254")));
        let pending = world.table.pending();
        assert!(pending.len() == 1 && pending[0].0 == THERE, "{pending:?}");
        world.kernel.heal();
        world.table.retry_now(world.now);
        world.settle();
        assert_eq!(world.table.pending(), []);
        assert_eq!(world.table.count(), 3, "two routes and the blackhole of the own block");
    });
}

#[test]
fn a_next_hop_that_is_reached_another_way_moves_what_depends_on_it() {
    both(&[], |mut world| {
        world.learn(THERE, Some(from_mesh(FAR)));
        world.learn("10.0.8.0/26", Some(from_mesh("192.0.2.9")));
        world.settle();
        let (key, route) = crate::fib::route("198.51.100.0/24", Some("192.0.2.7"), "eth0");
        let destination = key.destination;

        assert_eq!(world.fib.put(key, route, false), Ok(true));
        world.fib_changed(destination);

        assert_eq!(world.kind(THERE), via(lan("192.0.2.7")));
        assert_eq!(world.kind("10.0.8.0/26"), via(lan("192.0.2.9")));
        assert_eq!(world.fib.remove(key), Ok(true));
        world.fib_changed(destination);
        assert_eq!(world.kind(THERE), via(lan("192.0.2.254")));
    });
}

#[test]
fn a_route_that_somebody_deleted_or_changed_comes_back() {
    both(&[], |mut world| {
        world.learn(THERE, Some(from_mesh(FAR)));
        world.learn("10.0.8.0/26", Some(from_mesh(FAR)));
        world.settle();
        let (key, other) = left_behind(THERE, lan("192.0.2.66"));
        let deleted = RouteKey::new(cidr("10.0.8.0/26"), 1024);
        world.kernel.state().routes.insert(key, other.clone());
        world.kernel.state().routes.remove(&deleted);

        world.table.observe(key, Some(other));
        world.table.observe(deleted, None);
        world.table.apply(true, world.now);

        assert_eq!(world.kind(THERE), via(lan("192.0.2.254")));
        assert_eq!(world.kind("10.0.8.0/26"), via(lan("192.0.2.254")));
    });
}

#[test]
fn an_address_that_comes_to_this_node_takes_its_learned_route_away() {
    both(&[], |mut world| {
        world.learn("10.0.9.7/32", Some(from_mesh(FAR)));
        world.settle();
        assert_eq!(world.kind("10.0.9.7/32"), via(lan("192.0.2.254")));

        give(&mut world.cluster, "10.0.9.0/26", "10.0.9.7", "n1");
        world.settle();
        assert_eq!(world.kind("10.0.9.7/32"), None, "what is here is shadowed");

        give(&mut world.cluster, "10.0.9.0/26", "10.0.9.7", "n2");
        world.settle();
        assert_eq!(world.kind("10.0.9.7/32"), via(lan("192.0.2.254")));
    });
}

/// Prefixes 10.0.16.0/26 and on, all by one next hop.
fn many(count: u8) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("10.0.{}.0/26", 16 + n))
}

#[test]
fn a_next_hop_that_turns_takes_all_its_routes_along_with_one_message() {
    let mut world = World::new(&[], true);
    world.kernel.add_link("tunl0");
    world.tunnel_up = true;
    put_pool(&mut world.cluster, pool("10.0.0.0/16"));
    many(100).for_each(|prefix| world.learn(&prefix, Some(from_mesh(FAR))));
    world.settle();
    world.cluster.take_changes();
    let (object, before) = (world.nexthop("10.0.16.0/26"), world.writes());

    put_pool(&mut world.cluster, ipip(EncapMode::Always));
    let changes = world.cluster.take_changes();
    assert!(changes.ways && !changes.all_routes && !changes.peers, "{changes:?}");
    world.ways_changed();

    assert_eq!(world.writes(), before + 1);
    assert!(many(100).all(|prefix| world.kind(&prefix) == via(tunnel(FAR))));
    assert_eq!(world.nexthop("10.0.50.0/26"), object);
}

#[test]
fn several_next_hops_are_one_group_whose_members_turn_by_themselves() {
    let mut world = World::new(&[], true);
    many(3).for_each(|prefix| world.learn(&prefix, Some(learned(&["192.0.2.9", FAR], None))));
    world.settle();
    let ways = |a, b| Some(RouteKind::Unicast(vec![lan(a), lan(b)]));
    assert_eq!(world.kind("10.0.16.0/26"), ways("192.0.2.9", "192.0.2.254"));
    let before = world.writes();

    let (key, route) = crate::fib::route("198.51.100.0/24", Some("192.0.2.7"), "eth0");
    assert_eq!(world.fib.put(key, route, false), Ok(true));
    world.fib_changed(key.destination);

    assert_eq!(world.kind("10.0.18.0/26"), ways("192.0.2.9", "192.0.2.7"));
    assert_eq!(world.writes(), before + 1);
    many(3).for_each(|prefix| world.learn(&prefix, None));
    world.settle();
    assert!(world.kernel.state().nexthops.is_empty());
}

#[test]
fn a_restart_finds_its_objects_again_and_touches_nothing() {
    let mut world = World::new(&[], true);
    let routes =
        [("10.0.9.0/26", vec![FAR]), ("10.0.8.0/26", vec!["192.0.2.9"]), ("203.0.113.0/24", vec![FAR])];
    let learn = |world: &mut World| {
        for (prefix, next_hops) in routes.iter().rev() {
            world.learn(prefix, Some(learned(next_hops, None)));
        }
        world.learn("10.0.7.0/26", Some(learned(&[FAR, "192.0.2.9"], None)));
        world.settle();
    };
    learn(&mut world);
    let objects = world.kernel.state().nexthops.clone();
    let before = world.writes();

    world.restart(true);
    learn(&mut world);

    assert_eq!(world.kernel.state().nexthops, objects);
    assert_eq!(world.writes(), before);
    world.restart(false);
    learn(&mut world);
    assert!(world.kernel.state().nexthops.is_empty(), "what was switched off is swept");
    assert_eq!(world.kind(THERE), via(lan("192.0.2.254")));
}

#[test]
fn an_object_of_an_earlier_run_is_never_made_to_lead_elsewhere() {
    let mut world = World::new(&[], true);
    many(2).for_each(|prefix| world.learn(&prefix, Some(from_mesh(FAR))));
    world.settle();

    // While nobody looked, the way to the next hop became another one.
    world.restart(true);
    let (key, route) = crate::fib::route("198.51.100.0/24", Some("192.0.2.7"), "eth0");
    assert_eq!(world.fib.put(key, route, false), Ok(true));
    world.learn("10.0.16.0/26", Some(from_mesh(FAR)));
    world.table.apply(false, world.now);

    assert_eq!(world.kind("10.0.16.0/26"), via(lan("192.0.2.7")));
    assert_eq!(
        world.kind("10.0.17.0/26"),
        via(lan("192.0.2.254")),
        "nobody has said anything of this one yet"
    );
    world.settle();
    assert_eq!(world.kind("10.0.17.0/26"), None);
    assert_eq!(world.kernel.state().nexthops.len(), 1);
}

#[test]
fn objects_that_somebody_deletes_or_changes_come_back_with_their_routes() {
    let mut world = World::new(&[], true);
    many(3).for_each(|prefix| world.learn(&prefix, Some(from_mesh(FAR))));
    world.settle();
    let object = world.nexthop("10.0.16.0/26").unwrap();

    world.kernel.state().remove_nexthop(object);
    assert_eq!(world.kind("10.0.16.0/26"), None);
    world.table.observe_nexthop(object, None);
    world.table.apply(true, world.now);
    assert!(many(3).all(|prefix| world.kind(&prefix) == via(lan("192.0.2.254"))));

    let other = NexthopObject::Way(lan("192.0.2.66"));
    world.kernel.state().nexthops.insert(object, other.clone());
    world.table.observe_nexthop(object, Some(other));
    world.table.apply(true, world.now);
    assert!(many(3).all(|prefix| world.kind(&prefix) == via(lan("192.0.2.254"))));
}

#[test]
fn without_objects_routes_name_their_ways_until_there_are_some() {
    let mut world = World::new(&[], true);
    world.kernel.refuse(Entry::Nexthops);
    many(3).for_each(|prefix| world.learn(&prefix, Some(from_mesh(FAR))));
    world.learn(THERE, Some(learned(&["192.0.2.9", FAR], None)));
    world.settle();

    assert!(many(3).all(|prefix| world.kind(&prefix) == via(lan("192.0.2.254"))));
    assert_eq!((world.nexthop("10.0.16.0/26"), world.nexthop(THERE)), (None, None));
    assert_eq!(world.table.pending(), []);

    world.kernel.heal();
    world.table.retry_now(world.now);
    world.table.apply(true, world.now);
    world.table.retry_now(world.now);
    world.table.apply(true, world.now);
    assert!(world.nexthop("10.0.16.0/26").is_some() && world.nexthop(THERE).is_some());
    // Members are told in the order of their numbers.
    assert_eq!(world.kind(THERE), Some(RouteKind::Unicast(vec![lan("192.0.2.254"), lan("192.0.2.9")])));
}

#[test]
fn a_kernel_that_never_heard_of_objects_gets_none() {
    let kernel = FakeKernel::new();
    kernel.refuse(Entry::Nexthops);

    assert!(!NexthopObjects::adopt(kernel.nexthops(), true).unwrap().is_enabled());
}

#[test]
fn an_object_goes_only_after_the_last_route_that_refers_to_it() {
    let mut world = World::new(&[], true);
    world.learn(THERE, Some(from_mesh(FAR)));
    world.settle();
    let standing = RouteKey::new(cidr(THERE), 1024);
    world.kernel.refuse(Entry::Route(standing));

    // The next way cannot be written: the old one stays whole.
    world.learn(THERE, Some(from_mesh("192.0.2.9")));
    world.settle();
    assert_eq!(world.kind(THERE), via(lan("192.0.2.254")));

    world.kernel.heal();
    world.table.retry_now(world.now);
    world.settle();
    assert_eq!(world.kind(THERE), via(lan("192.0.2.9")));
    assert_eq!(world.kernel.state().nexthops.len(), 1);
}
