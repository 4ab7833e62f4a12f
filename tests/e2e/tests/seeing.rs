//! An operator sees which policy dropped a packet, why a connection does not work, and what a change would do.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::process::{Command, Output, Stdio};

use e2e::{Cluster, Options, programs, within};
use serde_json::Value;

const DENY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-friends}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]
";

fn pod(name: &str, node: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{nodeName: {node}, \
         containers: [{{name: c, image: lab/responder, ports: [{{containerPort: 80}}]}}]}}\n---\n"
    )
}

fn ocicat(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = Command::new(programs().join("ocicat"));
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig()).env("OCICAT_LAB", cluster.name());
    command.stdin(Stdio::null()).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_packet_that_a_kubernetes_policy_drops_is_seen_and_explained() {
    let cluster = Cluster::up("seeing", &Options { nodes: 2, subnets: 1, tor: "none", ..Options::default() });
    cluster.apply(
        &(pod("web", "n1", "app: web")
            + &pod("friend", "n2", "friend: 'yes'")
            + &pod("stranger", "n2", "a: b")),
    );
    cluster.pods_ready();
    cluster.expect_probe("default/stranger", "default/web", 80, "allowed");

    let file = std::env::temp_dir().join(format!("seeing-{}.yaml", std::process::id()));
    std::fs::write(&file, DENY).unwrap();
    let whatif = ocicat(&cluster, &["policy", "whatif", "-o", "json", "-f", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(whatif.status.code(), Some(6), "{}", String::from_utf8_lossy(&whatif.stderr));
    let changes = json(&whatif)["changes"].as_array().cloned().unwrap();
    let of =
        |from: &str| changes.iter().any(|change| change["from"] == from && change["to"] == "default/web");
    assert!(of("default/stranger") && !of("default/friend"), "{changes:?}");

    cluster.apply(DENY);
    cluster.expect_probe("default/stranger", "default/web", 80, "denied");
    cluster.expect_probe("default/friend", "default/web", 80, "allowed");

    let drops = || json(&ocicat(&cluster, &["drops", "--pod", "default/stranger", "-o", "json"]));
    let seen =
        within(20, "the drop is on record", drops, |drops| !drops["drops"].as_array().unwrap().is_empty());
    let drop = &seen["drops"][0];
    let told = ["node", "pod", "direction", "cause", "tier", "sourcePod", "destinationPod", "protocol"];
    let told = told.map(|key| drop[key].as_str().unwrap_or_default());
    let expected =
        ["n1", "default/web", "ingress", "end of tier", "default", "default/stranger", "default/web", "TCP"];
    assert_eq!(told, expected, "{drop}");
    assert_eq!(
        (&drop["port"], &drop["policies"][0]),
        (&80.into(), &"knp/default/only-friends".into()),
        "{drop}"
    );

    let explain = |from: &str| {
        ocicat(&cluster, &["explain", "--from", from, "--to", "default/web", "--port", "80", "-o", "json"])
    };
    let ask = || explain("default/stranger");
    let denied = within(20, "it is explained", ask, |output| output.status.code() == Some(4));
    let denied = json(&denied);
    let path = &denied["paths"][0];
    let steps = path["steps"].as_array().unwrap();
    let last = steps.last().unwrap();
    assert_eq!(
        (&last["cause"], &last["policies"][0]),
        (&"EndOfTier".into(), &"knp/default/only-friends".into())
    );
    let n1 = path["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "n1").unwrap();
    let by = &n1["decidedBy"]["policies"][0];
    assert_eq!((&n1["verdict"], by), (&"denied".into(), &"knp/default/only-friends".into()), "{n1}");
    let ask = || explain("default/friend");
    within(20, "the friend's is explained, too", ask, |output| output.status.code() == Some(0));

    let audit = || ocicat(&cluster, &["audit"]);
    within(20, "the kernel is as intended", audit, |audit| audit.status.code() == Some(0));
}
