//! State that nobody owns any more, and what the agent wants otherwise.

use std::collections::BTreeMap;

use crate::Severity::{Error, Warning};
use crate::{Difference, Facts, Finding};

/// Entries that are named in a finding.
const NAMED: usize = 5;

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    differences(facts, found);
    links_without_routes(facts, found);
    routes_without_links(facts, found);
}

/// What the agent's own audit says, one finding for each kind and way.
fn differences(facts: &Facts, found: &mut Vec<Finding>) {
    let mut by_kind: BTreeMap<(&str, bool), Vec<&Difference>> = BTreeMap::new();
    for difference in &facts.differences {
        by_kind
            .entry((&difference.kind, difference.what.starts_with("unwanted")))
            .or_default()
            .push(difference);
    }
    for ((kind, is_leak), entries) in by_kind {
        let named = entries.iter().take(NAMED).map(|entry| format!("{}: {}", entry.entry, entry.what));
        let evidence = named.collect::<Vec<_>>().join("; ");
        let count = entries.len();
        if is_leak {
            let what = format!("{count} {kind} in the kernel are of nobody; the agent sweeps what is ours");
            found.push(Finding::new(
                Warning,
                "leaked-state",
                what,
                evidence,
                format!("ocicat audit --node {}", facts.node),
            ));
        } else {
            let what = format!("{count} {kind} are not in the kernel as the agent wants them");
            found.push(Finding::new(
                Error,
                "drift",
                what,
                evidence,
                format!("ocicat audit --node {}", facts.node),
            ));
        }
    }
}

/// A pod's link without a route to its pod: the pod is gone, or was never finished.
fn links_without_routes(facts: &Facts, found: &mut Vec<Finding>) {
    // Without routes at all these were not read.
    if facts.routes.is_empty() {
        return;
    }
    for link in facts.pod_links() {
        if !facts.routes.iter().any(|route| route.interface == link.name) {
            let what = format!(
                "{} leads to a pod to which there is no route: it is of a pod that is gone, or half made",
                link.name
            );
            let evidence = format!("link {}, {}", link.name, if link.up { "up" } else { "down" });
            found.push(Finding::new(
                Warning,
                "leaked-veth",
                what,
                evidence,
                format!("ip link delete {}", link.name),
            ));
        }
    }
}

/// The speaker's routes through a link that is down or gone.
fn routes_without_links(facts: &Facts, found: &mut Vec<Finding>) {
    let lost = facts.routes.iter().filter(|route| {
        route.interface.starts_with("cali") && facts.link(&route.interface).is_none_or(|link| !link.up)
    });
    for route in lost {
        let what = format!(
            "the route to {} leads to {}, which is down: the pod cannot be reached",
            route.destination, route.interface
        );
        let evidence = format!("protocol {}", route.protocol);
        found.push(Finding::new(
            Error,
            "leaked-route",
            what,
            evidence,
            format!("ip link set dev {} up", route.interface),
        ));
    }
}
