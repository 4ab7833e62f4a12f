//! `BGPConfiguration`: BGP settings of the cluster as one node sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use crate::{Cidr, Family, LogSeverity, NodeName, SecretKey};

/// An AS number as RFC 5396 writes it: `64512`, or `1.10` for 65546. `None` for 0, which nobody has, and for what is
/// none.
pub fn parse_as_number(text: &str) -> Option<u32> {
    let number = match text.split_once('.') {
        None => text.parse().ok()?,
        Some((high, low)) => u32::from(high.parse::<u16>().ok()?) << 16 | u32::from(low.parse::<u16>().ok()?),
    };
    (number > 0).then_some(number)
}

/// `BGPConfiguration` named `default`, with what `node.<name>` says instead, and with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// Every node peers with every other.
    pub node_to_node_mesh: bool,
    /// AS of nodes that have none of their own.
    pub as_number: u32,
    /// Port on which this node listens.
    pub listen_port: u16,
    /// Port of nodes that have none of their own.
    pub cluster_listen_port: u16,
    /// Ports of nodes that have one of their own.
    pub node_listen_ports: BTreeMap<NodeName, u16>,
    /// Listen on the node's own addresses only.
    pub listen_on_node_addresses: bool,
    /// Service addresses to announce.
    pub services: ServiceRanges,
    /// Communities to attach to routes that go out.
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// Where the MD5 password of the mesh is.
    pub mesh_password: Option<SecretKey>,
    /// Graceful restart time in the mesh.
    pub mesh_max_restart_time: Option<Duration>,
    /// Which routes to pods of other nodes the speaker writes into the kernel.
    pub programs: ProgramClusterRoutes,
    /// Kernel metric of IPv4 routes that nothing says another one of.
    pub normal_priority_v4: u32,
    /// The same for IPv6.
    pub normal_priority_v6: u32,
    /// Log level of the speaker; `None` leaves the one that it was started with.
    pub log_severity: Option<LogSeverity>,
    /// Addresses that the node has towards pods that peer with it.
    pub local_workload_peering_v4: Option<Ipv4Addr>,
    pub local_workload_peering_v6: Option<Ipv6Addr>,
    /// How many equally good paths the route of a prefix may have; an own setting.
    pub maximum_paths: usize,
    /// Nothing is taken from external peers without import rules (RFC 8212); an own setting.
    pub ebgp_requires_policy: bool,
}

impl BgpConfiguration {
    /// The port on which the speaker of a node listens.
    pub fn listen_port_of(&self, node: &NodeName) -> u16 {
        self.node_listen_ports.get(node).copied().unwrap_or(self.cluster_listen_port)
    }

    /// Addresses that the node has towards pods that peer with it.
    pub fn local_workload_peering(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.local_workload_peering_v4.map(IpAddr::V4);
        v4.into_iter().chain(self.local_workload_peering_v6.map(IpAddr::V6))
    }

    /// Kernel metric of routes that nothing says another one of.
    pub fn normal_priority(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.normal_priority_v4,
            Family::V6 => self.normal_priority_v6,
        }
    }
}

impl Default for BgpConfiguration {
    fn default() -> Self {
        Self {
            node_to_node_mesh: true,
            as_number: 64512,
            listen_port: 179,
            cluster_listen_port: 179,
            node_listen_ports: BTreeMap::new(),
            listen_on_node_addresses: false,
            services: ServiceRanges::default(),
            prefix_advertisements: Vec::new(),
            mesh_password: None,
            mesh_max_restart_time: None,
            programs: ProgramClusterRoutes::default(),
            normal_priority_v4: 1024,
            normal_priority_v6: 1024,
            log_severity: None,
            local_workload_peering_v4: None,
            local_workload_peering_v6: None,
            maximum_paths: 64,
            ebgp_requires_policy: false,
        }
    }
}

/// Ranges of Service addresses that are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRanges {
    /// `serviceClusterIPs`.
    pub cluster_ips: Vec<Cidr>,
    /// `serviceExternalIPs`.
    pub external_ips: Vec<Cidr>,
    /// `serviceLoadBalancerIPs`.
    pub load_balancer_ips: Vec<Cidr>,
    /// Announce load balancer ranges whole instead of each Service's address.
    pub aggregate_load_balancers: bool,
}

impl Default for ServiceRanges {
    fn default() -> Self {
        Self {
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            aggregate_load_balancers: true,
        }
    }
}

impl ServiceRanges {
    /// Is nothing announced?
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Every range.
    pub fn all(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.cluster_ips.iter().chain(&self.external_ips).chain(&self.load_balancer_ips).copied()
    }
}

/// Communities for routes inside a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixAdvertisement {
    pub cidr: Cidr,
    pub communities: Vec<BgpCommunity>,
}

/// Which routes to pods of other nodes the speaker writes into the kernel; the rest is another agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramClusterRoutes {
    /// Of pools with IPIP.
    pub ipip: bool,
    /// Of pools without encapsulation.
    pub no_encapsulation: bool,
}

impl Default for ProgramClusterRoutes {
    fn default() -> Self {
        Self { ipip: true, no_encapsulation: true }
    }
}

/// A community of RFC 1997 (`aa:nn`, 16 bits each) or a large one of RFC 8092 (`aa:nn:mm`, 32 bits each).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BgpCommunity {
    Standard(u16, u16),
    Large(u32, u32, u32),
}

/// Text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no community such as 65000:100 (16 bits each) or 65000:1:2 (32 bits each)")]
pub struct InvalidBgpCommunity(String);

impl FromStr for BgpCommunity {
    type Err = InvalidBgpCommunity;

    fn from_str(text: &str) -> Result<Self, InvalidBgpCommunity> {
        let parts: Vec<&str> = text.split(':').collect();
        let community = match parts[..] {
            [a, b] => a.parse().ok().zip(b.parse().ok()).map(|(a, b)| Self::Standard(a, b)),
            [a, b, c] => {
                let all = [a, b, c].map(|part| part.parse().ok());
                if let [Some(a), Some(b), Some(c)] = all { Some(Self::Large(a, b, c)) } else { None }
            }
            _ => None,
        };
        community.ok_or_else(|| InvalidBgpCommunity(text.to_owned()))
    }
}

impl fmt::Display for BgpCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, b) => write!(f, "{a}:{b}"),
            Self::Large(a, b, c) => write!(f, "{a}:{b}:{c}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_standard_or_large() {
        for text in ["65000:100", "0:0", "65535:65535", "4294967295:1:2"] {
            assert_eq!(text.parse::<BgpCommunity>().map(|c| c.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "1", "65536:1", "1:2:3:4", "4294967296:1:1", "a:b", "1:-1", "1::2"] {
            assert!(text.parse::<BgpCommunity>().is_err(), "{text:?} was accepted");
        }
    }
}
