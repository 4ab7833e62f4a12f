//! What would be if every staged policy were enforced.

use model::{Policy, PolicyKey, PolicyKind, StagedAction};

use crate::State;

impl State {
    /// The same cluster after its staged policies were put in force: set ones in place of the policies that they
    /// are named after, and those that are staged for deletion gone.
    pub fn with_staged_enforced(&self) -> State {
        let mut state = self.clone();
        let (staged, mut policies): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.policies).into_values().partition(|policy| policy.key.kind.is_staged());
        for policy in staged {
            let Some(kind) = enforced_kind(policy.key.kind) else { continue };
            let key = PolicyKey { kind, ..policy.key.clone() };
            match policy.staged.unwrap_or_default() {
                StagedAction::Set => {
                    policies.retain(|other| other.key != key);
                    policies.push(Policy { key, staged: None, ..policy });
                }
                StagedAction::Delete => policies.retain(|other| other.key != key),
                StagedAction::Learn | StagedAction::Ignore => {}
            }
        }
        state.policies = policies.into_iter().map(|policy| (policy.key.clone(), policy)).collect();
        state
    }
}

fn enforced_kind(staged: PolicyKind) -> Option<PolicyKind> {
    match staged {
        PolicyKind::StagedNetworkPolicy => Some(PolicyKind::NetworkPolicy),
        PolicyKind::StagedGlobalNetworkPolicy => Some(PolicyKind::GlobalNetworkPolicy),
        PolicyKind::StagedKubernetesNetworkPolicy => Some(PolicyKind::KubernetesNetworkPolicy),
        _ => None,
    }
}
