//! Does a rule match a packet? (`spec/felix.md` §7.2, `spec/control.md` §2.2)

use std::net::IpAddr;

use model::{
    Action, Cidr, EndpointPort, EndpointSlice, EntityRule, Family, IcmpMatch, ObjectKey, PortMatch, Protocol,
    Rule, Selector,
};

use crate::{Packet, State, labels};

/// What the rules of policies refer to, cluster-wide.
pub(crate) struct Cluster {
    selectables: Vec<Selectable>,
    slices: Vec<EndpointSlice>,
}

/// One side of a packet, as a rule asks for it.
struct Seen {
    side: SideOf,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
}

/// What selectors are about: its labels, addresses and named ports.
struct Selectable {
    labels: model::Labels,
    nets: Vec<Cidr>,
    ports: Vec<EndpointPort>,
}

/// All that a rule sets must match.
pub(crate) fn matches(cluster: &Cluster, rule: &Rule, packet: &Packet) -> bool {
    let protocol = packet.protocol;
    let source =
        Seen { side: SideOf::Source, address: packet.from.address, protocol, port: packet.source_port };
    let destination = Seen {
        side: SideOf::Destination,
        address: packet.to.address,
        protocol,
        port: packet.destination_port,
    };
    rule.family.is_none_or(|family| family == packet.family())
        && rule.protocol.is_none_or(|protocol| protocol == packet.protocol && exists_in(protocol, packet))
        && rule.not_protocol.is_none_or(|protocol| protocol != packet.protocol)
        && icmp_matches(rule, packet)
        && entity_matches(cluster, rule, &rule.source, &source)
        && entity_matches(cluster, rule, &rule.destination, &destination)
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

/// Which side an entity rule is about: a Service's ports count where packets go to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SideOf {
    Source,
    Destination,
}

fn entity_matches(cluster: &Cluster, rule: &Rule, entity: &EntityRule, seen: &Seen) -> bool {
    if let Some(service) = &entity.service {
        return is_of_service(cluster, service, seen);
    }
    let in_any = |nets: &[model::Cidr]| nets.iter().any(|net| net.contains(seen.address));
    (entity.nets.is_empty() || in_any(&entity.nets))
        && !in_any(&entity.not_nets)
        && selectors_match(cluster, entity, seen)
        && ports_match(cluster, rule, entity, seen)
}

/// An endpoint of the Service: where packets go to, on one of the ports that it listens on.
fn is_of_service(cluster: &Cluster, service: &ObjectKey, seen: &Seen) -> bool {
    cluster.slices.iter().any(|slice| {
        let is_its = slice.key.namespace == service.namespace && slice.service == service.name;
        let listens = slice.ports.iter().any(|port| port.protocol == seen.protocol && port.port == seen.port);
        is_its && slice.addresses.contains(&seen.address) && (seen.side == SideOf::Source || listens)
    })
}

/// A selector is about addresses: it matches that of anything that has the labels.
fn selectors_match(cluster: &Cluster, entity: &EntityRule, seen: &Seen) -> bool {
    let belongs_to = |test: &dyn Fn(&Selectable) -> bool| {
        cluster.selectables.iter().any(|one| one.contains(seen.address) && test(one))
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
fn ports_match(cluster: &Cluster, rule: &Rule, entity: &EntityRule, seen: &Seen) -> bool {
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
        PortMatch::Named(name) => is_named(cluster, rule, entity, name, seen),
    };
    let everyone = EntityRule::default();
    (entity.ports.is_empty() || entity.ports.iter().any(|port| is_one(port, entity)))
        && !entity.not_ports.iter().any(|port| is_one(port, &everyone))
}

/// Does the address belong to something selected that declares the port under this name?
fn is_named(cluster: &Cluster, rule: &Rule, entity: &EntityRule, name: &str, seen: &Seen) -> bool {
    cluster.selectables.iter().filter(|one| one.contains(seen.address)).any(|one| {
        let declared = one.ports.iter().any(|port| {
            port.name == name
                && port.port == seen.port
                && port.protocol == seen.protocol
                && rule.protocol.is_none_or(|protocol| protocol == port.protocol)
        });
        declared && is_selected(entity, one)
    })
}

impl Selectable {
    fn contains(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(address))
    }
}

impl Cluster {
    pub(crate) fn new(state: &State) -> Self {
        let hosts = |addresses: &[IpAddr]| addresses.iter().copied().map(Cidr::host).collect();
        let mut selectables = Vec::new();
        for pod in state.pods.values().filter(|pod| !pod.host_network) {
            let labels = labels::of_pod(state, pod);
            selectables.push(Selectable { labels, nets: hosts(&pod.addresses), ports: pod.ports.clone() });
        }
        for endpoint in state.host_endpoints.values() {
            let labels = labels::of_host_endpoint(state, endpoint);
            let nets = hosts(&endpoint.expected_ips);
            selectables.push(Selectable { labels, nets, ports: endpoint.ports.clone() });
        }
        for set in state.network_sets.values() {
            let labels = labels::of_network_set(state, set);
            selectables.push(Selectable { labels, nets: set.nets.to_vec(), ports: Vec::new() });
        }
        Self { selectables, slices: state.slices.values().cloned().collect() }
    }
}
