//! A cluster of nodes with fake dataplanes under Kubernetes objects, and the way of a packet through it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{EndpointPort, Pod, PodKey, PolicyKey, PolicyKind, Protocol, Update};
use serde_json::Value;

use crate::cases::{CaseAction, CasePod, Labels, Topology, split};
use crate::convert;
use crate::kubernetes::{self, End};
use crate::node::{Node, interface, local};
use crate::way::{Packet, is_delivered_to_host, is_forwarded, is_sent_by_host};

pub struct Cluster {
    pub namespaces: BTreeMap<String, Labels>,
    pub pods: BTreeMap<String, CasePod>,
    pub node_addresses: BTreeMap<String, IpAddr>,
    /// By namespace and name.
    pub policies: BTreeMap<(String, String), Value>,
    nodes: BTreeMap<String, Node>,
}

const UPLINK: &str = "eth0";

impl Cluster {
    pub fn new(topology: &Topology) -> Self {
        let names = topology.nodes.keys();
        let mut cluster = Self {
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            node_addresses: topology.nodes.clone(),
            policies: BTreeMap::new(),
            nodes: names.map(|name| (name.clone(), Node::in_sync(name))).collect(),
        };
        for (name, labels) in &topology.namespaces {
            cluster.act(&CaseAction::CreateNamespace { name: name.clone(), labels: labels.clone() });
        }
        for (pod, spec) in &topology.pods {
            cluster.act(&CaseAction::CreatePod { pod: pod.clone(), spec: spec.clone() });
        }
        cluster
    }

    pub fn act(&mut self, action: &CaseAction) {
        match action {
            CaseAction::CreatePolicy(object) | CaseAction::UpdatePolicy(object) => {
                let policy = convert::policy(object);
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let metadata = &object["metadata"];
                self.policies.insert((text(&metadata["namespace"]), text(&metadata["name"])), object.clone());
                self.tell(&Update::Policy(policy.key.clone(), Some(Box::new(policy))));
            }
            CaseAction::DeletePolicy { namespace, name } => {
                self.policies
                    .remove(&(namespace.clone(), name.clone()))
                    .expect("only what is there is deleted");
                let kind = PolicyKind::KubernetesNetworkPolicy;
                let namespace = Some(namespace.as_str().into());
                self.tell(&Update::Policy(PolicyKey { kind, namespace, name: name.as_str().into() }, None));
            }
            CaseAction::CreatePod { pod, spec } => self.set_pod(pod, Some(spec.clone())),
            CaseAction::DeletePod { pod } => self.set_pod(pod, None),
            CaseAction::SetPodLabels { pod, labels } => {
                let spec = CasePod { labels: labels.clone(), ..self.pods[pod].clone() };
                self.set_pod(pod, Some(spec));
            }
            CaseAction::CreateNamespace { name, labels }
            | CaseAction::SetNamespaceLabels { name, labels } => {
                // As the API server does.
                let mut labels = labels.clone();
                labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
                self.namespaces.insert(name.clone(), labels.clone());
                self.tell(&Update::Namespace(name.clone(), Some(labels)));
            }
            CaseAction::DeleteNamespace { name } => {
                // As the namespace controller does: what is in it goes first.
                let inside = |pod: &&String| split(pod).0 == name;
                self.pods
                    .keys()
                    .filter(inside)
                    .cloned()
                    .collect::<Vec<_>>()
                    .iter()
                    .for_each(|p| self.set_pod(p, None));
                self.namespaces.remove(name);
                self.tell(&Update::Namespace(name.clone(), None));
            }
        }
    }

    /// Does the way of a packet, over the chains of the nodes that it passes, agree with the meaning of the
    /// policies? Returns what the reference says.
    pub fn check(&self, source: &str, destination: &str, port: u16, protocol: &str) -> bool {
        let (from, to) = (self.end(source), self.end(destination));
        let allowed = kubernetes::is_allowed(self, from, to, port, protocol);
        let packet = Packet::new(from.address, to.address, protocol.parse().unwrap(), port);
        let passes = self.passes(source, destination, &packet);
        assert_eq!(
            passes, allowed,
            "{source} to {destination} {port}/{protocol}: the chains say {passes}, the policies {allowed}"
        );
        allowed
    }

    /// Walks a packet from end to end; an end is `namespace/name` or the address of something outside.
    pub fn passes(&self, source: &str, destination: &str, packet: &Packet) -> bool {
        match (self.pods.get(source), self.pods.get(destination)) {
            (Some(from), Some(to)) if from.node == to.node => {
                is_forwarded(self.node_of(from), &packet.via(Some(&link(source)), Some(&link(destination))))
            }
            (Some(from), Some(to)) => {
                is_forwarded(self.node_of(from), &packet.via(Some(&link(source)), Some(UPLINK)))
                    && is_forwarded(self.node_of(to), &packet.via(Some(UPLINK), Some(&link(destination))))
            }
            (Some(from), None) if self.node_addresses[&from.node] == packet.destination => {
                is_delivered_to_host(self.node_of(from), &packet.via(Some(&link(source)), None))
            }
            (Some(from), None) => {
                is_forwarded(self.node_of(from), &packet.via(Some(&link(source)), Some(UPLINK)))
            }
            (None, Some(to)) if self.node_addresses[&to.node] == packet.source => {
                is_sent_by_host(self.node_of(to), &packet.via(None, Some(&link(destination))))
            }
            (None, Some(to)) => {
                is_forwarded(self.node_of(to), &packet.via(Some(UPLINK), Some(&link(destination))))
            }
            (None, None) => panic!("neither {source:?} nor {destination:?} is a pod"),
        }
    }

    /// What one node has programmed.
    pub fn node(&self, name: &str) -> &Node {
        &self.nodes[name]
    }

    fn node_of(&self, pod: &CasePod) -> &Node {
        &self.nodes[&pod.node]
    }

    fn end<'a>(&'a self, name: &'a str) -> End<'a> {
        match self.pods.get(name) {
            Some(pod) => End { address: pod.ip, pod: Some((split(name).0, pod)) },
            None => End { address: name.parse().unwrap(), pod: None },
        }
    }

    fn set_pod(&mut self, name: &str, spec: Option<CasePod>) {
        let (namespace, pod_name) = split(name);
        let key = PodKey::new(namespace, pod_name);
        let old = self.pods.remove(name);
        let host = spec.as_ref().or(old.as_ref()).map(|pod| pod.node.clone()).expect("it is or was there");
        if let Some(node) = self.nodes.get_mut(&host) {
            let endpoint = spec.as_ref().map(|spec| local(&key, &[spec.ip]));
            node.calc.set_local_endpoint(interface(&key), endpoint);
        }
        let pod = spec.as_ref().map(|spec| model_pod(&key, spec));
        if let Some(spec) = spec {
            self.pods.insert(name.to_owned(), spec);
        }
        self.tell(&Update::Pod(key, pod));
    }

    fn tell(&mut self, update: &Update) {
        for node in self.nodes.values_mut() {
            node.apply([update.clone()]);
        }
    }
}

fn link(pod: &str) -> String {
    let (namespace, name) = split(pod);
    interface(&PodKey::new(namespace, name))
}

fn model_pod(key: &PodKey, spec: &CasePod) -> Pod {
    let port = |port: &crate::cases::CasePort| EndpointPort {
        name: port.name.clone(),
        protocol: port.protocol.parse::<Protocol>().unwrap(),
        port: port.port,
    };
    Pod {
        key: key.clone(),
        uid: key.to_string(),
        node: Some(spec.node.as_str().into()),
        addresses: vec![spec.ip],
        labels: spec.labels.clone(),
        ports: spec.ports.iter().map(port).collect(),
        service_account: Some("default".to_owned()),
        host_network: false,
        annotations: Labels::new(),
    }
}
