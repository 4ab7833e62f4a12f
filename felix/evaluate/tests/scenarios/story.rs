//! A cluster of three pods on two nodes, and what may reach what.

use std::net::IpAddr;

use felix_evaluate::{Packet, Place, Side};
use model::{
    Action, EndpointPort, EntityRule, FelixConfiguration, Labels, NetworkSet, NetworkSetKey, Pod, PodKey,
    Policy, PolicyKey, PolicyKind, PortMatch, Protocol, Rule, Selector, Tier, Update,
};

use crate::world::World;

/// Pods `x/a` and `x/b` are on `n1`, `y/c` is on `n2`; each has label `app` with its own name, and both families.
pub struct Story {
    world: World,
}

const PODS: [(&str, &str, &str, &str); 3] = [
    ("x/a", "n1", "10.65.0.2", "fd00::2"),
    ("x/b", "n1", "10.65.0.3", "fd00::3"),
    ("y/c", "n2", "10.65.1.2", "fd00::1:2"),
];
/// Outside of the cluster.
pub const OUTSIDE: &str = "198.51.100.7";

impl Story {
    pub fn begin() -> Self {
        let mut story = Self { world: World::new() };
        for name in ["x", "y"] {
            let labels = labels(&[("kubernetes.io/metadata.name", name)]);
            story.tell(Update::Namespace(name.to_owned(), Some(labels)));
            story.tell(Update::ServiceAccount(name.to_owned(), "default".to_owned(), Some(Labels::new())));
        }
        PODS.iter().for_each(|(name, ..)| _ = story.tell(update(pod(name))));
        story
    }

    pub fn tell(&mut self, update: Update) -> &mut Self {
        self.world.apply(&update);
        self
    }

    pub fn policy(&mut self, policy: Policy) -> &mut Self {
        self.tell(Update::Policy(policy.key.clone(), Some(Box::new(policy))))
    }

    pub fn tier(&mut self, name: &str, order: f64, default_action_is_pass: bool) -> &mut Self {
        let tier = Tier { name: name.into(), order: Some(order), default_action_is_pass };
        self.tell(Update::Tier(name.to_owned(), Some(tier)))
    }

    pub fn configuration(&mut self, change: impl FnOnce(&mut FelixConfiguration)) -> &mut Self {
        let mut configuration = FelixConfiguration::default();
        change(&mut configuration);
        self.tell(Update::FelixConfiguration(Some(Box::new(configuration))))
    }

    /// A GlobalNetworkSet, or a NetworkSet of a namespace.
    pub fn network_set(&mut self, namespace: Option<&str>, app: &str, nets: &[&str]) -> &mut Self {
        let mut labels = labels(&[("app", app)]);
        labels.extend(namespace.map(|n| ("projectcalico.org/namespace".to_owned(), n.to_owned())));
        let mut nets: Vec<_> = nets.iter().map(|net| net.parse().unwrap()).collect();
        nets.sort_unstable();
        let set = NetworkSet { labels, nets: nets.into() };
        self.tell(Update::NetworkSet(NetworkSetKey::new(namespace, app), Some(set)))
    }

    /// Both say that these pass.
    #[track_caller]
    pub fn allows(&self, packets: &[Packet]) -> &Self {
        packets.iter().for_each(|packet| self.expect(packet, true));
        self
    }

    /// Both say that these are dropped.
    #[track_caller]
    pub fn drops(&self, packets: &[Packet]) -> &Self {
        packets.iter().for_each(|packet| self.expect(packet, false));
        self
    }

    /// Every rule as iptables spells it.
    pub fn rules(&self) -> Vec<String> {
        self.world.rules()
    }

    #[track_caller]
    fn expect(&self, packet: &Packet, allowed: bool) {
        match self.world.check(packet) {
            Ok(both) => assert_eq!(both, allowed, "{packet:?}"),
            Err(difference) => panic!("{difference}"),
        }
    }
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn key(name: &str) -> PodKey {
    let (namespace, name) = name.split_once('/').unwrap();
    PodKey::new(namespace, name)
}

/// One of the pods; it listens on `web` (TCP 80) and `dns` (UDP 53).
pub fn pod(name: &str) -> Pod {
    let (_, node, v4, v6) = PODS.iter().find(|(pod, ..)| *pod == name).unwrap();
    let port = |name: &str, protocol, port| EndpointPort { name: name.to_owned(), protocol, port };
    Pod {
        key: key(name),
        uid: name.to_owned(),
        node: Some((*node).into()),
        addresses: vec![v4.parse().unwrap(), v6.parse().unwrap()],
        labels: labels(&[("app", name.split_once('/').unwrap().1)]),
        ports: vec![port("web", Protocol::TCP, 80), port("dns", Protocol::UDP, 53)],
        service_account: Some("default".to_owned()),
        host_network: false,
        annotations: Labels::new(),
    }
}

pub fn update(pod: Pod) -> Update {
    Update::Pod(pod.key.clone(), Some(pod))
}

fn side(name: &str, v6: bool) -> Side {
    let pod = PODS.iter().find(|(pod, ..)| *pod == name);
    let (place, address): (Place, IpAddr) = match (pod, name) {
        (Some((_, _, own4, own6)), _) => {
            (Place::Pod(key(name)), if v6 { own6.parse().unwrap() } else { own4.parse().unwrap() })
        }
        (None, "n1" | "n2") => {
            let address = format!("{}{}", if v6 { "fd20::" } else { "172.20.0." }, &name[1..]);
            (Place::Node(name.into()), address.parse().unwrap())
        }
        (None, OUTSIDE) if v6 => (Place::Outside, "2001:db8::7".parse().unwrap()),
        (None, address) => (Place::Outside, address.parse().unwrap()),
    };
    Side { link: Some("eth0".into()), ..Side::new(place, address) }
}

/// An end is a pod, a node (`n1`) or an address outside.
pub fn packet(from: &str, to: &str, protocol: Protocol, port: u16) -> Packet {
    Packet::new(side(from, false), side(to, false), protocol, port)
}

pub fn tcp(from: &str, to: &str, port: u16) -> Packet {
    packet(from, to, Protocol::TCP, port)
}

pub fn udp(from: &str, to: &str, port: u16) -> Packet {
    packet(from, to, Protocol::UDP, port)
}

pub fn tcp6(from: &str, to: &str, port: u16) -> Packet {
    Packet::new(side(from, true), side(to, true), Protocol::TCP, port)
}

/// ICMP of this type.
pub fn icmp(from: &str, to: &str, kind: u8) -> Packet {
    Packet { icmp: Some((kind, 0)), ..packet(from, to, Protocol::ICMP, 0) }
}

pub fn icmp6(from: &str, to: &str, kind: u8) -> Packet {
    Packet { icmp: Some((kind, 0)), ..Packet::new(side(from, true), side(to, true), Protocol::ICMPV6, 0) }
}

/// A GlobalNetworkPolicy of tier `default` for what `selector` matches, in no direction yet.
pub fn global(name: &str, selector: &str) -> Policy {
    Policy::new(PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, name), selector.parse().unwrap())
}

/// A Kubernetes NetworkPolicy of namespace `x` for pods with this label `app`.
pub fn kubernetes(name: &str, app: &str) -> Policy {
    let key = PolicyKey::new(PolicyKind::KubernetesNetworkPolicy, Some("x"), name);
    let selector = format!("projectcalico.org/namespace == 'x' && app == '{app}'");
    Policy { order: Some(1000.0), ..Policy::new(key, selector.parse().unwrap()) }
}

pub trait Directions: Sized {
    fn ingress(self, rules: &[Rule]) -> Self;
    fn egress(self, rules: &[Rule]) -> Self;
    fn order(self, order: f64) -> Self;
    fn tier(self, tier: &str) -> Self;
}

impl Directions for Policy {
    fn ingress(self, rules: &[Rule]) -> Self {
        Self { applies_to_ingress: true, ingress: rules.to_vec(), ..self }
    }

    fn egress(self, rules: &[Rule]) -> Self {
        Self { applies_to_egress: true, egress: rules.to_vec(), ..self }
    }

    fn order(self, order: f64) -> Self {
        Self { order: Some(order), ..self }
    }

    fn tier(self, tier: &str) -> Self {
        Self { tier: tier.into(), ..self }
    }
}

pub fn allow() -> Rule {
    Rule::any(Action::Allow)
}

pub fn deny() -> Rule {
    Rule::any(Action::Deny)
}

pub fn pass() -> Rule {
    Rule::any(Action::Pass)
}

pub trait Matches: Sized {
    fn from(self, selector: &str) -> Self;
    fn to(self, selector: &str) -> Self;
    fn source(self, change: impl FnOnce(&mut EntityRule)) -> Self;
    fn destination(self, change: impl FnOnce(&mut EntityRule)) -> Self;
    fn protocol(self, protocol: Protocol) -> Self;
    fn ports(self, ports: &[&str]) -> Self;
}

impl Matches for Rule {
    fn from(self, selector: &str) -> Self {
        self.source(|entity| entity.selector = Some(parse(selector)))
    }

    fn to(self, selector: &str) -> Self {
        self.destination(|entity| entity.selector = Some(parse(selector)))
    }

    fn source(mut self, change: impl FnOnce(&mut EntityRule)) -> Self {
        change(&mut self.source);
        self
    }

    fn destination(mut self, change: impl FnOnce(&mut EntityRule)) -> Self {
        change(&mut self.destination);
        self
    }

    fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol: Some(protocol), ..self }
    }

    fn ports(mut self, ports: &[&str]) -> Self {
        self.destination.ports = port_list(ports);
        self
    }
}

pub fn parse(selector: &str) -> Selector {
    selector.parse().unwrap()
}

pub fn port_list(ports: &[&str]) -> Vec<PortMatch> {
    ports.iter().map(|port| port.parse().unwrap()).collect()
}

pub fn nets(nets: &[&str]) -> Vec<model::Cidr> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}
