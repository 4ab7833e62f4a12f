//! Rules whose selectors, named ports and Services become IP sets (`spec/felix.md` §7.2).

use std::collections::BTreeMap;

use model::{EntityRule, Policy, PortMatch, Protocol, Rule, Selector};

use crate::set_definition::SetDefinition;
use crate::{ActiveEntity, ActivePolicy, ActiveRule, SetId};

/// The sets that a policy or profile refers to.
pub(crate) type References = BTreeMap<SetId, SetDefinition>;

pub(crate) fn resolve_policy(policy: &Policy) -> (ActivePolicy, References) {
    let mut references = References::new();
    let mut rules = |applies: bool, rules: &[Rule]| {
        if applies { resolve_rules(rules, &mut references) } else { Vec::new() }
    };
    let active = ActivePolicy {
        key: policy.key.clone(),
        tier: policy.tier.clone(),
        selector: policy.selector.clone(),
        ingress: rules(policy.applies_to_ingress, &policy.ingress),
        egress: rules(policy.applies_to_egress, &policy.egress),
        do_not_track: policy.do_not_track,
        pre_dnat: policy.pre_dnat,
        generation: policy.generation,
        uid: policy.uid.clone(),
    };
    (active, references)
}

pub(crate) fn resolve_rules(rules: &[Rule], references: &mut References) -> Vec<ActiveRule> {
    rules.iter().map(|rule| resolve_rule(rule, references)).collect()
}

fn resolve_rule(rule: &Rule, references: &mut References) -> ActiveRule {
    ActiveRule {
        action: rule.action,
        family: rule.family,
        protocol: rule.protocol,
        not_protocol: rule.not_protocol,
        icmp: rule.icmp,
        not_icmp: rule.not_icmp,
        source: resolve_entity(&rule.source, rule.protocol, Side::Source, references),
        destination: resolve_entity(&rule.destination, rule.protocol, Side::Destination, references),
        annotations: rule.annotations.clone(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

fn resolve_entity(
    entity: &EntityRule,
    protocol: Option<Protocol>,
    side: Side,
    references: &mut References,
) -> ActiveEntity {
    let mut set = |definition: SetDefinition| {
        let id = definition.id();
        references.insert(id.clone(), definition);
        id
    };
    if let Some(service) = &entity.service {
        let ports = side == Side::Destination;
        let id = set(SetDefinition::Service { service: service.clone(), ports });
        return match side {
            Side::Source => ActiveEntity { set: Some(id), ..ActiveEntity::default() },
            Side::Destination => ActiveEntity { service: Some(id), ..ActiveEntity::default() },
        };
    }
    // One set for what matches the one and not the other: one lookup a packet instead of two.
    let (selector, not_selector) = match (&entity.selector, &entity.not_selector) {
        (Some(selector), Some(not)) => (Some(Selector::and([selector.clone(), not.negated()])), None),
        (selector, not) => (selector.clone(), not.clone()),
    };
    let mut named = |ports: &[PortMatch], selector: &Selector| -> Vec<SetId> {
        let names = ports.iter().filter_map(|port| match port {
            PortMatch::Named(name) => Some(name.clone()),
            PortMatch::Range(_) => None,
        });
        names
            .map(|name| set(SetDefinition::NamedPort { selector: selector.clone(), protocol, name }))
            .collect()
    };
    let ranges = |ports: &[PortMatch]| {
        let ranges = ports.iter().filter_map(|port| match port {
            PortMatch::Range(range) => Some(*range),
            PortMatch::Named(_) => None,
        });
        ranges.collect::<Vec<_>>()
    };
    let named_ports = named(&entity.ports, selector.as_ref().unwrap_or(&Selector::all()));
    let not_named_ports = named(&entity.not_ports, &Selector::all());
    let ports = ranges(&entity.ports);
    // A set of named ports holds only what the selector matches.
    let selector = selector.filter(|_| named_ports.is_empty() || !ports.is_empty());
    ActiveEntity {
        nets: entity.nets.clone(),
        not_nets: entity.not_nets.clone(),
        set: selector.map(|selector| set(SetDefinition::Selector(selector))),
        not_set: not_selector.map(|selector| set(SetDefinition::Selector(selector))),
        ports,
        named_ports,
        not_ports: ranges(&entity.not_ports),
        not_named_ports,
        service: None,
    }
}
