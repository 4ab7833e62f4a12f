//! The index: applies mark, a flush walks what is marked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{
    Family, HostEndpoint, HostInterface, Labels, LocalEndpoint, NetworkSet, NetworkSetKey, NodeName, Pod,
    PodKey, Policy, Profile, Unreachable, Update, WireguardKey,
};

use crate::classes::ClassId;
use crate::cluster_routes::ClusterRoutes;
use crate::describe;
use crate::items::{Items, Nets};
use crate::local::Local;
use crate::network::Network;
use crate::policies::Policies;
use crate::profiles::Profiles;
use crate::sets::IpSets;
use crate::{Change, PodOptions};

/// See the crate's description.
pub struct Calc {
    node: NodeName,
    in_sync: bool,
    items: Items,
    sets: IpSets,
    policies: Policies,
    profiles: Profiles,
    local: Local,
    network: Network,
    cluster_routes: ClusterRoutes,
    /// Classes that inherit other labels than at the last flush.
    dirty_classes: BTreeSet<ClassId>,
}

impl Calc {
    pub fn new(node: NodeName) -> Self {
        Self {
            network: Network::new(node.clone()),
            cluster_routes: ClusterRoutes::new(node.clone()),
            node,
            in_sync: false,
            items: Items::default(),
            sets: IpSets::default(),
            policies: Policies::default(),
            profiles: Profiles::default(),
            local: Local::default(),
            dirty_classes: BTreeSet::new(),
        }
    }

    /// Takes one update of the datastore; costs only what it changes.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Node(name, node) => {
                self.cluster_routes.set_node(&name, node.as_ref());
                self.network.set_node(name, node);
            }
            Update::Pool(name, pool) => {
                self.cluster_routes.set_pool(&name, pool.as_ref());
                self.network.set_pool(name, pool);
            }
            Update::Block(cidr, block) => self.cluster_routes.set_block(cidr, block.as_deref()),
            Update::FelixConfiguration(configuration) => {
                let enabled = configuration.as_ref().and_then(|configuration| configuration.vxlan_enabled);
                self.cluster_routes.set_enabled(enabled);
                let wireguard = configuration.as_ref().map(|configuration| configuration.wireguard);
                self.cluster_routes.wireguard.set_settings(wireguard.unwrap_or_default());
                self.network.set_configuration(configuration.map(|configuration| *configuration));
            }
            Update::BgpConfiguration(configuration) => {
                self.network.set_bgp_configuration(configuration.as_deref());
            }
            Update::Pod(key, pod) => self.set_pod(&key, pod),
            Update::Namespace(name, labels) => self.set_namespace(&name, labels.as_ref()),
            Update::ServiceAccount(namespace, name, labels) => {
                self.set_service_account(&namespace, &name, labels.as_ref());
            }
            Update::NetworkSet(key, set) => self.set_network_set(&key, set),
            Update::HostEndpoint(name, endpoint) => {
                self.set_host_endpoint(&name, endpoint.map(|endpoint| *endpoint));
            }
            Update::Profile(name, profile) => self.set_profile(name, profile.map(|profile| *profile)),
            Update::EndpointSlice(key, slice) => self.sets.set_slice(key, slice),
            Update::Policy(key, policy) => self.policies.set_policy(key, policy.map(|policy| *policy)),
            Update::Tier(name, tier) => {
                if self.policies.tiers.set(name, tier) {
                    self.local.all_changed();
                }
            }
            Update::InSync => self.in_sync = true,
            // Sessions and addresses are others' business.
            Update::BlockAffinity(..)
            | Update::BgpPeer(..)
            | Update::BgpFilter(..)
            | Update::Service(..)
            | Update::Secret(..)
            | Update::IpamConfiguration(_)
            | Update::NotUnderstood(..)
            | Update::IpReservation(..) => {}
        }
    }

    /// A pod's interface came (or changed) or went, as the CNI plugin says.
    ///
    /// Its labels are those of the Pod with the same key; until that is known it is closed.
    pub fn set_local_endpoint(&mut self, interface: HostInterface, endpoint: Option<LocalEndpoint>) {
        self.local.set_interface(interface, endpoint, &mut self.items, &mut self.sets);
    }

    /// What differs since the last flush; nothing before [`Update::InSync`].
    pub fn flush(&mut self) -> Vec<Change> {
        if !self.in_sync {
            return Vec::new();
        }
        self.refresh_matches();
        let (mut endpoints, mut endpoints_gone) =
            self.local.tell(&self.policies, &self.items, &mut self.profiles);
        let (mut policies, mut policies_gone) = self.policies.tell(&mut self.sets, &mut self.items);
        let (mut profiles, mut profiles_gone) = self.profiles.tell(&mut self.sets, &mut self.items);
        let (mut sets, mut sets_gone) = self.sets.tell(&mut self.items);
        // What is referred to comes before what refers to it, and goes after it.
        self.network.set_vxlan(self.cluster_routes.receives());
        let mut cluster = self.cluster_routes.tell();
        self.network.set_wireguard(self.cluster_routes.wireguard.families());
        let mut changes = self.network.tell();
        changes.append(&mut cluster);
        changes.append(&mut sets);
        changes.append(&mut policies);
        changes.append(&mut profiles);
        changes.append(&mut endpoints);
        changes.append(&mut endpoints_gone);
        changes.append(&mut profiles_gone);
        changes.append(&mut policies_gone);
        changes.append(&mut sets_gone);
        changes
    }

    /// The staged policies that would bind a Pod, in the order of evaluation; nothing is kept for this
    /// question, so that it costs a look at every staged policy.
    pub fn staged_of(&self, pod: &PodKey) -> Vec<&Policy> {
        let item = self.items.find(&describe::pod_name(pod));
        item.map(|item| self.policies.staged_of(item.class, &self.items.classes)).unwrap_or_default()
    }

    /// Nodes whose pods cannot be reached as their pool asks for, as of the last flush.
    pub fn unreachable_nodes(&self) -> BTreeMap<NodeName, Unreachable> {
        self.cluster_routes.unreachable().map(|(name, reason)| (name.clone(), reason)).collect()
    }

    /// Public keys of WireGuard that several nodes say to have, with these nodes: nobody talks with them through it.
    pub fn shared_wireguard_keys(&self) -> impl Iterator<Item = (&WireguardKey, &BTreeSet<NodeName>)> {
        self.cluster_routes.wireguard.duplicates()
    }

    /// The node that says to have a key of WireGuard.
    pub fn wireguard_node(&self, key: &WireguardKey) -> Option<&NodeName> {
        self.cluster_routes.wireguard.node_of(key)
    }

    /// By family that travels through WireGuard: other nodes that tell no key.
    pub fn keyless_nodes(&self) -> impl Iterator<Item = (Family, impl Iterator<Item = &NodeName>)> {
        self.cluster_routes.keyless_nodes()
    }

    /// How often a selector was tried on labels so far: what changes cost, apart from any clock.
    pub fn selectors_tried(&self) -> u64 {
        self.sets.tried() + self.policies.tried()
    }

    fn refresh_matches(&mut self) {
        let mut concerned = self.policies.accept_changes(&mut self.items.classes);
        for class in std::mem::take(&mut self.dirty_classes) {
            if self.policies.update_class(class, &self.items.classes) {
                concerned.insert(class);
            }
        }
        if !concerned.is_empty() {
            self.local.classes_changed(&concerned);
        }
        self.local.enter_classes(&mut self.policies, &mut self.items, &mut self.sets);
    }

    /// A Pod in its node's own network has no endpoint of ours, and no selector matches it.
    fn set_pod(&mut self, key: &PodKey, pod: Option<Pod>) {
        let name = describe::pod_name(key);
        let pod = pod.filter(|pod| !pod.host_network);
        let addresses = pod.as_ref().map(|pod| &*pod.addresses).unwrap_or_default();
        let nets = self.local.set_status(key, addresses);
        self.local.set_options(key, pod.as_ref().map(|pod| PodOptions::parse(&pod.annotations)));
        let differs = match &pod {
            Some(pod) => {
                let nets = nets.unwrap_or_else(|| Nets::of_hosts(pod.addresses.iter().copied()));
                self.items.set(&name, &describe::pod(pod), nets, &mut self.sets)
            }
            None => self.items.remove(&name, &mut self.sets),
        };
        if differs {
            self.local.pod_changed(key);
        }
    }

    fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) {
        let profile = describe::namespace_profile(name);
        let was_known = self.items.classes.is_known(&profile);
        let inherited = labels.map(|labels| describe::namespace_labels(name, labels));
        self.set_inherited(&profile, inherited.as_deref());
        if was_known != labels.is_some() {
            self.profiles.doubt(&profile);
            self.local.namespace_changed(name);
        }
    }

    fn set_service_account(&mut self, namespace: &str, name: &str, labels: Option<&Labels>) {
        let profile = describe::service_account_profile(namespace, name);
        let inherited = labels.map(|labels| describe::service_account_labels(name, labels));
        self.set_inherited(&profile, inherited.as_deref());
        self.profiles.doubt(&profile);
    }

    fn set_profile(&mut self, name: Arc<str>, profile: Option<Profile>) {
        if describe::is_derived_profile(&name) {
            return;
        }
        let labels = profile.as_ref().map(|profile| {
            profile.labels.iter().map(|(key, value)| (key.clone(), value.as_str())).collect::<Vec<_>>()
        });
        self.set_inherited(&name, labels.as_deref());
        self.profiles.set(name, profile);
    }

    fn set_inherited(&mut self, profile: &str, labels: Option<&[(String, &str)]>) {
        for class in self.items.classes.set_inherited(profile, labels) {
            self.sets.update_class(class, &self.items);
            self.dirty_classes.insert(class);
        }
    }

    fn set_network_set(&mut self, key: &NetworkSetKey, set: Option<NetworkSet>) {
        let name = describe::network_set_name(key);
        match set {
            Some(set) => {
                let nets = Nets::new(set.nets.to_vec());
                self.items.set(&name, &describe::network_set(key, &set), nets, &mut self.sets);
            }
            None => _ = self.items.remove(&name, &mut self.sets),
        }
    }

    /// Those of all nodes are in sets; what binds them is calculated for this node's.
    fn set_host_endpoint(&mut self, name: &Arc<str>, endpoint: Option<HostEndpoint>) {
        let item = describe::host_endpoint_name(name);
        match &endpoint {
            Some(endpoint) => {
                let nets = Nets::of_hosts(endpoint.expected_ips.iter().copied());
                self.items.set(&item, &describe::host_endpoint(endpoint), nets, &mut self.sets);
            }
            None => _ = self.items.remove(&item, &mut self.sets),
        }
        self.local.set_host(name, endpoint.filter(|endpoint| endpoint.node == self.node));
    }
}
