//! Nodes as routers.

use std::net::{IpAddr, Ipv4Addr};

use crate::{Cidr, Family, Labels, NodeName, Tunnels};

/// A node's address and the length of the subnet that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    pub address: IpAddr,
    /// Prefix length of the subnet on the node's own interface.
    pub length: u8,
}

impl NodeAddress {
    /// The subnet; another node's address inside it is on-link.
    pub fn subnet(self) -> Cidr {
        Cidr::truncated(self.address, self.length).unwrap_or_else(|| Cidr::host(self.address))
    }
}

/// An interface of a node that is neither a pod's nor a tunnel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInterface {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

impl NodeInterface {
    /// What more a node has, or tells of, is left out.
    pub const MOST: usize = 256;
}

/// A Kubernetes Node with what Calico's annotations add to it (`projectcalico.org/IPv4Address` ...).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: NodeName,
    pub uid: String,
    pub labels: Labels,
    /// Where BGP peers reach it; from the annotation, else the InternalIP as a host address.
    pub ipv4: Option<NodeAddress>,
    pub ipv6: Option<NodeAddress>,
    /// `status.addresses` of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
    /// `projectcalico.org/ASNumber`; `None` takes the cluster's.
    pub as_number: Option<u32>,
    /// `projectcalico.org/RouteReflectorClusterID`: this node is a route reflector.
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
    pub tunnels: Tunnels,
    /// `projectcalico.org/Interfaces`: what the node tells of its interfaces.
    pub interfaces: Vec<NodeInterface>,
    /// `spec.podCIDRs`: what the cluster gave the node for its pods; without it where nodes get none.
    pub pod_cidrs: Vec<Cidr>,
}

impl Node {
    /// One of which nothing is known but its name.
    pub fn named(name: impl Into<NodeName>) -> Self {
        Self {
            name: name.into(),
            uid: String::new(),
            labels: Labels::new(),
            ipv4: None,
            ipv6: None,
            internal_ips: Vec::new(),
            as_number: None,
            route_reflector_cluster_id: None,
            tunnels: Tunnels::default(),
            interfaces: Vec::new(),
            pod_cidrs: Vec::new(),
        }
    }

    /// The address of one family that peers and tunnels use.
    pub fn address(&self, family: Family) -> Option<NodeAddress> {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }

    /// All its addresses, each once: where peers reach it, those that the cluster lists, those of its tunnels and of its
    /// interfaces.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let peered = [self.ipv4, self.ipv6].into_iter().flatten().map(|at| at.address);
        let mut all: Vec<IpAddr> = Vec::new();
        let of_interfaces = self.interfaces.iter().flat_map(|interface| interface.addresses.iter().copied());
        let others = self.internal_ips.iter().copied().chain(self.tunnels.addresses()).chain(of_interfaces);
        for address in peered.chain(others) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }
}
