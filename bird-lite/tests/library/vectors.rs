//! Calico's BGP policy as one table: what goes out to whom, and what comes into the kernel. The node is
//! 192.0.2.1/24 in AS 64512, the pool 10.0.0.0/16, its own block 10.0.1.0/26, the normal priority 1024.

use bgp::{Edit, Facts, PeerKey, Policy, SourceKind, Verdict as Decision};
use bgp_packet::{NextHop as BgpNextHop, PathAttributes};
use bird_lite::cluster::Cluster;
use bird_lite::kernel_routes::{Context, Verdict};
use bird_lite::origin::PREFERENCE_SUM;
use kernel::{NextHop, RouteKey};
use model::{
    BgpConfiguration, EncapMode, IpPool, Node, PeerSelection, ProgramClusterRoutes, ServiceRanges, Tunnels,
    WireguardKey,
};

use crate::kernel_routes::{FAR, decide, fib, lan, learned, tunnel};
use crate::net::{self, Net, ip, key};
use crate::world::*;

const INTERNAL: &str = "192.0.2.2";
const EXTERNAL: &str = "192.0.2.9";
const BOTH: &[&str] = &[INTERNAL, EXTERNAL];

/// What is special about the cluster.
#[derive(Clone, Copy, Debug)]
enum World {
    Plain,
    Vxlan,
    /// IPIP pool whose routes another agent programs.
    ForeignIpip,
    CrossSubnet,
    /// Nothing of the pool is to be exported.
    Silent,
    /// 10.96.0.0/12 are addresses of Services.
    Services,
    /// 192.0.2.9 is a node that takes WireGuard.
    Encrypted,
}

fn cluster_in(world: World) -> Cluster {
    let mut cluster = cluster(3);
    put_peering(&mut cluster, peering("router", EXTERNAL, 65000));
    let pool = pool("10.0.0.0/16");
    match world {
        World::Plain => {}
        World::Vxlan => put_pool(&mut cluster, IpPool { vxlan_mode: EncapMode::Always, ..pool }),
        World::ForeignIpip => {
            put_pool(&mut cluster, IpPool { ipip_mode: EncapMode::CrossSubnet, ..pool });
            let programs = ProgramClusterRoutes { ipip: false, no_encapsulation: true };
            configure(&mut cluster, BgpConfiguration { programs, ..Default::default() });
        }
        World::CrossSubnet => put_pool(&mut cluster, IpPool { ipip_mode: EncapMode::CrossSubnet, ..pool }),
        World::Silent => put_pool(&mut cluster, IpPool { disable_bgp_export: true, ..pool }),
        World::Encrypted => put_node(&mut cluster, Node { tunnels: encrypted(), ..node(9) }),
        World::Services => {
            let services = ServiceRanges { cluster_ips: vec![cidr("10.96.0.0/12")], ..Default::default() };
            configure(&mut cluster, BgpConfiguration { services, ..Default::default() });
        }
    }
    cluster
}

fn encrypted() -> Tunnels {
    Tunnels { wireguard_key: Some(WireguardKey([1; 32])), ..Tunnels::default() }
}

/// The LOCAL_PREF with which a policy lets a route out.
fn exported(policy: &Policy, facts: Facts<'_>, metric: u32) -> Option<u32> {
    let mut attributes = PathAttributes::new(BgpNextHop::from(address("192.0.2.1")));
    attributes.local_pref = Some(PREFERENCE_SUM - metric);
    let mut edit = Edit::Same(&attributes);
    let verdict = policy.apply(facts, &mut edit);
    (verdict == Decision::Accept).then(|| edit.current().local_pref.unwrap())
}

/// Number, prefix, source, interface, metric, peers, world, and whether it goes out.
type Export<'a> = (u8, &'a str, SourceKind, Option<&'a str>, u32, &'a [&'a str], World, bool);

#[test]
fn what_goes_out_is_what_calico_lets_out() {
    use SourceKind::{External, Internal, Local};
    use World::{ForeignIpip, Plain, Services, Silent, Vxlan};
    let vectors: &[Export<'_>] = &[
        (1, "10.0.1.0/26", Local, None, 1024, BOTH, Plain, true),
        (2, "10.0.1.5/32", Local, Some("cali0"), 1024, BOTH, Plain, false),
        (3, "10.0.1.5/32", Local, Some("cali0"), 512, BOTH, Plain, true),
        (4, "10.0.2.9/32", Local, Some("cali0"), 1024, BOTH, Plain, true),
        (5, "10.0.3.0/26", Local, Some("vxlan.calico"), 1024, &[INTERNAL], Vxlan, false),
        (6, "10.0.3.0/26", Local, Some("vxlan.calico"), 1024, &[EXTERNAL], Vxlan, true),
        (7, "10.0.3.0/26", Local, Some("tunl0"), 1024, &[INTERNAL], ForeignIpip, false),
        (9, "10.0.3.0/26", Internal, None, 1024, &[EXTERNAL], Plain, true),
        (11, "192.0.2.0/24", Local, Some("eth0"), 1024, BOTH, Plain, false),
        (12, "0.0.0.0/0", Local, Some("eth0"), 1024, BOTH, Plain, false),
        (13, "10.96.0.0/12", Local, None, 1024, BOTH, Services, true),
        (16, "10.0.1.0/26", Local, None, 1024, BOTH, Silent, false),
        (16, "10.0.2.9/32", Local, Some("cali0"), 512, BOTH, Silent, false),
        (17, "10.0.1.7/32", Local, Some("bpfout.cali"), 512, BOTH, Plain, false),
        (18, "203.0.113.0/24", External, None, 1024, &[INTERNAL], Plain, false),
    ];
    for (number, text, source, interface, metric, peers, world, out) in vectors {
        let config = config(&cluster_in(*world));
        for peer in *peers {
            let policy = &config.peers[&peer.parse().unwrap()].export;
            let prefix = text.parse().unwrap();
            let facts = Facts { prefix: &prefix, source: *source, interface: *interface };

            let preference = exported(policy, facts, *metric);

            let expected = out.then_some(PREFERENCE_SUM - metric);
            assert_eq!(preference, expected, "vector {number}: {text} towards {peer}");
        }
    }
}

/// Node 1 out of the cluster, with node 2 of the same AS, node 3 that may be a client, and the router.
fn speakers(cluster: &Cluster) -> Net {
    let mut net = Net::new(5);
    net.start(1, config(cluster), false);
    for (n, asn) in [(2, 64512), (3, 64512), (9, 65000)] {
        let mut config = net::config_in(n, asn);
        config.peers.insert(key(1), net::peer(n, 64512));
        net.start(n, config, false);
    }
    net.until("sessions", 10, Net::all_up);
    let mut attributes = net::local();
    attributes.local_pref = Some(PREFERENCE_SUM - 1024);
    net.speaker(2).originate(net::prefix("10.0.3.0/26"), attributes);
    net.run(5);
    net
}

/// Vectors 8, 9 and 10: what one node told us goes to another only through a reflector.
#[test]
fn what_is_learned_inside_goes_on_inside_only_through_a_reflector() {
    let plain = cluster_in(World::Plain);
    let mut net = speakers(&plain);
    assert!(!net.has(3, "10.0.3.0/26"), "vector 8");
    assert!(net.has(9, "10.0.3.0/26"), "vector 9");

    let mut cluster = cluster_in(World::Plain);
    let id = "244.0.0.1".parse().unwrap();
    put_node(&mut cluster, Node { route_reflector_cluster_id: Some(id), ..node(1) });
    let clients = PeerSelection::Selector(selector("rack in {'r2', 'r3'}"));
    put_peering(&mut cluster, model::BgpPeer { nodes: clients, ..peering("rr", "192.0.2.1", 64512) });
    let mut net = speakers(&cluster);
    let reflected = net.speaker(3).route(&net::prefix("10.0.3.0/26")).expect("vector 10");
    assert_eq!(
        (&reflected.attributes.cluster_list[..], &reflected.next_hops[..]),
        (&[id][..], &[PeerKey::from(ip(2))][..])
    );
}

/// Number, prefix, next hop, metric, world, and the way that is written, with its metric.
type Install<'a> = (u8, &'a str, &'a str, u32, World, Option<(NextHop, u32)>);

#[test]
fn what_comes_into_the_kernel_is_what_calico_puts_there() {
    use World::{CrossSubnet, Encrypted, ForeignIpip, Plain, Services, Vxlan};
    let near = "192.0.2.9";
    let vectors: &[Install<'_>] = &[
        (14, "10.96.0.0/12", near, 1024, Services, None),
        (15, "10.96.5.5/32", near, 1024, Services, None),
        (18, "203.0.113.0/24", near, 1024, Plain, Some((lan(near), 1024))),
        (19, "10.0.9.0/26", near, 1024, CrossSubnet, Some((lan(near), 1024))),
        (20, "10.0.9.0/26", FAR, 1024, CrossSubnet, Some((tunnel(FAR), 1024))),
        (21, "10.0.9.0/26", FAR, 1024, Vxlan, None),
        (21, "10.0.9.0/26", near, 1024, ForeignIpip, None),
        // Beside the agent's route through WireGuard, which comes first: there is a way when that one goes.
        (22, "10.0.9.0/26", near, 1024, Encrypted, Some((lan(near), 1024))),
        (23, "10.0.9.9/32", near, 512, Plain, Some((lan(near), 512))),
    ];
    for (number, prefix, next_hop, metric, world, expected) in vectors {
        let cluster = cluster_in(*world);
        let route = learned(&[next_hop], Some(PREFERENCE_SUM - metric));

        let context = Context { cluster: &cluster, fib: &fib(), tunnel_up: true };
        let found = match decide(context, prefix, &route) {
            (Some(key), Verdict::Install(hops)) => Some((key, hops)),
            (_, Verdict::Skip | Verdict::HandOver) => None,
            other => panic!("vector {number}: {other:?}"),
        };

        let expected = expected.clone().map(|(hop, metric)| (RouteKey::new(cidr(prefix), metric), vec![hop]));
        assert_eq!(found, expected, "vector {number}");
    }
}
