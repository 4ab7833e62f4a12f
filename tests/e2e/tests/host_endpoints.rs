//! Automatic host endpoints, from the switch to the node that says what they govern.

use e2e::{Cluster, Options, within};

#[test]
fn nodes_get_host_endpoints_and_say_which_interfaces_these_govern() {
    let cluster =
        Cluster::up("autohep", &Options { nodes: 1, subnets: 1, tor: "none", ..Options::default() });
    let said = |path: &str| {
        let output = format!("jsonpath={{{path}}}");
        let get = ["get", "nodepolicystatuses.projectcalico.org", "n1", "-o", &output];
        String::from_utf8_lossy(&cluster.kubectl(&get).stdout).into_owned()
    };

    cluster.apply(
        "apiVersion: projectcalico.org/v3
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {hostEndpoint: {autoCreate: Enabled}}}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: untracked}
spec:
  selector: has(projectcalico.org/created-by)
  doNotTrack: true
  applyOnForward: true
  ingress: [{action: Deny, protocol: TCP, destination: {ports: [7]}}]
",
    );

    within(
        60,
        "the node is governed",
        || said(".spec.hostEndpoints"),
        |text| text == "{\"*\":\"n1-auto-hep\"}",
    );
    within(
        30,
        "the node says what cannot be",
        || said(".spec.problems[0]"),
        |text| text.starts_with("gnp/untracked (doNotTrack)"),
    );
    // What nobody has a policy about stays open: pods come up, and reach one another.
    cluster.pod("a", "n1");
    cluster.pod("b", "n1");
    cluster.pods_ready();
    cluster.expect_probe("default/a", "default/b", 80, "allowed");

    cluster.kubectl_ok(&["delete", "kubecontrollersconfigurations.projectcalico.org", "default"]);
    within(60, "the host endpoint is gone", || said(".spec.hostEndpoints"), String::is_empty);
}
