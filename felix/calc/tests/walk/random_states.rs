//! States at random: every kind of thing, few names, labels and addresses, so that much coincides.

use std::net::IpAddr;
use std::sync::Arc;

use model::{
    EndpointPort, HostEndpoint, LocalEndpoint, NetworkSet, NetworkSetKey, NodeName, ObjectKey, Pod, PodKey,
    Policy, PolicyKey, PolicyKind, PortMatch, PortRange, Profile, Protocol, Rule, ServicePort, Update,
};

use crate::random::Random;
use crate::state::{NODE, State, Thing, applied, check_walk, labels, pod, policy, slice, stored, tier};

const VALUES: [&str; 2] = ["a", "b"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
const PROTOCOLS: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];
const PROFILES: [&str; 6] =
    ["kns.default", "kns.other", "ksa.default.robot", "own", "missing", "projectcalico-default-allow"];
const SELECTORS: [&str; 14] = [
    "all()",
    "app == 'a'",
    "app in {'a', 'b'} && !has(tier)",
    "app != 'a'",
    "app starts with 'a'",
    "pcns.team == 'b'",
    "pcns.team not in {'a'} || tier == 'a'",
    "has(tier) && projectcalico.org/namespace == 'default'",
    "!has(projectcalico.org/namespace)",
    "pcns.projectcalico.org/name == 'other'",
    "pcsa.role == 'a'",
    "own == 'b' || app == 'b'",
    "app in {}",
    "projectcalico.org/orchestrator == 'k8s'",
];

#[test]
fn random_states_do_not_depend_on_the_way() {
    for seed in 0..60 {
        let random = &mut Random(seed);
        let states: Vec<State> = (0..8).map(|_| random_state(random)).collect();
        check_walk(&states);
    }
}

/// Long walks in which single things change, as in the life of a cluster.
#[test]
fn random_changes_lead_to_what_the_state_says() {
    for seed in 100..120 {
        let random = &mut Random(seed);
        let mut state = random_state(random);
        let mut states = vec![state.clone()];
        for _ in 0..30 {
            let other = random_state(random);
            for _ in 0..=random.below(3) {
                state = one_thing_changed(state, &other, random);
            }
            states.push(state.clone());
        }
        check_walk(&states);
    }
}

fn one_thing_changed(mut state: State, other: &State, random: &mut Random) -> State {
    let keys: Vec<String> = state.things.keys().chain(other.things.keys()).cloned().collect();
    if keys.is_empty() {
        return state;
    }
    let key = random.pick(&keys);
    match other.things.get(&key) {
        Some(thing) => _ = state.things.insert(key, thing.clone()),
        None => _ = state.things.remove(&key),
    }
    state
}

fn random_state(random: &mut Random) -> State {
    let mut state = State::default();
    for name in ["default", "other"] {
        if random.below(4) > 0 {
            let team = labels(&[("team", random.pick(&VALUES))]);
            state = state.with(Update::Namespace(name.to_owned(), Some(team)));
        }
    }
    if random.below(2) > 0 {
        let role = labels(&[("role", random.pick(&VALUES))]);
        state = state.with(Update::ServiceAccount("default".to_owned(), "robot".to_owned(), Some(role)));
    }
    if random.below(2) > 0 {
        state = state.with(tier("other", random.pick(&[None, Some(1.0), Some(2e6)])));
    }
    for name in ["p1", "p2", "p3", "p4", "p5"] {
        state = with_pod(state, name, random);
    }
    for name in ["q1", "q2", "q3", "q4"] {
        if random.below(3) > 0 {
            state = state.with(applied(&random_policy(name, random)));
        }
    }
    for name in ["h1", "h2"] {
        if random.below(2) > 0 {
            state = state.with(random_host(name, random));
        }
    }
    for namespace in [None, Some("default"), Some("other")] {
        if random.below(2) > 0 {
            state = state.with(random_set(namespace, random));
        }
    }
    for name in ["s1", "s2"] {
        if random.below(2) > 0 {
            state = state.with(random_slice(name, random));
        }
    }
    if random.below(2) > 0 {
        state = state.with(random_profile(random));
    }
    state
}

fn with_pod(mut state: State, name: &str, random: &mut Random) -> State {
    let mut pod = pod(name, random.pick(&ADDRESSES), &[]);
    pod.key = PodKey::new(if name < "p4" { "default" } else { "other" }, name);
    pod.labels = random_labels(random);
    pod.ports = (0..random.below(3)).map(|_| random_port(random)).collect();
    pod.service_account = random.pick(&[None, Some("robot".to_owned())]);
    pod.host_network = random.below(8) == 0;
    if random.below(6) == 0 {
        pod.addresses.push("fd00::2".parse().unwrap());
    }
    if random.below(6) == 0 {
        let floating = ("cni.projectcalico.org/floatingIPs".to_owned(), "[\"192.0.2.7\"]".to_owned());
        pod.annotations.extend([floating]);
    }
    if random.below(4) > 0 {
        state = state.with(stored(&pod));
    }
    if random.below(2) > 0 {
        state = state.with_local(&Pod { addresses: vec![address(random)], ..pod.clone() });
    }
    if random.below(10) == 0 {
        let second = LocalEndpoint {
            container_id: "second".to_owned(),
            pod: pod.key.clone(),
            interface: format!("cali-{name}-2"),
            addresses: vec![address(random)],
            mac: [2; 6],
        };
        state.things.insert(format!("local {}", second.interface), Thing::Local(second));
    }
    state
}

fn random_policy(name: &str, random: &mut Random) -> Policy {
    let kinds = [
        PolicyKind::GlobalNetworkPolicy,
        PolicyKind::GlobalNetworkPolicy,
        PolicyKind::GlobalNetworkPolicy,
        PolicyKind::NetworkPolicy,
        PolicyKind::KubernetesNetworkPolicy,
        PolicyKind::StagedGlobalNetworkPolicy,
    ];
    let kind = random.pick(&kinds);
    let namespace = if kind.short().ends_with("gnp") { None } else { Some("default") };
    let rules = |random: &mut Random| (0..random.below(3)).map(|_| random_rule(random)).collect();
    Policy {
        key: PolicyKey::new(kind, namespace, name),
        tier: random.pick(&["default", "other"]).into(),
        order: random.pick(&[None, Some(1.0), Some(-2.5)]),
        applies_to_ingress: random.below(4) > 0,
        applies_to_egress: random.below(2) > 0,
        ingress: rules(random),
        egress: rules(random),
        do_not_track: random.below(8) == 0,
        apply_on_forward: random.below(3) == 0,
        needed_everywhere: random.below(10) == 0,
        generation: random.below(3) as i64,
        ..policy(name, random.pick(&SELECTORS), "all()")
    }
    .with_pre_dnat(random.below(8) == 0)
}

/// A policy cannot be both.
trait WithPreDnat {
    fn with_pre_dnat(self, wanted: bool) -> Self;
}

impl WithPreDnat for Policy {
    fn with_pre_dnat(mut self, wanted: bool) -> Self {
        self.pre_dnat = wanted && !self.do_not_track;
        self
    }
}

fn random_rule(random: &mut Random) -> Rule {
    let mut rule = policy("", "all()", random.pick(&SELECTORS)).ingress.remove(0);
    rule.protocol = random.pick(&[None, Some(Protocol::TCP), Some(Protocol::UDP)]);
    match random.below(6) {
        0 => rule.source.not_selector = Some(random.pick(&SELECTORS).parse().unwrap()),
        1 => {
            rule.source.selector = None;
            rule.source.not_selector = Some(random.pick(&SELECTORS).parse().unwrap());
        }
        2 => {
            rule.source.selector = None;
            rule.source.service = Some(service(random));
        }
        _ => {}
    }
    let name = PortMatch::Named(random.pick(&PORT_NAMES).to_owned());
    let to = &mut rule.destination;
    match random.below(6) {
        0 => to.service = Some(service(random)),
        1 => to.ports = vec![name, PortMatch::Range(PortRange::single(80))],
        2 => to.ports = vec![name],
        3 => to.not_ports = vec![name],
        _ => {}
    }
    if to.service.is_none() && random.below(3) == 0 {
        to.selector = Some(random.pick(&SELECTORS).parse().unwrap());
    }
    rule
}

fn random_host(name: &str, random: &mut Random) -> Update {
    let mut profiles: Vec<Arc<str>> = Vec::new();
    for _ in 0..random.below(3) {
        profiles.push(random.pick(&PROFILES).into());
    }
    let endpoint = HostEndpoint {
        name: name.into(),
        node: NodeName::from(random.pick(&[NODE, "n2"])),
        interface: None,
        expected_ips: (0..random.below(3)).map(|_| address(random)).collect(),
        labels: random_labels(random),
        profiles,
        ports: (0..random.below(2)).map(|_| random_port(random)).collect(),
    };
    Update::HostEndpoint(name.into(), Some(Box::new(endpoint)))
}

fn random_set(namespace: Option<&str>, random: &mut Random) -> Update {
    let nets = ["10.0.0.1/32", "10.0.0.0/24", "0.0.0.0/0", "fd00::/64", "fd00::1/128"];
    let nets = nets.iter().filter(|_| random.below(2) > 0).map(|net| net.parse().unwrap()).collect();
    let mut labels = random_labels(random);
    if random.below(4) == 0 {
        labels.insert("pcns.team".to_owned(), "b".to_owned());
    }
    Update::NetworkSet(NetworkSetKey::new(namespace, "set"), Some(NetworkSet { labels, nets }))
}

fn random_slice(name: &str, random: &mut Random) -> Update {
    let ports = (0..random.below(3)).map(|_| ServicePort {
        name: "".into(),
        protocol: random.pick(&PROTOCOLS),
        port: random.pick(&[80, 53]),
    });
    let ports = ports.collect();
    let addresses = (0..random.below(3)).map(|_| address(random)).collect();
    slice(name, random.pick(&["web", "db"]), addresses, ports)
}

fn random_profile(random: &mut Random) -> Update {
    let profile = Profile {
        name: "own".into(),
        ingress: (0..random.below(2)).map(|_| random_rule(random)).collect(),
        egress: vec![random_rule(random)],
        labels: labels(&[("own", random.pick(&VALUES)), ("tier", "a")]),
    };
    Update::Profile("own".into(), Some(Box::new(profile)))
}

fn random_labels(random: &mut Random) -> model::Labels {
    let keys = ["app", "tier"].into_iter().filter(|_| random.below(2) > 0).collect::<Vec<_>>();
    keys.into_iter().map(|key| (key.to_owned(), random.pick(&VALUES).to_owned())).collect()
}

fn random_port(random: &mut Random) -> EndpointPort {
    let name = random.pick(&PORT_NAMES).to_owned();
    EndpointPort { name, protocol: random.pick(&PROTOCOLS), port: random.pick(&[80, 53]) }
}

fn service(random: &mut Random) -> ObjectKey {
    ObjectKey::new("default", random.pick(&["web", "db"]))
}

fn address(random: &mut Random) -> IpAddr {
    random.pick(&ADDRESSES).parse().unwrap()
}
