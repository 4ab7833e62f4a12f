//! Chains of policies and of profiles (`spec/felix.md` §1.9).

use felix_calc::{ActivePolicy, ActiveProfile, ActiveRule};
use kernel::{Chain, PacketRule, RuleAction};
use model::{Direction, Family};

use crate::names::{direction_word, policy_chain, profile_chain};
use crate::rules::render_rule;

/// The chain of one direction. It marks what it decides and returns; what it does not decide returns unmarked.
pub(crate) fn render_policy(policy: &ActivePolicy, direction: Direction, family: Family) -> Chain {
    let rules = of_direction(direction, &policy.ingress, &policy.egress);
    let kind = policy.key.kind.as_str();
    let namespace =
        policy.key.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let comment = format!("{kind} {namespace}{} {}", policy.key.name, direction_word(direction));
    Chain {
        name: policy_chain(direction, &policy.key),
        rules: commented(&comment, render_rules(rules, family)),
    }
}

/// As a policy's, for endpoints that no policy decides on.
pub(crate) fn render_profile(profile: &ActiveProfile, direction: Direction, family: Family) -> Chain {
    let rules = of_direction(direction, &profile.ingress, &profile.egress);
    let comment = format!("Profile {} {}", profile.name, direction_word(direction));
    let rules = commented(&comment, render_rules(rules, family));
    Chain { name: profile_chain(direction, &profile.name), rules }
}

fn of_direction<'a>(
    direction: Direction,
    ingress: &'a [ActiveRule],
    egress: &'a [ActiveRule],
) -> &'a [ActiveRule] {
    match direction {
        Direction::Ingress => ingress,
        Direction::Egress => egress,
    }
}

/// A `RETURN` at the end does nothing.
fn render_rules(rules: &[ActiveRule], family: Family) -> Vec<PacketRule> {
    let mut rendered: Vec<PacketRule> = rules.iter().flat_map(|rule| render_rule(rule, family)).collect();
    while rendered.last().is_some_and(|rule| rule.action == RuleAction::Return) {
        rendered.pop();
    }
    rendered
}

/// Puts the comment on the first rule; an empty chain gets a rule that does nothing else.
fn commented(comment: &str, mut rules: Vec<PacketRule>) -> std::sync::Arc<[PacketRule]> {
    match rules.first_mut() {
        Some(first) => first.comments.insert(0, comment.into()),
        None => rules.push(PacketRule::new(RuleAction::None).comment(comment)),
    }
    rules.into()
}
