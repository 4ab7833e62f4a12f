//! What the commands do on the client's side: ask the daemon, print, and say with which status to exit.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::cleanup;
use crate::cli::{Cli, Command, Fault, LinkCommand, MatrixArgs, NodeCommand, Output, ProbeArgs};
use crate::control::{self, Failure, FaultAction, Request};
use crate::inside;
use crate::locate::{locate, namespace_of};
use crate::matrix::Matrix;
use crate::names::LabName;
use crate::probe::{self, Probe, Proto, Verdict};
use crate::status::LabStatus;
use crate::{logs, up, vm};

/// Sources whose probes run at the same time.
const PARALLEL_SOURCES: usize = 64;

/// Runs a command; the number is the exit status.
pub fn run(cli: Cli) -> Result<u8, Failure> {
    match cli.command {
        Command::Up(args) => up::run(args),
        Command::Daemon { name } => up::daemon(&name),
        Command::Down { which, all } => down(&which.name, all),
        Command::Status { which, output } => status(&which.name, output),
        Command::Kubeconfig { which, node } => kubeconfig(&which.name, node),
        Command::Logs { which, target, component, follow } => {
            logs::run(&which.name, &target, component.as_deref(), follow)
        }
        Command::Exec { which, target, command } => {
            let status = control::status(&which.name)?;
            let namespace = namespace_of(&locate(&status, &target)?, &status)?;
            let environment = [("KUBECONFIG", which.name.node_kubeconfig().into_os_string())];
            Err(inside::become_command(&namespace, &command, &environment))
        }
        Command::Probe(args) => run_probe(&args),
        Command::Matrix(args) => run_matrix(&args),
        Command::Kill(fault) => run_fault(FaultAction::Kill, fault),
        Command::Stop(fault) => run_fault(FaultAction::Stop, fault),
        Command::Start(fault) => run_fault(FaultAction::Start, fault),
        Command::Node(NodeCommand::Add { which, subnet }) => {
            let name = control::ask(&which.name, &Request::NodeAdd { subnet }, |_| ())?;
            say(name.as_str().unwrap_or_default())
        }
        Command::Node(NodeCommand::Remove { which, node }) => {
            control::ask(&which.name, &Request::NodeRemove { name: node }, |_| ()).map(|_| 0)
        }
        Command::Link(LinkCommand::Up { which, node }) => set_link(&which.name, node, true),
        Command::Link(LinkCommand::Down { which, node }) => set_link(&which.name, node, false),
        Command::Vm(args) => vm::run(&args),
    }
}

/// Prints a line on standard output; a reader that has gone is no error.
pub(crate) fn say(line: &str) -> Result<u8, Failure> {
    writeln!(std::io::stdout(), "{line}").ok();
    Ok(0)
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<u8, Failure> {
    say(&serde_json::to_string(value).map_err(|e| Failure::failed(e.to_string()))?)
}

/// Comments go to standard error, so that scripts can read standard output.
pub(crate) fn remark(line: &str) {
    writeln!(std::io::stderr(), "lab: {line}").ok();
}

fn down(name: &LabName, all: bool) -> Result<u8, Failure> {
    up::require_root()?;
    let labs = if all { known_labs() } else { vec![name.clone()] };
    for lab in &labs {
        down_one(lab)?;
    }
    if labs.is_empty() {
        remark("there is no lab");
    }
    Ok(0)
}

/// Lets the daemon clean up after itself, then looks for what is left.
fn down_one(lab: &LabName) -> Result<(), Failure> {
    let daemon = cleanup::daemon_pid(lab);
    let asked = control::ask(lab, &Request::Down, |_| ());
    if let Some(pid) = daemon {
        // It has answered before its own end.
        cleanup::wait_gone(pid);
    }
    let swept = cleanup::sweep(lab).map_err(|e| Failure::failed(format!("lab {lab}: {e}")))?;
    match asked {
        Ok(_) => remark(&format!("lab {lab} is removed")),
        Err(_) if swept.is_empty() => remark(&format!("lab {lab} was not up; nothing to remove")),
        Err(_) => remark(&format!(
            "lab {lab} had no living daemon; removed {} namespaces and {} processes",
            swept.namespaces, swept.processes
        )),
    }
    Ok(())
}

/// Every lab with a state directory, alive or not.
fn known_labs() -> Vec<LabName> {
    let Ok(entries) = std::fs::read_dir(crate::names::STATE_ROOT) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn status(name: &LabName, output: Output) -> Result<u8, Failure> {
    let status = control::status(name)?;
    match output {
        Output::Json => print_json(&status),
        Output::Text => {
            write!(std::io::stdout(), "{}", status.render()).ok();
            Ok(0)
        }
    }
}

fn kubeconfig(name: &LabName, node: bool) -> Result<u8, Failure> {
    let path: PathBuf = if node { name.node_kubeconfig() } else { name.kubeconfig() };
    if !path.is_file() {
        return Err(control::no_such_lab(name));
    }
    say(&path.display().to_string())
}

fn run_fault(action: FaultAction, fault: Fault) -> Result<u8, Failure> {
    let request = Request::Fault { action, target: fault.target, component: fault.component };
    let done = control::ask(&fault.which.name, &request, |_| ())?;
    remark(done.as_str().unwrap_or("done"));
    Ok(0)
}

fn set_link(name: &LabName, node: String, up: bool) -> Result<u8, Failure> {
    let text = format!("{node}: link {}", if up { "up" } else { "down" });
    control::ask(name, &Request::Link { node, up }, |_| ())?;
    remark(&text);
    Ok(0)
}

fn run_probe(args: &ProbeArgs) -> Result<u8, Failure> {
    let port = required_port(args.port, args.proto)?;
    let expected = args.expect.as_deref().map(parse_verdict).transpose()?;
    let status = control::status(&args.which.name)?;
    let from = locate(&status, &args.from)?;
    let namespace = namespace_of(&from, &status)?;
    let to = locate(&status, &args.to)?;
    let one =
        Probe { from: from.name, address: to.address(args.family), to: to.name, port, proto: args.proto };
    let timeout = Duration::from_millis(args.timeout_ms);
    let result = probe::run(&namespace, vec![one], timeout)
        .pop()
        .ok_or_else(|| Failure::failed("the probe gave no result"))?;
    match args.output {
        Output::Json => print_json(&result)?,
        Output::Text => {
            let by =
                result.answered_by.as_deref().map(|by| format!(", answered by {by}")).unwrap_or_default();
            let detail = result.detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default();
            let verdict = result.verdict.as_str();
            say(&format!("{verdict} {:.3} ms{by}{detail}", result.milliseconds))?
        }
    };
    match expected {
        Some(expected) => Ok(u8::from(result.verdict != expected)),
        None => Ok(u8::from(result.verdict == Verdict::Error)),
    }
}

fn run_matrix(args: &MatrixArgs) -> Result<u8, Failure> {
    let port = required_port(args.port, args.proto)?;
    let status = control::status(&args.which.name)?;
    crate::daemon::raise_file_limit();
    let pods = chosen_pods(&status, &args.namespace)?;
    let mut groups = Vec::new();
    for from in &pods {
        let source = locate(&status, from)?;
        let namespace = namespace_of(&source, &status)?;
        let mut probes = Vec::new();
        for to in pods.iter().filter(|to| *to != from) {
            let address = locate(&status, to)?.address(args.family);
            probes.push(Probe { from: from.clone(), to: to.clone(), address, port, proto: args.proto });
        }
        groups.push((namespace, probes));
    }
    let rows = probe::run_all(groups, Duration::from_millis(args.timeout_ms), PARALLEL_SOURCES);
    let matrix = Matrix { port, proto: args.proto, rows };
    match args.output {
        Output::Json => print_json(&matrix),
        Output::Text => {
            write!(std::io::stdout(), "{}", matrix.render(&pods)).ok();
            Ok(0)
        }
    }
}

/// The pods of the namespaces, sorted; all pods when no namespace is named.
fn chosen_pods(status: &LabStatus, namespaces: &[String]) -> Result<Vec<String>, Failure> {
    let namespace = |pod: &str| pod.split('/').next().unwrap_or_default().to_owned();
    let known: BTreeSet<String> = status.pods.iter().map(|p| namespace(&p.name)).collect();
    if let Some(unknown) = namespaces.iter().find(|n| !known.contains(*n)) {
        return Err(Failure::unknown("namespace with pods", unknown, known.iter().map(String::as_str)));
    }
    let chosen = status.pods.iter().map(|p| p.name.clone());
    Ok(chosen.filter(|p| namespaces.is_empty() || namespaces.contains(&namespace(p))).collect())
}

fn required_port(port: Option<u16>, proto: Proto) -> Result<u16, Failure> {
    match (port, proto) {
        (_, Proto::Icmp) => Ok(0),
        (Some(port), _) if port > 0 => Ok(port),
        _ => Err(Failure::usage("--port must be given, in 1..=65535, unless --proto is icmp")),
    }
}

fn parse_verdict(word: &str) -> Result<Verdict, Failure> {
    [Verdict::Allowed, Verdict::Denied, Verdict::Refused, Verdict::Error]
        .into_iter()
        .find(|v| v.as_str() == word)
        .ok_or_else(|| Failure::unknown("verdict", word, ["allowed", "denied", "refused", "error"]))
}

/// A line that says what is going on: overwritten on a terminal, one after the other elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    pub(crate) fn show(&mut self, text: &str) {
        if std::io::stderr().is_terminal() {
            write!(std::io::stderr(), "\r\x1b[2Klab: {text} …").ok();
            std::io::stderr().flush().ok();
            self.shown = true;
        } else {
            remark(text);
        }
    }

    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            write!(std::io::stderr(), "\r\x1b[2K").ok();
        }
    }
}

/// Tells the user why a command failed.
pub fn complain(failure: &Failure) {
    remark(&failure.message);
}
