//! Whom a node peers with.

use std::net::Ipv4Addr;

use bgp::{Config, NextHopMode};
use bgp_packet::Family;
use bird_lite::cluster::Cluster;
use bird_lite::peers::{Planner, router_id};
use model::{BgpConfiguration, BgpPeer, Node, NodeName, PeerSelection, PeerTarget, Update};

use crate::world::*;

const ROUTER: &str = "192.0.2.200";

fn addresses(cluster: &Cluster) -> Vec<String> {
    config(cluster).peers.keys().map(ToString::to_string).collect()
}

fn without_mesh(nodes: u8) -> Cluster {
    let mut cluster = cluster(nodes);
    configure(&mut cluster, BgpConfiguration { node_to_node_mesh: false, ..BgpConfiguration::default() });
    cluster
}

fn peer_of<'a>(config: &'a Config, address: &str) -> &'a bgp::PeerConfig {
    &config.peers[&address.parse::<bgp::PeerKey>().unwrap()]
}

#[test]
fn nothing_is_configured_before_the_node_and_its_address_are_known() {
    let mut cluster = cluster(2);
    put_node(&mut cluster, Node { ipv4: None, ..node(1) });
    assert_eq!(Planner::default().plan(&cluster), None);

    cluster.apply(Update::Node(NodeName::from("n1"), None));

    assert_eq!(Planner::default().plan(&cluster), None);
}

#[test]
fn the_mesh_is_every_other_node_and_can_be_switched_off() {
    assert_eq!(addresses(&cluster(4)), ["192.0.2.2", "192.0.2.3", "192.0.2.4"]);
    assert_eq!(addresses(&without_mesh(4)), [""; 0]);
}

#[test]
fn as_and_port_come_from_the_cluster_unless_a_node_has_its_own_as() {
    let mut cluster = cluster(3);
    configure(
        &mut cluster,
        BgpConfiguration { as_number: 65001, cluster_listen_port: 1790, ..Default::default() },
    );
    put_node(&mut cluster, Node { as_number: Some(65003), ..node(3) });

    let config = config(&cluster);

    assert_eq!((config.asn, config.router_id), (65001, Ipv4Addr::new(192, 0, 2, 1)));
    let (second, third) = (peer_of(&config, "192.0.2.2"), peer_of(&config, "192.0.2.3"));
    assert_eq!((second.asn, second.port), (Some(65001), 1790));
    assert_eq!(third.asn, Some(65003));
    assert_eq!(second.local_address, Some(address("192.0.2.1")));
}

#[test]
fn nodes_of_both_families_have_a_session_for_each() {
    let mut cluster = cluster(3);
    put_node(&mut cluster, dual_stack(1));
    put_node(&mut cluster, dual_stack(2));

    let config = config(&cluster);

    let sessions: Vec<_> = config.peers.iter().map(|(a, p)| (a.to_string(), p.families.clone())).collect();
    let expected = [("192.0.2.2", Family::Ipv4), ("192.0.2.3", Family::Ipv4), ("2001:db8::2", Family::Ipv6)];
    assert_eq!(sessions, expected.map(|(a, f)| (a.to_owned(), vec![f])));
    assert_eq!(peer_of(&config, "2001:db8::2").local_address, Some(address("2001:db8::1")));
    assert_eq!(config.next_hop_v6, Some("2001:db8::1".parse().unwrap()));
}

#[test]
fn a_node_with_ipv6_alone_has_a_valid_router_id_of_its_own() {
    let v6_only = |n| Node { ipv4: None, ..dual_stack(n) };

    let ids: Vec<_> = (1..=50).map(|n| router_id(&v6_only(n))).collect();

    assert!(ids.iter().all(|id| !id.is_unspecified() && !id.is_multicast() && id.octets()[0] < 224));
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0], router_id(&v6_only(1)), "it is the same after a restart");
}

#[test]
fn a_peering_is_for_all_nodes_for_one_or_for_those_selected() {
    let cases = [
        (PeerSelection::AllNodes, true),
        (PeerSelection::Node(NodeName::from("n1")), true),
        (PeerSelection::Node(NodeName::from("n2")), false),
        (PeerSelection::Selector(selector("rack == 'r1'")), true),
        (PeerSelection::Selector(selector("rack == 'r2'")), false),
    ];
    for (nodes, is_peer) in cases {
        let mut cluster = without_mesh(3);
        put_peering(&mut cluster, BgpPeer { nodes: nodes.clone(), ..peering("tor", ROUTER, 65000) });

        assert_eq!(addresses(&cluster).contains(&ROUTER.to_owned()), is_peer, "{nodes:?}");
    }
}

#[test]
fn nodes_can_be_chosen_as_peers_by_their_labels() {
    let mut cluster = without_mesh(4);
    let chosen = BgpPeer {
        nodes: PeerSelection::Node(NodeName::from("n1")),
        ..BgpPeer::new("racks", PeerTarget::Nodes(selector("rack in {'r1', 'r3'}")), None)
    };

    put_peering(&mut cluster, chosen.clone());

    assert_eq!(addresses(&cluster), ["192.0.2.3"], "never itself");
    // The chosen node has the other half of the session.
    cluster.node_name = NodeName::from("n3");
    assert_eq!(addresses(&cluster), ["192.0.2.1"]);
    cluster.node_name = NodeName::from("n4");
    assert_eq!(addresses(&cluster), [""; 0]);
}

#[test]
fn a_peering_with_a_node_stands_in_for_the_mesh() {
    let mut cluster = cluster(3);
    let special =
        BgpPeer { next_hop_mode: model::NextHopMode::SelfAddress, ..peering("x", "192.0.2.2", 64512) };

    put_peering(&mut cluster, special);

    let config = config(&cluster);
    assert_eq!(config.peers.len(), 2);
    assert_eq!(peer_of(&config, "192.0.2.2").next_hop, NextHopMode::SelfAddress);
    assert_eq!(peer_of(&config, "192.0.2.3").next_hop, NextHopMode::Auto);
}

#[test]
fn settings_of_a_peering_reach_the_session() {
    let mut cluster = without_mesh(1);
    let tuned = BgpPeer {
        target: PeerTarget::Address(address(ROUTER), Some(1179)),
        local_as_number: Some(65100),
        next_hop_mode: model::NextHopMode::Keep,
        max_restart_time: Some(std::time::Duration::from_secs(300)),
        source_address_is_node_ip: false,
        ..peering("tor", ROUTER, 65000)
    };

    put_peering(&mut cluster, tuned);

    let config = config(&cluster);
    let peer = peer_of(&config, ROUTER);
    assert_eq!((peer.asn, peer.local_asn, peer.port), (Some(65000), Some(65100), 1179));
    assert_eq!((peer.next_hop, peer.restart_time, peer.local_address), (NextHopMode::Keep, 300, None));
    assert!(peer.description.contains("tor"));
}

#[test]
fn reflectors_leave_the_mesh_and_take_nodes_as_clients() {
    let id = Ipv4Addr::new(244, 0, 0, 1);
    let mut cluster = cluster(4);
    for n in [1, 2] {
        put_node(&mut cluster, Node { route_reflector_cluster_id: Some(id), ..node(n) });
    }
    assert_eq!(addresses(&cluster), [""; 0]);

    // All nodes peer with the reflectors.
    let reflectors = PeerTarget::Nodes(selector("rack in {'r1', 'r2'}"));
    put_peering(&mut cluster, BgpPeer::new("reflectors", reflectors, None));

    let reflector = config(&cluster);
    assert_eq!(reflector.cluster_id, Some(id));
    let clients: Vec<_> = reflector.peers.iter().map(|(a, p)| (a.to_string(), p.reflector_client)).collect();
    let expected = [("192.0.2.2", false), ("192.0.2.3", true), ("192.0.2.4", true)];
    assert_eq!(clients, expected.map(|(a, client)| (a.to_owned(), client)));
    // The nodes keep their mesh until it is switched off: reflectors join before it goes.
    cluster.node_name = NodeName::from("n3");
    assert_eq!(addresses(&cluster), ["192.0.2.1", "192.0.2.2", "192.0.2.4"]);
    assert!(config(&cluster).peers.values().all(|p| !p.reflector_client));
}

#[test]
fn an_ipv4_session_with_a_router_carries_both_families() {
    let mut cluster = without_mesh(1);
    put_node(&mut cluster, dual_stack(1));
    put_peering(&mut cluster, peering("tor", ROUTER, 65000));

    let config = config(&cluster);

    assert_eq!(peer_of(&config, ROUTER).families, [Family::Ipv4, Family::Ipv6]);
}
