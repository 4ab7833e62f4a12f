//! Profiles: what decides where no policy does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::{Action, Profile};

use crate::describe::{is_derived_profile, is_namespace_profile};
use crate::items::Items;
use crate::resolve::{References, resolve_rules};
use crate::sets::IpSets;
use crate::{ActiveProfile, ActiveRule, Change};

/// There without being created; host endpoints that were made for every node have it.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

struct Active {
    profile: Arc<ActiveProfile>,
    references: References,
}

#[derive(Default)]
pub(crate) struct Profiles {
    /// Profile objects; those of namespaces and service accounts follow from these.
    known: HashMap<Arc<str>, Profile>,
    /// By how many endpoints that were told each one is used.
    uses: BTreeMap<Arc<str>, usize>,
    active: BTreeMap<Arc<str>, Active>,
    /// Perhaps to be activated, resolved anew, or deactivated.
    dirty: BTreeSet<Arc<str>>,
}

impl Profiles {
    /// Stores a Profile object.
    pub(crate) fn set(&mut self, name: Arc<str>, profile: Option<Profile>) {
        match profile {
            Some(profile) => _ = self.known.insert(name.clone(), profile),
            None => _ = self.known.remove(&name),
        }
        self.dirty.insert(name);
    }

    /// What a profile follows from has come or gone.
    pub(crate) fn doubt(&mut self, name: &str) {
        if let Some((name, _)) = self.uses.get_key_value(name) {
            self.dirty.insert(name.clone());
        }
    }

    /// An endpoint was told that uses these.
    pub(crate) fn start_using(&mut self, names: &[Arc<str>]) {
        for name in names {
            *self.uses.entry(name.clone()).or_default() += 1;
            self.dirty.insert(name.clone());
        }
    }

    /// The endpoint that used these is told no more.
    pub(crate) fn stop_using(&mut self, names: &[Arc<str>]) {
        for name in names {
            let uses = self.uses.get_mut(name).expect("what is used no more was used");
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(name);
            }
            self.dirty.insert(name.clone());
        }
    }

    /// The profiles that come or change, and those that go; `sets` has all their sets when it returns.
    pub(crate) fn tell(&mut self, sets: &mut IpSets, items: &mut Items) -> (Vec<Change>, Vec<Change>) {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.dirty) {
            if !self.uses.contains_key(&name) {
                if let Some(old) = self.active.remove(&name) {
                    old.references.keys().for_each(|id| sets.release(id));
                    gone.push(Change::Profile(name, None));
                }
                continue;
            }
            let (profile, references) = self.resolve(&name, items);
            if self.active.get(&name).is_some_and(|old| *old.profile == profile) {
                continue;
            }
            references.iter().for_each(|(id, set)| sets.acquire(id, set, &mut items.classes));
            let profile = Arc::new(profile);
            come.push(Change::Profile(name.clone(), Some(profile.clone())));
            if let Some(old) = self.active.insert(name, Active { profile, references }) {
                old.references.keys().for_each(|id| sets.release(id));
            }
        }
        (come, gone)
    }

    /// A profile that there is no object for denies everything.
    fn resolve(&self, name: &Arc<str>, items: &Items) -> (ActiveProfile, References) {
        let mut references = References::new();
        let is_known = items.classes.is_known(name);
        let (ingress, egress) = match self.known.get(name) {
            Some(profile) if !is_derived_profile(name) => {
                let mut rules = |rules| resolve_rules(rules, &mut references);
                (rules(&profile.ingress), rules(&profile.egress))
            }
            _ if is_known && !is_namespace_profile(name) => (Vec::new(), Vec::new()),
            _ => {
                let allows = is_known || **name == *DEFAULT_ALLOW;
                let rule = ActiveRule::any(if allows { Action::Allow } else { Action::Deny });
                (vec![rule.clone()], vec![rule])
            }
        };
        (ActiveProfile { name: name.clone(), ingress, egress }, references)
    }
}
