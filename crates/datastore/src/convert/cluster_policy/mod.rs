//! ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy of `policy.networking.k8s.io`.
//!
//! Both generations of the API are one here: v1alpha1's words become v1alpha2's. A rule that cannot be
//! understood whole fails closed as the API prescribes: one that accepts matches nothing, one that denies or
//! passes denies everything. A policy whose subject cannot be understood is no policy.

mod peers;
mod ports;
mod spec;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{Action, Direction, Policy, PolicyKey, PolicyKind, Rule, Tier};
use serde::Deserialize;
use serde_json::Value;

use super::Problems;
use super::policy::uid;
use super::product::{self, Resolved};
use spec::{AdminPort, PolicySpec, ProtocolMatch, RuleSpec};

/// A ClusterNetworkPolicy (v1alpha2).
pub fn cluster_network_policy(meta: &ObjectMeta, spec: &Value, problems: &mut Problems) -> Option<Policy> {
    let tier = match spec["tier"].as_str() {
        Some("Admin") => Tier::KUBE_ADMIN,
        Some("Baseline") => Tier::KUBE_BASELINE,
        _ => {
            problems.add("spec.tier", "is neither Admin nor Baseline");
            return None;
        }
    };
    convert(PolicyKind::ClusterNetworkPolicy, tier, meta, spec, problems)
}

/// An AdminNetworkPolicy (v1alpha1).
pub fn admin_network_policy(meta: &ObjectMeta, spec: &Value, problems: &mut Problems) -> Option<Policy> {
    convert(PolicyKind::AdminNetworkPolicy, Tier::KUBE_ADMIN, meta, spec, problems)
}

/// The BaselineAdminNetworkPolicy (v1alpha1), of which there is one, named `default`.
pub fn baseline_admin_network_policy(
    meta: &ObjectMeta,
    spec: &Value,
    problems: &mut Problems,
) -> Option<Policy> {
    convert(PolicyKind::BaselineAdminNetworkPolicy, Tier::KUBE_BASELINE, meta, spec, problems)
}

fn convert(
    kind: PolicyKind,
    tier: &str,
    meta: &ObjectMeta,
    spec: &Value,
    problems: &mut Problems,
) -> Option<Policy> {
    let spec = problems.take("spec", PolicySpec::deserialize(spec))?;
    let selector = problems.take("spec.subject", peers::subject(&spec.subject))?;
    let key = PolicyKey::new(kind, None, meta.name.as_deref()?);
    Some(Policy {
        tier: tier.into(),
        // There is one of the baseline of v1alpha1, which has no priority.
        order: Some(f64::from(spec.priority.unwrap_or_default())),
        applies_to_ingress: !spec.ingress.is_empty(),
        applies_to_egress: !spec.egress.is_empty(),
        ingress: rules("spec.ingress", Direction::Ingress, &spec.ingress, problems),
        egress: rules("spec.egress", Direction::Egress, &spec.egress, problems),
        generation: meta.generation.unwrap_or_default(),
        uid: uid(meta),
        ..Policy::new(key, selector)
    })
}

fn rules(field: &str, direction: Direction, rules: &[Value], problems: &mut Problems) -> Vec<Rule> {
    let mut out = Vec::new();
    for (index, value) in rules.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let converted = RuleSpec::deserialize(value)
            .map_err(|error| error.to_string())
            .and_then(|spec| converted(direction, &spec));
        if let Some(converted) = problems.take(&field, converted) {
            out.extend(converted);
        } else if !matches!(value["action"].as_str(), Some("Accept" | "Allow")) {
            out.push(Rule::any(Action::Deny));
        }
    }
    out
}

/// One rule as ours.
fn converted(direction: Direction, spec: &RuleSpec) -> Result<Vec<Rule>, String> {
    let action = match spec.action.as_str() {
        "Accept" | "Allow" => Action::Allow,
        "Deny" => Action::Deny,
        "Pass" => Action::Pass,
        other => return Err(format!("action {other:?} is none of Accept, Deny and Pass")),
    };
    let given = match direction {
        Direction::Ingress => &spec.from,
        Direction::Egress => &spec.to,
    };
    if given.is_empty() {
        return Err("says no peer".to_owned());
    }
    let peers = given.iter().map(|peer| peers::entity(peer, direction)).collect::<Result<Vec<_>, _>>()?;
    let matches = protocols(spec)?;
    let name = spec.name.as_deref().filter(|name| !name.is_empty());
    let annotations: Vec<_> = name.map(|name| ("name".into(), name.into())).into_iter().collect();
    let template = Rule { annotations, ..Rule::any(action) };
    Ok(product::product(direction, &template, &peers, &matches).collect())
}

/// Protocols with their ports; no ports means all of that protocol.
fn protocols(spec: &RuleSpec) -> Result<Vec<Resolved>, String> {
    match (&spec.protocols, &spec.ports) {
        (None, None) => Ok(vec![(None, Vec::new())]),
        (Some(protocols), None) => protocols.iter().map(ProtocolMatch::resolve).collect(),
        (None, Some(ports)) => ports.iter().map(AdminPort::resolve).collect(),
        (Some(_), Some(_)) => Err("says both protocols and ports".to_owned()),
    }
}

#[cfg(test)]
mod tests;
