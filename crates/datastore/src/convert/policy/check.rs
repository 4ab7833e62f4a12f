//! What a policy may not say although each of its fields makes sense (`spec/control.md` §1.4, §1.10).

use std::collections::BTreeSet;

use model::{Action, EntityRule, Family, PortMatch, Protocol, Rule};

use super::super::Problems;
use crate::crd;

/// At which points of a packet's way through the host a global policy stands.
pub(super) struct Stages {
    pub(super) do_not_track: bool,
    pub(super) pre_dnat: bool,
    pub(super) apply_on_forward: bool,
}

/// `None` when doNotTrack and preDNAT are both said: nobody knows where it is to stand. What stands before
/// connection tracking or destination NAT sees forwarded packets, whether or not applyOnForward is said.
pub(super) fn stages(spec: &crd::GlobalNetworkPolicySpec, problems: &mut Problems) -> Option<Stages> {
    let is = |flag: Option<bool>| flag.unwrap_or(false);
    let (do_not_track, pre_dnat) = (is(spec.do_not_track), is(spec.pre_dnat));
    let apply_on_forward = is(spec.apply_on_forward);
    if do_not_track && pre_dnat {
        problems.add("spec.preDNAT", "doNotTrack and preDNAT exclude each other");
        return None;
    }
    if (do_not_track || pre_dnat) && !apply_on_forward {
        problems.add("spec.applyOnForward", "doNotTrack and preDNAT need applyOnForward");
    }
    let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())
        || spec.types.as_ref().is_some_and(|types| types.contains(&crd::PolicyType::Egress));
    if pre_dnat && has_egress {
        problems.add("spec.egress", "a preDNAT policy is for ingress only");
    }
    let apply_on_forward = apply_on_forward || do_not_track || pre_dnat;
    Some(Stages { do_not_track, pre_dnat, apply_on_forward })
}

/// What all of Calico's policies have.
pub(super) fn common(tier: &str, types: Option<&[crd::PolicyType]>, problems: &mut Problems) {
    if !tier.is_empty() {
        tier_name("spec.tier", tier, problems);
    }
    let types = types.unwrap_or_default();
    if types.iter().enumerate().any(|(i, kind)| types[..i].contains(kind)) {
        problems.add("spec.types", "a type is given twice");
    }
}

/// The name of a tier is a DNS label.
pub(super) fn tier_name(field: &str, name: &str, problems: &mut Problems) {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = (1..=63).contains(&name.len())
        && name.chars().all(is_plain)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_label {
        problems.add(
            field,
            format!("{name:?} is not the name of a tier: up to 63 of a-z, 0-9 and -, without a dot"),
        );
    }
}

/// A staged policy that deletes says nothing else.
pub(super) fn staged_deletion(action: crd::StagedAction, is_empty: bool, problems: &mut Problems) {
    if action == crd::StagedAction::Delete && !is_empty {
        problems.add("spec.stagedAction", "a policy that stages a deletion says nothing but its tier");
    }
}

/// What the parts of one rule, each understood, may not say together.
pub(super) fn rule(field: &str, rule: &Rule, problems: &mut Problems) {
    for (side, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
        ports(&format!("{field}.{side}"), rule, entity, problems);
        for (index, net) in entity.not_nets.iter().enumerate() {
            if net.length() == 0 {
                problems
                    .add(format!("{field}.{side}.notNets[{index}]"), format!("{net} excludes every address"));
            }
        }
    }
    families(field, rule, problems);
}

/// Ports need a protocol that has them; names of ports say their protocol themselves.
fn ports(field: &str, rule: &Rule, entity: &EntityRule, problems: &mut Problems) {
    for (name, ports) in [("ports", &entity.ports), ("notPorts", &entity.not_ports)] {
        let numeric = ports.iter().any(|port| matches!(port, PortMatch::Range(_)));
        let refused = match rule.protocol {
            Some(protocol) => !ports.is_empty() && !protocol.has_ports(),
            None => numeric,
        };
        if refused {
            problems.add(format!("{field}.{name}"), "ports need protocol TCP, UDP or SCTP");
        }
    }
}

/// Addresses, ipVersion and ICMP of a rule are of one family.
fn families(field: &str, rule: &Rule, problems: &mut Problems) {
    let entities = [&rule.source, &rule.destination];
    let nets = entities.into_iter().flat_map(|entity| entity.nets.iter().chain(&entity.not_nets));
    let of_nets: BTreeSet<Family> = nets.map(|net| net.family()).collect();
    if of_nets.len() > 1 {
        problems.add(field, "IPv4 and IPv6 nets stand in one rule");
        return;
    }
    let of_protocol = match rule.protocol {
        Some(Protocol::ICMP) => Some(Family::V4),
        Some(Protocol::ICMPV6) => Some(Family::V6),
        _ => None,
    };
    let of_nets = of_nets.into_iter().next();
    let said = [(rule.family, "ipVersion"), (of_protocol, "protocol"), (of_nets, "nets")];
    let mut first: Option<(Family, &str)> = None;
    for (family, name) in said {
        match (first, family) {
            (None, Some(family)) => first = Some((family, name)),
            (Some((before, of)), Some(family)) if before != family => {
                problems.add(field, format!("{of} means {before}, {name} means {family}"));
                return;
            }
            _ => {}
        }
    }
}

/// `http` is understood by no kernel; what is wrong with it besides is said, too.
pub(super) fn http(
    field: &str,
    http: &crd::HttpSpec,
    action: Action,
    ingress: bool,
    problems: &mut Problems,
) {
    let of = format!("{field}.http");
    if action != Action::Allow || !ingress {
        problems.add(of, "is for ingress rules that allow");
        return;
    }
    let methods = http.methods.as_deref().unwrap_or_default();
    if let Some(twice) = methods.iter().enumerate().find(|(i, method)| methods[..*i].contains(method)) {
        problems.add(format!("{of}.methods[{}]", twice.0), format!("{:?} is given twice", twice.1));
        return;
    }
    problems.warn(of, "is not acted upon: the rule allows nothing");
}
