//! The meaning of BGPFilter. Owns how its rules become the speaker's.

use bgp::{Action, Condition, Glob, Operation, PrefixMatch, PrefixSet, Rule, SourceKind};
use bgp_packet::{Community, Family, LargeCommunity};
use model::{BgpCommunity, BgpFilter, BgpFilterOperation, BgpFilterRule, BgpPeerType, Cidr, MatchOperator};

use crate::convert::prefix;
use crate::origin::PREFERENCE_SUM;

/// Which way routes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Import,
    Export,
}

/// The rules of a filter for a session with an internal or external peer.
pub fn rules(filter: &BgpFilter, direction: Direction, internal: bool) -> Vec<Rule> {
    let (v4, v6) = match direction {
        Direction::Import => (("importV4", &filter.import_v4), ("importV6", &filter.import_v6)),
        Direction::Export => (("exportV4", &filter.export_v4), ("exportV6", &filter.export_v6)),
    };
    let mut rules = Vec::new();
    for ((field, list), family) in [(v4, Family::Ipv4), (v6, Family::Ipv6)] {
        for (i, rule) in list.iter().enumerate().filter(|(_, rule)| is_for(rule, internal)) {
            // As an operator counts them in the YAML.
            let name = format!("BGPFilter {} {field} rule {}", filter.name, i + 1);
            rules.push(Rule { name, when: conditions(rule, family), then: action(rule) });
        }
    }
    rules
}

/// Does a filter look at the priority of routes that go out?
pub fn looks_at_priority(filter: &BgpFilter) -> bool {
    filter.export_v4.iter().chain(&filter.export_v6).any(|rule| rule.priority.is_some())
}

fn is_for(rule: &BgpFilterRule, internal: bool) -> bool {
    match rule.peer_type {
        Some(BgpPeerType::External) => !internal,
        Some(BgpPeerType::Internal) => internal,
        None => true,
    }
}

fn conditions(rule: &BgpFilterRule, family: Family) -> Vec<Condition> {
    let mut when = vec![Condition::Family(family)];
    when.extend(rule.cidr.map(|(cidr, operator)| match operator {
        MatchOperator::Equal => Condition::Prefix(exact(cidr)),
        MatchOperator::NotEqual => Condition::NotPrefix(exact(cidr)),
        MatchOperator::In => Condition::Prefix(within(cidr, rule)),
        MatchOperator::NotIn => Condition::NotPrefix(within(cidr, rule)),
    }));
    if rule.cidr.is_none() && (rule.min_length, rule.max_length) != (None, None) {
        let longest = rule.max_length.unwrap_or(family.max_len());
        when.push(Condition::Length(rule.min_length.unwrap_or_default(), longest));
    }
    if rule.remote_peers {
        when.push(Condition::Source(vec![SourceKind::Internal, SourceKind::External]));
    }
    when.extend(rule.interface.iter().map(|pattern| Condition::Interface(vec![Glob::new(pattern)])));
    when.extend(rule.communities.iter().map(|community| match community {
        BgpCommunity::Standard(high, low) => Condition::Community(standard(*high, *low)),
        BgpCommunity::Large(global, local1, local2) => {
            Condition::LargeCommunity(large(*global, *local1, *local2))
        }
    }));
    if !rule.as_path_prefix.is_empty() {
        when.push(Condition::AsPathPrefix(rule.as_path_prefix.clone()));
    }
    when.extend(rule.priority.map(|priority| Condition::LocalPref(PREFERENCE_SUM - priority)));
    when
}

fn exact(cidr: Cidr) -> PrefixSet {
    PrefixSet::new([PrefixMatch::exact(prefix(cidr))])
}

/// What is inside a range, from its own length to the longest unless the rule says others.
fn within(cidr: Cidr, rule: &BgpFilterRule) -> PrefixSet {
    let prefix = prefix(cidr);
    PrefixSet::new([PrefixMatch {
        prefix,
        min_len: rule.min_length.unwrap_or(prefix.len()),
        max_len: rule.max_length.unwrap_or(prefix.family().max_len()),
    }])
}

fn action(rule: &BgpFilterRule) -> Action {
    match (rule.accept, rule.operations.is_empty()) {
        (false, _) => Action::Reject,
        (true, true) => Action::Accept,
        (true, false) => Action::AcceptWith(rule.operations.iter().map(operation).collect()),
    }
}

fn operation(operation: &BgpFilterOperation) -> Operation {
    match operation {
        BgpFilterOperation::AddCommunity(community) => add_community(*community),
        BgpFilterOperation::PrependAsPath(asns) => Operation::PrependAsPath(asns.clone()),
        BgpFilterOperation::SetPriority(priority) => Operation::SetLocalPref(PREFERENCE_SUM - priority),
    }
}

/// Adds a community of either kind.
pub(crate) fn add_community(community: BgpCommunity) -> Operation {
    match community {
        BgpCommunity::Standard(high, low) => Operation::AddCommunity(standard(high, low)),
        BgpCommunity::Large(global, local1, local2) => {
            Operation::AddLargeCommunity(large(global, local1, local2))
        }
    }
}

fn standard(high: u16, low: u16) -> Community {
    Community(u32::from(high) << 16 | u32::from(low))
}

fn large(global: u32, local1: u32, local2: u32) -> LargeCommunity {
    LargeCommunity { global, local1, local2 }
}
