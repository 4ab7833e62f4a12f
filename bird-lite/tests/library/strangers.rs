//! Peers that are no nodes and have no address in a BGPPeer: pods of the node, routers at the other end of links.

use std::collections::BTreeMap;

use bgp::{PeerConfig, PeerKey, Route};
use bgp_packet::Family;
use bird_lite::cluster::Cluster;
use bird_lite::fib::Fib;
use bird_lite::kernel_routes::{Context, Verdict};
use kernel::NextHop;
use model::{
    AddPath, BfdSettings, BgpConfiguration, BgpPeer, BgpRole, EncapMode, IpPool, Labels, NodeName,
    PeerTarget, Pod, PodKey, Update, host_interface_name,
};

use crate::fib::route;
use crate::kernel_routes::{decide, learned};
use crate::net::{Net, config as node_config, config_in, ip, key as node_key, local, mesh, peer, prefix};
use crate::world::*;

const POD: &str = "10.0.1.7";

fn pod(name: &str, app: &str, node: &str) -> Pod {
    Pod {
        key: PodKey::new("default", name),
        uid: name.to_owned(),
        node: Some(NodeName::from(node)),
        addresses: vec![address(POD), address("fd00::7")],
        labels: Labels::from([("app".to_owned(), app.to_owned())]),
        ports: Vec::new(),
        service_account: Some("router".to_owned()),
        host_network: false,
        annotations: Labels::new(),
    }
}

fn put_pod(cluster: &mut Cluster, pod: Pod) {
    cluster.apply(Update::Pod(pod.key.clone(), Some(pod)));
}

fn with_pods(selector_of_pods: &str) -> Cluster {
    let mut cluster = cluster(1);
    let peering = "169.254.0.179".parse().ok();
    configure(&mut cluster, BgpConfiguration { local_workload_peering_v4: peering, ..Default::default() });
    let target = PeerTarget::LocalWorkloads(selector(selector_of_pods));
    put_peering(&mut cluster, BgpPeer { reverse: false, ..BgpPeer::new("pods", target, Some(65401)) });
    put_pod(&mut cluster, pod("router", "bird", "n1"));
    put_pod(&mut cluster, pod("elsewhere", "bird", "n2"));
    put_pod(&mut cluster, pod("web", "web", "n1"));
    cluster
}

fn only(cluster: &Cluster) -> (PeerKey, PeerConfig) {
    let mut peers = config(cluster).peers;
    let only = peers.pop_first().expect("there is a peer");
    assert!(peers.is_empty(), "{:?} too", peers.keys());
    only
}

#[test]
fn a_pod_of_this_node_connects_to_the_peering_address_of_its_family() {
    let mut cluster = with_pods("app == 'bird' && projectcalico.org/namespace == 'default'");

    let (key, peer) = only(&cluster);

    assert_eq!(key, address(POD).into());
    assert_eq!((peer.asn, peer.passive, peer.local_address), (Some(65401), true, None));
    assert_eq!((&peer.families[..], peer.only_here), (&[Family::Ipv4][..], true));
    let link = host_interface_name("cali", &PodKey::new("default", "router"));
    assert_eq!(plan(&cluster).pod_links.into_iter().collect::<Vec<_>>(), [link]);

    cluster.apply(Update::Pod(PodKey::new("default", "router"), None));
    assert!(plan(&cluster).pod_links.is_empty() && config(&cluster).peers.is_empty());
}

#[test]
fn without_a_peering_address_it_is_said_why_no_pod_peers() {
    let mut cluster = with_pods("all()");
    configure(&mut cluster, BgpConfiguration::default());

    let plan = plan(&cluster);

    assert!(plan.config.peers.is_empty() && plan.problems[0].contains("localWorkloadPeeringIPV4"));
}

#[test]
fn what_a_pod_announces_goes_to_its_link_whatever_the_pool_says() {
    let mut cluster = with_pods("all()");
    put_pool(&mut cluster, IpPool { ipip_mode: EncapMode::Always, ..pool("10.0.0.0/16") });
    give(&mut cluster, OWN_BLOCK, POD, "n1");
    let fib = Fib::new([route("10.0.1.7/32", None, "cali1"), route("192.0.2.0/24", None, "eth0")]);

    let context = Context { cluster: &cluster, fib: &fib, tunnel_up: true };
    let (_, verdict) = decide(context, "10.0.77.0/26", &learned(&[POD], None));

    let Verdict::Install(hops) = verdict else { panic!("{verdict:?}") };
    let way = NextHop { gateway: Some(address(POD)), interface: Some("cali1".to_owned()), onlink: false };
    assert_eq!(hops, [way]);
}

#[test]
fn other_nodes_reach_what_a_pod_announces_by_its_node() {
    let mut net = Net::new(1);
    let mut first = mesh(1, 2);
    first.peers.insert(node_key(7), PeerConfig { only_here: true, passive: true, ..peer(1, 65401) });
    net.start(1, first, false);
    net.start(2, mesh(2, 2), false);
    let mut router = config_in(7, 65401);
    router.peers.insert(node_key(1), peer(7, node_config(1).asn));
    net.start(7, router, false);
    net.speaker(7).originate(prefix("10.0.77.0/26"), local());

    net.until("the route is known", 60, |net| net.speaker(2).route(&prefix("10.0.77.0/26")).is_some());

    let next_hops = |route: Option<Route>| route.unwrap().next_hops;
    assert_eq!(next_hops(net.speaker(2).route(&prefix("10.0.77.0/26"))), [PeerKey::from(ip(1))]);
    assert_eq!(next_hops(net.speaker(1).route(&prefix("10.0.77.0/26"))), [PeerKey::from(ip(7))]);
}

#[test]
fn a_router_on_a_link_is_a_peer_once_it_was_heard() {
    let mut cluster = cluster(1);
    let target = PeerTarget::Interface("eth1".to_owned());
    put_peering(&mut cluster, BgpPeer::new("tor", target, Some(65001)));
    let unheard = plan(&cluster);
    assert!(unheard.links.contains("eth1") && unheard.config.peers.is_empty());

    let router: PeerKey = "fe80::1%7".parse().unwrap();
    cluster.set_routers(BTreeMap::from([("eth1".to_owned(), router)]));

    assert!(cluster.take_changes().peers);
    let (key, peer) = only(&cluster);
    assert_eq!((key, peer.local_address), (router, None));
    assert_eq!((peer.extended_next_hop, &peer.families[..]), (true, &Family::ALL[..]));
}

#[test]
fn ipv4_leaves_by_the_link_of_a_link_local_next_hop_while_it_is_up() {
    let cluster = cluster(1);
    let mut route = learned(&["192.0.2.9"], None);
    route.next_hops = vec!["fe80::1%7".parse().unwrap(), "fe80::1%8".parse().unwrap()];
    let verdict = |links: &[(u32, &str)]| {
        let mut fib = Fib::default();
        fib.set_links(links.iter().map(|(index, name)| (*index, (*name).to_owned())).collect());
        let context = Context { cluster: &cluster, fib: &fib, tunnel_up: false };
        match decide(context, "10.0.77.0/26", &route).1 {
            Verdict::Install(hops) => {
                Ok(hops.into_iter().filter_map(|hop| hop.interface).collect::<Vec<_>>())
            }
            Verdict::Pending(why) => Err(why),
            other => panic!("{other:?}"),
        }
    };

    assert_eq!(verdict(&[(7, "eth1"), (8, "eth2")]), Ok(vec!["eth1".to_owned(), "eth2".to_owned()]));
    assert_eq!(verdict(&[(8, "eth2")]), Ok(vec!["eth2".to_owned()]));
    assert!(verdict(&[]).is_err_and(|why| why.contains("fe80::1%")));
}

#[test]
fn own_settings_reach_the_speaker() {
    let mut cluster = cluster(1);
    configure(
        &mut cluster,
        BgpConfiguration { maximum_paths: 4, ebgp_requires_policy: true, ..Default::default() },
    );
    let wanted = BgpPeer {
        role: Some(BgpRole::Customer),
        strict_role: true,
        bfd: Some(BfdSettings { min_tx: 50, ..BfdSettings::default() }),
        add_path: AddPath { receive: true, send: 3 },
        ..peering("tor", "192.0.2.200", 65001)
    };
    put_peering(&mut cluster, wanted);

    let config = config(&cluster);

    assert_eq!((config.max_paths, config.ebgp_requires_policy), (4, true));
    let peer = config.peers.values().next().unwrap();
    assert_eq!((peer.role, peer.strict_role), (Some(bgp_packet::Role::Customer), true));
    assert_eq!(peer.bfd.map(|bfd| (bfd.min_tx, bfd.min_rx)), Some((50, 300)));
    assert_eq!((peer.add_path_receive, peer.add_path_send_max), (true, Some(3)));
}
