//! What selectors see of objects: their labels, those that tell where they are, and whose labels they inherit
//! (`spec/felix.md` §2.3, §7.2).

use model::{EndpointPort, HostEndpoint, Labels, NetworkSet, NetworkSetKey, Pod, PodKey, Protocol};

use crate::classes::{Description, Kind, ORCHESTRATOR};

const NAMESPACE: &str = "projectcalico.org/namespace";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
const NAME: &str = "projectcalico.org/name";
const FROM_NAMESPACE: &str = "pcns.";
const FROM_SERVICE_ACCOUNT: &str = "pcsa.";
/// A longer name is the value of no label.
const LONGEST_SERVICE_ACCOUNT: usize = 62;

const OF_NAMESPACE: &str = "kns.";
const OF_SERVICE_ACCOUNT: &str = "ksa.";

/// The profile that a namespace's pods have.
pub(crate) fn namespace_profile(namespace: &str) -> String {
    format!("{OF_NAMESPACE}{namespace}")
}

/// The profile that a service account's pods have; it has labels alone.
pub(crate) fn service_account_profile(namespace: &str, name: &str) -> String {
    format!("{OF_SERVICE_ACCOUNT}{namespace}.{name}")
}

pub(crate) fn is_namespace_profile(name: &str) -> bool {
    name.starts_with(OF_NAMESPACE)
}

/// Is the name kept for profiles that follow from other objects?
pub(crate) fn is_derived_profile(name: &str) -> bool {
    is_namespace_profile(name) || name.starts_with(OF_SERVICE_ACCOUNT)
}

/// What a namespace's pods inherit.
pub(crate) fn namespace_labels<'a>(name: &'a str, labels: &'a Labels) -> Vec<(String, &'a str)> {
    inherited(FROM_NAMESPACE, name, labels)
}

/// What a service account's pods inherit.
pub(crate) fn service_account_labels<'a>(name: &'a str, labels: &'a Labels) -> Vec<(String, &'a str)> {
    inherited(FROM_SERVICE_ACCOUNT, name, labels)
}

fn inherited<'a>(prefix: &str, name: &'a str, labels: &'a Labels) -> Vec<(String, &'a str)> {
    let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let own = labels.filter(|(key, _)| *key != NAME).chain([(NAME, name)]);
    own.map(|(key, value)| (format!("{prefix}{key}"), value)).collect()
}

/// A Pod by its key, apart from every other object.
pub(crate) fn pod_name(key: &PodKey) -> String {
    format!("pod/{}/{}", key.namespace, key.name)
}

pub(crate) fn host_endpoint_name(name: &str) -> String {
    format!("hep/{name}")
}

pub(crate) fn network_set_name(key: &NetworkSetKey) -> String {
    match &key.namespace {
        Some(namespace) => format!("set/{namespace}/{}", key.name),
        None => format!("set/{}", key.name),
    }
}

pub(crate) fn pod(pod: &Pod) -> Description<'_> {
    let namespace = &*pod.key.namespace;
    let mut labels = scoped(namespace, &pod.labels);
    labels.push((ORCHESTRATOR, "k8s"));
    let mut parents = vec![namespace_profile(namespace)];
    if let Some(account) = pod.service_account.as_deref() {
        parents.push(service_account_profile(namespace, account));
        if account.len() <= LONGEST_SERVICE_ACCOUNT {
            labels.push((SERVICE_ACCOUNT, account));
        }
    }
    Description { kind: Kind::Pod, labels, parents, ports: ports(&pod.ports) }
}

pub(crate) fn host_endpoint(endpoint: &HostEndpoint) -> Description<'_> {
    let parents = endpoint.profiles.iter().map(|name| name.to_string()).collect();
    let labels = all(&endpoint.labels);
    Description { kind: Kind::HostEndpoint, labels, parents, ports: ports(&endpoint.ports) }
}

pub(crate) fn network_set<'a>(key: &'a NetworkSetKey, set: &'a NetworkSet) -> Description<'a> {
    let (labels, parents) = match &key.namespace {
        Some(namespace) => (scoped(namespace, &set.labels), vec![namespace_profile(namespace)]),
        None => (all(&set.labels), Vec::new()),
    };
    Description { kind: Kind::NetworkSet, labels, parents, ports: Vec::new() }
}

/// Labels of something in a namespace, whose owner cannot pretend that it is elsewhere.
fn scoped<'a>(namespace: &'a str, labels: &'a Labels) -> Vec<(&'a str, &'a str)> {
    let own = all(labels).into_iter().filter(|(key, _)| !is_reserved(key));
    own.chain([(NAMESPACE, namespace)]).collect()
}

fn all(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn ports(ports: &[EndpointPort]) -> Vec<(&str, Protocol, u16)> {
    ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect()
}

fn is_reserved(key: &str) -> bool {
    key.starts_with(FROM_NAMESPACE)
        || key.starts_with(FROM_SERVICE_ACCOUNT)
        || matches!(key, NAMESPACE | ORCHESTRATOR | SERVICE_ACCOUNT)
}
