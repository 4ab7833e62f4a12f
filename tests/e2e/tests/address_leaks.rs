//! Addresses that leak: `ocicat ipam check` sees them, and the node or the controllers take them back.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::{Cluster, Options, programs, within};

/// Exit status and text of `ocicat ipam …`.
fn ipam(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(programs().join("ocicat"))
        .arg("ipam")
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .expect("ocicat starts");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), text.concat())
}

fn check(cluster: &Cluster) -> (Option<i32>, String) {
    ipam(cluster, &["check", "--show-problem-ips"])
}

fn is_well((status, _): &(Option<i32>, String)) -> bool {
    *status == Some(0)
}

/// Deletes all files of a directory; how many there were.
fn empty(directory: &Path) -> usize {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).map(|path| fs::remove_file(path).unwrap()).count()
}

#[test]
fn what_leaks_is_seen_and_taken_back() {
    let options = Options {
        nodes: 2,
        subnets: 1,
        tor: "none",
        environment: &[("OCICAT_LEAK_GRACE", "5"), ("OCICAT_NODE_GRACE", "5")],
        ..Options::default()
    };
    let cluster = Cluster::up("leaks", &options);
    // A block with an address that rests stays until it has.
    assert_eq!(ipam(&cluster, &["configure", "--cooldown", "2"]).0, Some(0));
    cluster.pod("p1", "n1");
    cluster.pod("p2", "n2");
    cluster.pods_ready();
    within(60, "all is well at first", || check(&cluster), is_well);

    // The pod goes while felix is away, and what says so is lost with it.
    cluster.lab_ok(&["stop", "n1", "felix"]);
    cluster.kubectl_ok(&["delete", "pod", "p1", "--force", "--grace-period=0"]);
    let queue = cluster.socket("n1", "cni-del");
    within(60, "the DEL is queued", || empty(&queue), |count| *count > 0);
    empty(&cluster.socket("n1", "felix").join("endpoints"));
    let (status, text) = check(&cluster);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("not in use: the Pod is gone") && text.contains("default/p1"), "{text}");

    cluster.lab_ok(&["start", "n1", "felix"]);
    within(60, "the node has taken it back", || check(&cluster), is_well);

    // A node that is removed leaves its tunnel's address, what it held ready, and its blocks.
    cluster.lab_ok(&["node", "remove", "n2"]);
    let objects = || cluster.kubectl_ok(&["get", "ipamblocks,blockaffinities,ipamhandles", "-o", "json"]);
    within(60, "nothing of n2 is left", objects, |text| {
        !["\"n2\"", "host:n2", "-n2\""].iter().any(|mark| text.contains(mark))
    });
    within(60, "all is well at last", || check(&cluster), is_well);
}
