//! Policies of every shape that the model has (tiers, orders, all actions, lists, negations) against an
//! evaluator that goes through them one by one.

use std::cmp::Ordering;
use std::net::IpAddr;

use kernel::IptablesTable;
use model::{
    Action, Cidr, Direction, EndpointPort, EntityRule, Family, IcmpMatch, Labels, Pod, Policy, PolicyKey,
    PolicyKind, PortMatch, PortRange, Protocol, Rule, Selector, Tier, Update,
};

use crate::node::{self, Node, interface, local};
use crate::random::Random;
use crate::way::{Packet, is_forwarded};

/// All that decides on a packet.
struct World {
    pods: Vec<Pod>,
    policies: Vec<Policy>,
    tiers: Vec<Tier>,
}

impl World {
    fn allows(&self, packet: &Packet, source: Option<&Pod>, destination: Option<&Pod>) -> bool {
        source.is_none_or(|pod| self.direction_allows(packet, pod, Direction::Egress))
            && destination.is_none_or(|pod| self.direction_allows(packet, pod, Direction::Ingress))
    }

    fn direction_allows(&self, packet: &Packet, pod: &Pod, direction: Direction) -> bool {
        let mut tiers: Vec<&Tier> = self.tiers.iter().collect();
        tiers.sort_by(|a, b| order(a.order, b.order).then(a.name.cmp(&b.name)));
        for tier in tiers {
            match self.tier_verdict(tier, packet, pod, direction) {
                Some(Action::Allow) => return true,
                Some(Action::Deny) => return false,
                _ => {}
            }
        }
        true
    }

    /// `None` where the tier has nothing to say.
    fn tier_verdict(&self, tier: &Tier, packet: &Packet, pod: &Pod, direction: Direction) -> Option<Action> {
        let applies = |policy: &&Policy| {
            let directed = match direction {
                Direction::Ingress => policy.applies_to_ingress,
                Direction::Egress => policy.applies_to_egress,
            };
            directed && policy.tier == tier.name && policy.selector.matches(&labels(pod))
        };
        let mut policies: Vec<&Policy> = self.policies.iter().filter(applies).collect();
        if policies.is_empty() {
            return None;
        }
        policies.sort_by(|a, b| order(a.order, b.order).then(a.key.name.cmp(&b.key.name)));
        for policy in policies {
            let rules = if direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
            let decides = |rule: &&Rule| rule.action != Action::Log && self.rule_matches(rule, packet);
            if let Some(rule) = rules.iter().find(decides) {
                return Some(rule.action);
            }
        }
        Some(if tier.default_action_is_pass { Action::Pass } else { Action::Deny })
    }

    fn rule_matches(&self, rule: &Rule, packet: &Packet) -> bool {
        let icmp = |wanted: IcmpMatch| {
            packet.icmp.0 == wanted.kind && wanted.code.is_none_or(|code| code == packet.icmp.1)
        };
        rule.family.is_none_or(|family| family == Family::of(packet.source))
            && rule.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && rule.not_protocol.is_none_or(|protocol| protocol != packet.protocol)
            && rule.icmp.is_none_or(icmp)
            && rule.not_icmp.is_none_or(|wanted| !icmp(wanted))
            && self.entity_matches(&rule.source, packet.source, packet.source_port, packet.protocol)
            && self.entity_matches(
                &rule.destination,
                packet.destination,
                packet.destination_port,
                packet.protocol,
            )
    }

    fn entity_matches(&self, entity: &EntityRule, address: IpAddr, port: u16, protocol: Protocol) -> bool {
        let selected = |selector: &Selector| {
            self.pods.iter().any(|pod| pod.addresses.contains(&address) && selector.matches(&labels(pod)))
        };
        let is_port = |wanted: &PortMatch| match wanted {
            PortMatch::Range(range) => range.contains(port),
            PortMatch::Named(name) => self.pods.iter().any(|pod| {
                pod.addresses.contains(&address)
                    && pod.ports.iter().any(|p| p.name == *name && p.port == port && p.protocol == protocol)
            }),
        };
        let within = |nets: &[Cidr]| nets.iter().any(|net| net.contains(address));
        (entity.nets.is_empty() || within(&entity.nets))
            && !within(&entity.not_nets)
            && entity.selector.as_ref().is_none_or(selected)
            && entity.not_selector.as_ref().is_none_or(|selector| !selected(selector))
            && (entity.ports.is_empty() || entity.ports.iter().any(is_port))
            && !entity.not_ports.iter().any(is_port)
    }
}

fn order(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY))
}

fn labels(pod: &Pod) -> Labels {
    let mut labels = pod.labels.clone();
    labels.insert("projectcalico.org/namespace".to_owned(), pod.key.namespace.to_string());
    labels
}

const SELECTORS: [&str; 6] = [
    "all()",
    "app == 'red'",
    "app != 'red'",
    "has(app) && projectcalico.org/namespace == 'default'",
    "app in {'blue'} || !has(tier)",
    "tier not in {'red'}",
];

fn random_world(random: &mut Random) -> World {
    let tier =
        |name: &str, order, default_action_is_pass| Tier { name: name.into(), order, default_action_is_pass };
    let tiers = vec![
        tier("default", Some(1_000_000.0), false),
        tier("first", Some(random.pick(&[1.0, 2.0])), random.once_in(2)),
        tier("last", random.pick(&[None, Some(1.5)]), random.once_in(2)),
    ];
    let pods = ["a", "b", "c", "d"].into_iter().enumerate().map(|(i, name)| {
        let mut pod = node::pod("default", name, &format!("10.65.{}.{}", i % 2, i + 2), &[]);
        pod.addresses.push(format!("fd00::{}:{}", i % 2, i + 2).parse().unwrap());
        for key in ["app", "tier"] {
            if !random.once_in(3) {
                pod.labels.insert(key.to_owned(), random.pick(&["red", "blue"]).to_owned());
            }
        }
        let port =
            EndpointPort { name: "web".to_owned(), protocol: Protocol::TCP, port: random.pick(&[80, 81]) };
        pod.ports.push(port);
        pod
    });
    let pods = pods.collect();
    let policies = (0..5).map(|number| random_policy(random, number)).collect();
    World { pods, policies, tiers }
}

fn random_policy(random: &mut Random, number: usize) -> Policy {
    let kind = PolicyKind::GlobalNetworkPolicy;
    let key = PolicyKey { kind, namespace: None, name: format!("p{number}").as_str().into() };
    Policy {
        tier: random.pick(&["first", "default", "default", "last"]).into(),
        order: random.pick(&[None, Some(1.0), Some(2.0)]),
        applies_to_ingress: !random.once_in(3),
        applies_to_egress: !random.once_in(3),
        ingress: random.some(4, random_rule),
        egress: random.some(4, random_rule),
        ..Policy::new(key, random.pick(&SELECTORS).parse().unwrap())
    }
}

fn random_rule(random: &mut Random) -> Rule {
    let actions = [Action::Allow, Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log];
    let mut rule = Rule::any(random.pick(&actions));
    let protocols =
        [Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];
    rule.protocol = (!random.once_in(3)).then(|| random.pick(&protocols));
    if rule.protocol.is_none() && random.once_in(3) {
        rule.not_protocol = Some(random.pick(&protocols));
    }
    if random.once_in(8) {
        rule.family = Some(random.pick(&Family::ALL));
    }
    let icmp = IcmpMatch { kind: random.pick(&[0, 8]), code: random.pick(&[None, Some(0), Some(1)]) };
    match rule.protocol {
        Some(Protocol::ICMP | Protocol::ICMPV6) if random.once_in(2) => rule.icmp = Some(icmp),
        Some(Protocol::ICMP | Protocol::ICMPV6) if random.once_in(2) => rule.not_icmp = Some(icmp),
        _ => {}
    }
    let ports = rule.protocol.is_some_and(Protocol::has_ports);
    let source_ports = ports && random.once_in(3);
    rule.source = random_entity(random, source_ports);
    rule.destination = random_entity(random, ports);
    rule
}

fn random_entity(random: &mut Random, ports: bool) -> EntityRule {
    let mut entity = EntityRule::default();
    let nets = [
        "10.65.0.0/24",
        "10.65.1.0/24",
        "10.65.0.2/32",
        "198.51.100.0/24",
        "fd00::/112",
        "fd00::1:0/112",
        "0.0.0.0/0",
        "::/0",
    ];
    let net = |random: &mut Random| random.pick(&nets).parse::<Cidr>().unwrap();
    if random.once_in(3) {
        entity.nets = random.some(4, net);
    }
    if random.once_in(3) {
        entity.not_nets = random.some(3, net);
    }
    let selector = |random: &mut Random| random.pick(&SELECTORS).parse().unwrap();
    entity.selector = random.once_in(3).then(|| selector(random));
    entity.not_selector = random.once_in(4).then(|| selector(random));
    if ports && random.once_in(2) {
        entity.ports = random.some(20, random_port);
    }
    if ports && random.once_in(4) {
        entity.not_ports = random.some(20, random_port);
    }
    entity
}

/// Mostly ports that nobody asks for, so that long lists still decide differently.
fn random_port(random: &mut Random) -> PortMatch {
    let first = random.pick(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 80, 81, 40_000]);
    match random.below(8) {
        0 => PortMatch::Named("web".to_owned()),
        1 => PortMatch::Range(PortRange { first, last: first + 2 }),
        _ => PortMatch::Range(PortRange::single(first)),
    }
}

/// Ends of packets: two local pods, two remote ones, and one address outside.
fn packets(world: &World) -> Vec<(Packet, Option<usize>, Option<usize>)> {
    let mut packets = Vec::new();
    for family in 0..2 {
        let outside: IpAddr = ["198.51.100.7", "2001:db8::7"][family].parse().unwrap();
        let address = |end: Option<usize>| end.map_or(outside, |pod| world.pods[pod].addresses[family]);
        for source in [Some(0), Some(1), Some(2), Some(3), None] {
            for destination in [Some(0), Some(1), Some(2), Some(3), None] {
                let is_local = |end: Option<usize>| end.is_some_and(|pod| pod < 2);
                if source == destination || !(is_local(source) || is_local(destination)) {
                    continue;
                }
                let icmp = [Protocol::ICMP, Protocol::ICMPV6][family];
                for (protocol, port) in [
                    (Protocol::TCP, 80),
                    (Protocol::TCP, 81),
                    (Protocol::UDP, 80),
                    (Protocol::SCTP, 5),
                    (icmp, 0),
                ] {
                    let packet = Packet::new(address(source), address(destination), protocol, port);
                    packets.push((packet, source, destination));
                }
            }
        }
    }
    packets
}

#[test]
fn chains_agree_with_one_by_one_evaluation_on_random_policies_of_every_shape() {
    let (mut allowed, mut denied, mut blocks) = (0, 0, 0);

    for seed in 0..300 {
        let world = random_world(&mut Random::new(seed));
        let mut node = Node::in_sync("n1");
        node.apply(world.pods.iter().map(node::update).chain([node::namespace("default", &[])]));
        node.apply(world.tiers.iter().map(|tier| Update::Tier(tier.name.to_string(), Some(tier.clone()))));
        node.apply(world.policies.iter().cloned().map(node::policy));
        world.pods[..2].iter().for_each(|pod| node.add_local(local(&pod.key, &pod.addresses)));
        blocks += blocks_of(&node);

        for (packet, source, destination) in packets(&world) {
            let local_pod = |end: Option<usize>| end.filter(|pod| *pod < 2).map(|pod| &world.pods[pod]);
            let expected = world.allows(&packet, local_pod(source), local_pod(destination));
            let link = |end| local_pod(end).map_or("eth0".to_owned(), |pod| interface(&pod.key));
            let way = packet.via(Some(&link(source)), Some(&link(destination)));
            let passes = is_forwarded(&node, &way);
            assert_eq!(passes, expected, "seed {seed}: {way:?}\n{:#?}", world.policies);
            *(if expected { &mut allowed } else { &mut denied }) += 1;
        }
    }

    assert!(
        allowed > 5_000 && denied > 5_000,
        "{allowed} allowed, {denied} denied: one side is hardly tried"
    );
    assert!(blocks > 100, "only {blocks} rules needed several blocks");
}

/// How often a later positive block was rendered.
fn blocks_of(node: &Node) -> usize {
    let filter = node.dataplane.chains.iter().filter(|((_, table, _), _)| *table == IptablesTable::Filter);
    let rules = filter.flat_map(|(_, chain)| chain.rules.iter());
    rules.filter(|rule| kernel::rule_text(rule).contains("--mark 0/0x100000")).count()
}
