//! What leaves a node: its announcements and export policy, with real speakers on a net without sockets. Node 1
//! is ours; 2 and 3 are nodes of the same cluster, 9 a router of AS 65000.

use std::net::Ipv4Addr;

use bgp::PeerKey;
use bgp_packet::PathAttributes;
use bird_lite::cluster::Cluster;
use bird_lite::origin::{NORMAL_PRIORITY, PREFERENCE_SUM};
use model::{AffinityState, IpPool, PeerSelection, Update};

use crate::net::{Net, config, config_in, ip, local, peer, prefix};
use crate::world::{
    self, OWN_BLOCK, address, cidr, claim, cluster, dual_stack, give, node, origins, own, peering, pool,
    put_node, put_peering, put_pool, selector,
};

const INTERNAL: u8 = 2;
const ROUTER: u8 = 9;

/// A route with a preference.
fn preferred(metric: u32) -> PathAttributes {
    PathAttributes { local_pref: Some(PREFERENCE_SUM - metric), ..local() }
}

/// Starts node 1 out of the cluster, with nodes 2 and 3 and the router around it; nodes 2 and 3 do not know one
/// another, so that one hears of the other only through node 1.
fn start(cluster: &mut Cluster) -> Net {
    put_peering(cluster, peering("router", "192.0.2.9", 65000));
    let mut net = Net::new(5);
    net.start(1, world::config(cluster), false);
    for (prefix, origin) in origins(cluster) {
        net.speaker(1).originate(prefix, origin);
    }
    for (n, mut config) in [(2, config(2)), (3, config(3)), (ROUTER, config_in(ROUTER, 65000))] {
        config.peers.insert(ip(1).into(), peer(n, 64512));
        net.start(n, config, false);
    }
    net.until("sessions", 10, Net::all_up);
    net
}

/// Lets a node announce something, and waits until all is said.
fn announce(net: &mut Net, n: u8, route: &str, attributes: PathAttributes) {
    net.speaker(n).originate(prefix(route), attributes);
    net.run(5);
}

#[test]
fn the_own_block_goes_to_everybody_and_nothing_inside_it() {
    let mut cluster = cluster(3);
    give(&mut cluster, OWN_BLOCK, "10.0.1.5", "n1");
    let mut net = start(&mut cluster);

    announce(&mut net, 1, "10.0.1.5/32", preferred(NORMAL_PRIORITY));

    for n in [INTERNAL, 3, ROUTER] {
        assert!(net.has(n, OWN_BLOCK), "node {n} lacks the block");
        assert!(!net.has(n, "10.0.1.5/32"), "node {n} has an address inside the block");
    }
    let inside = net.speaker(INTERNAL).route(&prefix(OWN_BLOCK)).unwrap();
    assert_eq!(inside.attributes.local_pref, Some(2_147_482_623));
    assert_eq!(inside.next_hops, [PeerKey::from(ip(1))]);
    let outside = net.speaker(ROUTER).route(&prefix(OWN_BLOCK)).unwrap();
    assert_eq!(outside.attributes.as_path.to_string(), "64512");
}

#[test]
fn a_more_preferred_address_inside_the_block_goes_out() {
    let mut net = start(&mut cluster(3));

    announce(&mut net, 1, "10.0.1.5/32", preferred(512));

    assert!(net.has(ROUTER, "10.0.1.5/32"));
    let inside = net.speaker(INTERNAL).route(&prefix("10.0.1.5/32")).unwrap();
    assert_eq!(inside.attributes.local_pref, Some(2_147_483_135));
}

#[test]
fn an_address_borrowed_from_another_block_goes_out_and_those_of_others_do_not() {
    let mut cluster = cluster(3);
    give(&mut cluster, "10.0.2.0/26", "10.0.2.9", "n1");
    give(&mut cluster, "10.0.3.0/26", "10.0.3.9", "n3");

    let mut net = start(&mut cluster);
    net.run(5);

    for n in [INTERNAL, ROUTER] {
        assert!(net.has(n, "10.0.2.9/32"), "node {n}");
        assert!(!net.has(n, "10.0.3.9/32"), "node {n}");
    }
}

#[test]
fn only_confirmed_blocks_are_announced() {
    let mut cluster = cluster(3);
    claim(&mut cluster, "10.0.1.64/26", AffinityState::Pending);
    claim(&mut cluster, "10.0.1.128/26", AffinityState::PendingDeletion);

    let announced: Vec<_> = origins(&cluster).keys().map(ToString::to_string).collect();

    assert_eq!(announced, [OWN_BLOCK]);
}

#[test]
fn a_block_of_another_node_is_passed_on_outside_and_not_inside() {
    let mut net = start(&mut cluster(3));

    announce(&mut net, 2, "10.0.3.0/26", preferred(NORMAL_PRIORITY));

    assert!(net.has(1, "10.0.3.0/26"));
    assert!(net.has(ROUTER, "10.0.3.0/26"));
    assert!(!net.has(3, "10.0.3.0/26"));
}

#[test]
fn a_node_that_is_a_reflector_passes_routes_on_inside() {
    let mut cluster = cluster(3);
    let id = Ipv4Addr::new(244, 0, 0, 1);
    put_node(&mut cluster, model::Node { route_reflector_cluster_id: Some(id), ..node(1) });
    let clients = PeerSelection::Selector(selector("rack in {'r2', 'r3'}"));
    put_peering(&mut cluster, model::BgpPeer { nodes: clients, ..peering("rr", "192.0.2.1", 64512) });
    let mut net = start(&mut cluster);

    announce(&mut net, 2, "10.0.3.0/26", preferred(NORMAL_PRIORITY));

    let reflected = net.speaker(3).route(&prefix("10.0.3.0/26")).unwrap();
    assert_eq!(reflected.attributes.cluster_list, [id]);
    assert_eq!(reflected.next_hops, [PeerKey::from(ip(2))], "a reflector stays out of the way");
}

#[test]
fn the_infrastructure_stays_inside() {
    let mut net = start(&mut cluster(3));

    for route in ["192.0.2.0/24", "0.0.0.0/0", "10.0.0.0/8"] {
        announce(&mut net, 1, route, local());
        for n in [INTERNAL, ROUTER] {
            assert!(!net.has(n, route), "node {n} has {route}");
        }
    }
}

#[test]
fn what_a_router_says_beyond_pools_is_taken_and_not_passed_on() {
    let mut net = start(&mut cluster(3));

    announce(&mut net, ROUTER, "203.0.113.0/24", local());

    let taken = net.speaker(1).route(&prefix("203.0.113.0/24")).unwrap();
    assert!(taken.external);
    assert!(!net.has(INTERNAL, "203.0.113.0/24"));
}

#[test]
fn nothing_of_a_pool_with_export_off_goes_out_and_switching_it_is_live() {
    let mut cluster = cluster(3);
    let silent = IpPool { disable_bgp_export: true, ..pool("10.0.0.0/16") };
    put_pool(&mut cluster, silent);
    let mut net = start(&mut cluster);
    announce(&mut net, 2, "10.0.3.0/26", preferred(NORMAL_PRIORITY));
    assert!(!net.has(INTERNAL, OWN_BLOCK) && !net.has(ROUTER, OWN_BLOCK) && !net.has(ROUTER, "10.0.3.0/26"));

    put_pool(&mut cluster, pool("10.0.0.0/16"));
    let now = net.now;
    net.speaker(1).reconfigure(world::config(&cluster), now);
    net.run(5);

    assert!(net.has(INTERNAL, OWN_BLOCK) && net.has(ROUTER, OWN_BLOCK) && net.has(ROUTER, "10.0.3.0/26"));
    let downs = net.take_events(1).into_iter().filter(|e| matches!(e, bgp::Event::PeerDown { .. }));
    assert_eq!(downs.count(), 0, "a change of policy ended a session");
}

#[test]
fn a_block_that_is_given_up_is_no_longer_announced() {
    let mut cluster = cluster(3);

    let node = cluster.node_name.clone();
    cluster.apply(Update::BlockAffinity(node, cidr(OWN_BLOCK), None));

    assert_eq!(origins(&cluster).len(), 0);
}

#[test]
fn ipv6_blocks_are_announced_over_an_ipv4_session_with_an_ipv6_next_hop() {
    let mut cluster = cluster(3);
    put_node(&mut cluster, dual_stack(1));
    put_pool(&mut cluster, pool("fd00::/64"));
    own(&mut cluster, "fd00::1:0/122");

    let mut net = start(&mut cluster);
    net.run(5);

    let route = net.speaker(ROUTER).route(&prefix("fd00::1:0/122")).unwrap();
    assert_eq!(route.next_hops, [PeerKey::from(address("2001:db8::1"))]);
}
