//! `kubectl`, so that its credentials and its choice of a cluster count. Owns starting it and what it says of pods.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Octets of an answer that are kept.
const MOST_OUTPUT: u64 = 16 << 20;

/// The label of the pods that hold a node's agents, and what is asked of them.
const PODS: [&str; 5] = [
    "get",
    "pods",
    "--selector=k8s-app=calico-node",
    "--request-timeout=5s",
    "--output=jsonpath={range .items[*]}{.spec.nodeName}{\"\\t\"}{.metadata.name}{\"\\n\"}{end}",
];

/// `kubectl` for one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kubectl {
    /// `None` leaves the choice to it.
    kubeconfig: Option<PathBuf>,
    /// `None` is the kubeconfig's own choice.
    context: Option<String>,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: Option<PathBuf>, context: Option<String>) -> Self {
        Self { kubeconfig, context }
    }

    /// One that is not started yet; the command's own words are to follow.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("kubectl");
        if let Some(kubeconfig) = &self.kubeconfig {
            // A list of files is for the variable alone.
            if std::env::split_paths(kubeconfig).count() > 1 {
                command.env("KUBECONFIG", kubeconfig);
            } else {
                command.arg("--kubeconfig").arg(kubeconfig);
            }
        }
        if let Some(context) = &self.context {
            command.arg("--context").arg(context);
        }
        command.stdin(Stdio::null());
        command
    }

    /// One that runs a program in a container of an agent's pod, with our standard input if it is given one.
    pub(crate) fn exec(&self, pod: (&str, &str), container: &str, program: &[&str]) -> Command {
        let (namespace, name) = pod;
        let mut command = self.command();
        command.args(["exec", "--stdin", "--namespace", namespace, name, "--container", container, "--"]);
        command.args(program);
        command
    }

    /// The log of a container of an agent's pod: its last lines, or those of the container before it.
    pub(crate) fn log(&self, pod: (&str, &str), container: &str, lines: u32, before: bool) -> Command {
        let (namespace, name) = pod;
        let mut command = self.command();
        command.args(["logs", "--namespace", namespace, name, "--container", container]);
        command.arg(format!("--tail={lines}")).args(before.then_some("--previous"));
        command
    }

    /// What it prints.
    ///
    /// # Errors
    /// In words: it is not here, or the last thing that it complained of.
    pub(crate) fn read(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command().args(arguments).output();
        let output = output.map_err(|error| format!("kubectl cannot be started: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("kubectl: {}", last_line(&said).unwrap_or("it failed")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Nodes with the names of the pods in which their agents run, in order of node.
    pub(crate) fn agent_pods(&self, namespace: &str) -> Result<Vec<(String, String)>, String> {
        let said = self.read(&[&["--namespace", namespace][..], &PODS].concat())?;
        let mut pods: Vec<_> = said.lines().filter_map(|line| line.split_once('\t')).collect();
        pods.retain(|(node, _)| !node.is_empty());
        pods.sort_unstable();
        Ok(pods.into_iter().map(|(node, pod)| (node.to_owned(), pod.to_owned())).collect())
    }
}

/// What a `kubectl` prints, at most 16 MiB, within a time.
///
/// # Errors
/// In words: it is not here, was too slow, or the last thing that it complained of.
pub(crate) fn read_within(mut command: Command, limit: Duration) -> Result<String, String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("kubectl cannot be started: {error}"))?;
    let drained = |pipe: Option<Box<dyn Read + Send>>| {
        let (give, take) = mpsc::channel();
        std::thread::spawn(move || {
            let mut octets = Vec::new();
            let _ = pipe.map(|pipe| pipe.take(MOST_OUTPUT).read_to_end(&mut octets));
            let _ = give.send(octets);
        });
        take
    };
    let output = drained(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let errors = drained(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let came = output.recv_timeout(limit);
    if came.is_err() {
        // Fails only for one that is gone.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("kubectl: {error}"))?;
    let Ok(came) = came else { return Err(format!("no answer within {} s", limit.as_secs())) };
    if !status.success() {
        let said = errors.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        return Err(last_line(&said).unwrap_or("it failed").to_owned());
    }
    Ok(String::from_utf8_lossy(&came).into_owned())
}

/// The last line that says anything.
pub(crate) fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty())
}
