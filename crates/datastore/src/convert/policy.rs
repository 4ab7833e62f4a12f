//! Calico's policies and tiers.
//!
//! Selectors are scoped here: a rule of a NetworkPolicy that selects, selects in its own namespace unless it
//! says otherwise. A rule that cannot be understood whole is left out when it allows or logs; when it denies
//! or passes it denies everything instead.

use model::{
    Action, EntityRule, Family, IcmpMatch, InvalidSelector, Policy, PolicyKey, PolicyKind, PortMatch,
    Protocol, Rule, Selector, Tier,
};

use super::{Problems, net, selector};
use crate::crd;

/// A NetworkPolicy of `projectcalico.org/v3`; `None` when it cannot be told what it is for.
pub fn network_policy(
    namespace: &str,
    name: &str,
    spec: &crd::NetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    let scope = problems.take("metadata.namespace", Selector::equals(NAMESPACE, namespace))?;
    let mut parts = Vec::new();
    parts.extend(selector(problems, "spec.selector", spec.selector.as_deref()).ok()?);
    parts.extend(service_accounts(problems, spec.service_account_selector.as_deref()).ok()?);
    parts.push(scope.clone());
    let rules = Rules { own_namespace: Some(&scope) };
    let (ingress_rules, egress_rules) = (spec.ingress.as_deref(), spec.egress.as_deref());
    let (applies_to_ingress, applies_to_egress) = types(spec.types.as_deref(), ingress_rules, egress_rules);
    let key = PolicyKey::new(PolicyKind::NetworkPolicy, Some(namespace), name);
    Some(Policy {
        tier: tier_name(&spec.tier),
        order: spec.order,
        applies_to_ingress,
        applies_to_egress,
        ingress: rules.convert("spec.ingress", ingress_rules, problems),
        egress: rules.convert("spec.egress", egress_rules, problems),
        ..Policy::new(key, Selector::and(parts))
    })
}

/// A GlobalNetworkPolicy; `None` when it cannot be told what it is for, or it is for host endpoints.
pub fn global_network_policy(
    name: &str,
    spec: &crd::GlobalNetworkPolicySpec,
    problems: &mut Problems,
) -> Option<Policy> {
    for (field, set) in [("spec.doNotTrack", spec.do_not_track), ("spec.preDNAT", spec.pre_dnat)] {
        if set == Some(true) {
            problems.add(
                field,
                "is for host endpoints, which this release does not have: the policy is not used",
            );
            return None;
        }
    }
    let mut parts = Vec::new();
    parts.extend(selector(problems, "spec.selector", spec.selector.as_deref()).ok()?);
    parts.extend(service_accounts(problems, spec.service_account_selector.as_deref()).ok()?);
    let namespaces = selector(problems, "spec.namespaceSelector", spec.namespace_selector.as_deref()).ok()?;
    if let Some(namespaces) = namespaces {
        parts.push(problems.take("spec.namespaceSelector", in_namespaces(&namespaces))?);
    }
    let rules = Rules { own_namespace: None };
    let (ingress_rules, egress_rules) = (spec.ingress.as_deref(), spec.egress.as_deref());
    let (applies_to_ingress, applies_to_egress) = types(spec.types.as_deref(), ingress_rules, egress_rules);
    let key = PolicyKey::new(PolicyKind::GlobalNetworkPolicy, None, name);
    Some(Policy {
        tier: tier_name(&spec.tier),
        order: spec.order,
        applies_to_ingress,
        applies_to_egress,
        ingress: rules.convert("spec.ingress", ingress_rules, problems),
        egress: rules.convert("spec.egress", egress_rules, problems),
        ..Policy::new(key, Selector::and(parts))
    })
}

/// A Tier; without an order it has that of the built-in one.
pub fn tier(name: &str, spec: &crd::TierSpec) -> Tier {
    Tier {
        name: name.into(),
        order: Some(spec.order.unwrap_or(1_000_000.0)),
        default_action_is_pass: spec.default_action == crd::TierAction::Pass,
    }
}

const NAMESPACE: &str = "projectcalico.org/namespace";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";

fn tier_name(name: &str) -> std::sync::Arc<str> {
    if name.is_empty() { "default" } else { name }.into()
}

/// Directions that are decided: those named, else those with rules, else ingress.
fn types(
    types: Option<&[crd::PolicyType]>,
    ingress: Option<&[crd::RuleSpec]>,
    egress: Option<&[crd::RuleSpec]>,
) -> (bool, bool) {
    match types {
        Some(types) if !types.is_empty() => {
            (types.contains(&crd::PolicyType::Ingress), types.contains(&crd::PolicyType::Egress))
        }
        _ => {
            let has = |rules: Option<&[crd::RuleSpec]>| rules.is_some_and(|rules| !rules.is_empty());
            (has(ingress) || !has(egress), has(egress))
        }
    }
}

/// A selector over service accounts as one over endpoints.
fn service_accounts(problems: &mut Problems, text: Option<&str>) -> Result<Option<Selector>, ()> {
    let field = "spec.serviceAccountSelector";
    let Some(accounts) = selector(problems, field, text)? else { return Ok(None) };
    problems.take(field, with_service_account(&accounts)).map(Some).ok_or(())
}

fn with_service_account(accounts: &Selector) -> Result<Selector, InvalidSelector> {
    Ok(accounts.prefixed("pcsa.", &Selector::has(SERVICE_ACCOUNT)?))
}

/// A selector over namespaces as one over endpoints; `global()` is what has no namespace.
fn in_namespaces(namespaces: &Selector) -> Result<Selector, InvalidSelector> {
    let everything = Selector::has(NAMESPACE)?;
    if namespaces.is_global() {
        return Ok(everything.negated());
    }
    Ok(namespaces.prefixed("pcns.", &everything))
}

struct Rules<'a> {
    /// Set for a policy in a namespace.
    own_namespace: Option<&'a Selector>,
}

impl Rules<'_> {
    fn convert(&self, field: &str, rules: Option<&[crd::RuleSpec]>, problems: &mut Problems) -> Vec<Rule> {
        let mut out = Vec::new();
        for (index, spec) in rules.unwrap_or_default().iter().enumerate() {
            let before = problems.0.len();
            let rule = self.rule(&format!("{field}[{index}]"), spec, problems);
            if problems.0.len() == before {
                out.push(rule);
            } else if matches!(rule.action, Action::Deny | Action::Pass) {
                out.push(Rule::any(Action::Deny));
            }
        }
        out
    }

    fn rule(&self, field: &str, spec: &crd::RuleSpec, problems: &mut Problems) -> Rule {
        if spec.http.is_some() {
            problems.add(format!("{field}.http"), "is not acted upon by this release");
        }
        let protocol = protocol(problems, &format!("{field}.protocol"), spec.protocol.as_ref());
        let rule = Rule {
            action: action(spec.action),
            family: family(problems, field, spec),
            protocol,
            not_protocol: self::protocol(
                problems,
                &format!("{field}.notProtocol"),
                spec.not_protocol.as_ref(),
            ),
            icmp: icmp(problems, &format!("{field}.icmp"), spec.icmp.as_ref()),
            not_icmp: icmp(problems, &format!("{field}.notICMP"), spec.not_icmp.as_ref()),
            source: self.entity(&format!("{field}.source"), spec.source.as_ref(), problems),
            destination: self.entity(&format!("{field}.destination"), spec.destination.as_ref(), problems),
            annotations: Vec::new(),
        };
        for (side, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
            let numeric =
                entity.ports.iter().chain(&entity.not_ports).any(|port| matches!(port, PortMatch::Range(_)));
            if numeric && !protocol.is_some_and(Protocol::has_ports) {
                problems.add(format!("{field}.{side}.ports"), "ports need protocol TCP, UDP or SCTP");
            }
        }
        rule
    }

    fn entity(&self, field: &str, spec: Option<&crd::EntityRuleSpec>, problems: &mut Problems) -> EntityRule {
        let Some(spec) = spec else { return EntityRule::default() };
        if spec.services.is_some() {
            problems.add(format!("{field}.services"), "is not acted upon by this release");
        }
        let mut list = |name: &str, texts: &Option<Vec<String>>| {
            let nets = texts.iter().flatten().enumerate();
            nets.filter_map(|(i, text)| problems.take(&format!("{field}.{name}[{i}]"), net(text))).collect()
        };
        let (nets, not_nets) = (list("nets", &spec.nets), list("notNets", &spec.not_nets));
        let mut ports = |name: &str, values: &Option<Vec<crd::PortValue>>| {
            let values = values.iter().flatten().enumerate();
            values
                .filter_map(|(i, port)| problems.take(&format!("{field}.{name}[{i}]"), port.0.parse()))
                .collect()
        };
        let (ports, not_ports) = (ports("ports", &spec.ports), ports("notPorts", &spec.not_ports));
        EntityRule {
            nets,
            not_nets,
            ports,
            not_ports,
            selector: self.selector(field, spec, problems).unwrap_or_default(),
            not_selector: selector(problems, &format!("{field}.notSelector"), spec.not_selector.as_deref())
                .unwrap_or_default(),
            service: None,
        }
    }

    /// What selects endpoints: labels, namespaces and service accounts, ANDed.
    fn selector(
        &self,
        field: &str,
        spec: &crd::EntityRuleSpec,
        problems: &mut Problems,
    ) -> Result<Option<Selector>, ()> {
        let mut parts = Vec::new();
        parts.extend(selector(problems, &format!("{field}.selector"), spec.selector.as_deref())?);
        // `all()` falls out of a conjunction, but it has to bring in the namespace.
        let mut selects = spec.selector.as_deref().is_some_and(|text| !text.trim().is_empty())
            || spec.not_selector.as_deref().is_some_and(|text| !text.trim().is_empty());
        if let Some(accounts) = &spec.service_accounts {
            let names = accounts.names.as_deref().unwrap_or_default();
            if !names.is_empty() {
                let names = Selector::is_in(SERVICE_ACCOUNT, names.iter().map(String::as_str));
                parts.push(problems.take(&format!("{field}.serviceAccounts.names"), names).ok_or(())?);
                selects = true;
            }
            let of = format!("{field}.serviceAccounts.selector");
            if let Some(accounts) = selector(problems, &of, accounts.selector.as_deref())? {
                parts.push(problems.take(&of, with_service_account(&accounts)).ok_or(())?);
                selects = true;
            }
        }
        let of = format!("{field}.namespaceSelector");
        match (selector(problems, &of, spec.namespace_selector.as_deref())?, self.own_namespace) {
            (Some(namespaces), _) => parts.push(problems.take(&of, in_namespaces(&namespaces)).ok_or(())?),
            (None, Some(own)) if selects => parts.push(own.clone()),
            (None, _) => {}
        }
        // Of no parts remain: nothing that selects, or a lone `all()`.
        let is_all = spec.selector.as_deref().is_some_and(|text| !text.trim().is_empty());
        Ok((is_all || !parts.is_empty()).then(|| Selector::and(parts)))
    }
}

fn action(action: crd::RuleAction) -> Action {
    match action {
        crd::RuleAction::Allow => Action::Allow,
        crd::RuleAction::Deny => Action::Deny,
        crd::RuleAction::Log => Action::Log,
        crd::RuleAction::Pass => Action::Pass,
    }
}

fn family(problems: &mut Problems, field: &str, spec: &crd::RuleSpec) -> Option<Family> {
    match spec.ip_version? {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        other => {
            problems.add(format!("{field}.ipVersion"), format!("{other} is neither 4 nor 6"));
            None
        }
    }
}

fn protocol(problems: &mut Problems, field: &str, value: Option<&crd::ProtocolValue>) -> Option<Protocol> {
    value.and_then(|value| problems.take(field, value.0.parse()))
}

fn icmp(problems: &mut Problems, field: &str, spec: Option<&crd::IcmpSpec>) -> Option<IcmpMatch> {
    let spec = spec?;
    let byte =
        |number: i32| u8::try_from(number).map_err(|_| format!("{number} is not an ICMP type or code"));
    match (spec.type_, spec.code) {
        (None, None) => None,
        (None, Some(_)) => {
            problems.add(field, "code needs type");
            None
        }
        (Some(kind), code) => {
            let kind = problems.take(field, byte(kind))?;
            let code = match code {
                Some(code) => Some(problems.take(field, byte(code))?),
                None => None,
            };
            Some(IcmpMatch { kind, code })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn np(spec: Value) -> (Option<Policy>, Vec<String>) {
        let mut problems = Problems::default();
        let policy = network_policy("dev", "p", &serde_json::from_value(spec).unwrap(), &mut problems);
        (policy, problems.0.into_iter().map(|problem| problem.field).collect())
    }

    fn gnp(spec: Value) -> (Option<Policy>, Vec<String>) {
        let mut problems = Problems::default();
        let policy = global_network_policy("p", &serde_json::from_value(spec).unwrap(), &mut problems);
        (policy, problems.0.into_iter().map(|problem| problem.field).collect())
    }

    fn canonical(text: &str) -> String {
        text.parse::<Selector>().unwrap().to_string()
    }

    /// Selector of the source of the first ingress rule.
    fn source(policy: (Option<Policy>, Vec<String>)) -> Option<String> {
        assert_eq!(policy.1, [""; 0]);
        policy.0.unwrap().ingress[0].source.selector.as_ref().map(Selector::to_string)
    }

    #[test]
    fn a_network_policy_is_scoped_to_its_namespace() {
        let (policy, _) = np(json!({"selector": "role == 'db'"}));
        let expected = canonical("role == 'db' && projectcalico.org/namespace == 'dev'");
        assert_eq!(policy.unwrap().selector.to_string(), expected);

        let (policy, _) = np(json!({"serviceAccountSelector": "all()"}));
        let expected =
            canonical("has(projectcalico.org/serviceaccount) && projectcalico.org/namespace == 'dev'");
        assert_eq!(policy.unwrap().selector.to_string(), expected);
    }

    #[test]
    fn only_what_selects_is_scoped() {
        let rule = |entity: Value| np(json!({"ingress": [{"action": "Allow", "source": entity}]}));

        let own = "projectcalico.org/namespace == \"dev\"";
        assert_eq!(source(rule(json!({"selector": "a=='b'"}))), Some(canonical(&format!("a=='b' && {own}"))));
        assert_eq!(source(rule(json!({"selector": "all()"}))), Some(canonical(own)));
        assert_eq!(source(rule(json!({"notSelector": "a=='b'"}))), Some(canonical(own)));
        assert_eq!(source(rule(json!({"nets": ["10.0.0.0/8"]}))), None);
        assert_eq!(
            source(rule(json!({"namespaceSelector": "team == 'x'"}))),
            Some(canonical("pcns.team == 'x'"))
        );
        let anywhere = canonical("has(projectcalico.org/namespace)");
        assert_eq!(source(rule(json!({"namespaceSelector": "all()"}))), Some(anywhere.clone()));
        let nowhere = Selector::has(NAMESPACE).unwrap().negated().to_string();
        assert_eq!(source(rule(json!({"namespaceSelector": "global()"}))), Some(nowhere));
        assert_eq!(
            source(rule(json!({"serviceAccounts": {"names": ["s1"], "selector": "r == 'y'"}}))),
            Some(canonical(&format!(
                "projectcalico.org/serviceaccount in {{'s1'}} && pcsa.r == 'y' && {own}"
            )))
        );
    }

    #[test]
    fn a_global_policy_has_no_namespace_of_its_own() {
        let rule = |entity: Value| gnp(json!({"ingress": [{"action": "Allow", "source": entity}]}));

        assert_eq!(source(rule(json!({"selector": "a=='b'"}))), Some(canonical("a=='b'")));
        assert_eq!(source(rule(json!({"selector": "all()"}))), Some("all()".to_owned()));
        assert_eq!(source(rule(json!({"notSelector": "a=='b'"}))), None);
        let (policy, _) = gnp(json!({"selector": "a=='b'", "namespaceSelector": "team == 'x'"}));
        assert_eq!(policy.unwrap().selector.to_string(), canonical("a=='b' && pcns.team == 'x'"));
    }

    #[test]
    fn types_follow_the_rules() {
        let rule = json!([{"action": "Allow"}]);
        for (spec, expected) in [
            (json!({}), (true, false)),
            (json!({"ingress": rule}), (true, false)),
            (json!({"egress": rule}), (false, true)),
            (json!({"ingress": rule, "egress": rule}), (true, true)),
            (json!({"types": ["Egress"], "ingress": rule}), (false, true)),
        ] {
            let policy = np(spec.clone()).0.unwrap();

            assert_eq!((policy.applies_to_ingress, policy.applies_to_egress), expected, "{spec}");
        }
    }

    #[test]
    fn everything_a_rule_can_say_is_kept() {
        let (policy, problems) = gnp(json!({"tier": "t", "order": 5.5, "egress": [{
            "action": "Pass", "ipVersion": 6, "protocol": 17, "notProtocol": "TCP",
            "notICMP": {"type": 8, "code": 0},
            "source": {"notNets": ["10.0.0.1"], "notPorts": [80, "90:91"]},
            "destination": {"ports": ["http", 53], "notSelector": "x == 'y'"},
        }]}));

        assert_eq!(problems, [""; 0]);
        let policy = policy.unwrap();
        assert_eq!((&*policy.tier, policy.order), ("t", Some(5.5)));
        let rule = &policy.egress[0];
        assert_eq!((rule.action, rule.family), (Action::Pass, Some(Family::V6)));
        assert_eq!((rule.protocol, rule.not_protocol), (Some(Protocol::UDP), Some(Protocol::TCP)));
        assert_eq!(rule.not_icmp, Some(IcmpMatch { kind: 8, code: Some(0) }));
        assert_eq!(rule.source.not_nets, ["10.0.0.1/32".parse().unwrap()]);
        assert_eq!(rule.source.not_ports, ["80".parse().unwrap(), "90:91".parse().unwrap()]);
        assert_eq!(rule.destination.ports, ["http".parse().unwrap(), "53".parse().unwrap()]);
        assert!(rule.destination.not_selector.is_some());
    }

    #[test]
    fn a_rule_that_is_not_understood_closes() {
        for part in [
            json!({"source": {"selector": "(a == 'b'"}}),
            json!({"source": {"nets": ["10.0.0.0/40"]}}),
            json!({"source": {"ports": [80]}}),
            json!({"protocol": "ICMP", "destination": {"ports": [80]}}),
            json!({"destination": {"services": {"name": "web"}}}),
            json!({"http": {"methods": ["GET"]}}),
            json!({"icmp": {"code": 1}}),
        ] {
            for (action, expected) in
                [("Allow", vec![]), ("Log", vec![]), ("Deny", vec![Rule::any(Action::Deny)])]
            {
                let mut rule = part.clone();
                rule["action"] = json!(action);

                let (policy, problems) = np(json!({"ingress": [rule]}));

                assert_eq!(policy.unwrap().ingress, expected, "{action} {part}");
                assert_eq!(problems.len(), 1, "{problems:?}");
            }
        }
    }

    #[test]
    fn a_policy_whose_selector_is_not_understood_is_gone_and_named() {
        assert_eq!(np(json!({"selector": "(a == 'b'"})), (None, vec!["spec.selector".to_owned()]));
        assert_eq!(gnp(json!({"doNotTrack": true})), (None, vec!["spec.doNotTrack".to_owned()]));
    }
}
