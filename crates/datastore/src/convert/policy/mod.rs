//! Calico's policies and tiers.
//!
//! A policy is scoped to its namespace here. One whose selector cannot be understood is no policy, because
//! nobody knows what it is for; rules that cannot be understood are [`rules`]' business.

mod check;
mod rules;
mod scope;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{Policy, PolicyKey, PolicyKind, Selector, StagedAction, Tier};

use super::{Problems, selector};
use crate::crd;
pub(super) use rules::Rules;
use scope::{in_namespaces, own_namespace, service_accounts};

/// A NetworkPolicy of `projectcalico.org/v3`; `None` when it cannot be told what it is for.
pub fn network_policy(
    meta: &ObjectMeta,
    spec: &crd::NetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    namespaced(PolicyKind::NetworkPolicy, meta, spec, problems)
}

/// A GlobalNetworkPolicy; `None` when it cannot be told what it is for.
pub fn global_network_policy(
    meta: &ObjectMeta,
    spec: &crd::GlobalNetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    global(PolicyKind::GlobalNetworkPolicy, meta, spec, problems)
}

/// A StagedNetworkPolicy; `None` when it cannot be told what it is for.
pub fn staged_network_policy(
    meta: &ObjectMeta,
    spec: &crd::StagedNetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    let empty = crd::NetworkPolicySpec { tier: spec.policy.tier.clone(), ..Default::default() };
    check::staged_deletion(spec.staged_action, spec.policy == empty, problems);
    let policy = namespaced(PolicyKind::StagedNetworkPolicy, meta, &spec.policy, problems)?;
    Some(Policy { staged: Some(staged_action(spec.staged_action)), ..policy })
}

/// A StagedGlobalNetworkPolicy; `None` when it cannot be told what it is for.
pub fn staged_global_network_policy(
    meta: &ObjectMeta,
    spec: &crd::StagedGlobalNetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    let empty = crd::GlobalNetworkPolicySpec { tier: spec.policy.tier.clone(), ..Default::default() };
    check::staged_deletion(spec.staged_action, spec.policy == empty, problems);
    let policy = global(PolicyKind::StagedGlobalNetworkPolicy, meta, &spec.policy, problems)?;
    Some(Policy { staged: Some(staged_action(spec.staged_action)), ..policy })
}

/// What a staged policy does, in the model's words.
pub(super) fn staged_action(action: crd::StagedAction) -> StagedAction {
    match action {
        crd::StagedAction::Set => StagedAction::Set,
        crd::StagedAction::Delete => StagedAction::Delete,
        crd::StagedAction::Learn => StagedAction::Learn,
        crd::StagedAction::Ignore => StagedAction::Ignore,
    }
}

/// A Tier; without an order it has that of tier `default`. Built-in tiers are what they are, whatever an
/// object of their name says.
pub fn tier(name: &str, spec: &crd::TierSpec, problems: &mut Problems) -> Tier {
    check::tier_name("metadata.name", name, problems);
    let pass = spec.default_action == crd::TierAction::Pass;
    let Some(built_in) = Tier::built_in(name) else {
        let order = Some(spec.order.unwrap_or(1_000_000.0));
        return Tier { name: name.into(), order, default_action_is_pass: pass };
    };
    if spec.order.is_some() && spec.order != built_in.order {
        let order = built_in.order.unwrap_or_default();
        problems.add("spec.order", format!("the order of the built-in tier {name} is {order}"));
    }
    if pass != built_in.default_action_is_pass {
        let action = if built_in.default_action_is_pass { "Pass" } else { "Deny" };
        problems
            .add("spec.defaultAction", format!("the default action of the built-in tier {name} is {action}"));
    }
    built_in
}

fn namespaced(
    kind: PolicyKind,
    meta: &ObjectMeta,
    spec: &crd::NetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    let namespace = meta.namespace.as_deref()?;
    let key = PolicyKey::new(kind, Some(namespace), meta.name.as_deref()?);
    let scope = problems.take("metadata.namespace", own_namespace(namespace))?;
    let mut parts = Vec::new();
    parts.extend(selector(problems, "spec.selector", spec.selector.as_deref()).ok()?);
    parts.extend(service_accounts(problems, spec.service_account_selector.as_deref()).ok()?);
    parts.push(scope.clone());
    let rules = Rules { own_namespace: Some((namespace, &scope)) };
    let (ingress_rules, egress_rules) = (spec.ingress.as_deref(), spec.egress.as_deref());
    let (applies_to_ingress, applies_to_egress) = types(spec.types.as_deref(), ingress_rules, egress_rules);
    check::common(&spec.tier, spec.types.as_deref(), problems);
    Some(Policy {
        tier: tier_name(&spec.tier),
        order: spec.order,
        applies_to_ingress,
        applies_to_egress,
        ingress: rules.ingress("spec.ingress", ingress_rules, problems),
        egress: rules.egress("spec.egress", egress_rules, problems),
        needed_everywhere: needed_everywhere(spec.performance_hints.as_deref()),
        generation: meta.generation.unwrap_or_default(),
        uid: uid(meta),
        ..Policy::new(key, Selector::and(parts))
    })
}

fn global(
    kind: PolicyKind,
    meta: &ObjectMeta,
    spec: &crd::GlobalNetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    let key = PolicyKey::new(kind, None, meta.name.as_deref()?);
    let mut parts = Vec::new();
    parts.extend(selector(problems, "spec.selector", spec.selector.as_deref()).ok()?);
    parts.extend(service_accounts(problems, spec.service_account_selector.as_deref()).ok()?);
    let namespaces = selector(problems, "spec.namespaceSelector", spec.namespace_selector.as_deref()).ok()?;
    if let Some(namespaces) = namespaces {
        parts.push(problems.take("spec.namespaceSelector", in_namespaces(&namespaces))?);
    }
    let rules = Rules { own_namespace: None };
    let (ingress_rules, egress_rules) = (spec.ingress.as_deref(), spec.egress.as_deref());
    let (applies_to_ingress, applies_to_egress) = types(spec.types.as_deref(), ingress_rules, egress_rules);
    check::common(&spec.tier, spec.types.as_deref(), problems);
    let stages = check::stages(spec, problems)?;
    Some(Policy {
        tier: tier_name(&spec.tier),
        order: spec.order,
        applies_to_ingress,
        applies_to_egress: applies_to_egress && !stages.pre_dnat,
        ingress: rules.ingress("spec.ingress", ingress_rules, problems),
        egress: rules.egress("spec.egress", egress_rules, problems),
        do_not_track: stages.do_not_track,
        pre_dnat: stages.pre_dnat,
        apply_on_forward: stages.apply_on_forward,
        needed_everywhere: needed_everywhere(spec.performance_hints.as_deref()),
        generation: meta.generation.unwrap_or_default(),
        uid: uid(meta),
        ..Policy::new(key, Selector::and(parts))
    })
}

/// The UID, empty when the API server gave none.
pub(super) fn uid(meta: &ObjectMeta) -> std::sync::Arc<str> {
    meta.uid.as_deref().unwrap_or_default().into()
}

fn tier_name(name: &str) -> std::sync::Arc<str> {
    if name.is_empty() { Tier::DEFAULT } else { name }.into()
}

fn needed_everywhere(hints: Option<&[crd::PerformanceHint]>) -> bool {
    hints.is_some_and(|hints| hints.contains(&crd::PerformanceHint::AssumeNeededOnEveryNode))
}

/// Directions that are decided: those named, else those with rules, else ingress.
fn types(
    types: Option<&[crd::PolicyType]>,
    ingress: Option<&[crd::RuleSpec]>,
    egress: Option<&[crd::RuleSpec]>,
) -> (bool, bool) {
    match types {
        Some(types) if !types.is_empty() => {
            (types.contains(&crd::PolicyType::Ingress), types.contains(&crd::PolicyType::Egress))
        }
        _ => {
            let has = |rules: Option<&[crd::RuleSpec]>| rules.is_some_and(|rules| !rules.is_empty());
            (has(ingress) || !has(egress), has(egress))
        }
    }
}

#[cfg(test)]
mod tests;
