//! IPv6 alone and beside IPv4: pods reach each other across subnets, and policy holds, in every family.

use e2e::{Cluster, Options};

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-p1}
spec:
  podSelector: {matchLabels: {app: p3}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: p1}}}]
";

fn connects_and_denies(family: &str, probed: &[&str]) {
    let cluster = Cluster::up(&format!("family{family}"), &Options { family, ..Options::default() });
    for node in 1..=3 {
        cluster.pod(&format!("p{node}"), &format!("n{node}"));
    }
    cluster.pods_ready();
    let probe = |from: &str, family: &str, verdict: &str| {
        let ask = ["probe", "--from", from, "--to", "default/p3", "--port", "80", "--family", family];
        let look = || cluster.lab(&[&ask[..], &["--expect", verdict]].concat()).status.success();
        e2e::within(15, &format!("{from} to p3 by IPv{family}: {verdict}"), look, |is_so| *is_so);
    };
    for family in probed {
        probe("default/p1", family, "allowed");
        probe("default/p2", family, "allowed");
    }

    cluster.apply(POLICY);

    for family in probed {
        probe("default/p2", family, "denied");
        probe("default/p1", family, "allowed");
    }
}

#[test]
fn ipv6_alone() {
    connects_and_denies("6", &["6"]);
}

#[test]
fn both_families() {
    connects_and_denies("46", &["4", "6"]);
}
