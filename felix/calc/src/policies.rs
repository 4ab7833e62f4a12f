//! Policies and tiers: which of them are active on this node, and in what order they are evaluated.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use model::{Policy, PolicyKey, Tier};

use crate::match_index::MatchIndex;
use crate::pods::{PodId, Pods};
use crate::resolve::{References, resolve};
use crate::sets::IpSets;
use crate::{ActivePolicy, ActiveTier, Change};

/// Tiers that exist without being created: name, order, "default action is Pass".
const BUILT_IN_TIERS: [(&str, f64, bool); 3] =
    [("kube-admin", 1_000.0, true), ("default", 1_000_000.0, false), ("kube-baseline", 10_000_000.0, true)];

struct Active {
    policy: Arc<ActivePolicy>,
    references: References,
}

#[derive(Default)]
pub(crate) struct Policies {
    known: HashMap<PolicyKey, Policy>,
    tiers: HashMap<String, Tier>,
    /// Over the Pods of this node only.
    index: MatchIndex<PolicyKey>,
    active: HashMap<PolicyKey, Active>,
    /// Changed in the datastore.
    changed: BTreeSet<PolicyKey>,
    /// Perhaps to be activated, resolved anew, or deactivated.
    unresolved: BTreeSet<PolicyKey>,
}

impl Policies {
    pub(crate) fn set_policy(&mut self, key: PolicyKey, policy: Option<Policy>) {
        if self.known.get(&key) == policy.as_ref() {
            return;
        }
        match policy {
            Some(policy) => _ = self.known.insert(key.clone(), policy),
            None => _ = self.known.remove(&key),
        }
        self.changed.insert(key);
    }

    /// Stores a tier; did it change?
    pub(crate) fn set_tier(&mut self, name: String, tier: Option<Tier>) -> bool {
        let old = match tier.clone() {
            Some(tier) => self.tiers.insert(name, tier),
            None => self.tiers.remove(&name),
        };
        old != tier
    }

    /// Tries the policies that changed on the local Pods; those whose policies they are or were.
    pub(crate) fn refresh_selectors(&mut self, pods: &Pods, local: &BTreeSet<PodId>) -> HashSet<PodId> {
        let mut concerned = HashSet::new();
        for key in std::mem::take(&mut self.changed) {
            concerned.extend(self.index.remove(&key));
            if let Some(policy) = self.known.get(&key) {
                let local = local.iter().copied();
                concerned.extend(self.index.insert(key.clone(), policy.selector.clone(), pods, local));
            }
            self.unresolved.insert(key);
        }
        concerned
    }

    /// A Pod's labels may have changed, or it became local or ceased to be.
    pub(crate) fn update_pod(&mut self, pod: PodId, pods: &Pods, is_local: bool) {
        let labels = pods.labels(pod).filter(|_| is_local);
        let matches = self.index.update(pod, labels);
        self.unresolved.extend(matches.before.symmetric_difference(&matches.after).cloned());
    }

    /// The policies that come or change, and those that go; `sets` has all their sets when it returns.
    pub(crate) fn tell(&mut self, sets: &mut IpSets, pods: &Pods) -> (Vec<Change>, Vec<Change>) {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.unresolved) {
            let wanted = self.known.get(&key).filter(|_| self.index.matches_any(&key)).map(resolve);
            let Some((policy, references)) = wanted else {
                if let Some(old) = self.active.remove(&key) {
                    old.references.keys().for_each(|id| sets.release(id));
                    gone.push(Change::Policy(key, None));
                }
                continue;
            };
            if self.active.get(&key).is_some_and(|old| *old.policy == policy) {
                continue;
            }
            // New references first, so that a set that stays is not emptied and filled again.
            references.iter().for_each(|(id, definition)| sets.acquire(id, definition, pods));
            let policy = Arc::new(policy);
            come.push(Change::Policy(key.clone(), Some(policy.clone())));
            if let Some(old) = self.active.insert(key, Active { policy, references }) {
                old.references.keys().for_each(|id| sets.release(id));
            }
        }
        (come, gone)
    }

    /// The policies that select a local Pod, by tier, in the order of evaluation.
    pub(crate) fn tiers_of(&self, pod: PodId) -> Vec<ActiveTier> {
        let mut policies: Vec<&Policy> =
            self.index.of_pod(pod).filter_map(|key| self.known.get(key)).collect();
        policies.sort_by(|a, b| compare_policies(a, b));
        let mut by_tier: BTreeMap<&str, Vec<&Policy>> = BTreeMap::new();
        for policy in policies {
            by_tier.entry(&policy.tier).or_default().push(policy);
        }
        let mut tiers: Vec<_> =
            by_tier.into_iter().map(|(name, policies)| (self.tier(name), policies)).collect();
        tiers.sort_by(|(a, _), (b, _)| compare_orders(a.order, b.order).then_with(|| a.name.cmp(&b.name)));
        let active = tiers.into_iter().map(|(tier, policies)| {
            let keys = |applies: fn(&Policy) -> bool| {
                policies.iter().filter(|policy| applies(policy)).map(|policy| policy.key.clone()).collect()
            };
            ActiveTier {
                name: tier.name,
                default_action_is_pass: tier.default_action_is_pass,
                ingress: keys(|policy| policy.applies_to_ingress),
                egress: keys(|policy| policy.applies_to_egress),
            }
        });
        active.filter(|tier| !tier.ingress.is_empty() || !tier.egress.is_empty()).collect()
    }

    /// A tier that nobody defined comes last and drops what it does not decide.
    fn tier(&self, name: &str) -> Tier {
        if let Some(tier) = self.tiers.get(name) {
            return tier.clone();
        }
        let built_in = BUILT_IN_TIERS.iter().find(|(built_in, ..)| *built_in == name);
        Tier {
            name: name.into(),
            order: built_in.map(|(_, order, _)| *order),
            default_action_is_pass: built_in.is_some_and(|(.., pass)| *pass),
        }
    }
}

fn compare_policies(a: &Policy, b: &Policy) -> Ordering {
    compare_orders(a.order, b.order)
        .then_with(|| a.key.name.cmp(&b.key.name))
        .then_with(|| a.key.namespace.cmp(&b.key.namespace))
        .then_with(|| a.key.kind.cmp(&b.key.kind))
}

/// Ascending; none is last.
fn compare_orders(a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => a.is_none().cmp(&b.is_none()),
    }
}
