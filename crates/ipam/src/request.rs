//! What is asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{AllocationAttributes, AllowedUse, Family, Labels};

use crate::Refusal;

/// Addresses for one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who gets them; asking again for the same handle gives the same addresses.
    pub handle: String,
    /// How many of any address.
    pub ipv4: u32,
    pub ipv6: u32,
    /// Names or CIDRs of the pools to use, in this order; empty leaves it to the pools' selectors.
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
    /// These very addresses, besides the numbers above.
    pub addresses: Vec<IpAddr>,
    /// Kept beside each address: `node`, `namespace`, `pod`, `timestamp`, `type`.
    pub attributes: BTreeMap<String, String>,
    pub usage: AllowedUse,
    /// Labels of the pod's namespace, for the pools' namespaceSelector.
    pub namespace_labels: Labels,
}

impl Request {
    /// Nothing asked for yet.
    pub fn new(handle: impl Into<String>, usage: AllowedUse) -> Self {
        Self {
            handle: handle.into(),
            ipv4: 0,
            ipv6: 0,
            ipv4_pools: Vec::new(),
            ipv6_pools: Vec::new(),
            addresses: Vec::new(),
            attributes: BTreeMap::new(),
            usage,
            namespace_labels: Labels::new(),
        }
    }

    pub(crate) fn count(&self, family: Family) -> usize {
        let count = match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        };
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    pub(crate) fn pools(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.ipv4_pools,
            Family::V6 => &self.ipv6_pools,
        }
    }

    pub(crate) fn allocation(&self) -> AllocationAttributes {
        AllocationAttributes {
            handle: Some(self.handle.clone()),
            secondary: self.attributes.clone(),
            released_at: None,
        }
    }
}

/// Why no address was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    #[error("there is no IPPool: create one")]
    NoPools,
    #[error("no {family} address for {handle}: {}", listed(.refusals))]
    Exhausted { family: Family, handle: String, refusals: Vec<Refusal> },
    #[error("address {0} is in no IPPool")]
    OutsidePools(IpAddr),
    #[error("address {address} cannot be given out: {refusal}")]
    Refused { address: IpAddr, refusal: Refusal },
    #[error("address {address} is in use by {holder}")]
    InUse { address: IpAddr, holder: String },
    #[error("address {address} is in a block of {owner}, and strict affinity keeps off it")]
    OtherNodesBlock { address: IpAddr, owner: String },
    #[error("IPAM object of handle {handle} belongs to handle {other}")]
    HandleTaken { handle: String, other: String },
}

fn listed(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
