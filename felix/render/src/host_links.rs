//! Which host endpoint governs which interface (`spec/felix.md` §3.6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felix_calc::ActiveHostEndpoint;
use model::{HostEndpointInterface, HostInterface};

/// The interfaces of this node with their addresses.
pub(crate) type HostLinks = BTreeMap<HostInterface, BTreeSet<IpAddr>>;

/// What governs the interfaces of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Governed {
    /// The smallest name of all that claim an interface has it.
    pub(crate) interfaces: BTreeMap<HostInterface, Arc<ActiveHostEndpoint>>,
    /// The host endpoint `*`: every other interface but those of pods.
    pub(crate) all: Option<Arc<ActiveHostEndpoint>>,
}

/// Resolves the claims. Interfaces of pods are nobody's.
pub(crate) fn govern(
    endpoints: &BTreeMap<Arc<str>, Arc<ActiveHostEndpoint>>,
    links: &HostLinks,
    is_pod_interface: impl Fn(&str) -> bool,
) -> Governed {
    let governs = |active: &ActiveHostEndpoint, name: &str, addresses: &BTreeSet<IpAddr>| match &active
        .endpoint
        .interface
    {
        Some(HostEndpointInterface::Named(named)) => **named == *name,
        Some(HostEndpointInterface::All) => false,
        None => active.endpoint.expected_ips.iter().any(|address| addresses.contains(address)),
    };
    let mut interfaces = BTreeMap::new();
    for (name, addresses) in links.iter().filter(|(name, _)| !is_pod_interface(name)) {
        // In the order of names.
        if let Some(active) = endpoints.values().find(|active| governs(active, name, addresses)) {
            interfaces.insert(name.clone(), active.clone());
        }
    }
    let is_all =
        |active: &&Arc<ActiveHostEndpoint>| active.endpoint.interface == Some(HostEndpointInterface::All);
    Governed { interfaces, all: endpoints.values().find(is_all).cloned() }
}

#[cfg(test)]
mod tests {
    use model::{HostEndpoint, Labels};

    use super::*;

    fn endpoints(
        list: &[(&str, Option<HostEndpointInterface>, &str)],
    ) -> BTreeMap<Arc<str>, Arc<ActiveHostEndpoint>> {
        let endpoint = |(name, interface, ip): &(&str, Option<HostEndpointInterface>, &str)| {
            let endpoint = HostEndpoint {
                name: (*name).into(),
                node: "n1".into(),
                interface: interface.clone(),
                expected_ips: ip.parse().into_iter().collect(),
                labels: Labels::new(),
                profiles: Vec::new(),
                ports: Vec::new(),
            };
            let active = ActiveHostEndpoint {
                endpoint,
                untracked: Vec::new(),
                pre_dnat: Vec::new(),
                forward: Vec::new(),
                normal: Vec::new(),
                profiles: Vec::new(),
            };
            (Arc::from(*name), Arc::new(active))
        };
        list.iter().map(endpoint).collect()
    }

    fn names(governed: &Governed) -> Vec<String> {
        let name = |(interface, active): (&String, &Arc<ActiveHostEndpoint>)| {
            format!("{interface}:{}", active.endpoint.name)
        };
        governed.interfaces.iter().map(name).collect()
    }

    #[test]
    fn the_smallest_name_has_the_interface_and_another_takes_over() {
        let named = |name: &str| Some(HostEndpointInterface::Named(name.into()));
        let all = Some(HostEndpointInterface::All);
        let mut endpoints = endpoints(&[
            ("a", None, "192.0.2.1"),
            ("b", named("eth0"), "198.51.100.1"),
            ("c", named("eth0"), ""),
            ("d", all.clone(), ""),
            ("e", all, ""),
            ("f", named("cali1"), ""),
        ]);
        let addresses = |ip: &str| BTreeSet::from([ip.parse().unwrap()]);
        let mut links = HostLinks::from([
            ("eth0".to_owned(), addresses("192.0.2.1")),
            ("eth1".to_owned(), addresses("198.51.100.1")),
            ("cali1".to_owned(), addresses("192.0.2.1")),
        ]);
        let governed = |endpoints: &_, links: &_| govern(endpoints, links, |name| name.starts_with("cali"));

        // The address of a host endpoint with a name decides nothing.
        assert_eq!(names(&governed(&endpoints, &links)), ["eth0:a"]);
        assert_eq!(&*governed(&endpoints, &links).all.unwrap().endpoint.name, "d");

        // The address moves to another interface.
        let moved = links.remove("eth0").unwrap();
        links.insert("eth0".to_owned(), BTreeSet::new());
        links.insert("eth2".to_owned(), moved);
        assert_eq!(names(&governed(&endpoints, &links)), ["eth0:b", "eth2:a"]);

        endpoints.remove("b");
        assert_eq!(names(&governed(&endpoints, &links)), ["eth0:c", "eth2:a"]);
    }
}
