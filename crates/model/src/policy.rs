//! Policies in one shape, whichever API they came through, and the tiers that they stand in.
//!
//! A Kubernetes NetworkPolicy becomes a [`Policy`] of kind `KubernetesNetworkPolicy` in tier `default` with
//! order 1000; its selectors are already scoped to their namespace (`spec/control.md` §1.13, §2.3).

use std::fmt;
use std::sync::Arc;

use crate::{Rule, Selector};

/// Seen from the endpoint that the policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Which API a policy came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    KubernetesNetworkPolicy,
    NetworkPolicy,
    GlobalNetworkPolicy,
    /// `policy.networking.k8s.io`, v1alpha2: either tier.
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io`, v1alpha1: tier `kube-admin`.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io`, v1alpha1: tier `kube-baseline`.
    BaselineAdminNetworkPolicy,
    StagedNetworkPolicy,
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
}

impl PolicyKind {
    /// The abbreviation in policy IDs and chain names; each kind has its own.
    pub fn short(self) -> &'static str {
        match self {
            PolicyKind::KubernetesNetworkPolicy => "knp",
            PolicyKind::NetworkPolicy => "np",
            PolicyKind::GlobalNetworkPolicy => "gnp",
            PolicyKind::ClusterNetworkPolicy => "kcnp",
            PolicyKind::AdminNetworkPolicy => "kanp",
            PolicyKind::BaselineAdminNetworkPolicy => "kbanp",
            PolicyKind::StagedNetworkPolicy => "snp",
            PolicyKind::StagedGlobalNetworkPolicy => "sgnp",
            PolicyKind::StagedKubernetesNetworkPolicy => "sknp",
        }
    }

    /// The kind as the API spells it; the Kubernetes ones by the names that tell them from Calico's.
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyKind::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            PolicyKind::NetworkPolicy => "NetworkPolicy",
            PolicyKind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            PolicyKind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            PolicyKind::AdminNetworkPolicy => "AdminNetworkPolicy",
            PolicyKind::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            PolicyKind::StagedNetworkPolicy => "StagedNetworkPolicy",
            PolicyKind::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            PolicyKind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
        }
    }

    /// Is it only looked at, never enforced?
    pub fn is_staged(self) -> bool {
        matches!(
            self,
            PolicyKind::StagedNetworkPolicy
                | PolicyKind::StagedGlobalNetworkPolicy
                | PolicyKind::StagedKubernetesNetworkPolicy
        )
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Displays as Calico's policy ID: `knp/default/allow-web`, `gnp/deny-all`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    pub kind: PolicyKind,
    /// `None` for a policy of the whole cluster.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

impl PolicyKey {
    pub fn new(kind: PolicyKind, namespace: Option<&str>, name: &str) -> Self {
        Self { kind, namespace: namespace.map(Into::into), name: name.into() }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{}/{}", self.kind.short(), namespace, self.name),
            None => write!(f, "{}/{}", self.kind.short(), self.name),
        }
    }
}

/// A named step in the evaluation of policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    pub name: Arc<str>,
    /// Ascending; `None` is last.
    pub order: Option<f64>,
    /// Otherwise packets that no policy of the tier decides on are dropped.
    pub default_action_is_pass: bool,
}

impl Tier {
    /// What is above every tier that people make: ClusterNetworkPolicy and AdminNetworkPolicy.
    pub const KUBE_ADMIN: &str = "kube-admin";
    /// Where policies stand that name no tier.
    pub const DEFAULT: &str = "default";
    /// What is below every other tier.
    pub const KUBE_BASELINE: &str = "kube-baseline";

    /// A tier that exists without being created and cannot be changed; `None` for every other name.
    pub fn built_in(name: &str) -> Option<Self> {
        let (order, default_action_is_pass) = match name {
            Self::KUBE_ADMIN => (1_000.0, true),
            Self::DEFAULT => (1_000_000.0, false),
            Self::KUBE_BASELINE => (10_000_000.0, true),
            _ => return None,
        };
        Some(Self { name: name.into(), order: Some(order), default_action_is_pass })
    }
}

/// What a staged policy would do to the policy that it is named after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StagedAction {
    /// Create or replace it.
    #[default]
    Set,
    /// Delete it.
    Delete,
    Learn,
    Ignore,
}

/// A policy with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub key: PolicyKey,
    pub tier: Arc<str>,
    /// Ascending, then by name; `None` is last.
    pub order: Option<f64>,
    /// Endpoints it applies to, matched on pod labels plus `projectcalico.org/namespace`,
    /// `projectcalico.org/orchestrator`, `projectcalico.org/serviceaccount`, `pcns.*` and `pcsa.*`, and on
    /// labels of host endpoints.
    pub selector: Selector,
    /// Does it police this direction, even without a rule for it?
    pub applies_to_ingress: bool,
    pub applies_to_egress: bool,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
    /// Host endpoints only, before connection tracking; then also `apply_on_forward`.
    pub do_not_track: bool,
    /// Host endpoints only, ingress only, before destination NAT; then also `apply_on_forward`.
    pub pre_dnat: bool,
    /// Also polices what a host endpoint forwards.
    pub apply_on_forward: bool,
    /// In the kernel of every node, whether or not an endpoint there needs it (`performanceHints`).
    pub needed_everywhere: bool,
    /// `metadata.generation`, which every change of the spec counts up; 0 when the API server keeps none.
    pub generation: i64,
    /// `metadata.uid`: tells a policy from an earlier one with the same name.
    pub uid: Arc<str>,
    /// Set for staged kinds.
    pub staged: Option<StagedAction>,
}

impl Policy {
    /// A policy of tier `default` that applies to what `selector` matches in no direction, without rules.
    pub fn new(key: PolicyKey, selector: Selector) -> Self {
        let staged = key.kind.is_staged().then(StagedAction::default);
        Self {
            key,
            tier: Tier::DEFAULT.into(),
            order: None,
            selector,
            applies_to_ingress: false,
            applies_to_egress: false,
            ingress: Vec::new(),
            egress: Vec::new(),
            do_not_track: false,
            pre_dnat: false,
            apply_on_forward: false,
            needed_everywhere: false,
            generation: 0,
            uid: "".into(),
            staged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_ids_are_calicos() {
        let key = PolicyKey::new(PolicyKind::KubernetesNetworkPolicy, Some("default"), "allow-web");

        assert_eq!(key.to_string(), "knp/default/allow-web");
    }
}
