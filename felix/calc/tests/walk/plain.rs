//! What a state must lead to, by looking at everything for every question: no index, nothing kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kernel::IpSetMember;
use model::{
    Action, Cidr, EndpointPort, EndpointSlice, EntityRule, HostEndpoint, Labels, LocalEndpoint, NetworkSet,
    NetworkSetKey, Pod, PodKey, Policy, PolicyKey, PortMatch, Profile, Protocol, Rule, Selector, Tier,
    Update,
};
use sha2::{Digest, Sha224};

use crate::fake::member;
use crate::state::{NODE, State, Thing};

/// Something that selectors match.
struct Object {
    labels: Labels,
    nets: Vec<Cidr>,
    ports: Vec<EndpointPort>,
}

enum Definition {
    Selector(Selector),
    Named(Selector, Option<Protocol>, String),
    Service(String, bool),
}

/// A state by kinds, and what was found out about it so far.
#[derive(Default)]
pub struct Plain {
    pods: BTreeMap<PodKey, Pod>,
    namespaces: BTreeMap<String, Labels>,
    accounts: BTreeMap<(String, String), Labels>,
    hosts: Vec<HostEndpoint>,
    network_sets: Vec<(NetworkSetKey, NetworkSet)>,
    own_profiles: BTreeMap<String, Profile>,
    slices: Vec<EndpointSlice>,
    policies: BTreeMap<PolicyKey, Policy>,
    tiers: BTreeMap<String, Tier>,
    locals: BTreeMap<String, LocalEndpoint>,
    definitions: BTreeMap<String, Definition>,
    rules: BTreeMap<String, Vec<String>>,
    lines: Vec<String>,
}

impl Plain {
    pub fn new(state: &State) -> Self {
        let mut plain = Self::default();
        state.things.values().cloned().for_each(|thing| plain.store(thing));
        plain.work_out();
        plain
    }

    /// As `Fake::lines`.
    pub fn lines(&self) -> Vec<String> {
        self.lines.clone()
    }

    /// As `Fake::rules`.
    pub fn rules(&self) -> BTreeMap<String, Vec<String>> {
        self.rules.clone()
    }

    fn store(&mut self, thing: Thing) {
        match thing {
            Thing::Local(endpoint) => _ = self.locals.insert(endpoint.interface.clone(), endpoint),
            Thing::Stored(Update::Pod(key, Some(pod))) => _ = self.pods.insert(key, pod),
            Thing::Stored(Update::Namespace(name, Some(labels))) => _ = self.namespaces.insert(name, labels),
            Thing::Stored(Update::ServiceAccount(namespace, name, Some(labels))) => {
                self.accounts.insert((namespace, name), labels);
            }
            Thing::Stored(Update::HostEndpoint(_, Some(endpoint))) => self.hosts.push(*endpoint),
            Thing::Stored(Update::NetworkSet(key, Some(set))) => self.network_sets.push((key, set)),
            Thing::Stored(Update::Profile(name, Some(profile))) => {
                self.own_profiles.insert(name.to_string(), *profile);
            }
            Thing::Stored(Update::EndpointSlice(_, Some(slice))) => self.slices.push(slice),
            Thing::Stored(Update::Policy(key, Some(policy))) => _ = self.policies.insert(key, *policy),
            Thing::Stored(Update::Tier(name, Some(tier))) => _ = self.tiers.insert(name, tier),
            // Nothing that is worked out here depends on these.
            Thing::Stored(
                Update::Node(..) | Update::Pool(..) | Update::Block(..) | Update::FelixConfiguration(_),
            ) => {}
            Thing::Stored(other) => panic!("{other:?} has no place in a state"),
        }
    }

    fn work_out(&mut self) {
        let hosts: Vec<_> = self.hosts.iter().filter(|host| host.node.as_str() == NODE).cloned().collect();
        let mut endpoints = Vec::new();
        let mut subjects = Vec::new();
        let mut profiles = BTreeSet::new();
        for local in self.locals.clone().into_values() {
            let pod = self.pods.get(&local.pod).filter(|pod| !pod.host_network);
            let what = match pod {
                None => "closed, the Pod is not known".to_owned(),
                Some(_) if !self.namespaces.contains_key(&*local.pod.namespace) => {
                    "closed, the Namespace is not known".to_owned()
                }
                Some(pod) => {
                    let labels = self.labels_of_pod(pod);
                    profiles.insert(format!("kns.{}", local.pod.namespace));
                    let tiers = self.tiers_of(&labels, is_normal, false);
                    subjects.push((labels, false));
                    tiers
                }
            };
            endpoints.push(format!("endpoint {}: {what}", local.pod).trim_end().to_owned());
        }
        for host in &hosts {
            endpoints.push(self.host_line(host));
            profiles.extend(host.profiles.iter().map(ToString::to_string));
            subjects.push((self.labels_of_host(host), true));
        }
        let mut lines = Vec::new();
        for (key, policy) in self.policies.clone() {
            let binds = subjects.iter().any(|(labels, is_host)| {
                policy.selector.matches(labels) && (*is_host || !(policy.do_not_track || policy.pre_dnat))
            });
            if key.kind.is_staged() || !(binds || policy.needed_everywhere) {
                continue;
            }
            lines.push(format!("policy {key}"));
            let ingress = if policy.applies_to_ingress { &*policy.ingress } else { &[] };
            let egress = if policy.applies_to_egress { &*policy.egress } else { &[] };
            self.note_rules(key.to_string(), ingress, egress);
        }
        for name in profiles {
            let (ingress, egress) = self.profile(&name);
            let actions =
                |rules: &[Rule]| format!("{:?}", rules.iter().map(|r| r.action).collect::<Vec<_>>());
            if !name.starts_with("kns.") {
                lines.push(format!("profile {name}: in {} out {}", actions(&ingress), actions(&egress)));
            }
            self.note_rules(name, &ingress, &egress);
        }
        let sets = self.definitions.iter().map(|(id, definition)| {
            let members: Vec<_> = self.members(definition).iter().map(member).collect();
            format!("set {id}: {}", members.join(" "))
        });
        self.lines = sets.chain(lines).chain(endpoints).collect();
    }

    fn host_line(&self, host: &HostEndpoint) -> String {
        let labels = self.labels_of_host(host);
        let stages = [
            ("untracked", self.tiers_of(&labels, |policy| policy.do_not_track, false)),
            ("preDNAT", self.tiers_of(&labels, |policy| policy.pre_dnat, true)),
            ("forward", self.tiers_of(&labels, |policy| is_normal(policy) && policy.apply_on_forward, false)),
            ("normal", self.tiers_of(&labels, is_normal, false)),
        ];
        let stages = stages.iter().filter(|(_, tiers)| !tiers.is_empty());
        let stages: Vec<_> = stages.map(|(stage, tiers)| format!("{stage} {tiers}")).collect();
        format!("host {}: {} profiles [{}]", host.name, stages.join(" | "), host.profiles.join(" "))
    }

    fn profile(&self, name: &str) -> (Vec<Rule>, Vec<Rule>) {
        let both = |rules: Vec<Rule>| (rules.clone(), rules);
        if let Some(namespace) = name.strip_prefix("kns.") {
            let is_known = self.namespaces.contains_key(namespace);
            return both(vec![Rule::any(if is_known { Action::Allow } else { Action::Deny })]);
        }
        if let Some(account) = name.strip_prefix("ksa.").and_then(|rest| rest.split_once('.')) {
            let is_known = self.accounts.contains_key(&(account.0.to_owned(), account.1.to_owned()));
            return both(if is_known { Vec::new() } else { vec![Rule::any(Action::Deny)] });
        }
        match self.own_profiles.get(name) {
            Some(profile) => (profile.ingress.clone(), profile.egress.clone()),
            None if name == "projectcalico-default-allow" => both(vec![Rule::any(Action::Allow)]),
            None => both(vec![Rule::any(Action::Deny)]),
        }
    }

    fn tiers_of(&self, labels: &Labels, is_wanted: fn(&Policy) -> bool, ingress_only: bool) -> String {
        let policies = self.policies.values().filter(|policy| !policy.key.kind.is_staged());
        let mut policies: Vec<_> =
            policies.filter(|policy| is_wanted(policy) && policy.selector.matches(labels)).collect();
        let last = |order: Option<f64>| order.unwrap_or(f64::INFINITY);
        policies.sort_by(|a, b| {
            let rest = |p: &Policy| (p.key.name.clone(), p.key.namespace.clone(), p.key.kind);
            last(a.order).total_cmp(&last(b.order)).then_with(|| rest(a).cmp(&rest(b)))
        });
        let mut tiers: Vec<Tier> = Vec::new();
        for policy in &policies {
            if !tiers.iter().any(|tier| tier.name == policy.tier) {
                let known = self.tiers.get(&*policy.tier).cloned().or_else(|| Tier::built_in(&policy.tier));
                let missing = Tier { name: policy.tier.clone(), order: None, default_action_is_pass: false };
                tiers.push(known.unwrap_or(missing));
            }
        }
        tiers.sort_by(|a, b| last(a.order).total_cmp(&last(b.order)).then_with(|| a.name.cmp(&b.name)));
        let mut texts = Vec::new();
        for tier in tiers {
            let of_tier = policies.iter().filter(|policy| policy.tier == tier.name);
            let names = |applies: fn(&Policy) -> bool| -> Vec<String> {
                of_tier
                    .clone()
                    .filter(|policy| applies(policy))
                    .map(|policy| policy.key.to_string())
                    .collect()
            };
            let ingress = names(|policy| policy.applies_to_ingress);
            let egress = if ingress_only { Vec::new() } else { names(|policy| policy.applies_to_egress) };
            if !ingress.is_empty() || !egress.is_empty() {
                let end = if tier.default_action_is_pass { "pass" } else { "deny" };
                let (ingress, egress) = (ingress.join(" "), egress.join(" "));
                texts.push(format!("{} in [{ingress}] out [{egress}] {end}", tier.name));
            }
        }
        texts.join("; ")
    }

    fn note_rules(&mut self, name: String, ingress: &[Rule], egress: &[Rule]) {
        let texts = ingress.iter().chain(egress).map(|rule| {
            let from = self.entity(&rule.source, rule.protocol, false);
            let to = self.entity(&rule.destination, rule.protocol, true);
            format!("{:?} from [{from}] to [{to}]", rule.action)
        });
        let texts = texts.collect();
        self.rules.insert(name, texts);
    }

    fn entity(&mut self, entity: &EntityRule, protocol: Option<Protocol>, is_destination: bool) -> String {
        let mut texts = Vec::new();
        let mut refer = |what: &str, definition: Definition| {
            let id = definition.id();
            texts.push(format!("{what} {id}"));
            self.definitions.insert(id, definition);
        };
        if let Some(service) = &entity.service {
            let what = if is_destination { "service" } else { "set" };
            refer(what, Definition::Service(service.to_string(), is_destination));
            return texts.join(", ");
        }
        let (positive, negative) = match (entity.selector.clone(), entity.not_selector.clone()) {
            (Some(selector), Some(not)) => (Some(Selector::and([selector, not.negated()])), None),
            other => other,
        };
        let names = |ports: &[PortMatch]| -> Vec<String> {
            let names = ports.iter().filter_map(|port| match port {
                PortMatch::Named(name) => Some(name.clone()),
                PortMatch::Range(_) => None,
            });
            names.collect()
        };
        let named = names(&entity.ports);
        let has_numbers = named.len() < entity.ports.len();
        if let Some(selector) = positive.clone().filter(|_| named.is_empty() || has_numbers) {
            refer("set", Definition::Selector(selector));
        }
        if let Some(selector) = negative {
            refer("not", Definition::Selector(selector));
        }
        for name in named {
            let selector = positive.clone().unwrap_or(Selector::all());
            refer("port", Definition::Named(selector, protocol, name));
        }
        for name in names(&entity.not_ports) {
            refer("not port", Definition::Named(Selector::all(), protocol, name));
        }
        texts.join(", ")
    }

    fn members(&self, definition: &Definition) -> BTreeSet<IpSetMember> {
        let (Definition::Selector(selector) | Definition::Named(selector, ..)) = definition else {
            return self.members_of_service(definition);
        };
        let objects = self.objects();
        let matching = objects.iter().filter(|object| selector.matches(&object.labels));
        let mut members = BTreeSet::new();
        for object in matching {
            let Definition::Named(_, protocol, name) = definition else {
                members.extend(object.nets.iter().copied().map(IpSetMember::Net));
                continue;
            };
            let ports = object.ports.iter().filter(|port| port.name == *name);
            for port in ports.filter(|port| protocol.is_none_or(|wanted| wanted == port.protocol)) {
                let addresses = object.nets.iter().map(|net| net.address());
                members.extend(addresses.map(|a| IpSetMember::IpPort(a, port.protocol, port.port)));
            }
        }
        members
    }

    fn members_of_service(&self, definition: &Definition) -> BTreeSet<IpSetMember> {
        let Definition::Service(service, with_ports) = definition else { return BTreeSet::new() };
        let is_of = |slice: &&EndpointSlice| format!("{}/{}", slice.key.namespace, slice.service) == *service;
        let mut members = BTreeSet::new();
        for slice in self.slices.iter().filter(is_of) {
            for address in &slice.addresses {
                if *with_ports {
                    let ports = slice.ports.iter();
                    members.extend(ports.map(|port| IpSetMember::IpPort(*address, port.protocol, port.port)));
                } else {
                    members.insert(IpSetMember::Net(Cidr::host(*address)));
                }
            }
        }
        members
    }

    fn objects(&self) -> Vec<Object> {
        let hosts_only = |addresses: &mut dyn Iterator<Item = IpAddr>| addresses.map(Cidr::host).collect();
        let pods = self.pods.values().filter(|pod| !pod.host_network).map(|pod| {
            let local = self.locals.values().filter(|local| local.pod == pod.key);
            let local = local.flat_map(|local| &local.addresses);
            let nets = hosts_only(&mut pod.addresses.iter().chain(local).copied());
            Object { labels: self.labels_of_pod(pod), nets, ports: pod.ports.clone() }
        });
        let hosts = self.hosts.iter().map(|host| Object {
            labels: self.labels_of_host(host),
            nets: hosts_only(&mut host.expected_ips.iter().copied()),
            ports: host.ports.clone(),
        });
        let sets = self.network_sets.iter().map(|(key, set)| Object {
            labels: self.labels_of_set(key, set),
            nets: set.nets.to_vec(),
            ports: Vec::new(),
        });
        pods.chain(hosts).chain(sets).collect()
    }

    fn labels_of_pod(&self, pod: &Pod) -> Labels {
        let mut labels = Labels::new();
        if let Some(account) = &pod.service_account {
            labels.extend(self.inherited(&format!("ksa.{}.{account}", pod.key.namespace)));
        }
        labels.extend(self.inherited(&format!("kns.{}", pod.key.namespace)));
        labels.extend(unforged(&pod.labels));
        labels.insert("projectcalico.org/namespace".to_owned(), pod.key.namespace.to_string());
        labels.insert("projectcalico.org/orchestrator".to_owned(), "k8s".to_owned());
        if let Some(account) = &pod.service_account {
            labels.insert("projectcalico.org/serviceaccount".to_owned(), account.clone());
        }
        labels
    }

    fn labels_of_host(&self, host: &HostEndpoint) -> Labels {
        let mut labels = Labels::new();
        host.profiles.iter().rev().for_each(|profile| labels.extend(self.inherited(profile)));
        labels.extend(host.labels.clone());
        labels
    }

    fn labels_of_set(&self, key: &NetworkSetKey, set: &NetworkSet) -> Labels {
        let Some(namespace) = &key.namespace else { return set.labels.clone() };
        let mut labels = self.inherited(&format!("kns.{namespace}"));
        labels.extend(unforged(&set.labels));
        labels.insert("projectcalico.org/namespace".to_owned(), namespace.to_string());
        labels
    }

    fn inherited(&self, profile: &str) -> Labels {
        if let Some(name) = profile.strip_prefix("kns.") {
            return self.namespaces.get(name).map(|l| prefixed("pcns.", name, l)).unwrap_or_default();
        }
        if let Some((namespace, name)) = profile.strip_prefix("ksa.").and_then(|rest| rest.split_once('.')) {
            let labels = self.accounts.get(&(namespace.to_owned(), name.to_owned()));
            return labels.map(|labels| prefixed("pcsa.", name, labels)).unwrap_or_default();
        }
        self.own_profiles.get(profile).map(|profile| profile.labels.clone()).unwrap_or_default()
    }
}

impl Definition {
    fn id(&self) -> String {
        let hashed = |prefix: &str, text: &str| {
            format!("{prefix}:{}", URL_SAFE_NO_PAD.encode(Sha224::digest(format!("{prefix}:{text}"))))
        };
        match self {
            Self::Selector(selector) => hashed("s", selector.as_str()),
            Self::Named(selector, protocol, name) => {
                let protocol = protocol.map_or("any".to_owned(), |p| p.to_string().to_lowercase());
                hashed("n", &format!("{},{protocol},{name}", hashed("s", selector.as_str())))
            }
            Self::Service(service, true) => hashed("svc", service),
            Self::Service(service, false) => hashed("svcnoport", service),
        }
    }
}

fn is_normal(policy: &Policy) -> bool {
    !policy.do_not_track && !policy.pre_dnat
}

fn unforged(labels: &Labels) -> Labels {
    let own =
        ["projectcalico.org/namespace", "projectcalico.org/orchestrator", "projectcalico.org/serviceaccount"];
    let is_forged = |key: &str| key.starts_with("pcns.") || key.starts_with("pcsa.") || own.contains(&key);
    labels.iter().filter(|(key, _)| !is_forged(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn prefixed(prefix: &str, name: &str, labels: &Labels) -> Labels {
    let mut prefixed: Labels = labels.iter().map(|(k, v)| (format!("{prefix}{k}"), v.clone())).collect();
    prefixed.insert(format!("{prefix}projectcalico.org/name"), name.to_owned());
    prefixed
}
