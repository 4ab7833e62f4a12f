//! The cluster as the datastore tells it, in plain maps.

use std::collections::BTreeMap;

use model::{FelixConfiguration, Labels, Pod, PodKey, Policy, PolicyKey, Tier, Update};

/// Every object that policy depends on, by its key. What comes last counts.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) pods: BTreeMap<PodKey, Pod>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
    pub(crate) service_accounts: BTreeMap<(String, String), Labels>,
    pub(crate) policies: BTreeMap<PolicyKey, Policy>,
    pub(crate) tiers: BTreeMap<String, Tier>,
    pub(crate) configuration: FelixConfiguration,
}

impl State {
    /// Takes what one update says; updates about other things are ignored.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Pod(key, pod) => set(&mut self.pods, key, pod),
            Update::Namespace(name, labels) => set(&mut self.namespaces, name, labels),
            Update::ServiceAccount(namespace, name, labels) => {
                set(&mut self.service_accounts, (namespace, name), labels);
            }
            Update::Policy(key, policy) => set(&mut self.policies, key, policy.map(|policy| *policy)),
            Update::Tier(name, tier) => set(&mut self.tiers, name, tier),
            Update::FelixConfiguration(configuration) => {
                self.configuration = configuration.unwrap_or_default();
            }
            _ => {}
        }
    }

    /// The Pod of this name, as far as it is known.
    pub fn pod(&self, key: &PodKey) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// Every Pod.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
