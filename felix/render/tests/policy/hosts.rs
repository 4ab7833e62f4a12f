//! Chains of host endpoints, written by hand from `spec/felix.md` §1.7, §1.8.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felix_calc::{ActiveHostEndpoint, ActivePolicy, ActiveProfile, ActiveRule, ActiveTier, Change};
use felix_render::{RenderSettings, Renderer, RuleDataplane};
use kernel::interpret::{Verdict, walk};
use kernel::{ConntrackState, IptablesTable, RuleAction};
use model::{
    Action, AllowAction, DropLog, FailsafePort, Family, FelixConfiguration, HostEndpoint,
    HostEndpointInterface, Labels, NftablesSettings, PolicyKey, PolicyKind, Protocol, Selector,
};

use crate::dataplane::Dataplane;
use crate::way::Packet;

struct Host {
    renderer: Renderer,
    dataplane: Dataplane,
}

impl Host {
    fn new() -> Self {
        let mut renderer = Renderer::new(RenderSettings { ipip: false, ..RenderSettings::default() });
        let drop_log = DropLog { enabled: false, ..DropLog::default() };
        renderer.apply(Change::Configuration(Box::new(FelixConfiguration {
            drop_log,
            ..FelixConfiguration::default()
        })));
        let links = [("lo", "127.0.0.1"), ("eth0", "192.0.2.1"), ("eth1", "198.51.100.1")];
        let links =
            links.map(|(name, address)| (name.to_owned(), BTreeSet::from([address.parse().unwrap()])));
        renderer.set_host_links(BTreeMap::from(links));
        Self { renderer, dataplane: Dataplane::default() }
    }

    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.renderer.apply(change));
        self.dataplane.apply(self.renderer.flush());
    }

    fn text(&self, table: IptablesTable, chain: &str) -> String {
        self.dataplane.text(Family::V4, table, chain)
    }
}

fn policy(name: &str, action: Action) -> ActivePolicy {
    ActivePolicy {
        key: PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, name),
        tier: "default".into(),
        selector: format!("has({name})").parse::<Selector>().unwrap(),
        ingress: vec![ActiveRule { protocol: Some(Protocol::TCP), ..ActiveRule::any(action) }],
        egress: vec![ActiveRule { protocol: Some(Protocol::TCP), ..ActiveRule::any(action) }],
        do_not_track: name == "raw",
        pre_dnat: name == "pre",
        generation: 1,
        uid: "".into(),
    }
}

fn change(policy: ActivePolicy) -> Change {
    Change::Policy(policy.key.clone(), Some(Arc::new(policy)))
}

fn tier(policies: &[&str], egress: bool) -> Vec<ActiveTier> {
    let keys: Vec<_> =
        policies.iter().map(|name| PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, name)).collect();
    vec![ActiveTier {
        name: "default".into(),
        default_action_is_pass: false,
        egress: if egress { keys.clone() } else { Vec::new() },
        ingress: keys,
    }]
}

fn host_endpoint(name: &str, interface: HostEndpointInterface) -> ActiveHostEndpoint {
    ActiveHostEndpoint {
        endpoint: HostEndpoint {
            name: name.into(),
            node: "n1".into(),
            interface: Some(interface),
            expected_ips: Vec::new(),
            labels: Labels::new(),
            profiles: Vec::new(),
            ports: Vec::new(),
        },
        untracked: Vec::new(),
        pre_dnat: Vec::new(),
        forward: Vec::new(),
        normal: Vec::new(),
        profiles: Vec::new(),
    }
}

fn named(interface: &str) -> HostEndpointInterface {
    HostEndpointInterface::Named(interface.into())
}

fn told(endpoint: ActiveHostEndpoint) -> Change {
    Change::HostEndpoint(endpoint.endpoint.name.clone(), Some(Arc::new(endpoint)))
}

#[test]
fn each_table_has_the_policies_that_are_for_it() {
    use IptablesTable::{Filter, Mangle, Raw};
    let mut host = Host::new();
    let allow = |name| change(policy(name, Action::Allow));
    let endpoint = ActiveHostEndpoint {
        untracked: tier(&["raw"], true),
        pre_dnat: tier(&["pre"], false),
        forward: tier(&["fwd"], true),
        normal: tier(&["fwd", "norm"], true),
        profiles: vec!["open".into()],
        ..host_endpoint("a", named("eth0"))
    };
    let open = ActiveProfile {
        name: "open".into(),
        ingress: vec![ActiveRule::any(Action::Allow)],
        egress: vec![ActiveRule::any(Action::Allow)],
    };
    host.apply([allow("raw"), allow("pre"), allow("fwd"), allow("norm")]);
    host.apply([Change::Profile("open".into(), Some(Arc::new(open))), told(endpoint)]);

    let raw = "\
--jump cali-failsafe-in
--jump MARK --set-mark 0/0x30000
-m comment --comment \"Start of tier default\" --jump MARK --set-mark 0/0x20000
-m mark --mark 0/0x20000 --jump cali-pi-gnp/raw
-m mark --mark 0x10000/0x10000 --jump NOTRACK
-m comment --comment \"Return if policy accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
";
    assert_eq!(host.text(Raw, "cali-fh-eth0"), raw);
    assert_eq!(host.text(Raw, "cali-from-host-endpoint"), "--in-interface eth0 --goto cali-fh-eth0\n");
    assert_eq!(host.text(Raw, "cali-to-host-endpoint"), "--out-interface eth0 --goto cali-th-eth0\n");
    let pre_dnat = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT
-m conntrack --ctstate INVALID --jump DROP
--jump cali-failsafe-in
--jump MARK --set-mark 0/0x30000
-m comment --comment \"Start of tier default\" --jump MARK --set-mark 0/0x20000
-m mark --mark 0/0x20000 --jump cali-pi-gnp/pre
-m comment --comment \"Return if policy accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
";
    assert_eq!(host.text(Mangle, "cali-fh-eth0"), pre_dnat);
    let after_dnat = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump MARK --set-mark 0x10000/0x10000
-m conntrack --ctstate RELATED,ESTABLISHED --jump RETURN
-m conntrack --ctstate INVALID --jump DROP
--jump cali-failsafe-out
--jump MARK --set-mark 0/0x30000
-m comment --comment \"Start of tier default\" --jump MARK --set-mark 0/0x20000
-m mark --mark 0/0x20000 --jump cali-po-gnp/fwd
-m comment --comment \"Return if policy accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
-m mark --mark 0/0x20000 --jump cali-po-gnp/norm
-m comment --comment \"Return if policy accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
-m comment --comment \"End of tier default. Drop if no policies passed packet\" -m mark --mark 0/0x20000 --jump DROP
--jump cali-pro-open
-m comment --comment \"Return if profile accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
-m comment --comment \"Drop if no profiles matched\" --jump DROP
";
    assert_eq!(host.text(Mangle, "cali-th-eth0"), after_dnat);
    let forward = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT
-m conntrack --ctstate INVALID --jump DROP
--jump MARK --set-mark 0/0x30000
-m comment --comment \"Start of tier default\" --jump MARK --set-mark 0/0x20000
-m mark --mark 0/0x20000 --jump cali-po-gnp/fwd
-m comment --comment \"Return if policy accepted\" -m mark --mark 0x10000/0x10000 --jump RETURN
-m comment --comment \"End of tier default. Drop if no policies passed packet\" -m mark --mark 0/0x20000 --jump DROP
";
    assert_eq!(host.text(Filter, "cali-thfw-eth0"), forward);
    assert!(host.text(Filter, "cali-fh-eth0").contains("--jump cali-failsafe-in\n"));
    let chains: Vec<String> =
        host.dataplane.chains.keys().map(|(_, table, name)| format!("{} {name}", table.name())).collect();
    for (there, chain) in [
        (true, "raw cali-pi-gnp/raw"),
        (false, "filter cali-pi-gnp/raw"),
        (true, "mangle cali-pi-gnp/pre"),
        (false, "mangle cali-po-gnp/pre"),
        (false, "filter cali-pi-gnp/pre"),
        (true, "mangle cali-po-gnp/norm"),
        (false, "mangle cali-pi-gnp/norm"),
        (true, "filter cali-pi-gnp/norm"),
        (true, "mangle cali-pro-open"),
    ] {
        assert_eq!(chains.iter().any(|name| name == chain), there, "{chain}");
    }

    host.apply([Change::HostEndpoint("a".into(), None)]);
    assert_eq!(host.text(Raw, "cali-from-host-endpoint"), "");
    assert_eq!(host.text(Filter, "cali-to-host-endpoint"), "");
    assert!(host.dataplane.chains.keys().all(|(.., name)| !name.as_str().contains("eth0")));
}

#[test]
fn an_endpoint_without_policy_lets_forwarded_packets_pass_and_drops_the_rest() {
    let mut host = Host::new();
    host.apply([told(host_endpoint("a", named("eth0")))]);

    let forward = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT
-m conntrack --ctstate INVALID --jump DROP
--jump MARK --set-mark 0/0x30000
-m comment --comment \"Allow forwarded traffic by default\" --jump MARK --set-mark 0x10000/0x10000
--jump RETURN
";
    assert_eq!(host.text(IptablesTable::Filter, "cali-fhfw-eth0"), forward);
    let input = "\
-m conntrack --ctstate RELATED,ESTABLISHED --jump ACCEPT
-m conntrack --ctstate INVALID --jump DROP
--jump cali-failsafe-in
--jump MARK --set-mark 0/0x30000
-m comment --comment \"Drop if no profiles matched\" --jump DROP
";
    assert_eq!(host.text(IptablesTable::Filter, "cali-fh-eth0"), input);
    assert_eq!(host.text(IptablesTable::Raw, "cali-from-host-endpoint"), "");
    assert_eq!(host.text(IptablesTable::Mangle, "cali-from-host-endpoint"), "");
}

#[test]
fn the_endpoint_of_every_interface_is_the_end_of_the_dispatch() {
    use IptablesTable::{Filter, Mangle, Raw};
    let mut host = Host::new();
    let all = ActiveHostEndpoint {
        untracked: tier(&["raw"], true),
        pre_dnat: tier(&["pre"], false),
        ..host_endpoint("all", HostEndpointInterface::All)
    };
    host.apply([change(policy("raw", Action::Allow)), change(policy("pre", Action::Deny))]);
    host.apply([told(all), told(host_endpoint("a", named("eth0")))]);

    let to = "\
--out-interface eth0 --goto cali-th-eth0
-m comment --comment \"Skip egress WHEP policy for traffic to local workload\" --out-interface cali+ --jump RETURN
--goto cali-th-any-interface-at-all
";
    assert_eq!(host.text(Filter, "cali-to-host-endpoint"), to);
    assert_eq!(host.text(Mangle, "cali-to-host-endpoint"), to);
    let from = "--in-interface eth0 --goto cali-fh-eth0\n--goto cali-fh-any-interface-at-all\n";
    assert_eq!(host.text(Filter, "cali-from-host-endpoint"), from);
    assert_eq!(host.text(Raw, "cali-from-host-endpoint"), "", "it cannot be untracked");
    let forward = host.text(Filter, "cali-to-hep-forward");
    assert!(
        forward.starts_with("--out-interface eth0 --goto cali-thfw-eth0\n--goto cali-thfw-_"),
        "{forward}"
    );
    let pre_dnat = "--goto cali-fh-any-interface-at-all\n";
    assert_eq!(host.text(Mangle, "cali-from-host-endpoint"), pre_dnat);
}

#[test]
fn failsafe_ports_stay_open_in_every_table_and_family() {
    let mut host = Host::new();
    let port = |protocol, port, net: Option<&str>| FailsafePort {
        protocol,
        port,
        net: net.map(|net| net.parse().unwrap()),
    };
    let configuration = FelixConfiguration {
        failsafe_inbound: vec![
            port(Protocol::TCP, 22, Some("10.0.0.0/8")),
            port(Protocol::TCP, 22, Some("fd00::/8")),
        ],
        failsafe_outbound: vec![port(Protocol::UDP, 53, None)],
        ..FelixConfiguration::default()
    };
    host.apply([Change::Configuration(Box::new(configuration)), told(host_endpoint("a", named("eth0")))]);

    let inbound = "-p tcp -m multiport --destination-ports 22 --source 10.0.0.0/8 --jump ACCEPT\n";
    assert_eq!(host.text(IptablesTable::Filter, "cali-failsafe-in"), inbound);
    let untracked = "-p udp -m multiport --source-ports 53 --jump ACCEPT\n";
    assert_eq!(host.text(IptablesTable::Raw, "cali-failsafe-in"), format!("{inbound}{untracked}"));
    let outbound = "\
-p udp -m multiport --destination-ports 53 --jump ACCEPT
-p tcp -m multiport --source-ports 22 --destination fd00::/8 --jump ACCEPT
";
    assert_eq!(host.dataplane.text(Family::V6, IptablesTable::Raw, "cali-failsafe-out"), outbound);
}

/// From eth0 to the host.
fn input(protocol: Protocol, port: u16) -> Packet {
    Packet::new("203.0.113.9".parse().unwrap(), "192.0.2.1".parse().unwrap(), protocol, port)
        .via(Some("eth0"), None)
}

#[test]
fn packets_meet_the_policies_on_their_way() {
    let mut host = Host::new();
    let endpoint = ActiveHostEndpoint {
        pre_dnat: tier(&["pre"], false),
        untracked: tier(&["raw"], true),
        normal: tier(&["norm"], true),
        ..host_endpoint("a", named("eth0"))
    };
    let on_port = |name, port, action| {
        let mut policy = policy(name, action);
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
            rule.destination.ports = vec![model::PortRange::single(port)];
        }
        change(policy)
    };
    host.apply([
        on_port("raw", 1, Action::Allow),
        on_port("pre", 2, Action::Allow),
        on_port("norm", 3, Action::Allow),
        told(endpoint),
    ]);

    let outcome = |packet: &Packet| walk(&host.dataplane, packet);
    let untracked = outcome(&input(Protocol::TCP, 1));
    assert_eq!((untracked.verdict, untracked.packet.state), (Verdict::Accept, ConntrackState::Untracked));
    assert_eq!(outcome(&input(Protocol::TCP, 2)).verdict, Verdict::Accept, "accepted before DNAT");
    assert_eq!(outcome(&input(Protocol::TCP, 3)).verdict, Verdict::Accept);
    assert_eq!(outcome(&input(Protocol::TCP, 22)).verdict, Verdict::Accept, "a failsafe port");
    assert_eq!(outcome(&input(Protocol::TCP, 4)).verdict, Verdict::Drop);
    let answer = Packet { state: ConntrackState::Established, ..input(Protocol::TCP, 4) };
    assert_eq!(outcome(&answer).verdict, Verdict::Accept);

    // A local process calls a service: the port behind it counts, not the one of the service.
    let call = Packet {
        service: Some(("10.65.1.7".parse().unwrap(), 3)),
        ..Packet::new("192.0.2.1".parse().unwrap(), "10.96.0.1".parse().unwrap(), Protocol::TCP, 443)
    };
    assert!(!outcome(&call.via(None, Some("eth0"))).verdict.is_stopped());
    let other = Packet { service: Some(("10.65.1.7".parse().unwrap(), 443)), ..call };
    assert_eq!(outcome(&other.via(None, Some("eth0"))).verdict, Verdict::Drop);
}

#[test]
fn untracked_policy_is_not_for_all_interfaces_and_that_is_said() {
    let mut host = Host::new();
    let endpoint = ActiveHostEndpoint {
        untracked: tier(&["raw"], true),
        ..host_endpoint("n1-auto-hep", HostEndpointInterface::All)
    };

    host.apply([change(policy("raw", Action::Deny)), told(endpoint.clone())]);

    assert_eq!(walk(&host.dataplane, &input(Protocol::TCP, 1)).verdict, Verdict::Drop, "closed all the same");
    assert_eq!(host.text(IptablesTable::Raw, "cali-from-host-endpoint"), "");
    let problems = host.renderer.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("gnp/raw (doNotTrack) is not in force for host endpoint n1-auto-hep"));

    host.apply([told(ActiveHostEndpoint { untracked: Vec::new(), ..endpoint })]);
    assert!(host.renderer.problems().is_empty());
}

#[test]
fn with_nftables_what_a_pod_receives_is_accepted_at_once_unless_a_host_endpoint_has_a_say() {
    let mut host = Host::new();
    host.renderer.set_dataplane(RuleDataplane::Nftables);
    let (ingress, egress) = ("cali-pi-", "cali-po-");
    let action = |host: &Host, prefix: &str| {
        let of_policy = |name: &kernel::ChainName| name.to_string().starts_with(prefix);
        let mut chains = host.dataplane.chains.iter().filter(|((_, _, name), _)| of_policy(name));
        let (_, chain) = chains.next().expect("the policy has a chain");
        chain.rules.last().expect("the policy has a rule").action.clone()
    };
    let marks =
        |host: &Host, prefix: &str| matches!(action(host, prefix), RuleAction::SetMarkAndReturn { .. });

    host.apply([change(policy("p", Action::Allow))]);
    assert_eq!(action(&host, ingress), RuleAction::Accept);
    assert!(marks(&host, egress), "where it goes has a say");

    host.apply([told(host_endpoint("a", named("eth0")))]);
    assert!(marks(&host, ingress));
    host.apply([Change::HostEndpoint("a".into(), None)]);
    assert_eq!(action(&host, ingress), RuleAction::Accept);

    for configuration in [
        FelixConfiguration { interface_prefix: "cali,tap".into(), ..FelixConfiguration::default() },
        FelixConfiguration {
            nftables: NftablesSettings {
                filter_allow_action: AllowAction::Return,
                ..FelixConfiguration::default().nftables
            },
            ..FelixConfiguration::default()
        },
    ] {
        host.apply([Change::Configuration(Box::new(configuration))]);
        assert!(marks(&host, ingress));
    }
}

#[test]
fn a_host_endpoint_follows_its_address() {
    let mut host = Host::new();
    let mut endpoint = host_endpoint("a", named("eth0"));
    endpoint.endpoint.interface = None;
    endpoint.endpoint.expected_ips = vec!["198.51.100.1".parse().unwrap()];
    host.apply([told(endpoint)]);
    let governed =
        |host: &Host| host.renderer.governed_interfaces().keys().map(|k| (*k).to_owned()).collect();
    let interfaces: Vec<String> = governed(&host);
    assert_eq!(interfaces, ["eth1"]);

    let moved = BTreeMap::from([("eth2".to_owned(), BTreeSet::from(["198.51.100.1".parse().unwrap()]))]);
    host.renderer.set_host_links(moved);
    host.apply([]);

    let interfaces: Vec<String> = governed(&host);
    assert_eq!(interfaces, ["eth2"]);
    let filter = host.text(IptablesTable::Filter, "cali-from-host-endpoint");
    assert_eq!(filter, "--in-interface eth2 --goto cali-fh-eth2\n");
}
