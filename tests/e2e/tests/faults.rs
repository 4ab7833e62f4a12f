//! Daemons die, others delete what is ours, the API server goes away: nothing is lost, all is repaired.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use e2e::{Cluster, Options, within};

/// A cluster with a pod on each node, all of them reaching each other.
fn cluster_with_pods(test: &str) -> Cluster {
    let cluster = Cluster::up(test, &Options::default());
    for node in 1..=3 {
        cluster.pod(&format!("p{node}"), &format!("n{node}"));
    }
    cluster.pods_ready();
    cluster.expect_probe("default/p1", "default/p3", 80, "allowed");
    cluster
}

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-p1}
spec:
  podSelector: {matchLabels: {app: p3}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: p1}}}]
";

#[test]
fn nothing_is_lost_when_daemons_are_killed() {
    let cluster = cluster_with_pods("kill");
    let address = cluster.address("p3");

    for daemon in ["felix", "bird-lite"] {
        let ping = cluster.ping("default/p1", &address);
        let pid = |cluster: &Cluster| daemon_pid(cluster, "n1", daemon);
        let before = pid(&cluster);
        cluster.lab_ok(&["kill", "n1", daemon]);
        within(
            20,
            &format!("{daemon} is another process"),
            || pid(&cluster),
            |now| now.is_some() && *now != before,
        );
        // It is well again when it has read back and compared everything; a flush would have shown by then.
        cluster.well_again("n1");
        let tally = ping.stop().expect("ping ran");
        assert_eq!(tally.lost(), 0, "{daemon}: {tally}");
        assert!(tally.sent > 0, "{daemon}: the ping did not run");
    }
}

#[test]
fn the_network_works_while_daemons_are_down_and_they_take_over_on_return() {
    let cluster = cluster_with_pods("down");
    cluster.lab_ok(&["stop", "n1"]);

    cluster.expect_probe("default/p1", "default/p3", 80, "allowed");
    cluster.expect_probe("default/p3", "default/p1", 80, "allowed");

    cluster.lab_ok(&["start", "n1"]);
    cluster.nodes_ready(3);
    cluster.pod("late", "n1");
    cluster.pods_ready();
    cluster.expect_probe("default/p3", "default/late", 80, "allowed");
}

#[test]
fn a_pod_that_is_deleted_while_felix_is_down_leaves_nothing() {
    let cluster = cluster_with_pods("del");
    let address = cluster.address("p1");
    cluster.lab_ok(&["stop", "n1", "felix"]);

    cluster.kubectl_ok(&["delete", "pod", "p1", "--timeout=180s"]);
    cluster.lab_ok(&["start", "n1", "felix"]);

    within(
        20,
        "the address is released",
        || cluster.pods_with_addresses(),
        |pods| !pods.iter().any(|pod| pod == "p1"),
    );
    let routes = || cluster.exec("n1", &["ip", "route"]);
    within(20, "the route is gone", routes, |text| {
        !text.lines().any(|line| line.starts_with(&format!("{address} ")))
    });
}

#[test]
fn what_others_delete_is_repaired() {
    let cluster = cluster_with_pods("repair");
    cluster.apply(POLICY);
    cluster.expect_probe("default/p2", "default/p3", 80, "denied");
    cluster.expect_probe("default/p1", "default/p3", 80, "allowed");
    let (own, remote) = (cluster.address("p3"), cluster.address("p1"));
    let routes = || cluster.exec("n3", &["ip", "route"]);
    let has_own = |text: &String| text.lines().any(|line| line.starts_with(&format!("{own} dev cali")));
    assert!(has_own(&routes()), "{}", routes());

    cluster.exec("n3", &["ip", "route", "del", &own]);
    within(5, "the pod's route is back", routes, has_own);

    // Packets also take the way over the router, before every session is up.
    cluster.well_again("n3");
    let to_remote = || cluster.exec("n3", &["ip", "route", "get", &remote]);
    let learned = || cluster.exec("n3", &["ip", "route", "show", "match", &remote, "proto", "bird"]);
    let block = within(30, "a learned route", learned, |text| !text.trim().is_empty());
    let block = block.split_whitespace().next().unwrap().to_owned();
    let before = to_remote();
    cluster.exec("n3", &["ip", "route", "del", &block, "proto", "bird"]);
    within(5, "the learned route is back", to_remote, |now| now.lines().next() == before.lines().next());

    // No refresh is near: it is noticed.
    for broken in [
        &["iptables", "-F", "cali-FORWARD"][..],
        &["iptables", "-F"],
        &["ipset", "flush"],
        &["iptables", "-D", "FORWARD", "-j", "cali-FORWARD"],
    ] {
        if broken[1] == "-D" {
            let rules = cluster.exec("n3", &["iptables", "-S", "FORWARD"]);
            let rule =
                rules.lines().find(|line| line.contains("-j cali-FORWARD")).expect("the jump is there");
            let rule = rule.replacen("-A", "-D", 1);
            cluster.exec("n3", &["sh", "-c", &format!("iptables {rule}")]);
        } else {
            cluster.exec("n3", broken);
        }
        let verdicts =
            || (cluster.probe("default/p1", "default/p3", 80), cluster.probe("default/p2", "default/p3", 80));
        let wanted = ("allowed".to_owned(), "denied".to_owned());
        within(30, &format!("policy holds again after {broken:?}"), verdicts, |seen| *seen == wanted);
    }
}

#[test]
fn connections_that_policy_no_longer_allows_end_in_strict_mode() {
    let cluster = cluster_with_pods("strict");
    cluster.apply(
        "apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {policyConntrackMode: Strict}
",
    );
    let address = cluster.address("p3");
    let denied = cluster.ping("default/p2", &address);
    let allowed = cluster.ping("default/p1", &address);
    let tracked = |pod: &str| {
        let source = cluster.address(pod);
        cluster.exec("n3", &["conntrack", "-L", "-p", "icmp", "-s", &source, "-d", &address])
    };
    within(
        20,
        "both are tracked",
        || (tracked("p1"), tracked("p2")),
        |(one, other)| one.contains(&address) && other.contains(&address),
    );

    cluster.apply(POLICY);

    within(30, "the connection is forgotten", || tracked("p2"), |text| !text.contains(&address));
    assert!(tracked("p1").contains(&address), "what is still allowed was forgotten");
    drop(denied);
    assert_eq!(allowed.stop().expect("ping ran").lost(), 0);
}

#[test]
fn a_policy_stays_enforced_while_felix_is_down() {
    let cluster = cluster_with_pods("closed");
    cluster.apply(POLICY);
    cluster.expect_probe("default/p2", "default/p3", 80, "denied");

    cluster.lab_ok(&["stop", "n3", "felix"]);

    assert_eq!(cluster.probe("default/p2", "default/p3", 80), "denied");
    cluster.expect_probe("default/p1", "default/p3", 80, "allowed");
    cluster.lab_ok(&["start", "n3", "felix"]);
    cluster.nodes_ready(3);
    assert_eq!(cluster.probe("default/p2", "default/p3", 80), "denied");
}

#[test]
fn the_api_server_may_go_away_and_come_back() {
    let cluster = cluster_with_pods("api");
    cluster.lab_ok(&["stop", "apiserver"]);
    assert!(
        !cluster.kubectl(&["get", "nodes", "--request-timeout=2s"]).status.success(),
        "the API server is still there"
    );

    cluster.expect_probe("default/p1", "default/p3", 80, "allowed");
    cluster.lab_ok(&["start", "apiserver"]);

    cluster.nodes_ready(3);
    cluster.apply(POLICY);
    cluster.expect_probe("default/p2", "default/p3", 80, "denied");
    cluster.pod("late", "n2");
    cluster.pods_ready();
    cluster.expect_probe("default/p1", "default/late", 80, "allowed");
}

/// The process of a daemon, from the lab's status.
fn daemon_pid(cluster: &Cluster, node: &str, daemon: &str) -> Option<u64> {
    let status: serde_json::Value = serde_json::from_str(&cluster.lab_ok(&["status", "-o", "json"])).unwrap();
    let nodes = status["nodes"].as_array()?;
    let node = nodes.iter().find(|entry| entry["name"] == node)?;
    let daemon = node["agents"].as_array()?.iter().find(|entry| entry["name"] == daemon)?;
    daemon["pid"].as_u64()
}
