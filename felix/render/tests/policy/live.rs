//! Settings: what each renders, written by hand from `spec/felix.md` §1, and that a change concerns nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use felix_calc::Pools;
use felix_render::{DropPlace, DropReason, RenderSettings, Renderer, RuleDataplane};
use kernel::{ChainName, ConntrackState, IptablesTable, RuleAction};
use model::{
    Action, AllowAction, DenyAction, Direction, DropLog, Family, FelixConfiguration, NatOutgoingExclusions,
    Policy, PolicyKey, PolicyKind, PortRange, Protocol, RateLimit, RateUnit, Rule, Selector,
    ServiceLoopPrevention, Update,
};

use crate::node::{self, Node};
use crate::way::{Packet, is_forwarded};

use IptablesTable::{Filter, Mangle, Nat, Raw};

fn quiet() -> FelixConfiguration {
    let drop_log = DropLog { enabled: false, ..DropLog::default() };
    FelixConfiguration { drop_log, ipv6: false, ..FelixConfiguration::default() }
}

const WEB: &str = "cali68caf03a5f4";

/// A pod with a policy that logs, then denies port 80.
fn node_with_policy() -> Node {
    let mut node = Node::in_sync("n1");
    node.apply([Update::FelixConfiguration(Some(Box::new(quiet())))]);
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    let mut deny = Rule { protocol: Some(Protocol::TCP), ..Rule::any(Action::Deny) };
    deny.destination.ports = vec!["80".parse().unwrap()];
    deny.annotations = vec![("ticket".into(), "A-1".into())];
    let policy = Policy {
        applies_to_ingress: true,
        ingress: vec![Rule::any(Action::Log), deny],
        ..Policy::new(PolicyKey::new(PolicyKind::NetworkPolicy, Some("default"), "p"), Selector::all())
    };
    node.apply([node::namespace("default", &[]), node::update(&web), node::policy(policy)]);
    node.add_local(node::local(&web.key, &web.addresses));
    node
}

impl Node {
    fn configure(&mut self, configuration: FelixConfiguration) -> BTreeSet<String> {
        let before = self.dataplane.clone();
        self.apply([Update::FelixConfiguration(Some(Box::new(configuration)))]);
        let after = &self.dataplane.chains;
        let differs = |key: &&(Family, IptablesTable, ChainName)| before.chains.get(*key) != after.get(*key);
        let keys: BTreeSet<_> = before.chains.keys().chain(after.keys()).collect();
        let name = |(_, table, name): &(Family, IptablesTable, ChainName)| format!("{} {name}", table.name());
        keys.into_iter().filter(differs).map(name).collect()
    }

    fn text(&self, table: IptablesTable, chain: &str) -> String {
        self.dataplane.text(Family::V4, table, chain)
    }
}

fn names(chains: &[&str]) -> BTreeSet<String> {
    chains.iter().map(|chain| (*chain).to_owned()).collect()
}

#[test]
fn a_change_renders_what_it_concerns_and_nothing_else() {
    let mut node = node_with_policy();
    let pod = |prefix: &str| format!("filter cali-{prefix}-{WEB}");
    let (to, from) = (pod("tw"), pod("fw"));
    let policy = "filter cali-pi-np/default/p";

    let vxlan_port = FelixConfiguration { vxlan_port: 4790, ..quiet() };
    assert_eq!(node.configure(vxlan_port), names(&[&from]));
    let unchecked = FelixConfiguration { disable_conntrack_invalid_check: true, vxlan_port: 4790, ..quiet() };
    assert_eq!(node.configure(unchecked), names(&[&from, &to]));
    node.configure(quiet());
    let prefix = FelixConfiguration { log_prefix: "x".to_owned(), ..quiet() };
    assert_eq!(node.configure(prefix), names(&[policy]));
    node.configure(quiet());
    let range = Some(PortRange { first: 32_768, last: 65_535 });
    let ports = FelixConfiguration { nat_port_range: range, ..quiet() };
    assert_eq!(node.configure(ports), names(&[]), "no pool asks for masquerading");
    let failsafe = FelixConfiguration { failsafe_inbound: Vec::new(), ..quiet() };
    assert_eq!(node.configure(failsafe), names(&[]), "no host endpoint");
    let interval = std::time::Duration::from_secs(7);
    let refresh = FelixConfiguration { iptables_refresh_interval: interval, ..quiet() };
    assert_eq!(node.configure(refresh), names(&[]));
}

#[test]
fn denied_packets_may_be_refused_with_an_answer_in_the_filter_table() {
    let mut node = node_with_policy();

    node.configure(FelixConfiguration { filter_deny_action: DenyAction::Reject, ..quiet() });

    assert!(node.text(Filter, "cali-from-wl-dispatch").ends_with("\"Unknown interface\" --jump REJECT\n"));
    assert!(node.text(Filter, "cali-pi-np/default/p").ends_with("--destination-ports 80 --jump REJECT\n"));
    assert!(node.text(Filter, &format!("cali-tw-{WEB}")).ends_with("--jump REJECT\n"));
    assert!(node.text(Raw, "cali-PREROUTING").contains("--validmark --jump DROP\n"), "raw cannot refuse");
}

#[test]
fn allowed_packets_may_return() {
    let mut node = node_with_policy();
    let mangle = FelixConfiguration { mangle_allow_action: AllowAction::Return, ..quiet() };
    assert_eq!(node.configure(mangle), names(&["mangle cali-PREROUTING"]));
    assert!(
        node.text(Mangle, "cali-PREROUTING")
            .starts_with("-m conntrack --ctstate RELATED,ESTABLISHED --jump RETURN\n")
    );

    node.configure(FelixConfiguration { filter_allow_action: AllowAction::Return, ..quiet() });

    let expected = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump MARK --set-mark 0x10000/0x10000
-m conntrack --ctstate RELATED,ESTABLISHED --jump RETURN
-m conntrack --ctstate INVALID --jump DROP
";
    assert!(node.text(Filter, &format!("cali-tw-{WEB}")).starts_with(expected));
    let appends = &node.dataplane.hooks[&(Family::V4, Filter, "FORWARD")].appends;
    assert_eq!(appends[0].action, RuleAction::Return);
}

#[test]
fn marks_move_with_their_mask_and_a_mask_that_is_too_small_changes_nothing() {
    let mut node = node_with_policy();
    node.configure(FelixConfiguration { mark_mask: 0xff00, ..quiet() });
    let moved = node.text(Filter, "cali-FORWARD");
    assert!(moved.starts_with("--jump MARK --set-mark 0/0x1a00\n-m mark --mark 0/0x100 --jump"), "{moved}");
    assert!(node.text(Raw, "cali-PREROUTING").starts_with("--jump MARK --set-mark 0/0x1b00\n"));
    assert!(node.renderer.problems().is_empty());

    let changed = node.configure(FelixConfiguration { mark_mask: 0x3000, vxlan_port: 4790, ..quiet() });

    assert_eq!(changed, names(&[&format!("filter cali-fw-{WEB}")]), "the other settings hold");
    assert_eq!(node.renderer.problems(), ["mark mask 0x3000 has 2 bits, but policy needs 5 of them"]);
    node.configure(quiet());
    assert!(node.renderer.problems().is_empty());
}

#[test]
fn log_rules_say_whose_they_are_as_often_as_they_may() {
    let mut node = node_with_policy();
    let limit = RateLimit { count: 2, unit: RateUnit::Minute, burst: 5 };
    let prefix = "%t %k %p %n %x".to_owned();

    node.configure(FelixConfiguration { log_prefix: prefix, log_rate_limit: Some(limit), ..quiet() });

    let first = node.text(Filter, "cali-pi-np/default/p").lines().next().unwrap().to_owned();
    assert_eq!(
        first,
        "-m comment --comment \"NetworkPolicy default/p ingress\" -m limit --limit 2/minute --limit-burst 5 \
         --jump LOG --log-prefix \"default np default/p p %x: \" --log-level 5"
    );
    let long = FelixConfiguration {
        log_prefix: "a-prefix-that-is-longer-than-the-kernel-takes".to_owned(),
        ..quiet()
    };
    node.configure(long);
    assert!(node.text(Filter, "cali-pi-np/default/p").contains("\"a-prefix-that-is-longer-tha: \""));
}

#[test]
fn annotations_of_rules_are_comments() {
    let node = node_with_policy();

    let text = node.text(Filter, "cali-pi-np/default/p");

    let expected =
        "-m comment --comment \"ticket=A-1\" -p tcp -m multiport --destination-ports 80 --jump DROP\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn every_drop_is_recorded_and_its_prefix_explained() {
    let mut node = node_with_policy();
    node.configure(FelixConfiguration { drop_log: DropLog::default(), ..quiet() });

    let record = |what: &str| {
        format!(
            "-m limit --limit 10/sec --limit-burst 10 --jump NFLOG --nflog-group 7 --nflog-prefix \"{what}\" --nflog-size 80"
        )
    };
    let policy = node.text(Filter, "cali-pi-np/default/p");
    let denies = format!(
        "-m comment --comment \"ticket=A-1\" -p tcp -m multiport --destination-ports 80 --jump MARK --set-mark 0x40000/0x40000
-m comment --comment \"ticket=A-1\" -m mark --mark 0x40000/0x40000 {}
-m comment --comment \"ticket=A-1\" -m mark --mark 0x40000/0x40000 --jump DROP
",
        record("D|i|np/default/p|1")
    );
    assert!(policy.ends_with(&denies), "{policy}");
    let ingress = node.text(Filter, &format!("cali-tw-{WEB}"));
    let end = format!("-m mark --mark 0/0x20000 {}\n", record("D|i|tier:default|"));
    assert!(ingress.contains(&end), "{ingress}");
    let unknown =
        format!("{}\n-m comment --comment \"Unknown interface\" --jump DROP\n", record("D|i|unknown|"));
    assert!(node.text(Filter, "cali-to-wl-dispatch").ends_with(&unknown));
    assert_eq!(node.text(Raw, "cali-rpf-drop"), format!("{}\n--jump DROP\n", record("D|e|spoofed|")));

    let explained = node.renderer.explain_prefix("D|i|np/default/p|1").unwrap();
    let key = PolicyKey::new(PolicyKind::NetworkPolicy, Some("default"), "p");
    let reason = DropReason::Policy(key, 1);
    assert_eq!(explained, DropPlace { direction: Direction::Ingress, reason });
    let tier = node.renderer.explain_prefix("D|i|tier:default|").unwrap();
    assert_eq!(tier.reason, DropReason::EndOfTier("default".into()));
}

fn pools(vxlan: bool) -> felix_calc::Change {
    let nets: BTreeSet<model::Cidr> = [("10.65.0.0/16".parse().unwrap())].into();
    let vxlan = if vxlan { BTreeSet::from([Family::V4]) } else { BTreeSet::new() };
    let pools = Pools { network: nets.clone(), masquerade: nets, ipip: false, vxlan, ..Pools::default() };
    felix_calc::Change::Pools(Arc::new(pools))
}

#[test]
fn outgoing_nat_follows_its_settings() {
    let mut node = node_with_policy();
    node.renderer.apply(pools(false));
    let leaves =
        "-m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40network-ip-pools dst";

    let range = Some(PortRange { first: 32_768, last: 65_535 });
    node.configure(FelixConfiguration { nat_port_range: range, ..quiet() });
    let expected = format!(
        "\
-p tcp {leaves} --jump MASQUERADE --to-ports 32768-65535 --random-fully
-p tcp --jump RETURN
-p udp {leaves} --jump MASQUERADE --to-ports 32768-65535 --random-fully
-p udp --jump RETURN
{leaves} --jump MASQUERADE --random-fully
"
    );
    assert_eq!(node.text(Nat, "cali-nat-outgoing"), expected);

    node.configure(FelixConfiguration {
        nat_outgoing_address: Some("192.0.2.7".parse().unwrap()),
        nat_outgoing_interface_filter: Some("eth+".to_owned()),
        nat_outgoing_exclusions: NatOutgoingExclusions::IpPoolsAndHostIps,
        ..quiet()
    });
    let expected = format!(
        "{leaves} -m set ! --match-set cali40all-hosts-net dst --out-interface eth+ \
         --jump SNAT --to-source 192.0.2.7 --random-fully\n"
    );
    assert_eq!(node.text(Nat, "cali-nat-outgoing"), expected);
}

#[test]
fn vxlan_is_taken_from_nodes_alone_and_not_tracked() {
    let mut node = node_with_policy();
    node.renderer.apply(pools(true));
    node.flush();

    let untracked = "-p udp --dport 4789 --jump NOTRACK\n";
    let prerouting = node.text(Raw, "cali-PREROUTING");
    assert!(
        prerouting.starts_with(&format!("--jump MARK --set-mark 0/0x1b0000\n{untracked}")),
        "{prerouting}"
    );
    assert!(node.text(Raw, "cali-OUTPUT").contains(&format!("--jump cali-to-host-endpoint\n{untracked}")));
    let input = "\
-m comment --comment \"Allow IPv4 VXLAN packets from allowed hosts\" -p udp -m multiport --destination-ports 4789 -m set --match-set cali40all-vxlan-net src -m addrtype --dst-type LOCAL --jump ACCEPT
-m comment --comment \"Drop IPv4 VXLAN packets from non-allowed hosts\" -p udp -m multiport --destination-ports 4789 -m addrtype --dst-type LOCAL --jump DROP
";
    assert!(node.text(Filter, "cali-INPUT").starts_with(input), "{}", node.text(Filter, "cali-INPUT"));
    let own = "--out-interface vxlan.calico -m addrtype ! --src-type LOCAL --limit-iface-out -m addrtype --src-type LOCAL";
    let masquerade = format!(
        "--jump cali-fip-snat\n--jump cali-nat-outgoing\n\
         -p udp {own} --jump MASQUERADE --to-ports 4790-65535 --random-fully\n\
         {own} --jump MASQUERADE --random-fully\n"
    );
    assert_eq!(node.text(Nat, "cali-POSTROUTING"), masquerade);

    node.renderer.apply(pools(false));
    node.flush();
    assert!(!node.text(Raw, "cali-PREROUTING").contains("NOTRACK"));
}

#[test]
fn addresses_of_services_that_nobody_has_do_not_go_round() {
    let mut node = node_with_policy();
    let mut bgp = model::BgpConfiguration::default();
    bgp.services.cluster_ips = vec!["10.96.0.0/12".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
    bgp.services.external_ips = vec!["192.0.2.0/24".parse().unwrap()];
    node.apply([Update::BgpConfiguration(Some(Box::new(bgp)))]);
    let expected = "--destination 10.96.0.0/12 --jump DROP\n--destination 192.0.2.0/24 --jump DROP\n";
    assert_eq!(node.text(Filter, "cali-cidr-block"), expected);

    let with = |prevention| FelixConfiguration { service_loop_prevention: prevention, ..quiet() };
    assert_eq!(node.configure(with(ServiceLoopPrevention::Reject)), names(&["filter cali-cidr-block"]));
    assert!(node.text(Filter, "cali-cidr-block").ends_with("--jump REJECT\n"));
    node.configure(with(ServiceLoopPrevention::Disabled));
    assert_eq!(node.text(Filter, "cali-cidr-block"), "");
}

#[test]
fn a_pod_sends_from_elsewhere_only_where_both_it_and_the_settings_say_so() {
    let mut node = node_with_policy();
    let key = "cni.projectcalico.org/allowedSourcePrefixes".to_owned();
    let mut web = node::pod("default", "web", "10.65.0.2", &[]);
    web.annotations.insert(key.clone(), "[\"192.0.2.0/24\"]".to_owned());
    node.apply([node::update(&web)]);
    let chain = format!("cali-fw-{WEB}");
    assert!(
        node.text(Filter, &chain)
            .starts_with("-m comment --comment \"Endpoint closed: allowedSourcePrefixes")
    );

    node.configure(FelixConfiguration { workload_source_spoofing: true, ..quiet() });

    let skip = format!("--in-interface {WEB} --source 192.0.2.0/24 --jump ACCEPT\n");
    assert_eq!(node.text(Raw, "cali-rpf-skip"), skip);
    let rp_filter = node.dataplane.sysctls[WEB].iter().find(|sysctl| sysctl.path.ends_with("rp_filter"));
    assert_eq!(rp_filter.unwrap().value, "0", "the kernel must not drop it either");
    assert!(!node.text(Filter, &chain).contains("closed"));

    web.annotations.insert(key, "everything".to_owned());
    node.apply([node::update(&web)]);
    assert!(node.text(Filter, &chain).contains("Endpoint closed: its allowedSourcePrefixes make no sense"));
    assert_eq!(node.text(Raw, "cali-rpf-skip"), "");
}

#[test]
fn floating_addresses_lead_to_their_pod_where_they_are_enabled() {
    let mut node = node_with_policy();
    let mut web = node::pod("default", "web", "10.65.0.2", &[]);
    let floating = "[\"192.0.2.9\", \"192.0.2.8\"]".to_owned();
    web.annotations.insert("cni.projectcalico.org/floatingIPs".to_owned(), floating);
    node.apply([node::update(&web)]);
    assert_eq!(node.text(Nat, "cali-fip-dnat"), "");

    let changed = node.configure(FelixConfiguration { floating_ips: true, ..quiet() });

    assert_eq!(changed, names(&["nat cali-fip-dnat", "nat cali-fip-snat"]));
    let dnat = "\
--destination 192.0.2.8/32 --jump DNAT --to-destination 10.65.0.2
--destination 192.0.2.9/32 --jump DNAT --to-destination 10.65.0.2
";
    assert_eq!(node.text(Nat, "cali-fip-dnat"), dnat);
    let snat = "--destination 10.65.0.2/32 --source 10.65.0.2/32 --jump SNAT --to-source 192.0.2.8\n";
    assert!(node.text(Nat, "cali-fip-snat").starts_with(snat));
}

#[test]
fn policies_for_the_same_endpoints_share_a_chain() {
    let mut node = node_with_policy();
    for number in 0..6 {
        let key = PolicyKey::new(PolicyKind::NetworkPolicy, Some("default"), &format!("q{number}"));
        let policy = Policy {
            applies_to_ingress: true,
            order: Some(1.0),
            ..Policy::new(key, "projectcalico.org/namespace == 'default'".parse().unwrap())
        };
        node.apply([node::policy(policy)]);
    }

    let ingress = node.text(Filter, &format!("cali-tw-{WEB}"));
    let group = ingress.split("--jump ").find(|part| part.starts_with("cali-gi-")).unwrap();
    let group = group.lines().next().unwrap().to_owned();
    let jumps = format!(
        "-m mark --mark 0/0x20000 --jump {group}
-m comment --comment \"Return if policy accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
-m mark --mark 0/0x20000 --jump cali-pi-np/default/p
"
    );
    assert!(ingress.contains(&jumps), "{ingress}");
    let expected = "\
--jump cali-pi-np/default/q0
-m mark --mark 0/0x30000 --jump cali-pi-np/default/q1
-m mark --mark 0/0x30000 --jump cali-pi-np/default/q2
-m mark --mark 0/0x30000 --jump cali-pi-np/default/q3
-m mark --mark 0/0x30000 --jump cali-pi-np/default/q4
-m comment --comment \"Return on verdict\" -m mark ! --mark 0/0x30000 --jump RETURN
--jump cali-pi-np/default/q5
";
    assert_eq!(node.text(Filter, &group), expected);

    // Another selector for one of them: two groups, and the old one is gone.
    let key = PolicyKey::new(PolicyKind::NetworkPolicy, Some("default"), "q2");
    let other = Policy { applies_to_ingress: true, order: Some(1.0), ..Policy::new(key, Selector::all()) };
    node.apply([node::policy(other)]);
    let ingress = node.text(Filter, &format!("cali-tw-{WEB}"));
    assert!(!ingress.contains(&group) && ingress.matches("--jump cali-gi-").count() == 2, "{ingress}");
    assert!(node.dataplane.chains.keys().all(|(.., name)| name.as_str() != group));
}

#[test]
fn for_nftables_lists_stand_in_one_match_and_interfaces_in_a_map() {
    let settings =
        RenderSettings { dataplane: RuleDataplane::Nftables, ipip: false, ..RenderSettings::default() };
    let mut node = Node::in_sync("n1");
    node.renderer = Renderer::new(settings);
    let mut rule = Rule { protocol: Some(Protocol::TCP), ..Rule::any(Action::Deny) };
    rule.source.nets = vec!["10.0.0.0/8".parse().unwrap(), "11.0.0.0/8".parse().unwrap()];
    rule.destination.ports = (1..=40).map(|port| port.to_string().parse().unwrap()).collect();
    let policy = Policy {
        applies_to_ingress: true,
        ingress: vec![rule],
        ..Policy::new(PolicyKey::new(PolicyKind::NetworkPolicy, Some("default"), "p"), Selector::all())
    };
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    let update = Update::FelixConfiguration(Some(Box::new(quiet())));
    node.apply([update, node::namespace("default", &[]), node::update(&web), node::policy(policy)]);
    node.add_local(node::local(&web.key, &web.addresses));

    let chain = |name| &node.dataplane.chains[&(Family::V4, Filter, ChainName::fixed(name))].rules;
    let policy = chain("cali-pi-np/default/p");
    assert_eq!((policy.len(), policy[0].matches.len()), (1, 3), "{policy:?}");
    let dispatch = chain("cali-to-wl-dispatch");
    // What all pods have in common stands before the map: connections, invalid packets, clean marks.
    let RuleAction::InterfaceMap { chains, .. } = &dispatch[3].action else { panic!("{dispatch:?}") };
    assert_eq!(chains[WEB].as_str(), format!("cali-tw-{WEB}"));
    assert_eq!(dispatch.len(), 5);
    let count =
        |prefix| node.dataplane.chains[&(Family::V4, Filter, ChainName::limited(prefix, WEB))].rules.len();
    assert_eq!(count("cali-tw-"), 2, "to the policy, and the end of the tier");
    assert_eq!(count("cali-fw-"), 1, "the namespace's profile allows everything");
}

/// With nftables a pod's chain has only what a packet can come to, which other policies and profiles decide.
#[test]
fn what_a_pod_is_subject_to_follows_the_contents_of_policies_and_profiles() {
    let mut node = Node::in_sync("n1");
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    let key = PolicyKey::new(PolicyKind::NetworkPolicy, Some("default"), "p");
    let policy = |action| {
        let rule = Rule { protocol: Some(Protocol::TCP), ..Rule::any(action) };
        let ingress = vec![rule];
        node::policy(Policy {
            applies_to_ingress: true,
            ingress,
            ..Policy::new(key.clone(), Selector::all())
        })
    };
    node.apply([Update::FelixConfiguration(Some(Box::new(quiet()))), node::namespace("default", &[])]);
    node.add_local(node::local(&web.key, &web.addresses));
    node.apply([node::update(&web), policy(Action::Deny)]);
    let to_web = |protocol| {
        let packet = Packet::new("192.0.2.7".parse().unwrap(), "10.65.0.2".parse().unwrap(), protocol, 80);
        packet.via(Some("eth0"), Some(WEB))
    };
    let passes =
        |node: &Node| [Protocol::TCP, Protocol::UDP].map(|protocol| is_forwarded(node, &to_web(protocol)));
    assert_eq!(passes(&node), [false, false]);

    node.apply([policy(Action::Pass)]);
    assert_eq!(passes(&node), [true, false], "passed on to the namespace's profile");
    node.apply([policy(Action::Allow)]);
    assert_eq!(passes(&node), [true, false]);
    node.apply([policy(Action::Pass)]);
    assert_eq!(passes(&node), [true, false]);
    node.apply([policy(Action::Deny)]);
    assert_eq!(passes(&node), [false, false]);
}

/// Both ways into the node's own processes.
#[test]
fn connections_of_a_pod_with_its_node_pass_but_not_those_of_a_closed_one() {
    let mut node = Node::in_sync("n1");
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.apply([Update::FelixConfiguration(Some(Box::new(quiet()))), node::namespace("default", &[])]);
    node.add_local(node::local(&web.key, &web.addresses));
    let packet = Packet::new("10.65.0.2".parse().unwrap(), "192.0.2.1".parse().unwrap(), Protocol::TCP, 22);
    let established = Packet { state: ConntrackState::Established, ..packet.via(Some(WEB), None) };
    assert!(!is_forwarded(&node, &established), "its Pod is not known");

    node.apply([node::update(&web)]);
    assert!(is_forwarded(&node, &established));
}

#[test]
fn a_pods_traffic_is_limited_as_it_asks() {
    let mut node = node_with_policy();
    let mut web = node::pod("default", "web", "10.65.0.2", &[]);
    for (key, value) in [("ingressPacketRate", "100"), ("ingressMaxConnections", "5"), ("dscp", "AF21")] {
        web.annotations.insert(format!("qos.projectcalico.org/{key}"), value.to_owned());
    }
    let before = node.text(Mangle, "cali-POSTROUTING");

    node.apply([node::update(&web)]);

    let expected = "\
--jump MARK --set-mark 0/0x80000
-m limit --limit 100/sec --limit-burst 5 --jump MARK --set-mark 0x80000/0x80000
-m mark --mark 0/0x80000 --jump DROP
--jump MARK --set-mark 0/0x80000
-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT
-m conntrack --ctstate INVALID --jump DROP
-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m connlimit --connlimit-above 5 --connlimit-mask 0 --jump REJECT --reject-with tcp-reset
--jump MARK --set-mark 0/0x30000
";
    let ingress = node.text(Filter, &format!("cali-tw-{WEB}"));
    assert!(ingress.starts_with(expected), "{ingress}");
    assert!(!node.text(Filter, &format!("cali-fw-{WEB}")).contains("limit"));
    let leaves = "-m comment --comment \"set dscp for traffic leaving cluster.\" \
                  -m set --match-set cali40dscp-src-net src -m set ! --match-set cali40network-ip-pools dst \
                  -m set ! --match-set cali40this-host dst --jump cali-egress-dscp\n";
    assert_eq!(node.text(Mangle, "cali-POSTROUTING"), format!("{leaves}{before}"));
    assert_eq!(node.text(Mangle, "cali-egress-dscp"), "--source 10.65.0.2/32 --jump DSCP --set-dscp 18\n");

    web.annotations.clear();
    node.apply([node::update(&web)]);
    assert_eq!(node.text(Mangle, "cali-POSTROUTING"), before);
    assert!(node.dataplane.sets.keys().all(|name| name.as_str() != "cali40dscp-src-net"));
}

/// Both dataplanes, though nftables lets connections pass before it looks at interfaces.
#[test]
fn connections_that_are_there_pass_but_not_those_of_closed_pods() {
    let mut node = Node::in_sync("n1");
    let web = node::pod("default", "web", "10.65.0.2", &[]);
    node.apply([Update::FelixConfiguration(Some(Box::new(quiet()))), node::namespace("default", &[])]);
    node.add_local(node::local(&web.key, &web.addresses));
    let packet = Packet::new("192.0.2.7".parse().unwrap(), "10.65.0.2".parse().unwrap(), Protocol::TCP, 80);
    let in_state = |state, to| Packet { state, ..packet.via(Some("eth0"), Some(to)) };
    let established = in_state(ConntrackState::Established, WEB);
    assert!(!is_forwarded(&node, &established), "its Pod is not known");

    node.apply([node::update(&web)]);
    assert!(is_forwarded(&node, &established));
    assert!(!is_forwarded(&node, &in_state(ConntrackState::New, "cali00000000000")));

    node.apply([Update::Namespace("default".to_owned(), None)]);
    assert!(!is_forwarded(&node, &established), "closed again");
}

#[test]
fn wireguard_may_come_to_its_port_and_go_from_the_node() {
    let mut node = node_with_policy();
    let (into, from) = (
        "-m comment --comment \"Allow incoming IPv4 Wireguard packets\" -p udp -m multiport --destination-ports 51820 -m \
         addrtype --dst-type LOCAL --jump ACCEPT\n",
        "-m comment --comment \"Allow outgoing IPv4 Wireguard packets\" -p udp -m multiport --destination-ports 51820 -m \
         addrtype --src-type LOCAL --jump ACCEPT\n",
    );
    let end = |address: Option<&str>| {
        let end =
            felix_calc::WireguardEnd { port: 51820, address: address.map(|text| text.parse().unwrap()) };
        felix_calc::Change::WireguardEnd(Family::V4, Some(end))
    };

    node.renderer.apply(end(None));
    node.flush();
    assert!(node.text(Filter, "cali-INPUT").contains(into), "{}", node.text(Filter, "cali-INPUT"));
    assert!(node.text(Filter, "cali-OUTPUT").contains(from));
    assert!(
        !node.text(Nat, "cali-POSTROUTING").contains("wireguard.cali"),
        "there is no address to hide behind"
    );

    node.renderer.apply(end(Some("10.65.0.7")));
    node.flush();
    assert!(node.text(Nat, "cali-POSTROUTING").contains("--out-interface wireguard.cali"));

    node.renderer.apply(felix_calc::Change::WireguardEnd(Family::V4, None));
    node.flush();
    assert!(!node.text(Filter, "cali-INPUT").contains("Wireguard"));
}

#[test]
fn segments_of_tcp_are_clamped_where_it_is_asked_for() {
    let mut node = node_with_policy();

    let changed = node.configure(FelixConfiguration { clamp_mss: true, ..quiet() });

    assert_eq!(changed, BTreeSet::from(["mangle cali-POSTROUTING".to_owned()]));
    let chain = node.text(Mangle, "cali-POSTROUTING");
    let clamp = "-p tcp -m tcp --tcp-flags SYN,RST SYN --jump TCPMSS --clamp-mss-to-pmtu";
    assert_eq!(chain.lines().next(), Some(clamp), "{chain}");
}
