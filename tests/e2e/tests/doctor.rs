//! An operator breaks nodes in every way that the doctor knows, reads the command that mends it, runs it, and is told that all is well.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use e2e::{Cluster, Options, programs, within};
use serde_json::Value;

/// A directory that goes with the test.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Place {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        Self(place)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
}

fn ocicat(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = Command::new(programs().join("ocicat"));
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig()).env("OCICAT_LAB", cluster.name());
    command.stdin(Stdio::null()).output().unwrap()
}

/// Findings of a node beyond what is good to know.
fn findings(cluster: &Cluster, node: &str, arguments: &[&str]) -> Vec<Value> {
    let output = ocicat(cluster, &[&["doctor", "--node", node, "-o", "json"], arguments].concat());
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((told.as_array().unwrap().len(), &told[0]["node"]), (1, &node.into()));
    told[0]["findings"].as_array().unwrap().iter().filter(|f| f["severity"] != "info").cloned().collect()
}

/// Waits for a finding, runs what mends it on the node, and waits until it is gone.
#[track_caller]
fn found_and_mended(cluster: &Cluster, node: &str, check: &str, arguments: &[&str]) {
    let look = || findings(cluster, node, arguments);
    let is_there = |found: &Vec<Value>| found.iter().any(|finding| finding["check"] == check);
    let found = within(30, &format!("{node}: {check}"), look, is_there);
    let finding = found.iter().find(|finding| finding["check"] == check).unwrap();
    assert!(!finding["evidence"].as_str().unwrap().is_empty(), "{finding}");
    cluster.exec(node, &["sh", "-c", finding["mend"].as_str().unwrap()]);
    within(30, &format!("{node}: {check} is mended"), look, |found| !is_there(found));
}

#[test]
fn what_is_broken_is_found_and_mended() {
    let cluster = Cluster::up("doctor", &Options { nodes: 2, subnets: 1, tor: "none", ..Options::default() });
    within(
        60,
        "sessions are up",
        || cluster.bgp_peers("n1"),
        |peers| !peers.is_empty() && peers.values().all(|state| state == "Established"),
    );
    // A kernel without IPIP is no fault of a test.
    let grave = |found: &Vec<Value>| found.iter().any(|finding| finding["check"] != "kernel-feature");
    within(30, "n1 is well", || findings(&cluster, "n1", &[]), |found| !grave(found));
    let both: Value = serde_json::from_slice(&ocicat(&cluster, &["doctor", "-o", "json"]).stdout).unwrap();
    assert_eq!(both.as_array().unwrap().len(), 2, "{both}");

    // The path carries less than the link says.
    cluster.exec("n2", &["ip", "link", "set", "dev", "eth0", "mtu", "1400"]);
    found_and_mended(&cluster, "n1", "path-mtu", &[]);
    for node in ["n1", "n2"] {
        cluster.exec(node, &["ip", "link", "set", "dev", "eth0", "mtu", "1500"]);
    }

    cluster.pod("web", "n1");
    cluster.pods_ready();
    cluster.exec("n1", &["ip", "link", "set", "dev", "eth0", "mtu", "1400"]);
    found_and_mended(&cluster, "n1", "link-mtu", &[]);

    cluster.exec("n1", &["sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1"]);
    found_and_mended(&cluster, "n1", "rp-filter", &[]);

    cluster.exec("n1", &["sysctl", "-qw", "net.ipv4.ip_forward=0"]);
    found_and_mended(&cluster, "n1", "ip-forward", &[]);

    cluster.exec("n1", &["iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT"]);
    found_and_mended(&cluster, "n1", "mixed-backend", &[]);

    cluster.exec("n1", &["ip", "link", "add", "flannel.1", "type", "bridge"]);
    found_and_mended(&cluster, "n1", "foreign-link", &[]);

    let place = Place::new("doctor-cni");
    place.write("05-other.conflist", r#"{"plugins": [{"type": "other-cni"}]}"#);
    place.write("10-calico.conflist", r#"{"plugins": [{"type": "calico"}]}"#);
    let directory = place.0.to_str().unwrap();
    found_and_mended(&cluster, "n1", "foreign-conflist", &["--cni-directory", directory]);

    // The API server is away: the doctor asks nobody but the node.
    let output = Command::new(programs().join("ocicat"))
        .args(["doctor", "--lab", cluster.name(), "--kubeconfig", "/nonexistent", "--node", "n2"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("n2: "), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn kubectl_has_a_plugin_and_a_bundle_has_no_secret() {
    let cluster = Cluster::up("plugin", &Options { nodes: 2, subnets: 1, tor: "none", ..Options::default() });
    let place = Place::new("plugin");
    std::os::unix::fs::symlink(programs().join("ocicat"), place.0.join("kubectl-ocicat")).unwrap();
    let path = format!("{}:{}", place.0.display(), std::env::var("PATH").unwrap());
    let plugin = |arguments: &[&str]| {
        let mut command = Command::new("kubectl");
        command
            .arg("ocicat")
            .args(arguments)
            .env("PATH", &path)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null());
        command.output().unwrap()
    };
    let text = |output: &Output| {
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let kubeconfig = cluster.kubeconfig();
    let context = String::from_utf8(cluster.kubectl(&["config", "current-context"]).stdout).unwrap();

    cluster.pod("web", "n1");
    cluster.pods_ready();
    let wide = ["get", "nodes", "-o", "wide", "--kubeconfig", kubeconfig, "--context", context.trim()];
    let is_told = |said: &String| said.contains("172.20.0.11/24") && said.contains("(64512)");
    within(30, "nodes are told", || text(&plugin(&wide)), is_told);
    let endpoints = plugin(&["--kubeconfig", kubeconfig, "get", "wep", "-A"]);
    assert!(text(&endpoints).contains("default    web       n1    10.65."), "{}", text(&endpoints));
    let none = plugin(&["get", "wep", "--namespace", "kube-system", "--kubeconfig", kubeconfig]);
    assert_eq!(text(&none).lines().count(), 1, "{}", text(&none));
    let wrong = plugin(&["get", "nodes", "--kubeconfig", kubeconfig, "--context", "nonesuch"]);
    assert!(wrong.status.code() == Some(3) && text(&wrong).contains("nonesuch"), "{}", text(&wrong));
    let missing = plugin(&["get", "ippool", "nonesuch", "--kubeconfig", kubeconfig]);
    assert!(
        missing.status.code() == Some(1) && text(&missing).contains("IPPool nonesuch"),
        "{}",
        text(&missing)
    );
    let help = plugin(&["status", "--help"]);
    assert!(text(&help).contains("Usage: kubectl ocicat status"), "{}", text(&help));
    let status = || plugin(&["status", "--kubeconfig", kubeconfig]);
    within(
        60,
        "all is well",
        || text(&status()),
        |said| said.contains("2 of 2 ready") && said.contains("2 of 2 up"),
    );

    // A password that the speakers use, and one that stands where it should not.
    cluster.apply(
        "apiVersion: v1
kind: Secret
metadata: {name: rack, namespace: kube-system}
stringData: {bgp: canary-of-the-rack}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack, annotations: {note: 'password: canary-of-a-note'}}
spec: {peerIP: 172.20.0.99, asNumber: 64999, password: {secretKeyRef: {name: rack, key: bgp}}}
",
    );
    within(30, "the peer is there", || cluster.bgp_peers("n1"), |peers| peers.contains_key("172.20.0.99"));
    let bundle = place.0.join("bundle.tar.gz");
    let diags =
        ["diags", "-o", bundle.to_str().unwrap(), "--lab", cluster.name(), "--kubeconfig", kubeconfig];
    let make = || {
        let _ = fs::remove_file(&bundle);
        let made = plugin(&diags);
        assert!(made.status.success(), "{}", text(&made));
        left_out(&bundle)
    };
    // What a node is too slow for is left out.
    within(60, "all of the bundle", make, Vec::is_empty);
    check_secrets(&bundle, kubeconfig);
}

fn content(bundle: &Path, how: &str) -> String {
    let output = Command::new("tar").arg(how).arg(bundle).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What should be in it and is not.
fn left_out(bundle: &Path) -> Vec<&'static str> {
    let names = content(bundle, "-tzf");
    let mut wanted = vec![
        "nodes/n1/routes4.txt",
        "nodes/n2/logs/felix.log",
        "nodes/n1/bgp-summary.json",
        "cluster/objects/bgppeers.yaml",
        "cluster/doctor.txt",
    ];
    wanted.retain(|name| !names.contains(name));
    wanted
}

/// No secret is in it.
fn check_secrets(bundle: &Path, kubeconfig: &str) {
    let all = content(bundle, "-xzOf");
    assert!(all.contains("secretKeyRef") && all.contains("172.20.0.99"));
    let config = fs::read_to_string(kubeconfig).unwrap();
    let secrets = config
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(key, _)| ["token", "client-key-data", "client-key"].contains(key));
    let secrets: Vec<&str> = secrets.map(|(_, value)| value.trim_matches('"')).chain(["canary-of"]).collect();
    for secret in secrets {
        assert!(!all.contains(secret), "{secret} is in the bundle");
    }
}
