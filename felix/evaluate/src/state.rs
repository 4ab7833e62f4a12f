//! The cluster as the datastore tells it, in plain maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::{
    BgpConfiguration, Direction, EndpointSlice, FelixConfiguration, HostEndpoint, Labels, NetworkSet,
    NetworkSetKey, NodeName, ObjectKey, Pod, PodKey, Policy, PolicyKey, Profile, Tier, Update,
};

use crate::labels;

/// Every object that policy depends on, by its key. What comes last counts.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) pods: BTreeMap<PodKey, Pod>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
    pub(crate) service_accounts: BTreeMap<(String, String), Labels>,
    pub(crate) policies: BTreeMap<PolicyKey, Policy>,
    pub(crate) tiers: BTreeMap<String, Tier>,
    pub(crate) network_sets: BTreeMap<NetworkSetKey, NetworkSet>,
    pub(crate) host_endpoints: BTreeMap<Arc<str>, HostEndpoint>,
    pub(crate) profiles: BTreeMap<Arc<str>, Profile>,
    pub(crate) slices: BTreeMap<ObjectKey, EndpointSlice>,
    pub(crate) configuration: FelixConfiguration,
    pub(crate) bgp: Option<BgpConfiguration>,
    /// Interfaces of nodes with their addresses.
    pub(crate) links: BTreeMap<NodeName, BTreeMap<String, Vec<IpAddr>>>,
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
            Update::NetworkSet(key, network_set) => set(&mut self.network_sets, key, network_set),
            Update::HostEndpoint(name, endpoint) => {
                set(&mut self.host_endpoints, name, endpoint.map(|endpoint| *endpoint));
            }
            Update::Profile(name, profile) => set(&mut self.profiles, name, profile.map(|profile| *profile)),
            Update::EndpointSlice(key, slice) => set(&mut self.slices, key, slice),
            Update::FelixConfiguration(configuration) => {
                self.configuration = configuration.map(|boxed| *boxed).unwrap_or_default();
            }
            Update::BgpConfiguration(configuration) => self.bgp = configuration.map(|boxed| *boxed),
            _ => {}
        }
    }

    /// The interfaces of a node with their addresses: by them a host endpoint finds its interface.
    pub fn set_links(&mut self, node: NodeName, links: BTreeMap<String, Vec<IpAddr>>) {
        self.links.insert(node, links);
    }

    /// The Pod of this name, as far as it is known.
    pub fn pod(&self, key: &PodKey) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// Every Pod.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The policies of a tier that are asked about a pod's packets of one direction; in no order.
    pub fn policies_at(&self, pod: &PodKey, tier: &str, direction: Direction) -> Vec<&PolicyKey> {
        let Some(pod) = self.pods.get(pod) else { return Vec::new() };
        let labels = labels::of_pod(self, pod);
        let asked = self.policies.values().filter(|policy| {
            let applies = match direction {
                Direction::Ingress => policy.applies_to_ingress,
                Direction::Egress => policy.applies_to_egress,
            };
            let is_for_pods = !policy.key.kind.is_staged() && !policy.do_not_track && !policy.pre_dnat;
            *policy.tier == *tier && applies && is_for_pods && policy.selector.matches(&labels)
        });
        asked.map(|policy| &policy.key).collect()
    }

    /// Every policy, staged ones among them.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
