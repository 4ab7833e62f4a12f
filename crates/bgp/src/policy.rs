//! Import and export policy as data. Owns rules and their evaluation; knows no session and no table.
//!
//! A policy is compiled once, when it is built: sets of prefixes answer by a few hash lookups however many
//! prefixes they hold, and a policy without rules costs one comparison.

use bgp_packet::{Community, Family, LargeCommunity, PathAttributes, Prefix};

pub use crate::prefix_set::{PrefixMatch, PrefixSet};

/// Where a route came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SourceKind {
    /// Originated here.
    Local,
    /// Learned from a peer of our AS.
    Internal,
    /// Learned from a peer of another AS.
    External,
}

/// What a policy looks at beside the path attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Destination.
    pub prefix: &'a Prefix,
    /// Where the route came from.
    pub source: SourceKind,
    /// Interface that packets to the destination leave through; only routes originated here may know it.
    pub interface: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// A route that does not know its interface.
    pub fn new(prefix: &'a Prefix, source: SourceKind) -> Self {
        Self { prefix, source, interface: None }
    }
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Condition {
    /// The prefix is in the set.
    Prefix(PrefixSet),
    /// The prefix is not in the set.
    NotPrefix(PrefixSet),
    /// The prefix is of this family.
    Family(Family),
    /// The length of the prefix, shortest and longest.
    Length(u8, u8),
    /// The route came from one of these.
    Source(Vec<SourceKind>),
    /// The route's interface is known and matches one of the patterns.
    Interface(Vec<Glob>),
    /// LOCAL_PREF is there and greater than this.
    LocalPrefAbove(u32),
    /// LOCAL_PREF is there and equal to this.
    LocalPref(u32),
    /// The route carries the community.
    Community(Community),
    /// The route carries the large community.
    LargeCommunity(LargeCommunity),
    /// AS_PATH begins with these, nearest first.
    AsPathPrefix(Vec<u32>),
}

/// A change of the attributes of a route.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Operation {
    /// Sets LOCAL_PREF.
    SetLocalPref(u32),
    /// Sets LOCAL_PREF, unless it is there.
    DefaultLocalPref(u32),
    /// Adds a community, unless it is there.
    AddCommunity(Community),
    /// Adds a large community, unless it is there.
    AddLargeCommunity(LargeCommunity),
    /// Makes AS_PATH begin with these, nearest first.
    PrependAsPath(Vec<u32>),
}

/// What a rule does when all its conditions hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Action {
    /// Take the route; no further rule is asked.
    Accept,
    /// Change the route and take it; no further rule is asked.
    AcceptWith(Vec<Operation>),
    /// Drop the route; no further rule is asked.
    Reject,
    /// Change the route and go on.
    Modify(Vec<Operation>),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rule {
    /// Shown to operators when the rule rejects.
    pub name: String,
    /// All must hold; none means always.
    pub when: Vec<Condition>,
    /// What is done then.
    pub then: Action,
}

/// Rules in order; the first that accepts or rejects decides.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Policy {
    rules: Vec<Rule>,
    accept_by_default: bool,
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
    /// Rules in order, and what happens when none decides.
    ///
    /// Rules that can never hold are left out.
    pub fn new(rules: Vec<Rule>, accept_by_default: bool) -> Self {
        let never = |c: &Condition| match c {
            Condition::Prefix(set) => set.is_empty(),
            Condition::Source(kinds) => kinds.is_empty(),
            Condition::Interface(globs) => globs.is_empty(),
            _ => false,
        };
        let rules = rules.into_iter().filter(|rule| !rule.when.iter().any(never)).collect();
        Self { rules, accept_by_default }
    }

    /// Takes everything.
    pub fn accept() -> Self {
        Self { rules: Vec::new(), accept_by_default: true }
    }

    /// Takes nothing.
    pub fn reject() -> Self {
        Self { rules: Vec::new(), accept_by_default: false }
    }

    /// The rules in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether every route is taken as it is.
    pub fn accepts_all(&self) -> bool {
        self.rules.is_empty() && self.accept_by_default
    }

    /// Name of the rule that a verdict points at.
    pub fn rule_name(&self, rule: Option<u16>) -> &str {
        rule.and_then(|i| self.rules.get(usize::from(i))).map_or("default", |r| &r.name)
    }

    /// Decides about a route, and changes its attributes on the way.
    ///
    /// What was changed by rules before the one that rejects stays in `attributes`.
    pub fn apply(&self, facts: Facts<'_>, attributes: &mut Edit<'_>) -> Verdict {
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.when.iter().all(|c| c.holds(facts, attributes.current())) {
                continue;
            }
            match &rule.then {
                Action::Accept => return Verdict::Accept,
                Action::AcceptWith(operations) => {
                    operations.iter().for_each(|operation| operation.perform(attributes));
                    return Verdict::Accept;
                }
                Action::Reject => return Verdict::Reject(u16::try_from(index).ok()),
                Action::Modify(operations) => operations.iter().for_each(|o| o.perform(attributes)),
            }
        }
        if self.accept_by_default { Verdict::Accept } else { Verdict::Reject(None) }
    }
}

impl Condition {
    fn holds(&self, facts: Facts<'_>, attributes: &PathAttributes) -> bool {
        match self {
            Self::Prefix(set) => set.contains(facts.prefix),
            Self::NotPrefix(set) => !set.contains(facts.prefix),
            Self::Family(family) => facts.prefix.family() == *family,
            Self::Length(min, max) => (*min..=*max).contains(&facts.prefix.len()),
            Self::Source(kinds) => kinds.contains(&facts.source),
            Self::Interface(globs) => {
                facts.interface.is_some_and(|name| globs.iter().any(|g| g.matches(name)))
            }
            Self::LocalPrefAbove(limit) => attributes.local_pref.is_some_and(|p| p > *limit),
            Self::LocalPref(value) => attributes.local_pref == Some(*value),
            Self::Community(community) => attributes.communities.contains(community),
            Self::LargeCommunity(community) => attributes.large_communities.contains(community),
            Self::AsPathPrefix(asns) => {
                let mut path = attributes.as_path.asns();
                asns.iter().all(|asn| path.next() == Some(*asn))
            }
        }
    }
}

impl Operation {
    /// Copies the attributes only when something is different afterwards.
    fn perform(&self, attributes: &mut Edit<'_>) {
        match self {
            Self::SetLocalPref(value) if attributes.current().local_pref != Some(*value) => {
                attributes.edit().local_pref = Some(*value);
            }
            Self::DefaultLocalPref(value) if attributes.current().local_pref.is_none() => {
                attributes.edit().local_pref = Some(*value);
            }
            Self::AddCommunity(community) if !attributes.current().communities.contains(community) => {
                attributes.edit().communities.push(*community);
            }
            Self::AddLargeCommunity(community)
                if !attributes.current().large_communities.contains(community) =>
            {
                attributes.edit().large_communities.push(*community);
            }
            Self::PrependAsPath(asns) => {
                let path = asns.iter().rev();
                let path = path.fold(attributes.current().as_path.clone(), |path, asn| path.prepended(*asn));
                attributes.edit().as_path = path;
            }
            _ => {}
        }
    }
}

/// Attributes that are copied only when a rule changes them.
#[derive(Debug)]
pub enum Edit<'a> {
    /// As they came.
    Same(&'a PathAttributes),
    /// A rule has changed them.
    Changed(Box<PathAttributes>),
}

impl Edit<'_> {
    /// The attributes as they are now.
    pub fn current(&self) -> &PathAttributes {
        match self {
            Self::Same(a) => a,
            Self::Changed(a) => a,
        }
    }

    /// The attributes to be changed; they are copied the first time.
    pub fn edit(&mut self) -> &mut PathAttributes {
        if let Self::Same(a) = self {
            *self = Self::Changed(Box::new(a.clone()));
        }
        match self {
            Self::Changed(a) => a,
            Self::Same(_) => unreachable!("was just changed"),
        }
    }
}

/// A pattern for names of interfaces: `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Glob(Box<str>);

impl Glob {
    /// Takes a pattern.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// Whether the whole of `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        // Every part but the last takes its first place; the last one must end the text.
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp_packet::{AsPath, NextHop};

    fn p(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    fn attributes() -> PathAttributes {
        PathAttributes::new(NextHop::V4([192, 0, 2, 1].into()))
    }

    fn rule(name: &str, when: Vec<Condition>, then: Action) -> Rule {
        Rule { name: name.into(), when, then }
    }

    fn holds(condition: Condition, facts: Facts<'_>, attributes: &PathAttributes) -> bool {
        let policy = Policy::new(vec![rule("only", vec![condition], Action::Accept)], false);
        policy.apply(facts, &mut Edit::Same(attributes)) == Verdict::Accept
    }

    #[test]
    fn first_deciding_rule_wins_and_edits_happen_on_the_way() {
        let prefixes = |set| vec![Condition::Prefix(PrefixSet::new([set]))];
        let block = p("10.0.1.0/26");
        let policy = Policy::new(
            vec![
                rule("tag", vec![], Action::Modify(vec![Operation::SetLocalPref(7)])),
                rule("blocks", prefixes(PrefixMatch::exact(block)), Action::Accept),
                rule("inside blocks", prefixes(PrefixMatch::more_specific(block)), Action::Reject),
            ],
            false,
        );
        let attributes = attributes();
        let check = |prefix| {
            let mut edit = Edit::Same(&attributes);
            let verdict = policy.apply(Facts::new(&p(prefix), SourceKind::Local), &mut edit);
            (verdict, edit.current().local_pref)
        };
        assert_eq!(check("10.0.1.0/26"), (Verdict::Accept, Some(7)));
        assert_eq!(check("10.0.1.5/32"), (Verdict::Reject(Some(2)), Some(7)));
        assert_eq!(check("192.0.2.0/24"), (Verdict::Reject(None), Some(7)));
        assert_eq!(policy.rule_name(Some(2)), "inside blocks");
        assert_eq!(policy.rule_name(None), "default");
    }

    #[test]
    fn each_condition_holds_where_it_should_and_nowhere_else() {
        let prefix = p("10.0.1.0/26");
        let facts = Facts { prefix: &prefix, source: SourceKind::External, interface: Some("vxlan.calico") };
        let mut a = attributes();
        a.local_pref = Some(100);
        a.communities = vec!["65000:1".parse().unwrap()];
        a.large_communities = vec!["65000:1:2".parse().unwrap()];
        a.as_path = AsPath::sequence(&[65001, 65002, 65003]);
        let set = |text: &str| PrefixSet::new([PrefixMatch::within(p(text))]);
        let cases = [
            (Condition::Prefix(set("10.0.0.0/16")), Condition::Prefix(set("10.1.0.0/16"))),
            (Condition::NotPrefix(set("10.1.0.0/16")), Condition::NotPrefix(set("10.0.0.0/16"))),
            (Condition::Family(Family::Ipv4), Condition::Family(Family::Ipv6)),
            (Condition::Length(26, 32), Condition::Length(27, 32)),
            (Condition::Source(vec![SourceKind::External]), Condition::Source(vec![SourceKind::Local])),
            (
                Condition::Interface(vec![Glob::new("*.calico")]),
                Condition::Interface(vec![Glob::new("*.cali")]),
            ),
            (Condition::LocalPrefAbove(99), Condition::LocalPrefAbove(100)),
            (Condition::LocalPref(100), Condition::LocalPref(99)),
            (
                Condition::Community("65000:1".parse().unwrap()),
                Condition::Community("65000:2".parse().unwrap()),
            ),
            (
                Condition::LargeCommunity("65000:1:2".parse().unwrap()),
                Condition::LargeCommunity("65000:2:1".parse().unwrap()),
            ),
            (Condition::AsPathPrefix(vec![65001, 65002]), Condition::AsPathPrefix(vec![65002])),
            (Condition::AsPathPrefix(vec![]), Condition::AsPathPrefix(vec![65001, 65002, 65003, 65004])),
        ];
        for (right, wrong) in cases {
            assert!(holds(right.clone(), facts, &a), "{right:?}");
            assert!(!holds(wrong.clone(), facts, &a), "{wrong:?}");
        }
        let unknown = Facts::new(&prefix, SourceKind::Local);
        assert!(!holds(Condition::Interface(vec![Glob::new("*")]), unknown, &a));
        let bare = attributes();
        assert!(!holds(Condition::LocalPrefAbove(0), facts, &bare));
        assert!(!holds(Condition::AsPathPrefix(vec![1]), facts, &bare));
    }

    #[test]
    fn operations_change_a_copy_and_only_when_they_must() {
        let operations = vec![
            Operation::AddCommunity("65000:1".parse().unwrap()),
            Operation::AddLargeCommunity("65000:1:2".parse().unwrap()),
            Operation::PrependAsPath(vec![65010, 65011]),
            Operation::SetLocalPref(5),
        ];
        let policy = Policy::new(vec![rule("all", vec![], Action::AcceptWith(operations))], false);
        let mut a = attributes();
        a.as_path = AsPath::sequence(&[65001]);
        let prefix = p("10.0.0.0/26");
        let facts = Facts::new(&prefix, SourceKind::Local);

        let mut edit = Edit::Same(&a);
        assert_eq!(policy.apply(facts, &mut edit), Verdict::Accept);

        let changed = edit.current();
        assert_eq!(changed.as_path.to_string(), "65010 65011 65001");
        assert_eq!((changed.communities.len(), changed.large_communities.len()), (1, 1));
        assert_eq!(changed.local_pref, Some(5));
        let again =
            Policy::new(vec![rule("set", vec![], Action::Modify(vec![Operation::SetLocalPref(5)]))], true);
        let mut edit = Edit::Same(changed);
        again.apply(facts, &mut edit);
        assert!(matches!(edit, Edit::Same(_)), "equal attributes were copied");
    }

    #[test]
    fn globs_match_whole_names() {
        for (pattern, good, bad) in [
            ("eth0", &["eth0"][..], &["eth00", "eth", ""][..]),
            ("*.cali", &["vxlan.cali", ".cali"], &["vxlan.calico", "cali"]),
            ("bpf*.cali", &["bpfin.cali", "bpf.cali"], &["bpf", "xbpfin.cali"]),
            ("*", &["", "anything"], &[]),
            ("a*b*a", &["aba", "axbxa", "abba"], &["ab", "aa", "abab"]),
            ("ab*ba", &["abba", "abxba"], &["aba"]),
        ] {
            for name in good {
                assert!(Glob::new(pattern).matches(name), "{pattern} {name}");
            }
            for name in bad {
                assert!(!Glob::new(pattern).matches(name), "{pattern} {name}");
            }
        }
    }
}
