//! A lab from `up` to `down` with a stand-in CNI plugin and without the daemons: what the lab itself promises.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{TestLab, eventually, text};

const SMALL: [&str; 7] = ["--no-agents", "--nodes", "1", "--subnets", "1", "--tor", "none"];

fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  {more}\n  containers:\n  - \
         name: c\n    image: none\n    ports: [{{containerPort: 80}}, {{containerPort: 81, protocol: UDP}}]\n---\n"
    )
}

fn find_pod(lab: &TestLab, name: &str) -> Value {
    let status = lab.json("status", &[]);
    let pods = status["pods"].as_array().unwrap();
    pods.iter().find(|p| p["name"] == name).cloned().unwrap_or(Value::Null)
}

fn ready(lab: &TestLab, name: &str) {
    eventually(&format!("{name} Ready"), || find_pod(lab, name)["ready"] == true);
}

#[test]
fn pods_are_wired_answer_and_leave_nothing() {
    let lab = TestLab::new("pods");
    let kubeconfig = lab.good("up", &SMALL);
    assert_eq!(kubeconfig.trim(), format!("/run/ocicat-lab/{}/kubeconfig", lab.name));

    lab.apply(&(pod("a", "") + &pod("b", "") + &pod("host", "hostNetwork: true")));
    for name in ["default/a", "default/b", "default/host"] {
        ready(&lab, name);
    }

    let probe = lab.probe(&["--from", "default/a", "--to", "default/b", "--port", "80"]);
    assert_eq!(
        (&probe["verdict"], &probe["answeredBy"]),
        (&json!("allowed"), &json!("default/b")),
        "{probe}"
    );
    let probe = lab.probe(&["--from", "n1", "--to", "default/b", "--port", "81", "--proto", "udp"]);
    assert_eq!(
        (&probe["verdict"], &probe["answeredBy"]),
        (&json!("allowed"), &json!("default/b")),
        "{probe}"
    );
    let probe = lab.probe(&["--from", "default/a", "--to", "default/host", "--port", "80"]);
    assert_eq!(
        (&probe["address"], &probe["answeredBy"]),
        (&json!("172.20.0.11"), &json!("default/host")),
        "{probe}"
    );
    let probe = lab.probe(&["--from", "default/a", "--to", "default/b", "--port", "82"]);
    assert_eq!(probe["verdict"], "refused", "{probe}");
    let probe = lab.json("probe", &["--from", "default/a", "--to", "tor", "--proto", "icmp"]);
    assert_eq!(probe["verdict"], "denied", "the router knows no way back: {probe}");
    let probe = lab.probe(&["--from", "default/a", "--to", "default/b", "--proto", "icmp"]);
    assert_eq!(probe["verdict"], "allowed", "{probe}");

    let matrix = lab.json("matrix", &["--port", "80", "--timeout-ms", "30000"]);
    let rows = matrix["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|r| r["verdict"] == "allowed"), "{matrix}");

    let exec = lab.lab("exec", &["default/a", "--", "sh", "-c", "ip -o link show eth0; exit 7"]);
    assert_eq!(exec.status.code(), Some(7), "{}", text(&exec));
    assert!(text(&exec).contains("eth0"), "{}", text(&exec));

    lab.kubectl(&["delete", "pod", "a"]);
    eventually("pod a gone", || find_pod(&lab, "default/a").is_null());
    let calls = fs::read_to_string(lab.bin_dir.join("calls")).unwrap();
    let netns = format!("/run/netns/{}-default-a", lab.name);
    assert_eq!(calls, format!("DEL netns={netns} prev=1\nDEL netns= prev=0\n"));

    lab.good("down", &[]);
    assert_eq!(lab.remains(), Vec::<String>::new());
}

#[test]
fn a_refused_pod_says_why_and_is_tried_again() {
    let lab = TestLab::new("refused");
    lab.good("up", &SMALL);

    lab.apply(&pod("broken-a", ""));
    eventually("the plugin's words in the status", || {
        find_pod(&lab, "default/broken-a")["message"]
            .as_str()
            .is_some_and(|m| m.contains("the stand-in refuses"))
    });
    eventually("the plugin's words in the pod", || {
        lab.kubectl(&["get", "pod", "broken-a", "-o", "json"])
            .contains("the stand-in refuses: as the test wants")
    });

    fs::write(lab.bin_dir.join("repaired"), "").unwrap();
    ready(&lab, "default/broken-a");
}

#[test]
fn pods_outlive_an_absent_api_server() {
    let lab = TestLab::new("api");
    lab.good("up", &SMALL);
    lab.apply(&(pod("a", "") + &pod("b", "")));
    ready(&lab, "default/a");
    ready(&lab, "default/b");
    let before = find_pod(&lab, "default/b");

    lab.good("stop", &["apiserver"]);
    let probe = lab.probe(&["--from", "default/a", "--to", "default/b", "--port", "80"]);
    assert_eq!(probe["verdict"], "allowed", "{probe}");
    lab.good("start", &["apiserver"]);

    lab.apply(&pod("c", ""));
    ready(&lab, "default/c");
    assert_eq!(find_pod(&lab, "default/b"), before, "the pod was not touched");
}

#[test]
fn nodes_come_and_go_and_cables_too() {
    let lab = TestLab::new("nodes");
    lab.good("up", &["--no-agents", "--nodes", "2", "--subnets", "2", "--tor", "none"]);

    assert_eq!(lab.good("node add", &["--subnet", "1"]).trim(), "n3");
    let probe = lab.probe(&["--from", "n1", "--to", "n3", "--proto", "icmp"]);
    assert_eq!((&probe["verdict"], &probe["address"]), (&json!("allowed"), &json!("172.20.1.13")), "{probe}");
    lab.good("link down", &["n3"]);
    let probe = lab.json("probe", &["--from", "n1", "--to", "n3", "--proto", "icmp", "--timeout-ms", "300"]);
    assert_ne!(probe["verdict"], "allowed", "{probe}");
    lab.good("link up", &["n3"]);
    eventually("n3 back", || {
        lab.json("probe", &["--from", "n1", "--to", "n3", "--proto", "icmp"])["verdict"] == "allowed"
    });

    lab.apply(&pod("a", "nodeName: n3"));
    ready(&lab, "default/a");
    lab.good("node remove", &["n3"]);
    let status = lab.json("status", &[]);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["pods"], json!([]));
    assert!(!lab.kubectl(&["get", "nodes", "-o", "name"]).contains("n3"));
}

#[test]
fn wrong_names_are_answered_with_the_right_ones() {
    let lab = TestLab::new("names");
    let missing = lab.lab("status", &[]);
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing));
    lab.good("up", &SMALL);

    for (command, arguments, known) in [
        ("exec", vec!["n9", "--", "true"], "n1"),
        ("kill", vec!["n9"], "n1"),
        ("link down", vec!["n9"], "n1"),
        ("probe", vec!["--from", "x/y", "--to", "n1", "--port", "1"], "there is none"),
    ] {
        let output = lab.lab(command, &arguments);
        assert_eq!(output.status.code(), Some(2), "{command}: {}", text(&output));
        assert!(text(&output).contains(known), "{command}: {}", text(&output));
    }
    let twice = lab.lab("up", &SMALL);
    assert!(text(&twice).contains("already up"), "{}", text(&twice));
}

#[test]
fn down_removes_what_a_dead_daemon_left() {
    let lab = TestLab::new("crash");
    lab.good("up", &SMALL);
    lab.apply(&pod("a", ""));
    ready(&lab, "default/a");
    let pid = fs::read_to_string(format!("/run/ocicat-lab/{}/daemon.pid", lab.name)).unwrap();
    let killed = std::process::Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
    assert!(killed.success());
    eventually("the daemon dead", || !lab.lab("status", &[]).status.success());

    lab.good("down", &[]);
    assert_eq!(lab.remains(), Vec::<String>::new());
}

#[test]
fn a_lab_that_cannot_start_leaves_nothing() {
    let lab = TestLab::new("fail");
    let output = lab.lab("up", &["--no-agents", "--kube-apiserver", "https://127.0.0.1:1", "--token", "x"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("API server"), "{}", text(&output));
    assert_eq!(lab.remains(), Vec::<String>::new());
}
