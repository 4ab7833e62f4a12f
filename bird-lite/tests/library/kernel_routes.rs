//! What becomes of learned routes in the kernel.

use std::sync::Arc;

use bgp::{Route as Learned, RouteSource};
use bgp_packet::{NextHop as BgpNextHop, PathAttributes};
use bird_lite::cluster::Cluster;
use bird_lite::fib::Fib;
use bird_lite::kernel_routes::{Context, Leg, Verdict, blackholes, own_routes};
use bird_lite::origin::{NORMAL_PRIORITY, PREFERENCE_SUM};
use kernel::{NextHop, PROTO_BIRD, RouteKey, RouteKind};
use model::{AffinityState, EncapMode, IpPool};

use crate::fib::route;
use crate::world::*;

pub(crate) const THERE: &str = "10.0.9.0/26";
const ON_LINK: &str = "192.0.2.9";
pub(crate) const FAR: &str = "198.51.100.9";

pub(crate) fn fib() -> Fib {
    Fib::new([
        route("0.0.0.0/0", Some("192.0.2.254"), "eth0"),
        route("192.0.2.0/24", None, "eth0"),
        route("2001:db8::/64", None, "eth0"),
        route("::/0", Some("fe80::1"), "eth0"),
    ])
}

pub(crate) fn learned(next_hops: &[&str], local_pref: Option<u32>) -> Learned {
    let next_hops: Vec<_> = next_hops.iter().map(|a| address(a)).collect();
    let mut attributes = PathAttributes::new(BgpNextHop::from(next_hops[0]));
    attributes.local_pref = local_pref;
    Learned {
        source: RouteSource::Peer(address("192.0.2.9").into()),
        attributes: Arc::new(attributes),
        next_hops: next_hops.into_iter().map(Into::into).collect(),
        external: false,
        stale: false,
    }
}

/// As another node of the mesh sends it.
pub(crate) fn from_mesh(next_hop: &str) -> Learned {
    learned(&[next_hop], Some(PREFERENCE_SUM - NORMAL_PRIORITY))
}

/// Under which key a route is installed, and how.
pub(crate) fn decide(context: Context<'_>, prefix: &str, route: &Learned) -> (Option<RouteKey>, Verdict) {
    let prefix = prefix.parse().unwrap();
    let Some(key) = context.key(prefix, route) else { return (None, Verdict::Skip) };
    let pool = context.pool(prefix);
    let ways = route.next_hops.iter().map(|next_hop| context.way(Leg { next_hop: *next_hop, pool }));
    (Some(key), Verdict::of(&ways.collect::<Vec<_>>()))
}

fn verdict(cluster: &Cluster, prefix: &str, route: &Learned) -> Verdict {
    decide(Context { cluster, fib: &fib(), tunnel_up: true }, prefix, route).1
}

/// Key and next hops of what is to be installed.
fn installed(cluster: &Cluster, prefix: &str, route: &Learned) -> (RouteKey, Vec<NextHop>) {
    let context = Context { cluster, fib: &fib(), tunnel_up: true };
    match decide(context, prefix, route) {
        (Some(key), Verdict::Install(hops)) => (key, hops),
        other => panic!("{prefix} is not installed: {other:?}"),
    }
}

pub(crate) fn lan(gateway: &str) -> NextHop {
    NextHop { gateway: Some(address(gateway)), interface: Some("eth0".to_owned()), onlink: false }
}

pub(crate) fn tunnel(gateway: &str) -> NextHop {
    NextHop { gateway: Some(address(gateway)), interface: Some("tunl0".to_owned()), onlink: true }
}

fn cluster_with(pool: IpPool) -> Cluster {
    let mut cluster = cluster(2);
    put_pool(&mut cluster, pool);
    cluster
}

pub(crate) fn ipip(mode: EncapMode) -> IpPool {
    IpPool { ipip_mode: mode, ..pool("10.0.0.0/16") }
}

#[test]
fn encapsulation_follows_the_mode_of_the_pool_and_the_subnet_of_the_next_hop() {
    // A far next hop without encapsulation is resolved through the default gateway.
    let cases = [
        (EncapMode::Never, ON_LINK, lan(ON_LINK)),
        (EncapMode::Never, FAR, lan("192.0.2.254")),
        (EncapMode::CrossSubnet, ON_LINK, lan(ON_LINK)),
        (EncapMode::CrossSubnet, FAR, tunnel(FAR)),
        (EncapMode::Always, ON_LINK, tunnel(ON_LINK)),
        (EncapMode::Always, FAR, tunnel(FAR)),
    ];
    for (mode, next_hop, hop) in cases {
        let cluster = cluster_with(ipip(mode));

        let (key, hops) = installed(&cluster, THERE, &from_mesh(next_hop));

        assert_eq!(hops, [hop], "{mode:?}, next hop {next_hop}");
        assert_eq!(key, RouteKey::new(cidr(THERE), NORMAL_PRIORITY));
    }
}

#[test]
fn the_smallest_pool_around_a_prefix_decides() {
    let mut cluster = cluster_with(ipip(EncapMode::Always));
    put_pool(&mut cluster, pool("10.0.9.0/24"));

    assert_eq!(installed(&cluster, THERE, &from_mesh(ON_LINK)).1, [lan(ON_LINK)]);
    assert_eq!(installed(&cluster, "10.0.8.0/26", &from_mesh(ON_LINK)).1, [tunnel(ON_LINK)]);
}

#[test]
fn routes_of_a_vxlan_pool_are_left_to_the_agent() {
    let cluster = cluster_with(IpPool { vxlan_mode: EncapMode::CrossSubnet, ..pool("10.0.0.0/16") });

    assert_eq!(verdict(&cluster, THERE, &from_mesh(FAR)), Verdict::HandOver);
}

#[test]
fn what_is_no_pod_address_goes_through_the_lan() {
    let cluster = cluster_with(ipip(EncapMode::Always));

    let (_, hops) = installed(&cluster, "203.0.113.0/24", &from_mesh(ON_LINK));

    assert_eq!(hops, [lan(ON_LINK)]);
}

#[test]
fn a_missing_tunnel_is_named_and_only_blocks_what_needs_it() {
    let cluster = cluster_with(ipip(EncapMode::CrossSubnet));
    let fib = fib();
    let context = Context { cluster: &cluster, fib: &fib, tunnel_up: false };

    let Verdict::Pending(reason) = decide(context, THERE, &from_mesh(FAR)).1 else {
        panic!("installed without a tunnel");
    };

    assert!(reason.contains("tunl0") && reason.contains("pool-10-0-0-0-16"), "{reason}");
    let near = decide(context, "10.0.8.0/26", &from_mesh(ON_LINK)).1;
    assert!(matches!(near, Verdict::Install(..)), "{near:?}");
}

#[test]
fn a_next_hop_without_a_route_is_named() {
    let cluster = cluster(2);
    let fib = Fib::new([route("192.0.2.0/24", None, "eth0")]);
    let context = Context { cluster: &cluster, fib: &fib, tunnel_up: true };

    let Verdict::Pending(reason) = decide(context, THERE, &from_mesh(FAR)).1 else {
        panic!("installed without a way");
    };
    let partly = decide(context, THERE, &learned(&[FAR, ON_LINK], None)).1;

    assert!(reason.contains(FAR), "{reason}");
    let Verdict::Install(hops) = partly else { panic!("one way out is enough: {partly:?}") };
    assert_eq!(hops, [lan(ON_LINK)]);
}

#[test]
fn equal_paths_become_one_route_with_every_next_hop_once() {
    let cluster = cluster(2);

    let (_, two) = installed(&cluster, THERE, &learned(&["192.0.2.9", "192.0.2.8"], None));
    let (_, one) = installed(&cluster, THERE, &learned(&["198.51.100.8", "198.51.100.9"], None));

    assert_eq!(two, [lan("192.0.2.8"), lan("192.0.2.9")]);
    assert_eq!(one, [lan("192.0.2.254")]);
}

#[test]
fn each_of_equal_paths_has_the_encapsulation_of_its_own_next_hop() {
    let cluster = cluster_with(ipip(EncapMode::CrossSubnet));

    let (_, hops) = installed(&cluster, THERE, &learned(&[ON_LINK, FAR, "198.51.100.8"], None));

    assert_eq!(hops, [lan(ON_LINK), tunnel("198.51.100.8"), tunnel(FAR)]);
}

#[test]
fn a_node_with_several_links_leaves_by_the_one_that_leads_to_the_next_hop() {
    let cluster = cluster_with(ipip(EncapMode::CrossSubnet));
    // A second link to the node's own subnet's neighbour, and one of point-to-point kind.
    let fib = Fib::new([
        route("192.0.2.0/24", None, "eth0"),
        route("192.0.2.9/32", None, "eth1"),
        route("192.0.2.8/32", Some("192.0.2.253"), "eth0"),
    ]);
    let context = Context { cluster: &cluster, fib: &fib, tunnel_up: true };
    let hop = |gateway: &str, link: &str| NextHop { interface: Some(link.to_owned()), ..lan(gateway) };

    for (next_hop, expected) in [
        ("192.0.2.7", hop("192.0.2.7", "eth0")),
        ("192.0.2.9", hop("192.0.2.9", "eth1")),
        ("192.0.2.8", hop("192.0.2.253", "eth0")),
    ] {
        match decide(context, THERE, &from_mesh(next_hop)).1 {
            Verdict::Install(hops) => assert_eq!(hops, [expected], "{next_hop}"),
            other => panic!("{next_hop}: {other:?}"),
        }
    }
}

#[test]
fn the_metric_mirrors_a_preference_of_ours_and_no_other() {
    let cases = [
        (Some(PREFERENCE_SUM - NORMAL_PRIORITY), NORMAL_PRIORITY),
        (Some(PREFERENCE_SUM - 512), 512),
        (Some(PREFERENCE_SUM - 4096), 4096),
        (Some(PREFERENCE_SUM), 1),
        // What other speakers send: 100 unless set, and what operators set.
        (Some(100), NORMAL_PRIORITY),
        (Some(200), NORMAL_PRIORITY),
        (Some(0), NORMAL_PRIORITY),
        (Some(u32::MAX), NORMAL_PRIORITY),
        (None, NORMAL_PRIORITY),
    ];
    for (local_pref, metric) in cases {
        let (key, _) = installed(&cluster(2), "10.0.9.9/32", &learned(&[ON_LINK], local_pref));

        assert_eq!(key.metric, metric, "LOCAL_PREF {local_pref:?}");
    }
}

#[test]
fn nothing_learned_shadows_what_is_here() {
    let mut cluster = cluster(2);
    give(&mut cluster, "10.0.2.0/26", "10.0.2.7", "n1");

    // The own block, an endpoint's address in another node's block, and a route of our own.
    assert_eq!(verdict(&cluster, OWN_BLOCK, &from_mesh(ON_LINK)), Verdict::Skip);
    assert_eq!(verdict(&cluster, "10.0.2.7/32", &from_mesh(ON_LINK)), Verdict::Skip);
    let own = Learned { source: RouteSource::Local, ..from_mesh(ON_LINK) };
    assert_eq!(verdict(&cluster, THERE, &own), Verdict::Skip);
    // That block itself is the other node's, as is an address of our block that has moved there.
    installed(&cluster, "10.0.2.0/26", &from_mesh(ON_LINK));
    installed(&cluster, "10.0.1.9/32", &from_mesh(ON_LINK));
}

#[test]
fn confirmed_blocks_of_this_node_have_a_blackhole() {
    let mut cluster = cluster(2);
    claim(&mut cluster, "10.0.1.64/26", AffinityState::Pending);
    claim(&mut cluster, "10.0.1.128/26", AffinityState::PendingDeletion);
    own(&mut cluster, "10.0.3.1/32");
    own(&mut cluster, "fd00:1::/122");

    let holes = blackholes(&cluster);

    let destinations: Vec<_> = holes.keys().map(|key| (key.destination, key.metric)).collect();
    assert_eq!(destinations, [(cidr(OWN_BLOCK), 1024), (cidr("fd00:1::/122"), 1024)]);
    assert!(holes.values().all(|r| r.kind == RouteKind::Blackhole && r.protocol == PROTO_BIRD));
}

#[test]
fn ipv6_is_never_put_into_the_ipv4_tunnel() {
    let mut cluster = cluster(2);
    put_node(&mut cluster, dual_stack(1));
    put_pool(&mut cluster, IpPool { ipip_mode: EncapMode::Always, ..pool("fd00::/64") });

    let (_, near) = installed(&cluster, "fd00::9:0/122", &from_mesh("2001:db8::9"));
    let (_, far) = installed(&cluster, "fd00::9:0/122", &from_mesh("2001:db8:1::9"));

    assert_eq!((near, far), (vec![lan("2001:db8::9")], vec![lan("fe80::1")]));
}

#[test]
fn a_peer_behind_a_gateway_has_a_route_and_what_it_tells_goes_that_way() {
    let mut cluster = cluster(2);
    let (peer, gateway) = ("198.51.100.9", "192.0.2.253");
    cluster.set_gateways([(address(peer), address(gateway))].into());
    let mut fib = Fib::new([route("192.0.2.0/24", None, "eth0")]);
    fib.set_gateways(cluster.gateways.clone());
    let context = Context { cluster: &cluster, fib: &fib, tunnel_up: true };

    let own = own_routes(context);

    let to_peer = &own[&RouteKey::new(cidr("198.51.100.9/32"), NORMAL_PRIORITY)];
    assert_eq!(to_peer.kind, RouteKind::Unicast(vec![lan(gateway)]));
    assert!(own.contains_key(&RouteKey::new(cidr(OWN_BLOCK), NORMAL_PRIORITY)));
    match decide(context, "203.0.113.0/24", &learned(&[peer], None)).1 {
        Verdict::Install(hops) => assert_eq!(hops, [lan(gateway)]),
        other => panic!("{other:?}"),
    }
    // Nobody may tell us another way to the peer.
    let verdict = decide(context, "198.51.100.9/32", &learned(&["192.0.2.2"], None)).1;
    assert_eq!(verdict, Verdict::Skip);
}
