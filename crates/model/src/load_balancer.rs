//! Services that want addresses from outside the cluster, as far as giving them some goes.

use std::net::IpAddr;

use crate::{Family, ObjectKey};

/// A Service of any type: one that changes its type gives back what it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerService {
    pub key: ObjectKey,
    /// Who holds its addresses in IPAM: made of name, namespace and UID, as Calico makes it.
    pub handle: String,
    /// UID of the object.
    pub uid: String,
    /// `spec.type` is LoadBalancer, and it is not being deleted.
    pub is_load_balancer: bool,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// `spec.ipFamilies`; IPv4 when nothing is said.
    pub families: Vec<Family>,
    /// `ipFamilyPolicy: PreferDualStack`: one family is enough where the other has no pool.
    pub takes_either: bool,
    /// What it asks for by annotations and `spec.loadBalancerIP`.
    ///
    /// An error says which of these cannot be understood.
    pub asks: Result<LoadBalancerRequest, String>,
    /// Addresses in `status.loadBalancer.ingress`.
    pub ingress: Vec<IpAddr>,
}

/// What a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancerRequest {
    /// Just these; at most one of each family, sorted.
    pub addresses: Vec<IpAddr>,
    /// Names or CIDRs of pools, to be tried in this order; none leaves it to us.
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
}

impl LoadBalancerRequest {
    /// Is anything asked for?
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ipv4_pools.is_empty() && self.ipv6_pools.is_empty()
    }

    /// Pools of one family.
    pub fn pools(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.ipv4_pools,
            Family::V6 => &self.ipv6_pools,
        }
    }
}

impl LoadBalancerService {
    /// `spec.loadBalancerClass` of Services that are ours whatever the settings say.
    pub const CLASS: &str = "calico";

    /// Is it ours to give addresses to? `AssignIps` says whether Services without a class are, all or those that ask.
    pub fn is_ours(&self, assign: AssignIps) -> bool {
        let asks = || self.asks.as_ref().map_or(true, |asks| !asks.is_empty());
        self.is_load_balancer
            && match (self.class.as_deref(), assign) {
                (Some(class), _) => class == Self::CLASS,
                (None, AssignIps::AllServices) => true,
                (None, AssignIps::RequestedServicesOnly) => asks(),
            }
    }
}

/// Which Services of type LoadBalancer without a class get addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssignIps {
    /// All.
    #[default]
    AllServices,
    /// Those that ask for an address or a pool.
    RequestedServicesOnly,
}
