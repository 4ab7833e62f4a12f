//! The index: applies mark, a flush walks what is marked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{Action, HostInterface, LocalEndpoint, NodeName, Update};

use crate::network::Network;
use crate::pods::{PodId, Pods};
use crate::policies::Policies;
use crate::sets::IpSets;
use crate::{ActiveEndpoint, ActiveProfile, ActiveRule, Change, EndpointPolicies};

/// See the crate's description.
pub struct Calc {
    in_sync: bool,
    pods: Pods,
    policies: Policies,
    sets: IpSets,
    network: Network,
    /// Which Pod is behind each local interface.
    local: BTreeMap<HostInterface, PodId>,
    dirty_pods: BTreeSet<PodId>,
    dirty_endpoints: BTreeSet<HostInterface>,
    told_endpoints: BTreeMap<HostInterface, Arc<ActiveEndpoint>>,
    /// By profile: how many open local endpoints use it.
    profiles: BTreeMap<Arc<str>, usize>,
}

impl Calc {
    pub fn new(node: NodeName) -> Self {
        Self {
            in_sync: false,
            pods: Pods::default(),
            policies: Policies::default(),
            sets: IpSets::default(),
            network: Network::new(node),
            local: BTreeMap::new(),
            dirty_pods: BTreeSet::new(),
            dirty_endpoints: BTreeSet::new(),
            told_endpoints: BTreeMap::new(),
            profiles: BTreeMap::new(),
        }
    }

    /// Takes one update of the datastore; costs only what it marks.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Node(name, node) => self.network.set_node(name, node),
            Update::Pool(name, pool) => self.network.set_pool(name, pool),
            Update::FelixConfiguration(configuration) => self.network.set_configuration(configuration),
            Update::Pod(key, pod) => self.dirty_pods.extend(self.pods.set_pod(key, pod)),
            Update::Namespace(name, labels) => {
                self.dirty_pods.extend(self.pods.set_namespace(&name, labels));
            }
            Update::ServiceAccount(namespace, name, labels) => {
                self.dirty_pods.extend(self.pods.set_service_account(&namespace, &name, labels));
            }
            // Staged policies, and those for host endpoints alone, bind no pod.
            Update::Policy(_, Some(policy))
                if policy.staged.is_some() || policy.do_not_track || policy.pre_dnat =>
            {
                self.policies.set_policy(policy.key, None);
            }
            Update::Policy(key, policy) => self.policies.set_policy(key, policy.map(|policy| *policy)),
            Update::Tier(name, tier) => {
                if self.policies.set_tier(name, tier) {
                    self.dirty_endpoints.extend(self.local.keys().cloned());
                }
            }
            Update::InSync => self.in_sync = true,
            // Routes, sessions and addresses are others' business.
            Update::Block(..)
            | Update::BlockAffinity(..)
            | Update::BgpConfiguration(_)
            | Update::BgpPeer(..)
            | Update::BgpFilter(..)
            | Update::Service(..)
            | Update::EndpointSlice(..)
            | Update::Secret(..)
            | Update::IpamConfiguration(_) => {}
            // Not indexed yet.
            Update::NetworkSet(..) | Update::HostEndpoint(..) | Update::Profile(..) => {}
        }
    }

    /// A pod's interface came (or changed) or went, as the CNI plugin says.
    ///
    /// Its labels are those of the Pod with the same key; until that is known it is closed.
    pub fn set_local_endpoint(&mut self, interface: HostInterface, endpoint: Option<LocalEndpoint>) {
        if let Some(old) = self.local.remove(&interface) {
            self.pods.remove_local(old, &interface);
            self.dirty_pods.insert(old);
        }
        if let Some(mut endpoint) = endpoint {
            endpoint.interface.clone_from(&interface);
            let id = self.pods.set_local(interface.clone(), endpoint);
            self.local.insert(interface.clone(), id);
            self.dirty_pods.insert(id);
        }
        self.dirty_endpoints.insert(interface);
    }

    /// What differs since the last flush; nothing before [`Update::InSync`].
    pub fn flush(&mut self) -> Vec<Change> {
        if !self.in_sync {
            return Vec::new();
        }
        let dirty_pods = std::mem::take(&mut self.dirty_pods);
        self.refresh_matches(&dirty_pods);
        let (mut endpoints, mut endpoints_gone) = self.tell_endpoints();
        let (mut policies, mut policies_gone) = self.policies.tell(&mut self.sets, &self.pods);
        let (mut sets, mut sets_gone) = self.sets.tell();
        dirty_pods.into_iter().for_each(|pod| self.pods.forget_if_empty(pod));
        // What is referred to comes before what refers to it, and goes after it.
        let mut changes = self.network.tell();
        changes.append(&mut sets);
        changes.append(&mut policies);
        changes.append(&mut endpoints);
        changes.append(&mut endpoints_gone);
        changes.append(&mut policies_gone);
        changes.append(&mut sets_gone);
        changes
    }

    fn refresh_matches(&mut self, dirty_pods: &BTreeSet<PodId>) {
        // A closed endpoint is subject to no policy.
        let is_open = |pod: &PodId| self.pods.get(*pod).is_some_and(|e| self.pods.closed(e).is_none());
        let local: BTreeSet<PodId> = self.local.values().copied().filter(is_open).collect();
        let mut concerned = self.policies.refresh_selectors(&self.pods, &local);
        for pod in dirty_pods {
            self.policies.update_pod(*pod, &self.pods, local.contains(pod));
            self.sets.update_pod(*pod, &self.pods);
        }
        concerned.extend(dirty_pods);
        for entry in concerned.iter().filter_map(|pod| self.pods.get(*pod)) {
            self.dirty_endpoints.extend(entry.local.keys().cloned());
        }
    }

    /// The endpoints (and their profiles) that come or change, and those that go.
    fn tell_endpoints(&mut self) -> (Vec<Change>, Vec<Change>) {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        let profiles_before: BTreeSet<Arc<str>> = self.profiles.keys().cloned().collect();
        for interface in std::mem::take(&mut self.dirty_endpoints) {
            let endpoint = self.resolve_endpoint(&interface).map(Arc::new);
            let told = self.told_endpoints.get(&interface);
            if told == endpoint.as_ref() {
                continue;
            }
            let told = told.cloned();
            self.count_profiles(told.as_deref(), endpoint.as_deref());
            match &endpoint {
                Some(endpoint) => _ = self.told_endpoints.insert(interface.clone(), endpoint.clone()),
                None => _ = self.told_endpoints.remove(&interface),
            }
            let changes = if endpoint.is_some() { &mut come } else { &mut gone };
            changes.push(Change::Endpoint(interface, endpoint));
        }
        let allow_all = |name: &Arc<str>| {
            let rules = vec![ActiveRule::any(Action::Allow)];
            ActiveProfile { name: name.clone(), ingress: rules.clone(), egress: rules }
        };
        let new = self.profiles.keys().filter(|name| !profiles_before.contains(*name));
        let new = new.map(|name| Change::Profile(name.clone(), Some(Arc::new(allow_all(name)))));
        come.splice(0..0, new.collect::<Vec<_>>());
        let old = profiles_before.iter().filter(|name| !self.profiles.contains_key(*name));
        gone.extend(old.map(|name| Change::Profile(name.clone(), None)));
        (come, gone)
    }

    fn count_profiles(&mut self, old: Option<&ActiveEndpoint>, new: Option<&ActiveEndpoint>) {
        for name in new.iter().flat_map(|endpoint| endpoint.profiles()) {
            *self.profiles.entry(name.clone()).or_default() += 1;
        }
        for name in old.iter().flat_map(|endpoint| endpoint.profiles()) {
            let Some(count) = self.profiles.get_mut(name) else { continue };
            *count -= 1;
            if *count == 0 {
                self.profiles.remove(name);
            }
        }
    }

    fn resolve_endpoint(&self, interface: &str) -> Option<ActiveEndpoint> {
        let id = *self.local.get(interface)?;
        let entry = self.pods.get(id)?;
        let local = entry.local.get(interface)?.clone();
        let policies = match self.pods.closed(entry) {
            Some(reason) => EndpointPolicies::Closed(reason),
            None => EndpointPolicies::Open {
                profiles: vec![format!("kns.{}", entry.key.namespace).into()],
                tiers: self.policies.tiers_of(id),
            },
        };
        Some(ActiveEndpoint { local, policies })
    }
}
