//! The node's address: which was chosen, why, and what else there was.

use std::net::IpAddr;

use crate::Severity::{Error, Info, Warning};
use crate::{Candidate, Chosen, Facts, Finding};

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    for chosen in &facts.addresses {
        let others = list(&chosen.candidates, chosen.address);
        let Some(address) = chosen.address else {
            // A node of one family has no address of the other, and nobody missed it.
            if facts.addresses.iter().all(|other| other.address.is_none()) {
                found.push(Finding::new(
                    Error,
                    "node-address",
                    "the node has no address: no other node can reach its pods",
                    format!("method {}; on the links: {others}", method(chosen)),
                    "kubectl -n kube-system set env daemonset/calico-node -c felix IP_AUTODETECTION_METHOD=interface=REGEX",
                ));
                return;
            }
            continue;
        };
        match chosen.candidates.iter().find(|candidate| candidate.address == address) {
            None => found.push(Finding::new(
                Error,
                "node-address",
                format!(
                    "the node's address {address} is on none of its links: what others send there is lost"
                ),
                format!("method {}; on the links: {others}", method(chosen)),
                format!(
                    "kubectl annotate node {} projectcalico.org/{}- # it is found out again",
                    facts.node,
                    annotation(address)
                ),
            )),
            Some(own) => on_link(facts, chosen, own, &others, found),
        }
    }
}

fn on_link(facts: &Facts, chosen: &Chosen, own: &Candidate, others: &str, found: &mut Vec<Finding>) {
    let evidence = format!("method {}; others: {others}", method(chosen));
    let mend = "kubectl -n kube-system set env daemonset/calico-node -c felix IP_AUTODETECTION_METHOD=interface=REGEX";
    if facts.link(&own.link).is_some_and(|link| !link.up) {
        let what = format!("the node's address {} is on {}, which is down", own.address, own.link);
        found.push(Finding::new(
            Error,
            "node-address",
            what,
            evidence,
            format!("ip link set dev {} up", own.link),
        ));
    } else if is_of_containers(&own.link) {
        let what = format!(
            "the node's address {} is on {}, a link of containers that no other node reaches",
            own.address, own.link
        );
        found.push(Finding::new(Error, "node-address", what, evidence, mend));
    } else if chosen.method == "first-found" && rivals(chosen, own) > 0 {
        let what = format!(
            "the node's address {} on {} was merely found first: another start may choose another",
            own.address, own.link
        );
        found.push(Finding::new(Warning, "node-address", what, evidence, mend));
    } else {
        let what = format!("the node's address is {}/{} on {}", own.address, own.length, own.link);
        found.push(Finding::new(Info, "node-address", what, evidence, ""));
    }
}

/// Addresses on other links that could have been chosen as well.
fn rivals(chosen: &Chosen, own: &Candidate) -> usize {
    let others = chosen.candidates.iter().filter(|other| other.link != own.link);
    others.filter(|other| !is_of_containers(&other.link)).count()
}

fn method(chosen: &Chosen) -> &str {
    if chosen.method.is_empty() { "unknown" } else { &chosen.method }
}

fn annotation(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4Address" } else { "IPv6Address" }
}

fn list(candidates: &[Candidate], chosen: Option<IpAddr>) -> String {
    let others: Vec<String> = candidates
        .iter()
        .filter(|candidate| Some(candidate.address) != chosen)
        .map(|candidate| format!("{} {}/{}", candidate.link, candidate.address, candidate.length))
        .collect();
    if others.is_empty() { "none".to_owned() } else { others.join(", ") }
}

fn is_of_containers(link: &str) -> bool {
    OF_CONTAINERS.iter().any(|prefix| link.starts_with(prefix))
}

const OF_CONTAINERS: [&str; 11] =
    ["docker", "br-", "cni", "cali", "tunl", "flannel", "virbr", "podman", "kube-", "lxc", "cilium"];
