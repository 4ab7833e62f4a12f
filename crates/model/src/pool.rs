//! IP pools.

use crate::{Cidr, Selector};

/// How packets between nodes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EncapMode {
    /// Plain routing.
    #[default]
    Never,
    /// A tunnel only to nodes that are not on-link.
    CrossSubnet,
    /// A tunnel to every other node.
    Always,
}

/// What a pool's addresses may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllowedUse {
    Workload,
    Tunnel,
    LoadBalancer,
}

/// Whether a pool is used without being asked for by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssignmentMode {
    #[default]
    Automatic,
    Manual,
}

/// `IPPool` of `projectcalico.org/v3`, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPool {
    pub name: String,
    pub cidr: Cidr,
    /// IPv4 only.
    pub ipip_mode: EncapMode,
    pub vxlan_mode: EncapMode,
    pub nat_outgoing: bool,
    /// No new addresses; those given out keep working.
    pub disabled: bool,
    pub disable_bgp_export: bool,
    /// Prefix length of a block: 26 for IPv4, 122 for IPv6 by default.
    pub block_size: u8,
    pub node_selector: Selector,
    pub namespace_selector: Selector,
    pub allowed_uses: Vec<AllowedUse>,
    pub assignment_mode: AssignmentMode,
    /// Its deletion waits for something: no new addresses meanwhile.
    pub deleting: bool,
    /// Seconds since the epoch; of pools that overlap, the one made first counts.
    pub created: u64,
}

impl IpPool {
    /// Counts as part of the pod network: all pools but those for load balancers alone.
    pub fn is_network(&self) -> bool {
        self.allowed_uses.iter().any(|u| *u != AllowedUse::LoadBalancer)
    }
}
