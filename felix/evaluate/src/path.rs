//! The way of a packet over the nodes, and who is asked on it (`spec/felix.md` §7.1, §7.3).

use std::net::IpAddr;
use std::sync::Arc;

use model::{
    Action, Cidr, Direction, EndpointToHostAction, Family, NodeName, Pod, PodKey, Protocol,
    ServiceLoopPrevention,
};

use crate::endpoint::{Decision, Meeting};
use crate::host::{Arrival, At, Gate};
use crate::rules::Cluster;
use crate::{Cause, Endpoint, Packet, Place, Side, State, Step, Verdict, labels};

const IPIP: Protocol = Protocol(4);
/// What a pod may always tell its node: multicast listeners and neighbour discovery.
const NEIGHBOUR_DISCOVERY: [u8; 6] = [130, 131, 132, 133, 135, 136];
const ALLOWED_SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";

/// May the first packet of a connection pass, past every endpoint on its way?
///
/// What others than the agent put into the kernel is not considered: `allowed` means that policy lets it pass.
pub fn evaluate(state: &State, packet: &Packet) -> Verdict {
    Evaluator::new(state).evaluate(packet)
}

/// One state on which many packets are tried: what rules refer to is gathered once.
pub struct Evaluator<'a> {
    state: &'a State,
    cluster: Cluster,
}

impl<'a> Evaluator<'a> {
    pub fn new(state: &'a State) -> Self {
        Self { state, cluster: Cluster::new(state) }
    }

    /// As [`evaluate`].
    pub fn evaluate(&self, packet: &Packet) -> Verdict {
        let mut walk = Walk {
            state: self.state,
            cluster: &self.cluster,
            packet,
            steps: Vec::new(),
            is_translated: false,
        };
        let allowed = walk.walk();
        Verdict { allowed, steps: walk.steps }
    }
}

/// A place as the network sees it.
enum End {
    Pod(PodKey, Option<NodeName>),
    Node(NodeName),
    Outside,
}

impl End {
    fn node(&self) -> Option<&NodeName> {
        match self {
            End::Pod(_, node) => node.as_ref(),
            End::Node(node) => Some(node),
            End::Outside => None,
        }
    }
}

pub(crate) struct Walk<'a> {
    pub(crate) state: &'a State,
    pub(crate) packet: &'a Packet,
    cluster: &'a Cluster,
    steps: Vec<Step>,
    /// The first node translates the address of a Service; the next one sees what came of it.
    is_translated: bool,
}

impl Walk<'_> {
    fn walk(&mut self) -> bool {
        let packet = self.packet;
        let (from, to) = (self.end(&packet.from.place), self.end(&packet.to.place));
        if let End::Pod(pod, _) = &from
            && self.is_spoofed(pod)
        {
            self.note(Endpoint::Pod(pod.clone()), Direction::Egress, Cause::Spoofed, Action::Deny);
            return false;
        }
        match (from.node(), to.node()) {
            (Some(a), Some(b)) if a == b => self.inside(a, &from, &to),
            _ => self.leaves(&from, &packet.from) && self.enters(&to, &packet.to),
        }
    }

    /// Both ends are at one node.
    fn inside(&mut self, node: &NodeName, from: &End, to: &End) -> bool {
        let pod_side = At { node, gate: Gate::Pod };
        match (from, to) {
            (End::Node(_), End::Pod(pod, _)) => {
                let endpoint = Endpoint::Pod(pod.clone());
                self.note(endpoint, Direction::Ingress, Cause::NodeToOwnPod, Action::Allow);
                true
            }
            (End::Pod(pod, _), End::Node(_)) => {
                self.arrives(pod_side) != Arrival::Dropped && self.pod_to_node(pod)
            }
            (End::Pod(from, _), End::Pod(to, _)) => {
                let arrival = self.arrives(pod_side);
                arrival != Arrival::Dropped
                    && (arrival == Arrival::Allowed || self.forwards(pod_side, Direction::Ingress))
                    && self.pod(from, Direction::Egress)
                    && self.pod(to, Direction::Ingress)
                    && self.forwards(pod_side, Direction::Egress)
                    && !self.goes_in_circles()
            }
            _ => {
                let loopback = Gate::Link(Some("lo"));
                let at = At { node, gate: loopback };
                self.sends(at) && self.receives(at)
            }
        }
    }

    /// The way over the sender's node.
    fn leaves(&mut self, from: &End, side: &Side) -> bool {
        let Some(node) = from.node() else {
            let End::Pod(pod, None) = from else { return true };
            return self.pod(pod, Direction::Egress);
        };
        let out = At { node, gate: Gate::Link(side.link.as_deref()) };
        let left = match from {
            End::Pod(pod, _) => {
                let pod_side = At { node, gate: Gate::Pod };
                let arrival = self.arrives(pod_side);
                arrival != Arrival::Dropped
                    && (arrival == Arrival::Allowed || self.forwards(pod_side, Direction::Ingress))
                    && self.pod(pod, Direction::Egress)
                    && self.forwards(out, Direction::Egress)
                    && !self.goes_in_circles()
            }
            _ => self.sends(out),
        };
        self.is_translated = true;
        left
    }

    /// The way over the receiver's node.
    fn enters(&mut self, to: &End, side: &Side) -> bool {
        let Some(node) = to.node() else {
            let End::Pod(pod, None) = to else { return true };
            return self.pod(pod, Direction::Ingress);
        };
        let at = At { node, gate: Gate::Link(side.link.as_deref()) };
        match to {
            End::Pod(pod, _) => {
                let arrival = self.arrives(at);
                arrival != Arrival::Dropped
                    && (arrival == Arrival::Allowed || self.forwards(at, Direction::Ingress))
                    && self.pod(pod, Direction::Ingress)
                    && self.forwards(At { node, gate: Gate::Pod }, Direction::Egress)
            }
            _ => self.receives(at),
        }
    }

    /// A process of the node sends.
    fn sends(&mut self, at: At<'_>) -> bool {
        let packet = self.packet_as_it_came();
        match self.untracked(at, Direction::Egress, &packet) {
            Arrival::Dropped => false,
            Arrival::Allowed => true,
            Arrival::Undecided => self.local(at, Direction::Egress),
        }
    }

    /// A process of the node receives.
    fn receives(&mut self, at: At<'_>) -> bool {
        match self.arrives(at) {
            Arrival::Dropped => false,
            Arrival::Allowed => true,
            Arrival::Undecided => self.local(at, Direction::Ingress),
        }
    }

    /// A pod of the node's network is its node.
    fn end(&self, place: &Place) -> End {
        match place {
            Place::Outside => End::Outside,
            Place::Node(node) => End::Node(node.clone()),
            Place::Pod(key) => match self.state.pods.get(key) {
                Some(Pod { host_network: true, node: Some(node), .. }) => End::Node(node.clone()),
                pod => End::Pod(key.clone(), pod.and_then(|pod| pod.node.clone())),
            },
        }
    }

    fn pod_to_node(&mut self, pod: &PodKey) -> bool {
        let packet = self.packet;
        let discovers = packet.family() == Family::V6
            && packet.protocol == Protocol::ICMPV6
            && packet.icmp.is_some_and(|(kind, _)| NEIGHBOUR_DISCOVERY.contains(&kind));
        if discovers {
            self.note(Endpoint::Node, Direction::Ingress, Cause::NeighbourDiscovery, Action::Allow);
            return true;
        }
        if !self.pod(pod, Direction::Egress) {
            return false;
        }
        let action = match self.state.configuration.endpoint_to_host_action {
            EndpointToHostAction::Drop => Action::Deny,
            EndpointToHostAction::Accept => Action::Allow,
            // The node's own rules decide, which are not ours.
            EndpointToHostAction::Return => Action::Pass,
        };
        self.note(Endpoint::Node, Direction::Ingress, Cause::ToHost, action);
        action != Action::Deny
    }

    /// A pod's own policy. What is not known whole is closed.
    fn pod(&mut self, key: &PodKey, direction: Direction) -> bool {
        let endpoint = Endpoint::Pod(key.clone());
        let known = self.state.pods.get(key).filter(|pod| !pod.host_network);
        let known = known.filter(|pod| self.state.namespaces.contains_key(&*pod.key.namespace));
        // Who asks to send from any address could be anybody; without the setting it gets nothing at all.
        let may_spoof = self.state.configuration.workload_source_spoofing;
        let known = known.filter(|pod| may_spoof || !pod.annotations.contains_key(ALLOWED_SOURCES));
        let Some(pod) = known else {
            self.note(endpoint, direction, Cause::Closed, Action::Deny);
            return false;
        };
        if direction == Direction::Egress && self.is_encapsulated() {
            self.note(endpoint, direction, Cause::Encapsulated, Action::Deny);
            return false;
        }
        let labels = labels::of_pod(self.state, pod);
        let mut profiles: Vec<Arc<str>> = vec![format!("kns.{}", key.namespace).into()];
        let account = pod.service_account.as_ref();
        profiles.extend(account.map(|account| format!("ksa.{}.{account}", key.namespace).into()));
        let mut meeting = self.meeting(endpoint, direction, self.packet);
        // Policies before conntrack and before translation are for host endpoints alone.
        let is_for_pods = |policy: &model::Policy| !policy.do_not_track && !policy.pre_dnat;
        let decision = match meeting.tiers(&labels, &is_for_pods, true) {
            Decision::None => meeting.profiles(&profiles),
            decision => decision,
        };
        decision == Decision::Allow
    }

    fn is_encapsulated(&self) -> bool {
        let (packet, configuration) = (self.packet, &self.state.configuration);
        let is_vxlan =
            packet.protocol == Protocol::UDP && packet.destination_port == configuration.vxlan_port;
        (packet.protocol == IPIP && !configuration.allow_ipip_from_workloads)
            || (is_vxlan && !configuration.allow_vxlan_from_workloads)
    }

    fn is_spoofed(&self, key: &PodKey) -> bool {
        let Some(pod) = self.state.pods.get(key) else { return false };
        let source = self.packet.from.address;
        let may_spoof = self.state.configuration.workload_source_spoofing;
        let prefixes = pod.annotations.get(ALLOWED_SOURCES).filter(|_| may_spoof);
        !pod.addresses.contains(&source) && !prefixes.is_some_and(|prefixes| lists(prefixes, source))
    }

    /// To an address of Services that nobody translated.
    fn goes_in_circles(&mut self) -> bool {
        let Some(bgp) = &self.state.bgp else { return false };
        if self.state.configuration.service_loop_prevention == ServiceLoopPrevention::Disabled {
            return false;
        }
        let services = &bgp.services;
        let all = [&services.cluster_ips, &services.external_ips, &services.load_balancer_ips];
        let hit = all.into_iter().flatten().any(|range| range.contains(self.packet.to.address));
        if hit {
            self.note(Endpoint::Node, Direction::Egress, Cause::ServiceLoop, Action::Deny);
        }
        hit
    }

    /// Before the address of a Service was translated.
    pub(crate) fn packet_as_it_came(&self) -> Packet {
        let mut packet = self.packet.clone();
        if let Some((address, port)) = packet.original_destination.filter(|_| !self.is_translated) {
            packet.to.address = address;
            packet.destination_port = port;
        }
        packet
    }

    pub(crate) fn meeting<'m>(
        &'m mut self,
        endpoint: Endpoint,
        direction: Direction,
        packet: &'m Packet,
    ) -> Meeting<'m> {
        let Self { state, cluster, steps, .. } = self;
        Meeting { state, cluster, endpoint, direction, packet, steps }
    }

    pub(crate) fn note(&mut self, endpoint: Endpoint, direction: Direction, cause: Cause, action: Action) {
        let packet = self.packet;
        let mut meeting = self.meeting(endpoint, direction, packet);
        let step = meeting.step(cause, action);
        meeting.note(step);
    }
}

/// Does a JSON list of prefixes contain the address? What is no prefix contains nothing.
fn lists(prefixes: &str, address: IpAddr) -> bool {
    let words = prefixes.split(['[', ']', ',', '"', ' ']);
    words.filter_map(|word| word.parse::<Cidr>().ok()).any(|prefix| prefix.contains(address))
}
