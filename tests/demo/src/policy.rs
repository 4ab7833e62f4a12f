//! A NetworkPolicy is applied, holds, and goes again.

use crate::cluster::{Cluster, NAMESPACE, PORT};
use crate::stage::Stage;

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-from-clients}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: client}}
    ports:
    - {protocol: TCP, port: http}
";

pub fn holds(stage: &mut Stage, cluster: &Cluster) {
    stage.say(format!("A NetworkPolicy: web pods answer clients on port {PORT} and nobody else."));
    stage.show(POLICY);
    if cluster.apply(stage, "the policy", POLICY).is_none() {
        return;
    }
    let prefix = |role: &str| format!("{NAMESPACE}/{role}-");
    let expected =
        |from: &str, to: &str| !to.starts_with(&prefix("web")) || from.starts_with(&prefix("client"));
    cluster.show_matrix(stage, "The policy holds: web reaches no web, all else is as it was", expected);
    stage.say("Without the policy everything is open again.");
    cluster.kubectl(stage, &["delete", "networkpolicy", "web-from-clients"]);
    cluster.show_matrix(stage, "Everybody reaches everybody again", |_, _| true);
}
