//! Each kind of top-of-rack router over a real BGP session with a node: it learns, forwards, announces, forgives.
//! The node's speaker here is BIRD, so that these tests say something about the router alone.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{TestLab, eventually_or, need, text};

/// A BIRD in a node's namespace that announces one block; ended with the test.
struct Speaker {
    child: Child,
    config: PathBuf,
}

impl Speaker {
    fn start(lab: &TestLab) -> Self {
        need("bird", "bird2");
        let config = lab.bin_dir.join("node.conf");
        fs::write(
            &config,
            "router id 172.20.0.11;\nprotocol device {}\nprotocol static { ipv4; route 10.65.7.0/26 blackhole; }\n\
             protocol kernel { ipv4 { export where source = RTS_BGP; }; }\n\
             protocol bgp tor { local 172.20.0.11 as 64512; neighbor 172.20.0.1 as 64513; connect delay time 1; \
             error wait time 1, 2; connect retry time 1; graceful restart on; \
             ipv4 { import all; export where source = RTS_STATIC; }; }\n",
        )
        .unwrap();
        let child = Self::spawn(lab, &config);
        Self { child, config }
    }

    fn spawn(lab: &TestLab, config: &PathBuf) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &format!("{}-n1", lab.name), "bird", "-f", "-c"])
            .arg(config)
            .arg("-s")
            .arg(lab.bin_dir.join("node.ctl"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Ends it as a crash would: the session breaks without a goodbye.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn routes(lab: &TestLab, place: &str) -> String {
    lab.good("exec", &[place, "--", "ip", "route"])
}

fn learns_and_announces(kind: &str) {
    let lab = TestLab::new(kind);
    lab.good("up", &["--no-agents", "--nodes", "1", "--subnets", "1", "--tor", kind]);
    let mut speaker = Speaker::start(&lab);

    let learned = |lab: &TestLab| {
        routes(lab, "tor").lines().any(|r| r.starts_with("10.65.7.0/26 ") && r.contains("via 172.20.0.11"))
    };
    let state = || format!("{}{}{}", routes(&lab, "tor"), routes(&lab, "n1"), lab.good("logs", &["tor"]));
    eventually_or("the router knows the node's block", || learned(&lab), state);
    let knows_the_world = || routes(&lab, "n1").contains("198.51.100.0/24 via 172.20.0.1 ");
    eventually_or("the node knows the world", knows_the_world, state);

    speaker.kill();
    assert!(learned(&lab), "graceful restart keeps the route: {}", state());
    speaker.child = Speaker::spawn(&lab, &speaker.config);
    let agents = || lab.json("status", &[])["tor"]["agents"].as_array().unwrap().clone();
    let restarts = |agents: &[Value]| agents.iter().map(|a| a["restarts"].as_u64()).collect::<Vec<_>>();
    let before = restarts(&agents());
    let output = lab.lab("kill", &["tor"]);
    assert!(output.status.success(), "{}", text(&output));
    let back = || {
        let agents = agents();
        let again = restarts(&agents).iter().zip(&before).all(|(now, before)| now > before);
        again && agents.iter().all(|a| a["state"] == "running") && learned(&lab)
    };
    eventually_or("the router is back with the node's block", back, || {
        format!("{before:?} {:?} {}", agents(), state())
    });
}

#[test]
fn bird_learns_and_announces() {
    learns_and_announces("bird");
}

#[test]
fn gobgp_learns_and_announces() {
    need("gobgpd", "gobgpd");
    learns_and_announces("gobgp");
}

#[test]
fn frr_learns_and_announces() {
    learns_and_announces("frr");
}
