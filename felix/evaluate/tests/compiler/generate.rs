//! Random clusters: small vocabularies, so that policies often meet pods and one another.

use std::net::IpAddr;

use felix_evaluate::{Packet, Place, Side};
use model::{
    Action, Cidr, EndpointPort, EndpointSlice, EndpointToHostAction, EntityRule, FailsafePort, Family,
    FelixConfiguration, HostEndpoint, HostEndpointInterface, IcmpMatch, Labels, NetworkSet, NetworkSetKey,
    NodeName, ObjectKey, Pod, PodKey, Policy, PolicyKey, PolicyKind, PortMatch, PortRange, Profile, Protocol,
    Rule, Selector, ServicePort, StagedAction, Tier, Update,
};

use crate::random::Random;
use crate::world::{LINKS, NODES, pods_of};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 8] = ["x/a", "x/b", "x/c", "y/a", "y/b", "z/a", "z/b", "z/c"];
const TIERS: [&str; 5] = ["first", "second", "default", "nobody-made-it", "kube-baseline"];
const ACCOUNTS: [&str; 2] = ["default", "robot"];

/// What a history speaks of beyond pods and their policies; a seed in four has all of it.
#[derive(Clone, Copy)]
pub struct Themes {
    pub sets: bool,
    pub services: bool,
    pub hosts: bool,
    pub staged: bool,
}

impl Themes {
    fn of(random: &mut Random) -> Self {
        let all = random.once_in(4);
        let mut one = || all || random.once_in(2);
        Self { sets: one(), services: one(), hosts: one(), staged: one() }
    }
}

/// A cluster, then changes to it.
pub fn history(random: &mut Random) -> Vec<Update> {
    let themes = Themes::of(random);
    let mut history = Vec::new();
    for namespace in NAMESPACES {
        history.push(Update::Namespace(namespace.to_owned(), Some(labels(random))));
        history.push(Update::ServiceAccount(namespace.to_owned(), "robot".to_owned(), Some(labels(random))));
    }
    for number in 0..PODS.len() {
        history.push(pod(random, number));
    }
    for _ in 0..random.below(8) {
        history.push(policy(random, themes));
    }
    for _ in 0..random.below(14) {
        let change = if random.once_in(2) { special(random, themes) } else { None };
        history.push(change.unwrap_or_else(|| self::change(random, themes)));
    }
    history
}

fn change(random: &mut Random, themes: Themes) -> Update {
    match random.below(10) {
        0 => {
            let number = random.below(PODS.len());
            pod(random, number)
        }
        1 => Update::Pod(key(random.pick(&PODS)), None),
        2 => {
            let labels = (!random.once_in(8)).then(|| labels(random));
            Update::Namespace(random.pick(&NAMESPACES).to_owned(), labels)
        }
        3 => {
            let labels = (!random.once_in(3)).then(|| labels(random));
            Update::ServiceAccount(random.pick(&NAMESPACES).to_owned(), "robot".to_owned(), labels)
        }
        4 => tier(random),
        5 => Update::Policy(policy_key(random, themes), None),
        _ => policy(random, themes),
    }
}

pub fn labels(random: &mut Random) -> Labels {
    let mut labels = Labels::new();
    for key in ["app", "tier"] {
        if !random.once_in(3) {
            labels.insert(key.to_owned(), random.pick(&["red", "blue"]).to_owned());
        }
    }
    labels
}

pub fn key(pod: &str) -> PodKey {
    let (namespace, name) = pod.split_once('/').unwrap();
    PodKey::new(namespace, name)
}

fn pod(random: &mut Random, number: usize) -> Update {
    let key = key(PODS[number]);
    let port = |name: &str, protocol, port| EndpointPort { name: name.to_owned(), protocol, port };
    let mut ports = vec![port("web", Protocol::TCP, random.pick(&[80, 81]))];
    ports.extend(random.once_in(2).then(|| port("dns", Protocol::UDP, 53)));
    ports.extend(random.once_in(2).then(|| port("web", Protocol::UDP, 81)));
    // Now and then two pods have one address: the old one is still going.
    let host = if random.once_in(16) { 2 } else { number + 2 };
    let mut addresses: Vec<IpAddr> = vec![format!("10.65.{}.{host}", host % 2).parse().unwrap()];
    if random.once_in(2) {
        addresses.push(format!("fd00::{}:{host}", host % 2).parse().unwrap());
    }
    let pod = Pod {
        key: key.clone(),
        uid: key.to_string(),
        node: Some(NODES[number % 2].into()),
        addresses,
        labels: labels(random),
        ports,
        service_account: (!random.once_in(4)).then(|| random.pick(&ACCOUNTS).to_owned()),
        host_network: random.once_in(24),
        annotations: Labels::new(),
    };
    Update::Pod(key, Some(pod))
}

pub fn tier(random: &mut Random) -> Update {
    let name = random.pick(&TIERS[..2]);
    let tier = Tier {
        name: name.into(),
        order: random.pick(&[None, Some(10.0), Some(10.0), Some(500.0), Some(2_000_000.0)]),
        default_action_is_pass: random.once_in(3),
    };
    Update::Tier(name.to_owned(), (!random.once_in(6)).then_some(tier))
}

/// Something of one of the history's themes.
pub fn special(random: &mut Random, themes: Themes) -> Option<Update> {
    match random.below(6) {
        0 | 1 if themes.sets => Some(network_set(random)),
        2 if themes.services => Some(endpoint_slice(random)),
        3 | 4 if themes.hosts => Some(host_endpoint(random)),
        5 if themes.hosts => Some(if random.once_in(2) { profile(random) } else { configuration(random) }),
        _ => None,
    }
}

fn network_set(random: &mut Random) -> Update {
    let namespace = (!random.once_in(2)).then(|| random.pick(&NAMESPACES));
    let key = NetworkSetKey::new(namespace, random.pick(&["s", "t"]));
    let mut labels = labels(random);
    if let Some(namespace) = namespace {
        labels.insert("projectcalico.org/namespace".to_owned(), namespace.to_owned());
    }
    let mut nets = random.some(3, net);
    nets.sort_unstable();
    nets.dedup();
    let set = (!random.once_in(5)).then(|| NetworkSet { labels, nets: nets.into() });
    Update::NetworkSet(key, set)
}

fn endpoint_slice(random: &mut Random) -> Update {
    let namespace = random.pick(&NAMESPACES);
    let key = ObjectKey::new(namespace, random.pick(&["one", "two", "three"]));
    let family = random.pick(&Family::ALL);
    let address = |random: &mut Random| -> IpAddr {
        let host = 2 + random.below(PODS.len());
        match family {
            Family::V4 => format!("10.65.{}.{host}", host % 2).parse().unwrap(),
            Family::V6 => format!("fd00::{}:{host}", host % 2).parse().unwrap(),
        }
    };
    let mut addresses = random.some(3, address);
    addresses.sort_unstable();
    addresses.dedup();
    let port = |random: &mut Random| ServicePort {
        name: "".into(),
        protocol: random.pick(&[Protocol::TCP, Protocol::UDP]),
        port: random.pick(&[53, 80, 81]),
    };
    let slice = EndpointSlice {
        key: key.clone(),
        service: random.pick(&["web", "other"]).into(),
        family,
        any_ready: !addresses.is_empty(),
        ready_nodes: Default::default(),
        addresses,
        ports: random.some(2, port),
    };
    Update::EndpointSlice(key, (!random.once_in(5)).then_some(slice))
}

fn host_endpoint(random: &mut Random) -> Update {
    let name = random.pick(&["h1", "h2", "h3", "h4"]);
    let n = random.below(NODES.len());
    let node = NodeName::from(NODES[n]);
    let addresses: [IpAddr; 2] = LINKS[n][0].1.map(|text| text.parse().unwrap());
    let (interface, expected_ips) = match random.below(4) {
        0 => (Some(HostEndpointInterface::All), Vec::new()),
        1 => (None, vec![addresses[random.below(2)]]),
        2 => (Some(HostEndpointInterface::Named("eth1".into())), Vec::new()),
        _ => (Some(HostEndpointInterface::Named("eth0".into())), addresses.to_vec()),
    };
    let profiles = ["own", "kns.x", "missing", "projectcalico-default-allow"];
    let endpoint = HostEndpoint {
        name: name.into(),
        node,
        interface,
        expected_ips,
        labels: labels(random),
        profiles: random.some(2, |random| random.pick(&profiles).into()),
        ports: vec![EndpointPort { name: "web".to_owned(), protocol: Protocol::TCP, port: 80 }],
    };
    Update::HostEndpoint(name.into(), (!random.once_in(5)).then(|| Box::new(endpoint)))
}

fn profile(random: &mut Random) -> Update {
    let profile = Profile {
        name: "own".into(),
        ingress: random.some(2, |random| rule(random, false)),
        egress: random.some(2, |random| rule(random, false)),
        labels: labels(random),
    };
    Update::Profile("own".into(), (!random.once_in(4)).then(|| Box::new(profile)))
}

fn configuration(random: &mut Random) -> Update {
    let failsafe = |random: &mut Random| FailsafePort {
        protocol: random.pick(&[Protocol::TCP, Protocol::UDP]),
        port: random.pick(&[53, 80, 1000]),
        net: random.once_in(2).then(|| net(random)),
    };
    let to_host = [EndpointToHostAction::Drop, EndpointToHostAction::Accept, EndpointToHostAction::Return];
    let configuration = FelixConfiguration {
        endpoint_to_host_action: random.pick(&to_host),
        failsafe_inbound: random.some(2, failsafe),
        failsafe_outbound: random.some(2, failsafe),
        allow_ipip_from_workloads: random.once_in(2),
        allow_vxlan_from_workloads: random.once_in(2),
        vxlan_port: random.pick(&[4789, 1000]),
        ..FelixConfiguration::default()
    };
    Update::FelixConfiguration(Some(Box::new(configuration)))
}

pub fn policy_key(random: &mut Random, themes: Themes) -> PolicyKey {
    use PolicyKind::*;
    let kinds =
        [KubernetesNetworkPolicy, NetworkPolicy, GlobalNetworkPolicy, NetworkPolicy, GlobalNetworkPolicy];
    let staged = [StagedNetworkPolicy, StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy];
    let cluster = [ClusterNetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy];
    let kind = match random.below(8) {
        0 if themes.staged => random.pick(&staged),
        1 => random.pick(&cluster),
        _ => random.pick(&kinds),
    };
    let is_namespaced = matches!(
        kind,
        KubernetesNetworkPolicy | NetworkPolicy | StagedNetworkPolicy | StagedKubernetesNetworkPolicy
    );
    let namespace = is_namespaced.then(|| random.pick(&NAMESPACES));
    PolicyKey::new(kind, namespace, random.pick(&["p", "q", "r"]))
}

pub fn policy(random: &mut Random, themes: Themes) -> Update {
    use PolicyKind::*;
    let key = policy_key(random, themes);
    let of_kubernetes = matches!(key.kind, KubernetesNetworkPolicy | StagedKubernetesNetworkPolicy);
    let scope = key.namespace.as_ref().map(|n| format!("projectcalico.org/namespace == '{n}'"));
    let mut own = vec![selector(random)];
    own.extend(scope.map(|scope| scope.parse().unwrap()));
    let (tier, order) = match key.kind {
        ClusterNetworkPolicy | AdminNetworkPolicy => ("kube-admin", Some(7.0)),
        BaselineAdminNetworkPolicy => ("kube-baseline", Some(0.0)),
        _ if of_kubernetes => ("default", Some(1000.0)),
        _ => (random.pick(&TIERS), random.pick(&[None, Some(1.0), Some(1.0), Some(1000.0), Some(-3.5)])),
    };
    let mut policy = Policy {
        tier: tier.into(),
        order,
        applies_to_ingress: !random.once_in(3),
        ingress: random.some(3, |random| rule_of(random, of_kubernetes, themes)),
        egress: random.some(3, |random| rule_of(random, of_kubernetes, themes)),
        needed_everywhere: random.once_in(10),
        ..Policy::new(key.clone(), Selector::and(own))
    };
    policy.applies_to_egress = !policy.applies_to_ingress || random.once_in(2);
    if policy.staged.is_some() {
        policy.staged = Some(random.pick(&[StagedAction::Set, StagedAction::Delete, StagedAction::Ignore]));
    }
    if themes.hosts && key.kind == GlobalNetworkPolicy {
        policy.apply_on_forward = random.once_in(2);
        policy.do_not_track = policy.apply_on_forward && random.once_in(4);
        policy.pre_dnat = policy.apply_on_forward && !policy.do_not_track && random.once_in(3);
        if policy.pre_dnat {
            (policy.applies_to_ingress, policy.applies_to_egress) = (true, false);
            policy.egress.clear();
        }
    }
    Update::Policy(key, Some(Box::new(policy)))
}

/// A rule, now and then about a Service.
fn rule_of(random: &mut Random, only_allows: bool, themes: Themes) -> Rule {
    let mut rule = rule(random, only_allows);
    if themes.services && !only_allows && random.once_in(4) {
        let service = Some(ObjectKey::new(random.pick(&NAMESPACES), random.pick(&["web", "other"])));
        let of_service = EntityRule { service, ..EntityRule::default() };
        // The API takes no ports beside those of the Service.
        rule.source.ports.clear();
        rule.source.not_ports.clear();
        match random.once_in(2) {
            true => rule.source = of_service,
            false => rule.destination = of_service,
        }
    }
    rule
}

/// A selector over endpoints.
fn selector(random: &mut Random) -> Selector {
    let key = random.pick(&["app", "tier", "pcns.app", "pcsa.tier"]);
    let value = random.pick(&["red", "blue", "green"]);
    let text = match random.below(12) {
        0..=2 => "all()".to_owned(),
        3 => format!("{key} == '{value}'"),
        4 => format!("{key} != '{value}'"),
        5 => format!("has({key})"),
        6 => format!("!has({key})"),
        7 => format!("{key} in {{'{value}', 'red'}} || tier == 'blue'"),
        8 => format!("{key} not in {{'{value}'}} && has(app)"),
        9 => format!("projectcalico.org/namespace == '{}'", random.pick(&NAMESPACES)),
        10 => format!("projectcalico.org/serviceaccount == '{}'", random.pick(&ACCOUNTS)),
        _ => format!("{key} starts with 'r' || !({key} contains 'l')"),
    };
    text.parse().unwrap()
}

fn rule(random: &mut Random, only_allows: bool) -> Rule {
    let actions = [Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log];
    let action = if only_allows { Action::Allow } else { random.pick(&actions) };
    let mut rule = Rule::any(action);
    if random.once_in(6) {
        rule.family = Some(random.pick(&Family::ALL));
    }
    let transports = [Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::SCTP];
    match random.below(8) {
        0 => {
            rule.protocol = Some(random.pick(&[Protocol::ICMP, Protocol::ICMPV6]));
            let icmp =
                IcmpMatch { kind: random.pick(&[8, 128, 3]), code: random.pick(&[None, Some(0), Some(1)]) };
            match random.below(3) {
                0 => rule.icmp = Some(icmp),
                1 => rule.not_icmp = Some(icmp),
                _ => {}
            }
        }
        1 => rule.not_protocol = Some(random.pick(&transports)),
        2 => rule.protocol = Some(Protocol(253)),
        3 | 4 => {}
        _ => rule.protocol = Some(random.pick(&transports)),
    }
    rule.source = entity(random, rule.protocol);
    rule.destination = entity(random, rule.protocol);
    rule
}

fn entity(random: &mut Random, protocol: Option<Protocol>) -> EntityRule {
    let mut entity = EntityRule::default();
    if random.once_in(4) {
        entity.nets = random.some(3, net);
    }
    if random.once_in(5) {
        entity.not_nets = random.some(3, net);
    }
    if random.once_in(3) {
        entity.selector = Some(selector(random));
    }
    if random.once_in(6) {
        entity.not_selector = Some(selector(random));
    }
    let numeric = protocol.is_some_and(Protocol::has_ports);
    if (numeric || protocol.is_none()) && random.once_in(3) {
        entity.ports = ports(random, numeric);
    }
    if (numeric || protocol.is_none()) && random.once_in(6) {
        entity.not_ports = ports(random, numeric);
    }
    entity
}

fn net(random: &mut Random) -> Cidr {
    let nets = [
        "0.0.0.0/0",
        "10.65.0.0/16",
        "10.65.1.0/24",
        "10.65.0.0/24",
        "10.65.0.4/31",
        "10.65.1.3/32",
        "198.51.100.0/24",
        "172.20.0.0/24",
        "::/0",
        "fd00::/64",
        "fd00::1:0/112",
        "fd00::4/128",
    ];
    random.pick(&nets).parse().unwrap()
}

fn ports(random: &mut Random, numeric: bool) -> Vec<PortMatch> {
    // Now and then more than one match of iptables takes.
    let most = if random.once_in(6) { 20 } else { 3 };
    random.some(most, |random| match random.below(4) {
        0 => PortMatch::Named(random.pick(&["web", "dns", "none"]).to_owned()),
        _ if !numeric => PortMatch::Named("web".to_owned()),
        1 => {
            let first = random.pick(&[50, 79, 200]);
            PortMatch::Range(PortRange { first, last: first + random.pick(&[1, 2, 5]) })
        }
        _ => PortMatch::Range(PortRange::single(random.pick(&[53, 80, 81, 1000, 40_000]))),
    })
}

/// Packets between all kinds of places that the history ever had.
pub fn packets(random: &mut Random, history: &[Update], count: usize) -> Vec<Packet> {
    let pods: Vec<Pod> = pods_of(history).into_values().collect();
    let mut packets = Vec::new();
    while packets.len() < count {
        let family = if random.once_in(3) { Family::V6 } else { Family::V4 };
        let (from, to) = (side(random, &pods, family), side(random, &pods, family));
        let (Some(from), Some(to)) = (from, to) else { continue };
        if from.place == to.place {
            continue;
        }
        packets.push(packet(random, from, to));
    }
    packets
}

fn side(random: &mut Random, pods: &[Pod], family: Family) -> Option<Side> {
    let of_family = |texts: [&str; 2]| texts[usize::from(family == Family::V6)].parse().unwrap();
    let link = random.pick(&["eth0", "eth0", "eth1"]);
    let side = match random.below(8) {
        0 => Side::new(Place::Outside, of_family(["198.51.100.7", "2001:db8::7"])),
        1 => {
            let n = random.below(NODES.len());
            Side::new(Place::Node(NODES[n].into()), of_family(LINKS[n][0].1))
        }
        _ => {
            let pod = random.pick(pods);
            let address = pod.addresses.iter().copied().find(|address| Family::of(*address) == family)?;
            Side::new(Place::Pod(pod.key.clone()), address)
        }
    };
    Some(Side { link: Some(link.into()), ..side })
}

fn packet(random: &mut Random, from: Side, to: Side) -> Packet {
    let icmp = match Family::of(from.address) {
        Family::V4 => (Protocol::ICMP, random.pick(&[8, 3])),
        Family::V6 => (Protocol::ICMPV6, random.pick(&[128, 135, 3])),
    };
    let port = random.pick(&[53, 80, 80, 80, 81, 82, 200, 1000, 4789]);
    match random.below(12) {
        0 => Packet { icmp: Some((icmp.1, random.pick(&[0, 1]))), ..Packet::new(from, to, icmp.0, 0) },
        1 => Packet { source_port: 0, ..Packet::new(from, to, Protocol(random.pick(&[253, 4, 47])), 0) },
        2 => Packet::new(from, to, Protocol::SCTP, port),
        3..=5 => Packet {
            source_port: random.pick(&[53, 80, 40_000]),
            ..Packet::new(from, to, Protocol::UDP, port)
        },
        6 => {
            // To a Service, whose address somebody else translates.
            let service = match Family::of(to.address) {
                Family::V4 => "10.96.0.10",
                Family::V6 => "fd96::10",
            };
            let original = Some((service.parse().unwrap(), random.pick(&[80, 443])));
            Packet { original_destination: original, ..Packet::new(from, to, Protocol::TCP, port) }
        }
        _ => Packet {
            source_port: random.pick(&[80, 81, 40_000, 40_000]),
            ..Packet::new(from, to, Protocol::TCP, port)
        },
    }
}
