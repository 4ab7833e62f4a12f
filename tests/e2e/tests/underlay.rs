//! Every mode of a pool, within a subnet and between subnets, in both families, with and without policy, and over a restart
//! of a node's programs. The modes follow one another in one cluster, as in production.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::process::Command;

use e2e::{Cluster, Options, programs, within};
use serde_json::{Value, json};

/// `vxlanMode`, and what packets have around them to a neighbour of the subnet and to another subnet.
const MODES: [(&str, [&str; 2]); 4] = [
    ("Never", ["none", "none"]),
    ("CrossSubnet", ["none", "VXLAN"]),
    ("Always", ["VXLAN", "VXLAN"]),
    ("Never", ["none", "none"]),
];
const POOLS: [(&str, &str); 2] = [("4", "default-ipv4-ippool"), ("6", "default-ipv6-ippool")];
/// Whom p1 reaches: one beside it, one in another subnet.
const OTHERS: [&str; 2] = ["default/p2", "default/p3"];
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-p1}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [p2, p3]}]}
  ingress:
  - from: [{podSelector: {matchLabels: {app: p1}}}]
";

#[test]
fn every_mode_in_both_families_with_policy_and_over_a_restart() {
    let cluster = Cluster::up("underlay", &Options { family: "46", ..Options::default() });
    for node in 1..=3 {
        cluster.pod(&format!("p{node}"), &format!("n{node}"));
    }
    cluster.pods_ready();

    for (mode, expected) in MODES {
        for (_, pool) in POOLS {
            let patch = json!({"spec": {"ipipMode": "Never", "vxlanMode": mode}}).to_string();
            cluster.kubectl_ok(&["patch", "ippool", pool, "--type", "merge", "-p", &patch]);
        }
        for (family, _) in POOLS {
            for (to, encapsulation) in OTHERS.into_iter().zip(expected) {
                let look = || way(&cluster, to, family);
                let what = format!("{mode}, IPv{family}: {to} through {encapsulation}");
                within(60, &what, look, |(status, is)| *status == Some(0) && is == encapsulation);
            }
        }
        verdicts(&cluster, mode, "allowed");
        cluster.apply(POLICY);
        verdicts(&cluster, mode, "denied");
        for program in ["felix", "bird-lite"] {
            cluster.lab_ok(&["kill", "n3", program]);
        }
        cluster.well_again("n3");
        verdicts(&cluster, mode, "denied");
        cluster.kubectl_ok(&["delete", "networkpolicy", "only-p1"]);
    }
}

/// p1 may always; what is `stranger` for p2 to p3?
fn verdicts(cluster: &Cluster, mode: &str, stranger: &str) {
    for (family, _) in POOLS {
        let pairs = [("default/p1", OTHERS[0], "allowed"), ("default/p1", OTHERS[1], "allowed")];
        for (from, to, verdict) in pairs.into_iter().chain([("default/p2", OTHERS[1], stranger)]) {
            let ask = [
                "probe", "--from", from, "--to", to, "--port", "80", "--family", family, "--expect", verdict,
            ];
            let what = format!("{mode}, IPv{family}: {from} to {to} {verdict}");
            within(30, &what, || cluster.lab(&ask).status.success(), |is_so| *is_so);
        }
    }
}

/// The exit status of `ocicat route get`, and what the first node puts around packets.
fn way(cluster: &Cluster, to: &str, family: &str) -> (Option<i32>, String) {
    let output = Command::new(programs().join("ocicat"))
        .args(["route", "get", "default/p1", to, "--family", family, "-o", "json"])
        .args(["--kubeconfig", cluster.kubeconfig()])
        .output()
        .unwrap();
    let ways: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let encapsulation = ways[0]["nodes"][0]["route"]["encapsulation"].as_str();
    (output.status.code(), encapsulation.unwrap_or_default().to_owned())
}
