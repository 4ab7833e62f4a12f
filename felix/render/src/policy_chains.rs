//! Chains of policies and of the namespaces' profiles (`spec/felix.md` §1.9).

use felix_calc::{ActivePolicy, ActiveRule};
use kernel::{Chain, PacketRule, RuleAction};
use model::{Direction, Family};

use crate::names::{ACCEPT, direction_word, namespace_profile, policy_chain, profile_chain, set_mark};
use crate::rules::render_rule;

/// The chain of one direction. It marks what it decides and returns; what it does not decide returns unmarked.
pub(crate) fn render_policy(policy: &ActivePolicy, direction: Direction, family: Family) -> Chain {
    let rules: &[ActiveRule] = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    let mut rendered: Vec<PacketRule> = rules.iter().flat_map(|rule| render_rule(rule, family)).collect();
    while rendered.last().is_some_and(|rule| rule.action == RuleAction::Return) {
        rendered.pop();
    }
    let kind = policy.key.kind.as_str();
    let namespace =
        policy.key.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let comment = format!("{kind} {namespace}{} {}", policy.key.name, direction_word(direction));
    Chain { name: policy_chain(direction, &policy.key), rules: commented(&comment, rendered) }
}

/// Pods that no policy selects may do everything.
pub(crate) fn render_profile(namespace: &str, direction: Direction) -> Chain {
    let profile = namespace_profile(namespace);
    let comment = format!("Profile {profile} {}", direction_word(direction));
    let rules = commented(&comment, vec![PacketRule::new(set_mark(ACCEPT))]);
    Chain { name: profile_chain(direction, &profile), rules }
}

/// Puts the comment on the first rule; an empty chain gets a rule that does nothing else.
fn commented(comment: &str, mut rules: Vec<PacketRule>) -> std::sync::Arc<[PacketRule]> {
    match rules.first_mut() {
        Some(first) => first.comments.insert(0, comment.into()),
        None => rules.push(PacketRule::new(RuleAction::None).comment(comment)),
    }
    rules.into()
}
