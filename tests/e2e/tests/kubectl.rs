//! The cluster answers plain kubectl as a cluster does, and refuses nonsense by naming the field.

use e2e::{Cluster, Options, within};

#[test]
fn kubectl_drives_the_cluster() {
    let cluster = Cluster::up("kubectl", &Options { nodes: 2, subnets: 1, ..Options::default() });

    let nodes = cluster.kubectl_ok(&["get", "nodes", "-o", "wide"]);
    assert!(nodes.contains("172.20.0.11") && nodes.contains("172.20.0.12"), "{nodes}");
    let pools = cluster.kubectl_ok(&["get", "ippools"]);
    assert!(pools.contains("default-ipv4-ippool") && pools.contains("10.65.0.0/16"), "{pools}");

    // A pod without a node is placed; one with an address asked for gets it.
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: anywhere}
spec: {containers: [{name: c, image: lab/responder, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: fixed, annotations: {cni.projectcalico.org/ipAddrs: '[\"10.65.7.7\"]'}}
spec: {nodeName: n2, containers: [{name: c, image: lab/responder, ports: [{containerPort: 80}]}]}
",
    );
    cluster.pods_ready();
    assert_eq!(cluster.address("fixed"), "10.65.7.7");
    cluster.expect_probe("default/anywhere", "default/fixed", 80, "allowed");
    let pods = cluster.kubectl_ok(&["get", "pods", "-o", "wide"]);
    assert!(pods.contains("1/1") && pods.contains("Running") && pods.contains("10.65.7.7"), "{pods}");

    cluster.kubectl_ok(&["delete", "pod", "anywhere", "fixed", "--timeout=180s"]);
    within(
        20,
        "addresses are released",
        || cluster.pods_with_addresses(),
        |pods| !pods.iter().any(|pod| pod == "anywhere" || pod == "fixed"),
    );
}

#[test]
fn nonsense_is_refused_by_the_api_server_with_the_field_named() {
    let cluster =
        Cluster::up("nonsense", &Options { nodes: 1, subnets: 1, tor: "none", ..Options::default() });
    let head = |kind: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: bad}}\nspec: ")
    };
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: bad}\nspec: ";
    let cases = [
        (head("IPPool") + "{cidr: 10.65.0.0}", "spec.cidr"),
        (head("IPPool") + "{cidr: 10.99.0.0/16, ipipMode: Sometimes}", "spec.ipipMode"),
        (head("IPPool") + "{cidr: 10.99.0.0/16, blocksize: 26}", "blocksize"),
        (head("BGPPeer") + "{peerIP: 300.1.1.1, asNumber: 64513}", "spec.peerIP"),
        (head("BGPPeer") + "{peerIP: 10.1.1.1, asNumber: 5000000000}", "spec.asNumber"),
        (head("BGPConfiguration") + "{asNumber: none}", "spec.asNumber"),
        (policy.to_owned() + "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 70}]}]}", "endPort"),
        (policy.to_owned() + "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}", "cidr"),
        (policy.to_owned() + "{podSelector: {matchExpressions: [{key: a, operator: Maybe}]}}", "operator"),
    ];

    let asks_for_strictness = kubectl_minor(&cluster) >= 25;
    for (yaml, field) in cases {
        let output = cluster.kubectl_with(&["apply", "-f", "-"], &yaml);
        let said = String::from_utf8_lossy(&output.stderr);
        // An older kubectl does not ask for unknown fields to be refused, and shows the server's warning.
        let only_warned = !asks_for_strictness && said.contains("unknown field");
        assert!(!output.status.success() || only_warned, "accepted: {yaml}");
        assert!(said.contains(field), "{field} is not named in {said:?} for {yaml}");
    }

    // Nothing of this stopped what works.
    cluster.pod("fine", "n1");
    cluster.pods_ready();

    // What no schema can say is said by the webhook.
    cluster.controllers_ready();
    let unclosed = head("GlobalNetworkPolicy") + "{selector: \"role == 'a' && (b == 'c'\"}";
    let output = cluster.kubectl_with(&["apply", "-f", "-"], &unclosed);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("spec.selector") && said.contains("at position"),
        "{said}"
    );

    let sound =
        head("GlobalNetworkPolicy").replace("bad", "good") + "{selector: app == 'fine', types: [Ingress]}";
    cluster.apply(&sound);
    let programmed = ["wait", "--for=condition=Programmed", "globalnetworkpolicies.projectcalico.org/good"];
    cluster.kubectl_ok(&[&programmed[..], &["--timeout=300s"]].concat());

    // Without it objects are stored all the same; back again, it refuses again.
    cluster.lab_ok(&["stop", "controllers"]);
    cluster.apply(&unclosed);
    cluster.kubectl_ok(&["delete", "globalnetworkpolicies.projectcalico.org", "bad"]);
    cluster.lab_ok(&["start", "controllers"]);
    cluster.controllers_ready();
    assert!(!cluster.kubectl_with(&["apply", "-f", "-"], &unclosed).status.success());
}

/// Minor version of kubectl itself.
fn kubectl_minor(cluster: &Cluster) -> u32 {
    let said = cluster.kubectl_ok(&["version", "--client", "-o", "json"]);
    let version: serde_json::Value = serde_json::from_str(&said).expect("kubectl prints JSON");
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    minor.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("kubectl has a minor version")
}
