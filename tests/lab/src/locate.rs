//! Finds what a user names: a node, a pod, the router; gives its namespace and addresses from the daemon's status.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::control::Failure;
use crate::names::{Endpoint, Family};
use crate::status::LabStatus;

/// A named place in a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// `namespace/pod`, a node's name, `tor`, or an address.
    pub name: String,
    /// Its namespace; absent for a plain address.
    pub netns: Option<PathBuf>,
    /// Its addresses, IPv4 first; empty when it has none yet.
    pub addresses: Vec<IpAddr>,
}

impl Located {
    /// The first address, or the first of the wanted family.
    pub fn address(&self, family: Option<Family>) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| match family {
            Some(Family::V4) => a.is_ipv4(),
            Some(Family::V6) => a.is_ipv6(),
            Some(Family::Dual) | None => true,
        })
    }
}

/// Finds what `name` means in the lab; the failure lists what there is.
pub fn locate(status: &LabStatus, name: &str) -> Result<Located, Failure> {
    match Endpoint::parse(name) {
        Endpoint::Address(address) => {
            Ok(Located { name: name.to_owned(), netns: None, addresses: vec![address] })
        }
        Endpoint::Tor => {
            let addresses = crate::names::gateways(0, status.family);
            Ok(Located { name: name.to_owned(), netns: Some(status.tor.netns.clone()), addresses })
        }
        Endpoint::Node(node) => {
            let found = status.nodes.iter().find(|n| n.name == node);
            let node = found.ok_or_else(|| {
                let nodes = status.nodes.iter().map(|n| n.name.as_str());
                let pods = status.pods.iter().map(|p| p.name.as_str());
                Failure::unknown("node, pod or router", name, nodes.chain(["tor"]).chain(pods))
            })?;
            Ok(Located {
                name: node.name.clone(),
                netns: Some(node.netns.clone()),
                addresses: node.addresses.clone(),
            })
        }
        Endpoint::Pod(namespace, pod) => {
            let wanted = format!("{namespace}/{pod}");
            let found = status.pods.iter().find(|p| p.name == wanted);
            let pod = found.ok_or_else(|| {
                Failure::unknown("pod", &wanted, status.pods.iter().map(|p| p.name.as_str()))
            })?;
            let netns = (!pod.netns.as_os_str().is_empty()).then(|| pod.netns.clone());
            Ok(Located { name: pod.name.clone(), netns, addresses: pod.addresses.clone() })
        }
    }
}

/// The namespace to work in; a pod that is not wired yet says so.
pub fn namespace_of(located: &Located, status: &LabStatus) -> Result<PathBuf, Failure> {
    if let Some(netns) = &located.netns {
        return Ok(netns.clone());
    }
    let pod = status.pods.iter().find(|p| p.name == located.name);
    let why = pod.and_then(|p| p.message.clone()).unwrap_or_else(|| "it is being created".to_owned());
    match pod {
        Some(_) => Err(Failure::failed(format!("pod {} has no network yet: {why}", located.name))),
        None => Err(Failure::usage(format!("{} is an address, not a pod, node or tor", located.name))),
    }
}
