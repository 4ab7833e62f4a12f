//! Which node has which address for BGP. Owns the index, which costs what changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_packet::Family;
use model::{Node, NodeName};

use crate::sessions::address;

/// Addresses of nodes. Two nodes may claim the same one for a while.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeAddresses {
    owners: BTreeMap<IpAddr, BTreeSet<NodeName>>,
    of_nodes: BTreeMap<NodeName, Vec<IpAddr>>,
}

impl NodeAddresses {
    /// Those of all these nodes.
    pub(crate) fn new<'a>(nodes: impl Iterator<Item = &'a Node>) -> Self {
        let mut addresses = Self::default();
        nodes.for_each(|node| drop(addresses.set(&node.name, Some(node))));
        addresses
    }

    /// A node came, went or changed. Gives back the addresses that it had or has.
    pub(crate) fn set(&mut self, name: &NodeName, node: Option<&Node>) -> Vec<IpAddr> {
        let mut touched = self.of_nodes.remove(name).unwrap_or_default();
        for old in &touched {
            let Some(owners) = self.owners.get_mut(old) else { continue };
            owners.remove(name);
            if owners.is_empty() {
                self.owners.remove(old);
            }
        }
        let new: Vec<IpAddr> = node
            .into_iter()
            .flat_map(|node| Family::ALL.into_iter().filter_map(|f| address(node, f)))
            .collect();
        for address in &new {
            self.owners.entry(*address).or_default().insert(name.clone());
        }
        touched.extend(new.iter().copied());
        if !new.is_empty() {
            self.of_nodes.insert(name.clone(), new);
        }
        touched
    }

    /// The node that counts as the owner of an address.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&NodeName> {
        self.owners.get(&address)?.last()
    }

    /// All that claim an address.
    pub(crate) fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &NodeName> {
        self.owners.get(&address).into_iter().flatten()
    }

    /// Every address with its owner.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &NodeName)> {
        self.owners.iter().filter_map(|(address, owners)| Some((*address, owners.last()?)))
    }
}
