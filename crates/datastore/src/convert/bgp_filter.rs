//! Filters.
//!
//! A rule of which a part is not understood never lets more through: one that accepts is left out, one that
//! rejects does without that part and rejects more.

use model::{BgpFilter, BgpFilterOperation, BgpFilterRule, BgpPeerType, Cidr, Family, MatchOperator};

use super::bgp::as_number;
use super::{Problems, net};
use crate::crd;

/// A BGPFilter.
pub fn bgp_filter(name: &str, spec: &crd::BGPFilterSpec, problems: &mut Problems) -> BgpFilter {
    let mut v4 = |field: &str, rules: &Option<Vec<crd::BGPFilterRuleV4>>| {
        let parts = rules.iter().flatten().map(Parts::from);
        collect(&format!("spec.{field}"), Family::V4, parts, problems)
    };
    let (import_v4, export_v4) = (v4("importV4", &spec.import_v4), v4("exportV4", &spec.export_v4));
    let mut v6 = |field: &str, rules: &Option<Vec<crd::BGPFilterRuleV6>>| {
        let parts = rules.iter().flatten().map(Parts::from);
        collect(&format!("spec.{field}"), Family::V6, parts, problems)
    };
    let (import_v6, export_v6) = (v6("importV6", &spec.import_v6), v6("exportV6", &spec.export_v6));
    BgpFilter { name: name.to_owned(), import_v4, import_v6, export_v4, export_v6 }
}

/// The rules of both families look alike from here on.
struct Parts<'a> {
    cidr: Option<&'a str>,
    operator: Option<crd::BGPFilterOperator>,
    lengths: (Option<i32>, Option<i32>),
    remote_peers: bool,
    interface: Option<&'a str>,
    peer_type: Option<crd::BGPFilterPeerType>,
    communities: &'a [String],
    as_path_prefix: &'a [crd::AsNumberValue],
    priority: Option<i32>,
    action: crd::BGPFilterAction,
    operations: &'a [crd::BGPFilterOperation],
}

macro_rules! parts {
    ($rule:ty) => {
        impl<'a> From<&'a $rule> for Parts<'a> {
            fn from(rule: &'a $rule) -> Self {
                Self {
                    cidr: rule.cidr.as_deref(),
                    operator: rule.match_operator,
                    lengths: rule.prefix_length.as_ref().map_or((None, None), |l| (l.min, l.max)),
                    remote_peers: rule.source.is_some(),
                    interface: rule.interface.as_deref(),
                    peer_type: rule.peer_type,
                    communities: rule.communities.as_ref().map_or(&[], |c| &c.values),
                    as_path_prefix: rule.as_path_prefix.as_deref().unwrap_or_default(),
                    priority: rule.priority,
                    action: rule.action,
                    operations: rule.operations.as_deref().unwrap_or_default(),
                }
            }
        }
    };
}

parts!(crd::BGPFilterRuleV4);
parts!(crd::BGPFilterRuleV6);

fn collect<'a>(
    field: &str,
    family: Family,
    rules: impl Iterator<Item = Parts<'a>>,
    problems: &mut Problems,
) -> Vec<BgpFilterRule> {
    let rules = rules.enumerate().filter_map(|(i, parts)| {
        let before = problems.0.len();
        let rule = rule(&format!("{field}[{i}]"), family, &parts, problems);
        (problems.0.len() == before || !rule.accept).then_some(rule)
    });
    rules.collect()
}

fn rule(field: &str, family: Family, parts: &Parts<'_>, problems: &mut Problems) -> BgpFilterRule {
    let mut rule = BgpFilterRule::new(parts.action == crd::BGPFilterAction::Accept);
    rule.cidr = match (parts.cidr, parts.operator) {
        (Some(text), Some(operator)) => {
            let cidr = problems.take(&format!("{field}.cidr"), cidr_of(text, family));
            cidr.map(|cidr| (cidr, operator_of(operator)))
        }
        (None, None) => None,
        _ => {
            problems.add(format!("{field}.matchOperator"), "cidr and matchOperator go together");
            None
        }
    };
    let mut length = |length: Option<i32>| {
        let fits = |length: i32| u8::try_from(length).ok().filter(|length| *length <= family.bits());
        let problem = || format!("a prefix is 0 to {} bits long", family.bits());
        length.and_then(|n| problems.take(&format!("{field}.prefixLength"), fits(n).ok_or_else(problem)))
    };
    (rule.min_length, rule.max_length) = (length(parts.lengths.0), length(parts.lengths.1));
    rule.remote_peers = parts.remote_peers;
    rule.interface = parts.interface.map(str::to_owned);
    rule.peer_type = parts.peer_type.map(|peer_type| match peer_type {
        crd::BGPFilterPeerType::External => BgpPeerType::External,
        crd::BGPFilterPeerType::Internal => BgpPeerType::Internal,
    });
    let communities = parts.communities.iter();
    rule.communities = communities
        .filter_map(|text| problems.take(&format!("{field}.communities.values"), text.parse()))
        .collect();
    rule.as_path_prefix = as_numbers(&format!("{field}.asPathPrefix"), parts.as_path_prefix, problems);
    rule.priority = parts.priority.and_then(|p| problems.take(&format!("{field}.priority"), priority(p)));
    rule.operations = parts
        .operations
        .iter()
        .enumerate()
        .filter_map(|(i, operation)| {
            let field = format!("{field}.operations[{i}]");
            let result = operation_of(&field, operation, problems);
            result.or_else(|| {
                problems.add(field, "gives none of addCommunity, prependASPath and setPriority");
                None
            })
        })
        .collect();
    rule
}

fn operation_of(
    field: &str,
    operation: &crd::BGPFilterOperation,
    problems: &mut Problems,
) -> Option<BgpFilterOperation> {
    match (&operation.add_community, &operation.prepend_as_path, &operation.set_priority) {
        (Some(community), None, None) => problems
            .take(&format!("{field}.addCommunity.value"), community.value.parse())
            .map(BgpFilterOperation::AddCommunity),
        (None, Some(prepend), None) => {
            let path = as_numbers(&format!("{field}.prependASPath.prefix"), &prepend.prefix, problems);
            Some(BgpFilterOperation::PrependAsPath(path))
        }
        (None, None, Some(set)) => problems
            .take(&format!("{field}.setPriority.value"), priority(set.value))
            .map(BgpFilterOperation::SetPriority),
        _ => None,
    }
}

fn cidr_of(text: &str, family: Family) -> Result<Cidr, String> {
    let cidr = net(text)?;
    if cidr.family() == family { Ok(cidr) } else { Err(format!("{text:?} is no {family} prefix")) }
}

fn operator_of(operator: crd::BGPFilterOperator) -> MatchOperator {
    match operator {
        crd::BGPFilterOperator::Equal => MatchOperator::Equal,
        crd::BGPFilterOperator::NotEqual => MatchOperator::NotEqual,
        crd::BGPFilterOperator::In => MatchOperator::In,
        crd::BGPFilterOperator::NotIn => MatchOperator::NotIn,
    }
}

fn as_numbers(field: &str, values: &[crd::AsNumberValue], problems: &mut Problems) -> Vec<u32> {
    values.iter().filter_map(|value| problems.take(field, as_number(&value.0))).collect()
}

fn priority(value: i32) -> Result<u32, String> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value != 0)
        .ok_or_else(|| format!("{value} is no priority (1 to 2147483646)"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filter(spec: Value) -> (BgpFilter, Vec<String>) {
        let mut problems = Problems::default();
        let filter = bgp_filter("f", &serde_json::from_value(spec).unwrap(), &mut problems);
        (filter, problems.0.into_iter().map(|problem| problem.field).collect())
    }

    #[test]
    fn every_field_is_understood() {
        let (filter, problems) = filter(json!({
            "importV4": [{
                "cidr": "10.0.0.0/8", "matchOperator": "NotIn", "prefixLength": {"min": 24}, "source": "RemotePeers",
                "interface": "*.calico", "peerType": "eBGP", "communities": {"values": ["65000:1"]},
                "asPathPrefix": [65001, "1.0"], "priority": 512, "action": "Accept",
                "operations": [
                    {"addCommunity": {"value": "1:2:3"}}, {"prependASPath": {"prefix": [65010]}},
                    {"setPriority": {"value": 100}},
                ],
            }],
            "exportV6": [{"action": "Reject"}],
        }));

        assert_eq!(problems, [""; 0]);
        let rule = &filter.import_v4[0];
        assert_eq!(rule.cidr, Some(("10.0.0.0/8".parse().unwrap(), MatchOperator::NotIn)));
        assert_eq!((rule.min_length, rule.max_length, rule.priority), (Some(24), None, Some(512)));
        assert_eq!((rule.peer_type, rule.remote_peers), (Some(BgpPeerType::External), true));
        assert_eq!(rule.as_path_prefix, [65001, 65536]);
        assert_eq!((rule.communities.len(), rule.operations.len()), (1, 3));
        assert_eq!(filter.export_v6, [BgpFilterRule::new(false)]);
    }

    #[test]
    fn what_is_not_understood_lets_nothing_more_through() {
        let wrong = json!({"cidr": "10.0.0.0", "matchOperator": "In"});
        let with = |action: &str| {
            let mut rule = wrong.clone();
            rule["action"] = json!(action);
            rule["cidr"] = json!("fd00::/8");
            rule
        };

        let (filter, problems) = filter(json!({"importV4": [with("Accept"), with("Reject")]}));

        assert_eq!(filter.import_v4, [BgpFilterRule::new(false)]);
        assert_eq!(problems, ["spec.importV4[0].cidr", "spec.importV4[1].cidr"]);
    }
}
