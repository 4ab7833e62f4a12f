//! An address that is given out, and who says to have it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{AllocationAttributes, Block, Cidr, NodeName, ObjectKey, PodKey};

use crate::names;

/// Who an address was given to, by the attributes beside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A Pod; allocations of others than us have no UID.
    Pod { key: PodKey, uid: Option<String> },
    /// A container of a runtime that knows no pods.
    Container,
    /// A node's tunnel; the kind, such as `ipipTunnelAddress`.
    Tunnel(String),
    /// Kept ready by a node for its next pods.
    Reserved,
    /// A Service of type LoadBalancer.
    Service(ObjectKey),
    /// Something else with a type of its own.
    Other(String),
    /// Nothing says who.
    Unknown,
}

/// One address of a block that is not free.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allocation {
    pub address: IpAddr,
    pub block: Cidr,
    /// Owner of the block, who is another than `node` when the address is borrowed.
    pub block_owner: Option<NodeName>,
    pub handle: Option<String>,
    /// The block's sequence number when the address was given out.
    pub sequence_number: Option<u64>,
    /// The node that uses it.
    pub node: Option<NodeName>,
    pub user: User,
    /// Network namespace of the container, where only that tells whether it is there ([`names::NETNS`]).
    pub netns: Option<String>,
    /// Released already, and resting until it may be given out again.
    pub is_cooling: bool,
}

impl Allocation {
    /// Is it from the block of another node?
    pub fn is_borrowed(&self) -> bool {
        self.node.is_some() && self.block_owner.is_some() && self.node != self.block_owner
    }

    /// Is `container` the one that the handle, `<network>.<container ID>`, was made for?
    pub fn is_of_container(&self, is_known: impl Fn(&str) -> bool) -> bool {
        // Both halves may have dots in them.
        let handle = self.handle.as_deref().unwrap_or_default();
        handle.match_indices('.').any(|(dot, _)| is_known(&handle[dot + 1..]))
    }
}

/// Every address of a block that is not free.
pub fn allocations(block: &Block) -> impl Iterator<Item = Allocation> {
    block.allocated().chain(block.resting()).map(|(address, attributes)| {
        let ordinal = block.cidr.offset(address).and_then(|offset| usize::try_from(offset).ok());
        let given = ordinal.and_then(|ordinal| block.sequence_number_for_allocation.get(&ordinal));
        Allocation {
            address,
            block: block.cidr,
            block_owner: block.affinity.clone(),
            handle: attributes.handle.clone(),
            sequence_number: given.copied(),
            node: text(attributes, names::NODE).map(NodeName::from),
            user: user(attributes),
            netns: text(attributes, names::NETNS).map(str::to_owned),
            is_cooling: attributes.released_at.is_some(),
        }
    })
}

/// Allocations by handle: what shares one stays or goes together. Without a handle each stands alone.
pub fn grouped(all: impl IntoIterator<Item = Allocation>) -> BTreeMap<String, Vec<Allocation>> {
    let mut groups: BTreeMap<String, Vec<Allocation>> = BTreeMap::new();
    for allocation in all {
        let name = allocation.handle.clone().unwrap_or_else(|| allocation.address.to_string());
        groups.entry(name).or_default().push(allocation);
    }
    groups
}

fn text<'a>(attributes: &'a AllocationAttributes, key: &str) -> Option<&'a str> {
    attributes.secondary.get(key).map(String::as_str).filter(|text| !text.is_empty())
}

fn user(attributes: &AllocationAttributes) -> User {
    match text(attributes, names::TYPE) {
        Some(names::TYPE_RESERVED) => return User::Reserved,
        Some(names::TYPE_LOAD_BALANCER) => {
            let key = text(attributes, names::NAMESPACE).zip(text(attributes, names::SERVICE));
            return match key {
                Some((namespace, name)) => User::Service(ObjectKey::new(namespace, name)),
                None => User::Other(names::TYPE_LOAD_BALANCER.to_owned()),
            };
        }
        Some(kind) if kind.ends_with("TunnelAddress") => return User::Tunnel(kind.to_owned()),
        Some(kind) => return User::Other(kind.to_owned()),
        None => {}
    }
    match (text(attributes, names::NAMESPACE), text(attributes, names::POD)) {
        (Some(namespace), Some(pod)) => {
            let uid = text(attributes, names::UID).map(str::to_owned);
            User::Pod { key: PodKey::new(namespace, pod), uid }
        }
        // podman gives a name without a namespace, others give nothing but the container.
        _ if attributes.secondary.contains_key(names::POD) => User::Container,
        _ => User::Unknown,
    }
}
