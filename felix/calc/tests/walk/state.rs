//! Datastore states, and the walk over them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felix_calc::Calc;
use kernel::IpSetMember;
use model::{
    Action, EndpointSlice, EntityRule, Family, Labels, LocalEndpoint, NodeName, ObjectKey, Pod, PodKey,
    Policy, PolicyKey, PolicyKind, Rule, ServicePort, Tier, Update,
};

use crate::fake::Fake;
use crate::plain::Plain;
use crate::random::Random;

/// The node that is calculated for.
pub const NODE: &str = "n1";

/// One thing that is there.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a state has some dozen of them")]
pub enum Thing {
    Stored(Update),
    Local(LocalEndpoint),
}

/// All that is there, by a key of its own.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub things: BTreeMap<String, Thing>,
    expected: Option<Vec<String>>,
}

impl State {
    pub fn with(mut self, update: Update) -> Self {
        let key = match &update {
            Update::Node(name, _) => format!("node {name}"),
            Update::Pod(key, _) => format!("pod {key}"),
            Update::Namespace(name, _) => format!("namespace {name}"),
            Update::ServiceAccount(namespace, name, _) => format!("account {namespace}/{name}"),
            Update::Policy(key, _) => format!("policy {key}"),
            Update::Tier(name, _) => format!("tier {name}"),
            Update::Pool(name, _) => format!("pool {name}"),
            Update::Block(cidr, _) => format!("block {cidr}"),
            Update::HostEndpoint(name, _) => format!("host {name}"),
            Update::NetworkSet(key, _) => format!("set {key}"),
            Update::Profile(name, _) => format!("profile {name}"),
            Update::EndpointSlice(key, _) => format!("slice {key}"),
            Update::FelixConfiguration(_) => "configuration".to_owned(),
            other => panic!("{other:?} has no place in a state"),
        };
        self.things.insert(key, Thing::Stored(update));
        self
    }

    pub fn with_local(mut self, pod: &Pod) -> Self {
        let endpoint = LocalEndpoint {
            container_id: "c".to_owned(),
            pod: pod.key.clone(),
            interface: interface(&pod.key),
            addresses: pod.addresses.clone(),
            mac: [1; 6],
        };
        self.things.insert(format!("local {}", endpoint.interface), Thing::Local(endpoint));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.things.remove(key).unwrap_or_else(|| panic!("there is no {key}"));
        self
    }

    /// What must be active, as [`Fake::lines`] says it.
    pub fn leads_to(mut self, lines: &[&str]) -> Self {
        self.expected = Some(lines.iter().map(|line| (*line).to_owned()).collect());
        self
    }

    /// The ways to other nodes that it leads to.
    pub fn ways(&self) -> Vec<String> {
        reached_directly(self).ways()
    }

    /// Who is talked with through WireGuard.
    pub fn encrypted(&self) -> Vec<String> {
        reached_directly(self).encrypted()
    }

    /// The calculation, after it was told all of it.
    pub fn calc(self) -> Calc {
        let mut walker = Walker::new();
        tell_all(&mut walker.calc, self);
        walker.fake.apply(walker.calc.flush());
        walker.calc
    }

    /// The members of the only set that it leads to.
    pub fn members(&self) -> Vec<IpSetMember> {
        let sets = reached_directly(self).members();
        assert_eq!(sets.len(), 1, "{sets:?}");
        sets.into_iter().next().expect("there is one")
    }

    /// What takes another state here.
    fn from(&self, other: &State) -> Vec<Thing> {
        let gone = other.things.iter().filter(|(key, _)| !self.things.contains_key(*key));
        let come = self.things.iter().filter(|(key, thing)| other.things.get(*key) != Some(thing));
        gone.map(|(_, thing)| without(thing)).chain(come.map(|(_, thing)| thing.clone())).collect()
    }
}

fn interface(key: &PodKey) -> String {
    format!("cali-{}", key.name)
}

/// The thing as it is when it is gone.
fn without(thing: &Thing) -> Thing {
    Thing::Stored(match thing {
        // An empty container ID stands for "no endpoint" below.
        Thing::Local(endpoint) => {
            return Thing::Local(LocalEndpoint { container_id: String::new(), ..endpoint.clone() });
        }
        Thing::Stored(Update::Node(name, _)) => Update::Node(name.clone(), None),
        Thing::Stored(Update::Pod(key, _)) => Update::Pod(key.clone(), None),
        Thing::Stored(Update::Namespace(name, _)) => Update::Namespace(name.clone(), None),
        Thing::Stored(Update::ServiceAccount(namespace, name, _)) => {
            Update::ServiceAccount(namespace.clone(), name.clone(), None)
        }
        Thing::Stored(Update::Policy(key, _)) => Update::Policy(key.clone(), None),
        Thing::Stored(Update::Tier(name, _)) => Update::Tier(name.clone(), None),
        Thing::Stored(Update::Pool(name, _)) => Update::Pool(name.clone(), None),
        Thing::Stored(Update::Block(cidr, _)) => Update::Block(*cidr, None),
        Thing::Stored(Update::HostEndpoint(name, _)) => Update::HostEndpoint(name.clone(), None),
        Thing::Stored(Update::NetworkSet(key, _)) => Update::NetworkSet(key.clone(), None),
        Thing::Stored(Update::Profile(name, _)) => Update::Profile(name.clone(), None),
        Thing::Stored(Update::EndpointSlice(key, _)) => Update::EndpointSlice(key.clone(), None),
        Thing::Stored(Update::FelixConfiguration(_)) => Update::FelixConfiguration(None),
        Thing::Stored(other) => panic!("{other:?} has no place in a state"),
    })
}

fn tell(calc: &mut Calc, thing: Thing) {
    match thing {
        Thing::Stored(update) => calc.apply(update),
        Thing::Local(endpoint) => {
            let interface = endpoint.interface.clone();
            let endpoint = Some(endpoint).filter(|endpoint| !endpoint.container_id.is_empty());
            calc.set_local_endpoint(interface, endpoint);
        }
    }
}

/// Tells all that is there.
pub fn tell_all(calc: &mut Calc, state: State) {
    state.things.into_values().for_each(|thing| tell(calc, thing));
}

/// A calc with the dataplane behind it and the state that it was brought to.
struct Walker {
    calc: Calc,
    fake: Fake,
    at: State,
}

impl Walker {
    fn new() -> Self {
        let mut calc = Calc::new(NodeName::from(NODE));
        calc.apply(Update::InSync);
        Self { calc, fake: Fake::default(), at: State::default() }
    }

    /// Tells what differs, without a flush.
    fn head_for(&mut self, state: &State, random: &mut Random, twice: bool) {
        let mut things = state.from(&self.at);
        random.shuffle(&mut things);
        for thing in things {
            if twice {
                tell(&mut self.calc, thing.clone());
            }
            tell(&mut self.calc, thing);
        }
        self.at = state.clone();
    }

    fn arrive(&mut self, how: &str) {
        self.fake.apply(self.calc.flush());
        assert_eq!(self.calc.flush(), [], "{how}: a second flush says something");
        let fresh = reached_directly(&self.at);
        assert_eq!(self.fake.lines(), fresh.lines(), "{how}");
        assert_eq!(self.fake, fresh, "{how}");
    }
}

/// In the order of keys, not shuffled: the reference for all orders, and itself compared with what follows
/// from the state by the plainest of ways.
fn reached_directly(state: &State) -> Fake {
    let mut walker = Walker::new();
    for thing in state.things.values() {
        tell(&mut walker.calc, thing.clone());
    }
    walker.fake.apply(walker.calc.flush());
    let plain = Plain::new(state);
    assert_eq!(walker.fake.rules(), plain.rules());
    assert_eq!(walker.fake.lines(), plain.lines());
    walker.fake
}

/// Checks each state's own expectation, then walks over all of them in every way.
pub fn check_walk(states: &[State]) {
    for (number, state) in states.iter().enumerate() {
        if let Some(expected) = &state.expected {
            assert_eq!(reached_directly(state).lines(), *expected, "state {number}");
        }
    }
    let empty = State::default();
    let forth: Vec<&State> = states.iter().collect();
    let back: Vec<&State> = states.iter().rev().collect();
    let through_empty: Vec<&State> = states.iter().flat_map(|state| [state, &empty]).collect();
    for (seed, way) in [forth, back, through_empty].into_iter().enumerate() {
        let random = &mut Random(seed as u64);
        for twice in [false, true] {
            let mut walker = Walker::new();
            for (number, state) in way.iter().chain([&&empty]).enumerate() {
                walker.head_for(state, random, twice);
                walker.arrive(&format!("way {seed}, step {number}, twice {twice}"));
            }
        }
        // Several states between two flushes.
        let mut walker = Walker::new();
        for (number, state) in way.iter().enumerate() {
            walker.head_for(state, random, false);
            if number % 3 == 2 || number + 1 == way.len() {
                walker.arrive(&format!("way {seed}, squashed up to step {number}"));
            }
        }
    }
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn namespace(pairs: &[(&str, &str)]) -> Update {
    Update::Namespace("default".to_owned(), Some(labels(pairs)))
}

pub fn pod(name: &str, address: &str, pairs: &[(&str, &str)]) -> Pod {
    Pod {
        key: PodKey::new("default", name),
        uid: String::new(),
        node: None,
        addresses: vec![address.parse().unwrap()],
        labels: labels(pairs),
        ports: Vec::new(),
        service_account: Some("robot".to_owned()),
        host_network: false,
        annotations: Labels::new(),
    }
}

pub fn stored(pod: &Pod) -> Update {
    Update::Pod(pod.key.clone(), Some(pod.clone()))
}

/// A part of the endpoints of a Service in namespace `default`.
pub fn slice(name: &str, service: &str, addresses: Vec<IpAddr>, ports: Vec<ServicePort>) -> Update {
    let key = ObjectKey::new("default", name);
    let slice = EndpointSlice {
        key: key.clone(),
        service: service.into(),
        family: Family::V4,
        any_ready: true,
        ready_nodes: BTreeSet::new(),
        addresses,
        ports,
    };
    Update::EndpointSlice(key, Some(slice))
}

/// A policy for `selector` that allows what `from` selects.
pub fn policy(name: &str, selector: &str, from: &str) -> Policy {
    let source = EntityRule { selector: Some(from.parse().unwrap()), ..EntityRule::default() };
    Policy {
        tier: "default".into(),
        order: None,
        applies_to_ingress: true,
        applies_to_egress: false,
        ingress: vec![Rule { source, ..Rule::any(Action::Allow) }],
        egress: Vec::new(),
        ..Policy::new(
            PolicyKey { kind: PolicyKind::GlobalNetworkPolicy, namespace: None, name: name.into() },
            selector.parse().unwrap(),
        )
    }
}

pub fn applied(policy: &Policy) -> Update {
    Update::Policy(policy.key.clone(), Some(Box::new(policy.clone())))
}

pub fn tier(name: &str, order: Option<f64>) -> Update {
    Update::Tier(name.to_owned(), Some(Tier { name: name.into(), order, default_action_is_pass: true }))
}
