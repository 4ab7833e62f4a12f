//! Measures the CNI plugin with the real agent, its IPAM and its policy, beside Debian's `ptp` and `bridge` with
//! `host-local`, all on one lab node in one run. `make bench-cni`; docs/benchmarks.md keeps method and figures.
//! An argument names the plugin's binary; otherwise it is that of this build. `PARTS=crowd,burst` runs only some.

mod node;
mod packets;
mod plugin;
mod report;

use std::error::Error;
use std::time::Duration;

use e2e::{Cluster, Options, within};
use serde_json::Value;

use node::Node;
use plugin::{Candidate, Sandbox};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PODS: usize = 20;
const ROUNDS: usize = 5;
const BURST: usize = 30;
const PARALLEL: usize = 8;
const CROWD: usize = 250;
const FIRST_PACKETS: usize = 30;

fn main() -> Outcome<()> {
    let cluster = Cluster::up("bcni", &Options { nodes: 1, subnets: 1, tor: "none", ..Options::default() });
    let pods = create_pods(&cluster, CROWD + 2 * FIRST_PACKETS)?;
    let node = Node::open(&cluster, "n1")?;
    let subjects = [
        Candidate::calico(&cluster.socket("n1", "felix.sock")),
        Candidate::ptp(&node.scratch),
        Candidate::bridge(&node.scratch),
    ];
    report::binary(&subjects[0].binary)?;
    let is_wanted =
        |part: &str| std::env::var("PARTS").map_or(true, |parts| parts.split(',').any(|p| p == part));
    if is_wanted("iptables") {
        enforce_by(&cluster, "Disabled")?;
        in_turn(&node, &subjects[..2], &pods, "policy in iptables")?;
    }
    enforce_by(&cluster, "Enabled")?;
    if is_wanted("nftables") {
        in_turn(&node, &subjects, &pods, "policy in nftables")?;
    }
    if is_wanted("burst") {
        burst(&node, &subjects[..2], &pods)?;
    }
    if is_wanted("crowd") {
        crowd(&node, &subjects, &pods)?;
    }
    if is_wanted("packets") {
        first_packets(&node, &subjects[0], &pods)?;
    }
    report::stages(&cluster.exec("n1", &["curl", "-s", "http://127.0.0.1:9099/metrics"]));
    Ok(())
}

fn first_packets(node: &Node, calico: &Candidate, pods: &[(String, String)]) -> Outcome<()> {
    packets::first(node, calico, &pods[..FIRST_PACKETS], "with a default route")?;
    node.without_default_route(|| {
        packets::first(node, calico, &pods[FIRST_PACKETS..2 * FIRST_PACKETS], "without one")
    })
}

/// Pods that the agent knows and the lab's kubelet leaves alone: name and UID.
fn create_pods(cluster: &Cluster, count: usize) -> Outcome<Vec<(String, String)>> {
    let pod = |number: usize| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}, labels: {{app: bench}}, annotations: {{lab/kubelet: none}}}}\nspec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}\n"
        )
    };
    let policy = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: bench}
spec:
  podSelector: {matchLabels: {app: bench}}
  ingress: [{from: [{podSelector: {matchLabels: {app: bench}}}]}]
";
    let documents: Vec<String> = (0..count).map(pod).chain([policy.to_owned()]).collect();
    let created = cluster.kubectl_with(&["create", "-f", "-"], &documents.join("---\n"));
    if !created.status.success() {
        return Err(String::from_utf8_lossy(&created.stderr).into());
    }
    let listed: Value = serde_json::from_str(&cluster.kubectl_ok(&["get", "pods", "-o", "json"]))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    Ok(items.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect())
}

/// Says where policy is enforced, and waits until it is.
fn enforce_by(cluster: &Cluster, mode: &str) -> Outcome<()> {
    cluster.apply(&format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{nftablesMode: {mode}}}\n"
    ));
    let is_there =
        || cluster.exec("n1", &["nft", "list", "tables"]).contains("calico") == (mode == "Enabled");
    within(20, "policy moves", is_there, |done| *done);
    // The place that was left is emptied a moment later.
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

/// One pod after the other; the plugins take turns and change who comes first.
fn in_turn(node: &Node, subjects: &[Candidate], pods: &[(String, String)], how: &str) -> Outcome<()> {
    let mut adds: Vec<_> = subjects.iter().map(|_| report::Samples::default()).collect();
    let mut dels: Vec<_> = subjects.iter().map(|_| report::Samples::default()).collect();
    for turn in 0..PODS * ROUNDS {
        for place in 0..subjects.len() {
            let which = (turn + place) % subjects.len();
            let sandbox = Sandbox::new(&format!("turn{turn}x{which}"), &pods[turn % pods.len()])?;
            adds[which].push(node.measure(&subjects[which], "ADD", &sandbox)?);
            dels[which].push(node.measure(&subjects[which], "DEL", &sandbox)?);
        }
    }
    let names: Vec<_> = subjects.iter().map(|subject| subject.name).collect();
    report::in_turn(how, &names, &adds, &dels);
    Ok(())
}

/// Many pods at once, as after a node's start.
fn burst(node: &Node, subjects: &[Candidate], pods: &[(String, String)]) -> Outcome<()> {
    let mut rates = vec![Vec::new(); subjects.len()];
    for round in 0..ROUNDS {
        for place in 0..subjects.len() {
            let which = (round + place) % subjects.len();
            let make = |number: usize| Sandbox::new(&format!("burst{round}x{which}x{number}"), &pods[number]);
            let sandboxes: Vec<_> = (0..BURST).map(make).collect::<Outcome<_>>()?;
            rates[which].push(node.burst(&subjects[which], &sandboxes, PARALLEL)?);
            for sandbox in &sandboxes {
                node.measure(&subjects[which], "DEL", sandbox)?;
            }
        }
    }
    report::burst(&mut rates);
    Ok(())
}

/// The node fills up, by one plugin after the other.
fn crowd(node: &Node, subjects: &[Candidate], pods: &[(String, String)]) -> Outcome<()> {
    println!("\n{CROWD} pods on the node, ADD");
    for (which, subject) in subjects.iter().enumerate() {
        let make = |number: usize| Sandbox::new(&format!("crowd{which}x{number}"), &pods[number]);
        let sandboxes: Vec<_> = (0..CROWD).map(make).collect::<Outcome<_>>()?;
        let mut samples = report::Samples::default();
        for sandbox in &sandboxes {
            samples.push(node.measure(subject, "ADD", sandbox)?);
        }
        report::crowd(subject.name, &samples);
        for sandbox in &sandboxes {
            node.measure(subject, "DEL", sandbox)?;
        }
    }
    Ok(())
}
