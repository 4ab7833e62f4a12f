//! Pods that no policy can tell apart, so that two of each stand for thousands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felix_evaluate::{Place, State};
use model::{Cidr, EntityRule, Family, Pod, PodKey, Update};

use super::ports::PortNames;

/// Prefixes outside the cluster that are looked at one by one.
const MOST_NETS: usize = 64;
/// Addresses that stand for everything else outside (RFC 5737, RFC 3849, and two that are not reserved).
const ELSEWHERE: [&str; 6] =
    ["192.0.2.1", "198.51.100.1", "203.0.113.1", "8.8.4.4", "2001:db8::1", "2606:4700::1"];

/// What may send or receive.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// Whose pods these are: `namespace/workload`, or what is outside.
    pub(super) workload: String,
    /// How many pods it has; 0 for what is outside.
    pub(super) pods: usize,
    /// One or two of them.
    pub(super) samples: Vec<Sample>,
}

/// One pod, or one place outside.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) place: Place,
    pub(super) addresses: Vec<IpAddr>,
}

/// All that rules of some states can tell apart.
pub(super) struct Distinctions {
    /// Everything that policies and what they refer to say, as text: a label whose key is not in it is none of theirs.
    words: String,
    nets: BTreeSet<Cidr>,
    services: Vec<BTreeSet<IpAddr>>,
    pub(super) ports: PortNames,
    by_node: bool,
}

impl Distinctions {
    /// Of everything that any of `updates` says.
    pub(super) fn of<'u>(updates: impl Iterator<Item = &'u Update>) -> Self {
        let mut all = Self {
            words: String::new(),
            nets: BTreeSet::new(),
            services: Vec::new(),
            ports: PortNames::default(),
            by_node: false,
        };
        for update in updates {
            all.take(update);
        }
        all
    }

    fn take(&mut self, update: &Update) {
        match update {
            Update::Policy(_, Some(policy)) => {
                self.words.push_str(&format!("{policy:?}"));
                policy.ingress.iter().chain(&policy.egress).for_each(|rule| self.rule(rule));
            }
            Update::Profile(_, Some(profile)) => {
                self.words.push_str(&format!("{profile:?}"));
                profile.ingress.iter().chain(&profile.egress).for_each(|rule| self.rule(rule));
            }
            Update::NetworkSet(_, Some(set)) => self.nets.extend(set.nets.iter().copied()),
            Update::HostEndpoint(_, Some(_)) => self.by_node = true,
            Update::EndpointSlice(_, Some(slice)) => {
                self.services.push(slice.addresses.iter().copied().collect());
                slice.ports.iter().for_each(|port| self.ports.port(port.port));
            }
            Update::Pod(_, Some(pod)) => pod.ports.iter().for_each(|port| self.ports.port(port.port)),
            _ => {}
        }
    }

    fn rule(&mut self, rule: &model::Rule) {
        self.ports.rule(rule);
        for EntityRule { nets, not_nets, .. } in [&rule.source, &rule.destination] {
            self.nets.extend(nets.iter().chain(not_nets).copied());
        }
    }

    /// What a policy can see of a pod.
    fn seen(&self, pod: &Pod) -> String {
        let labels = pod.labels.iter().filter(|(key, _)| self.words.contains(key.as_str()));
        let labels: Vec<_> = labels.collect();
        let nets: Vec<_> =
            self.nets.iter().filter(|net| pod.addresses.iter().any(|a| net.contains(*a))).collect();
        let services = self.services.iter().enumerate();
        let services: Vec<_> =
            services.filter(|(_, of)| pod.addresses.iter().any(|a| of.contains(a))).map(|(i, _)| i).collect();
        let families: BTreeSet<_> = pod.addresses.iter().map(|address| Family::of(*address)).collect();
        let node = pod.node.as_ref().filter(|_| self.by_node);
        let account = &pod.service_account;
        let ports = &pod.ports;
        let sources = &pod.annotations;
        format!("{account:?}{labels:?}{ports:?}{nets:?}{services:?}{families:?}{node:?}{sources:?}")
    }

    /// Every class of pods of a state, and of what is outside.
    pub(super) fn classes(&self, state: &State) -> Vec<Class> {
        let mut classes: BTreeMap<(String, String), Class> = BTreeMap::new();
        for pod in state.pods().filter(|pod| !pod.host_network && !pod.addresses.is_empty()) {
            let workload = workload(pod);
            let key = (workload.clone(), self.seen(pod));
            let class = classes.entry(key).or_insert(Class { workload, pods: 0, samples: Vec::new() });
            class.pods += 1;
            if class.samples.len() < 2 {
                let place = Place::Pod(pod.key.clone());
                class.samples.push(Sample { place, addresses: pod.addresses.clone() });
            }
        }
        let mut classes: Vec<_> = classes.into_values().collect();
        classes.extend(self.outside(state));
        classes
    }

    /// Places outside: one in each prefix that rules name, and one in none for each family.
    fn outside(&self, state: &State) -> Vec<Class> {
        let pods: BTreeSet<IpAddr> = state.pods().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let outside = |workload: String, address| Class {
            workload,
            pods: 0,
            samples: vec![Sample { place: Place::Outside, addresses: vec![address] }],
        };
        let nets = self.nets.iter().filter(|net| net.length() > 0);
        let nets = nets.filter(|net| !pods.iter().any(|pod| net.contains(*pod))).take(MOST_NETS);
        let named = nets.map(|net| outside(format!("outside in {net}"), net.address()));
        let elsewhere = Family::ALL.into_iter().filter_map(|family| {
            let candidates = ELSEWHERE.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            let mut of_family = candidates.filter(|address| Family::of(*address) == family);
            let is_free =
                |address: &IpAddr| !self.nets.iter().any(|net| net.length() > 0 && net.contains(*address));
            let has_pods = pods.iter().any(|pod| Family::of(*pod) == family);
            of_family.find(is_free).filter(|_| has_pods).map(|address| outside("outside".to_owned(), address))
        });
        named.chain(elsewhere).collect()
    }
}

/// The samples of classes alone, with everything that policy depends on: small enough to try many packets on.
pub(super) fn reduced<'u>(updates: impl Iterator<Item = &'u Update>, classes: &[Class]) -> State {
    let samples = classes.iter().flat_map(|class| &class.samples);
    let kept: BTreeSet<&PodKey> = samples
        .filter_map(|sample| match &sample.place {
            Place::Pod(pod) => Some(pod),
            _ => None,
        })
        .collect();
    let mut state = State::default();
    for update in updates {
        if !matches!(update, Update::Pod(key, _) if !kept.contains(key)) {
            state.apply(update.clone());
        }
    }
    state
}

/// `namespace/name` of what made the pod, as its labels and its name say.
fn workload(pod: &Pod) -> String {
    const NAMES: [&str; 4] = ["app.kubernetes.io/name", "k8s-app", "app", "name"];
    let name = &pod.key.name;
    let template = pod.labels.get("pod-template-hash").or_else(|| pod.labels.get("controller-revision-hash"));
    let owner = template.and_then(|hash| {
        let (rest, _) = name.rsplit_once('-')?;
        Some(rest.strip_suffix(hash.as_str()).map_or(rest, |rest| rest.trim_end_matches('-')))
    });
    let by_label = || NAMES.iter().find_map(|key| pod.labels.get(*key)).map(String::as_str);
    let name = owner.or_else(by_label).unwrap_or(name);
    format!("{}/{name}", pod.key.namespace)
}
