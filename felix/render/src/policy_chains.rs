//! Chains of policies and of profiles (`spec/felix.md` §1.9).

use std::sync::Arc;

use felix_calc::{ActivePolicy, ActiveProfile, ActiveRule};
use kernel::{Chain, PacketRule, RuleAction};
use model::{Direction, PolicyKey};

use crate::drops::DropReason;
use crate::names::{by_direction, direction_word, policy_chain, profile_chain};
use crate::rules::render_rule;
use crate::settings::{Context, RuleDataplane, RuleSettings};

/// Where a rule of a policy or profile stands.
pub(crate) struct RulePlace<'a> {
    owner: RuleOwner<'a>,
    pub(crate) direction: Direction,
    /// From 0.
    index: usize,
}

#[derive(Clone, Copy)]
enum RuleOwner<'a> {
    Policy(&'a ActivePolicy),
    Profile(&'a Arc<str>),
}

impl RulePlace<'_> {
    pub(crate) fn drop_reason(&self) -> DropReason {
        match self.owner {
            RuleOwner::Policy(policy) => DropReason::Policy(policy.key.clone(), self.index),
            RuleOwner::Profile(name) => DropReason::Profile(name.clone(), self.index),
        }
    }

    /// `LogPrefix` with `%t` tier, `%k` kind, `%n` name and `%p` namespace and name filled in, cut to what the
    /// kernel takes.
    pub(crate) fn log_prefix(&self, settings: &RuleSettings) -> Arc<str> {
        let most = match settings.dataplane {
            RuleDataplane::Iptables => 29,
            RuleDataplane::Nftables => 127,
        } - ": ".len();
        let mut prefix = String::new();
        let mut rest = settings.log_prefix.as_str();
        while let Some(at) = rest.find('%') {
            prefix.push_str(&rest[..at]);
            let specifier = rest[at + 1..].chars().next();
            match specifier.and_then(|specifier| self.specified(specifier)) {
                Some(text) => {
                    prefix.push_str(&text);
                    // Every specifier is one byte.
                    rest = &rest[at + 2..];
                }
                None => {
                    prefix.push('%');
                    rest = &rest[at + 1..];
                }
            }
        }
        prefix.push_str(rest);
        let cut: String = prefix.chars().filter(char::is_ascii).take(most).collect();
        format!("{cut}: ").into()
    }

    fn specified(&self, specifier: char) -> Option<String> {
        let (tier, kind, namespace, name) = match self.owner {
            RuleOwner::Policy(ActivePolicy { tier, key: PolicyKey { kind, namespace, name }, .. }) => {
                (tier, kind.short(), namespace.as_ref(), name)
            }
            RuleOwner::Profile(name) => (name, "pro", None, name),
        };
        match specifier {
            't' => Some(tier.to_string()),
            'k' => Some(kind.to_owned()),
            'n' => Some(name.to_string()),
            'p' => {
                Some(namespace.map_or_else(|| name.to_string(), |namespace| format!("{namespace}/{name}")))
            }
            _ => None,
        }
    }
}

/// The chain of one direction. It marks what it decides and returns; what it does not decide returns unmarked.
pub(crate) fn render_policy(context: &Context<'_>, policy: &ActivePolicy, direction: Direction) -> Chain {
    let rules = by_direction(direction, &policy.ingress, &policy.egress);
    let PolicyKey { kind, namespace, name } = &policy.key;
    let namespace = namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let comment = format!("{kind} {namespace}{name} {}", direction_word(direction));
    let rules = render_rules(context, RuleOwner::Policy(policy), direction, rules);
    Chain { name: policy_chain(direction, &policy.key), rules: commented(&comment, rules) }
}

/// As a policy's, for endpoints that no policy decides on.
pub(crate) fn render_profile(context: &Context<'_>, profile: &ActiveProfile, direction: Direction) -> Chain {
    let rules = by_direction(direction, &profile.ingress, &profile.egress);
    let comment = format!("Profile {} {}", profile.name, direction_word(direction));
    let rules = render_rules(context, RuleOwner::Profile(&profile.name), direction, rules);
    Chain { name: profile_chain(direction, &profile.name), rules: commented(&comment, rules) }
}

/// A `RETURN` at the end does nothing.
fn render_rules(
    context: &Context<'_>,
    owner: RuleOwner<'_>,
    direction: Direction,
    rules: &[ActiveRule],
) -> Vec<PacketRule> {
    let place = |index| RulePlace { owner, direction, index };
    let rendered =
        rules.iter().enumerate().flat_map(|(index, rule)| render_rule(context, &place(index), rule));
    let mut rendered: Vec<PacketRule> = rendered.collect();
    while rendered.last().is_some_and(|rule| rule.action == RuleAction::Return) {
        rendered.pop();
    }
    rendered
}

/// Puts the comment on the first rule; an empty chain gets a rule that does nothing else.
fn commented(comment: &str, mut rules: Vec<PacketRule>) -> Arc<[PacketRule]> {
    match rules.first_mut() {
        Some(first) => first.comments.insert(0, comment.into()),
        None => rules.push(PacketRule::new(RuleAction::None).comment(comment)),
    }
    rules.into()
}
