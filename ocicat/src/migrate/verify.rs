//! Is everything as it was? Objects against Calico's, pods against blocks, and each node's kernel against what its agent
//! wants.

use std::collections::BTreeMap;

use migrate::{Agent, LABEL, OURS, owner};
use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use serde_json::{Value, json};

use super::api::{Api, name, namespace, path};
use super::plan::{Action, Plan};
use crate::client::CallError;
use crate::felix::FelixTarget;
use crate::table::{plain, table};

/// One thing that was looked at.
pub(super) struct Finding {
    pub(super) node: String,
    pub(super) what: String,
    /// `None`: it is as it should be.
    pub(super) wrong: Option<String>,
}

/// Looks at all of it.
pub(super) async fn findings(api: &Api, plan: &Plan) -> Result<Vec<Finding>, CallError> {
    let mut all = nodes(plan);
    if plan.is_under_way() {
        all.extend(objects(plan));
    }
    all.extend(pods(api, plan).await?);
    Ok(all)
}

fn nodes(plan: &Plan) -> Vec<Finding> {
    let finding = |node: &migrate::NodeView| {
        let (there, other) = match node.agent {
            Agent::Ocicat => (node.ours, node.calico),
            _ => (node.calico, node.ours),
        };
        let wrong = match (node.agent, there, other) {
            (Agent::Moving, ..) => Some("it is between two agents: run apply or back again".to_owned()),
            (_, _, Some(_)) => Some(format!("both agents are there: see label {LABEL}")),
            (_, None, _) => Some("its agent has no pod there".to_owned()),
            (_, Some(pod), _) if !pod.is_ready => Some("its agent is not ready".to_owned()),
            _ if !node.is_ready => Some("the node is not Ready".to_owned()),
            _ => None,
        };
        Finding { node: node.name.clone(), what: format!("agent: {}", node.agent.name()), wrong }
    };
    plan.nodes.iter().map(finding).collect()
}

/// As long as Calico has a node its objects count.
fn objects(plan: &Plan) -> Vec<Finding> {
    let counted =
        plan.entries.iter().filter(|entry| !entry.kind.is_ipam && entry.kind.name != "IPAMConfiguration");
    let late = counted.filter(|entry| matches!(entry.action, Action::Create | Action::Update));
    late.map(|entry| Finding {
        node: String::new(),
        what: format!("{} {}", entry.kind.name, entry.name),
        wrong: Some("is not here as Calico has it: run apply again".to_owned()),
    })
    .collect()
}

/// Every pod's address is its own, in the group that counts for its node.
async fn pods(api: &Api, plan: &Plan) -> Result<Vec<Finding>, CallError> {
    let ours = holders(&api.list(&path(OURS, "ipamblocks", None)).await?.unwrap_or_default());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for pod in api.list("/api/v1/pods").await?.unwrap_or_default() {
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().to_owned();
        let has_moved = plan.nodes.iter().any(|of| of.name == node && of.agent == Agent::Ocicat);
        let is_over =
            matches!(pod.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
        if pod["spec"]["hostNetwork"] == true || !has_moved || is_over {
            continue;
        }
        let pod_name = format!("{}/{}", namespace(&pod).unwrap_or_default(), name(&pod));
        let listed = pod.pointer("/status/podIPs").and_then(Value::as_array);
        for address in listed.into_iter().flatten().filter_map(|one| one["ip"].as_str()) {
            *counts.entry(node.clone()).or_default() += 1;
            let holder = address.parse().ok().and_then(|address: std::net::IpAddr| ours.get(&address));
            if holder.is_none_or(|holder| *holder != pod_name) {
                let holder = holder.map_or("nobody's", String::as_str);
                let reason = format!("{address} of pod {pod_name} is {holder} in IPAM");
                wrong.push(Finding { node: node.clone(), what: "addresses".to_owned(), wrong: Some(reason) });
            }
        }
    }
    let right = counts.into_iter().filter(|(node, _)| !wrong.iter().any(|finding| finding.node == *node));
    let right: Vec<_> = right
        .map(|(node, count)| Finding { node, what: format!("{count} addresses of pods"), wrong: None })
        .collect();
    Ok(right.into_iter().chain(wrong).collect())
}

/// Who holds each address, as `namespace/name`.
fn holders(blocks: &[Value]) -> BTreeMap<std::net::IpAddr, String> {
    let mut held = BTreeMap::new();
    for spec in blocks.iter().map(|block| &block["spec"]).filter(|spec| owner(spec).is_some()) {
        let Some(cidr) = spec["cidr"].as_str().and_then(|cidr| cidr.parse::<model::Cidr>().ok()) else {
            continue;
        };
        for (ordinal, entry) in spec["allocations"].as_array().into_iter().flatten().enumerate() {
            let attribute =
                entry.as_u64().and_then(|index| spec["attributes"].get(usize::try_from(index).ok()?));
            let secondary = attribute.map(|of| &of["secondary"]);
            let text = |key: &str| secondary.and_then(|of| of[key].as_str()).unwrap_or_default();
            if let Some(address) = cidr.nth(ordinal as u128).filter(|_| attribute.is_some()) {
                held.insert(address, format!("{}/{}", text("namespace"), text("pod")));
            }
        }
    }
    held
}

/// Asks each agent of ours whether the kernel has its routes and rules.
pub(super) fn kernels(target: &FelixTarget, plan: &Plan) -> Vec<Finding> {
    let moved: Vec<_> = plan.nodes.iter().filter(|node| node.agent == Agent::Ocicat).collect();
    if moved.is_empty() {
        return Vec::new();
    }
    let what = "routes and rules in the kernel".to_owned();
    let answers = target.ask_each(&Call::Audit(request::Audit {}), |answer| match answer {
        Answer::Audit(audit) => Some((audit.node.clone(), audit)),
        _ => None,
    });
    let audits = match answers {
        Ok(answers) => answers.given,
        Err(error) => {
            return vec![Finding {
                node: String::new(),
                what,
                wrong: Some(format!("no agent answers: {error}")),
            }];
        }
    };
    let finding = |node: &&migrate::NodeView| {
        let wrong = match audits.iter().find(|audit| audit.node == node.name) {
            None => Some("its agent does not answer".to_owned()),
            Some(audit) => match (audit.differences.first(), audit.problems.first()) {
                (Some(first), _) => Some(format!(
                    "{} differ, first {} {}: {}",
                    audit.differences.len(),
                    first.kind,
                    first.entry,
                    first.what
                )),
                (None, Some(problem)) => Some(problem.clone()),
                (None, None) => None,
            },
        };
        Finding { node: node.name.clone(), what: what.clone(), wrong }
    };
    moved.iter().map(finding).collect()
}

pub(super) fn text(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let wrong = finding.wrong.as_deref().map_or_else(|| "as it should be".to_owned(), plain);
        let node = if finding.node.is_empty() { "-".to_owned() } else { finding.node.clone() };
        vec![node, plain(&finding.what), wrong]
    };
    table(&["NODE", "WHAT", "STATE"], &findings.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn json(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| json!({"node": finding.node, "what": finding.what, "ok": finding.wrong.is_none(), "reason": finding.wrong});
    Value::Array(findings.iter().map(one).collect())
}
