//! What stands before a drop so that it can be seen: which packet, and which rule of which policy dropped it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kernel::{ChainName, DROP_GROUP, Match, PacketRule, RuleAction};
use model::{Direction, PolicyKey};

use crate::marks::{mark_set, set_mark};
use crate::settings::Context;

/// What dropped a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A Deny rule of a policy, by its number from 0 in the policy's list of that direction.
    Policy(PolicyKey, usize),
    /// A Deny rule of a profile.
    Profile(Arc<str>, usize),
    /// Policies of the tier select the endpoint, and none of them decided.
    EndOfTier(Arc<str>),
    /// No profile allowed it.
    NoProfile,
    /// The endpoint is closed: what it is subject to is not known.
    Closed,
    /// The interface is like a pod's, but no endpoint is known for it.
    UnknownInterface,
    /// The source is not an address of the pod.
    Spoofed,
}

impl DropReason {
    /// What stands in the middle of the prefix; long names are whole.
    fn text(&self) -> String {
        match self {
            DropReason::Policy(key, _) => key.to_string(),
            DropReason::Profile(name, _) => format!("pro/{name}"),
            DropReason::EndOfTier(name) => format!("tier:{name}"),
            DropReason::NoProfile => "profile".to_owned(),
            DropReason::Closed => "closed".to_owned(),
            DropReason::UnknownInterface => "unknown".to_owned(),
            DropReason::Spoofed => "spoofed".to_owned(),
        }
    }

    fn rule(&self) -> Option<usize> {
        match self {
            DropReason::Policy(_, rule) | DropReason::Profile(_, rule) => Some(*rule),
            _ => None,
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DropReason::Policy(key, rule) => write!(f, "rule {rule} of policy {key}"),
            DropReason::Profile(name, rule) => write!(f, "rule {rule} of profile {name}"),
            DropReason::EndOfTier(name) => write!(f, "end of tier {name}: no policy allowed it"),
            DropReason::NoProfile => f.write_str("no profile allowed it"),
            DropReason::Closed => f.write_str("the endpoint is closed"),
            DropReason::UnknownInterface => f.write_str("no endpoint is known for the interface"),
            DropReason::Spoofed => f.write_str("its source is not an address of the pod"),
        }
    }
}

/// Where a packet was dropped, as a prefix says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DropPlace {
    /// As seen from the endpoint.
    pub direction: Direction,
    pub reason: DropReason,
}

/// Longest text in the middle of a prefix: 63 bytes less `D|i|`, `|` and the number of a rule.
const MAX_TEXT: usize = 53;
/// How much of a long name stays readable before its hash.
const READABLE: usize = 25;
/// How much of a dropped packet is told: the longest IP header and the beginning of what is in it.
const SNAP_LENGTH: u32 = 80;

/// The prefix of the NFLOG record, at most 63 bytes: `D|<i or e>|<what>|<rule>`, where what is a policy's ID,
/// `pro/<profile>`, `tier:<name>`, `profile`, `closed`, `unknown` or `spoofed`; long ones end in a hash, which
/// [`crate::Renderer::explain_prefix`] maps back. The only place that makes one.
pub fn drop_prefix(direction: Direction, reason: &DropReason) -> Arc<str> {
    let letter = match direction {
        Direction::Ingress => 'i',
        Direction::Egress => 'e',
    };
    let what = short(&reason.text());
    match reason.rule() {
        Some(rule) => format!("D|{letter}|{what}|{rule}").into(),
        None => format!("D|{letter}|{what}|").into(),
    }
}

/// The text itself, or its beginning and a hash of all of it.
fn short(text: &str) -> String {
    if text.len() <= MAX_TEXT && text.is_ascii() {
        return text.to_owned();
    }
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "/:.-".contains(*c);
    let readable: String = text.chars().take(READABLE).filter(is_plain).collect();
    // An underscore and 27 characters of the hash.
    let hash = ChainName::limited("", &format!("{text:_>width$}", width = ChainName::MAX + 1));
    format!("{readable}{hash}")
}

/// Reads prefixes back: what long names were.
#[derive(Default)]
pub(crate) struct DropNames(BTreeMap<String, DropReason>);

impl DropNames {
    pub(crate) fn remember(&mut self, reason: DropReason) {
        let text = reason.text();
        let short = short(&text);
        self.0.insert(short, reason);
    }

    pub(crate) fn forget(&mut self, reason: &DropReason) {
        self.0.remove(&short(&reason.text()));
    }

    /// `None`: the prefix is not ours, or what it names is no longer known.
    pub(crate) fn explain(&self, prefix: &str) -> Option<DropPlace> {
        let mut parts = prefix.strip_prefix("D|")?.splitn(3, '|');
        let direction = match parts.next()? {
            "i" => Direction::Ingress,
            "e" => Direction::Egress,
            _ => return None,
        };
        let (what, rule) = (parts.next()?, parts.next()?);
        let reason = match what {
            "profile" => DropReason::NoProfile,
            "closed" => DropReason::Closed,
            "unknown" => DropReason::UnknownInterface,
            "spoofed" => DropReason::Spoofed,
            name => match self.0.get(name)?.clone() {
                DropReason::Policy(key, _) => DropReason::Policy(key, rule.parse().ok()?),
                DropReason::Profile(name, _) => DropReason::Profile(name, rule.parse().ok()?),
                other => other,
            },
        };
        Some(DropPlace { direction, reason })
    }
}

impl Context<'_> {
    /// A drop with the record before it, if drops are logged. For conditions that cost little.
    pub(crate) fn dropped(
        &self,
        place: (Direction, &DropReason),
        comment: Option<String>,
        conditions: &[Match],
    ) -> Vec<PacketRule> {
        let mut rules: Vec<_> = self.record(place, conditions).into_iter().collect();
        let mut deny = PacketRule::new(self.deny()).when_all(conditions.iter().cloned());
        deny.comments.extend(comment.map(Arc::from));
        rules.push(deny);
        rules
    }

    /// The same where the conditions may cost much: they are tested once.
    pub(crate) fn denied(&self, place: (Direction, &DropReason), conditions: Vec<Match>) -> Vec<PacketRule> {
        if conditions.is_empty() || self.settings.drop_log.is_none() {
            return self.dropped(place, None, &conditions);
        }
        let is_denied = mark_set(self.marks().drop);
        let mut rules = vec![PacketRule::new(set_mark(self.marks().drop)).when_all(conditions)];
        rules.extend(self.dropped(place, None, &[is_denied]));
        rules
    }

    fn record(
        &self,
        (direction, reason): (Direction, &DropReason),
        conditions: &[Match],
    ) -> Option<PacketRule> {
        let limit = self.settings.drop_log?;
        let record = RuleAction::Nflog {
            group: DROP_GROUP,
            prefix: drop_prefix(direction, reason),
            size: SNAP_LENGTH,
        };
        Some(PacketRule::new(record).when_all(conditions.iter().cloned()).when(Match::Limit(limit)))
    }
}

#[cfg(test)]
mod tests {
    use model::PolicyKind;

    use super::*;

    #[test]
    fn prefixes_say_where() {
        let key = PolicyKey::new(PolicyKind::NetworkPolicy, Some("default"), "web");
        let reasons = [
            (DropReason::Policy(key, 3), "D|i|np/default/web|3"),
            (DropReason::EndOfTier("default".into()), "D|i|tier:default|"),
            (DropReason::NoProfile, "D|i|profile|"),
            (DropReason::Profile("kns.x".into(), 0), "D|i|pro/kns.x|0"),
        ];

        let mut names = DropNames::default();
        for (reason, prefix) in reasons {
            assert_eq!(&*drop_prefix(Direction::Ingress, &reason), prefix);
            names.remember(reason.clone());
            let place = DropPlace { direction: Direction::Ingress, reason };
            assert_eq!(names.explain(prefix), Some(place));
        }
    }

    #[test]
    fn long_names_become_a_hash_that_is_mapped_back() {
        let (long, other) = ("n".repeat(253), "n".repeat(252));
        let reason = |name: &str| {
            DropReason::Policy(PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, name), 12_345)
        };
        let prefix = drop_prefix(Direction::Egress, &reason(&long));
        assert!(prefix.len() <= 63, "{prefix}");
        assert!(prefix.starts_with("D|e|gnp/nnnnn") && prefix.ends_with("|12345"), "{prefix}");
        assert_ne!(prefix, drop_prefix(Direction::Egress, &reason(&other)));

        let mut names = DropNames::default();
        assert_eq!(names.explain(&prefix), None);
        names.remember(reason(&long));
        let place = DropPlace { direction: Direction::Egress, reason: reason(&long) };
        assert_eq!(names.explain(&prefix), Some(place));
        names.forget(&reason(&long));
        assert_eq!(names.explain(&prefix), None);
    }

    #[test]
    fn nonsense_is_not_explained() {
        for prefix in ["", "D|", "D|x|profile|", "D|i|profile", "D|i|np/a/b|x", "calico-packet: "] {
            assert_eq!(DropNames::default().explain(prefix), None, "{prefix}");
        }
    }
}
