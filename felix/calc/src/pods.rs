//! Every Pod of the cluster with the labels that it has and inherits, and where to look for those that a
//! selector may match.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::{HostInterface, LabelLookup, Labels, LocalEndpoint, Pod, PodKey, Restriction};

use crate::ClosedReason;

const NAMESPACE: &str = "projectcalico.org/namespace";
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
const NAME: &str = "projectcalico.org/name";
const FROM_NAMESPACE: &str = "pcns.";
const FROM_SERVICE_ACCOUNT: &str = "pcsa.";
/// A longer name is the value of no label.
const LONGEST_SERVICE_ACCOUNT: usize = 62;

/// Stands for a Pod while it is known; used again for another one after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodId(u32);

/// What is known under one key, from the datastore and from the CNI plugin.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: PodKey,
    pub(crate) pod: Option<Pod>,
    pub(crate) local: BTreeMap<HostInterface, LocalEndpoint>,
}

impl Entry {
    /// The Pod, unless it has no network of its own.
    pub(crate) fn networked(&self) -> Option<&Pod> {
        self.pod.as_ref().filter(|pod| !pod.host_network)
    }

    /// Each address once: those of the status and those that the CNI plugin gave before the status knew.
    pub(crate) fn addresses(&self) -> BTreeSet<IpAddr> {
        let status = self.networked().into_iter().flat_map(|pod| &pod.addresses);
        status.chain(self.local.values().flat_map(|local| &local.addresses)).copied().collect()
    }
}

#[derive(Default)]
struct Namespace {
    labels: Option<Labels>,
    pods: HashSet<PodId>,
}

#[derive(Default)]
pub(crate) struct Pods {
    ids: HashMap<PodKey, PodId>,
    entries: Vec<Option<Entry>>,
    free: Vec<PodId>,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// By namespace and name.
    service_accounts: HashMap<(Arc<str>, Arc<str>), Labels>,
    /// Of networked Pods, by key and value of their own labels.
    by_label: HashMap<String, HashMap<String, HashSet<PodId>>>,
}

impl Pods {
    pub(crate) fn get(&self, id: PodId) -> Option<&Entry> {
        self.entries.get(id.0 as usize)?.as_ref()
    }

    /// Stores what the datastore says; the ID when that differs.
    pub(crate) fn set_pod(&mut self, key: PodKey, pod: Option<Pod>) -> Option<PodId> {
        if pod.is_none() && !self.ids.contains_key(&key) {
            return None;
        }
        let id = self.intern(key);
        let entry = self.entries[id.0 as usize].as_mut().expect("an interned ID has an entry");
        if entry.pod == pod {
            return None;
        }
        let old = std::mem::replace(&mut entry.pod, pod);
        if let Some(old) = old.filter(|old| !old.host_network) {
            self.unindex(id, &old.labels);
        }
        self.index(id);
        Some(id)
    }

    /// Stores what the CNI plugin says; the ID of the Pod concerned.
    pub(crate) fn set_local(&mut self, interface: HostInterface, local: LocalEndpoint) -> PodId {
        let id = self.intern(local.pod.clone());
        let entry = self.entries[id.0 as usize].as_mut().expect("an interned ID has an entry");
        entry.local.insert(interface, local);
        id
    }

    pub(crate) fn remove_local(&mut self, id: PodId, interface: &str) {
        if let Some(entry) = self.entries.get_mut(id.0 as usize).and_then(Option::as_mut) {
            entry.local.remove(interface);
        }
    }

    /// Stores a namespace's labels; the Pods that inherit them.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> Vec<PodId> {
        let namespace = self.namespaces.entry(name.into()).or_default();
        if namespace.labels == labels {
            return Vec::new();
        }
        namespace.labels = labels;
        let pods = namespace.pods.iter().copied().collect();
        self.forget_namespace_if_empty(name);
        pods
    }

    /// Stores a service account's labels; the Pods that inherit them.
    pub(crate) fn set_service_account(
        &mut self,
        namespace: &str,
        name: &str,
        labels: Option<Labels>,
    ) -> Vec<PodId> {
        let key = (Arc::from(namespace), Arc::from(name));
        if self.service_accounts.get(&key) == labels.as_ref() {
            return Vec::new();
        }
        match labels {
            Some(labels) => self.service_accounts.insert(key, labels),
            None => self.service_accounts.remove(&key),
        };
        let pods = self.namespaces.get(namespace).into_iter().flat_map(|namespace| &namespace.pods);
        let has_account = |id: &PodId| {
            self.get(*id)
                .and_then(Entry::networked)
                .is_some_and(|p| p.service_account.as_deref() == Some(name))
        };
        pods.copied().filter(has_account).collect()
    }

    /// Why its endpoints must stay closed: not all of its labels are known.
    pub(crate) fn closed(&self, entry: &Entry) -> Option<ClosedReason> {
        if entry.networked().is_none() {
            return Some(ClosedReason::PodUnknown);
        }
        let namespace = self.namespaces.get(&entry.key.namespace);
        let is_known = namespace.is_some_and(|namespace| namespace.labels.is_some());
        (!is_known).then_some(ClosedReason::NamespaceUnknown)
    }

    /// Gives the ID back when nothing is known under its key any more.
    pub(crate) fn forget_if_empty(&mut self, id: PodId) {
        let Some(entry) = self.get(id) else { return };
        if entry.pod.is_some() || !entry.local.is_empty() {
            return;
        }
        let key = entry.key.clone();
        self.entries[id.0 as usize] = None;
        self.ids.remove(&key);
        self.free.push(id);
        if let Some(namespace) = self.namespaces.get_mut(&key.namespace) {
            namespace.pods.remove(&id);
        }
        self.forget_namespace_if_empty(&key.namespace);
    }

    /// What selectors see of a Pod; `None` when they must not see it.
    pub(crate) fn labels(&self, id: PodId) -> Option<PodLabels<'_>> {
        let pod = self.get(id)?.networked()?;
        let namespace =
            self.namespaces.get(&pod.key.namespace).and_then(|namespace| namespace.labels.as_ref());
        let account = pod
            .service_account
            .as_deref()
            .and_then(|name| self.service_accounts.get(&(pod.key.namespace.clone(), Arc::from(name))));
        Some(PodLabels { pod, namespace, account })
    }

    /// Every Pod for which `restrictions` may hold, and perhaps others: the fewest of the ways to find them.
    pub(crate) fn candidates(&self, restrictions: &BTreeMap<Arc<str>, Restriction>) -> Vec<PodId> {
        let ways = restrictions.iter().filter_map(|(key, restriction)| self.groups(key, restriction));
        match ways.min_by_key(|groups| groups.iter().map(|group| group.len()).sum::<usize>()) {
            Some(groups) => groups.into_iter().flatten().copied().collect(),
            None => self.ids.values().copied().collect(),
        }
    }

    /// The groups of Pods that one restriction leaves; `None` when there is no index for it.
    fn groups(&self, key: &str, restriction: &Restriction) -> Option<Vec<&HashSet<PodId>>> {
        let namespaces = |test: &dyn Fn(&Arc<str>, &Namespace) -> bool| {
            let matching = self.namespaces.iter().filter(|(name, namespace)| test(name, namespace));
            Some(matching.map(|(_, namespace)| &namespace.pods).collect())
        };
        match restriction {
            Restriction::Absent => None,
            _ if key == ORCHESTRATOR || key == SERVICE_ACCOUNT => None,
            _ if key.starts_with(FROM_SERVICE_ACCOUNT) => None,
            Restriction::Present if key == NAMESPACE => None,
            Restriction::OneOf(values) if key == NAMESPACE => {
                Some(values.iter().filter_map(|name| Some(&self.namespaces.get(name)?.pods)).collect())
            }
            _ if key.starts_with(FROM_NAMESPACE) => {
                let own = &key[FROM_NAMESPACE.len()..];
                namespaces(&|name, namespace| {
                    let labels = namespace.labels.as_ref();
                    let value =
                        if own == NAME { labels.map(|_| &**name) } else { labels.and_then(|l| l.value(own)) };
                    holds(restriction, value)
                })
            }
            Restriction::Present => {
                Some(self.by_label.get(key).into_iter().flat_map(HashMap::values).collect())
            }
            Restriction::OneOf(values) => {
                let by_value = self.by_label.get(key);
                Some(values.iter().filter_map(|value| by_value?.get(&**value)).collect())
            }
        }
    }

    fn intern(&mut self, key: PodKey) -> PodId {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            PodId(u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 Pods fit into memory"))
        });
        self.namespaces.entry(key.namespace.clone()).or_default().pods.insert(id);
        self.entries[id.0 as usize] = Some(Entry { key: key.clone(), pod: None, local: BTreeMap::new() });
        self.ids.insert(key, id);
        id
    }

    fn index(&mut self, id: PodId) {
        let entry = self.entries[id.0 as usize].as_ref();
        let Some(pod) = entry.and_then(Entry::networked) else { return };
        for (key, value) in &pod.labels {
            // Not entry(): most keys and values are there already and need no copy.
            if !self.by_label.contains_key(key) {
                self.by_label.insert(key.clone(), HashMap::new());
            }
            let by_value = self.by_label.get_mut(key).expect("inserted above");
            match by_value.get_mut(value) {
                Some(pods) => _ = pods.insert(id),
                None => _ = by_value.insert(value.clone(), HashSet::from([id])),
            }
        }
    }

    fn unindex(&mut self, id: PodId, labels: &Labels) {
        for (key, value) in labels {
            let Some(by_value) = self.by_label.get_mut(key) else { continue };
            let Some(pods) = by_value.get_mut(value) else { continue };
            pods.remove(&id);
            if pods.is_empty() {
                by_value.remove(value);
            }
            if by_value.is_empty() {
                self.by_label.remove(key);
            }
        }
    }

    fn forget_namespace_if_empty(&mut self, name: &str) {
        if self.namespaces.get(name).is_some_and(|n| n.labels.is_none() && n.pods.is_empty()) {
            self.namespaces.remove(name);
        }
    }
}

fn holds(restriction: &Restriction, value: Option<&str>) -> bool {
    match (restriction, value) {
        (Restriction::Absent, value) => value.is_none(),
        (Restriction::Present, value) => value.is_some(),
        (Restriction::OneOf(values), value) => value.is_some_and(|value| values.contains(value)),
    }
}

/// A Pod's own labels, those that it inherits and those that tell where it is; nothing is copied.
#[derive(Clone, Copy)]
pub(crate) struct PodLabels<'a> {
    pod: &'a Pod,
    namespace: Option<&'a Labels>,
    account: Option<&'a Labels>,
}

impl PodLabels<'_> {
    /// Calls `visit` with every key and value.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&str, &str)) {
        let mut key = String::new();
        let mut visit_own = |name: &str| {
            if let Some(value) = self.value(name) {
                visit(name, value);
            }
        };
        for name in self.pod.labels.keys().filter(|name| !is_reserved(name)) {
            visit_own(name);
        }
        for (prefix, labels) in [(FROM_NAMESPACE, self.namespace), (FROM_SERVICE_ACCOUNT, self.account)] {
            let names =
                labels.into_iter().flat_map(Labels::keys).map(String::as_str).filter(|name| *name != NAME);
            for name in names.chain([NAME]) {
                key.clear();
                key.push_str(prefix);
                key.push_str(name);
                visit_own(&key);
            }
        }
        for name in [NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT] {
            visit_own(name);
        }
    }

    fn service_account(&self) -> Option<&str> {
        self.pod.service_account.as_deref().filter(|name| name.len() <= LONGEST_SERVICE_ACCOUNT)
    }
}

impl LabelLookup for PodLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        if let Some(key) = key.strip_prefix(FROM_NAMESPACE) {
            let labels = self.namespace?;
            return if key == NAME { Some(&self.pod.key.namespace) } else { labels.value(key) };
        }
        if let Some(key) = key.strip_prefix(FROM_SERVICE_ACCOUNT) {
            let labels = self.account?;
            return if key == NAME { self.pod.service_account.as_deref() } else { labels.value(key) };
        }
        match key {
            NAMESPACE => Some(&self.pod.key.namespace),
            ORCHESTRATOR => Some("k8s"),
            SERVICE_ACCOUNT => self.service_account(),
            _ => self.pod.labels.value(key),
        }
    }
}

/// A Pod cannot give itself these.
fn is_reserved(key: &str) -> bool {
    key.starts_with(FROM_NAMESPACE)
        || key.starts_with(FROM_SERVICE_ACCOUNT)
        || matches!(key, NAMESPACE | ORCHESTRATOR | SERVICE_ACCOUNT)
}
