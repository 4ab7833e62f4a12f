//! What is on this node: pods' interfaces as the CNI plugin made them, and its host endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::{HostEndpoint, HostInterface, LocalEndpoint, PodKey};

use crate::classes::ClassId;
use crate::describe::{host_endpoint_name, namespace_profile, pod_name};
use crate::items::{Items, Nets};
use crate::policies::{Policies, Stage};
use crate::profiles::Profiles;
use crate::sets::IpSets;
use crate::{ActiveEndpoint, ActiveHostEndpoint, Change, ClosedReason, EndpointPolicies, PodOptions};

/// Whoever policy binds on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Pod(PodKey),
    Host(Arc<str>),
}

#[derive(Default)]
struct LocalPod {
    interfaces: BTreeMap<HostInterface, LocalEndpoint>,
    /// The addresses that the datastore says; the CNI plugin may know of others before.
    status: Vec<IpAddr>,
}

impl LocalPod {
    fn nets(&self) -> Nets {
        let local = self.interfaces.values().flat_map(|endpoint| &endpoint.addresses);
        Nets::of_hosts(self.status.iter().chain(local).copied())
    }
}

/// What was told of endpoints of one kind.
struct Told<K, V>(BTreeMap<K, Arc<V>>);

impl<K, V> Default for Told<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: UsesProfiles + PartialEq> Told<K, V> {
    /// Notes what is told now; `None` when that was told already. `profiles` hears which ones are used.
    fn replace(&mut self, key: &K, new: Option<V>, profiles: &mut Profiles) -> Option<Option<Arc<V>>> {
        let old = self.0.get(key);
        if old.map(|old| &**old) == new.as_ref() {
            return None;
        }
        let new = new.map(Arc::new);
        if let Some(new) = &new {
            profiles.start_using(new.profiles());
        }
        if let Some(old) = old {
            profiles.stop_using(old.profiles());
        }
        match &new {
            Some(new) => self.0.insert(key.clone(), new.clone()),
            None => self.0.remove(key),
        };
        Some(new)
    }
}

trait UsesProfiles {
    fn profiles(&self) -> &[Arc<str>];
}

impl UsesProfiles for ActiveEndpoint {
    fn profiles(&self) -> &[Arc<str>] {
        match &self.policies {
            EndpointPolicies::Closed(_) => &[],
            EndpointPolicies::Open { profiles, .. } => profiles,
        }
    }
}

impl UsesProfiles for ActiveHostEndpoint {
    fn profiles(&self) -> &[Arc<str>] {
        &self.profiles
    }
}

#[derive(Default)]
pub(crate) struct Local {
    /// Whose each interface is.
    interfaces: BTreeMap<HostInterface, PodKey>,
    pods: BTreeMap<PodKey, LocalPod>,
    /// Of the cluster's pods those few that ask for something: one may come before its interface.
    options: BTreeMap<PodKey, PodOptions>,
    hosts: BTreeMap<Arc<str>, HostEndpoint>,
    /// The class in which policies look for each, while it is open.
    classes: BTreeMap<Subject, ClassId>,
    /// What each is subject to may have changed.
    dirty: BTreeSet<Subject>,
    dirty_interfaces: BTreeSet<HostInterface>,
    told: Told<HostInterface, ActiveEndpoint>,
    told_hosts: Told<Arc<str>, ActiveHostEndpoint>,
}

impl Local {
    /// A pod's interface came, changed or went.
    pub(crate) fn set_interface(
        &mut self,
        interface: HostInterface,
        endpoint: Option<LocalEndpoint>,
        items: &mut Items,
        sets: &mut IpSets,
    ) {
        let old = self.interfaces.remove(&interface);
        if let Some(pod) = &old {
            if let Some(local) = self.pods.get_mut(pod) {
                local.interfaces.remove(&interface);
            }
            self.dirty.insert(Subject::Pod(pod.clone()));
        }
        let new = endpoint.map(|mut endpoint| {
            endpoint.interface.clone_from(&interface);
            let pod = endpoint.pod.clone();
            let local = self.pods.entry(pod.clone()).or_insert_with(|| {
                let known = items.find(&pod_name(&pod));
                let status = known.iter().flat_map(|item| item.nets).map(|net| net.address()).collect();
                LocalPod { interfaces: BTreeMap::new(), status }
            });
            local.interfaces.insert(interface.clone(), endpoint);
            self.interfaces.insert(interface.clone(), pod.clone());
            self.dirty.insert(Subject::Pod(pod.clone()));
            pod
        });
        for pod in old.iter().chain(&new) {
            if let Some(local) = self.pods.get(pod) {
                items.set_nets(&pod_name(pod), local.nets(), sets);
            }
        }
        self.dirty_interfaces.insert(interface);
    }

    /// The datastore says which addresses a Pod has; all that it has, if it is on this node.
    pub(crate) fn set_status(&mut self, pod: &PodKey, addresses: &[IpAddr]) -> Option<Nets> {
        let local = self.pods.get_mut(pod)?;
        local.status = addresses.to_vec();
        Some(local.nets())
    }

    /// What a Pod asks for; `None` when there is none.
    pub(crate) fn set_options(&mut self, pod: &PodKey, options: Option<PodOptions>) {
        let options = options.filter(|options| *options != PodOptions::default());
        if self.options.get(pod) == options.as_ref() {
            return;
        }
        match options {
            Some(options) => _ = self.options.insert(pod.clone(), options),
            None => _ = self.options.remove(pod),
        }
        self.pod_changed(pod);
    }

    /// The datastore says something new about a Pod.
    pub(crate) fn pod_changed(&mut self, pod: &PodKey) {
        if self.pods.contains_key(pod) {
            self.dirty.insert(Subject::Pod(pod.clone()));
        }
    }

    /// A namespace came or went, so that its pods open or close.
    pub(crate) fn namespace_changed(&mut self, namespace: &str) {
        let pods = self.pods.keys().filter(|pod| *pod.namespace == *namespace);
        self.dirty.extend(pods.cloned().map(Subject::Pod));
    }

    /// A host endpoint of this node came, changed or went; of another node's, nothing.
    pub(crate) fn set_host(&mut self, name: &Arc<str>, endpoint: Option<HostEndpoint>) {
        let old = match endpoint {
            Some(endpoint) => {
                self.dirty.insert(Subject::Host(name.clone()));
                self.hosts.insert(name.clone(), endpoint)
            }
            None => self.hosts.remove(name),
        };
        if old.is_some() {
            self.dirty.insert(Subject::Host(name.clone()));
        }
    }

    /// What everyone is subject to may have changed.
    pub(crate) fn all_changed(&mut self) {
        self.dirty.extend(self.pods.keys().cloned().map(Subject::Pod));
        self.dirty.extend(self.hosts.keys().cloned().map(Subject::Host));
    }

    /// What those are subject to may have changed that are in these classes.
    pub(crate) fn classes_changed(&mut self, classes: &BTreeSet<ClassId>) {
        let concerned = self.classes.iter().filter(|(_, class)| classes.contains(class));
        let concerned: Vec<_> = concerned.map(|(subject, _)| subject.clone()).collect();
        self.dirty.extend(concerned);
    }

    /// Lets policies look for everyone in the class that they are in now.
    pub(crate) fn enter_classes(&mut self, policies: &mut Policies, items: &mut Items, sets: &mut IpSets) {
        for subject in &self.dirty {
            let new = self.class_of(subject, items);
            let old = self.classes.get(subject).copied();
            if old == new {
                continue;
            }
            if let Some(class) = new {
                items.classes.hold(class);
                policies.enter_class(class, &items.classes);
                self.classes.insert(subject.clone(), class);
            }
            if let Some(class) = old {
                policies.leave_class(class);
                items.release_class(class, sets);
            }
            if new.is_none() {
                self.classes.remove(subject);
            }
        }
    }

    /// The endpoints that come or change, and those that go; `profiles` knows which are used.
    pub(crate) fn tell(
        &mut self,
        policies: &Policies,
        items: &Items,
        profiles: &mut Profiles,
    ) -> (Vec<Change>, Vec<Change>) {
        let mut hosts = Vec::new();
        for subject in std::mem::take(&mut self.dirty) {
            match subject {
                Subject::Pod(pod) => {
                    let Some(local) = self.pods.get(&pod) else { continue };
                    self.dirty_interfaces.extend(local.interfaces.keys().cloned());
                    if local.interfaces.is_empty() {
                        self.pods.remove(&pod);
                    }
                }
                Subject::Host(name) => hosts.push(name),
            }
        }
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        let mut tell = |is_there, change| if is_there { come.push(change) } else { gone.push(change) };
        for interface in std::mem::take(&mut self.dirty_interfaces) {
            let endpoint = self.resolve_interface(&interface, policies, items);
            if let Some(endpoint) = self.told.replace(&interface, endpoint, profiles) {
                tell(endpoint.is_some(), Change::Endpoint(interface, endpoint));
            }
        }
        for name in hosts {
            let endpoint = self.resolve_host(&name, policies);
            if let Some(endpoint) = self.told_hosts.replace(&name, endpoint, profiles) {
                tell(endpoint.is_some(), Change::HostEndpoint(name, endpoint));
            }
        }
        (come, gone)
    }

    fn resolve_interface(
        &self,
        interface: &str,
        policies: &Policies,
        items: &Items,
    ) -> Option<ActiveEndpoint> {
        let pod = self.interfaces.get(interface)?;
        let local = self.pods.get(pod)?.interfaces.get(interface)?.clone();
        // A service account's profile has no rules, so nothing need look into it.
        let profile = namespace_profile(&pod.namespace);
        let policies = if items.find(&pod_name(pod)).is_none() {
            EndpointPolicies::Closed(ClosedReason::PodUnknown)
        } else if !items.classes.is_known(&profile) {
            EndpointPolicies::Closed(ClosedReason::NamespaceUnknown)
        } else {
            let class = self.classes.get(&Subject::Pod(pod.clone()))?;
            let tiers = policies.tiers_of(*class, Stage::Normal);
            EndpointPolicies::Open { profiles: vec![profile.into()], tiers }
        };
        let options = self.options.get(pod).cloned().unwrap_or_default();
        Some(ActiveEndpoint { local, policies, options })
    }

    fn resolve_host(&self, name: &Arc<str>, policies: &Policies) -> Option<ActiveHostEndpoint> {
        let endpoint = self.hosts.get(name)?.clone();
        let class = *self.classes.get(&Subject::Host(name.clone()))?;
        Some(ActiveHostEndpoint {
            untracked: policies.tiers_of(class, Stage::Untracked),
            pre_dnat: policies.tiers_of(class, Stage::PreDnat),
            forward: policies.tiers_of(class, Stage::Forward),
            normal: policies.tiers_of(class, Stage::Normal),
            profiles: endpoint.profiles.clone(),
            endpoint,
        })
    }

    /// A closed endpoint is subject to no policy.
    fn class_of(&self, subject: &Subject, items: &Items) -> Option<ClassId> {
        let name = match subject {
            Subject::Pod(pod) => {
                let is_here = self.pods.get(pod).is_some_and(|local| !local.interfaces.is_empty());
                let is_open = is_here && items.classes.is_known(&namespace_profile(&pod.namespace));
                is_open.then(|| pod_name(pod))?
            }
            Subject::Host(name) => self.hosts.contains_key(name).then(|| host_endpoint_name(name))?,
        };
        Some(items.find(&name)?.class)
    }
}
