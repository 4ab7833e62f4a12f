//! Nodes that are talked with through WireGuard.

use model::{EncapMode, FelixConfiguration, Node, NodeName, Update, WireguardKey, WireguardSettings};

use crate::cluster_routes::{block, node, pool};
use crate::state::{NODE, State, check_walk};

fn with_key(update: Update, key: u8) -> Update {
    let Update::Node(name, Some(node)) = update else { panic!("this is no node") };
    let tunnels = model::Tunnels { wireguard_key: Some(WireguardKey([key; 32])), ..node.tunnels };
    Update::Node(name, Some(Node { tunnels, ..node }))
}

fn enabled(enabled: bool) -> Update {
    let wireguard = WireguardSettings { enabled, ..WireguardSettings::default() };
    Update::FelixConfiguration(Some(Box::new(FelixConfiguration {
        wireguard,
        ..FelixConfiguration::default()
    })))
}

/// `near` and `far` have keys, `bare` has none; all have a block.
fn four_nodes(mode: EncapMode) -> State {
    State::default()
        .with(enabled(true))
        .with(pool(mode))
        .with(with_key(node(NODE, "192.0.2.1", None), 1))
        .with(with_key(node("near", "192.0.2.2", Some("10.65.1.1")), 2))
        .with(with_key(node("far", "198.51.100.3", Some("10.65.2.1")), 3))
        .with(node("bare", "192.0.2.4", None))
        .with(block("10.65.0.0/26", NODE, None))
        .with(block("10.65.1.0/26", "near", Some((5, NODE))))
        .with(block("10.65.2.0/26", "far", Some((7, "near"))))
        .with(block("10.65.3.0/26", "bare", None))
}

const NEAR: &str = "near at 192.0.2.2:51820: 10.65.1.0/26 10.65.2.7/32";
const FAR: &str = "far at 198.51.100.3:51820: 10.65.2.0/26";

#[test]
fn what_is_on_nodes_with_keys_is_behind_them_whatever_the_mode_of_the_pool() {
    for mode in [EncapMode::Never, EncapMode::CrossSubnet, EncapMode::Always] {
        assert_eq!(four_nodes(mode).encrypted(), [FAR, NEAR], "{mode:?}");
    }
    assert!(four_nodes(EncapMode::Never).with(enabled(false)).encrypted().is_empty());
}

#[test]
fn nodes_that_tell_one_key_are_not_talked_with() {
    let never = four_nodes(EncapMode::Never);

    let same = never.with(with_key(node("bare", "192.0.2.4", None), 3));

    assert_eq!(same.encrypted(), [NEAR]);
}

#[test]
fn who_is_talked_with_does_not_depend_on_the_way() {
    let always = || four_nodes(EncapMode::Always);
    check_walk(&[
        always().with(enabled(false)),
        always(),
        always().with(with_key(node("bare", "192.0.2.4", None), 3)),
        always().with(with_key(node("bare", "192.0.2.4", None), 4)),
        always().with(with_key(node("far", "198.51.100.9", None), 5)),
        always().with(block("10.65.1.0/26", "far", None)),
        four_nodes(EncapMode::Never).without("node near"),
        always().without(&format!("node {NODE}")),
        always().without("pool a"),
        always().without("configuration"),
    ]);
}

#[test]
fn those_without_a_key_and_those_with_one_of_others_are_named() {
    let state = four_nodes(EncapMode::Never).with(with_key(node("far", "198.51.100.3", None), 2));

    let calc = state.calc();

    let keyless: Vec<Vec<&NodeName>> = calc.keyless_nodes().map(|(_, nodes)| nodes.collect()).collect();
    assert_eq!(keyless, [[&NodeName::from("bare")]]);
    let shared: Vec<usize> = calc.shared_wireguard_keys().map(|(_, nodes)| nodes.len()).collect();
    assert_eq!(shared, [2]);
    assert_eq!(calc.wireguard_node(&WireguardKey([1; 32])), Some(&NodeName::from(NODE)));
}
