//! Tiers, and the order of evaluation (`spec/felix.md` §7.1).

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use model::{Policy, PolicyKey, Tier};

use crate::ActiveTier;

/// The tiers there are, those that exist without being created among them.
#[derive(Default)]
pub(crate) struct Tiers {
    known: HashMap<String, Tier>,
}

impl Tiers {
    /// Stores a tier; did it change?
    pub(crate) fn set(&mut self, name: String, tier: Option<Tier>) -> bool {
        let old = match tier.clone() {
            Some(tier) => self.known.insert(name, tier),
            None => self.known.remove(&name),
        };
        old != tier
    }

    /// Puts policies that stand in their order into tiers in their order; tiers in which nothing applies are
    /// left out. `ingress_only` is for a stage that has no egress.
    pub(crate) fn group(&self, policies: &[&Policy], ingress_only: bool) -> Vec<ActiveTier> {
        let mut by_tier: BTreeMap<&str, Vec<&Policy>> = BTreeMap::new();
        for policy in policies {
            by_tier.entry(&policy.tier).or_default().push(policy);
        }
        let mut tiers: Vec<_> =
            by_tier.into_iter().map(|(name, policies)| (self.get(name), policies)).collect();
        tiers.sort_unstable_by(|(a, _), (b, _)| compare_tiers(a, b));
        let active = tiers.into_iter().map(|(tier, policies)| {
            let keys = |applies: fn(&Policy) -> bool| -> Vec<PolicyKey> {
                policies.iter().filter(|policy| applies(policy)).map(|policy| policy.key.clone()).collect()
            };
            ActiveTier {
                name: tier.name,
                default_action_is_pass: tier.default_action_is_pass,
                ingress: keys(|policy| policy.applies_to_ingress),
                egress: if ingress_only { Vec::new() } else { keys(|policy| policy.applies_to_egress) },
            }
        });
        active.filter(|tier| !tier.ingress.is_empty() || !tier.egress.is_empty()).collect()
    }

    pub(crate) fn compare(&self, a: &str, b: &str) -> Ordering {
        compare_tiers(&self.get(a), &self.get(b))
    }

    /// A tier that nobody defined comes last and drops what it does not decide.
    fn get(&self, name: &str) -> Tier {
        let known = self.known.get(name).cloned().or_else(|| Tier::built_in(name));
        known.unwrap_or_else(|| Tier { name: name.into(), order: None, default_action_is_pass: false })
    }
}

fn compare_tiers(a: &Tier, b: &Tier) -> Ordering {
    compare_orders(a.order, b.order).then_with(|| a.name.cmp(&b.name))
}

/// The order inside a tier.
pub(crate) fn compare_policies(a: &Policy, b: &Policy) -> Ordering {
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
