//! Policies that apply to the same endpoints stand in a chain together (`spec/felix.md` §1.8).
//!
//! Endpoints then share one jump where each had one for each policy, and a policy that comes or goes changes one
//! chain in place of one for every endpoint.

use std::sync::Arc;

use felix_calc::ActivePolicy;
use kernel::{Chain, ChainName, PacketRule, RuleAction};
use model::{Direction, PolicyKey};

use crate::marks::{mark_clear, mark_not_clear};
use crate::names::{by_direction, policy_chain, returns};
use crate::settings::Context;

/// After so many policies a packet that is decided leaves.
const STRIDE: usize = 5;

/// A run of policies in a tier with one selector; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    direction: Direction,
    policies: Vec<PolicyKey>,
    selector: String,
}

/// The runs in the policies of a tier. What is not enforced is left out.
pub(crate) fn groups<'a>(
    direction: Direction,
    policies: &[PolicyKey],
    policy: impl Fn(&PolicyKey) -> Option<&'a Arc<ActivePolicy>>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut last = None;
    for key in policies.iter().filter(|key| !key.kind.is_staged()) {
        let selector = policy(key).map(|policy| &policy.selector);
        match groups.last_mut() {
            Some(group) if selector.is_some() && selector == last => group.policies.push(key.clone()),
            _ => {
                let selector = selector.map(ToString::to_string).unwrap_or_default();
                groups.push(Group { direction, policies: vec![key.clone()], selector });
            }
        }
        last = selector;
    }
    groups
}

impl Group {
    pub(crate) fn policies(&self) -> &[PolicyKey] {
        &self.policies
    }

    /// What an endpoint's chain jumps to.
    pub(crate) fn chain_name(&self) -> ChainName {
        let Group { direction, policies, selector } = self;
        if let [policy] = policies.as_slice() {
            return policy_chain(*direction, policy);
        }
        // Long enough to be hashed whatever it says.
        let word = by_direction(*direction, "inbound", "outbound");
        let mut identity = format!("{selector}\n{word}\n{}\n", policies.len());
        policies.iter().for_each(|policy| identity.push_str(&format!("{policy}\n")));
        ChainName::limited(by_direction(*direction, "cali-gi-", "cali-go-"), &identity)
    }

    /// The chain itself; `None` where the policy's own will do.
    pub(crate) fn render(&self, context: &Context<'_>) -> Option<Chain> {
        if self.policies.len() < 2 {
            return None;
        }
        let decided = context.marks().pass | context.marks().accept;
        let mut rules = Vec::new();
        for (index, policy) in self.policies.iter().enumerate() {
            let jump = PacketRule::new(RuleAction::Jump(policy_chain(self.direction, policy)));
            if index % STRIDE != 0 {
                rules.push(jump.when(mark_clear(decided)));
                continue;
            }
            if index > 0 {
                rules.push(returns("Return on verdict").when(mark_not_clear(decided)));
            }
            rules.push(jump);
        }
        Some(Chain { name: self.chain_name(), rules: rules.into() })
    }
}
