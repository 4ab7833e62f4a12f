//! Our tables of nf_tables: what they should hold, and how they get there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use model::Family;

use super::driver::{NftChange, NftDriver, NftRefusal, SavedNft};
use super::expression::NftVerdict;
use super::members::{Difference, Members};
use super::objects::{NftChain, NftMap};
use super::plan::{
    Actual, ActualChain, HashedChain, NftObject, Plan, Planner, RefusedObjects, Wanted, WantedSet,
};
use crate::ipset::{IpSet, IpSetMember};
use crate::iptables_retries::pause;

/// Transactions that one `apply` tries, each without what the one before was refused for.
const TRIES: usize = 16;

/// Answers that one `apply` may lose before it waits.
const LOST_ANSWERS: usize = 3;

/// What one `apply` did.
#[derive(Debug, Default)]
pub struct NftApplied {
    /// Chains, sets and maps that were written or deleted.
    pub objects: usize,
    /// Steps of the transactions that succeeded; 0 where nothing was to be done.
    pub changes: usize,
    /// What was refused; everything else is written.
    pub failed: Vec<(NftObject, String)>,
}

#[derive(Clone, Debug)]
struct Failing {
    failures: u32,
    at: Instant,
    error: String,
    /// The refused rules of a chain.
    rules: BTreeSet<usize>,
}

/// The tables of both families.
///
/// What the kernel holds is read once, and again at `resync` and after a refusal. The first `apply` also sweeps what
/// an earlier run left behind, so it must wait until everything wanted has been set. All that differs is written in
/// one transaction: a packet meets all of it, or nothing.
pub struct Nftables<D> {
    driver: D,
    wanted: BTreeMap<Family, Wanted>,
    actual: Option<BTreeMap<Family, Actual>>,
    /// What may differ.
    dirty: BTreeSet<NftObject>,
    failing: BTreeMap<NftObject, Failing>,
    /// How often in a row nothing could be read or written, when that is tried again, and why.
    blocked: Option<(u32, Instant, String)>,
}

impl<D: NftDriver> Nftables<D> {
    pub fn new(driver: D) -> Self {
        Self {
            driver,
            wanted: BTreeMap::new(),
            actual: None,
            dirty: BTreeSet::new(),
            failing: BTreeMap::new(),
            blocked: None,
        }
    }

    /// Wants a chain, or wants it gone.
    pub fn set_chain(&mut self, family: Family, name: &Arc<str>, chain: Option<NftChain>) {
        let chains = &mut self.wanted.entry(family).or_default().chains;
        match chain {
            Some(chain) if chains.get(name).is_some_and(|has| has.chain == chain) => return,
            Some(chain) => _ = chains.insert(name.clone(), HashedChain::new(name, chain)),
            None if chains.remove(name).is_none() => return,
            None => {}
        }
        self.wish_changed(NftObject::Chain(family, name.clone()));
    }

    /// Wants a set, or wants it gone.
    pub fn set_set(&mut self, family: Family, name: &Arc<str>, set: Option<IpSet>) {
        let sets = &mut self.wanted.entry(family).or_default().sets;
        match set {
            Some(set) => match sets.get_mut(name) {
                Some(has) if has.members.is(&set) => return,
                Some(has) if has.members.kind() == set.kind => {
                    has.members.become_set(&set, &mut has.difference)
                }
                _ => {
                    let difference = Difference::new();
                    sets.insert(name.clone(), WantedSet { members: Members::new(set), difference });
                    // What the kernel holds under this name is known by its layout alone.
                    self.forget_set(family, name);
                }
            },
            None if sets.remove(name).is_none() => return,
            None => {}
        }
        self.wish_changed(NftObject::Set(family, name.clone()));
    }

    /// Wants these members, and those no more, in a set that is wanted; of another nothing can be made.
    pub fn change_set(
        &mut self,
        family: Family,
        name: &Arc<str>,
        added: &[IpSetMember],
        removed: &[IpSetMember],
    ) {
        let set = self.wanted.get_mut(&family).and_then(|wanted| wanted.sets.get_mut(name));
        let Some(set) = set else { return };
        set.members.change(added, removed, &mut set.difference);
        self.wish_changed(NftObject::Set(family, name.clone()));
    }

    /// Wants a map, empty at first, or wants it gone.
    pub fn set_map(&mut self, family: Family, name: &Arc<str>, is_wanted: bool) {
        let maps = &mut self.wanted.entry(family).or_default().maps;
        match is_wanted {
            true if maps.contains_key(name) => return,
            true => _ = maps.insert(name.clone(), BTreeMap::new()),
            false if maps.remove(name).is_none() => return,
            false => {}
        }
        self.wish_changed(NftObject::Map(family, name.clone()));
    }

    /// Wants an entry in a map that is wanted, or wants it gone.
    pub fn set_entry(
        &mut self,
        family: Family,
        map: &Arc<str>,
        interface: &Arc<str>,
        verdict: Option<NftVerdict>,
    ) {
        let wanted = self.wanted.get_mut(&family).and_then(|wanted| wanted.maps.get_mut(map));
        let Some(entries) = wanted else { return };
        match verdict {
            Some(verdict) => _ = entries.insert(interface.clone(), verdict),
            None => _ = entries.remove(interface),
        }
        self.wish_changed(NftObject::Map(family, map.clone()));
    }

    fn wish_changed(&mut self, object: NftObject) {
        self.failing.remove(&object);
        self.dirty.insert(object);
    }

    fn forget_set(&mut self, family: Family, name: &Arc<str>) {
        let actual = self.actual.as_mut().and_then(|actual| actual.get_mut(&family));
        if let Some(layout) = actual.and_then(|actual| actual.sets.get_mut(name)) {
            *layout = None;
        }
    }

    /// Reads our tables. Returns how many objects differ from what is wanted.
    pub fn resync(&mut self) -> io::Result<usize> {
        let saved = self.driver.list()?;
        self.take(saved);
        Ok(self.dirty.len())
    }

    /// Makes the next `apply` read our tables first.
    pub fn invalidate(&mut self) {
        self.actual = None;
    }

    /// Notes what the kernel holds, and compares it with everything that is wanted.
    fn take(&mut self, saved: SavedNft) {
        self.dirty.clear();
        let mut all = BTreeMap::new();
        for (family, table) in saved {
            let mut actual = Actual { maps: table.maps, ..Actual::default() };
            let wanted = self.wanted.entry(family).or_default();
            for (name, set) in table.sets {
                if let Some(wish) = wanted.sets.get_mut(&name) {
                    wish.difference = wish.members.difference_from(&set.members);
                }
                actual.sets.insert(name, Some(set.layout));
            }
            actual.sets.extend(table.others.into_iter().map(|name| (name, None)));
            actual.chains = table
                .chains
                .into_iter()
                .map(|(name, chain)| {
                    let hashes: Option<Vec<_>> = chain.rules.into_iter().collect();
                    (name, ActualChain { hook: chain.hook, hashes: hashes.map(Into::into) })
                })
                .collect();
            all.insert(family, actual);
        }
        self.compare(&all);
        self.actual = Some(all);
    }

    fn compare(&mut self, all: &BTreeMap<Family, Actual>) {
        let none = Actual::default();
        for (family, wanted) in &self.wanted {
            let actual = all.get(family).unwrap_or(&none);
            let chains = wanted.chains.iter().filter(|(name, hashed)| {
                actual.chains.get(*name).is_none_or(|is| {
                    is.hook != hashed.chain.hook || is.hashes.as_ref() != Some(&hashed.hashes)
                })
            });
            let gone = actual.chains.keys().filter(|name| !wanted.chains.contains_key(*name));
            let chains = chains.map(|(name, _)| name).chain(gone);
            self.dirty.extend(chains.map(|name| NftObject::Chain(*family, name.clone())));
            let sets = wanted.sets.iter().filter(|(name, set)| {
                actual.sets.get(*name) != Some(&Some(set.members.layout())) || !set.difference.is_empty()
            });
            let gone = actual.sets.keys().filter(|name| !wanted.sets.contains_key(*name));
            let sets = sets.map(|(name, _)| name).chain(gone);
            self.dirty.extend(sets.map(|name| NftObject::Set(*family, name.clone())));
            let maps = wanted.maps.iter().filter(|(name, map)| actual.maps.get(*name) != Some(map));
            let gone = actual.maps.keys().filter(|name| !wanted.maps.contains_key(*name));
            let maps = maps.map(|(name, _)| name).chain(gone);
            self.dirty.extend(maps.map(|name| NftObject::Map(*family, name.clone())));
        }
    }

    /// Writes what differs, but for what was refused and has to wait until after `now`; a new wish for it is written
    /// at once. Fails only when nothing could be read or written; then everything waits.
    pub fn apply(&mut self, now: Instant) -> io::Result<NftApplied> {
        if self.blocked.as_ref().is_some_and(|(_, at, _)| now < *at) {
            return Ok(NftApplied::default());
        }
        let result = self.apply_now(now);
        match &result {
            Ok(_) => self.blocked = None,
            Err(error) => {
                let failures = self.blocked.as_ref().map_or(0, |(failures, ..)| *failures);
                self.blocked = Some((failures.saturating_add(1), now + pause(failures), error.to_string()));
                self.actual = None;
            }
        }
        result
    }

    fn apply_now(&mut self, now: Instant) -> io::Result<NftApplied> {
        let mut is_fresh = self.actual.is_none();
        if is_fresh {
            self.resync()?;
        }
        if self.wanted() == 0 {
            return self.delete_tables();
        }
        let mut refused: RefusedObjects = BTreeMap::new();
        for (object, failing) in self.failing.iter().filter(|(_, failing)| now < failing.at) {
            refused.insert(object.clone(), failing.rules.clone());
        }
        let mut errors: BTreeMap<NftObject, String> = BTreeMap::new();
        let mut applied = NftApplied::default();
        for attempt in 0.. {
            let plan = self.plan(&refused, &self.dirty);
            let Err(refusal) = self.commit(&plan, &mut applied) else { break };
            if !is_fresh || (refusal.is_unknown && attempt < LOST_ANSWERS) {
                // Perhaps somebody took away what the plan relied on, or all was done and the answer is lost: look,
                // and try once more.
                is_fresh = true;
                self.resync()?;
                continue;
            }
            if refusal.is_unknown {
                return Err(refusal.into_error());
            }
            if refusal.changes.is_empty() || attempt == TRIES {
                let error = refusal.error.unwrap_or_else(|| io::Error::other("refused again and again"));
                self.apply_apart(&mut refused, &mut errors, error, &mut applied)?;
                break;
            }
            // Where a set is refused, so is every rule that asks it: the set alone is to blame.
            let is_chain = |index: &usize| {
                plan.owners.get(*index).is_some_and(|(object, _)| matches!(object, NftObject::Chain(..)))
            };
            let all_chains = refusal.changes.iter().all(|(index, _)| is_chain(index));
            for (index, error) in refusal.changes {
                let Some((object, rule)) = plan.owners.get(index).cloned() else { continue };
                if !all_chains && is_chain(&index) {
                    continue;
                }
                errors.entry(object.clone()).or_insert_with(|| error.to_string());
                refused.entry(object).or_default().extend(rule);
            }
        }
        self.note_failures(refused, &errors, now);
        applied.failed = errors.into_iter().collect();
        Ok(applied)
    }

    fn delete_tables(&mut self) -> io::Result<NftApplied> {
        let families: Vec<_> = self.actual.iter().flat_map(|actual| actual.keys().copied()).collect();
        let changes: Vec<_> = families.into_iter().map(NftChange::DeleteTable).collect();
        if !changes.is_empty() {
            self.driver.commit(&changes).map_err(NftRefusal::into_error)?;
        }
        self.actual = Some(BTreeMap::new());
        self.dirty.clear();
        Ok(NftApplied { objects: changes.len(), changes: changes.len(), failed: Vec::new() })
    }

    fn plan(&self, refused: &RefusedObjects, objects: &BTreeSet<NftObject>) -> Plan {
        let none = BTreeMap::new();
        let actual = self.actual.as_ref().unwrap_or(&none);
        Planner { wanted: &self.wanted, actual, refused }.plan(objects)
    }

    /// Writes one object after another where the kernel refuses the whole without naming a part: first everything
    /// that is new as far as it stands for itself, then chain by chain. Fails when not even that can be written.
    fn apply_apart(
        &mut self,
        refused: &mut RefusedObjects,
        errors: &mut BTreeMap<NftObject, String>,
        error: io::Error,
        applied: &mut NftApplied,
    ) -> io::Result<()> {
        let chains: Vec<_> =
            self.dirty.iter().filter(|o| matches!(o, NftObject::Chain(..))).cloned().collect();
        if chains.len() < 2 {
            return Err(error);
        }
        let all = |hashed: &HashedChain| (0..hashed.chain.rules.len()).collect::<BTreeSet<_>>();
        let mut held = refused.clone();
        for object in &chains {
            if let NftObject::Chain(family, name) = object {
                let wanted = self.wanted.get(family).and_then(|wanted| wanted.chains.get(name));
                held.entry(object.clone()).or_default().extend(wanted.map(all).unwrap_or_default());
            }
        }
        let plan = self.plan(&held, &self.dirty);
        self.commit(&plan, applied).map_err(|_| error)?;
        for object in chains {
            if refused.contains_key(&object) {
                continue;
            }
            let former = held.remove(&object).unwrap_or_default();
            let plan = self.plan(&held, &BTreeSet::from([object.clone()]));
            if let Err(refusal) = self.commit(&plan, applied) {
                let mut reasons = refusal.changes.into_iter().map(|(_, error)| error).chain(refusal.error);
                let reason = reasons.next().map_or_else(|| "refused".to_owned(), |error| error.to_string());
                errors.insert(object.clone(), reason);
                refused.insert(object.clone(), former.clone());
                held.insert(object, former);
            }
        }
        Ok(())
    }

    fn commit(&mut self, plan: &Plan, applied: &mut NftApplied) -> Result<(), NftRefusal> {
        if !plan.changes.is_empty() {
            self.driver.commit(&plan.changes)?;
            applied.changes += plan.changes.len();
            let touched: BTreeSet<_> = plan.owners.iter().map(|(object, _)| object).collect();
            applied.objects += touched.len();
        }
        self.note(plan);
        Ok(())
    }

    /// Notes that the kernel now holds what the plan said.
    fn note(&mut self, plan: &Plan) {
        let all = self.actual.get_or_insert_default();
        for (object, chain) in &plan.chains {
            let NftObject::Chain(family, name) = object else { continue };
            let chains = &mut all.entry(*family).or_default().chains;
            let wanted = self.wanted.get(family).and_then(|wanted| wanted.chains.get(name));
            let is_right = match (chain, wanted) {
                (Some(is), Some(hashed)) => is.hashes.as_ref() == Some(&hashed.hashes),
                (None, None) => true,
                _ => false,
            };
            match chain {
                Some(chain) => _ = chains.insert(name.clone(), chain.clone()),
                None => _ = chains.remove(name),
            }
            if is_right {
                self.dirty.remove(object);
            }
        }
        for (object, layout) in &plan.sets {
            let NftObject::Set(family, name) = object else { continue };
            let sets = &mut all.entry(*family).or_default().sets;
            match layout {
                Some(layout) => _ = sets.insert(name.clone(), Some(*layout)),
                None => _ = sets.remove(name),
            }
            let wanted = self.wanted.get_mut(family).and_then(|wanted| wanted.sets.get_mut(name));
            wanted.into_iter().for_each(|set| set.difference.clear());
            self.dirty.remove(object);
        }
        for object in &plan.maps {
            let NftObject::Map(family, name) = object else { continue };
            let maps = &mut all.entry(*family).or_default().maps;
            match self.wanted.get(family).and_then(|wanted| wanted.maps.get(name)) {
                Some(map) => _ = maps.insert(name.clone(), map.clone()),
                None => _ = maps.remove(name),
            }
            self.dirty.remove(object);
        }
    }

    fn note_failures(&mut self, refused: RefusedObjects, errors: &BTreeMap<NftObject, String>, now: Instant) {
        let mut before = std::mem::take(&mut self.failing);
        for (object, rules) in refused {
            let old = before.remove(&object);
            let failing = match (errors.get(&object), old) {
                (None, Some(old)) => old,
                (error, old) => {
                    let failures = old.map_or(0, |old| old.failures);
                    let error = error.cloned().unwrap_or_default();
                    Failing { failures: failures.saturating_add(1), at: now + pause(failures), error, rules }
                }
            };
            self.failing.insert(object, failing);
        }
    }

    /// When the next try after a failure is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let blocked = self.blocked.as_ref().map(|(_, at, _)| *at);
        blocked.or_else(|| self.failing.values().map(|failing| failing.at).min())
    }

    /// Why nothing can be read or written; `None` where that works.
    pub fn blocked(&self) -> Option<&str> {
        self.blocked.as_ref().map(|(.., error)| error.as_str())
    }

    /// What was refused and is still wanted, with the reason.
    pub fn failing(&self) -> impl Iterator<Item = (&NftObject, &str)> {
        self.failing.iter().map(|(object, failing)| (object, failing.error.as_str()))
    }

    /// Why the kernel does not hold this object as wanted; `None` where it does, or nothing is wanted.
    pub fn missing(&self, object: &NftObject) -> Option<String> {
        if self.actual.is_some() && !self.dirty.contains(object) {
            return None;
        }
        let error = self.failing.get(object).map(|failing| failing.error.as_str());
        Some(match error.or(self.blocked()) {
            Some(error) => format!("{object}: {error}"),
            None => format!("{object} is not written yet"),
        })
    }

    /// The chain that is wanted.
    pub fn chain(&self, family: Family, name: &str) -> Option<&NftChain> {
        self.wanted.get(&family)?.chains.get(name).map(|hashed| &hashed.chain)
    }

    /// Wants nothing any more, and the tables themselves gone.
    pub fn want_nothing(&mut self) {
        self.wanted.clear();
        self.dirty.clear();
        self.failing.clear();
        self.actual = None;
    }

    /// The maps that are wanted.
    pub fn maps(&self, family: Family) -> impl Iterator<Item = (&Arc<str>, &NftMap)> {
        self.wanted.get(&family).into_iter().flat_map(|wanted| &wanted.maps)
    }

    /// The map that is wanted.
    pub fn map(&self, family: Family, name: &str) -> Option<&NftMap> {
        self.wanted.get(&family)?.maps.get(name)
    }

    /// The maps that belong to a chain: they have its name, the first alone and others with a number.
    pub(crate) fn maps_of(&self, family: Family, chain: &str) -> Vec<Arc<str>> {
        let Some(wanted) = self.wanted.get(&family) else { return Vec::new() };
        let is_of = |name: &&Arc<str>| {
            name.strip_prefix(chain).is_some_and(|rest| {
                rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.parse::<usize>().is_ok())
            })
        };
        wanted.maps.keys().filter(is_of).cloned().collect()
    }

    /// A set that is wanted, prefixes within others included.
    pub fn set(&self, family: Family, name: &str) -> Option<&IpSet> {
        self.wanted.get(&family)?.sets.get(name).map(|set| set.members.all())
    }

    /// How many chains, sets and maps are wanted.
    pub fn wanted(&self) -> usize {
        self.wanted.values().map(|wanted| wanted.chains.len() + wanted.sets.len() + wanted.maps.len()).sum()
    }

    /// How many of them the kernel does not hold as wanted, as far as is known, and what is there unwanted.
    pub fn pending(&self) -> usize {
        if self.actual.is_some() { self.dirty.len() } else { self.wanted().max(1) }
    }

    /// What differs, as far as is known: the object, what is intended and what is there, in words.
    pub fn differences(&self) -> Vec<(String, Option<String>, Option<String>)> {
        let none = (Wanted::default(), Actual::default());
        let words = |object: &NftObject| {
            let family = object.family();
            let wanted = self.wanted.get(&family).unwrap_or(&none.0);
            let actual = self.actual.as_ref().and_then(|actual| actual.get(&family)).unwrap_or(&none.1);
            let (intended, is) = match object {
                NftObject::Chain(_, name) => {
                    let rules = |count: usize| format!("{count} rules");
                    let others = || "rules of somebody else".to_owned();
                    let is = actual.chains.get(name).map(|is| &is.hashes);
                    (
                        wanted.chains.get(name).map(|hashed| rules(hashed.hashes.len())),
                        is.map(|hashes| hashes.as_ref().map_or_else(others, |hashes| rules(hashes.len()))),
                    )
                }
                NftObject::Set(_, name) => {
                    let set = wanted.sets.get(name);
                    let differing = |set: &WantedSet| format!("{} members differ", set.difference.len());
                    let is = actual.sets.get(name).map(|layout| match (layout, set) {
                        (Some(is), Some(set)) if *is == set.members.layout() => differing(set),
                        _ => "a set of another type, or unwanted".to_owned(),
                    });
                    (set.map(|set| format!("{} members", set.members.all().members.len())), is)
                }
                NftObject::Map(_, name) => {
                    let entries = |map: &NftMap| format!("{} entries", map.len());
                    (wanted.maps.get(name).map(entries), actual.maps.get(name).map(entries))
                }
            };
            (object.to_string(), intended, is)
        };
        self.dirty.iter().map(words).collect()
    }

    pub fn driver(&self) -> &D {
        &self.driver
    }

    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }
}
