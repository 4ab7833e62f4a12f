//! From what our tables hold and what they should hold to one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use model::Family;

use super::driver::NftChange;
use super::expression::{Expression, NftVerdict};
use super::members::{Difference, Members};
use super::objects::{NftChain, NftHook, NftMap, NftRule, NftSetLayout, RuleHash, nft_chain_hashes};
use crate::ipset::IpSetMember;

/// Something in our tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NftObject {
    Set(Family, Arc<str>),
    Map(Family, Arc<str>),
    Chain(Family, Arc<str>),
}

impl NftObject {
    pub(crate) fn family(&self) -> Family {
        match self {
            NftObject::Set(family, _) | NftObject::Map(family, _) | NftObject::Chain(family, _) => *family,
        }
    }
}

impl fmt::Display for NftObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NftObject::Set(family, name) => write!(f, "{family} set {name}"),
            NftObject::Map(family, name) => write!(f, "{family} map {name}"),
            NftObject::Chain(family, name) => write!(f, "{family} chain {name}"),
        }
    }
}

/// A chain with its hashes, computed once.
#[derive(Clone, Debug)]
pub(crate) struct HashedChain {
    pub(crate) chain: NftChain,
    pub(crate) hashes: Arc<[RuleHash]>,
}

impl HashedChain {
    pub(crate) fn new(name: &str, chain: NftChain) -> Self {
        Self { hashes: nft_chain_hashes(name, &chain.rules).into(), chain }
    }

    /// What stands for it while the kernel refuses these rules of it.
    fn without(&self, name: &str, refused: &BTreeSet<usize>) -> Self {
        let rules: Arc<[NftRule]> = if self.chain.decides {
            let expressions = vec![Expression::Verdict(NftVerdict::Drop)];
            let comment = Some("closed: its rules cannot be written".into());
            [NftRule { expressions, sets: Vec::new(), comment }].into()
        } else {
            let kept = self.chain.rules.iter().enumerate().filter(|(index, _)| !refused.contains(index));
            kept.map(|(_, rule)| rule.clone()).collect()
        };
        Self::new(name, NftChain { rules, ..self.chain.clone() })
    }
}

/// A set that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct WantedSet {
    pub(crate) members: Members,
    /// From what the kernel holds, where its layout is right.
    pub(crate) difference: Difference,
}

/// What one table should hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) chains: BTreeMap<Arc<str>, HashedChain>,
    pub(crate) sets: BTreeMap<Arc<str>, WantedSet>,
    pub(crate) maps: BTreeMap<Arc<str>, NftMap>,
}

/// A chain as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActualChain {
    pub(crate) hook: Option<NftHook>,
    /// `None`: some rule in it is not ours.
    pub(crate) hashes: Option<Arc<[RuleHash]>>,
}

/// What one table holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actual {
    pub(crate) chains: BTreeMap<Arc<str>, ActualChain>,
    /// `None`: no layout of ours.
    pub(crate) sets: BTreeMap<Arc<str>, Option<NftSetLayout>>,
    pub(crate) maps: BTreeMap<Arc<str>, NftMap>,
}

/// What the kernel refuses; of a chain, which rules, where it names them.
pub(crate) type RefusedObjects = BTreeMap<NftObject, BTreeSet<usize>>;

/// One transaction, and what the tables hold when it is done.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<NftChange>,
    /// The object and rule that each change is about.
    pub(crate) owners: Vec<(NftObject, Option<usize>)>,
    /// Chains that are there afterwards (`None`: gone), as wanted or in place of it.
    pub(crate) chains: Vec<(NftObject, Option<ActualChain>)>,
    pub(crate) sets: Vec<(NftObject, Option<NftSetLayout>)>,
    pub(crate) maps: Vec<NftObject>,
}

/// What a plan is made from.
pub(crate) struct Planner<'a> {
    pub(crate) wanted: &'a BTreeMap<Family, Wanted>,
    pub(crate) actual: &'a BTreeMap<Family, Actual>,
    pub(crate) refused: &'a RefusedObjects,
}

/// The steps of a transaction in the order in which the kernel can take them: nothing is referred to before it is
/// there, and nothing goes while it is referred to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Table,
    /// Takes the rules out of a base chain and the chain away, so that it can come back at another hook.
    Unhook,
    Declare,
    Flush,
    TakeEntries,
    /// Sets that come back with another layout.
    TakeSet,
    Set,
    TakeMembers,
    Members,
    Rules,
    Entries,
    DropMap,
    DropChain,
    DropSet,
}

/// A plan in the making.
#[derive(Default)]
struct Draft {
    steps: Vec<(Step, NftChange, NftObject, Option<usize>)>,
    plan: Plan,
}

impl Draft {
    fn step(&mut self, step: Step, object: &NftObject, change: NftChange) {
        self.steps.push((step, change, object.clone(), None));
    }

    fn finish(mut self) -> Plan {
        self.steps.sort_by_key(|(step, ..)| *step);
        for (_, change, object, rule) in self.steps {
            self.plan.changes.push(change);
            self.plan.owners.push((object, rule));
        }
        self.plan
    }
}

impl Planner<'_> {
    /// Everything that makes these objects right, as far as nothing refused is needed for that.
    pub(crate) fn plan(&self, objects: &BTreeSet<NftObject>) -> Plan {
        let mut draft = Draft::default();
        let none = (Wanted::default(), Actual::default());
        let mut rewrite: BTreeSet<NftObject> = BTreeSet::new();
        for object in objects.iter().filter(|object| !self.refused.contains_key(*object)) {
            let family = object.family();
            let wanted = self.wanted.get(&family).unwrap_or(&none.0);
            let actual = self.actual.get(&family).unwrap_or(&none.1);
            match object {
                NftObject::Set(_, name) => {
                    if plan_set(wanted, actual, object, name, &mut draft) {
                        let users = wanted.chains.iter().filter(|(_, hashed)| refers(hashed, name));
                        rewrite.extend(users.map(|(user, _)| NftObject::Chain(family, user.clone())));
                    }
                }
                NftObject::Map(_, name) => plan_map(wanted, actual, object, name, &mut draft),
                NftObject::Chain(..) => {}
            }
        }
        for object in objects.union(&rewrite) {
            if let NftObject::Chain(family, name) = object {
                let wanted = self.wanted.get(family).unwrap_or(&none.0);
                let actual = self.actual.get(family).unwrap_or(&none.1);
                match wanted.chains.get(name) {
                    Some(hashed) => {
                        if let Some(hashed) = self.content(hashed, actual, object, name) {
                            plan_chain(&hashed, actual, object, name, rewrite.contains(object), &mut draft);
                        }
                    }
                    None if !self.refused.contains_key(object) => {
                        plan_removal(actual, object, name, &mut draft);
                    }
                    None => {}
                }
            }
        }
        let families: BTreeSet<Family> =
            draft.steps.iter().map(|(_, _, object, _)| object.family()).collect();
        for family in families.into_iter().filter(|family| !self.actual.contains_key(family)) {
            let object = draft.steps.iter().map(|step| &step.2).find(|object| object.family() == family);
            if let Some(object) = object.cloned() {
                draft.step(Step::Table, &object, NftChange::AddTable(family));
            }
        }
        draft.finish()
    }

    /// What a chain is to hold for now; `None`: what it holds.
    fn content(
        &self,
        hashed: &HashedChain,
        actual: &Actual,
        object: &NftObject,
        name: &Arc<str>,
    ) -> Option<HashedChain> {
        let family = object.family();
        let wanted = self.wanted.get(&family);
        let is_missing = |set: &Arc<str>| {
            let is_refused = |object| self.refused.contains_key(&object);
            let is_there = actual.sets.contains_key(set) || actual.maps.contains_key(set);
            let is_wanted =
                wanted.is_some_and(|wanted| wanted.sets.contains_key(set) || wanted.maps.contains_key(set));
            let refused = is_refused(NftObject::Set(family, set.clone()))
                || is_refused(NftObject::Map(family, set.clone()));
            !is_wanted || (refused && !is_there)
        };
        let mut left_out = self.refused.get(object).cloned().unwrap_or_default();
        let without_sets = hashed.chain.rules.iter().enumerate();
        left_out.extend(
            without_sets.filter(|(_, rule)| rule.references().any(is_missing)).map(|(index, _)| index),
        );
        if left_out.is_empty() && !self.refused.contains_key(object) {
            return Some(hashed.clone());
        }
        let keeps = hashed.chain.decides && actual.chains.contains_key(name);
        (!keeps).then(|| hashed.without(name, &left_out))
    }
}

fn refers(hashed: &HashedChain, set: &Arc<str>) -> bool {
    hashed.chain.rules.iter().any(|rule| rule.references().any(|name| name == set))
}

fn plan_removal(actual: &Actual, object: &NftObject, name: &Arc<str>, draft: &mut Draft) {
    let family = object.family();
    if actual.chains.contains_key(name) {
        draft.step(Step::Flush, object, NftChange::FlushChain { family, name: name.clone() });
        draft.step(Step::DropChain, object, NftChange::DeleteChain { family, name: name.clone() });
    }
    draft.plan.chains.push((object.clone(), None));
}

fn plan_chain(
    hashed: &HashedChain,
    actual: &Actual,
    object: &NftObject,
    name: &Arc<str>,
    rewrite: bool,
    draft: &mut Draft,
) {
    let (family, is) = (object.family(), actual.chains.get(name));
    let new = ActualChain { hook: hashed.chain.hook, hashes: Some(hashed.hashes.clone()) };
    if is == Some(&new) && !rewrite {
        draft.plan.chains.push((object.clone(), Some(new)));
        return;
    }
    let declare = NftChange::AddChain { family, name: name.clone(), hook: hashed.chain.hook };
    let flush = NftChange::FlushChain { family, name: name.clone() };
    match is {
        Some(is) if is.hook == hashed.chain.hook => draft.step(Step::Flush, object, flush),
        Some(_) => {
            draft.step(Step::Unhook, object, flush);
            draft.step(Step::Unhook, object, NftChange::DeleteChain { family, name: name.clone() });
            draft.step(Step::Declare, object, declare);
        }
        None => draft.step(Step::Declare, object, declare),
    }
    for (index, hash) in hashed.hashes.iter().copied().enumerate() {
        let (chain, rules) = (name.clone(), hashed.chain.rules.clone());
        let add = NftChange::AddRule { family, chain, index, rules, hash };
        draft.steps.push((Step::Rules, add, object.clone(), Some(index)));
    }
    draft.plan.chains.push((object.clone(), Some(new)));
}

/// Returns whether a set that is there is made anew, so that every rule that looks it up must be written again.
fn plan_set(
    wanted: &Wanted,
    actual: &Actual,
    object: &NftObject,
    name: &Arc<str>,
    draft: &mut Draft,
) -> bool {
    let family = object.family();
    let delete = || NftChange::DeleteSet { family, name: name.clone() };
    let is = actual.sets.get(name);
    let Some(set) = wanted.sets.get(name) else {
        if is.is_some() {
            draft.step(Step::DropSet, object, delete());
        }
        draft.plan.sets.push((object.clone(), None));
        return false;
    };
    let layout = set.members.layout();
    draft.plan.sets.push((object.clone(), Some(layout)));
    let add = |members| NftChange::AddMembers { family, set: name.clone(), layout, members };
    if is == Some(&Some(layout)) {
        let of = |add: bool| -> Vec<IpSetMember> {
            let entries = set.difference.iter().filter(|(_, adds)| **adds == add);
            entries.map(|(member, _)| *member).collect()
        };
        let (removed, added) = (of(false), of(true));
        if !removed.is_empty() {
            let set = name.clone();
            let change = NftChange::DeleteMembers { family, set, layout, members: removed };
            draft.step(Step::TakeMembers, object, change);
        }
        if !added.is_empty() {
            draft.step(Step::Members, object, add(added));
        }
        return false;
    }
    if is.is_some() {
        draft.step(Step::TakeSet, object, delete());
    }
    draft.step(Step::Set, object, NftChange::AddSet { family, name: name.clone(), layout });
    let members: Vec<_> = set.members.outermost().into_iter().collect();
    if !members.is_empty() {
        draft.step(Step::Members, object, add(members));
    }
    is.is_some()
}

fn plan_map(wanted: &Wanted, actual: &Actual, object: &NftObject, name: &Arc<str>, draft: &mut Draft) {
    let (family, is) = (object.family(), actual.maps.get(name));
    draft.plan.maps.push(object.clone());
    let Some(map) = wanted.maps.get(name) else {
        if is.is_some() {
            draft.step(Step::DropMap, object, NftChange::DeleteSet { family, name: name.clone() });
        }
        return;
    };
    let empty = NftMap::new();
    if is.is_none() {
        draft.step(Step::Set, object, NftChange::AddMap { family, name: name.clone() });
    }
    let is = is.unwrap_or(&empty);
    let differing = |from: &NftMap, other: &NftMap| -> Vec<(Arc<str>, NftVerdict)> {
        let entries = from.iter().filter(|(key, verdict)| other.get(*key) != Some(verdict));
        entries.map(|(key, verdict)| (key.clone(), verdict.clone())).collect()
    };
    let (gone, come) = (differing(is, map), differing(map, is));
    if !gone.is_empty() {
        let change = NftChange::DeleteEntries { family, map: name.clone(), entries: gone };
        draft.step(Step::TakeEntries, object, change);
    }
    if !come.is_empty() {
        let change = NftChange::AddEntries { family, map: name.clone(), entries: come };
        draft.step(Step::Entries, object, change);
    }
}
