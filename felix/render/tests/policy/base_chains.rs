//! What packets meet in nftables before anybody's policy: as little as possible.

use std::collections::BTreeMap;

use felix_calc::{Change, Pools};
use felix_render::{RenderSettings, RuleDataplane};
use kernel::{ConntrackState, Hook};
use model::{
    DropLog, Family, FelixConfiguration, HostEndpoint, HostEndpointInterface, Labels, Policy, PolicyKey,
    PolicyKind, Protocol, Selector, Update,
};

use crate::node::{self, Node};
use crate::way::{Packet, is_forwarded};

const WEB: &str = "cali68caf03a5f4";

fn quiet() -> Update {
    let drop_log = DropLog { enabled: false, ..DropLog::default() };
    let configuration = FelixConfiguration { drop_log, ipv6: false, ..FelixConfiguration::default() };
    Update::FelixConfiguration(Some(Box::new(configuration)))
}

fn node_with_pod() -> Node {
    let mut node = Node::in_sync("n1");
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.apply([quiet(), node::namespace("default", &[]), node::update(&web)]);
    node.add_local(node::local(&web.key, &web.addresses));
    node
}

fn host_endpoint() -> Update {
    let endpoint = HostEndpoint {
        name: "uplink".into(),
        node: "n1".into(),
        interface: Some(HostEndpointInterface::Named("eth0".into())),
        expected_ips: Vec::new(),
        labels: Labels::new(),
        profiles: Vec::new(),
        ports: Vec::new(),
    };
    Update::HostEndpoint("uplink".into(), Some(Box::new(endpoint)))
}

/// The rules of the base chains of IPv4, by table and hook, in iptables' words.
fn base_chains(node: &Node) -> BTreeMap<String, Vec<String>> {
    let hooks = node.nftables.dataplane.hooks.iter().filter(|((family, ..), _)| *family == Family::V4);
    let text = |hook: &Hook| hook.inserts.iter().chain(&hook.appends).map(kernel::rule_text).collect();
    hooks.map(|((_, table, name), hook)| (format!("{} {name}", table.name()), text(hook))).collect()
}

fn packet() -> Packet {
    let source = "192.0.2.7".parse().unwrap();
    Packet::new(source, "10.65.0.2".parse().unwrap(), Protocol::TCP, 80).via(Some("eth0"), Some(WEB))
}

#[test]
fn a_base_chain_is_only_there_when_something_is_decided_in_it() {
    let mut node = node_with_pod();

    let expected = [
        ("filter FORWARD", "-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT"),
        ("filter INPUT", "--in-interface cali+ --goto cali-wl-to-host"),
        ("raw PREROUTING", "--in-interface cali+ -m rpfilter --invert --validmark --jump cali-rpf"),
    ];
    let first = |node: &Node| -> Vec<(String, String)> {
        let chains = base_chains(node).into_iter();
        chains.map(|(name, rules)| (name, rules.into_iter().next().unwrap_or_default())).collect()
    };
    assert_eq!(first(&node), expected.map(|(name, rule)| (name.to_owned(), rule.to_owned())));

    let pools = Pools { masquerade: ["10.65.0.0/16".parse().unwrap()].into(), ..Pools::default() };
    node.nftables.renderer.apply(Change::Pools(pools.into()));
    node.flush();
    let names = |node: &Node| -> Vec<String> { base_chains(node).into_keys().collect() };
    assert_eq!(names(&node), ["filter FORWARD", "filter INPUT", "nat POSTROUTING", "raw PREROUTING"]);
}

#[test]
fn host_endpoints_bring_the_chains_that_their_policies_need() {
    let mut node = node_with_pod();
    let link = ("eth0".to_owned(), ["192.0.2.1".parse().unwrap()].into());
    node.renderer.set_host_links([link.clone()].into());
    node.nftables.renderer.set_host_links([link].into());
    let before = base_chains(&node);

    node.apply([host_endpoint()]);

    let names: Vec<_> = base_chains(&node).into_keys().collect();
    let expected = [
        "filter FORWARD",
        "filter INPUT",
        "filter OUTPUT",
        "mangle POSTROUTING",
        "raw OUTPUT",
        "raw PREROUTING",
    ];
    assert_eq!(names, expected);

    let key = PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, "early");
    let early = Policy {
        pre_dnat: true,
        apply_on_forward: true,
        applies_to_ingress: true,
        ..Policy::new(key.clone(), Selector::all())
    };
    node.apply([node::policy(early)]);
    assert!(base_chains(&node).contains_key("mangle PREROUTING"));

    node.apply([Update::Policy(key, None), Update::HostEndpoint("uplink".into(), None)]);
    assert_eq!(base_chains(&node), before);
}

#[test]
fn only_pods_must_send_from_where_the_way_back_leads() {
    let node = node_with_pod();
    let asymmetric = Packet { reverse_path_fails: true, ..packet() };
    assert!(is_forwarded(&node, &asymmetric));

    // Also a packet that fits a connection of another pod.
    for state in [ConntrackState::New, ConntrackState::Established] {
        let spoofed = Packet { state, ..asymmetric.via(Some(WEB), Some("eth0")) };
        assert!(!is_forwarded(&node, &spoofed), "{state:?}");
    }
}

#[test]
fn packets_above_a_pods_rate_go_whatever_they_belong_to() {
    let mut node = node_with_pod();
    let above = Packet { state: ConntrackState::Established, within_limits: false, ..packet() };
    assert!(is_forwarded(&node, &above));

    let mut web = node::pod("default", "web", "10.65.0.2", &[]);
    web.annotations.insert("qos.projectcalico.org/ingressPacketRate".to_owned(), "100".to_owned());
    node.apply([node::update(&web)]);

    assert!(!is_forwarded(&node, &above));
    assert!(is_forwarded(&node, &Packet { within_limits: true, ..above }));
}

#[test]
fn a_mark_of_somebody_else_opens_nothing() {
    let mut node = node_with_pod();
    let key = PolicyKey::new(PolicyKind::NetworkPolicy, Some("default"), "closed");
    let closed = Policy { applies_to_ingress: true, ..Policy::new(key, Selector::all()) };
    node.apply([node::policy(closed)]);

    let accepted = Packet { mark: 0xffff_0000, ..packet() };

    assert!(!is_forwarded(&node, &accepted));
}

#[test]
fn settings_of_iptables_keep_its_chains() {
    let mut renderer = felix_render::Renderer::new(RenderSettings::default());
    assert_eq!(RenderSettings::default().dataplane, RuleDataplane::Iptables);

    assert_eq!(renderer.flush().hooks.len(), 2 * 10);
}
