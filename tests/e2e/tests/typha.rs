//! Nodes that hear of the cluster through a typha, which is killed while policy changes.

use std::process::{Child, Stdio};

use e2e::{Cluster, Options, programs, within};

const NODES: usize = 3;
/// On the first node, as a Deployment on the hosts' network would be.
const TYPHA: &str = "172.20.0.11:5473";

const ISOLATED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: isolated, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// It is killed with the test.
struct Typha(Child);

impl Typha {
    fn start(cluster: &Cluster) -> Self {
        let program = programs().join("typha").display().to_string();
        let command = ["exec", "n1", "--", &program, "--listen", TYPHA, "--service", "none"];
        let child = cluster.lab_command(&command).stderr(Stdio::null()).spawn();
        Self(child.expect("lab starts"))
    }
}

impl Drop for Typha {
    fn drop(&mut self) {
        // The command took the place of `lab exec`.
        self.0.kill().expect("typha runs");
        self.0.wait().expect("it was started here");
    }
}

/// How many felixes and bird-lites typha has.
fn clients(cluster: &Cluster) -> [u64; 2] {
    let ask = "exec 3<>/dev/tcp/127.0.0.1/9093 && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3";
    let output = cluster.lab(&["exec", "n1", "--", "bash", "-c", ask]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ["felix", "bird-lite"].map(|program| {
        let label = format!("typha_connections_active{{program=\"{program}\"");
        let line = text.lines().find(|line| line.starts_with(&label));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    })
}

#[test]
fn nodes_follow_policy_through_a_typha_that_is_killed() {
    // The nodes come up before there is a typha: they fall back, and leave the API server for it later.
    let environment = [("FELIX_TYPHAADDR", TYPHA), ("OCICAT_TYPHA_FALLBACK", "2")];
    let options =
        Options { nodes: NODES, subnets: 1, tor: "none", environment: &environment, ..Options::default() };
    let cluster = Cluster::up("typha", &options);
    let all = [NODES as u64; 2];
    let typha = Typha::start(&cluster);
    within(60, "all programs are typha's clients", || clients(&cluster), |seen| *seen == all);
    cluster.pod("p2", "n2");
    cluster.pod("p3", "n3");
    cluster.pods_ready();
    cluster.expect_probe("default/p2", "default/p3", 80, "allowed");

    cluster.apply(ISOLATED);
    cluster.expect_probe("default/p2", "default/p3", 80, "denied");
    drop(typha);
    cluster.expect_probe("default/p2", "default/p3", 80, "denied");
    cluster.kubectl_ok(&["delete", "networkpolicy", "isolated"]);

    let _typha = Typha::start(&cluster);
    within(60, "all programs are back", || clients(&cluster), |seen| *seen == all);
    cluster.expect_probe("default/p2", "default/p3", 80, "allowed");
    cluster.apply(ISOLATED);
    cluster.expect_probe("default/p2", "default/p3", 80, "denied");
}

#[test]
fn a_lab_of_nodes_that_know_the_cluster_by_typha_alone() {
    let environment = [("OCICAT_LAB_TYPHA", "true")];
    let options =
        Options { nodes: 2, subnets: 1, tor: "none", environment: &environment, ..Options::default() };
    let cluster = Cluster::up("bytypha", &options);
    within(60, "all programs are typha's clients", || clients(&cluster), |seen| *seen == [2, 2]);
    cluster.pod("p1", "n1");
    cluster.pod("p2", "n2");
    cluster.pods_ready();
    cluster.expect_probe("default/p1", "default/p2", 80, "allowed");

    cluster.lab_ok(&["kill", "n1", "typha"]);
    cluster.apply(ISOLATED);

    let probe = || cluster.probe("default/p1", "default/p2", 80);
    within(60, "the policy is in force", probe, |verdict| verdict == "denied");
}
