//! Pods as the network sees them.

use std::net::IpAddr;

use sha1::{Digest, Sha1};

use crate::{Labels, NodeName, PodKey, Protocol};

/// A Pod anywhere in the cluster, as far as policy is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub key: PodKey,
    /// Kubernetes UID: tells a Pod from an earlier one with the same name.
    pub uid: String,
    /// `None` until the scheduler has placed it.
    pub node: Option<NodeName>,
    /// `status.podIPs`; empty before ADD, and once the Pod has finished (Succeeded, Failed).
    pub addresses: Vec<IpAddr>,
    pub labels: Labels,
    /// Every container port that has a name.
    pub ports: Vec<EndpointPort>,
    pub service_account: Option<String>,
    /// Uses the node's own network: no endpoint of ours, and no selector matches it.
    pub host_network: bool,
    /// Annotations under `cni.projectcalico.org/`, `projectcalico.org/` and `qos.projectcalico.org/`, and those of
    /// `kubernetes.io/` about bandwidth; the rest is dropped at the door.
    pub annotations: Labels,
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointPort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// A Pod's interface on this node, as the CNI plugin made it; known before the Pod's status says anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    pub container_id: String,
    pub pod: PodKey,
    pub interface: HostInterface,
    pub addresses: Vec<IpAddr>,
    /// MAC of the pod's side, for the permanent neighbour entry; zeros when it is not known.
    pub mac: [u8; 6],
}

/// Name of the host side of a pod's veth.
pub type HostInterface = String;

/// The host interface of a pod: `prefix` and the first eleven hex digits of SHA-1 over `namespace.pod`
/// (Calico's rule, so that tools that know it find the interface).
pub fn host_interface_name(prefix: &str, pod: &PodKey) -> HostInterface {
    let digest = Sha1::digest(format!("{}.{}", pod.namespace, pod.name));
    let mut name = prefix.to_owned();
    for byte in &digest[..6] {
        name.push_str(&format!("{byte:02x}"));
    }
    name.truncate(prefix.len() + 11);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_name_fits_ifnamsiz_and_depends_on_both_parts() {
        let name = host_interface_name("cali", &PodKey::new("default", "web"));

        assert_eq!(name.len(), 15);
        assert_ne!(name, host_interface_name("cali", &PodKey::new("default", "web2")));
        assert_ne!(name, host_interface_name("cali", &PodKey::new("other", "web")));
    }

    #[test]
    fn interface_name_is_calicos() {
        // printf default.web | sha1sum
        assert_eq!(host_interface_name("cali", &PodKey::new("default", "web")), "cali68caf03a5f4");
    }
}
