//! The answer for people and for programs.

use felix_evaluate::{Cause, Endpoint, Step};
use model::{Action, Direction};
use proto::felix as api;
use serde_json::{Value, json};

use super::live::LearnedFrom;
use super::question::End;
use super::{Explanation, NodeView, Path};
use crate::drops::{by, record_json};
use crate::table::{plain, table};

pub(crate) fn at(end: &End, port: u16) -> String {
    let address = match (end.address.is_ipv6(), port) {
        (_, 0) => end.address.to_string(),
        (true, port) => format!("[{}]:{port}", end.address),
        (false, port) => format!("{}:{port}", end.address),
    };
    let node = end.node.as_ref().filter(|node| end.name != format!("node {node}"));
    match node {
        Some(node) => format!("{} ({address}, node {node})", end.name),
        None => format!("{} ({address})", end.name),
    }
}

pub(super) fn text(explanation: &Explanation) -> String {
    let verdict = match (explanation.is_allowed(), explanation.paths.iter().any(|path| path.verdict.allowed))
    {
        (true, _) => "allowed",
        (false, false) => "denied",
        (false, true) => "denied in part",
    };
    let mut text = format!(
        "{} -> {} {}: {verdict}\n",
        at(&explanation.from, 0),
        at(&explanation.asked, explanation.port),
        explanation.protocol
    );
    if let Some(translation) = &explanation.translation {
        let count = explanation.paths.len() + translation.left_out;
        let s = if count == 1 { "" } else { "s" };
        text.push_str(&format!("Service {} sends it to {count} endpoint{s}", translation.service));
        if translation.left_out > 0 {
            text.push_str(&format!(", the first {} of which are looked at", explanation.paths.len()));
        }
        text.push('\n');
    }
    for path in &explanation.paths {
        text.push('\n');
        if explanation.translation.is_some() {
            let verdict = if path.verdict.allowed { "allowed" } else { "denied" };
            text.push_str(&format!("to {}: {verdict}\n", at(&path.to, path.port)));
        }
        path_text(path, &mut text);
    }
    text
}

fn path_text(path: &Path, text: &mut String) {
    if path.verdict.steps.is_empty() {
        text.push_str("no policy of this cluster is asked\n");
    } else {
        let steps = path.verdict.steps.iter().zip(&path.behind);
        let rows: Vec<_> = steps.map(|(step, behind)| step_row(step, behind)).collect();
        text.push_str(&table(&["AT", "DIRECTION", "TIER", "DECIDED BY", "ACTION"], &rows));
    }
    if !path.pool.is_empty() {
        text.push_str(&format!("pool {}\n", path.pool));
    }
    for view in &path.nodes {
        node_text(view, text);
    }
    for difference in &path.differences {
        text.push_str(&format!("DIFFERS  {}\n", plain(difference)));
    }
    let asked = path.nodes.iter().filter(|view| view.told.is_ok()).count();
    if path.differences.is_empty() && asked > 0 {
        let unasked = path.nodes.len() - asked;
        let rest = if unasked > 0 { ", as far as it could be asked" } else { "" };
        text.push_str(&format!("policy and kernel agree{rest}\n"));
    }
}

fn step_row(step: &Step, behind: &[String]) -> Vec<String> {
    let direction = match step.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let tier = step.tier.as_deref().unwrap_or("-").to_owned();
    let by = match behind {
        [] => decided_by(step),
        policies => format!("end of tier: no rule of {} matches", policies.join(", ")),
    };
    vec![step.endpoint.to_string(), direction.to_owned(), tier, by, action(step).to_owned()]
}

fn action(step: &Step) -> &'static str {
    match step.action {
        Action::Allow => "Allow",
        Action::Deny => "Deny",
        Action::Log => "Log",
        Action::Pass => "Pass",
    }
}

fn decided_by(step: &Step) -> String {
    let rule = step.rule.map(|rule| format!(" rule {rule}")).unwrap_or_default();
    match (&step.policy, &step.profile, step.cause) {
        (Some(policy), ..) => format!("{policy}{rule}"),
        (None, Some(profile), Cause::Profile) => format!("profile {profile}{rule}"),
        (None, Some(profile), _) => format!("profile {profile}, which is not there"),
        (None, None, cause) => cause_text(cause).to_owned(),
    }
}

fn cause_text(cause: Cause) -> &'static str {
    match cause {
        Cause::Rule => "a rule",
        Cause::EndOfTier => "end of tier: no rule of its policies matches",
        Cause::Profile => "a profile",
        Cause::NoProfile => "no profile allows it",
        Cause::Closed => "the pod or its namespace is not known",
        Cause::Encapsulated => "pods may not send encapsulated packets",
        Cause::ToHost => "defaultEndpointToHostAction",
        Cause::NodeToOwnPod => "a node may reach its own pods",
        Cause::NeighbourDiscovery => "neighbour discovery",
        Cause::Failsafe => "a failsafe port",
        Cause::Spoofed => "its source is not an address of the pod",
        Cause::ServiceLoop => "a Service's address that nobody translates",
    }
}

fn node_text(view: &NodeView, text: &mut String) {
    let node = &view.node;
    let told = match &view.told {
        Ok(told) => told,
        Err(reason) => {
            text.push_str(&format!("node {node}: not asked: {}\n", plain(reason)));
            return;
        }
    };
    let way = |interface: &str| if interface.is_empty() { "itself".to_owned() } else { interface.to_owned() };
    let reason = told.decided_by.as_ref().map(|drop| format!(" by {} ({})", by(drop), drop.direction));
    text.push_str(&format!(
        "node {node}: kernel rules: {}{}, from {} to {}\n",
        told.verdict,
        reason.unwrap_or_default(),
        way(&told.from_interface),
        way(&told.to_interface)
    ));
    if let Some(route) = &told.route {
        text.push_str(&format!("  route       {}\n", route_text(route)));
    }
    if let Some(learned) = &view.learned_from {
        text.push_str(&format!("  BGP         {}\n", learned_text(learned)));
    }
    for connection in &told.connections {
        text.push_str(&format!(
            "  connection  {}:{} -> {}:{} answered by {} ({})\n",
            connection.source,
            connection.source_port,
            connection.destination,
            connection.destination_port,
            connection.answered_by,
            connection.state
        ));
    }
    for problem in &told.problems {
        text.push_str(&format!("  problem     {}\n", plain(problem)));
    }
}

pub(crate) fn learned_text(learned: &LearnedFrom) -> String {
    let peer =
        if learned.peer == "local" { "this node".to_owned() } else { format!("peer {}", learned.peer) };
    let reason =
        if learned.reason.is_empty() { String::new() } else { format!(", best for {}", learned.reason) };
    format!("{} from {peer}{reason}", learned.prefix)
}

pub(crate) fn route_text(route: &api::Route) -> String {
    if route.prefix.is_empty() {
        return "none".to_owned();
    }
    let mut text = route.prefix.clone();
    if route.kind != "unicast" {
        text.push_str(&format!(" {}", route.kind));
    }
    let words = [("via", &route.gateway), ("dev", &route.interface), ("proto", &route.protocol)];
    for (word, value) in words.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!(" {word} {value}"));
    }
    if route.mtu > 0 {
        text.push_str(&format!(", MTU {}", route.mtu));
    }
    if !["", "none"].contains(&route.encapsulation.as_str()) {
        text.push_str(&format!(", encapsulated in {}", route.encapsulation));
    }
    if !route.outer_destination.is_empty() {
        text.push_str(&format!(" from {} to {}", route.outer_source, route.outer_destination));
    }
    if !route.neighbour.is_empty() {
        text.push_str(&format!(", neighbour {}", route.neighbour));
    }
    text
}

pub(crate) fn end_json(end: &End) -> Value {
    json!({
        "name": end.name,
        "address": end.address.to_string(),
        "node": end.node.as_ref().map(ToString::to_string),
    })
}

/// For programs.
pub(super) fn json(explanation: &Explanation) -> Value {
    let translation = explanation.translation.as_ref().map(|translation| {
        json!({
            "service": translation.service.to_string(),
            "address": translation.address.to_string(),
            "port": translation.port,
            "leftOut": translation.left_out,
        })
    });
    json!({
        "from": end_json(&explanation.from),
        "to": end_json(&explanation.asked),
        "protocol": explanation.protocol.to_string(),
        "port": explanation.port,
        "allowed": explanation.is_allowed(),
        "differs": explanation.differs(),
        "translation": translation,
        "paths": explanation.paths.iter().map(path_json).collect::<Vec<_>>(),
    })
}

fn path_json(path: &Path) -> Value {
    json!({
        "to": end_json(&path.to),
        "port": path.port,
        "allowed": path.verdict.allowed,
        "pool": path.pool,
        "steps": path.verdict.steps.iter().zip(&path.behind).map(|(step, b)| step_json(step, b)).collect::<Vec<_>>(),
        "nodes": path.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "differences": path.differences,
    })
}

fn step_json(step: &Step, behind: &[String]) -> Value {
    let (kind, endpoint) = match &step.endpoint {
        Endpoint::Pod(pod) => ("pod", pod.to_string()),
        Endpoint::Host(name) => ("hostEndpoint", name.to_string()),
        Endpoint::Node => ("node", String::new()),
    };
    json!({
        "endpoint": endpoint,
        "endpointKind": kind,
        "direction": format!("{:?}", step.direction).to_lowercase(),
        "tier": step.tier.as_deref(),
        "policy": step.policy.as_ref().map(ToString::to_string),
        "policies": behind,
        "profile": step.profile.as_deref(),
        "rule": step.rule,
        "cause": format!("{:?}", step.cause),
        "action": action(step),
    })
}

fn node_json(view: &NodeView) -> Value {
    let node = view.node.to_string();
    let told = match &view.told {
        Ok(told) => told,
        Err(reason) => return json!({ "node": node, "notAsked": reason }),
    };
    let rules = told.rules.iter().map(
        |rule| json!({ "table": rule.table, "chain": rule.chain, "number": rule.number, "rule": rule.rule }),
    );
    let connections = told.connections.iter().map(|connection| {
        json!({
            "source": connection.source,
            "sourcePort": connection.source_port,
            "destination": connection.destination,
            "destinationPort": connection.destination_port,
            "answeredBy": connection.answered_by,
            "state": connection.state,
        })
    });
    let route = told.route.as_ref().map(route_json);
    let learned = view.learned_from.as_ref().map(learned_json);
    json!({
        "node": node,
        "verdict": told.verdict,
        "decidedBy": told.decided_by.as_ref().map(record_json),
        "fromInterface": told.from_interface,
        "toInterface": told.to_interface,
        "rules": rules.collect::<Vec<_>>(),
        "connections": connections.collect::<Vec<_>>(),
        "route": route,
        "bgp": learned,
        "problems": told.problems,
    })
}

pub(crate) fn route_json(route: &api::Route) -> Value {
    json!({
        "prefix": route.prefix,
        "gateway": route.gateway,
        "interface": route.interface,
        "kind": route.kind,
        "protocol": route.protocol,
        "mtu": route.mtu,
        "encapsulation": route.encapsulation,
        "neighbour": route.neighbour,
        "outerSource": route.outer_source,
        "outerDestination": route.outer_destination,
        "outerInterface": route.outer_interface,
        "outerMtu": route.outer_mtu,
    })
}

pub(crate) fn learned_json(learned: &LearnedFrom) -> Value {
    json!({
        "prefix": learned.prefix,
        "peer": learned.peer,
        "nextHop": learned.next_hop,
        "asPath": learned.as_path,
        "reason": learned.reason,
    })
}
