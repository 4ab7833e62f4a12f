//! Rules of Calico's policies and profiles.
//!
//! A rule of a NetworkPolicy that selects, selects in its own namespace unless it says otherwise. A rule that
//! cannot be understood whole is left out when it allows or logs; when it denies or passes it denies
//! everything instead.

use model::{Action, EntityRule, Family, IcmpMatch, ObjectKey, Protocol, Rule, Selector};

use super::super::{Problems, entity_namespaces, net, selector};
use super::check;
use super::scope::{SERVICE_ACCOUNT, in_namespaces, with_service_account};
use crate::crd;

/// Converts rules of one policy or profile.
pub(in crate::convert) struct Rules<'a> {
    /// Name and selector; set for a policy in a namespace.
    pub(in crate::convert) own_namespace: Option<(&'a str, &'a Selector)>,
}

/// Which list a rule stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Ingress,
    Egress,
}

impl Rules<'_> {
    /// The ingress rules that are in force.
    pub(in crate::convert) fn ingress(
        &self,
        field: &str,
        rules: Option<&[crd::RuleSpec]>,
        problems: &mut Problems,
    ) -> Vec<Rule> {
        self.convert(field, List::Ingress, rules, problems)
    }

    /// The egress rules that are in force.
    pub(in crate::convert) fn egress(
        &self,
        field: &str,
        rules: Option<&[crd::RuleSpec]>,
        problems: &mut Problems,
    ) -> Vec<Rule> {
        self.convert(field, List::Egress, rules, problems)
    }

    fn convert(
        &self,
        field: &str,
        list: List,
        rules: Option<&[crd::RuleSpec]>,
        problems: &mut Problems,
    ) -> Vec<Rule> {
        let mut out = Vec::new();
        for (index, spec) in rules.unwrap_or_default().iter().enumerate() {
            let before = problems.0.len();
            let rule = self.rule(&format!("{field}[{index}]"), list, spec, problems);
            if problems.0.len() == before {
                out.push(rule);
            } else if matches!(rule.action, Action::Deny | Action::Pass) {
                out.push(Rule::any(Action::Deny));
            }
        }
        out
    }

    fn rule(&self, field: &str, list: List, spec: &crd::RuleSpec, problems: &mut Problems) -> Rule {
        let before = problems.0.len();
        let action = action(spec.action);
        if let Some(http) = &spec.http {
            check::http(field, http, action, list == List::Ingress, problems);
        }
        self.services(field, list, spec, problems);
        let not_protocol = protocol(problems, &format!("{field}.notProtocol"), spec.not_protocol.as_ref());
        let rule = Rule {
            action,
            family: family(problems, field, spec),
            protocol: protocol(problems, &format!("{field}.protocol"), spec.protocol.as_ref()),
            not_protocol,
            icmp: icmp(problems, &format!("{field}.icmp"), spec.icmp.as_ref()),
            not_icmp: icmp(problems, &format!("{field}.notICMP"), spec.not_icmp.as_ref()),
            source: self.entity(&format!("{field}.source"), spec.source.as_ref(), problems),
            destination: self.entity(&format!("{field}.destination"), spec.destination.as_ref(), problems),
            annotations: annotations(spec),
        };
        if problems.0.len() == before {
            check::rule(field, &rule, problems);
        }
        rule
    }

    fn entity(&self, field: &str, spec: Option<&crd::EntityRuleSpec>, problems: &mut Problems) -> EntityRule {
        let Some(spec) = spec else { return EntityRule::default() };
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
            service: spec.services.as_ref().and_then(|of| {
                let own = self.own_namespace.map(|(namespace, _)| namespace);
                Some(ObjectKey::new(of.namespace.as_deref().or(own)?, of.name.as_deref()?))
            }),
        }
    }

    /// Where `services` may stand, and what may stand beside it.
    fn services(&self, field: &str, list: List, spec: &crd::RuleSpec, problems: &mut Problems) {
        let sides =
            [("source", &spec.source, List::Ingress), ("destination", &spec.destination, List::Egress)];
        for (side, entity, only_in) in sides {
            let Some(entity) = entity else { continue };
            let Some(services) = &entity.services else { continue };
            let of = format!("{field}.{side}.services");
            if list != only_in {
                problems.add(of, "is for the source of ingress rules and the destination of egress rules");
                continue;
            }
            let beside = [
                ("selector", entity.selector.is_some()),
                ("notSelector", entity.not_selector.is_some()),
                ("namespaceSelector", entity.namespace_selector.is_some()),
                ("serviceAccounts", entity.service_accounts.is_some()),
                ("nets", entity.nets.is_some()),
                ("notNets", entity.not_nets.is_some()),
                ("ports", list == List::Egress && entity.ports.is_some()),
                ("notPorts", list == List::Egress && entity.not_ports.is_some()),
            ];
            if let Some((name, _)) = beside.iter().find(|(_, is_there)| *is_there) {
                problems.add(of, format!("excludes {name}"));
            } else if services.name.as_deref().unwrap_or_default().is_empty() {
                problems.add(format!("{of}.name"), "is needed");
            } else if self.own_namespace.is_none()
                && services.namespace.as_deref().unwrap_or_default().is_empty()
            {
                problems.add(format!("{of}.namespace"), "is needed where the policy has no namespace");
            }
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
        match (entity_namespaces(problems, &of, spec.namespace_selector.as_deref())?, self.own_namespace) {
            (Some(namespaces), _) => parts.push(problems.take(&of, in_namespaces(&namespaces)).ok_or(())?),
            (None, Some((_, own))) if selects => parts.push(own.clone()),
            (None, _) => {}
        }
        // Of no parts remain: nothing that selects, or a lone `all()`.
        let is_all = spec.selector.as_deref().is_some_and(|text| !text.trim().is_empty());
        Ok((is_all || !parts.is_empty()).then(|| Selector::and(parts)))
    }
}

fn annotations(spec: &crd::RuleSpec) -> Vec<(std::sync::Arc<str>, std::sync::Arc<str>)> {
    let all = spec.metadata.iter().flat_map(|metadata| metadata.annotations.iter().flatten());
    all.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
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
        // The kernel has no match for it.
        (Some(255), _) => {
            problems.add(format!("{field}.type"), "255 is not an ICMP type");
            None
        }
        (Some(kind), code) => {
            let kind = problems.take(&format!("{field}.type"), byte(kind))?;
            let code = match code {
                Some(code) => Some(problems.take(&format!("{field}.code"), byte(code))?),
                None => None,
            };
            Some(IcmpMatch { kind, code })
        }
    }
}
