//! Every case of `data/netpol-cases.json`, run against a live lab: its truth tables must equal `lab matrix`.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::{BTreeMap, BTreeSet};

use e2e::{Cluster, Options, until};
use serde::Deserialize;
use serde_json::{Value, json};

const CASES: &str = include_str!("../data/netpol-cases.json");

/// The kernel of many machines has no SCTP; rendering and evaluation of SCTP rules are tested without one.
const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];

#[derive(Deserialize)]
struct Suite {
    topologies: BTreeMap<String, Topology>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Topology {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: BTreeMap<String, Pod>,
}

#[derive(Clone, Deserialize)]
struct Pod {
    labels: BTreeMap<String, String>,
    ip: String,
    node: String,
    ports: Vec<Value>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    title: String,
    topology: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    actions: Vec<Value>,
    probes: Vec<(u16, String)>,
    expected: BTreeMap<String, Vec<String>>,
    order: Vec<String>,
}

/// IDs of the cases that are played, with commas between; all unless it is set.
const CHOSEN: &str = "OCICAT_NETPOL_CASES";

#[test]
fn every_case_has_its_truth_table_with_iptables() {
    every_case("netpol", "Disabled");
}

#[test]
fn every_case_has_its_truth_table_with_nftables() {
    every_case("netpolnft", "Enabled");
}

/// A stock kernel with iptables-legacy, which many nodes still run.
#[test]
fn some_cases_have_their_truth_table_on_a_stock_kernel() {
    in_machine("uml", "every_case_has_its_truth_table_with_iptables", Some("cyc-061,cyc-211"));
}

#[test]
#[ignore = "takes an hour or more: make test-vm"]
fn every_case_has_its_truth_table_on_a_stock_kernel_with_iptables() {
    in_machine("uml", "every_case_has_its_truth_table_with_iptables", None);
}

#[test]
#[ignore = "takes hours: make test-vm ENGINE=qemu"]
fn every_case_has_its_truth_table_on_a_stock_kernel_with_nftables() {
    in_machine("qemu", "every_case_has_its_truth_table_with_nftables", None);
}

/// Plays a test of this program on the kernel of a virtual machine.
fn in_machine(engine: &str, test: &str, chosen: Option<&str>) {
    let mut command = std::process::Command::new(e2e::programs().join("lab"));
    command.args(["vm", "--engine", engine, "--timeout", "21600", "--"]);
    command.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]);
    if let Some(chosen) = chosen {
        command.env(CHOSEN, chosen);
    }
    let output = command.output().expect("lab starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "the test did not run: {text}");
}

/// `mode` is FelixConfiguration's `nftablesMode`.
fn every_case(name: &str, mode: &str) {
    let suite: Suite = serde_json::from_str(CASES).unwrap();
    let topology = &suite.topologies["nine"];
    let cluster = Cluster::up(name, &Options::default());
    choose_dataplane(&cluster, mode);
    set_up(&cluster, topology);
    let mut wrong = Vec::new();

    let chosen = std::env::var(CHOSEN).unwrap_or_default();
    let is_chosen = |case: &&Case| chosen.is_empty() || chosen.split(',').any(|id| id == case.id);
    for case in suite.cases.iter().filter(is_chosen) {
        assert_eq!(case.topology, "nine", "{}: only one topology is known", case.id);
        for (number, step) in case.steps.iter().enumerate() {
            step.actions.iter().for_each(|action| act(&cluster, action));
            for difference in differences(&cluster, step) {
                eprintln!("{} ({}), step {}: {difference}", case.id, case.title, number + 1);
                wrong.push(format!("{} step {}", case.id, number + 1));
            }
        }
        reset(&cluster, topology, case);
        eprintln!("{}: {}", case.id, case.title);
    }

    wrong.dedup();
    assert!(wrong.is_empty(), "{} of {} cases differ: {wrong:?}", wrong.len(), suite.cases.len());
}

/// Every node is to have our rules where the setting says, and nowhere else.
fn choose_dataplane(cluster: &Cluster, mode: &str) {
    let configuration = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration",
        "metadata": {"name": "default"},
        "spec": {"nftablesMode": mode},
    });
    cluster.apply(&configuration.to_string());
    for node in ["n1", "n2", "n3"] {
        let look = || {
            // It fails where the kernel has no tables at all.
            let tables = cluster.lab(&["exec", node, "--", "nft", "list", "tables"]).stdout;
            String::from_utf8_lossy(&tables).lines().any(|line| line.trim() == "table ip calico")
        };
        let patience = std::time::Duration::from_secs(240);
        let seen = until(patience, look, |has_table| *has_table == (mode == "Enabled"));
        assert!(seen.is_ok(), "{node}: nftablesMode {mode} is not in force after four minutes");
    }
}

/// What of a step's tables is otherwise than expected. A table counts when it is right twice in a row, since
/// the first look may still have been before the change.
fn differences(cluster: &Cluster, step: &Step) -> Vec<String> {
    let probes: Vec<_> =
        step.probes.iter().filter(|(_, proto)| PROTOCOLS.contains(&proto.as_str())).collect();
    std::thread::scope(|scope| {
        let tables: Vec<_> = probes
            .iter()
            .map(|(port, proto)| {
                scope.spawn(move || {
                    let expected = &step.expected[&format!("{port}/{proto}")];
                    // Most tables are right at once; a busy machine gets more time with each look.
                    let mut time = 300;
                    let look = || {
                        let table = || cluster.matrix(*port, &proto.to_lowercase(), time).table(&step.order);
                        let twice = [table(), table()];
                        time = (2 * time).min(5000);
                        twice
                    };
                    let seen = until(std::time::Duration::from_secs(240), look, |twice| {
                        twice.iter().all(|table| equal(table, expected))
                    });
                    seen.err()
                        .map(|[_, seen]| format!("{port}/{proto}: expected {expected:?}, seen {seen:?}"))
                })
            })
            .collect();
        tables.into_iter().filter_map(|table| table.join().unwrap()).collect()
    })
}

/// `#` in the expectation is not asserted.
fn equal(seen: &[String], expected: &[String]) -> bool {
    let cells =
        |rows: &[String]| rows.iter().flat_map(|row| row.chars().collect::<Vec<_>>()).collect::<Vec<_>>();
    let (seen, expected) = (cells(seen), cells(expected));
    seen.len() == expected.len()
        && seen.iter().zip(&expected).all(|(seen, expected)| *expected == '#' || seen == expected)
}

fn set_up(cluster: &Cluster, topology: &Topology) {
    let mut objects: Vec<Value> =
        topology.namespaces.iter().map(|(name, labels)| namespace(name, labels)).collect();
    objects.extend(topology.pods.iter().map(|(key, spec)| pod(key, spec)));
    cluster.apply(&list(objects));
    cluster.pods_ready();
}

fn act(cluster: &Cluster, action: &Value) {
    let (verb, what) =
        action.as_object().and_then(|object| object.iter().next()).expect("an action has one verb");
    let text = |key: &str| what[key].as_str().unwrap_or_default().to_owned();
    match verb.as_str() {
        "create_policy" | "update_policy" => {
            cluster.apply(&what.to_string());
        }
        "delete_policy" => {
            cluster.kubectl_ok(&["delete", "networkpolicy", "-n", &text("namespace"), &text("name")]);
        }
        "create_namespace" => {
            cluster.apply(&namespace(&text("name"), &labels(&what["labels"])).to_string());
        }
        "delete_namespace" => {
            cluster.kubectl_ok(&["delete", "namespace", &text("name")]);
        }
        "create_pod" => {
            let spec: Pod = serde_json::from_value(what.clone()).unwrap();
            cluster.apply(&pod(&text("pod"), &spec).to_string());
            cluster.pods_ready();
        }
        "delete_pod" => delete_pod(cluster, &text("pod")),
        "set_namespace_labels" => {
            set_labels(cluster, &["namespace", &text("name")], &labels(&what["labels"]))
        }
        "set_pod_labels" => {
            let key = text("pod");
            let (namespace, name) = key.split_once('/').unwrap();
            set_labels(cluster, &["pod", "-n", namespace, name], &labels(&what["labels"]));
        }
        other => panic!("unknown action {other}"),
    }
}

/// Back to the topology: policies gone, pods and namespaces as they were.
fn reset(cluster: &Cluster, topology: &Topology, case: &Case) {
    cluster.kubectl_ok(&["delete", "networkpolicy", "--all", "-A"]);
    let verbs: BTreeSet<&String> = case
        .steps
        .iter()
        .flat_map(|step| &step.actions)
        .filter_map(|action| action.as_object()?.keys().next())
        .collect();
    if verbs.iter().all(|verb| verb.ends_with("_policy")) {
        return;
    }
    let names = |kind: &str| {
        cluster.kubectl_ok(&[
            "get",
            kind,
            "-A",
            "-o",
            "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}",
        ])
    };
    for key in names("pods").split_whitespace().filter(|key| !topology.pods.contains_key(*key)) {
        delete_pod(cluster, key);
    }
    for name in names("namespaces").split_whitespace().map(|name| name.trim_start_matches('/')) {
        let known = topology.namespaces.contains_key(name) || name == "default" || name.starts_with("kube-");
        if !known {
            cluster.kubectl_ok(&["delete", "namespace", name]);
        }
    }
    for (name, labels) in &topology.namespaces {
        set_labels(cluster, &["namespace", name], labels);
    }
    for (key, pod) in &topology.pods {
        let (namespace, name) = key.split_once('/').unwrap();
        set_labels(cluster, &["pod", "-n", namespace, name], &pod.labels);
    }
}

/// Makes the labels exactly these, but for what Kubernetes itself sets.
fn set_labels(cluster: &Cluster, object: &[&str], labels: &BTreeMap<String, String>) {
    let text = cluster.kubectl_ok(&[&["get"], object, &["-o", "jsonpath={.metadata.labels}"]].concat());
    let present: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    let mut arguments: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    arguments.extend(
        present
            .keys()
            .filter(|key| !labels.contains_key(*key) && !key.contains('/'))
            .map(|key| format!("{key}-")),
    );
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    cluster.kubectl_ok(&[&["label", "--overwrite"], object, &arguments].concat());
}

fn delete_pod(cluster: &Cluster, key: &str) {
    let (namespace, name) = key.split_once('/').unwrap();
    cluster.kubectl_ok(&["delete", "pod", "-n", namespace, name, "--timeout=180s"]);
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn namespace(name: &str, labels: &BTreeMap<String, String>) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(key: &str, pod: &Pod) -> Value {
    let (namespace, name) = key.split_once('/').unwrap();
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(
            |port| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]}),
        )
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": pod.labels,
            "annotations": {"cni.projectcalico.org/ipAddrs": json!([pod.ip]).to_string()},
        },
        "spec": {"nodeName": pod.node, "containers": [{"name": "c", "image": "lab/responder", "ports": ports}]},
    })
}

fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}
