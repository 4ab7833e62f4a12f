//! The truth tables of the NetworkPolicy cases, and the same on random policies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kernel::ConntrackState;
use model::Protocol;
use serde_json::{Value, json};

use crate::cases::{CaseAction, CasePod, CasePort, Cases, Labels, Step, Topology};
use crate::cluster::Cluster;
use crate::random::Random;
use crate::way::{Packet, is_forwarded};

#[test]
fn every_case_has_its_truth_table() {
    let cases = Cases::load();
    let mut asserted = 0;

    for case in &cases.cases {
        let mut cluster = Cluster::new(&cases.topologies[&case.topology]);
        for (number, step) in case.steps.iter().enumerate() {
            step.actions.iter().for_each(|action| cluster.act(action));
            asserted += check_step(&cluster, step, &format!("{} step {number} ({})", case.id, case.title));
        }
    }

    assert!(cases.cases.len() >= 216 && asserted > 90_000, "only {asserted} cells of {}", cases.cases.len());
}

/// Compares reference, chains and the table of the file; how many cells were asserted.
fn check_step(cluster: &Cluster, step: &Step, what: &str) -> usize {
    let mut asserted = 0;
    for (port, protocol) in &step.probes {
        let rows = &step.expected[&format!("{port}/{protocol}")];
        for (source, row) in step.order.iter().zip(rows) {
            for (destination, expected) in step.order.iter().zip(row.chars()) {
                if expected == '#' {
                    continue;
                }
                let allowed = cluster.check(source, destination, *port, protocol);
                assert_eq!(allowed, expected == '.', "{what}: {source} to {destination} {port}/{protocol}");
                asserted += 1;
            }
        }
    }
    asserted
}

/// A few pods with few labels, so that policies often meet them.
fn random_topology(random: &mut Random) -> Topology {
    let nodes: BTreeMap<String, IpAddr> =
        (1..=2).map(|n| (format!("n{n}"), format!("172.20.0.{n}").parse().unwrap())).collect();
    let namespaces: BTreeMap<String, Labels> =
        ["x", "y", "z"].map(|name| (name.to_owned(), random_labels(random))).into();
    let mut pods = BTreeMap::new();
    for (number, name) in ["x/a", "x/b", "x/c", "y/a", "y/b", "z/a", "z/b"].into_iter().enumerate() {
        let port = |name: &str, port, protocol: &str| CasePort {
            name: name.to_owned(),
            port,
            protocol: protocol.to_owned(),
        };
        let mut ports = vec![port("web", random.pick(&[80, 81]), "TCP"), port("dns", 53, "UDP")];
        ports.extend(random.once_in(2).then(|| port("web", 81, "UDP")));
        let ip = format!("10.65.{}.{}", number % 2, number + 2).parse().unwrap();
        let node = format!("n{}", 1 + number % 2);
        pods.insert(name.to_owned(), CasePod { labels: random_labels(random), ip, node, ports });
    }
    Topology { namespaces, pods, nodes }
}

fn random_labels(random: &mut Random) -> Labels {
    let mut labels = Labels::new();
    for key in ["app", "tier"] {
        if !random.once_in(3) {
            labels.insert(key.to_owned(), random.pick(&["red", "blue"]).to_owned());
        }
    }
    labels
}

fn random_selector(random: &mut Random) -> Value {
    let mut selector = json!({});
    if random.once_in(2) {
        selector["matchLabels"] = json!({ random.pick(&["app", "tier"]): random.pick(&["red", "blue"]) });
    }
    if random.once_in(2) {
        let key = random.pick(&["app", "tier"]);
        let values = json!([random.pick(&["red", "blue"]), random.pick(&["blue", "green"])]);
        selector["matchExpressions"] = match random.below(4) {
            0 => json!([{"key": key, "operator": "In", "values": values}]),
            1 => json!([{"key": key, "operator": "NotIn", "values": values}]),
            2 => json!([{"key": key, "operator": "Exists"}]),
            _ => json!([{"key": key, "operator": "DoesNotExist"}]),
        };
    }
    selector
}

fn random_port(random: &mut Random) -> Value {
    let protocol = random.pick(&["TCP", "UDP", "SCTP"]);
    match random.below(6) {
        0 => json!({"protocol": protocol}),
        1 => json!({"port": 80}),
        2 => json!({"protocol": protocol, "port": 79, "endPort": random.pick(&[80, 81, 90])}),
        3 => json!({"protocol": protocol, "port": "web"}),
        4 => json!({"protocol": "UDP", "port": "dns"}),
        _ => json!({"protocol": protocol, "port": random.pick(&[53, 80, 81])}),
    }
}

fn random_peer(random: &mut Random) -> Value {
    match random.below(4) {
        0 => json!({"podSelector": random_selector(random)}),
        1 => json!({"namespaceSelector": random_selector(random)}),
        2 => json!({"namespaceSelector": random_selector(random), "podSelector": random_selector(random)}),
        _ => {
            let cidr = random.pick(&["0.0.0.0/0", "10.65.0.0/16", "10.65.0.0/24", "172.20.0.0/24", "::/0"]);
            let excepts = ["10.65.1.0/24", "10.65.0.4/32", "10.65.0.6/31", "198.51.100.0/24"];
            let except = random.some(3, |random| random.pick(&excepts));
            json!({"ipBlock": {"cidr": cidr, "except": except}})
        }
    }
}

fn random_policy(random: &mut Random, number: usize) -> Value {
    let rule = |random: &mut Random, peers: &str| json!({ peers: random.some(3, random_peer), "ports": random.some(3, random_port) });
    let mut spec = json!({"podSelector": random_selector(random)});
    spec["ingress"] = json!(random.some(3, |random| rule(random, "from")));
    if random.once_in(2) {
        spec["egress"] = json!(random.some(3, |random| rule(random, "to")));
    }
    let types = [json!([]), json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])];
    spec["policyTypes"] = random.pick(&types);
    json!({"metadata": {"namespace": random.pick(&["x", "y", "z"]), "name": format!("p{number}")}, "spec": spec})
}

#[test]
fn chains_agree_with_the_reference_on_random_policies() {
    let (mut allowed, mut denied) = (0, 0);

    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(&random_topology(&mut random));
        for number in 0..6 {
            let policy = random_policy(&mut random, number);
            cluster.act(&CaseAction::CreatePolicy(policy));
            if random.once_in(3) {
                let pod = random.pick(&["x/a", "x/b", "y/a", "z/b"]).to_owned();
                cluster.act(&CaseAction::SetPodLabels { pod, labels: random_labels(&mut random) });
            }
            if random.once_in(4) {
                let name = random.pick(&["x", "y", "z"]).to_owned();
                cluster.act(&CaseAction::SetNamespaceLabels { name, labels: random_labels(&mut random) });
            }
            if number % 2 == 1 {
                for verdict in check_all(&cluster) {
                    *(if verdict { &mut allowed } else { &mut denied }) += 1;
                }
            }
        }
    }

    assert!(
        allowed > 5_000 && denied > 5_000,
        "{allowed} allowed, {denied} denied: one side is hardly tried"
    );
}

/// Every pod with every other one and with two addresses outside, in both directions.
fn check_all(cluster: &Cluster) -> Vec<bool> {
    let outside = ["198.51.100.7", "172.20.0.9"];
    let pods: Vec<&str> = cluster.pods.keys().map(String::as_str).collect();
    let mut verdicts = Vec::new();
    for source in pods.iter().chain(&outside) {
        for destination in pods.iter().chain(&outside) {
            let is_pod = |name: &str| name.contains('/');
            if source == destination || !(is_pod(source) || is_pod(destination)) {
                continue;
            }
            for (port, protocol) in [(80, "TCP"), (81, "TCP"), (53, "UDP"), (81, "UDP"), (80, "SCTP")] {
                verdicts.push(cluster.check(source, destination, port, protocol));
            }
        }
    }
    verdicts
}

/// A policy that lets nothing in or out of namespace x.
fn deny_all() -> CaseAction {
    CaseAction::CreatePolicy(json!({
        "metadata": {"namespace": "x", "name": "deny"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }))
}

#[test]
fn a_node_reaches_its_own_pods_whatever_policy_says_and_a_pod_its_node_only_as_policy_says() {
    let mut cluster = Cluster::new(&random_topology(&mut Random::new(1)));
    let (pod, node) = ("10.65.0.2".parse().unwrap(), "172.20.0.1".parse().unwrap());
    let to_pod = Packet::new(node, pod, Protocol::TCP, 80);
    let to_node = Packet::new(pod, node, Protocol::TCP, 10_250);
    assert!(cluster.passes("node", "x/a", &to_pod) && cluster.passes("x/a", "node", &to_node));

    cluster.act(&deny_all());

    assert!(cluster.passes("node", "x/a", &to_pod));
    assert!(!cluster.passes("x/a", "node", &to_node));
}

#[test]
fn established_connections_stay_and_invalid_packets_go() {
    let mut cluster = Cluster::new(&random_topology(&mut Random::new(1)));
    let packet = Packet::new("10.65.0.2".parse().unwrap(), "10.65.1.3".parse().unwrap(), Protocol::TCP, 80);
    let in_state = |state| Packet { state, ..packet.clone() };
    assert!(!cluster.passes("x/a", "x/b", &in_state(ConntrackState::Invalid)));

    cluster.act(&deny_all());

    assert!(cluster.passes("x/a", "x/b", &in_state(ConntrackState::Established)));
    assert!(!cluster.passes("x/a", "x/b", &in_state(ConntrackState::New)));
}

#[test]
fn an_interface_that_nobody_knows_is_closed() {
    let cluster = Cluster::new(&random_topology(&mut Random::new(1)));
    let packet = Packet::new("10.65.0.2".parse().unwrap(), "10.65.1.3".parse().unwrap(), Protocol::TCP, 80);

    assert!(!is_forwarded(cluster.node("n1"), &packet.via(Some("cali00000000000"), Some("eth0"))));
    assert!(!is_forwarded(cluster.node("n1"), &packet.via(Some("eth0"), Some("cali00000000000"))));
}
