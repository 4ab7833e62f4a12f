//! The table of learned routes over a kernel in memory: what stands stays until something better stands.

use std::time::Instant;

use bird_lite::cluster::Cluster;
use bird_lite::fib::Fib;
use bird_lite::kernel_routes::Context;
use bird_lite::route_table::RouteTable;
use kernel::fake::{FakeKernel, FakeRoutes};
use kernel::{NextHop, PROTO_BIRD, Route, RouteKey, RouteKind};
use model::{AffinityState, EncapMode, Update};

use crate::kernel_routes::{FAR, THERE, fib, from_mesh, ipip, lan, tunnel};
use crate::world::*;

struct World {
    cluster: Cluster,
    fib: Fib,
    tunnel_up: bool,
    kernel: FakeKernel,
    table: RouteTable<FakeRoutes>,
    now: Instant,
}

impl World {
    /// A kernel with the LAN's link and, as an earlier run left them, some routes.
    #[allow(clippy::disallowed_methods)]
    fn new(left: &[(RouteKey, Route)]) -> Self {
        let kernel = FakeKernel::new();
        kernel.add_link("eth0");
        kernel.state().routes.extend(left.iter().cloned());
        let table = RouteTable::adopt(kernel.routes()).unwrap();
        Self { cluster: cluster(2), fib: fib(), tunnel_up: false, kernel, table, now: Instant::now() }
    }

    fn learn(&mut self, prefix: &str, route: Option<bgp::Route>) {
        let context = Context {
            cluster: &self.cluster,
            fib: &self.fib,
            tunnel_up: self.tunnel_up,
            wireguard_up: false,
        };
        self.table.learn(context, prefix.parse().unwrap(), route);
    }

    /// Something has changed: decides, and writes everything that may be written.
    fn settle(&mut self) {
        let context = Context {
            cluster: &self.cluster,
            fib: &self.fib,
            tunnel_up: self.tunnel_up,
            wireguard_up: false,
        };
        self.table.decide_all(context);
        self.table.apply(true, self.now);
    }

    /// The node's own routes to a destination have changed.
    fn fib_changed(&mut self, within: model::Cidr) {
        let context = Context {
            cluster: &self.cluster,
            fib: &self.fib,
            tunnel_up: self.tunnel_up,
            wireguard_up: false,
        };
        self.table.fib_changed(context, Some(within));
        self.table.apply(true, self.now);
    }

    /// What the kernel has for a destination.
    fn kind(&self, destination: &str) -> Option<RouteKind> {
        let state = self.kernel.state();
        let mut found = state.routes.iter().filter(|(key, _)| key.destination == cidr(destination));
        let kind = found.next().map(|(_, route)| route.kind.clone());
        assert_eq!(found.next(), None, "two routes to {destination}");
        kind
    }
}

fn via(hop: NextHop) -> Option<RouteKind> {
    Some(RouteKind::Unicast(vec![hop]))
}

fn left_behind(destination: &str, hop: NextHop) -> (RouteKey, Route) {
    let route = Route { kind: RouteKind::Unicast(vec![hop]), protocol: PROTO_BIRD, source: None, mtu: None };
    (RouteKey::new(cidr(destination), 1024), route)
}

#[test]
fn a_pool_that_turns_to_ipip_keeps_the_old_way_until_the_tunnel_is_there() {
    let mut world = World::new(&[]);
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
}

#[test]
fn a_way_of_an_earlier_run_stays_when_the_new_one_cannot_be_had() {
    let mut world =
        World::new(&[left_behind(THERE, lan("192.0.2.254")), left_behind("10.0.8.0/26", lan(FAR))]);
    put_pool(&mut world.cluster, ipip(EncapMode::Always));

    world.learn(THERE, Some(from_mesh(FAR)));
    world.settle();

    assert_eq!(world.kind(THERE), via(lan("192.0.2.254")));
    assert_eq!(world.kind("10.0.8.0/26"), None, "nobody announces it any more");
}

#[test]
fn nothing_of_an_earlier_run_goes_before_the_sweep_is_allowed() {
    let mut world = World::new(&[left_behind(THERE, lan(FAR))]);

    world.table.apply(false, world.now);
    assert_eq!(world.kind(THERE), via(lan(FAR)));

    world.table.apply(true, world.now);
    assert_eq!(world.kind(THERE), None);
}

#[test]
fn a_withdrawn_route_goes_also_while_its_new_way_is_missing() {
    let mut world = World::new(&[]);
    world.learn(THERE, Some(from_mesh(FAR)));
    world.settle();
    put_pool(&mut world.cluster, ipip(EncapMode::Always));
    world.settle();

    world.learn(THERE, None);
    world.settle();

    assert_eq!(world.kind(THERE), None);
    assert_eq!(world.table.pending(), []);
}

#[test]
fn a_block_that_changes_hands_turns_from_blackhole_to_route_and_back() {
    let mut world = World::new(&[]);
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
}

#[test]
fn a_route_that_the_kernel_refuses_is_named_and_stops_no_other() {
    let mut world = World::new(&[]);
    let refused = RouteKey::new(cidr(THERE), 1024);
    world.kernel.refuse(kernel::fake::Entry::Route(refused));

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
}

#[test]
fn a_next_hop_that_is_reached_another_way_moves_what_depends_on_it() {
    let mut world = World::new(&[]);
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
}

#[test]
fn a_route_that_somebody_deleted_or_changed_comes_back() {
    let mut world = World::new(&[]);
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
}

#[test]
fn an_address_that_comes_to_this_node_takes_its_learned_route_away() {
    let mut world = World::new(&[]);
    world.learn("10.0.9.7/32", Some(from_mesh(FAR)));
    world.settle();
    assert_eq!(world.kind("10.0.9.7/32"), via(lan("192.0.2.254")));

    give(&mut world.cluster, "10.0.9.0/26", "10.0.9.7", "n1");
    world.settle();
    assert_eq!(world.kind("10.0.9.7/32"), None, "what is here is shadowed");

    give(&mut world.cluster, "10.0.9.0/26", "10.0.9.7", "n2");
    world.settle();
    assert_eq!(world.kind("10.0.9.7/32"), via(lan("192.0.2.254")));
}
