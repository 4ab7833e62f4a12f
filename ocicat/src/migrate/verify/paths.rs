//! Do packets get from nodes that have moved to pods of every other node, moved or not? Each agent of ours sends pings that
//! must not be cut; the answers come back by the other node's routes, whosever they are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use doctor::Path;
use migrate::{Agent, NodeView};

use super::{Finding, Pod, State};
use crate::doctor::paths_from;
use crate::reach::Reach;

/// Pods of one node that are asked.
const MOST_PODS: usize = 4;
/// Nodes that one node asks; the next ones in order, so that each is asked by somebody.
const MOST_NODES: usize = 16;

/// What each moved node saw of each node that it asked.
pub(in crate::migrate) fn paths(reach: &Reach, nodes: &[NodeView], pods: &[Pod]) -> Vec<Finding> {
    let plan = questions(nodes, pods);
    let wanted =
        plan.iter().map(|(node, others)| (node.clone(), others.values().flatten().copied().collect()));
    let answers = paths_from(reach, &wanted.collect());
    let mut findings = Vec::new();
    for (node, others) in &plan {
        match answers.get(node) {
            Some(Ok(seen)) => findings.extend(others.iter().map(|(other, to)| {
                let agent = nodes.iter().find(|of| of.name == *other).map_or("?", |of| of.agent.name());
                let what = format!("packets to pods of {other} ({agent})");
                Finding { node: node.clone(), what, state: judge(to, seen) }
            })),
            told => {
                let reason =
                    told.and_then(|told| told.as_ref().err()).map_or("it was not asked", String::as_str);
                let state = State::Unsure(format!("not tried: {reason}"));
                findings.push(Finding {
                    node: node.clone(),
                    what: "packets to other nodes".to_owned(),
                    state,
                });
            }
        }
    }
    findings
}

/// For each moved node the addresses that it asks, by the node on which they are.
fn questions(nodes: &[NodeView], pods: &[Pod]) -> BTreeMap<String, BTreeMap<String, Vec<IpAddr>>> {
    let mut by_node: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    for pod in pods {
        let known = by_node.entry(&pod.node).or_default();
        known.extend(pod.addresses.iter().copied().take(MOST_PODS.saturating_sub(known.len())));
    }
    let asking = nodes.iter().enumerate().filter(|(_, node)| node.agent == Agent::Ocicat);
    asking
        .map(|(at, node)| {
            let others = nodes.iter().cycle().skip(at + 1).take(nodes.len().saturating_sub(1));
            let others = others
                .filter_map(|other| Some((other.name.clone(), by_node.get(other.name.as_str())?.clone())));
            (node.name.clone(), others.take(MOST_NODES).collect())
        })
        .filter(|(_, others): &(_, BTreeMap<_, _>)| !others.is_empty())
        .collect()
}

fn judge(to: &[IpAddr], seen: &[Path]) -> State {
    let path = |address: &IpAddr| seen.iter().find(|path| path.to == *address);
    let unrouted: Vec<String> = to.iter().filter(|to| path(to).is_none()).map(ToString::to_string).collect();
    if !unrouted.is_empty() {
        return State::Wrong(format!("no route to {}", unrouted.join(", ")));
    }
    let answered: Vec<&Path> = to.iter().filter_map(path).filter(|path| path.fits.is_some()).collect();
    let interface = to.first().and_then(path).map_or("?", |path| path.interface.as_str());
    match answered.iter().filter_map(|path| path.fits).min() {
        Some(fits) => State::Seen(format!(
            "{} of {} answer packets of {fits} bytes, through {interface}",
            answered.len(),
            to.len()
        )),
        // Pods may be closed for pings, and no node can tell that from a packet that was lost.
        None => State::Unsure(format!(
            "none of {} answers a ping through {interface}: lost, or closed by policy for other nodes",
            to.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, agent: Agent) -> NodeView {
        NodeView { name: name.into(), agent, is_ready: true, calico: None, ours: None }
    }

    fn pod(node: &str, address: [u8; 4]) -> Pod {
        Pod { name: "default/p".into(), node: node.into(), addresses: vec![address.into()] }
    }

    #[test]
    fn nodes_that_have_moved_ask_pods_of_all_others_and_a_few_are_enough() {
        let nodes = [
            node("a", Agent::Ocicat),
            node("b", Agent::Calico),
            node("c", Agent::Ocicat),
            node("d", Agent::Calico),
        ];
        let mut pods = vec![pod("a", [10, 0, 0, 1]), pod("c", [10, 0, 2, 1])];
        pods.extend((0..9).map(|last| pod("b", [10, 0, 1, last])));

        let asked = questions(&nodes, &pods);

        let of = |asking: &str| -> Vec<(&str, usize)> {
            asked[asking].iter().map(|(node, to)| (node.as_str(), to.len())).collect()
        };
        assert_eq!(asked.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!((of("a"), of("c")), (vec![("b", 4), ("c", 1)], vec![("a", 1), ("b", 4)]));
    }

    #[test]
    fn a_missing_route_is_wrong_and_silence_may_be_policy() {
        let to = [IpAddr::from([10, 0, 1, 1]), IpAddr::from([10, 0, 1, 2])];
        let path = |to: IpAddr, fits: Option<u32>| Path {
            to,
            name: String::new(),
            interface: "tunl0".into(),
            interface_mtu: 1480,
            fits,
        };

        let state = |seen: &[Path]| judge(&to, seen);

        assert!(
            matches!(state(&[path(to[0], Some(1480))]), State::Wrong(why) if why == "no route to 10.0.1.2")
        );
        assert!(matches!(state(&[path(to[0], None), path(to[1], None)]), State::Unsure(_)));
        let State::Seen(said) = state(&[path(to[0], None), path(to[1], Some(1400))]) else { panic!() };
        assert_eq!(said, "1 of 2 answer packets of 1400 bytes, through tunl0");
    }
}
