//! Import and export policy as data. Owns rules and their evaluation; knows no session and no table.

use bgp_packet::{Community, LargeCommunity, PathAttributes, Prefix};

/// Where a route came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// Originated here.
    Local,
    /// Learned from a peer of our AS.
    Internal,
    /// Learned from a peer of another AS.
    External,
}

/// A set of prefixes: those inside `prefix` whose length is in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixMatch {
    /// What contains the route's prefix.
    pub prefix: Prefix,
    /// Shortest length.
    pub min_len: u8,
    /// Longest length.
    pub max_len: u8,
}

impl PrefixMatch {
    /// Only `prefix` itself.
    pub fn exact(prefix: Prefix) -> Self {
        Self { prefix, min_len: prefix.len(), max_len: prefix.len() }
    }

    /// `prefix` and all that lies inside.
    pub fn within(prefix: Prefix) -> Self {
        Self { prefix, min_len: prefix.len(), max_len: prefix.family().max_len() }
    }

    /// What lies inside `prefix`, but not `prefix` itself.
    pub fn more_specific(prefix: Prefix) -> Self {
        Self { prefix, min_len: prefix.len().saturating_add(1), max_len: prefix.family().max_len() }
    }

    fn matches(&self, prefix: &Prefix) -> bool {
        (self.min_len..=self.max_len).contains(&prefix.len()) && self.prefix.contains(prefix)
    }
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The prefix is in one of the sets.
    Prefix(Vec<PrefixMatch>),
    /// The route came from one of these.
    Source(Vec<SourceKind>),
    /// LOCAL_PREF is there and greater than this.
    LocalPrefAbove(u32),
    /// The route carries the community.
    Community(Community),
}

/// What a rule does when all its conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take the route; no further rule is asked.
    Accept,
    /// Drop the route; no further rule is asked.
    Reject,
    /// Set LOCAL_PREF and go on.
    SetLocalPref(u32),
    /// Add communities and go on.
    AddCommunities(Vec<Community>, Vec<LargeCommunity>),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Shown to operators when the rule rejects.
    pub name: String,
    /// All must hold; none means always.
    pub when: Vec<Condition>,
    /// What is done then.
    pub then: Action,
}

/// Rules in order; the first that accepts or rejects decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The rules.
    pub rules: Vec<Rule>,
    /// What happens when no rule decides.
    pub accept_by_default: bool,
}

/// What a policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The route is taken.
    Accept,
    /// The rule with this index rejects it; `None` is the default.
    Reject(Option<u16>),
}

impl Policy {
    /// Takes everything.
    pub fn accept() -> Self {
        Self { rules: Vec::new(), accept_by_default: true }
    }

    /// Takes nothing.
    pub fn reject() -> Self {
        Self { rules: Vec::new(), accept_by_default: false }
    }

    /// Name of the rule that a verdict points at.
    pub fn rule_name(&self, rule: Option<u16>) -> &str {
        rule.and_then(|i| self.rules.get(usize::from(i))).map_or("default", |r| &r.name)
    }

    /// Decides about a route, and changes its attributes on the way.
    pub(crate) fn apply(&self, prefix: &Prefix, source: SourceKind, attributes: &mut Edit<'_>) -> Verdict {
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.when.iter().all(|c| c.holds(prefix, source, attributes.current())) {
                continue;
            }
            match &rule.then {
                Action::Accept => return Verdict::Accept,
                Action::Reject => return Verdict::Reject(u16::try_from(index).ok()),
                Action::SetLocalPref(value) => attributes.edit().local_pref = Some(*value),
                Action::AddCommunities(communities, large) => {
                    let a = attributes.edit();
                    a.communities.extend(
                        communities
                            .iter()
                            .filter(|c| !a.communities.contains(c))
                            .copied()
                            .collect::<Vec<_>>(),
                    );
                    a.large_communities.extend(
                        large
                            .iter()
                            .filter(|c| !a.large_communities.contains(c))
                            .copied()
                            .collect::<Vec<_>>(),
                    );
                }
            }
        }
        if self.accept_by_default { Verdict::Accept } else { Verdict::Reject(None) }
    }
}

impl Condition {
    fn holds(&self, prefix: &Prefix, source: SourceKind, attributes: &PathAttributes) -> bool {
        match self {
            Self::Prefix(sets) => sets.iter().any(|set| set.matches(prefix)),
            Self::Source(kinds) => kinds.contains(&source),
            Self::LocalPrefAbove(limit) => attributes.local_pref.is_some_and(|p| p > *limit),
            Self::Community(community) => attributes.communities.contains(community),
        }
    }
}

/// Attributes that are copied only when a rule changes them.
#[derive(Debug)]
pub(crate) enum Edit<'a> {
    Same(&'a PathAttributes),
    Changed(Box<PathAttributes>),
}

impl Edit<'_> {
    pub(crate) fn current(&self) -> &PathAttributes {
        match self {
            Self::Same(a) => a,
            Self::Changed(a) => a,
        }
    }

    pub(crate) fn edit(&mut self) -> &mut PathAttributes {
        if let Self::Same(a) = self {
            *self = Self::Changed(Box::new(a.clone()));
        }
        match self {
            Self::Changed(a) => a,
            Self::Same(_) => unreachable!("was just changed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp_packet::NextHop;

    fn p(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    #[test]
    fn first_deciding_rule_wins_and_edits_happen_on_the_way() {
        let policy = Policy {
            rules: vec![
                Rule { name: "tag".into(), when: vec![], then: Action::SetLocalPref(7) },
                Rule {
                    name: "blocks".into(),
                    when: vec![Condition::Prefix(vec![PrefixMatch::exact(p("10.0.1.0/26"))])],
                    then: Action::Accept,
                },
                Rule {
                    name: "inside blocks".into(),
                    when: vec![Condition::Prefix(vec![PrefixMatch::more_specific(p("10.0.1.0/26"))])],
                    then: Action::Reject,
                },
            ],
            accept_by_default: false,
        };
        let attributes = PathAttributes::new(NextHop::V4([192, 0, 2, 1].into()));
        let check = |prefix| {
            let mut edit = Edit::Same(&attributes);
            let verdict = policy.apply(&p(prefix), SourceKind::Local, &mut edit);
            (verdict, edit.current().local_pref)
        };
        assert_eq!(check("10.0.1.0/26"), (Verdict::Accept, Some(7)));
        assert_eq!(check("10.0.1.5/32"), (Verdict::Reject(Some(2)), Some(7)));
        assert_eq!(check("192.0.2.0/24"), (Verdict::Reject(None), Some(7)));
        assert_eq!(policy.rule_name(Some(2)), "inside blocks");
    }
}
