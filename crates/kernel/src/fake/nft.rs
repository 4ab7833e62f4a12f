//! nf_tables' transactions over a map.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use model::Family;

use super::{Entry, FakeKernel};
use crate::ipset::IpSetMember;
use crate::nft::{
    Expression, NftChange, NftDriver, NftHook, NftMap, NftRefusal, NftRule, NftSet, NftSetLayout, NftVerdict,
    RuleHash, SavedNft, SavedNftChain, SavedNftTable,
};

/// A chain of the fake kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FakeNftChain {
    pub hook: Option<NftHook>,
    pub rules: Vec<NftRule>,
    /// `None`: somebody else's rule.
    pub hashes: Vec<Option<RuleHash>>,
}

/// Our table of one family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FakeNftTable {
    pub chains: BTreeMap<Arc<str>, FakeNftChain>,
    pub sets: BTreeMap<Arc<str>, NftSet>,
    pub maps: BTreeMap<Arc<str>, NftMap>,
}

type Tables = BTreeMap<Family, FakeNftTable>;

impl FakeNftTable {
    fn is_target(&self, chain: &str) -> bool {
        let by_rule = self.chains.values().flat_map(|chain| &chain.rules).filter_map(NftRule::target);
        let by_map = self.maps.values().flat_map(|map| map.values()).filter_map(|verdict| verdict.target());
        by_rule.chain(by_map).any(|target| **target == *chain)
    }

    fn is_asked(&self, set: &str) -> bool {
        let mut rules = self.chains.values().flat_map(|chain| &chain.rules);
        rules.any(|rule| rule.references().any(|name| **name == *set))
    }

    fn change(&mut self, change: &NftChange) -> io::Result<()> {
        match change {
            NftChange::AddTable(_) | NftChange::DeleteTable(_) => {}
            NftChange::AddChain { name, hook, .. } => {
                let chain = self.chains.entry(name.clone()).or_default();
                if chain.hook != *hook && !chain.rules.is_empty() {
                    return refuse(format!("{name} has another hook"));
                }
                chain.hook = *hook;
            }
            NftChange::FlushChain { name, .. } => {
                let chain = self.chain(name)?;
                chain.rules.clear();
                chain.hashes.clear();
            }
            NftChange::DeleteChain { name, .. } => {
                if !self.chain(name)?.rules.is_empty() || self.is_target(name) {
                    return refuse(format!("chain {name} is in use"));
                }
                self.chains.remove(name);
            }
            NftChange::AddRule { chain, index, rules, hash, .. } => {
                let rule = rules.get(*index).expect("the index is of these rules");
                self.check(rule)?;
                let chain = self.chain(chain)?;
                chain.rules.push(rule.clone());
                chain.hashes.push(Some(*hash));
            }
            NftChange::AddSet { name, layout, .. } => {
                if self.sets.contains_key(name) || self.maps.contains_key(name) {
                    return refuse(format!("set {name} exists"));
                }
                self.sets.insert(name.clone(), NftSet { layout: *layout, members: Default::default() });
            }
            NftChange::AddMap { name, .. } => {
                if self.sets.contains_key(name) || self.maps.insert(name.clone(), NftMap::new()).is_some() {
                    return refuse(format!("map {name} exists"));
                }
            }
            NftChange::DeleteSet { name, .. } => {
                if self.is_asked(name) {
                    return refuse(format!("set {name} is in use"));
                }
                if self.sets.remove(name).is_none() && self.maps.remove(name).is_none() {
                    return refuse(format!("no set {name}"));
                }
            }
            NftChange::AddMembers { set, layout, members, .. } => {
                self.add_members(set, *layout, members)?;
            }
            NftChange::DeleteMembers { set, members, .. } => {
                let of = self.set(set)?;
                if let Some(member) = members.iter().find(|member| !of.members.remove(*member)) {
                    return refuse(format!("{member:?} is not in {set}"));
                }
            }
            NftChange::AddEntries { map, entries, .. } => self.add_entries(map, entries)?,
            NftChange::DeleteEntries { map, entries, .. } => {
                let Some(of) = self.maps.get_mut(map) else { return refuse(format!("no map {map}")) };
                if let Some((key, _)) = entries.iter().find(|(key, _)| of.remove(key).is_none()) {
                    return refuse(format!("{key} is not in {map}"));
                }
            }
        }
        Ok(())
    }

    fn chain(&mut self, name: &Arc<str>) -> io::Result<&mut FakeNftChain> {
        self.chains.get_mut(name).map_or_else(|| refuse(format!("no chain {name}")), Ok)
    }

    fn set(&mut self, name: &Arc<str>) -> io::Result<&mut NftSet> {
        self.sets.get_mut(name).map_or_else(|| refuse(format!("no set {name}")), Ok)
    }

    fn check(&self, rule: &NftRule) -> io::Result<()> {
        if let Some(target) = rule.target().filter(|target| !self.chains.contains_key(*target)) {
            return refuse(format!("no chain {target} for {rule:?}"));
        }
        let is_unknown = |name: &&Arc<str>| !self.sets.contains_key(*name) && !self.maps.contains_key(*name);
        match rule.references().find(is_unknown) {
            Some(set) => refuse(format!("no set {set} for {rule:?}")),
            None => Ok(()),
        }
    }

    fn add_members(
        &mut self,
        name: &Arc<str>,
        layout: NftSetLayout,
        members: &[IpSetMember],
    ) -> io::Result<()> {
        let set = self.set(name)?;
        if set.layout != layout {
            return refuse(format!("set {name} is a {:?}", set.layout));
        }
        for member in members {
            let overlaps = |other: &IpSetMember| match (member, other) {
                (IpSetMember::Net(a), IpSetMember::Net(b)) => a.overlaps(*b),
                (a, b) => a == b,
            };
            if let Some(other) = set.members.iter().find(|other| overlaps(other)) {
                return refuse(format!("{member:?} in {name} overlaps {other:?}"));
            }
            set.members.insert(*member);
        }
        Ok(())
    }

    fn add_entries(&mut self, name: &Arc<str>, entries: &[(Arc<str>, NftVerdict)]) -> io::Result<()> {
        for (key, verdict) in entries {
            if let Some(target) = verdict.target().filter(|target| !self.chains.contains_key(*target)) {
                return refuse(format!("no chain {target} for {key} in {name}"));
            }
            let Some(map) = self.maps.get_mut(name) else { return refuse(format!("no map {name}")) };
            if map.insert(key.clone(), verdict.clone()).is_some() {
                return refuse(format!("{key} is in {name} already"));
            }
        }
        Ok(())
    }
}

fn refuse<T>(why: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Who writes to a fake kernel through its driver.
const FAKE_WRITER: u32 = 1;

/// nf_tables of a fake kernel.
#[derive(Clone, Debug)]
pub struct FakeNft(pub(super) FakeKernel);

fn family(change: &NftChange) -> Family {
    match change {
        NftChange::AddTable(family) | NftChange::DeleteTable(family) => *family,
        NftChange::AddChain { family, .. }
        | NftChange::FlushChain { family, .. }
        | NftChange::DeleteChain { family, .. }
        | NftChange::AddRule { family, .. }
        | NftChange::AddSet { family, .. }
        | NftChange::DeleteSet { family, .. }
        | NftChange::AddMembers { family, .. }
        | NftChange::DeleteMembers { family, .. }
        | NftChange::AddMap { family, .. }
        | NftChange::AddEntries { family, .. }
        | NftChange::DeleteEntries { family, .. } => *family,
    }
}

/// The chain, set or map that a change is about.
fn subject(change: &NftChange) -> &str {
    match change {
        NftChange::AddTable(_) | NftChange::DeleteTable(_) => "",
        NftChange::AddChain { name, .. }
        | NftChange::FlushChain { name, .. }
        | NftChange::DeleteChain { name, .. }
        | NftChange::AddRule { chain: name, .. }
        | NftChange::AddSet { name, .. }
        | NftChange::DeleteSet { name, .. }
        | NftChange::AddMembers { set: name, .. }
        | NftChange::DeleteMembers { set: name, .. }
        | NftChange::AddMap { name, .. }
        | NftChange::AddEntries { map: name, .. }
        | NftChange::DeleteEntries { map: name, .. } => name,
    }
}

/// Can the kernel have nothing against it, whatever the chain is to hold?
fn is_harmless(change: &NftChange) -> bool {
    match change {
        NftChange::AddChain { .. } | NftChange::FlushChain { .. } => true,
        NftChange::AddRule { index, rules, .. } => {
            let drop = [Expression::Verdict(NftVerdict::Drop)];
            rules.get(*index).is_some_and(|rule| rule.expressions == drop)
        }
        _ => false,
    }
}

fn apply(tables: &mut Tables, change: &NftChange) -> io::Result<()> {
    let family = family(change);
    match change {
        NftChange::AddTable(_) => drop(tables.entry(family).or_default()),
        NftChange::DeleteTable(_) => drop(tables.remove(&family)),
        _ => match tables.get_mut(&family) {
            Some(table) => table.change(change)?,
            None => return refuse(format!("no table for {family}")),
        },
    }
    Ok(())
}

impl NftDriver for FakeNft {
    fn list(&mut self) -> io::Result<SavedNft> {
        self.0.list(|state| {
            let saved = |table: &FakeNftTable| SavedNftTable {
                chains: table
                    .chains
                    .iter()
                    .map(|(name, chain)| {
                        (name.clone(), SavedNftChain { hook: chain.hook, rules: chain.hashes.clone() })
                    })
                    .collect(),
                sets: table.sets.clone(),
                maps: table.maps.clone(),
                others: Default::default(),
            };
            state.nft.iter().map(|(family, table)| (*family, saved(table))).collect()
        })
    }

    fn is_own(&self, writer: u32) -> bool {
        writer == FAKE_WRITER
    }

    fn commit(&mut self, changes: &[NftChange]) -> Result<(), NftRefusal> {
        let mut state = self.0.state();
        let mut tables = state.nft.clone();
        let mut refusal = NftRefusal::default();
        for (index, change) in changes.iter().enumerate() {
            let told =
                !is_harmless(change) && state.refused.contains(&Entry::Nft(subject(change).to_owned()));
            let result =
                if told { Err(io::Error::other("told to refuse this")) } else { apply(&mut tables, change) };
            refusal.changes.extend(result.err().map(|error| (index, error)));
        }
        if state.refused.contains(&Entry::NftCommit) {
            refusal = NftRefusal { error: Some(io::Error::other("told to refuse")), ..NftRefusal::default() };
        }
        if !refusal.changes.is_empty() || refusal.error.is_some() {
            return Err(refusal);
        }
        state.nft = tables;
        state.writes += changes.len();
        match state.lost_answers.checked_sub(1) {
            Some(rest) => {
                state.lost_answers = rest;
                let error = Some(io::Error::other("told to lose the answer"));
                Err(NftRefusal { error, is_unknown: true, ..NftRefusal::default() })
            }
            None => Ok(()),
        }
    }
}
