//! Whom a node peers with.

use std::net::Ipv4Addr;

use bgp::{Config, NextHopMode};
use bgp_packet::Family;
use bird_lite::cluster::Cluster;
use bird_lite::peers::{Planner, RouterId};
use model::{
    BgpConfiguration, BgpPeer, Node, NodeName, Password, PeerSelection, PeerTarget, Secret, SecretKey,
    Tunnels, Update,
};

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
fn only_what_concerns_sessions_plans_them_anew() {
    let mut cluster = cluster(2);
    cluster.take_changes();
    let mut change = |node: Node| {
        put_node(&mut cluster, node);
        let changes = cluster.take_changes();
        changes.peers || !changes.nodes.is_empty()
    };
    let labelled = || {
        let mut node = node(2);
        node.labels.insert("rack".to_owned(), "other".to_owned());
        node
    };

    assert!(!change(Node {
        tunnels: Tunnels { ipip: "10.0.2.1".parse().ok(), ..Tunnels::default() },
        ..node(2)
    }));
    assert!(!change(labelled()), "no selector looks at labels");
    assert!(change(Node { as_number: Some(65003), ..labelled() }));
    assert!(change(dual_stack(2)) && change(node(3)));

    let target = PeerTarget::Nodes(selector("rack == 'other'"));
    put_peering(&mut cluster, BgpPeer::new("racks", target, None));
    cluster.take_changes();
    put_node(&mut cluster, Node { ..labelled() });
    assert!(cluster.take_changes().nodes.contains(&node(2).name));
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

    let ids: Vec<_> = (1..=50).map(|n| RouterId::Address.of(&v6_only(n))).collect();

    assert!(ids.iter().all(|id| !id.is_unspecified() && !id.is_multicast() && id.octets()[0] < 224));
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0], RouterId::Address.of(&v6_only(1)), "it is the same after a restart");
}

#[test]
fn an_identifier_can_be_chosen_or_derived_as_calico_derives_it() {
    let known = Node { name: NodeName::from("nodeTest"), ..node(1) };
    for (text, id) in [("", "192.0.2.1"), ("hash", "109.174.215.226"), ("198.51.100.7", "198.51.100.7")] {
        let choice: RouterId = text.parse().unwrap();

        assert_eq!(choice.of(&known).to_string(), id, "{text:?}");
    }
    assert!("router".parse::<RouterId>().is_err());
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

fn secret(cluster: &mut Cluster, name: &str, secret: Secret) {
    cluster.apply(Update::Secret(name.to_owned(), Some(secret)));
}

fn entries(key: &str, text: &str) -> Secret {
    Secret::Present([(key.to_owned(), Password::new(text.to_owned()))].into())
}

#[test]
fn a_password_that_cannot_be_had_keeps_the_session_down_and_says_why() {
    let mut cluster = without_mesh(1);
    let wanted = SecretKey { name: "racks".to_owned(), key: "r1".to_owned() };
    put_peering(&mut cluster, BgpPeer { password: Some(wanted), ..peering("tor", ROUTER, 65000) });
    assert_eq!(plan(&cluster).secrets.into_iter().collect::<Vec<_>>(), ["racks"]);

    let stages = [
        (None, Some("Secret kube-system/racks has not been read yet")),
        (Some(Secret::Absent), Some("there is no Secret racks in namespace kube-system")),
        (
            Some(Secret::Unreadable("forbidden".to_owned())),
            Some("Secret kube-system/racks cannot be read: forbidden"),
        ),
        (Some(entries("r2", "x")), Some("Secret kube-system/racks has no text under the key r1")),
        (Some(entries("r1", "")), Some("Secret kube-system/racks is empty under the key r1")),
        (
            Some(entries("r1", &"x".repeat(81))),
            Some("Secret kube-system/racks key r1 is longer than 80 octets"),
        ),
        (Some(entries("r1", "opensesame")), None),
    ];
    for (state, why) in stages {
        if let Some(state) = state {
            secret(&mut cluster, "racks", state);
        }
        let config = config(&cluster);
        let peer = peer_of(&config, ROUTER);
        assert_eq!(peer.password_missing.as_deref(), why);
        assert_eq!(peer.password.is_some(), why.is_none());
        assert!(!format!("{config:?}{cluster:?}").contains("opensesame"), "a password is shown");
    }
}

#[test]
fn the_mesh_has_its_own_password_and_restart_time() {
    let mut cluster = cluster(2);
    put_peering(&mut cluster, peering("tor", ROUTER, 65000));
    let mesh = BgpConfiguration {
        mesh_password: Some(SecretKey { name: "mesh".to_owned(), key: "k".to_owned() }),
        mesh_max_restart_time: Some(std::time::Duration::from_secs(9999)),
        ..Default::default()
    };
    configure(&mut cluster, mesh);
    secret(&mut cluster, "mesh", entries("k", "opensesame"));

    let config = config(&cluster);

    let (inside, outside) = (peer_of(&config, "192.0.2.2"), peer_of(&config, ROUTER));
    assert_eq!((inside.password.is_some(), outside.password.is_some()), (true, false));
    assert_eq!((inside.restart_time, outside.restart_time), (4095, 120));
}

#[test]
fn each_node_is_reached_on_the_port_that_it_listens_on() {
    let mut cluster = without_mesh(4);
    let configuration = BgpConfiguration {
        cluster_listen_port: 1790,
        node_listen_ports: [(NodeName::from("n2"), 1792)].into(),
        ..Default::default()
    };
    configure(&mut cluster, configuration);
    put_peering(&mut cluster, peering("by-address", "192.0.2.2", 64512));
    let with_port = PeerTarget::Address(address("192.0.2.3"), Some(1179));
    put_peering(&mut cluster, BgpPeer::new("with-port", with_port, Some(64512)));
    put_peering(&mut cluster, peering("router", ROUTER, 65000));

    let config = config(&cluster);

    let ports: Vec<_> = config.peers.values().map(|peer| peer.port).collect();
    assert_eq!(ports, [1792, 1179, 1790, 179], "n2, n3, n4 out of the mesh, the router");
}

#[test]
fn the_other_half_is_made_unless_the_peering_says_not_to() {
    let racks = |reverse| BgpPeer {
        nodes: PeerSelection::Node(NodeName::from("n2")),
        local_as_number: Some(65002),
        reverse,
        ..BgpPeer::new("racks", PeerTarget::Nodes(selector("rack == 'r1'")), None)
    };
    let mut cluster = without_mesh(3);
    put_peering(&mut cluster, racks(true));
    let config = config(&cluster);
    let peer = peer_of(&config, "192.0.2.2");
    assert_eq!((peer.asn, peer.local_asn), (Some(65002), None), "what the other side shows is expected here");

    put_peering(&mut cluster, racks(false));
    assert_eq!(addresses(&cluster), [""; 0]);
}

#[test]
fn an_address_has_one_session_and_who_comes_second_is_told() {
    let mut cluster = without_mesh(1);
    put_peering(&mut cluster, peering("global", ROUTER, 65000));
    let own = BgpPeer {
        nodes: PeerSelection::Node(NodeName::from("n1")),
        ..BgpPeer::new("own", PeerTarget::Address(address(ROUTER), Some(1790)), Some(65001))
    };
    put_peering(&mut cluster, own);

    let plan = plan(&cluster);

    assert_eq!(peer_of(&plan.config, ROUTER).asn, Some(65000), "the global one wins");
    assert!(plan.problems[0].starts_with("BGPPeer own is not used on this node"), "{:?}", plan.problems);
}

#[test]
fn the_rest_of_a_peering_reaches_the_session() {
    let mut cluster = without_mesh(1);
    let tuned = BgpPeer {
        allowed_local_as_numbers: 2,
        ttl_security: Some(3),
        keepalive_time: Some(std::time::Duration::from_secs(40)),
        reachable_by: Some(address("192.0.2.254")),
        ..peering("tor", "198.51.100.9", 65000)
    };
    put_peering(&mut cluster, tuned);

    let plan = plan(&cluster);

    let peer = peer_of(&plan.config, "198.51.100.9");
    assert_eq!((peer.allow_own_as, peer.ttl_security), (2, Some(3)));
    assert_eq!((peer.keepalive_interval, peer.hold_time), (Some(40), 120));
    assert_eq!(plan.gateways, [(address("198.51.100.9"), address("192.0.2.254"))].into());
}

#[test]
fn nodes_that_are_still_there_may_keep_their_session_for_a_while() {
    let cluster = without_mesh(3);

    let retire: Vec<_> = config(&cluster).retire.iter().map(ToString::to_string).collect();

    assert_eq!(retire, ["192.0.2.2", "192.0.2.3"]);
}

#[test]
fn sessions_with_the_same_filters_share_their_policies_from_plan_to_plan() {
    let mut cluster = cluster(4);
    let mut planner = bird_lite::peers::Planner::default();
    let first = planner.plan(&cluster).unwrap().config;
    put_node(&mut cluster, node(5));

    let second = planner.plan(&cluster).unwrap().config;

    let shared = &first.peers.values().next().unwrap().export;
    assert!(second.peers.values().all(|peer| std::sync::Arc::ptr_eq(&peer.export, shared)));
}

/// Repeatable choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

/// A node that comes, goes, moves (also to another's address), or becomes something else.
fn disturb(cluster: &mut Cluster, dice: &mut Dice) {
    let n = 2 + dice.roll(6) as u8;
    if dice.roll(4) == 0 {
        return cluster.apply(Update::Node(node(n).name, None));
    }
    let mut changed = if dice.roll(2) == 0 { node(n) } else { dual_stack(n) };
    if dice.roll(3) == 0 {
        changed.ipv4 = Some(node_address(&format!("192.0.2.{}/24", 1 + dice.roll(9))));
    }
    changed.as_number = (dice.roll(4) == 0).then_some(65100);
    changed.route_reflector_cluster_id = (dice.roll(5) == 0).then(|| "244.0.0.1".parse().unwrap());
    changed.labels.insert("rack".to_owned(), format!("r{}", dice.roll(3)));
    put_node(cluster, changed);
}

#[test]
fn a_change_of_some_nodes_plans_what_a_whole_plan_would() {
    let mut by_changes = 0;
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut cluster = cluster(4);
        put_node(&mut cluster, dual_stack(1));
        match dice.roll(4) {
            0 => put_peering(&mut cluster, peering("to-a-node", "192.0.2.3", 64512)),
            1 => {
                let target = PeerTarget::Nodes(selector("rack == 'r1'"));
                put_peering(&mut cluster, BgpPeer::new("racks", target, Some(64512)));
            }
            2 => put_peering(&mut cluster, peering("tor", "203.0.113.9", 65001)),
            _ => {}
        }
        let mut planner = Planner::default();
        let mut config = planner.plan(&cluster).unwrap().config;
        for _ in 0..12 {
            cluster.take_changes();
            for _ in 0..=dice.roll(2) {
                disturb(&mut cluster, &mut dice);
            }
            let changes = cluster.take_changes();
            assert!(!changes.peers);
            match planner.changes(&cluster, &changes.nodes) {
                Some(some) => {
                    some.apply_to(&mut config);
                    by_changes += 1;
                }
                None => config = planner.plan(&cluster).unwrap().config,
            }
            assert_eq!(config, plan(&cluster).config, "seed {seed}");
        }
    }
    assert!(by_changes > 1000, "{by_changes}");
}
