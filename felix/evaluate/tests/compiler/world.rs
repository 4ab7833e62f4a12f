//! A cluster of two nodes with fake dataplanes, told the same as the evaluator.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use felix_evaluate::{Packet, Place, Side, State, evaluate};
use kernel::interpret::{self, Verdict, walk};
use model::{Family, NodeName, Pod, PodKey, Update};

use crate::node::{Node, interface, local};

pub const NODES: [&str; 2] = ["n1", "n2"];
/// A node's own interfaces and their addresses.
pub const LINKS: [[(&str, [&str; 2]); 2]; 2] = [
    [("eth0", ["172.20.0.1", "fd20::1"]), ("eth1", ["172.21.0.1", "fd21::1"])],
    [("eth0", ["172.20.0.2", "fd20::2"]), ("eth1", ["172.21.0.2", "fd21::2"])],
];

pub struct World {
    nodes: BTreeMap<NodeName, Node>,
    state: State,
    /// What is allowed may also fall through to the kernel's own policy: host endpoints clear the mark, and
    /// the node may be left to decide.
    is_lenient: bool,
    /// The rules that the last packet met.
    met: RefCell<Vec<String>>,
}

impl World {
    pub fn new() -> Self {
        let mut nodes = BTreeMap::new();
        let mut state = State::default();
        for (name, links) in NODES.into_iter().zip(LINKS) {
            let mut node = Node::in_sync(name);
            let addresses = |texts: [&str; 2]| texts.map(|text| text.parse::<IpAddr>().unwrap());
            let links: BTreeMap<String, BTreeSet<IpAddr>> =
                links.into_iter().map(|(link, own)| (link.to_owned(), addresses(own).into())).collect();
            node.renderer.set_host_links(links.clone());
            node.nftables.renderer.set_host_links(links.clone());
            let known = links.into_iter().map(|(link, own)| (link, own.into_iter().collect())).collect();
            state.set_links(name.into(), known);
            nodes.insert(name.into(), node);
        }
        Self { nodes, state, is_lenient: false, met: RefCell::default() }
    }

    /// Walks the whole history, and compares after every few updates and at the end; how many packets were
    /// allowed and denied.
    pub fn compare(history: &[Update], packets: &[Packet]) -> Result<[usize; 2], String> {
        let run = AssertUnwindSafe(|| {
            let mut world = Self::new();
            let mut counts = [0, 0];
            let (half, last) = (history.len() / 2, history.len());
            for (number, update) in history.iter().enumerate() {
                world.tell(update);
                // Now and then several changes are one.
                if number % 8 == 5 {
                    world.flush();
                }
                if number + 1 == half || number + 1 == last {
                    world.flush();
                    for packet in packets {
                        counts[usize::from(!world.check(packet)?)] += 1;
                    }
                }
            }
            Ok(counts)
        });
        catch_unwind(run).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()))
        })
    }

    /// Takes an update to the rules.
    pub fn apply(&mut self, update: &Update) {
        self.tell(update);
        self.flush();
    }

    fn flush(&mut self) {
        self.nodes.values_mut().for_each(Node::flush);
    }

    fn tell(&mut self, update: &Update) {
        if let Update::Pod(key, pod) = update {
            let old = self.state.pod(key).and_then(|pod| pod.node.clone());
            let new = pod.as_ref().filter(|pod| !pod.host_network);
            let home = new.and_then(|pod| pod.node.clone());
            if let Some(old) = old.filter(|old| Some(old) != home.as_ref()) {
                let node = self.nodes.get_mut(&old).unwrap();
                node.calc.set_local_endpoint(interface(key), None);
            }
            if let (Some(pod), Some(home)) = (new, home) {
                let node = self.nodes.get_mut(&home).unwrap();
                node.calc.set_local_endpoint(interface(key), Some(local(key, &pod.addresses)));
            }
        }
        self.is_lenient |= matches!(update, Update::HostEndpoint(..) | Update::FelixConfiguration(_));
        for node in self.nodes.values_mut() {
            node.calc.apply(update.clone());
        }
        self.state.apply(update.clone());
    }

    /// The answer on which both agree.
    pub fn check(&self, packet: &Packet) -> Result<bool, String> {
        self.met.borrow_mut().clear();
        let Some(compiled) = self.passes(packet) else { return Ok(evaluate(&self.state, packet).allowed) };
        let verdict = evaluate(&self.state, packet);
        if compiled == verdict.allowed {
            return Ok(compiled);
        }
        let mut text =
            format!("{}\n  the chains say {compiled}, the evaluator {}:", show(packet), verdict.allowed);
        verdict.steps.iter().for_each(|step| text.push_str(&format!("\n    {step}")));
        text.push_str("\n  rules met:");
        self.met.borrow().iter().for_each(|step| text.push_str(&format!("\n    {step}")));
        Err(text)
    }

    /// Every rule as iptables spells it.
    pub fn rules(&self) -> Vec<String> {
        let chains = self.nodes.values().flat_map(|node| node.dataplane.chains.values());
        chains.flat_map(|chain| chain.rules.iter()).map(kernel::rule_text).collect()
    }

    /// What the chains on its way say; `None` where there are none: an end is gone, or no route leads there.
    fn passes(&self, packet: &Packet) -> Option<bool> {
        let (from, to) = (self.at(&packet.from)?, self.at(&packet.to)?);
        if self.lacks_family(&packet.to) {
            return None;
        }
        let is_spoofed = match &packet.from.place {
            Place::Pod(key) => !self.state.pod(key)?.addresses.contains(&packet.from.address),
            _ => false,
        };
        let wire = interpret::Packet {
            source_port: packet.source_port,
            reverse_path_fails: is_spoofed,
            icmp: packet.icmp.unwrap_or((0, 0)),
            ..interpret::Packet::new(
                packet.from.address,
                packet.to.address,
                packet.protocol,
                packet.destination_port,
            )
        };
        // The first node translates; what the next one sees is translated.
        let untranslated = match packet.original_destination {
            Some((address, port)) => interpret::Packet {
                destination: address,
                destination_port: port,
                service: Some((packet.to.address, packet.destination_port)),
                ..wire.clone()
            },
            None => wire.clone(),
        };
        let (out, into) = (packet.from.link.as_deref(), packet.to.link.as_deref());
        Some(match (&from, &to) {
            (a, b) if a.node().is_some() && a.node() == b.node() => {
                let (from, to) = (a.interface().or(b.interface().is_none().then_some("lo")), b.interface());
                match (a, b) {
                    (At::Node(node), At::Node(_)) => {
                        self.passes_node(node, &untranslated.via(None, Some("lo")))
                            && self.passes_node(node, &wire.via(Some("lo"), None))
                    }
                    (At::Pod(_, node), _) => self.passes_node(node, &untranslated.via(from, to)),
                    (At::Node(node), _) => self.passes_node(node, &untranslated.via(None, to)),
                    (At::Outside, _) => return None,
                }
            }
            (At::Outside, At::Outside) => return None,
            (a, b) => {
                let first =
                    a.node().is_none_or(|node| self.passes_node(node, &untranslated.via(a.interface(), out)));
                let wire = if a.node().is_some() { &wire } else { &untranslated };
                first && b.node().is_none_or(|node| self.passes_node(node, &wire.via(into, b.interface())))
            }
        })
    }

    /// Has the pod addresses, and none of this family? Then it has no chains in it either.
    fn lacks_family(&self, side: &Side) -> bool {
        let Place::Pod(key) = &side.place else { return false };
        let addresses = self.state.pod(key).map_or(&[][..], |pod| &pod.addresses);
        !addresses.is_empty() && addresses.iter().all(|own| Family::of(*own) != Family::of(side.address))
    }

    /// Is it let through by the rules of one node?
    fn passes_node(&self, node: &NodeName, packet: &interpret::Packet) -> bool {
        let is_of_pod =
            |link: &Option<std::sync::Arc<str>>| link.as_ref().is_some_and(|l| l.starts_with("cali"));
        let has_pod = is_of_pod(&packet.from) || is_of_pod(&packet.to);
        let node = &self.nodes[node];
        let outcome = walk(&node.dataplane, packet);
        let verdict = outcome.verdict;
        let steps = outcome.steps.iter();
        let steps = steps.map(|step| format!("{} {} rule {}", step.table.name(), step.chain, step.rule));
        self.met.borrow_mut().extend(steps.chain([format!("{verdict:?}")]));
        assert_eq!(node.nftables.walk(packet).verdict, verdict, "nftables on {packet:?}");
        match verdict {
            Verdict::Accept => true,
            Verdict::Undecided => !has_pod || self.is_lenient || packet.from.is_none(),
            _ => false,
        }
    }

    fn at(&self, side: &Side) -> Option<At> {
        match &side.place {
            Place::Outside => Some(At::Outside),
            Place::Node(node) => Some(At::Node(node.clone())),
            Place::Pod(key) => {
                let pod = self.state.pod(key)?;
                let node = pod.node.clone()?;
                Some(if pod.host_network { At::Node(node) } else { At::Pod(interface(key), node) })
            }
        }
    }
}

/// Where an end meets the chains.
enum At {
    Pod(String, NodeName),
    Node(NodeName),
    Outside,
}

impl At {
    fn node(&self) -> Option<&NodeName> {
        match self {
            At::Pod(_, node) | At::Node(node) => Some(node),
            At::Outside => None,
        }
    }

    fn interface(&self) -> Option<&str> {
        match self {
            At::Pod(interface, _) => Some(interface),
            At::Node(_) | At::Outside => None,
        }
    }
}

fn show(packet: &Packet) -> String {
    let side = |side: &Side| match &side.place {
        Place::Pod(pod) => format!("pod {pod} ({})", side.address),
        Place::Node(node) => format!("node {node} ({})", side.address),
        Place::Outside => side.address.to_string(),
    };
    format!(
        "{} to {}, {} port {} to {}, icmp {:?}",
        side(&packet.from),
        side(&packet.to),
        packet.protocol,
        packet.source_port,
        packet.destination_port,
        packet.icmp,
    )
}

/// The node a pod of the history is on, for those that make packets.
pub fn pods_of(history: &[Update]) -> BTreeMap<PodKey, Pod> {
    let pods = history.iter().filter_map(|update| match update {
        Update::Pod(key, Some(pod)) => Some((key.clone(), pod.clone())),
        _ => None,
    });
    pods.collect()
}
