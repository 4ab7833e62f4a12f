//! One node: calc and renderer in front of the fake dataplane.

use std::net::IpAddr;

use felix_calc::Calc;
use felix_render::{RenderSettings, Renderer, RuleDataplane};
use model::{
    FelixConfiguration, HostInterface, Labels, LocalEndpoint, NodeName, Pod, PodKey, Policy, Update,
    host_interface_name,
};

use crate::dataplane::Dataplane;
use crate::nftables;

pub struct Node {
    pub calc: Calc,
    pub renderer: Renderer,
    pub dataplane: Dataplane,
    /// The same with nftables.
    pub nftables: nftables::Node,
}

impl Node {
    pub fn new(name: &str) -> Self {
        let settings = RenderSettings { ipip: false, ..RenderSettings::default() };
        Self {
            calc: Calc::new(NodeName::from(name)),
            nftables: nftables::Node::new(RenderSettings {
                dataplane: RuleDataplane::Nftables,
                ..settings.clone()
            }),
            renderer: Renderer::new(settings),
            dataplane: Dataplane::default(),
        }
    }

    /// A node that is in sync with an empty datastore.
    pub fn in_sync(name: &str) -> Self {
        let mut node = Self::new(name);
        node.calc.apply(Update::InSync);
        node.flush();
        node
    }

    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) {
        updates.into_iter().for_each(|update| self.calc.apply(update));
        self.flush();
    }

    pub fn add_local(&mut self, endpoint: LocalEndpoint) {
        self.calc.set_local_endpoint(endpoint.interface.clone(), Some(endpoint));
        self.flush();
    }

    pub fn flush(&mut self) {
        for change in self.calc.flush() {
            self.nftables.renderer.apply(change.clone());
            self.renderer.apply(change);
        }
        self.nftables.flush();
        let output = self.renderer.flush();
        self.dataplane.apply(output);
    }
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn namespace(name: &str, pairs: &[(&str, &str)]) -> Update {
    Update::Namespace(name.to_owned(), Some(labels(pairs)))
}

pub fn policy(policy: Policy) -> Update {
    Update::Policy(policy.key.clone(), Some(Box::new(policy)))
}

pub fn pod(namespace: &str, name: &str, address: &str, pairs: &[(&str, &str)]) -> Pod {
    Pod {
        key: PodKey::new(namespace, name),
        uid: format!("{namespace}-{name}"),
        node: None,
        addresses: vec![address.parse().unwrap()],
        labels: labels(pairs),
        ports: Vec::new(),
        service_account: None,
        host_network: false,
        annotations: Labels::new(),
    }
}

pub fn update(pod: &Pod) -> Update {
    Update::Pod(pod.key.clone(), Some(pod.clone()))
}

/// The interface of a pod on its node.
pub fn interface(key: &PodKey) -> HostInterface {
    host_interface_name(&FelixConfiguration::default().interface_prefix, key)
}

pub fn local(key: &PodKey, addresses: &[IpAddr]) -> LocalEndpoint {
    LocalEndpoint {
        container_id: format!("container-of-{key}"),
        pod: key.clone(),
        interface: interface(key),
        addresses: addresses.to_vec(),
        mac: [0xee; 6],
    }
}
