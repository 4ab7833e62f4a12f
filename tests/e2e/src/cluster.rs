//! A lab that goes down with the test.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ping::{PING, RunningPing};
use serde_json::Value;

use crate::{Matrix, within};

/// Labs of one test program come one after the other: two cores carry one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What `lab up` is told; the rest is its default.
pub struct Options<'a> {
    pub nodes: usize,
    pub subnets: usize,
    pub tor: &'a str,
    pub family: &'a str,
    /// Variables that every process of the lab gets.
    pub environment: &'a [(&'a str, &'a str)],
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { nodes: 3, subnets: 2, tor: "bird", family: "4", environment: &[] }
    }
}

pub struct Cluster {
    name: String,
    kubeconfig: String,
    _turn: MutexGuard<'static, ()>,
}

/// The folder of the programs of this build.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let folder = own.ancestors().nth(2).expect("tests run from target/<profile>/deps").to_path_buf();
    assert!(
        folder.join("lab").exists(),
        "no `lab` in {}: run `cargo build --workspace --bins` first",
        folder.display()
    );
    folder
}

impl Cluster {
    /// Brings up a lab named after the test and this process.
    pub fn up(test: &str, options: &Options) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{test}{}", std::process::id());
        let mut cluster = Self { name, kubeconfig: String::new(), _turn: turn };
        let (nodes, subnets) = (options.nodes.to_string(), options.subnets.to_string());
        let up = [
            "up",
            "--nodes",
            &nodes,
            "--subnets",
            &subnets,
            "--tor",
            options.tor,
            "--family",
            options.family,
        ];
        let mut command = cluster.lab_command(&up);
        command.envs(options.environment.iter().copied());
        let said = succeeded("lab", &up, command.output().expect("lab starts"));
        let path = said.lines().rev().find(|line| line.starts_with('/'));
        cluster.kubeconfig =
            path.unwrap_or_else(|| panic!("lab up printed no kubeconfig: {said}")).to_owned();
        cluster
    }

    /// The lab's name, with which the names of its network namespaces begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of a kubeconfig for this machine.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// Attributes of the addresses that are given out, one for each; what rests after its release is nobody's.
    pub fn allocations(&self) -> Vec<Value> {
        let text = self.kubectl_ok(&["get", "ipamblocks", "-o", "json"]);
        let blocks: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let mut held = Vec::new();
        for block in blocks["items"].as_array().into_iter().flatten() {
            let attributes = &block["spec"]["attributes"];
            let given = block["spec"]["allocations"].as_array().into_iter().flatten();
            let indexes = given.filter_map(|index| usize::try_from(index.as_u64()?).ok());
            held.extend(indexes.filter_map(|index| attributes.get(index)).cloned());
        }
        held.retain(|of| of["releasedAt"].is_null());
        held
    }

    /// Names of the pods that hold addresses.
    pub fn pods_with_addresses(&self) -> Vec<String> {
        let held = self.allocations().into_iter();
        held.filter_map(|of| of["secondary"]["pod"].as_str().map(str::to_owned)).collect()
    }

    /// The lab's command line for this cluster.
    pub fn lab_command(&self, arguments: &[&str]) -> Command {
        // Some verbs are two words.
        let words = if matches!(arguments.first(), Some(&("node" | "link"))) { 2 } else { 1 };
        let (verb, rest) = arguments.split_at_checked(words).expect("the lab is told what to do");
        let mut command = Command::new(programs().join("lab"));
        command.args(verb).args(["--name", &self.name]).args(rest).stdin(Stdio::null());
        command
    }

    pub fn lab(&self, arguments: &[&str]) -> Output {
        self.lab_command(arguments).output().expect("lab starts")
    }

    /// Standard output of a lab command that must succeed.
    #[track_caller]
    pub fn lab_ok(&self, arguments: &[&str]) -> String {
        succeeded("lab", arguments, self.lab(arguments))
    }

    /// Runs a command in the network namespace of a node, a pod (`namespace/name`) or the ToR.
    #[track_caller]
    pub fn exec(&self, place: &str, command: &[&str]) -> String {
        self.lab_ok(&[&["exec", place, "--"], command].concat())
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        Command::new("kubectl")
            .env("KUBECONFIG", &self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("kubectl starts (Debian package kubernetes-client)")
    }

    /// Standard output of a kubectl command that must succeed.
    #[track_caller]
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        succeeded("kubectl", arguments, self.kubectl(arguments))
    }

    /// kubectl with `input` on standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        child.stdin.take().unwrap().write_all(input.as_bytes()).expect("kubectl reads its input");
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        succeeded("kubectl", &["apply", "-f", "-"], self.kubectl_with(&["apply", "-f", "-"], yaml))
    }

    /// Creates a pod that answers on TCP and UDP 80, on a node.
    pub fn pod(&self, name: &str, node: &str) {
        self.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers:
  - name: main
    image: lab/responder
    ports: [{{name: web, containerPort: 80, protocol: TCP}}, {{name: dns, containerPort: 80, protocol: UDP}}]
"
        ));
    }

    /// Waits until every pod is Ready.
    #[track_caller]
    pub fn pods_ready(&self) {
        self.kubectl_ok(&["wait", "--for=condition=Ready", "pods", "--all", "-A", "--timeout=300s"]);
    }

    /// The address of a pod in the default namespace.
    #[track_caller]
    pub fn address(&self, pod: &str) -> String {
        self.kubectl_ok(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])
    }

    /// Probes every ordered pair of pods; what does not answer in time is denied, so ask again with more of it before
    /// believing that.
    pub fn matrix(&self, port: u16, proto: &str, milliseconds: u64) -> Matrix {
        let (port, time) = (port.to_string(), milliseconds.to_string());
        let output =
            self.lab(&["matrix", "--port", &port, "--proto", proto, "--timeout-ms", &time, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "lab matrix: {error}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// The verdict of one probe.
    pub fn probe(&self, from: &str, to: &str, port: u16) -> String {
        let port = port.to_string();
        let output = self.lab(&["probe", "--from", from, "--to", to, "--port", &port, "-o", "json"]);
        let probe: crate::Probe = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("lab probe: {error}: {}", String::from_utf8_lossy(&output.stderr))
        });
        probe.verdict
    }

    /// Waits for a verdict.
    #[track_caller]
    pub fn expect_probe(&self, from: &str, to: &str, port: u16, verdict: &str) {
        within(
            15,
            &format!("{from} to {to}: {verdict}"),
            || self.probe(from, to, port),
            |seen| seen == verdict,
        );
    }

    /// Starts pinging from a pod, 20 packets a second.
    pub fn ping(&self, from: &str, address: &str) -> RunningPing {
        self.ping_every("0.05", from, address)
    }

    /// Starts pinging from a pod, a packet each `interval` seconds.
    pub fn ping_every(&self, interval: &str, from: &str, address: &str) -> RunningPing {
        let command = [&["exec", from, "--"], &PING[..], &[interval, address]].concat();
        RunningPing::start(self.lab_command(&command)).unwrap()
    }

    /// The path of a node's socket, such as `bird-lite.sock`.
    pub fn socket(&self, node: &str, name: &str) -> PathBuf {
        Path::new(&self.kubeconfig).with_file_name(node).join(name)
    }

    /// Peers of a node's speaker with the states of their sessions.
    pub fn bgp_peers(&self, node: &str) -> BTreeMap<String, String> {
        let output = Command::new(programs().join("ocicat"))
            .args(["bgp", "summary", "-o", "json", "--socket"])
            .arg(self.socket(node, "bird-lite.sock"))
            .output()
            .expect("ocicat starts");
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let peers = summary["peers"].as_array().cloned().unwrap_or_default();
        let text = |peer: &Value, key: &str| peer[key].as_str().unwrap_or_default().to_owned();
        peers.iter().map(|peer| (text(peer, "address"), text(peer, "state"))).collect()
    }

    /// Waits until both daemons of a node say that they are well: ready, and with every peer up.
    #[track_caller]
    pub fn well_again(&self, node: &str) {
        let questions =
            [("felix.sock", &["node", "status"][..]), ("bird-lite.sock", &["bgp", "summary", "--check"])];
        for (socket, question) in questions {
            let ask = || {
                let mut command = Command::new(programs().join("ocicat"));
                let output = command.args(question).arg("--socket").arg(self.socket(node, socket)).output();
                let output = output.expect("ocicat starts");
                (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
            };
            within(30, &format!("{node} is well"), ask, |(is_well, _)| *is_well);
        }
    }

    /// Waits until `controllers` checks what is written.
    #[track_caller]
    pub fn controllers_ready(&self) {
        let status = || -> Value {
            serde_json::from_str(&self.lab_ok(&["status", "-o", "json"])).expect("the lab prints JSON")
        };
        within(60, "controllers is ready", status, |status| status["controllers"]["ready"] == true);
    }

    /// Waits until every node is Ready.
    #[track_caller]
    pub fn nodes_ready(&self, count: usize) {
        let nodes = || String::from_utf8_lossy(&self.kubectl(&["get", "nodes"]).stdout).into_owned();
        within(30, "nodes are Ready", nodes, |text| text.matches(" Ready ").count() == count);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in ["n1", "n2", "n3"] {
                for daemon in ["felix", "bird-lite"] {
                    let log = String::from_utf8_lossy(&self.lab(&["logs", node, daemon]).stdout).into_owned();
                    let tail: Vec<&str> = log.lines().rev().take(15).collect();
                    eprintln!(
                        "--- {node} {daemon}\n{}",
                        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                    );
                }
            }
        }
        let output = self.lab(&["down"]);
        let left = leftovers(&self.name);
        if !std::thread::panicking() {
            assert!(output.status.success(), "lab down: {}", String::from_utf8_lossy(&output.stderr));
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

/// Network namespaces and processes that carry the lab's name.
fn leftovers(name: &str) -> Vec<String> {
    let listed =
        Command::new("ip").args(["netns", "list"]).output().expect("ip starts (Debian package iproute2)");
    let mut left: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|line| line.contains(name))
        .map(str::to_owned)
        .collect();
    for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let is_own = entry.file_name().to_str() == Some(&std::process::id().to_string());
        if command.contains(&format!("/{name}/")) && !is_own {
            left.push(command.replace('\0', " "));
        }
    }
    left
}

#[track_caller]
fn succeeded(program: &str, arguments: &[&str], output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {} ended with {}: {}{text}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
