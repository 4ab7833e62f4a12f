//! What one endpoint decides about one packet: tiers, policies, profiles (`spec/felix.md` §7.1).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Action, Direction, Labels, Policy, Rule, Tier};

use crate::rules::{self, Cluster};
use crate::{Cause, Endpoint, Packet, State, Step};

/// Which way a packet meets an endpoint.
pub(crate) struct Meeting<'a> {
    pub(crate) state: &'a State,
    /// What rules refer to.
    pub(crate) cluster: &'a Cluster,
    pub(crate) endpoint: Endpoint,
    pub(crate) direction: Direction,
    pub(crate) packet: &'a Packet,
    pub(crate) steps: &'a mut Vec<Step>,
}

/// What tiers, or tiers and profiles, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allow,
    Deny,
    /// Nobody decided.
    None,
}

impl Meeting<'_> {
    /// Walks the tiers with the policies that `is_of_kind` and select `labels`.
    ///
    /// `drop_at_end` is false for policies that only say what they say: those before conntrack and before
    /// translation.
    pub(crate) fn tiers(
        &mut self,
        labels: &Labels,
        is_of_kind: &dyn Fn(&Policy) -> bool,
        drop_at_end: bool,
    ) -> Decision {
        let direction = self.direction;
        let mut by_tier: BTreeMap<Arc<str>, Vec<&Policy>> = BTreeMap::new();
        let selecting = self.state.policies.values().filter(|policy| {
            let is_enforced = !policy.key.kind.is_staged() && is_of_kind(policy);
            is_enforced && applies(policy, direction) && policy.selector.matches(labels)
        });
        for policy in selecting {
            by_tier.entry(policy.tier.clone()).or_default().push(policy);
        }
        let mut tiers: Vec<(Tier, Vec<&Policy>)> =
            by_tier.into_iter().map(|(name, policies)| (tier(self.state, &name), policies)).collect();
        tiers.sort_by(|(a, _), (b, _)| by_order(a.order, b.order).then_with(|| a.name.cmp(&b.name)));
        for (tier, mut policies) in tiers {
            policies.sort_by(|a, b| by_precedence(a, b));
            match self.tier(&tier, &policies) {
                Some(Action::Allow) => return Decision::Allow,
                Some(Action::Deny) => return Decision::Deny,
                Some(_) => {}
                None if !drop_at_end => {}
                None => {
                    let pass = tier.default_action_is_pass;
                    let action = if pass { Action::Pass } else { Action::Deny };
                    self.note(Step { tier: Some(tier.name), ..self.step(Cause::EndOfTier, action) });
                    if !pass {
                        return Decision::Deny;
                    }
                }
            }
        }
        Decision::None
    }

    /// `None` when no rule of any of the policies decides.
    fn tier(&mut self, tier: &Tier, policies: &[&Policy]) -> Option<Action> {
        for policy in policies {
            let rules = match self.direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let decided = self.rules(rules, |step| Step {
                tier: Some(tier.name.clone()),
                policy: Some(policy.key.clone()),
                ..step
            });
            if decided.is_some() {
                return decided;
            }
        }
        None
    }

    /// The first rule that matches and does more than log.
    fn rules(&mut self, rules: &[Rule], name: impl Fn(Step) -> Step) -> Option<Action> {
        for (index, rule) in rules.iter().enumerate() {
            if rules::matches(self.cluster, rule, self.packet) {
                let step = Step { rule: Some(index), ..self.step(Cause::Rule, rule.action) };
                self.note(name(step));
                if rule.action != Action::Log {
                    return Some(rule.action);
                }
            }
        }
        None
    }

    /// The profiles in their order; the first that decides does so for all.
    pub(crate) fn profiles(&mut self, profiles: &[Arc<str>]) -> Decision {
        for name in profiles {
            if let Some(decision) = self.profile(name) {
                return decision;
            }
        }
        self.note(self.step(Cause::NoProfile, Action::Deny));
        Decision::Deny
    }

    /// Some when it decides. One that does not exist drops everything, rather than to be overlooked.
    fn profile(&mut self, name: &Arc<str>) -> Option<Decision> {
        let named = |step: Step| Step { profile: Some(name.clone()), cause: Cause::Profile, ..step };
        let (state, direction) = (self.state, self.direction);
        if let Some(profile) = state.profiles.get(name) {
            let rules = match direction {
                Direction::Ingress => &profile.ingress,
                Direction::Egress => &profile.egress,
            };
            return match self.rules(rules, named) {
                Some(Action::Allow) => Some(Decision::Allow),
                Some(Action::Deny) => Some(Decision::Deny),
                _ => None,
            };
        }
        let of_account = |(namespace, name): (&str, &str)| {
            state.service_accounts.contains_key(&(namespace.to_owned(), name.to_owned()))
        };
        if name.strip_prefix("ksa.").and_then(|rest| rest.split_once('.')).is_some_and(of_account) {
            return None;
        }
        let of_namespace = name.strip_prefix("kns.").is_some_and(|n| state.namespaces.contains_key(n));
        let exists = of_namespace || &**name == DEFAULT_ALLOW;
        let (cause, action, decision) = match exists {
            true => (Cause::Profile, Action::Allow, Decision::Allow),
            false => (Cause::NoProfile, Action::Deny, Decision::Deny),
        };
        let step = self.step(cause, action);
        self.note(Step { profile: Some(name.clone()), rule: exists.then_some(0), ..step });
        Some(decision)
    }

    pub(crate) fn step(&self, cause: Cause, action: Action) -> Step {
        Step {
            endpoint: self.endpoint.clone(),
            direction: self.direction,
            tier: None,
            policy: None,
            profile: None,
            rule: None,
            cause,
            action,
        }
    }

    pub(crate) fn note(&mut self, step: Step) {
        self.steps.push(step);
    }
}

/// Exists without being made; automatic host endpoints carry it.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

fn applies(policy: &Policy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.applies_to_ingress,
        Direction::Egress => policy.applies_to_egress,
    }
}

/// One that nobody defined is there all the same: a policy in it must not be lost. It comes last and drops.
fn tier(state: &State, name: &Arc<str>) -> Tier {
    let undefined = || Tier { name: name.clone(), order: None, default_action_is_pass: false };
    state.tiers.get(&**name).cloned().or_else(|| Tier::built_in(name)).unwrap_or_else(undefined)
}

/// By order, then name, then namespace, then kind.
fn by_precedence(a: &Policy, b: &Policy) -> Ordering {
    by_order(a.order, b.order)
        .then_with(|| a.key.name.cmp(&b.key.name))
        .then_with(|| a.key.namespace.cmp(&b.key.namespace))
        .then_with(|| a.key.kind.cmp(&b.key.kind))
}

/// Ascending; what has none is last.
fn by_order(a: Option<f64>, b: Option<f64>) -> Ordering {
    let infinite = f64::INFINITY;
    a.is_none().cmp(&b.is_none()).then_with(|| a.unwrap_or(infinite).total_cmp(&b.unwrap_or(infinite)))
}
