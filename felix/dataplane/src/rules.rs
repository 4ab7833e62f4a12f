//! What is wanted in the kernel, as one node's rules: for whoever walks a packet over them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::interpret::Ruleset;
use kernel::{ChainName, Hook, HookName, IpSetMember, IpSetName, IptablesTable, PacketRule};
use model::Family;

use crate::{Dataplane, Ports};

/// The chains and sets that a dataplane wants.
pub struct WantedRules<'a, P: Ports> {
    dataplane: &'a Dataplane<P>,
    addresses: &'a BTreeSet<IpAddr>,
}

impl<P: Ports> Dataplane<P> {
    /// The rules of this node, whose own `addresses` are these.
    pub fn wanted_rules<'a>(&'a self, addresses: &'a BTreeSet<IpAddr>) -> WantedRules<'a, P> {
        WantedRules { dataplane: self, addresses }
    }
}

impl<P: Ports> Ruleset for WantedRules<'_, P> {
    fn hook(&self, family: Family, table: IptablesTable, hook: HookName) -> Option<&Hook> {
        if let Some(nft) = self.dataplane.nft_in_use() {
            return nft.hook(family, table, hook);
        }
        let chains = self.dataplane.chains.iter().find(|chains| chains.family == family)?;
        chains.hook(table, hook)
    }

    fn chain(&self, family: Family, table: IptablesTable, name: &ChainName) -> Option<&[PacketRule]> {
        if let Some(nft) = self.dataplane.nft_in_use() {
            return nft.rules(family, table, name);
        }
        let chains = self.dataplane.chains.iter().find(|chains| chains.family == family)?;
        chains.rules(table, name)
    }

    fn set(&self, name: &IpSetName) -> Option<&BTreeSet<IpSetMember>> {
        if let Some(nft) = self.dataplane.nft_in_use() {
            return nft.members(name);
        }
        Some(&self.dataplane.ip_sets.sets.wanted(name)?.members)
    }

    fn is_local(&self, address: IpAddr, _: Option<&str>) -> bool {
        self.addresses.contains(&address)
    }
}
