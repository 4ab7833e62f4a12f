//! The lab's cluster, its pods, and what they reach.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use ping::PING;

use crate::command::{beside, output, run, run_with_input, until};
use crate::matrix::Matrix;
use crate::stage::Stage;

/// Name of the demo's lab, so that it never meets one of the user's.
const NAME: &str = "demo";
/// Namespace of the demo's pods.
pub const NAMESPACE: &str = "default";
/// The port on which every pod answers.
pub const PORT: &str = "8080";

pub struct Cluster {
    kubeconfig: String,
}

/// A pod and its address.
pub struct Pod {
    pub name: String,
    pub address: String,
}

impl Cluster {
    /// Brings up three nodes in two subnets with a BIRD router in between.
    pub fn up(stage: &mut Stage, encap: &str) -> Option<Self> {
        stage.say("Three nodes in two subnets, each with felix and bird-lite; a BIRD router between them as top of rack.");
        let arguments = ["up", "--nodes", "3", "--subnets", "2", "--tor", "bird", "--encap", encap];
        stage.typed(format!("lab {}", arguments.join(" ")));
        let outcome = stage.progress("lab up", || run(&mut lab(&arguments)));
        let said = stage.attempt("the cluster comes up", outcome)?;
        let kubeconfig = said.lines().rev().find(|line| line.starts_with('/')).unwrap_or_default().to_owned();
        let cluster = Self { kubeconfig };
        let nodes = cluster.kubectl(stage, &["get", "nodes", "-o", "wide"])?;
        let ready = nodes.lines().filter(|line| line.contains(" Ready ")).count();
        stage.check("three nodes are Ready", ready == 3, format!("{ready} of 3")).then_some(cluster)
    }

    /// The lab's command line, for this cluster.
    pub fn lab(&self, arguments: &[&str]) -> Command {
        lab(arguments)
    }

    /// The command that pings from a pod, 20 packets a second.
    pub fn ping(&self, from: &str, address: &str) -> Command {
        lab(&[&["exec", from, "--"], &PING[..], &["0.05", address]].concat())
    }

    /// Shows and runs kubectl.
    pub fn kubectl(&self, stage: &mut Stage, arguments: &[&str]) -> Option<String> {
        stage.typed(format!("kubectl {}", arguments.join(" ")));
        let outcome = stage.progress("kubectl", || self.quiet_kubectl(arguments));
        let text = stage.attempt(&format!("kubectl {}", arguments.join(" ")), outcome)?;
        stage.show(&text);
        Some(text)
    }

    /// Runs kubectl without showing it.
    pub fn quiet_kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new("kubectl").env("KUBECONFIG", &self.kubeconfig).args(arguments))
    }

    /// Applies YAML.
    pub fn apply(&self, stage: &mut Stage, what: &str, yaml: &str) -> Option<()> {
        stage.typed(format!("kubectl apply -f -    # {what}"));
        let outcome = run_with_input(
            Command::new("kubectl").env("KUBECONFIG", &self.kubeconfig).args(["apply", "-f", "-"]),
            yaml,
        );
        let text = stage.attempt(what, outcome)?;
        stage.show(&text);
        Some(())
    }

    /// A web server and a client on every node.
    pub fn create_pods(&self, stage: &mut Stage) -> Option<Vec<Pod>> {
        stage.say("A web pod and a client pod on every node.");
        let yaml: Vec<String> = (1..=3).flat_map(|n| [pod_yaml("web", n), pod_yaml("client", n)]).collect();
        self.apply(stage, "six pods", &yaml.join("---\n"))?;
        let wait = ["wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s"];
        let outcome = stage.progress("waiting for the pods", || self.quiet_kubectl(&wait));
        stage.attempt("six pods become Ready", outcome)?;
        self.kubectl(stage, &["get", "pods", "-o", "wide"])?;
        let pods = stage.attempt("every pod has an address", self.pods())?;
        stage.check(
            "six pods are Ready, each with an address",
            pods.len() == 6,
            format!("{} of 6", pods.len()),
        );
        Some(pods)
    }

    fn pods(&self) -> Result<Vec<Pod>> {
        let template = r#"jsonpath={range .items[*]}{.metadata.name}{" "}{.status.podIP}{"\n"}{end}"#;
        let text = self.quiet_kubectl(&["get", "pods", "-o", template])?;
        let pod = |line: &str| {
            let (name, address) = line.split_once(' ')?;
            (!address.is_empty())
                .then(|| Pod { name: format!("{NAMESPACE}/{name}"), address: address.to_owned() })
        };
        Ok(text.lines().filter_map(pod).collect())
    }

    /// Probes every pair until the table is as `expected` says, and draws it.
    pub fn show_matrix(
        &self,
        stage: &mut Stage,
        title: &str,
        expected: impl Fn(&str, &str) -> bool,
    ) -> Option<Matrix> {
        let arguments = ["matrix", "--namespace", NAMESPACE, "--port", PORT, "--proto", "tcp", "-o", "json"];
        stage.typed(format!("lab {}", arguments[..arguments.len() - 2].join(" ")));
        let (_, outcome) = stage.progress("probing every pair", || {
            until(Duration::from_secs(15), || {
                let outcome = self.matrix(&arguments);
                (
                    outcome
                        .as_ref()
                        .is_ok_and(|matrix| matrix.pairs() > 0 && matrix.surprises(&expected).is_empty()),
                    outcome,
                )
            })
        });
        let matrix = stage.attempt(title, outcome)?;
        stage.show(&matrix.draw());
        let surprises = matrix.surprises(&expected);
        let saw = if surprises.is_empty() {
            format!("{} of {} pairs allowed, as expected", matrix.allowed(), matrix.pairs())
        } else {
            surprises.join(", ")
        };
        stage.check(title, surprises.is_empty() && matrix.pairs() > 0, saw);
        Some(matrix)
    }

    fn matrix(&self, arguments: &[&str]) -> Result<Matrix> {
        let output = output(&mut self.lab(arguments))?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("read the lab's matrix: {}", String::from_utf8_lossy(&output.stderr).trim())
        })
    }

    /// Takes everything down.
    pub fn down(self, stage: &mut Stage) {
        stage.say("That was it: everything goes.");
        stage.typed("lab down");
        let outcome = stage.progress("lab down", || run(&mut self.lab(&["down"])));
        stage.attempt("the lab goes down", outcome);
    }
}

fn lab(arguments: &[&str]) -> Command {
    let (verb, rest) = arguments.split_first().expect("the lab is always told what to do");
    let mut command = Command::new(beside("lab"));
    command.args([verb, "--name", NAME]).args(rest);
    command
}

fn pod_yaml(role: &str, node: usize) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {role}-{node}
  labels: {{app: {role}}}
spec:
  nodeName: n{node}
  containers:
  - name: {role}
    image: lab/responder
    ports:
    - {{name: http, containerPort: {PORT}, protocol: TCP}}
"
    )
}
