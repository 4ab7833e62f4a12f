//! The way of a packet over the nodes, and who is asked on it (`spec/felix.md` §7.1, §7.3).

use std::sync::Arc;

use model::{Action, Direction, EndpointToHostAction, Family, NodeName, Pod, PodKey, Protocol};

use crate::endpoint::{Decision, Meeting};
use crate::rules::{self, Selectable};
use crate::{Cause, Endpoint, Packet, Place, State, Step, Verdict, labels};

const VXLAN_PORT: u16 = 4789;
const IPIP: Protocol = Protocol(4);
/// What a pod may always tell its node: multicast listeners and neighbour discovery.
const NEIGHBOUR_DISCOVERY: [u8; 6] = [130, 131, 132, 133, 135, 136];

/// May the first packet of a connection pass, past every endpoint on its way?
pub fn evaluate(state: &State, packet: &Packet) -> Verdict {
    let mut walk = Walk { state, selectables: rules::selectables(state), packet, steps: Vec::new() };
    let allowed = walk.walk();
    Verdict { allowed, steps: walk.steps }
}

/// A place as the network sees it.
enum End {
    Pod(PodKey, Option<NodeName>),
    Node(NodeName),
    Outside,
}

struct Walk<'a> {
    state: &'a State,
    selectables: Vec<Selectable>,
    packet: &'a Packet,
    steps: Vec<Step>,
}

impl Walk<'_> {
    fn walk(&mut self) -> bool {
        match (self.end(&self.packet.from.place), self.end(&self.packet.to.place)) {
            (End::Node(from), End::Pod(pod, node)) if node.as_ref() == Some(&from) => {
                self.note(Endpoint::Pod(pod), Direction::Ingress, Cause::NodeToOwnPod, Action::Allow);
                true
            }
            (End::Pod(pod, node), End::Node(to)) if node.as_ref() == Some(&to) => self.pod_to_node(&pod),
            (from, to) => {
                let sent = match from {
                    End::Pod(pod, _) => self.pod(&pod, Direction::Egress),
                    End::Node(_) | End::Outside => true,
                };
                sent && match to {
                    End::Pod(pod, _) => self.pod(&pod, Direction::Ingress),
                    End::Node(_) | End::Outside => true,
                }
            }
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
        let mut meeting = self.meeting(endpoint, direction);
        let decision = match meeting.tiers(&labels, &|_| true, true) {
            Decision::None => meeting.profiles(&profiles),
            decision => decision,
        };
        decision == Decision::Allow
    }

    fn is_encapsulated(&self) -> bool {
        let packet = self.packet;
        packet.protocol == IPIP || (packet.protocol == Protocol::UDP && packet.destination_port == VXLAN_PORT)
    }

    fn meeting(&mut self, endpoint: Endpoint, direction: Direction) -> Meeting<'_> {
        Meeting {
            state: self.state,
            selectables: &self.selectables,
            endpoint,
            direction,
            packet: self.packet,
            steps: &mut self.steps,
        }
    }

    fn note(&mut self, endpoint: Endpoint, direction: Direction, cause: Cause, action: Action) {
        let mut meeting = self.meeting(endpoint, direction);
        let step = meeting.step(cause, action);
        meeting.note(step);
    }
}
