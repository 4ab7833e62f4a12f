//! Policies of `policy.networking.k8s.io`: what the cluster's owner says stands above and below what namespaces say.

use e2e::{Cluster, Options};

#[test]
fn admin_policy_comes_first_passes_on_and_baseline_is_the_floor() {
    let cluster =
        Cluster::up("adminpolicy", &Options { nodes: 1, subnets: 1, tor: "none", ..Options::default() });
    cluster.pod("client", "n1");
    cluster.pod("server", "n1");
    cluster.pods_ready();
    let expect = |verdict| cluster.expect_probe("default/client", "default/server", 80, verdict);
    expect("allowed");

    // Nobody says anything else: the baseline holds.
    cluster.apply(&format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {{name: default}}
spec: {{subject: {SERVER}, ingress: [{{name: closed, action: Deny, from: [{{namespaces: {{}}}}]}}]}}
"
    ));
    expect("denied");

    // A NetworkPolicy of the namespace is asked before the baseline.
    cluster.apply(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}
",
    );
    expect("allowed");

    // The admin tier is asked before both: Deny beats the namespace's Allow, Pass asks on.
    let admin = |action: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: quarantine}}
spec:
  tier: Admin
  priority: 10
  subject: {SERVER}
  ingress:
  - {{name: web, action: {action}, from: [{CLIENT}], protocols: [{{tcp: {{destinationPort: {{number: 80}}}}}}]}}
"
        )
    };
    cluster.apply(&admin("Deny"));
    expect("denied");
    cluster.apply(&admin("Pass"));
    expect("allowed");
    cluster.kubectl_ok(&["delete", "networkpolicy", "open"]);
    expect("denied");

    // v1alpha1 has a word of its own for it.
    cluster.apply(&format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {{name: web}}
spec: {{priority: 5, subject: {SERVER}, ingress: [{{action: Allow, from: [{CLIENT}], ports: [{{portNumber: {{port: 80}}}}]}}]}}
"
    ));
    expect("allowed");

    let two_peers = admin("Deny")
        .replace("from: [", "from: [{namespaces: {}, pods: {podSelector: {}, namespaceSelector: {}}}, ");
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], &two_peers);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("spec.ingress[0].from[0]"), "{said}");
}

const SERVER: &str = "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: server}}}}";
const CLIENT: &str = "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}";
