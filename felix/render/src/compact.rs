//! The chains of pods for nftables: they decide as those of [`crate::endpoint_chains`] do, in as few rules as possible.
//!
//! Whenever a rule changes, the kernel walks over every rule that a packet could reach (`docs/benchmarks.md`). So what
//! all pods have in common stands once, before the dispatch to them, and what no packet can come to is left out.

use std::sync::Arc;

use felix_calc::{ActivePolicy, ActiveProfile, ActiveRule, ActiveTier};
use kernel::{ConntrackState, PacketRule, RuleAction};
use model::{Action, Direction, PolicyKey};

use crate::drops::DropReason;
use crate::endpoint_chains::encapsulated;
use crate::groups::{Group, groups};
use crate::marks::{clear_mark, mark_clear, mark_set, set_mark};
use crate::names::{ESTABLISHED, by_direction, conntrack, profile_chain, returns};
use crate::settings::Context;

/// What every pod's packets meet before the chain of the pod. Closed pods and those that count packets come before it.
pub(crate) fn before_dispatch(context: &Context<'_>, direction: Direction) -> Vec<PacketRule> {
    let marks = context.marks();
    let mut rules = Vec::new();
    if context.allow() != RuleAction::Accept {
        rules.push(PacketRule::new(set_mark(marks.accept)).when(conntrack(&ESTABLISHED)));
    }
    rules.push(PacketRule::new(context.allow()).when(conntrack(&ESTABLISHED)));
    if context.settings.drop_invalid {
        rules.push(PacketRule::new(context.deny()).when(conntrack(&[ConntrackState::Invalid])));
    }
    rules.push(PacketRule::new(clear_mark(marks.accept | marks.pass)));
    if direction == Direction::Egress {
        rules.extend(encapsulated(context));
    }
    rules
}

/// What a profile says in one direction, as far as it can be said without its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProfileSays {
    Nothing,
    Everything,
    Something,
}

impl ProfileSays {
    /// `None`: nobody knows it (yet).
    pub(crate) fn of(profile: Option<&ActiveProfile>, direction: Direction) -> Self {
        let Some(profile) = profile else { return Self::Something };
        let rules = by_direction(direction, &profile.ingress, &profile.egress);
        let is_for_all = |rule: &ActiveRule| {
            *rule == ActiveRule { annotations: rule.annotations.clone(), ..ActiveRule::any(Action::Allow) }
        };
        match rules.as_slice() {
            [] => Self::Nothing,
            [first, ..] if is_for_all(first) => Self::Everything,
            _ => Self::Something,
        }
    }
}

/// May a rule of the policy hand a packet on to the next tier?
pub(crate) fn passes(policy: &ActivePolicy, direction: Direction) -> bool {
    let rules = by_direction(direction, &policy.ingress, &policy.egress);
    rules.iter().any(|rule| rule.action == Action::Pass)
}

/// What decides about one direction of a pod.
pub(crate) struct CompactChain<'a> {
    pub(crate) direction: Direction,
    pub(crate) tiers: &'a [ActiveTier],
    pub(crate) profiles: &'a [Arc<str>],
}

impl CompactChain<'_> {
    /// Adds the rules behind those that are there, and returns the groups of policies that they jump to. A packet that
    /// may pass returns with the accept mark; accept and pass mark are clear before.
    pub(crate) fn render<'a>(
        &self,
        context: &Context<'_>,
        policy: impl Fn(&PolicyKey) -> Option<&'a Arc<ActivePolicy>>,
        profile: impl Fn(&Arc<str>) -> ProfileSays,
        rules: &mut Vec<PacketRule>,
    ) -> Vec<Group> {
        let marks = context.marks();
        let mut all_groups = Vec::new();
        let mut is_passed = false;
        for tier in self.tiers {
            let policies = by_direction(self.direction, &tier.ingress, &tier.egress);
            let groups = groups(self.direction, policies, &policy);
            if groups.is_empty() {
                continue;
            }
            if is_passed {
                rules.push(PacketRule::new(clear_mark(marks.pass)));
            }
            let may_pass = |key: &PolicyKey| policy(key).is_none_or(|policy| passes(policy, self.direction));
            let passes = groups.iter().flat_map(Group::policies).any(may_pass);
            self.tier(context, tier, (&groups, passes), rules);
            all_groups.extend(groups);
            if !passes && !tier.default_action_is_pass {
                return all_groups;
            }
            rules.push(returns("Return if policy accepted").when(mark_set(marks.accept)));
            is_passed |= passes;
        }
        self.profiles(context, profile, rules);
        all_groups
    }

    fn tier(
        &self,
        context: &Context<'_>,
        tier: &ActiveTier,
        (groups, passes): (&[Group], bool),
        rules: &mut Vec<PacketRule>,
    ) {
        let marks = context.marks();
        let decided = if passes { marks.accept | marks.pass } else { marks.accept };
        for (index, group) in groups.iter().enumerate() {
            let jump = PacketRule::new(RuleAction::Jump(group.chain_name()));
            rules.push(match index {
                0 => jump.comment(format!("Start of tier {}", tier.name)),
                _ => jump.when(mark_clear(decided)),
            });
        }
        if !tier.default_action_is_pass {
            let comment = format!("End of tier {}. Drop if no policies passed packet", tier.name);
            let reason = DropReason::EndOfTier(tier.name.clone());
            rules.extend(context.dropped((self.direction, &reason), Some(comment), &[mark_clear(decided)]));
        }
    }

    fn profiles(
        &self,
        context: &Context<'_>,
        says: impl Fn(&Arc<str>) -> ProfileSays,
        rules: &mut Vec<PacketRule>,
    ) {
        let accept = context.marks().accept;
        let mut undecided = Vec::new();
        for profile in self.profiles {
            match says(profile) {
                ProfileSays::Nothing => {}
                ProfileSays::Something => {
                    let jump = RuleAction::Jump(profile_chain(self.direction, profile));
                    rules.push(PacketRule::new(jump).when_all(undecided.clone()));
                    undecided = vec![mark_clear(accept)];
                }
                ProfileSays::Everything => {
                    let comment = format!("Profile {profile} allows everything");
                    rules.push(PacketRule::new(set_mark(accept)).when_all(undecided).comment(comment));
                    return;
                }
            }
        }
        let comment = "Drop if no profiles matched".to_owned();
        rules.extend(context.dropped((self.direction, &DropReason::NoProfile), Some(comment), &undecided));
    }
}
