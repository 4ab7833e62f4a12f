//! `ocicat status`: one screen that says whether the network is well, problems first.
//!
//! Owns what is asked and how it looks. Agents are asked live; the API server adds nodes, pools and their use. Either may
//! be away: what is known is shown, and what could not be asked is a problem.

use clap::Args;
use datastore::ObjectKind;
use ipam::gc::{PoolUsage, usage};
use proto::felix::{self as api, request::Call};
use proto::speaker::{self, Summary};
use serde_json::{Value, json};

use crate::client::{Answers, CallError, call, each};
use crate::cluster::{away, connect, runtime};
use crate::felix::ask;
use crate::reach::{Agent, Kind, Places, Reach};
use crate::table::{duration, plain, table};
use crate::{Format, OutputOptions, Report};

#[derive(Args)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: OutputOptions,
}

#[cfg(test)]
impl StatusOptions {
    pub(crate) fn cluster(&self) -> &crate::cluster::ClusterOptions {
        &self.reach.cluster
    }
}

/// What is known of the cluster.
#[derive(Debug, Default)]
struct Seen {
    /// Where the answers come from, in words.
    place: String,
    /// Nodes with what the cluster says of them; `None` when the API server was not asked.
    nodes: Option<Result<Vec<ClusterNode>, String>>,
    pools: Vec<PoolUsage>,
    /// Node agents that answered, and what the others did instead.
    policies: Vec<api::PolicyStatus>,
    speakers: Vec<Summary>,
    silent: Vec<String>,
}

/// A node as the cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClusterNode {
    name: String,
    is_ready: bool,
    /// Why it is not, or what else the cluster complains of.
    complaint: String,
}

/// All is well when there is no problem.
pub(crate) fn run(options: &StatusOptions) -> Result<Report, CallError> {
    let seen = look(&options.reach)?;
    let problems = problems(&seen);
    let text = match options.output.output {
        Format::Json => format!("{:#}\n", json_of(&seen, &problems)),
        Format::Table => screen(&seen, &problems),
    };
    Ok(Report::new(text, problems.is_empty()))
}

fn look(reach: &Reach) -> Result<Seen, CallError> {
    let places = reach.places();
    let mut seen = Seen { place: place_name(&places), ..Seen::default() };
    let felix = places.agents(Kind::Felix);
    let speakers = places.agents(Kind::BirdLite);
    let nobody = felix.is_err() && speakers.is_err();
    std::thread::scope(|scope| {
        let cluster = (!reach.is_local()).then(|| scope.spawn(|| read_cluster(reach)));
        let speaking = scope.spawn(|| each(speakers.as_deref().unwrap_or_default(), summary));
        let programmed = each(felix.as_deref().unwrap_or_default(), policy_status);
        let (policies, silent) = Answers::sorted(programmed);
        (seen.policies, seen.silent) = (policies, silent);
        let (speakers, silent) = Answers::sorted(speaking.join().unwrap_or_default());
        seen.speakers = speakers;
        seen.silent.extend(silent);
        match cluster.map(|cluster| cluster.join()) {
            Some(Ok(Ok((nodes, pools)))) => (seen.nodes, seen.pools) = (Some(Ok(nodes)), pools),
            Some(Ok(Err(error))) => seen.nodes = Some(Err(error.to_string())),
            Some(Err(_)) | None => {}
        }
    });
    match (nobody, &seen.nodes) {
        // Nobody at all: then the first reason counts.
        (true, None | Some(Err(_))) => felix.map(|_| seen),
        (true, Some(Ok(_))) => {
            seen.silent.extend(felix.err().map(|error| error.to_string()));
            Ok(seen)
        }
        _ => Ok(seen),
    }
}

fn place_name(places: &Places) -> String {
    match places {
        Places::Lab(lab) => format!("lab {}", lab.file_name().unwrap_or_default().to_string_lossy()),
        Places::Here { .. } => "this machine".to_owned(),
        Places::Pods { namespace, pods, .. } => {
            format!("cluster ({} calico-node pods in {namespace})", pods.len())
        }
    }
}

fn policy_status(agent: &Agent) -> Result<api::PolicyStatus, CallError> {
    match ask(agent, Call::PolicyStatus(api::request::PolicyStatus {}))? {
        api::response::Answer::PolicyStatus(status) => Ok(status),
        _ => Err(CallError::other_version(agent)),
    }
}

fn summary(agent: &Agent) -> Result<Summary, CallError> {
    let question = speaker::request::Call::Summary(speaker::request::Summary::default());
    let response: speaker::Response = call(agent, &speaker::Request { call: Some(question) })?;
    match response.answer {
        Some(speaker::response::Answer::Summary(summary)) => Ok(summary),
        _ => Err(CallError::other_version(agent)),
    }
}

fn read_cluster(reach: &Reach) -> Result<(Vec<ClusterNode>, Vec<PoolUsage>), CallError> {
    runtime()?.block_on(async {
        let datastore = connect(&reach.cluster).await?;
        let kind = ObjectKind { group: "", version: "v1", kind: "Node", plural: "nodes" };
        let nodes = datastore.objects(kind, None).await.map_err(away)?;
        let (inventory, _) = crate::ipam::read(&datastore).await?;
        Ok((nodes.iter().map(cluster_node).collect(), usage(&inventory.pools, &inventory.blocks)))
    })
}

/// What a Node's conditions say.
fn cluster_node(object: &Value) -> ClusterNode {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let condition = |kind: &str| conditions.into_iter().flatten().find(|c| c["type"] == kind);
    let words = |condition: &Value| {
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        plain(&format!("{} {}", text("reason"), text("message"))).trim().to_owned()
    };
    let ready = condition("Ready");
    let is_ready = ready.is_some_and(|condition| condition["status"] == "True");
    let unreachable = condition("NetworkUnavailable").filter(|condition| condition["status"] == "True");
    let complaint = match (is_ready, ready, unreachable) {
        (_, _, Some(condition)) => format!("its network is unavailable: {}", words(condition)),
        (true, ..) => String::new(),
        (false, Some(condition), None) => format!("it is not ready: {}", words(condition)),
        (false, None, None) => "it is not ready: its kubelet has not said anything".to_owned(),
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    ClusterNode { name, is_ready, complaint }
}

/// What is wrong, in words, the gravest first.
fn problems(seen: &Seen) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    match &seen.nodes {
        Some(Err(reason)) => all.push(plain(reason)),
        Some(Ok(nodes)) => {
            let complaining = nodes.iter().filter(|node| !node.complaint.is_empty());
            all.extend(complaining.map(|node| format!("{}: {}", node.name, node.complaint)));
        }
        None => {}
    }
    all.extend(seen.silent.iter().map(|reason| plain(reason)));
    for speaker in &seen.speakers {
        let node = if speaker.node.is_empty() { "reflector" } else { &speaker.node };
        all.extend(speaker.problems.iter().map(|problem| format!("{node}: {}", plain(problem))));
        let down = speaker.peers.iter().filter(|peer| peer.state != "Established" && !peer.retiring);
        all.extend(down.map(|peer| {
            let what = if peer.description.is_empty() { &peer.address } else { &peer.description };
            let (state, since) = (&peer.state, duration(peer.seconds));
            format!("{node}: session with {} is {state} for {since}: {}", plain(what), plain(&peer.cause))
        }));
        let pending = speaker.pending.iter();
        all.extend(pending.map(|route| {
            format!("{node}: route to {} is not in the kernel: {}", route.prefix, plain(&route.reason))
        }));
    }
    for node in &seen.policies {
        let missing = node.policies.iter().filter(|policy| !policy.programmed);
        all.extend(missing.map(|policy| {
            format!("{}: {} is not in the kernel: {}", node.node, policy.policy, plain(&policy.error))
        }));
    }
    for pool in &seen.pools {
        if let Some((name, cidr)) = &pool.pool
            && pool.usage.total > 0
            && pool.usage.free() * 10 < pool.usage.total
        {
            let free = pool.usage.free();
            all.push(format!("IPPool {name} ({cidr}) is nearly full: {free} addresses are free"));
        }
    }
    all
}

/// Counts that stand on the screen.
struct Counts {
    sessions: usize,
    sessions_up: usize,
    policies: usize,
    programmed: usize,
}

fn counts(seen: &Seen) -> Counts {
    let peers = || seen.speakers.iter().flat_map(|speaker| &speaker.peers).filter(|peer| !peer.retiring);
    let policies = || seen.policies.iter().flat_map(|node| &node.policies);
    Counts {
        sessions: peers().count(),
        sessions_up: peers().filter(|peer| peer.state == "Established").count(),
        policies: policies().count(),
        programmed: policies().filter(|policy| policy.programmed).count(),
    }
}

fn screen(seen: &Seen, problems: &[String]) -> String {
    let mut out = String::new();
    match problems.len() {
        0 => out.push_str("All is well.\n\n"),
        count => {
            out.push_str(&format!("{count} problem{}:\n", if count == 1 { "" } else { "s" }));
            for problem in problems.iter().take(MOST_PROBLEMS) {
                out.push_str(&format!("  {problem}\n"));
            }
            if count > MOST_PROBLEMS {
                out.push_str(&format!("  and {} more: -o json shows all\n", count - MOST_PROBLEMS));
            }
            out.push('\n');
        }
    }
    let counts = counts(seen);
    out.push_str(&format!("asked     {}\n", seen.place));
    if let Some(Ok(nodes)) = &seen.nodes {
        let ready = nodes.iter().filter(|node| node.is_ready && node.complaint.is_empty()).count();
        out.push_str(&format!("nodes     {ready} of {} ready\n", nodes.len()));
    }
    out.push_str(&format!(
        "agents    {} node agents and {} speakers answer\n",
        seen.policies.len(),
        seen.speakers.len()
    ));
    out.push_str(&format!("sessions  {} of {} up\n", counts.sessions_up, counts.sessions));
    out.push_str(&format!(
        "policies  {} of {} in the kernels that need them\n",
        counts.programmed, counts.policies
    ));
    let rows: Vec<Vec<String>> = seen.pools.iter().filter_map(pool_row).collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&table(&["POOL", "CIDR", "IN USE", "FREE"], &rows));
    }
    out
}

/// Lines of problems that fit a screen.
const MOST_PROBLEMS: usize = 12;

fn pool_row(pool: &PoolUsage) -> Option<Vec<String>> {
    let (name, cidr) = pool.pool.as_ref()?;
    let usage = &pool.usage;
    let percent = (usage.in_use * 100).checked_div(usage.total).unwrap_or(0);
    let used = format!("{} ({percent}%)", usage.in_use);
    Some(vec![name.clone(), cidr.to_string(), used, crate::ipam::number(usage.free())])
}

fn json_of(seen: &Seen, problems: &[String]) -> Value {
    let counts = counts(seen);
    let nodes = seen.nodes.as_ref().and_then(|nodes| nodes.as_ref().ok());
    let nodes = nodes.map(|nodes| {
        let one = |node: &ClusterNode| {
            json!({ "name": node.name, "ready": node.is_ready, "complaint": node.complaint })
        };
        nodes.iter().map(one).collect::<Vec<_>>()
    });
    let pools = seen.pools.iter().filter_map(|pool| {
        let (name, cidr) = pool.pool.as_ref()?;
        let number = |count: u128| u64::try_from(count).map_or_else(|_| json!(count.to_string()), Value::from);
        Some(json!({
            "name": name, "cidr": cidr.to_string(),
            "total": number(pool.usage.total), "inUse": number(pool.usage.in_use), "free": number(pool.usage.free()),
        }))
    });
    json!({
        "problems": problems,
        "asked": seen.place,
        "nodes": nodes,
        "agents": { "felix": seen.policies.len(), "speakers": seen.speakers.len() },
        "sessions": { "expected": counts.sessions, "up": counts.sessions_up },
        "policies": { "needed": counts.policies, "programmed": counts.programmed },
        "pools": pools.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use ipam::gc::Usage;
    use proto::felix::{PolicyStatus, ProgrammedPolicy};
    use proto::speaker::Peer;

    use super::*;

    fn seen() -> Seen {
        let peer = |address: &str, state: &str, cause: &str| Peer {
            address: address.into(),
            state: state.into(),
            cause: cause.into(),
            seconds: 75,
            ..Peer::default()
        };
        let peers = vec![
            peer("192.0.2.2", "Established", ""),
            peer("192.0.2.9", "Active", "wrong AS: expected 1, got 2"),
        ];
        let policy =
            ProgrammedPolicy { policy: "knp/default/deny".into(), programmed: true, ..Default::default() };
        Seen {
            place: "lab x".into(),
            nodes: Some(Ok(vec![ClusterNode {
                name: "n1".into(),
                is_ready: true,
                complaint: String::new(),
            }])),
            pools: vec![PoolUsage {
                pool: Some(("p".into(), "10.65.0.0/24".parse().unwrap())),
                usage: Usage { total: 256, in_use: 250, ..Usage::default() },
                blocks: Vec::new(),
            }],
            policies: vec![PolicyStatus {
                node: "n1".into(),
                policies: vec![policy],
                ..PolicyStatus::default()
            }],
            speakers: vec![Summary { node: "n1".into(), peers, ..Summary::default() }],
            silent: vec!["cannot ask the node agent (felix) of node n2: gone".into()],
        }
    }

    #[test]
    fn problems_come_first_and_name_their_node() {
        let seen = seen();
        let problems = problems(&seen);

        let expected = "\
3 problems:
  cannot ask the node agent (felix) of node n2: gone
  n1: session with 192.0.2.9 is Active for 1m15s: wrong AS: expected 1, got 2
  IPPool p (10.65.0.0/24) is nearly full: 6 addresses are free

asked     lab x
nodes     1 of 1 ready
agents    1 node agents and 1 speakers answer
sessions  1 of 2 up
policies  1 of 1 in the kernels that need them

POOL  CIDR          IN USE     FREE
p     10.65.0.0/24  250 (97%)  6
";
        assert_eq!(screen(&seen, &problems), expected);
        let json = json_of(&seen, &problems);
        assert_eq!((&json["sessions"]["up"], &json["pools"][0]["free"]), (&1.into(), &6.into()));
    }

    #[test]
    fn conditions_of_a_node_say_why() {
        let node = |conditions: Value| {
            cluster_node(&json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}})).complaint
        };

        assert_eq!(node(json!([{"type": "Ready", "status": "True"}])), "");
        let down =
            json!([{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "no\nCNI"}]);
        assert_eq!(node(down), "it is not ready: KubeletNotReady no CNI");
        let cut = json!([{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True", "reason": "x"}]);
        assert_eq!(node(cut), "its network is unavailable: x");
        assert!(node(json!(7)).contains("not ready"));
    }
}
