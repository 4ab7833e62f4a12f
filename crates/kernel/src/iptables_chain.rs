//! A chain that is wanted, with the hashes of its rules, and how far the kernel's is from it.
//!
//! The chains that lead to pods grow and shrink with every pod. Of the rules at their front no packet matches two, so
//! these may stand in any order: a new one is inserted, which disturbs nothing, and one that is not wanted any more
//! may stay for a while. Behind a transaction that deletes rules the kernel lets the next one wait, some twenty
//! milliseconds (`docs/benchmarks.md`).

use std::collections::{BTreeMap, BTreeSet};

use crate::iptables::{Chain, chain_hashes};
use crate::iptables_text::rule_text;
use crate::packet_rule::{InterfaceMatch, InterfaceSide, Match, PacketRule, RuleAction};

type Hash = Box<str>;

/// A chain with its hashes, computed once.
#[derive(Clone, Debug)]
pub(crate) struct HashedChain {
    pub(crate) chain: Chain,
    pub(crate) hashes: Vec<Hash>,
    /// So many rules at its front may stand in any order.
    front: usize,
    /// Rules that were wanted at the front before and may still be there. No packet that one of them matches is matched
    /// by a rule that is wanted at the front.
    former: BTreeMap<Hash, PacketRule>,
}

/// How far the kernel's chain is from the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    None,
    /// It has rules at its front that are to go; until then they do no harm.
    Former,
    /// Rules at its front are missing.
    Missing,
    /// It must be written anew.
    Whole,
}

impl HashedChain {
    pub(crate) fn new(chain: Chain) -> Self {
        let hashes = chain_hashes(chain.name.as_str(), &chain.rules);
        let hashes = hashes.into_iter().map(String::into_boxed_str).collect();
        let front = dispatch_front(chain.name.as_str(), &chain.rules);
        Self { hashes, front, chain, former: BTreeMap::new() }
    }

    /// Takes the place of an earlier wish, whose rules the kernel may still have: `actual` are its hashes.
    pub(crate) fn in_place_of(mut self, before: HashedChain, actual: Option<&Vec<Hash>>) -> Self {
        let actual: BTreeSet<&Hash> = actual.into_iter().flatten().collect();
        let front = before.hashes.into_iter().zip(before.chain.rules.iter().cloned()).take(before.front);
        let wanted: BTreeSet<&Hash> = self.hashes[..self.front].iter().collect();
        let mut former = before.former;
        former.extend(front);
        former.retain(|hash, _| actual.contains(hash) && !wanted.contains(hash));
        let all = self.chain.rules[..self.front].iter().chain(former.values());
        if exclude_each_other(all) {
            self.former = former;
        }
        self
    }

    /// Compares it with the hashes of the kernel's rules.
    pub(crate) fn difference(&self, actual: Option<&Vec<Hash>>) -> Difference {
        let Some(actual) = actual else { return Difference::Whole };
        if *actual == self.hashes {
            return Difference::None;
        }
        let (front, rest) = self.hashes.split_at(self.front);
        let Some(length) = actual.len().checked_sub(rest.len()).filter(|_| self.may_grow()) else {
            return Difference::Whole;
        };
        let (has, behind) = actual.split_at(length);
        let wanted: BTreeSet<&Hash> = front.iter().collect();
        let found: BTreeSet<&Hash> = has.iter().collect();
        let is_known = |hash: &&Hash| wanted.contains(*hash) || self.former.contains_key(*hash);
        if behind != rest || found.len() != has.len() || !found.iter().all(is_known) {
            Difference::Whole
        } else if !wanted.is_subset(&found) {
            Difference::Missing
        } else if found.len() > wanted.len() {
            Difference::Former
        } else {
            Difference::None
        }
    }

    /// Does something stand behind the front, so that it is no other chain's?
    fn may_grow(&self) -> bool {
        self.front < self.hashes.len()
    }

    /// Rules at its front that the kernel lacks, with their hashes.
    pub(crate) fn missing<'a>(
        &'a self,
        actual: &'a [Hash],
    ) -> impl DoubleEndedIterator<Item = (&'a Hash, &'a PacketRule)> {
        let actual: BTreeSet<&Hash> = actual.iter().collect();
        let front = self.hashes[..self.front].iter().zip(self.chain.rules.iter());
        front.filter(move |(hash, _)| !actual.contains(hash))
    }

    /// Rules at the kernel's front that are to go, with their hashes.
    pub(crate) fn former<'a>(
        &'a self,
        actual: &'a [Hash],
    ) -> impl Iterator<Item = (&'a Hash, &'a PacketRule)> {
        actual.iter().filter_map(|hash| self.former.get_key_value(hash))
    }

    /// Where the kernel's rules, by their hashes, begin to differ: what is wanted there, and what is there.
    pub(crate) fn compared(&self, actual: Option<&Vec<Hash>>) -> (String, Option<String>) {
        let count = self.hashes.len();
        let Some(actual) = actual else { return (format!("{count} rules"), None) };
        let first = self.hashes.iter().zip(actual).take_while(|(wanted, has)| wanted == has).count();
        match self.chain.rules.get(first) {
            Some(rule) => {
                let there = if first < actual.len() { "another rule" } else { "no rule" };
                let intended = format!("rule {} of {count}: {}", first + 1, rule_text(rule));
                (intended, Some(format!("{there} at this place; {} rules in all", actual.len())))
            }
            None => (format!("{count} rules"), Some(format!("{} rules", actual.len()))),
        }
    }
}

/// In a chain that leads to pods: how many rules at its front go to another chain by the interface alone, and exclude
/// each other. 0 in every other chain.
pub(crate) fn dispatch_front(chain: &str, rules: &[PacketRule]) -> usize {
    if !DISPATCHES.iter().any(|root| chain.starts_with(root)) {
        return 0;
    }
    let front = rules.iter().take_while(|rule| interface(rule).is_some()).count();
    if exclude_each_other(rules[..front].iter()) { front } else { 0 }
}

/// The chains that lead to pods, and the beginnings of their branches' names.
const DISPATCHES: [&str; 2] = ["cali-from-wl-dispatch", "cali-to-wl-dispatch"];

/// The interface by which a rule goes to another chain, if that is all it does.
fn interface(rule: &PacketRule) -> Option<(InterfaceSide, &InterfaceMatch)> {
    let (side, interface) = match rule.matches.as_slice() {
        [Match::InInterface(interface)] => (InterfaceSide::In, interface),
        [Match::OutInterface(interface)] => (InterfaceSide::Out, interface),
        _ => return None,
    };
    (matches!(rule.action, RuleAction::Goto(_)) && !interface.negated).then_some((side, interface))
}

/// Does no packet match two of these rules?
fn exclude_each_other<'a>(rules: impl Iterator<Item = &'a PacketRule>) -> bool {
    let Some(mut all) = rules.map(interface).collect::<Option<Vec<_>>>() else { return false };
    // A beginning of names comes before the names, and before longer beginnings.
    all.sort_by(|a, b| (a.0, &a.1.name, !a.1.prefix).cmp(&(b.0, &b.1.name, !b.1.prefix)));
    let overlap = |pair: &[(InterfaceSide, &InterfaceMatch)]| {
        let [(side, first), (other, second)] = pair else { return false };
        let begins = second.name.starts_with(&*first.name);
        side != other || (if first.prefix { begins } else { first.name == second.name })
    };
    !all.windows(2).any(overlap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::ChainName;

    fn to(interface: InterfaceMatch) -> PacketRule {
        let chain = format!("cali-fw-{}", interface.name);
        PacketRule::new(RuleAction::Goto(ChainName::fixed(&chain))).when(Match::InInterface(interface))
    }

    fn named(name: &str) -> PacketRule {
        to(InterfaceMatch::named(name))
    }

    fn prefixed(prefix: &str) -> PacketRule {
        to(InterfaceMatch::prefixed(prefix))
    }

    fn chain(rules: &[PacketRule]) -> HashedChain {
        let drop = PacketRule::new(RuleAction::Drop);
        let rules = rules.iter().cloned().chain([drop]).collect();
        HashedChain::new(Chain { name: ChainName::fixed("cali-from-wl-dispatch"), rules })
    }

    #[test]
    fn only_rules_that_exclude_each_other_may_stand_in_any_order() {
        let front = |rules: &[PacketRule]| chain(rules).front;

        assert_eq!(front(&[named("cali1"), named("cali12"), prefixed("cali2")]), 3);
        assert_eq!(front(&[prefixed("cali1"), named("cali12")]), 0);
        assert_eq!(front(&[prefixed("cali12"), prefixed("cali1")]), 0);
        assert_eq!(front(&[prefixed("cali1"), named("cali1")]), 0);
        assert_eq!(front(&[named("cali1"), named("cali1")]), 0);
        assert_eq!(dispatch_front("cali-INPUT", &[prefixed("cali")]), 0);
    }

    #[test]
    fn the_order_at_the_front_is_no_difference() {
        let (one, other) =
            (chain(&[named("cali1"), named("cali2")]), chain(&[named("cali2"), named("cali1")]));

        assert_eq!(one.difference(Some(&other.hashes)), Difference::None);
    }

    #[test]
    fn a_rule_that_is_not_wanted_any_more_stays_for_a_while_unless_it_would_do_harm() {
        let before = chain(&[named("cali1"), named("cali2")]);
        let actual = before.hashes.clone();

        let fewer = chain(&[named("cali1")]).in_place_of(before.clone(), Some(&actual));
        assert_eq!(fewer.difference(Some(&actual)), Difference::Former);
        let other = chain(&[named("cali3")]).in_place_of(before.clone(), Some(&actual));
        assert_eq!(other.difference(Some(&actual)), Difference::Missing);
        let branch = chain(&[prefixed("cali1")]).in_place_of(before, Some(&actual));
        assert_eq!(branch.difference(Some(&actual)), Difference::Whole);
    }

    #[test]
    fn what_nobody_knows_is_written_over() {
        let wanted = chain(&[named("cali1")]);
        let unknown = [&["x".into()], wanted.hashes.as_slice()].concat();
        let twice = [&wanted.hashes[..1], wanted.hashes.as_slice()].concat();

        assert_eq!(wanted.difference(None), Difference::Whole);
        assert_eq!(wanted.difference(Some(&unknown)), Difference::Whole);
        assert_eq!(wanted.difference(Some(&twice)), Difference::Whole);
        assert_eq!(wanted.difference(Some(&Vec::new())), Difference::Whole);
        assert_eq!(wanted.difference(Some(&wanted.hashes[1..].to_vec())), Difference::Missing);
    }
}
