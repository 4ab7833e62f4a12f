//! What is wanted in the words of the other ways into the kernel: packet rules, hooks, IP sets.

use std::sync::Arc;

use model::Family;

use super::driver::NftDriver;
use super::objects::{NftMap, nft_set_name};
use super::plan::NftObject;
use super::spell::{SpelledChain, nft_chain_name, spell_chain, spell_hook};
use super::tables::Nftables;
use crate::ipset::{IpSet, IpSetMember, IpSetName};
use crate::iptables::{Chain, ChainName, Hook, HookName, IptablesTable};

impl<D: NftDriver> Nftables<D> {
    /// Wants a chain with the maps that its rules ask, or wants it gone.
    pub fn want_chain(
        &mut self,
        family: Family,
        table: IptablesTable,
        name: &ChainName,
        chain: Option<&Chain>,
    ) {
        let spelled = chain.map(|chain| spell_chain(family, table, chain));
        self.want_spelled(family, &nft_chain_name(table, name.as_str()), spelled);
    }

    /// Wants these rules where packets come by in the kernel; the default takes the base chain away.
    pub fn want_hook(&mut self, family: Family, table: IptablesTable, name: HookName, hook: &Hook) {
        let spelled = (*hook != Hook::default()).then(|| spell_hook(family, table, name, hook));
        self.want_spelled(family, &nft_chain_name(table, name), spelled);
    }

    fn want_spelled(&mut self, family: Family, name: &Arc<str>, spelled: Option<SpelledChain>) {
        let (chain, maps) = spelled.map_or((None, Vec::new()), |spelled| (Some(spelled.chain), spelled.maps));
        self.set_chain(family, name, chain);
        let mut former = self.maps_of(family, name);
        for (map, entries) in maps {
            former.retain(|former| *former != map);
            self.set_map(family, &map, true);
            self.want_entries(family, &map, &entries);
        }
        former.iter().for_each(|map| self.set_map(family, map, false));
    }

    fn want_entries(&mut self, family: Family, map: &Arc<str>, entries: &NftMap) {
        let Some(has) = self.map(family, map) else { return };
        let gone: Vec<_> = has.keys().filter(|key| !entries.contains_key(*key)).cloned().collect();
        let come = entries.iter().filter(|(key, verdict)| has.get(*key) != Some(verdict));
        let come: Vec<_> = come.map(|(key, verdict)| (key.clone(), verdict.clone())).collect();
        gone.iter().for_each(|key| self.set_entry(family, map, key, None));
        for (key, verdict) in come {
            self.set_entry(family, map, &key, Some(verdict));
        }
    }

    /// Wants a set, or wants it gone.
    pub fn want_set(&mut self, name: &IpSetName, set: Option<IpSet>) {
        let family = set.as_ref().map_or_else(|| family_of(name), |set| set.family);
        self.set_set(family, &nft_set_name(name), set);
    }

    /// A set that is wanted.
    pub fn wanted_set(&self, name: &IpSetName) -> Option<&IpSet> {
        self.set(family_of(name), &nft_set_name(name))
    }

    /// Wants these members, and those no more, in a set that is wanted.
    pub fn want_members(&mut self, name: &IpSetName, added: &[IpSetMember], removed: &[IpSetMember]) {
        self.change_set(family_of(name), &nft_set_name(name), added, removed);
    }
}

/// The object that a chain of ours is.
pub fn nft_chain_object(family: Family, table: IptablesTable, name: &str) -> NftObject {
    NftObject::Chain(family, nft_chain_name(table, name))
}

/// Families have sets of their own, which the name tells.
fn family_of(name: &IpSetName) -> Family {
    if name.as_str().starts_with("cali6") { Family::V6 } else { Family::V4 }
}
