//! Policies: which of them are active on this node, and which of them an endpoint is subject to, in order.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use model::{Policy, PolicyKey, Selector};

use crate::classes::{ClassId, Classes, Kind};
use crate::items::Items;
use crate::match_index::{MatchIndex, SelectorId};
use crate::resolve::{References, resolve_policy};
use crate::sets::IpSets;
use crate::slab::{IdMap, IdSet, Slab};
use crate::tiers::{Tiers, compare_policies};
use crate::{ActivePolicy, ActiveTier, Change};

/// Stands for a policy while it is known.
type PolicyNumber = u32;

struct Known {
    policy: Policy,
    selector: SelectorId,
    active: Option<Active>,
}

struct Active {
    policy: Arc<ActivePolicy>,
    references: References,
}

/// Where in the packet's way a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Untracked,
    PreDnat,
    Forward,
    Normal,
}

impl Stage {
    fn has(self, policy: &Policy) -> bool {
        match self {
            Self::Untracked => policy.do_not_track,
            Self::PreDnat => policy.pre_dnat && !policy.do_not_track,
            Self::Forward => Self::Normal.has(policy) && policy.apply_on_forward,
            Self::Normal => !policy.do_not_track && !policy.pre_dnat,
        }
    }
}

#[derive(Default)]
pub(crate) struct Policies {
    numbers: HashMap<PolicyKey, PolicyNumber>,
    known: Slab<Known>,
    /// Never programmed, only asked about.
    staged: HashMap<PolicyKey, Policy>,
    pub(crate) tiers: Tiers,
    /// Over the classes of this node's open endpoints only.
    index: MatchIndex,
    by_selector: IdMap<SelectorId, Vec<PolicyNumber>>,
    /// The classes in the index, with how many endpoints of this node are in each.
    classes: IdMap<ClassId, usize>,
    /// Changed in the datastore since the last flush.
    changed: HashMap<PolicyKey, Option<Policy>>,
    /// To be resolved anew.
    unresolved: IdSet<PolicyNumber>,
    /// Perhaps to be activated or deactivated.
    doubtful: IdSet<PolicyNumber>,
    /// Policies that are gone and were active.
    gone: Vec<(PolicyKey, Active)>,
}

impl Policies {
    /// Keeps the policy for the next flush.
    pub(crate) fn set_policy(&mut self, key: PolicyKey, policy: Option<Policy>) {
        if !key.kind.is_staged() {
            self.changed.insert(key, policy);
            return;
        }
        match policy {
            Some(policy) => _ = self.staged.insert(key, policy),
            None => _ = self.staged.remove(&key),
        }
    }

    /// Takes the policies that changed to heart; the classes whose policies they are or were, where that
    /// changes what an endpoint is subject to.
    pub(crate) fn accept_changes(&mut self, classes: &mut Classes) -> BTreeSet<ClassId> {
        let mut concerned = BTreeSet::new();
        for (key, policy) in std::mem::take(&mut self.changed) {
            let old = self.numbers.get(&key).copied();
            match (old, policy) {
                (None, None) => {}
                (None, Some(policy)) => {
                    let number = self.insert(policy, classes);
                    concerned.extend(self.index.classes(self.known.get(number).selector));
                }
                (Some(number), None) => {
                    concerned.extend(self.index.classes(self.known.get(number).selector));
                    self.remove(number, classes);
                }
                (Some(number), Some(policy)) => self.replace(number, policy, classes, &mut concerned),
            }
        }
        concerned
    }

    /// One more endpoint of this node is in the class.
    pub(crate) fn enter_class(&mut self, class: ClassId, classes: &Classes) {
        let endpoints = self.classes.entry(class).or_default();
        *endpoints += 1;
        if *endpoints == 1 {
            self.update_class(class, classes);
        }
    }

    /// One endpoint of this node less is in the class.
    pub(crate) fn leave_class(&mut self, class: ClassId) {
        let endpoints = self.classes.get_mut(&class).expect("who leaves a class has entered it");
        *endpoints -= 1;
        if *endpoints == 0 {
            self.classes.remove(&class);
            let selectors = self.index.remove_class(class);
            self.doubt(&selectors);
        }
    }

    /// The labels of a class have changed; does that change what is in it is subject to?
    pub(crate) fn update_class(&mut self, class: ClassId, classes: &Classes) -> bool {
        if !self.classes.contains_key(&class) {
            return false;
        }
        let difference = self.index.try_class(class, classes);
        self.index.accept(class, &difference);
        self.doubt(&difference.lost);
        self.doubt(&difference.gained);
        !difference.lost.is_empty() || !difference.gained.is_empty()
    }

    /// The policies that come or change, and those that go; `sets` has all their sets when it returns.
    pub(crate) fn tell(&mut self, sets: &mut IpSets, items: &mut Items) -> (Vec<Change>, Vec<Change>) {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        let unresolved = std::mem::take(&mut self.unresolved);
        let doubtful = std::mem::take(&mut self.doubtful);
        let mut released = std::mem::take(&mut self.gone);
        let mut concerned: Vec<_> = unresolved.union(&doubtful).copied().collect();
        concerned.retain(|number| self.known.contains(*number));
        concerned.sort_unstable_by(|a, b| self.known.get(*a).policy.key.cmp(&self.known.get(*b).policy.key));
        for number in concerned {
            let wanted = self.is_wanted(number, &items.classes);
            let known = self.known.get_mut(number);
            let key = known.policy.key.clone();
            if !wanted {
                released.extend(known.active.take().map(|active| (key, active)));
                continue;
            }
            if known.active.is_some() && !unresolved.contains(&number) {
                continue;
            }
            let (policy, references) = resolve_policy(&known.policy);
            if known.active.as_ref().is_some_and(|old| *old.policy == policy) {
                continue;
            }
            // New references first, so that a set that stays is not emptied and filled again.
            references.iter().for_each(|(id, set)| sets.acquire(id, set, &mut items.classes));
            let policy = Arc::new(policy);
            come.push(Change::Policy(key, Some(policy.clone())));
            if let Some(old) = known.active.replace(Active { policy, references }) {
                old.references.keys().for_each(|id| sets.release(id));
            }
        }
        released.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (key, active) in released {
            active.references.keys().for_each(|id| sets.release(id));
            gone.push(Change::Policy(key, None));
        }
        (come, gone)
    }

    /// What is in the class is subject to at a stage, by tier, in the order of evaluation.
    pub(crate) fn tiers_of(&self, class: ClassId, stage: Stage) -> Vec<ActiveTier> {
        let numbers = self.index.matches(class).iter().flat_map(|selector| &self.by_selector[selector]);
        let policies = numbers.map(|number| &self.known.get(*number).policy);
        let mut policies: Vec<&Policy> = policies.filter(|policy| stage.has(policy)).collect();
        policies.sort_unstable_by(|a, b| compare_policies(a, b));
        self.tiers.group(&policies, stage == Stage::PreDnat)
    }

    /// The staged policies that would bind what is in the class, in the order of evaluation.
    pub(crate) fn staged_of(&self, class: ClassId, classes: &Classes) -> Vec<&Policy> {
        let labels = classes.labels(class);
        let matches = |policy: &&Policy| policy.selector.matches(&labels);
        let mut policies: Vec<_> = self.staged.values().filter(matches).collect();
        policies.sort_unstable_by(|a, b| {
            self.tiers.compare(&a.tier, &b.tier).then_with(|| compare_policies(a, b))
        });
        policies
    }

    /// How often a selector was tried so far.
    pub(crate) fn tried(&self) -> u64 {
        self.index.tried()
    }

    fn insert(&mut self, policy: Policy, classes: &mut Classes) -> PolicyNumber {
        let key = policy.key.clone();
        let selector = self.hold_selector(&policy.selector, classes);
        let number = self.known.insert(Known { policy, selector, active: None });
        self.numbers.insert(key, number);
        self.by_selector.entry(selector).or_default().push(number);
        self.unresolved.insert(number);
        number
    }

    fn remove(&mut self, number: PolicyNumber, classes: &mut Classes) {
        let known = self.known.remove(number);
        self.numbers.remove(&known.policy.key);
        self.unresolved.remove(&number);
        self.doubtful.remove(&number);
        self.release_selector(known.selector, number, classes);
        self.gone.extend(known.active.map(|active| (known.policy.key, active)));
    }

    fn replace(
        &mut self,
        number: PolicyNumber,
        policy: Policy,
        classes: &mut Classes,
        concerned: &mut BTreeSet<ClassId>,
    ) {
        let known = self.known.get(number);
        if known.policy == policy {
            return;
        }
        let (old_selector, is_elsewhere) = (known.selector, stands_elsewhere(&known.policy, &policy));
        if is_elsewhere {
            concerned.extend(self.index.classes(old_selector));
        }
        if known.policy.selector != policy.selector {
            let selector = self.hold_selector(&policy.selector, classes);
            self.by_selector.entry(selector).or_default().push(number);
            self.known.get_mut(number).selector = selector;
            self.release_selector(old_selector, number, classes);
        }
        if is_elsewhere {
            concerned.extend(self.index.classes(self.known.get(number).selector));
        }
        self.known.get_mut(number).policy = policy;
        self.unresolved.insert(number);
    }

    fn hold_selector(&mut self, selector: &Selector, classes: &mut Classes) -> SelectorId {
        let candidates = self.classes.keys().copied().collect();
        self.index.hold(selector, classes, |_| candidates)
    }

    fn release_selector(&mut self, selector: SelectorId, number: PolicyNumber, classes: &mut Classes) {
        if let Some(policies) = self.by_selector.get_mut(&selector) {
            policies.retain(|other| *other != number);
            if policies.is_empty() {
                self.by_selector.remove(&selector);
            }
        }
        self.index.release(selector, &mut classes.symbols);
    }

    fn doubt(&mut self, selectors: &[SelectorId]) {
        let policies = selectors.iter().filter_map(|selector| self.by_selector.get(selector));
        self.doubtful.extend(policies.flatten());
    }

    /// Is some endpoint of this node subject to it, or does every node need it?
    fn is_wanted(&self, number: PolicyNumber, classes: &Classes) -> bool {
        let Known { policy, selector, .. } = self.known.get(number);
        let for_hosts_only = policy.do_not_track || policy.pre_dnat;
        policy.needed_everywhere
            || self
                .index
                .classes(*selector)
                .any(|class| !for_hosts_only || classes.get(class).kind() == Kind::HostEndpoint)
    }
}

/// Do the two stand in different places among the policies of an endpoint, or bind different endpoints?
fn stands_elsewhere(a: &Policy, b: &Policy) -> bool {
    let flags = |policy: &Policy| {
        let directions = (policy.applies_to_ingress, policy.applies_to_egress);
        (directions, policy.do_not_track, policy.pre_dnat, policy.apply_on_forward)
    };
    a.tier != b.tier || a.order != b.order || a.selector != b.selector || flags(a) != flags(b)
}
