//! Host endpoints: which one governs an interface, and what it is asked (`spec/felix.md` §3.6, §7.3).

use model::{Action, Direction, FailsafePort, HostEndpoint, HostEndpointInterface, NodeName, Policy};

use crate::endpoint::Decision;
use crate::path::Walk;
use crate::{Cause, Endpoint, Packet, labels};

/// Through what a packet enters or leaves a node.
#[derive(Clone, Copy)]
pub(crate) enum Gate<'a> {
    /// The interface of one of its pods.
    Pod,
    /// Another interface, by name where it is known.
    Link(Option<&'a str>),
}

/// A node's gate.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) gate: Gate<'a>,
}

/// Which of a host endpoint's policies are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Untracked,
    PreDnat,
    Forward,
    Normal,
}

impl Kind {
    fn has(self, policy: &Policy) -> bool {
        match self {
            Kind::Untracked => policy.do_not_track,
            Kind::PreDnat => policy.pre_dnat,
            Kind::Forward => !policy.do_not_track && !policy.pre_dnat && policy.apply_on_forward,
            Kind::Normal => !policy.do_not_track && !policy.pre_dnat,
        }
    }
}

/// How a packet fared before the node knew where it goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Dropped,
    /// Explicitly allowed: the policies of the host endpoint that come later are not asked.
    Allowed,
    Undecided,
}

impl Walk<'_> {
    /// Before conntrack and before translation: both see the packet as it arrived.
    pub(crate) fn arrives(&mut self, at: At<'_>) -> Arrival {
        let arrived = self.packet_as_it_came();
        let untracked = self.untracked(at, Direction::Ingress, &arrived);
        if untracked != Arrival::Undecided {
            return untracked;
        }
        let Some(endpoint) = self.governing(at) else { return Arrival::Undecided };
        let failsafe = self.is_failsafe(Direction::Ingress, &arrived, false);
        if failsafe {
            return Arrival::Undecided;
        }
        match self.ask(&endpoint, Direction::Ingress, Kind::PreDnat, &arrived) {
            Decision::Allow => Arrival::Allowed,
            Decision::Deny => Arrival::Dropped,
            Decision::None => Arrival::Undecided,
        }
    }

    /// Policies that connection tracking does not see are for single interfaces only.
    pub(crate) fn untracked(&mut self, at: At<'_>, direction: Direction, packet: &Packet) -> Arrival {
        let Some(endpoint) = self.governing(at).filter(|endpoint| !is_for_all(endpoint)) else {
            return Arrival::Undecided;
        };
        if self.is_failsafe(direction, packet, true) {
            return Arrival::Undecided;
        }
        match self.ask(&endpoint, direction, Kind::Untracked, packet) {
            Decision::Allow => Arrival::Allowed,
            Decision::Deny => Arrival::Dropped,
            Decision::None => Arrival::Undecided,
        }
    }

    /// Through the node: only policies that apply on forward, and only what they say; without any, all passes.
    pub(crate) fn forwards(&mut self, at: At<'_>, direction: Direction) -> bool {
        let Some(endpoint) = self.governing(at) else { return true };
        let packet = self.packet;
        self.ask(&endpoint, direction, Kind::Forward, packet) != Decision::Deny
    }

    /// To or from a process of the node: tiers, then profiles, and closed where none decides.
    pub(crate) fn local(&mut self, at: At<'_>, direction: Direction) -> bool {
        let Some(endpoint) = self.governing(at) else { return true };
        let packet = self.packet;
        if self.is_failsafe(direction, packet, false) {
            let name = Endpoint::Host(endpoint.name.clone());
            self.note(name, direction, Cause::Failsafe, Action::Allow);
            return true;
        }
        let decision = match self.ask(&endpoint, direction, Kind::Normal, packet) {
            Decision::None => {
                let name = Endpoint::Host(endpoint.name.clone());
                self.meeting(name, direction, packet).profiles(&endpoint.profiles)
            }
            decision => decision,
        };
        decision == Decision::Allow
    }

    fn ask(
        &mut self,
        endpoint: &HostEndpoint,
        direction: Direction,
        kind: Kind,
        packet: &Packet,
    ) -> Decision {
        let labels = labels::of_host_endpoint(self.state, endpoint);
        let drop_at_end = matches!(kind, Kind::Forward | Kind::Normal);
        let name = Endpoint::Host(endpoint.name.clone());
        self.meeting(name, direction, packet).tiers(&labels, &|policy| kind.has(policy), drop_at_end)
    }

    /// The first by name of those for this very interface, else the first of those for all.
    fn governing(&self, at: At<'_>) -> Option<HostEndpoint> {
        let of_node = || self.state.host_endpoints.values().filter(|endpoint| endpoint.node == *at.node);
        let named = match at.gate {
            Gate::Link(Some(link)) => of_node().find(|endpoint| self.is_for_link(endpoint, at.node, link)),
            Gate::Link(None) | Gate::Pod => None,
        };
        named.or_else(|| of_node().find(|endpoint| is_for_all(endpoint))).cloned()
    }

    fn is_for_link(&self, endpoint: &HostEndpoint, node: &NodeName, link: &str) -> bool {
        match &endpoint.interface {
            Some(HostEndpointInterface::Named(name)) => **name == *link,
            Some(HostEndpointInterface::All) => false,
            None => {
                let addresses = self.state.links.get(node).and_then(|links| links.get(link));
                addresses.is_some_and(|own| own.iter().any(|ip| endpoint.expected_ips.contains(ip)))
            }
        }
    }

    /// Before conntrack the answers to what the node itself may always ask pass too.
    fn is_failsafe(&self, direction: Direction, packet: &Packet, and_answers: bool) -> bool {
        let configuration = &self.state.configuration;
        let (own, other) = match direction {
            Direction::Ingress => (&configuration.failsafe_inbound, &configuration.failsafe_outbound),
            Direction::Egress => (&configuration.failsafe_outbound, &configuration.failsafe_inbound),
        };
        let peer = match direction {
            Direction::Ingress => packet.from.address,
            Direction::Egress => packet.to.address,
        };
        let is = |failsafe: &FailsafePort, port: u16| {
            failsafe.protocol == packet.protocol
                && failsafe.port == port
                && failsafe.net.is_none_or(|net| net.contains(peer))
        };
        own.iter().any(|failsafe| is(failsafe, packet.destination_port))
            || (and_answers && other.iter().any(|failsafe| is(failsafe, packet.source_port)))
    }
}

fn is_for_all(endpoint: &HostEndpoint) -> bool {
    endpoint.interface == Some(HostEndpointInterface::All)
}
