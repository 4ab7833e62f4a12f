//! Containers that belong to no pod of the cluster, as podman makes them: the datastore will never tell of them.
//!
//! Each counts as a pod without labels in the namespace without a name: policy that selects everything holds for it,
//! and what nothing selects is let through, as for any other pod.

use std::collections::BTreeMap;

use model::{HostInterface, Labels, LocalEndpoint, NodeName, Pod, PodKey, Update};

/// Those on this node, by interface.
#[derive(Debug, Default)]
pub struct Strangers(BTreeMap<HostInterface, PodKey>);

impl Strangers {
    /// What the datastore would say of the endpoint; nothing of one whose pod it knows or will know.
    pub fn up(&mut self, endpoint: &LocalEndpoint, node: &NodeName) -> Vec<Update> {
        let key = &endpoint.pod;
        if !key.namespace.is_empty() {
            return Vec::new();
        }
        self.0.insert(endpoint.interface.clone(), key.clone());
        let pod = Pod {
            key: key.clone(),
            uid: endpoint.container_id.clone(),
            node: Some(node.clone()),
            addresses: endpoint.addresses.clone(),
            labels: Labels::new(),
            ports: Vec::new(),
            service_account: None,
            host_network: false,
            annotations: Labels::new(),
        };
        vec![Update::Namespace(String::new(), Some(Labels::new())), Update::Pod(key.clone(), Some(pod))]
    }

    /// The container is gone.
    pub fn down(&mut self, interface: &str) -> Option<Update> {
        self.0.remove(interface).map(|key| Update::Pod(key, None))
    }
}

#[cfg(test)]
mod tests {
    use felix_calc::{Calc, Change, EndpointPolicies};

    use super::*;

    #[test]
    fn a_container_of_no_cluster_is_open_until_it_goes() {
        let node = NodeName::from("n1");
        let (mut calc, mut strangers) = (Calc::new(node.clone()), Strangers::default());
        calc.apply(Update::InSync);
        let endpoint = endpoint(PodKey::new("", "c1"));

        strangers.up(&endpoint, &node).into_iter().for_each(|update| calc.apply(update));
        calc.set_local_endpoint("cali1".to_owned(), Some(endpoint));

        let is_open = |change: &Change| matches!(change, Change::Endpoint(_, Some(found)) if matches!(found.policies, EndpointPolicies::Open { .. }));
        assert!(calc.flush().iter().any(is_open));
        assert_eq!(strangers.down("cali1"), Some(Update::Pod(PodKey::new("", "c1"), None)));
        assert_eq!(strangers.down("cali1"), None);
    }

    #[test]
    fn a_pod_of_the_cluster_is_the_datastores_matter() {
        let mut strangers = Strangers::default();

        assert_eq!(strangers.up(&endpoint(PodKey::new("prod", "web")), &NodeName::from("n1")), []);
        assert_eq!(strangers.down("cali1"), None);
    }

    fn endpoint(pod: PodKey) -> LocalEndpoint {
        LocalEndpoint {
            container_id: "c1".to_owned(),
            pod,
            interface: "cali1".to_owned(),
            addresses: vec!["10.65.0.1".parse().unwrap()],
            mac: [2, 0, 0, 0, 0, 1],
        }
    }
}
