//! What is shipped is what is needed: every call that the programs make is allowed by their roles, every right is used, and
//! alerts and dashboard ask for figures that the programs have.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use apiserver::{Grant, grants_of};
use e2e::{Cluster, Options, programs, within};
use serde_json::Value;

/// Rights of a path that no test can walk in seconds, each with what needs it.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "ClusterRole calico-kube-controllers: create events",
        "an address that leaked is told of, which takes minutes to be sure of",
    ),
    (
        "ClusterRole calico-kube-controllers: get events",
        "an object has made no sense for half an hour, or another one is elected meanwhile",
    ),
    ("ClusterRole calico-kube-controllers: patch events", "as get"),
    (
        "ClusterRole calico-kube-controllers: create ipamblocks.projectcalico.org",
        "addresses of Services of type LoadBalancer",
    ),
    (
        "ClusterRole calico-kube-controllers: delete ipamblocks.projectcalico.org",
        "a block that rests is deleted when its last address has rested",
    ),
    ("ClusterRole calico-kube-controllers: get ipamconfigurations.projectcalico.org", "as blocks"),
    (
        "ClusterRole calico-kube-controllers: create ipamhandles.projectcalico.org",
        "addresses of Services of type LoadBalancer",
    ),
    (
        "ClusterRole calico-kube-controllers: update ipamhandles.projectcalico.org",
        "a handle with addresses in several blocks",
    ),
    ("ClusterRole calico-kube-controllers: get services", "addresses of Services of type LoadBalancer"),
    ("ClusterRole calico-kube-controllers: list services", "addresses of Services of type LoadBalancer"),
    ("ClusterRole calico-kube-controllers: watch services", "addresses of Services of type LoadBalancer"),
    (
        "ClusterRole calico-kube-controllers: patch services/status",
        "addresses of Services of type LoadBalancer",
    ),
    (
        "ClusterRole calico-node: get kubecontrollersconfigurations.projectcalico.org",
        "an address seems unused, and the node itself does not say for how long it may",
    ),
    ("ClusterRole calico-node: create events", "peers that come and go, at most one round a minute"),
    ("ClusterRole calico-node: get namespaces", "a pod whose namespace the watch has not told of yet"),
    ("ClusterRole calico-node: get nodes", "the node is asked before its watch has told of it"),
    (
        "ClusterRole calico-node: get pods",
        "a pod that the watch has not told of yet, and the last word before an address is taken back",
    ),
    ("ClusterRole calico-node: delete blockaffinities.projectcalico.org", "a block that stays empty"),
    (
        "ClusterRole calico-node: get blockaffinities.projectcalico.org",
        "a claim that another one was quicker with",
    ),
    (
        "ClusterRole calico-node: get clusterinformations.projectcalico.org",
        "addresses are taken back, unless the datastore is locked",
    ),
    (
        "ClusterRole calico-node: patch clusterinformations.projectcalico.org",
        "an agent of another version, or a cluster of another type",
    ),
    (
        "ClusterRole calico-node: create ippools.projectcalico.org",
        "a cluster without a pool: the lab makes its own",
    ),
    ("Role calico-node-kubeadm: get configmaps kubeadm-config", "as a pool"),
    ("ClusterRole calico-node: delete ipamblocks.projectcalico.org", "a block that stays empty"),
    (
        "ClusterRole calico-node: get ipamblocks.projectcalico.org",
        "a block that another one was quicker with",
    ),
    (
        "ClusterRole calico-node: get ipamconfigurations.projectcalico.org",
        "addresses are asked for before the watch has told of settings",
    ),
    ("ClusterRole calico-node: list ipamhandles.projectcalico.org", "addresses of this node are taken back"),
    (
        "ClusterRole calico-node: update ipamhandles.projectcalico.org",
        "a pod with addresses of both families",
    ),
    (
        "ClusterRole calico-kube-controllers: delete nodepolicystatuses.projectcalico.org",
        "what a node said that is gone, by the one who is elected next",
    ),
    (
        "ClusterRole calico-kube-controllers: update hostendpoints.projectcalico.org",
        "a node's labels change after its host endpoint was made",
    ),
    ("ClusterRole calico-kube-controllers: get services", "a Service of type LoadBalancer"),
    ("ClusterRole calico-kube-controllers: list services", "a pool for Services of type LoadBalancer"),
    ("ClusterRole calico-kube-controllers: watch services", "a pool for Services of type LoadBalancer"),
    ("ClusterRole calico-kube-controllers: patch services/status", "a Service of type LoadBalancer"),
    (
        "ClusterRole calico-kube-controllers: patch kubecontrollersconfigurations/status.projectcalico.org",
        "settings that are there when one is elected",
    ),
    (
        "ClusterRole calico-kube-controllers: list ipreservations.projectcalico.org",
        "an address of a Service is chosen",
    ),
    (
        "ClusterRole calico-kube-controllers: watch ipreservations.projectcalico.org",
        "an address of a Service is chosen",
    ),
];

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests")
}

/// Everything that the roles of the shipped manifest allow to the programs of a node and to `controllers`.
fn shipped() -> BTreeSet<String> {
    let text = std::fs::read_to_string(manifests().join("ocicat.yaml")).unwrap();
    let objects = manifests::documents::parse(&text).unwrap();
    let is_role = |object: &&Value| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole"));
    objects.iter().filter(is_role).flat_map(grants_of).map(|grant| grant.to_string()).collect()
}

/// What the programs of a lab were allowed and refused so far.
fn audit(cluster: &Cluster) -> (BTreeSet<String>, Vec<Value>) {
    let text = cluster.kubectl_ok(&["get", "--raw", "/audit"]);
    let audit: Value = serde_json::from_str(&text).unwrap();
    let used = audit["used"].as_array().unwrap().iter().map(|grant| {
        let text = |name: &str| grant[name].as_str().unwrap().to_owned();
        let (role, group, resource) = (text("role"), text("group"), text("resource"));
        Grant { role, group, resource, verb: text("verb"), name: text("name") }.to_string()
    });
    (used.collect(), audit["refused"].as_array().unwrap().clone())
}

/// Makes the programs do what they do on a cluster in months.
fn live(cluster: &Cluster) {
    cluster.controllers_ready();
    cluster.kubectl_ok(&[
        "create",
        "secret",
        "generic",
        "bgp-secrets",
        "-n",
        "kube-system",
        "--from-literal=tor=x",
    ]);
    cluster.apply(
        "apiVersion: projectcalico.org/v3
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {hostEndpoint: {autoCreate: Enabled}}}}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceClusterIPs: [{cidr: 10.96.0.0/12}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: with-password}
spec: {peerIP: 172.20.0.99, asNumber: 64999, password: {secretKeyRef: {name: bgp-secrets, key: tor}}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: open}
spec: {selector: app == 'p1', ingress: [{action: Allow}], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: open, namespace: default}
spec: {selector: app == 'p1', ingress: [{action: Allow}], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: CalicoNodeStatus
metadata: {name: n1}
spec: {node: n1, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}
",
    );
    cluster.pod("p1", "n1");
    cluster.pod("p2", "n2");
    cluster.pods_ready();
    cluster.kubectl_ok(&["label", "node", "n1", "changed=yes"]);
    cluster.kubectl_ok(&["delete", "pod", "p1", "--grace-period=0", "--force"]);
    cluster.lab_ok(&["kill", "n1", "felix"]);
    cluster.lab_ok(&["kill", "n1", "bird-lite"]);
    cluster.lab_ok(&["kill", "controllers"]);
    cluster.lab_ok(&["node", "remove", "n2"]);
    cluster.kubectl_ok(&["delete", "kubecontrollersconfigurations.projectcalico.org", "default"]);
}

#[test]
fn programs_need_all_their_rights_and_no_others() {
    let options = Options {
        nodes: 2,
        subnets: 1,
        environment: &[
            ("OCICAT_LAB_MANIFEST", "shipped"),
            ("OCICAT_LEAK_GRACE", "5"),
            ("OCICAT_NODE_GRACE", "5"),
        ],
        ..Options::default()
    };
    let cluster = Cluster::up("rights", &options);
    live(&cluster);
    let shipped = shipped();
    let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|(grant, _)| (*grant).to_owned()).collect();
    let stale: Vec<_> = elsewhere.difference(&shipped).collect();
    assert!(stale.is_empty(), "no role has these any more: {stale:#?}");

    let unused = || {
        let (used, _) = audit(&cluster);
        shipped.difference(&used).filter(|grant| !elsewhere.contains(*grant)).cloned().collect::<Vec<_>>()
    };
    within(90, "every right is used", unused, Vec::is_empty);
    let (_, refused) = audit(&cluster);
    assert!(refused.is_empty(), "the roles lack: {refused:#?}");
}

/// Names of figures in a text, as the programs register them.
fn figures(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named = words.filter(|word| word.starts_with("felix_") || word.starts_with("bgp_"));
    let bare = named.map(|word| {
        let end = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
        end.unwrap_or(word).to_owned()
    });
    bare.collect()
}

#[test]
fn alerts_and_dashboard_ask_for_figures_that_there_are() {
    let binaries = ["felix", "bird-lite"].map(|program| std::fs::read(programs().join(program)).unwrap());
    let mut asked = BTreeSet::new();
    for file in ["alerts.yaml", "dashboard.yaml"] {
        asked.extend(figures(
            &std::fs::read_to_string(manifests().join("components/monitoring").join(file)).unwrap(),
        ));
    }
    assert!(asked.len() > 10, "{asked:?}");

    let has = |name: &String| {
        binaries.iter().any(|bytes| bytes.windows(name.len()).any(|window| window == name.as_bytes()))
    };
    let missing: Vec<_> = asked.iter().filter(|name| !has(name)).collect();

    assert!(missing.is_empty(), "no program has these figures: {missing:?}");
}
