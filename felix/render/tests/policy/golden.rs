//! Rendered text, and the rule hashes of Calico where the default structure is the same (`spec/felix.md` §1.3).

use std::collections::BTreeSet;
use std::sync::Arc;

use felix_calc::{Change, Pools};
use felix_render::{IpSetChange, RenderSettings, Renderer, TunnelDevice};
use kernel::{IpSetName, IptablesTable, chain_hashes};
use model::{
    Action, DropLog, EndpointToHostAction, EntityRule, Family, FelixConfiguration, PodRoutes, Policy,
    PolicyKey, PolicyKind, PortMatch, Protocol, Rule, Selector,
};

use crate::dataplane::Dataplane;
use crate::node::{self, Node};

/// Calico's own rules: without the records of drops.
fn quiet() -> FelixConfiguration {
    let drop_log = DropLog { enabled: false, ..DropLog::default() };
    FelixConfiguration { drop_log, ..FelixConfiguration::default() }
}

/// A node that says nothing of drops.
fn quiet_node() -> Node {
    let mut node = Node::in_sync("n1");
    node.apply([model::Update::FelixConfiguration(Some(Box::new(quiet())))]);
    node
}

fn rendered(settings: RenderSettings, changes: Vec<Change>) -> Dataplane {
    let mut renderer = Renderer::new(settings);
    renderer.apply(Change::Configuration(Box::new(quiet())));
    changes.into_iter().for_each(|change| renderer.apply(change));
    let mut dataplane = Dataplane::default();
    dataplane.apply(renderer.flush());
    dataplane
}

fn no_encap() -> RenderSettings {
    RenderSettings { ipip: false, ..RenderSettings::default() }
}

/// A pool with masquerading and IPIP, and a tunnel address.
fn ipip() -> Vec<Change> {
    let pools = Pools {
        network: ["10.65.0.0/16".parse().unwrap()].into(),
        masquerade: ["10.65.0.0/16".parse().unwrap()].into(),
        ipip: true,
        ..Pools::default()
    };
    vec![
        Change::Pools(Arc::new(pools)),
        Change::Hosts(Arc::new(["172.20.0.11".parse().unwrap()].into())),
        Change::TunnelAddress(Some("10.65.0.1".parse().unwrap())),
    ]
}

#[track_caller]
fn assert_hashes(dataplane: &Dataplane, table: IptablesTable, chain: &str, expected: &[&str]) {
    let key = (Family::V4, table, kernel::ChainName::from_kernel(chain));
    assert_eq!(
        chain_hashes(chain, &dataplane.chains[&key].rules),
        expected,
        "{}",
        dataplane.text(Family::V4, table, chain)
    );
}

#[test]
fn static_chains_without_encapsulation_have_calicos_hashes() {
    use IptablesTable::{Filter, Mangle, Nat, Raw};
    let dataplane = rendered(no_encap(), Vec::new());

    let input =
        ["FewJpBykm9iJ-YNH", "hder3ARWznqqv8Va", "eyx2leKMZ98ckPa-", "3x0rc-VDNNJkVu93", "pARw-KZUlQru4OX0"];
    assert_hashes(&dataplane, Filter, "cali-INPUT", &input);
    let forward = [
        "W_vvds1Nw3n9QE2f",
        "ZfgmjuiLaA8Pg0kp",
        "tAzwBLPaV-j53OOZ",
        "4Z0Pf0byo05NFe-P",
        "hQ7Oc16wmUtLuneJ",
        "rnKNH2WxGcRQcIlD",
    ];
    assert_hashes(&dataplane, Filter, "cali-FORWARD", &forward);
    let output =
        ["Mq1_rAdXXH3YkrzW", "69FkRTJDvD5Vu6Vl", "_qC1vc3_sSxJWgRW", "utu2eOH2IZRmlfMX", "IL6b-f6R0sfjMo-y"];
    assert_hashes(&dataplane, Filter, "cali-OUTPUT", &output);
    assert_hashes(&dataplane, Filter, "cali-from-wl-dispatch", &["zTj6P0TIgYvgz-md"]);
    assert_hashes(&dataplane, Filter, "cali-to-wl-dispatch", &["7KNphB1nNHw80nIO"]);
    assert_hashes(&dataplane, Filter, "cali-wl-to-host", &["Ee9Sbo10IpVujdIY", "nSZbcOoG1xPONxb8"]);
    let prerouting = [
        "DQ6LK2guiBRMyrLK",
        "o0awFTLnSamXVVNW",
        "aJ7XamFJS43rOYyJ",
        "hOMHbY_OXb_BF9pw",
        "N7S4OAqlgBJWcynn",
        "8A061i5zP9KV-opa",
    ];
    assert_hashes(&dataplane, Raw, "cali-PREROUTING", &prerouting);
    assert_hashes(
        &dataplane,
        Raw,
        "cali-OUTPUT",
        &["clI8WObfCl4yhr60", "ZbkN6P8OdRcBRPpU", "tTi_3jFgvxUFsObH"],
    );
    assert_hashes(&dataplane, Nat, "cali-PREROUTING", &["r6XmIziWUJsdOK6Z"]);
    assert_hashes(&dataplane, Nat, "cali-OUTPUT", &["GBTAv2p5CwevEyJm"]);
    assert_hashes(&dataplane, Nat, "cali-POSTROUTING", &["Z-c7XtVd2Bq7s_hA", "nYKhEzDlr11Jccal"]);
    let mangle = ["6BJqBjBC7crtA-7-", "KX7AGNd6rMcDUai6", "wNH7KsA3ILKJBsY9", "Cg96MgVuoPm7UMRo"];
    assert_hashes(&dataplane, Mangle, "cali-PREROUTING", &mangle);
}

#[test]
fn static_chains_with_ipip_have_calicos_hashes() {
    let dataplane = rendered(no_encap(), ipip());

    let input = [
        "PajejrV4aFdkZojI",
        "_wjq-Yrma8Ly1Svo",
        "8TZGxLWh_Eiz66wc",
        "6McIeIDvPdL6PE1T",
        "FHoqwXIibih3FkAm",
        "qZ1_fX7-OsFCh64q",
        "64so3UXgS7MtBy-m",
    ];
    assert_hashes(&dataplane, IptablesTable::Filter, "cali-INPUT", &input);
    let postrouting = ["Z-c7XtVd2Bq7s_hA", "nYKhEzDlr11Jccal", "SXWvdsbh4Mw7wOln"];
    assert_hashes(&dataplane, IptablesTable::Nat, "cali-POSTROUTING", &postrouting);
    assert_hashes(&dataplane, IptablesTable::Nat, "cali-nat-outgoing", &["W_qq_N2KSTWyCvrX"]);
    let address = Some("10.65.0.1".parse().unwrap());
    let device = TunnelDevice { wanted: true, address, carries_pods: true, ..TunnelDevice::default() };
    assert_eq!(dataplane.tunnel, device);
}

#[test]
fn hooks_have_calicos_hashes() {
    let dataplane = rendered(no_encap(), Vec::new());

    let forward = &dataplane.hooks[&(Family::V4, IptablesTable::Filter, "FORWARD")];
    assert_eq!(chain_hashes("FORWARD", &forward.inserts), ["wUHhoiAYhphO9Mso"]);
    assert_eq!(chain_hashes("FORWARD*appends*", &forward.appends), ["S93hcgKJrXEqnTfs", "mp77cMpurHhyjLrM"]);
    let postrouting = &dataplane.hooks[&(Family::V4, IptablesTable::Mangle, "POSTROUTING")];
    assert_eq!(chain_hashes("POSTROUTING", &postrouting.inserts), ["O3lYWMrLQYEMJtB5"]);
    let hooked: Vec<_> = dataplane.hooks.keys().filter(|(family, ..)| *family == Family::V6).collect();
    assert_eq!(hooked.len(), 10, "{hooked:?}");
}

#[test]
fn ipv6_has_no_chains_when_it_is_not_wanted_and_all_of_them_when_it_is_again() {
    let mut node = quiet_node();
    let web = node::pod("default", "web", "fd00::2", &[]);
    node.apply([node::namespace("default", &[]), node::update(&web)]);
    node.add_local(node::local(&web.key, &web.addresses));
    let before = node.dataplane.clone();

    let off = FelixConfiguration { ipv6: false, ..quiet() };
    node.apply([model::Update::FelixConfiguration(Some(Box::new(off)))]);
    assert!(node.dataplane.chains.keys().all(|(family, ..)| *family == Family::V4));
    assert!(node.dataplane.hooks.keys().all(|(family, ..)| *family == Family::V4));
    assert!(node.dataplane.routes.is_empty() && node.dataplane.neighbours.is_empty());

    node.apply([model::Update::FelixConfiguration(Some(Box::new(quiet())))]);
    assert_eq!(node.dataplane, before);
}

#[test]
fn neighbour_discovery_passes_before_policy() {
    let drop = FelixConfiguration { endpoint_to_host_action: EndpointToHostAction::Drop, ..quiet() };
    let dataplane = rendered(no_encap(), vec![Change::Configuration(Box::new(drop))]);

    let expected = "\
-p icmpv6 -m icmp6 --icmpv6-type 130 --jump ACCEPT
-p icmpv6 -m icmp6 --icmpv6-type 131 --jump ACCEPT
-p icmpv6 -m icmp6 --icmpv6-type 132 --jump ACCEPT
-p icmpv6 -m icmp6 --icmpv6-type 133 --jump ACCEPT
-p icmpv6 -m icmp6 --icmpv6-type 135 --jump ACCEPT
-p icmpv6 -m icmp6 --icmpv6-type 136 --jump ACCEPT
--jump cali-from-wl-dispatch
-m comment --comment \"Configured DefaultEndpointToHostAction\" --jump DROP
";
    assert_eq!(dataplane.text(Family::V6, IptablesTable::Filter, "cali-wl-to-host"), expected);
}

#[test]
fn a_pod_without_policy_has_its_namespaces_profile() {
    let mut node = quiet_node();
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.apply([node::namespace("default", &[]), node::update(&web)]);
    node.add_local(node::local(&web.key, &web.addresses));

    let filter = |chain| node.dataplane.text(Family::V4, IptablesTable::Filter, chain);
    let egress = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT
-m conntrack --ctstate INVALID --jump DROP
--jump MARK --set-mark 0/0x30000
-m comment --comment \"Drop VXLAN encapped packets originating in workloads\" -p udp -m multiport --destination-ports 4789 --jump DROP
-m comment --comment \"Drop IPinIP encapped packets originating in workloads\" -p 4 --jump DROP
--jump cali-pro-kns.default
-m comment --comment \"Return if profile accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
-m comment --comment \"Drop if no profiles matched\" --jump DROP
";
    assert_eq!(filter("cali-fw-cali68caf03a5f4"), egress);
    let profile =
        "-m comment --comment \"Profile kns.default egress\" --jump MARK --set-mark 0x10000/0x10000\n";
    assert_eq!(filter("cali-pro-kns.default"), profile);
    let dispatch = "\
--in-interface cali68caf03a5f4 --goto cali-fw-cali68caf03a5f4
-m comment --comment \"Unknown interface\" --jump DROP
";
    assert_eq!(filter("cali-from-wl-dispatch-68"), dispatch);
    let routes: Vec<_> =
        node.dataplane.routes.iter().map(|(key, route)| format!("{key:?} {route:?}")).collect();
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert!(routes[0].contains("10.65.0.2/32") && routes[0].contains("1024"), "{routes:?}");
    assert_eq!(node.dataplane.neighbours.len(), 1);
    let sysctls: Vec<_> =
        node.dataplane.sysctls["cali68caf03a5f4"].iter().map(|s| format!("{}={}", s.path, s.value)).collect();
    assert_eq!(sysctls[2], "net/ipv4/conf/cali68caf03a5f4/proxy_arp=1");
}

/// `spec/felix.md` §12, 48 and 49.
#[test]
fn routes_to_pods_look_as_the_configuration_says() {
    let mut node = quiet_node();
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.add_local(node::local(&web.key, &web.addresses));
    let source: std::net::IpAddr = "192.0.2.1".parse().unwrap();
    let ipv4_routes = PodRoutes { priority: 50, source: Some(source) };

    let looks = FelixConfiguration { ipv4_routes, route_protocol: 48, ..quiet() };
    node.apply([model::Update::FelixConfiguration(Some(Box::new(looks)))]);

    let routes: Vec<_> = node.dataplane.routes.iter().collect();
    assert_eq!(routes.len(), 1, "{routes:?}");
    let (key, route) = routes[0];
    assert_eq!((key.metric, route.protocol, route.source), (50, 48, Some(source)));
}

/// `spec/felix.md` §1.7 and §12, 139.
#[test]
fn where_kube_proxy_works_in_mode_ipvs_packets_to_services_are_forwarded_by_their_mark() {
    let mut node = quiet_node();
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.add_local(node::local(&web.key, &web.addresses));
    let before = node.dataplane.clone();
    node.renderer.set_ipvs(true);
    node.apply([]);
    let text = |node: &Node, table, chain| node.dataplane.text(Family::V4, table, chain);
    let filter = |chain| text(&node, IptablesTable::Filter, chain);

    let input = filter("cali-INPUT");
    let check = "\
--jump MARK --set-mark 0/0xffe00000
--jump cali-forward-check
-m mark ! --mark 0/0xffe00000 --jump RETURN
--in-interface cali+ --goto cali-wl-to-host
";
    assert!(input.contains(check), "{input}");
    let output = filter("cali-OUTPUT");
    let marked = "-m mark ! --mark 0/0xffe00000 --goto cali-forward-endpoint-mark\n";
    assert_eq!(output.lines().nth(1), Some(marked.trim_end()), "{output}");
    let expected = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump RETURN
-m comment --comment \"To kubernetes NodePort service\" -p tcp -m multiport --destination-ports 30000:32767 -m set --match-set cali40this-host dst --goto cali-set-endpoint-mark
-m comment --comment \"To kubernetes NodePort service\" -p udp -m multiport --destination-ports 30000:32767 -m set --match-set cali40this-host dst --goto cali-set-endpoint-mark
-m comment --comment \"To kubernetes service\" -m set ! --match-set cali40this-host dst --jump cali-set-endpoint-mark
";
    assert_eq!(filter("cali-forward-check"), expected);
    let expected = "\
--in-interface cali68caf03a5f4 --goto cali-sm-cali68caf03a5f4
-m comment --comment \"Unknown endpoint\" --in-interface cali+ --jump DROP
-m comment --comment \"Non-Cali endpoint mark\" --jump MARK --set-mark 0x200000/0xffe00000
";
    assert_eq!(filter("cali-set-endpoint-mark"), expected);
    let set = filter("cali-sm-cali68caf03a5f4");
    let mark = set.trim_end().strip_prefix("--jump MARK --set-mark ").unwrap().to_owned();
    let expected = format!(
        "-m mark --mark {mark} --goto cali-fw-cali68caf03a5f4\n-m comment --comment \"Unknown interface\" --jump DROP\n"
    );
    assert_eq!(filter("cali-from-endpoint-mark"), expected);
    let expected = "\
-m mark ! --mark 0x200000/0xffe00000 --jump cali-from-endpoint-mark
--out-interface cali+ --jump cali-to-wl-dispatch
--jump cali-to-hep-forward
--jump MARK --set-mark 0/0xffe00000
-m comment --comment \"Policy explicitly accepted packet.\" -m mark --mark 0x10000/0x10000 --jump ACCEPT
";
    assert_eq!(filter("cali-forward-endpoint-mark"), expected);
    let postrouting = text(&node, IptablesTable::Mangle, "cali-POSTROUTING");
    assert_eq!(postrouting.lines().nth(1), Some("-m mark ! --mark 0/0xffe00000 --jump RETURN"));

    // A pod more, and one less: the marks follow.
    let api = node::pod("default", "api", "10.65.0.3", &[]);
    node.add_local(node::local(&api.key, &api.addresses));
    let rules = text(&node, IptablesTable::Filter, "cali-from-endpoint-mark");
    assert_eq!(rules.lines().count(), 3, "{rules}");
    node.calc.set_local_endpoint(node::local(&api.key, &api.addresses).interface, None);
    node.renderer.set_ipvs(false);
    node.apply([]);
    assert_eq!(node.dataplane, before);
}

#[test]
fn a_pod_that_is_not_known_is_closed() {
    let mut node = quiet_node();
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.add_local(node::local(&web.key, &web.addresses));

    let closed = |why: &str| format!("-m comment --comment \"Endpoint closed: {why}\" --jump DROP\n");
    let chain = |node: &Node, name| node.dataplane.text(Family::V4, IptablesTable::Filter, name);
    assert_eq!(chain(&node, "cali-tw-cali68caf03a5f4"), closed("the Pod is not known"));
    assert_eq!(chain(&node, "cali-fw-cali68caf03a5f4"), closed("the Pod is not known"));
    node.apply([node::update(&web)]);
    assert_eq!(chain(&node, "cali-tw-cali68caf03a5f4"), closed("the Namespace is not known"));
}

#[test]
fn a_pod_has_chains_in_the_families_of_its_addresses() {
    let mut node = quiet_node();
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.apply([node::namespace("default", &[]), node::update(&web)]);
    let of_web = |node: &Node, family| {
        let text = |chain| node.dataplane.text(family, IptablesTable::Filter, chain);
        let chains = node
            .dataplane
            .chains
            .keys()
            .filter(|(of, _, name)| *of == family && name.as_str().ends_with("-cali68caf03a5f4"));
        (chains.count(), text("cali-from-wl-dispatch").contains("--goto"))
    };
    let unknown = "-m comment --comment \"Unknown interface\" --jump DROP\n";

    node.add_local(node::local(&web.key, &web.addresses));
    assert_eq!((of_web(&node, Family::V4), of_web(&node, Family::V6)), ((2, true), (0, false)));
    assert_eq!(node.dataplane.text(Family::V6, IptablesTable::Filter, "cali-to-wl-dispatch"), unknown);

    let both = ["10.65.0.2".parse().unwrap(), "fd00:65::2".parse().unwrap()];
    node.add_local(node::local(&web.key, &both));
    assert_eq!((of_web(&node, Family::V4), of_web(&node, Family::V6)), ((2, true), (2, true)));

    node.add_local(node::local(&web.key, &both[1..]));
    assert_eq!((of_web(&node, Family::V4), of_web(&node, Family::V6)), ((0, false), (2, true)));
}

#[test]
fn dispatch_to_pods_is_a_tree_by_the_next_two_characters() {
    let mut node = quiet_node();
    for interface in ["cali101", "cali102", "cali200", "tap\";0"] {
        let key = model::PodKey::new("default", interface);
        node.calc.set_local_endpoint(interface.to_owned(), Some(node::local(&key, &[])));
    }
    node.flush();

    let filter = |chain| node.dataplane.text(Family::V4, IptablesTable::Filter, chain);
    let root = "\
--out-interface cali1+ --goto cali-to-wl-dispatch-1
--out-interface cali2+ --goto cali-to-wl-dispatch-2
-m comment --comment \"Unknown interface\" --jump DROP
";
    assert_eq!(filter("cali-to-wl-dispatch"), root);
    let branch = "\
--out-interface cali10+ --goto cali-to-wl-dispatch-10
-m comment --comment \"Unknown interface\" --jump DROP
";
    assert_eq!(filter("cali-to-wl-dispatch-1"), branch);
    let leaves = "\
--out-interface cali101 --goto cali-tw-cali101
--out-interface cali102 --goto cali-tw-cali102
-m comment --comment \"Unknown interface\" --jump DROP
";
    assert_eq!(filter("cali-to-wl-dispatch-10"), leaves);
}

fn policy_with(rules: Vec<Rule>) -> Policy {
    let kind = PolicyKind::NetworkPolicy;
    Policy {
        tier: "default".into(),
        order: Some(10.0),
        applies_to_ingress: true,
        applies_to_egress: false,
        ingress: rules,
        egress: Vec::new(),
        ..Policy::new(
            PolicyKey { kind, namespace: Some("default".into()), name: "p".into() },
            Selector::all(),
        )
    }
}

/// The ingress chain of a policy with these rules, in one family.
fn policy_text(rules: Vec<Rule>, family: Family) -> String {
    let mut node = quiet_node();
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.apply([node::namespace("default", &[]), node::update(&web), node::policy(policy_with(rules))]);
    node.add_local(node::local(&web.key, &web.addresses));
    node.dataplane.text(family, IptablesTable::Filter, "cali-pi-np/default/p")
}

fn ports(texts: &[&str]) -> Vec<PortMatch> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_tier_drops_what_it_does_not_decide() {
    let mut node = quiet_node();
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.apply([node::namespace("default", &[]), node::update(&web), node::policy(policy_with(Vec::new()))]);
    node.add_local(node::local(&web.key, &web.addresses));

    let filter = |chain| node.dataplane.text(Family::V4, IptablesTable::Filter, chain);
    let ingress = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT
-m conntrack --ctstate INVALID --jump DROP
--jump MARK --set-mark 0/0x30000
-m comment --comment \"Start of tier default\" --jump MARK --set-mark 0/0x20000
-m mark --mark 0/0x20000 --jump cali-pi-np/default/p
-m comment --comment \"Return if policy accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
-m comment --comment \"End of tier default. Drop if no policies passed packet\" -m mark --mark 0/0x20000 --jump DROP
--jump cali-pri-kns.default
-m comment --comment \"Return if profile accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
-m comment --comment \"Drop if no profiles matched\" --jump DROP
";
    assert_eq!(filter("cali-tw-cali68caf03a5f4"), ingress);
    assert_eq!(filter("cali-pi-np/default/p"), "-m comment --comment \"NetworkPolicy default/p ingress\"\n");
    assert!(!filter("cali-fw-cali68caf03a5f4").contains("tier"));
}

#[test]
fn actions_mark_drop_log_and_pass() {
    let actions = [Action::Log, Action::Allow, Action::Pass, Action::Deny, Action::Allow].map(Rule::any);

    let expected = "\
-m comment --comment \"NetworkPolicy default/p ingress\" --jump LOG --log-prefix \"calico-packet: \" --log-level 5
--jump MARK --set-mark 0x10000/0x10000
-m mark --mark 0x10000/0x10000 --jump RETURN
--jump MARK --set-mark 0x20000/0x20000
-m mark --mark 0x20000/0x20000 --jump RETURN
--jump DROP
--jump MARK --set-mark 0x10000/0x10000
";
    assert_eq!(policy_text(actions.to_vec(), Family::V4), expected);
}

#[test]
fn more_ports_than_one_match_takes_become_a_block() {
    let mut rule = Rule { protocol: Some(Protocol::TCP), ..Rule::any(Action::Allow) };
    let many: Vec<String> = (1..=14).map(|port| port.to_string()).chain(["100:200".to_owned()]).collect();
    rule.destination.ports = ports(&many.iter().map(String::as_str).collect::<Vec<_>>());

    let expected = "\
-m comment --comment \"NetworkPolicy default/p ingress\" --jump MARK --set-mark 0/0x180000
-p tcp -m multiport --destination-ports 1,2,3,4,5,6,7,8,9,10,11,12,13,14 --jump MARK --set-mark 0x80000/0x80000
-p tcp -m multiport --destination-ports 100:200 --jump MARK --set-mark 0x80000/0x80000
-p tcp -m mark --mark 0x80000/0x80000 --jump MARK --set-mark 0x10000/0x10000
";
    assert_eq!(policy_text(vec![rule], Family::V4), expected);
}

#[test]
fn lists_of_prefixes_become_blocks() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let mut rule = Rule::any(Action::Deny);
    rule.source = EntityRule {
        nets: nets(&["10.0.0.0/8", "11.0.0.0/8", "fd00::/8"]),
        not_nets: nets(&["10.1.0.0/16"]),
        ..EntityRule::default()
    };
    rule.destination =
        EntityRule { nets: nets(&["10.65.0.0/16", "10.66.0.0/16", "fd00::/8"]), ..EntityRule::default() };

    let v4 = "\
-m comment --comment \"NetworkPolicy default/p ingress\" --jump MARK --set-mark 0/0x180000
--source 10.0.0.0/8 --jump MARK --set-mark 0x80000/0x80000
--source 11.0.0.0/8 --jump MARK --set-mark 0x80000/0x80000
--destination 10.65.0.0/16 --jump MARK --set-mark 0x100000/0x100000
--destination 10.66.0.0/16 --jump MARK --set-mark 0x100000/0x100000
-m mark --mark 0/0x100000 --jump MARK --set-mark 0/0x80000
! --source 10.1.0.0/16 -m mark --mark 0x80000/0x80000 --jump DROP
";
    assert_eq!(policy_text(vec![rule.clone()], Family::V4), v4);
    let v6 = "\
-m comment --comment \"NetworkPolicy default/p ingress\" --source fd00::/8 --destination fd00::/8 --jump DROP
";
    assert_eq!(policy_text(vec![rule], Family::V6), v6);
}

#[test]
fn several_negated_prefixes_become_blocks_and_a_negated_everything_drops_the_rule() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let mut rule = Rule::any(Action::Allow);
    rule.source.not_nets = nets(&["10.1.0.0/16", "10.2.0.0/16"]);

    let expected = "\
-m comment --comment \"NetworkPolicy default/p ingress\" --jump MARK --set-mark 0x80000/0x180000
--source 10.1.0.0/16 --jump MARK --set-mark 0/0x80000
--source 10.2.0.0/16 --jump MARK --set-mark 0/0x80000
-m mark --mark 0x80000/0x80000 --jump MARK --set-mark 0x10000/0x10000
";
    assert_eq!(policy_text(vec![rule.clone()], Family::V4), expected);
    rule.source.not_nets = nets(&["0.0.0.0/0"]);
    let nothing = "-m comment --comment \"NetworkPolicy default/p ingress\"\n";
    assert_eq!(policy_text(vec![rule], Family::V4), nothing);
}

#[test]
fn a_rule_that_cannot_test_its_ports_never_allows_more_and_denies_all_of_them() {
    let on_port = |action| {
        let destination = EntityRule { ports: ports(&["80"]), ..EntityRule::default() };
        Rule { destination, ..Rule::any(action) }
    };

    let text = policy_text(vec![on_port(Action::Allow), on_port(Action::Deny)], Family::V4);

    assert_eq!(text, "-m comment --comment \"NetworkPolicy default/p ingress\" --jump DROP\n");
}

#[test]
fn selectors_and_named_ports_become_sets() {
    let selector: Selector = "app == 'web'".parse().unwrap();
    let mut rule = Rule { protocol: Some(Protocol::TCP), ..Rule::any(Action::Allow) };
    rule.source.selector = Some(selector.clone());
    rule.destination.ports = ports(&["http", "8080"]);
    let mut node = quiet_node();
    let mut web = node::pod("default", "web", "10.65.0.2", &[("app", "web")]);
    web.ports = vec![
        model::EndpointPort { name: "http".to_owned(), protocol: Protocol::TCP, port: 80 },
        model::EndpointPort { name: "http".to_owned(), protocol: Protocol::UDP, port: 81 },
    ];
    node.apply([node::namespace("default", &[]), node::update(&web), node::policy(policy_with(vec![rule]))]);
    node.add_local(node::local(&web.key, &web.addresses));

    let text = node.dataplane.text(Family::V4, IptablesTable::Filter, "cali-pi-np/default/p");
    let by_selector = IpSetName::new(Family::V4, &selector.set_id());
    assert!(text.contains(&format!("-p tcp -m set --match-set {by_selector} src -m mark")), "{text}");
    assert!(text.contains("-p tcp -m multiport --destination-ports 8080 --jump MARK"), "{text}");
    let named = node.dataplane.sets.iter().find(|(name, _)| name.as_str().starts_with("cali40n:")).unwrap();
    assert!(text.contains(&format!("-m set --match-set {} dst,dst --jump MARK", named.0)), "{text}");
    let member = kernel::IpSetMember::IpPort(web.addresses[0], Protocol::TCP, 80);
    assert_eq!(*named.1, BTreeSet::from([member]));
    assert_eq!(node.dataplane.sets[&by_selector].len(), 1);
}

#[test]
fn a_prefix_of_length_zero_becomes_two_halves() {
    let pools = Pools { network: ["0.0.0.0/0".parse().unwrap()].into(), ..Pools::default() };
    let mut renderer = Renderer::new(no_encap());
    renderer.apply(Change::Pools(Arc::new(pools)));
    let output = renderer.flush();

    let IpSetChange::Full(set) = &output.ip_sets[&IpSetName::new(Family::V4, "network-ip-pools")] else {
        panic!("the set is not told whole");
    };
    let members: Vec<_> = set.members.iter().map(|member| format!("{member:?}")).collect();
    assert_eq!(members, ["Net(0.0.0.0/1)", "Net(128.0.0.0/1)"]);
}

#[test]
fn nothing_is_told_twice() {
    let mut renderer = Renderer::new(RenderSettings::default());
    ipip().into_iter().for_each(|change| renderer.apply(change));
    assert!(!renderer.flush().is_empty());
    ipip().into_iter().for_each(|change| renderer.apply(change));

    assert!(renderer.flush().is_empty());
}
