//! Random clusters: small vocabularies, so that policies often meet pods and one another.

use std::net::IpAddr;

use felix_evaluate::{Packet, Place, Side};
use model::{
    Action, Cidr, EndpointPort, EntityRule, Family, IcmpMatch, Labels, Pod, PodKey, Policy, PolicyKey,
    PolicyKind, PortMatch, PortRange, Protocol, Rule, Selector, Tier, Update,
};

use crate::random::Random;
use crate::world::{NODES, pods_of};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 8] = ["x/a", "x/b", "x/c", "y/a", "y/b", "z/a", "z/b", "z/c"];
const TIERS: [&str; 5] = ["first", "second", "default", "nobody-made-it", "kube-baseline"];
const ACCOUNTS: [&str; 2] = ["default", "robot"];

/// A cluster, then changes to it.
pub fn history(random: &mut Random) -> Vec<Update> {
    let mut history = Vec::new();
    for namespace in NAMESPACES {
        history.push(Update::Namespace(namespace.to_owned(), Some(labels(random))));
        history.push(Update::ServiceAccount(namespace.to_owned(), "robot".to_owned(), Some(labels(random))));
    }
    for number in 0..PODS.len() {
        history.push(pod(random, number));
    }
    for _ in 0..random.below(8) {
        history.push(policy(random));
    }
    for _ in 0..random.below(14) {
        history.push(change(random));
    }
    history
}

fn change(random: &mut Random) -> Update {
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
        5 => Update::Policy(policy_key(random), None),
        _ => policy(random),
    }
}

fn labels(random: &mut Random) -> Labels {
    let mut labels = Labels::new();
    for key in ["app", "tier"] {
        if !random.once_in(3) {
            labels.insert(key.to_owned(), random.pick(&["red", "blue"]).to_owned());
        }
    }
    labels
}

fn key(pod: &str) -> PodKey {
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

fn tier(random: &mut Random) -> Update {
    let name = random.pick(&TIERS[..2]);
    let tier = Tier {
        name: name.into(),
        order: random.pick(&[None, Some(10.0), Some(10.0), Some(500.0), Some(2_000_000.0)]),
        default_action_is_pass: random.once_in(3),
    };
    Update::Tier(name.to_owned(), (!random.once_in(6)).then_some(tier))
}

fn policy_key(random: &mut Random) -> PolicyKey {
    let kinds =
        [PolicyKind::KubernetesNetworkPolicy, PolicyKind::NetworkPolicy, PolicyKind::GlobalNetworkPolicy];
    let kind = random.pick(&kinds);
    let namespace = (kind != PolicyKind::GlobalNetworkPolicy).then(|| random.pick(&NAMESPACES).into());
    PolicyKey { kind, namespace, name: random.pick(&["p", "q", "r"]).into() }
}

fn policy(random: &mut Random) -> Update {
    let key = policy_key(random);
    let of_kubernetes = key.kind == PolicyKind::KubernetesNetworkPolicy;
    let scope = key.namespace.as_ref().map(|n| format!("projectcalico.org/namespace == '{n}'"));
    let mut own = vec![selector(random)];
    own.extend(scope.map(|scope| scope.parse().unwrap()));
    let (tier, order) = match of_kubernetes {
        true => ("default", Some(1000.0)),
        false => (random.pick(&TIERS), random.pick(&[None, Some(1.0), Some(1.0), Some(1000.0), Some(-3.5)])),
    };
    let applies_to_ingress = !random.once_in(3);
    let policy = Policy {
        tier: tier.into(),
        order,
        applies_to_ingress,
        applies_to_egress: !applies_to_ingress || random.once_in(2),
        ingress: random.some(3, |random| rule(random, of_kubernetes)),
        egress: random.some(3, |random| rule(random, of_kubernetes)),
        ..Policy::new(key.clone(), Selector::and(own))
    };
    Update::Policy(key, Some(Box::new(policy)))
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
        let is_pod = |side: &Side| matches!(side.place, Place::Pod(_));
        if from.place == to.place || !(is_pod(&from) || is_pod(&to)) {
            continue;
        }
        packets.push(packet(random, from, to));
    }
    packets
}

fn side(random: &mut Random, pods: &[Pod], family: Family) -> Option<Side> {
    let of_family = |texts: [&str; 2]| texts[usize::from(family == Family::V6)].parse().unwrap();
    Some(match random.below(8) {
        0 => Side::new(Place::Outside, of_family(["198.51.100.7", "2001:db8::7"])),
        1 => {
            let n = random.below(NODES.len());
            let addresses = [["172.20.0.1", "fd20::1"], ["172.20.0.2", "fd20::2"]];
            Side::new(Place::Node(NODES[n].into()), of_family(addresses[n]))
        }
        _ => {
            let pod = random.pick(pods);
            let address = pod.addresses.iter().copied().find(|address| Family::of(*address) == family)?;
            Side::new(Place::Pod(pod.key.clone()), address)
        }
    })
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
        _ => Packet {
            source_port: random.pick(&[80, 81, 40_000, 40_000]),
            ..Packet::new(from, to, Protocol::TCP, port)
        },
    }
}
