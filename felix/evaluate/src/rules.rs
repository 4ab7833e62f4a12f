//! Does a rule match a packet? (`spec/felix.md` §7.2, `spec/control.md` §2.2)

use std::net::IpAddr;

use model::{Action, EndpointPort, EntityRule, Family, IcmpMatch, PortMatch, Protocol, Rule, Selector};

use crate::{Packet, State, labels};

/// One side of a packet, as a rule asks for it.
struct Seen {
    address: IpAddr,
    protocol: Protocol,
    port: u16,
}

/// What selectors are about: its labels, addresses and named ports.
pub(crate) struct Selectable {
    labels: model::Labels,
    addresses: Vec<IpAddr>,
    ports: Vec<EndpointPort>,
}

/// All that a rule sets must match.
pub(crate) fn matches(everything: &[Selectable], rule: &Rule, packet: &Packet) -> bool {
    let source = Seen { address: packet.from.address, protocol: packet.protocol, port: packet.source_port };
    let destination =
        Seen { address: packet.to.address, protocol: packet.protocol, port: packet.destination_port };
    rule.family.is_none_or(|family| family == packet.family())
        && rule.protocol.is_none_or(|protocol| protocol == packet.protocol && exists_in(protocol, packet))
        && rule.not_protocol.is_none_or(|protocol| protocol != packet.protocol)
        && icmp_matches(rule, packet)
        && entity_matches(everything, rule, &rule.source, &source)
        && entity_matches(everything, rule, &rule.destination, &destination)
}

/// ICMP is of IPv4 and ICMPv6 of IPv6.
fn exists_in(protocol: Protocol, packet: &Packet) -> bool {
    match protocol {
        Protocol::ICMP => packet.family() == Family::V4,
        Protocol::ICMPV6 => packet.family() == Family::V6,
        _ => true,
    }
}

/// A rule that speaks of ICMP speaks of ICMP packets only, also where it says which type it is not.
fn icmp_matches(rule: &Rule, packet: &Packet) -> bool {
    if rule.icmp.is_none() && rule.not_icmp.is_none() {
        return true;
    }
    let Some((kind, code)) = packet.icmp.filter(|_| is_icmp(packet)) else { return false };
    let is = |wanted: IcmpMatch| wanted.kind == kind && wanted.code.is_none_or(|wanted| wanted == code);
    rule.icmp.is_none_or(is) && !rule.not_icmp.is_some_and(is)
}

fn is_icmp(packet: &Packet) -> bool {
    matches!(packet.protocol, Protocol::ICMP | Protocol::ICMPV6) && exists_in(packet.protocol, packet)
}

fn entity_matches(everything: &[Selectable], rule: &Rule, entity: &EntityRule, seen: &Seen) -> bool {
    let in_any = |nets: &[model::Cidr]| nets.iter().any(|net| net.contains(seen.address));
    (entity.nets.is_empty() || in_any(&entity.nets))
        && !in_any(&entity.not_nets)
        && selectors_match(everything, entity, seen)
        && ports_match(everything, rule, entity, seen)
}

/// A selector is about addresses: it matches that of anything that has the labels.
fn selectors_match(everything: &[Selectable], entity: &EntityRule, seen: &Seen) -> bool {
    let belongs_to = |test: &dyn Fn(&Selectable) -> bool| {
        everything.iter().any(|one| one.addresses.contains(&seen.address) && test(one))
    };
    match (&entity.selector, &entity.not_selector) {
        (None, None) => true,
        (Some(selector), None) => belongs_to(&|one| selector.matches(&one.labels)),
        (None, Some(not)) => !belongs_to(&|one| not.matches(&one.labels)),
        (Some(_), Some(_)) => belongs_to(&|one| is_selected(entity, one)),
    }
}

fn is_selected(entity: &EntityRule, one: &Selectable) -> bool {
    let test = |selector: &Selector| selector.matches(&one.labels);
    entity.selector.as_ref().is_none_or(test) && !entity.not_selector.as_ref().is_some_and(test)
}

/// A number needs a protocol that has ports. The API refuses a rule without; should one come through, it
/// allows nothing, and denies every port.
fn ports_match(everything: &[Selectable], rule: &Rule, entity: &EntityRule, seen: &Seen) -> bool {
    let is_numeric = |port: &PortMatch| matches!(port, PortMatch::Range(_));
    let any_numeric = [&rule.source, &rule.destination]
        .into_iter()
        .any(|entity| entity.ports.iter().chain(&entity.not_ports).any(is_numeric));
    let has_ports = |protocol: Protocol| protocol.has_ports() || protocol == Protocol::UDPLITE;
    if any_numeric && !rule.protocol.is_some_and(has_ports) {
        return rule.action == Action::Deny;
    }
    let is_one = |port: &PortMatch, entity: &EntityRule| match port {
        PortMatch::Range(range) => range.contains(seen.port),
        PortMatch::Named(name) => is_named(everything, rule, entity, name, seen),
    };
    let everyone = EntityRule::default();
    (entity.ports.is_empty() || entity.ports.iter().any(|port| is_one(port, entity)))
        && !entity.not_ports.iter().any(|port| is_one(port, &everyone))
}

/// Does the address belong to something selected that declares the port under this name?
fn is_named(everything: &[Selectable], rule: &Rule, entity: &EntityRule, name: &str, seen: &Seen) -> bool {
    everything.iter().filter(|one| one.addresses.contains(&seen.address)).any(|one| {
        let declared = one.ports.iter().any(|port| {
            port.name == name
                && port.port == seen.port
                && port.protocol == seen.protocol
                && rule.protocol.is_none_or(|protocol| protocol == port.protocol)
        });
        declared && is_selected(entity, one)
    })
}

/// Everything that selectors are tried on, cluster-wide.
pub(crate) fn selectables(state: &State) -> Vec<Selectable> {
    let pods = state.pods.values().filter(|pod| !pod.host_network);
    pods.map(|pod| Selectable {
        labels: labels::of_pod(state, pod),
        addresses: pod.addresses.clone(),
        ports: pod.ports.clone(),
    })
    .collect()
}
