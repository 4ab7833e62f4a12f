//! Is everything as it was? Objects against Calico's, pods against blocks, each node's kernel against what its agent
//! wants, and packets between nodes.

mod paths;

use std::collections::BTreeMap;
use std::net::IpAddr;

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
    pub(super) state: State,
}

/// How it is.
#[derive(Debug)]
pub(super) enum State {
    /// As it should be.
    Right,
    /// As it should be, and what was seen.
    Seen(String),
    /// It cannot be told from here.
    Unsure(String),
    Wrong(String),
}

impl State {
    fn of(wrong: Option<String>) -> Self {
        wrong.map_or(Self::Right, Self::Wrong)
    }
}

impl Finding {
    pub(super) fn is_wrong(&self) -> bool {
        matches!(self.state, State::Wrong(_))
    }
}

/// A pod with addresses of its own.
pub(super) struct Pod {
    /// `namespace/name`.
    name: String,
    node: String,
    addresses: Vec<IpAddr>,
}

/// Looks at all that the API server knows of; gives back the pods, too.
pub(super) async fn findings(api: &Api, plan: &Plan) -> Result<(Vec<Finding>, Vec<Pod>), CallError> {
    let mut all = nodes(plan);
    if plan.is_under_way() {
        all.extend(objects(plan));
    }
    let ours = holders(&api.list(&path(OURS, "ipamblocks", None)).await?.unwrap_or_default());
    let pods: Vec<Pod> =
        api.list("/api/v1/pods").await?.unwrap_or_default().iter().filter_map(running).collect();
    all.extend(addresses(plan, &pods, &ours));
    Ok((all, pods))
}

/// A pod that is neither over nor on the node's own network.
fn running(pod: &Value) -> Option<Pod> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
    let is_over = matches!(text("/status/phase"), Some("Succeeded" | "Failed"));
    if is_over || pod["spec"]["hostNetwork"] == true {
        return None;
    }
    let listed = pod.pointer("/status/podIPs").and_then(Value::as_array);
    let addresses = listed.into_iter().flatten().filter_map(|one| one["ip"].as_str()?.parse().ok());
    Some(Pod {
        name: format!("{}/{}", namespace(pod).unwrap_or_default(), name(pod)),
        node: text("/spec/nodeName")?.to_owned(),
        addresses: addresses.collect(),
    })
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
        Finding {
            node: node.name.clone(),
            what: format!("agent: {}", node.agent.name()),
            state: State::of(wrong),
        }
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
        state: State::Wrong("is not here as Calico has it: run apply again".to_owned()),
    })
    .collect()
}

/// Every pod's address is its own, on nodes that have moved.
fn addresses(plan: &Plan, pods: &[Pod], ours: &BTreeMap<IpAddr, String>) -> Vec<Finding> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let has_moved = |pod: &&Pod| plan.nodes.iter().any(|of| of.name == pod.node && of.agent == Agent::Ocicat);
    for pod in pods.iter().filter(has_moved) {
        for address in &pod.addresses {
            *counts.entry(&pod.node).or_default() += 1;
            let holder = ours.get(address);
            if holder.is_none_or(|holder| *holder != pod.name) {
                let holder = holder.map_or("nobody's", String::as_str);
                let reason = format!("{address} of pod {} is {holder} in IPAM", pod.name);
                let (node, what) = (pod.node.clone(), "addresses".to_owned());
                wrong.push(Finding { node, what, state: State::Wrong(reason) });
            }
        }
    }
    let right = counts.into_iter().filter(|(node, _)| !wrong.iter().any(|finding| finding.node == *node));
    let right: Vec<_> = right
        .map(|(node, count)| {
            let what = format!("{count} addresses of pods");
            Finding { node: node.to_owned(), what, state: State::Right }
        })
        .collect();
    right.into_iter().chain(wrong).collect()
}

/// Who holds each address, as `namespace/name`.
fn holders(blocks: &[Value]) -> BTreeMap<IpAddr, String> {
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
                state: State::Wrong(format!("no agent answers: {error}")),
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
        Finding { node: node.name.clone(), what: what.clone(), state: State::of(wrong) }
    };
    moved.iter().map(finding).collect()
}

pub(super) use paths::paths;

pub(super) fn text(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let state = match &finding.state {
            State::Right => "as it should be".to_owned(),
            State::Seen(words) | State::Unsure(words) | State::Wrong(words) => plain(words),
        };
        let node = if finding.node.is_empty() { "-".to_owned() } else { finding.node.clone() };
        vec![node, plain(&finding.what), state]
    };
    table(&["NODE", "WHAT", "STATE"], &findings.iter().map(row).collect::<Vec<_>>())
}

/// `ok` is null where it cannot be told.
pub(super) fn json(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let (ok, reason) = match &finding.state {
            State::Right => (Some(true), None),
            State::Seen(words) => (Some(true), Some(words)),
            State::Unsure(words) => (None, Some(words)),
            State::Wrong(words) => (Some(false), Some(words)),
        };
        json!({"node": finding.node, "what": finding.what, "ok": ok, "reason": reason})
    };
    Value::Array(findings.iter().map(one).collect())
}
