//! `ocicat doctor`: what is wrong with each node, and the command that mends it.
//!
//! Owns who is looked at and how findings look; what is wrong is the `doctor` crate's to say. A node is looked at from
//! inside its network namespace: this machine's, a lab's node, or by `ocicat` in the agent's pod.

mod agents;
mod cni;
mod gather;
mod host;
mod paths;
mod rules;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use doctor::{Facts, Finding, Path, Severity, judge};
use kernel_linux::Netns;
use serde_json::{Value, json};

use crate::client::{Answers, CallError, each_of};
use crate::kubectl::{Kubectl, read_within};
use crate::reach::{self, Reach};
use crate::table::plain;
use crate::{Format, OutputOptions, Report, UNWELL, WARNED};
use gather::{Part, Places, gather, now_ms};

#[derive(Args)]
pub(crate) struct DoctorOptions {
    /// Only this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only the network namespace in which this runs; nobody else is asked
    #[arg(long)]
    here: bool,
    /// Print what was seen instead of what is wrong with it, as JSON
    #[arg(long)]
    facts: bool,
    /// Judge facts that `--facts` printed, instead of looking
    #[arg(long, value_name = "FILE", conflicts_with_all = ["here", "node", "facts"])]
    from: Option<PathBuf>,
    /// Where the container runtime reads its CNI configuration
    #[arg(long, env = "OCICAT_CNI_DIRECTORY", value_name = "DIRECTORY")]
    cni_directory: Option<PathBuf>,
    /// Only the container runtime's configurations: how the container that has them is asked
    #[arg(long, hide = true)]
    cni_only: bool,
    /// Only the paths to these addresses: how `migrate verify` asks
    #[arg(long, hide = true, value_name = "ADDRESS", value_delimiter = ',')]
    to: Vec<IpAddr>,
    /// Send no probes to other nodes
    #[arg(long)]
    no_probes: bool,
    /// What is good to know, too
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: OutputOptions,
}

/// One node that can be looked at.
enum Patient {
    /// Here, or in a namespace of this machine.
    Near { netns: Option<PathBuf>, places: Places },
    /// By a program in its pod.
    Far { kubectl: Kubectl, namespace: String, node: String, pod: String },
}

pub(crate) fn run(options: &DoctorOptions) -> Result<Report, CallError> {
    let answers = match &options.from {
        Some(file) => Answers { given: read_facts(file)?, is_complete: true },
        None => Answers::of(each_of(&chosen(options)?, |patient| look(patient, options)))?,
    };
    let nodes = answers.given;
    if options.facts {
        let text = format!("{:#}\n", json!(nodes));
        return Ok(Report::new(text, answers.is_complete));
    }
    let judged: Vec<(&Facts, Vec<Finding>)> = nodes.iter().map(|facts| (facts, judge(facts))).collect();
    let worst = judged.iter().flat_map(|(_, found)| found).map(|finding| finding.severity).max();
    let text = match options.output.output {
        Format::Json => format!(
            "{:#}\n",
            Value::Array(judged.iter().map(|(facts, found)| node_json(facts, found)).collect())
        ),
        Format::Table => {
            judged.iter().map(|(facts, found)| node_text(facts, found, options.verbose)).collect()
        }
    };
    let status = match worst {
        _ if !answers.is_complete => UNWELL,
        Some(Severity::Error) => UNWELL,
        Some(Severity::Warning) => WARNED,
        _ => 0,
    };
    Ok(Report { text, status })
}

/// Those that are meant by the options.
fn chosen(options: &DoctorOptions) -> Result<Vec<Patient>, CallError> {
    let part = match options.to.as_slice() {
        _ if options.cni_only => Part::Cni,
        [] => Part::All,
        to => Part::Paths(to.to_vec()),
    };
    let own = Places { probes: !options.no_probes, part, ..Places::own(options.cni_directory.clone()) };
    if options.here {
        return Ok(vec![Patient::Near { netns: None, places: own }]);
    }
    let mut found = patients(&options.reach, own, options.cni_directory.clone());
    if let Some(wanted) = &options.node {
        let count = found.len();
        found.retain(|patient| patient.name().is_none_or(|name| name == wanted));
        if found.is_empty() {
            let reason = format!("none of the {count} nodes that can be looked at from here is {wanted}");
            return Err(CallError::Question { reason });
        }
    }
    Ok(found)
}

/// Every node that can be looked at; `own` says what and where on this machine, if it is one.
fn patients(reach: &Reach, own: Places, cni: Option<PathBuf>) -> Vec<Patient> {
    match reach.places() {
        reach::Places::Pods { kubectl, namespace, pods } => {
            let far = |(node, pod)| Patient::Far {
                kubectl: kubectl.clone(),
                namespace: namespace.clone(),
                node,
                pod,
            };
            pods.into_iter().map(far).collect()
        }
        elsewhere => {
            let in_labs = elsewhere.lab_nodes().into_iter().map(|node| Patient::Near {
                netns: Some(node.netns),
                places: Places {
                    node: Some(node.name),
                    sockets: node.directory,
                    cni: cni.clone(),
                    ..own.clone()
                },
            });
            let in_labs: Vec<Patient> = in_labs.collect();
            if in_labs.is_empty() { vec![Patient::Near { netns: None, places: own }] } else { in_labs }
        }
    }
}

/// How far packets get from nodes to addresses, by node; a node that cannot be asked has the reason. Addresses to which
/// a node has no route are missing.
pub(crate) fn paths_from(
    reach: &Reach,
    wanted: &BTreeMap<String, Vec<IpAddr>>,
) -> BTreeMap<String, Result<Vec<Path>, String>> {
    let patients = patients(reach, Places::own(None), None);
    let asked: Vec<(&String, &Vec<IpAddr>, Option<&Patient>)> = wanted
        .iter()
        .map(|(node, to)| (node, to, patients.iter().find(|patient| patient.name() == Some(node))))
        .collect();
    let answers = each_of(&asked, |(_, to, patient)| match patient {
        None => Err("it cannot be asked from here".to_owned()),
        Some(Patient::Near { netns, places }) => {
            let places = Places { part: Part::Paths(to.to_vec()), ..places.clone() };
            near(netns.as_deref(), &places).map_err(|error| error.to_string())
        }
        Some(Patient::Far { kubectl, namespace, pod, .. }) => {
            let to: Vec<String> = to.iter().map(ToString::to_string).collect();
            let program = ["ocicat", "doctor", "--here", "--facts", "--to", &to.join(",")];
            ask_far(kubectl, (namespace, pod), "felix", &program)
        }
    });
    let paths = |facts: Facts| match facts.unseen.into_iter().next() {
        Some(reason) => Err(reason),
        None => Ok(facts.paths),
    };
    asked.into_iter().zip(answers).map(|((node, ..), facts)| (node.clone(), facts.and_then(paths))).collect()
}

impl Patient {
    /// As far as it is known before it is looked at.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Near { places, .. } => places.node.as_deref(),
            Self::Far { node, .. } => Some(node),
        }
    }
}

fn look(patient: &Patient, options: &DoctorOptions) -> Result<Facts, CallError> {
    let facts = match patient {
        Patient::Near { netns, places } => near(netns.as_deref(), places).map_err(|error| {
            CallError::Connect { agent: format!("node {}", patient.name().unwrap_or("?")), error }
        })?,
        Patient::Far { kubectl, namespace, node, pod } => far(kubectl, namespace, node, pod, options)?,
    };
    match &options.node {
        Some(wanted) if *wanted != facts.node => {
            let reason = format!("this is node {}, and {wanted} cannot be looked at from here", facts.node);
            Err(CallError::Question { reason })
        }
        _ => Ok(facts),
    }
}

/// How long a node may take; most of it is the way there.
const PATIENCE: Duration = Duration::from_secs(20);

fn far(
    kubectl: &Kubectl,
    namespace: &str,
    node: &str,
    pod: &str,
    options: &DoctorOptions,
) -> Result<Facts, CallError> {
    let failed = |reason: String| CallError::Remote { agent: format!("node {node}"), reason };
    let mut program = vec!["ocicat", "doctor", "--here", "--facts"];
    if options.no_probes {
        program.push("--no-probes");
    }
    // The runtime's directory is mounted in the container that writes into it, and in no other.
    let of_cni = ["ocicat", "doctor", "--here", "--facts", "--cni-only"];
    let pod = (namespace, pod);
    let before = now_ms();
    let (facts, cni) = std::thread::scope(|scope| {
        let cni = scope.spawn(|| ask_far(kubectl, pod, "cni-configuration", &of_cni));
        let facts = ask_far(kubectl, pod, "felix", &program);
        (facts, cni.join().unwrap_or_else(|_| Err("it could not be asked".to_owned())))
    });
    let mut facts = facts.map_err(failed)?;
    let after = now_ms();
    node.clone_into(&mut facts.node);
    if facts.cni.is_none() {
        add_cni(&mut facts, cni);
    }
    facts.clock_ahead_ms = Some(ahead(facts.time_ms, before, after));
    Ok(facts)
}

/// Facts that a program in a pod tells.
fn ask_far(kubectl: &Kubectl, pod: (&str, &str), container: &str, program: &[&str]) -> Result<Facts, String> {
    let said = read_within(kubectl.exec(pod, container, program), PATIENCE)?;
    let told: Result<Vec<Facts>, _> = serde_json::from_str(&said);
    let told = told.map_err(|error| format!("its facts are not understood: {error}"))?;
    told.into_iter().next().ok_or_else(|| "it told nothing".to_owned())
}

/// Facts of this machine, or of one of its network namespaces.
fn near(netns: Option<&std::path::Path>, places: &Places) -> io::Result<Facts> {
    match netns {
        None => Ok(gather(places)),
        Some(path) => Netns::open(path)?.run(|| io::Result::Ok(gather(places))),
    }
}

/// Takes over what another container of the pod sees of the runtime's directory, or why it cannot.
fn add_cni(facts: &mut Facts, other: Result<Facts, String>) {
    match other {
        Ok(Facts { cni: Some(cni), .. }) => {
            facts.cni = Some(cni);
            facts.unseen.retain(|unseen| !unseen.starts_with(gather::CNI));
        }
        Ok(other) => facts.unseen.extend(other.unseen),
        Err(reason) => facts.unseen.push(format!("{} by container cni-configuration: {reason}", gather::CNI)),
    }
}

/// How far a clock that showed `time` at some moment between two is ahead: at least so far.
fn ahead(time: u64, before: u64, after: u64) -> i64 {
    let between = |from: u64, to: u64| i64::try_from(to.saturating_sub(from)).unwrap_or(i64::MAX);
    if time > after { between(after, time) } else { -between(time, before) }
}

fn read_facts(file: &PathBuf) -> Result<Vec<Facts>, CallError> {
    let failed = |reason: String| CallError::File { path: file.clone(), reason };
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(format!("these are no facts of nodes: {error}")))
}

fn node_text(facts: &Facts, found: &[Finding], verbose: bool) -> String {
    let shown: Vec<&Finding> =
        found.iter().filter(|finding| verbose || finding.severity > Severity::Info).collect();
    let count = |severity: Severity| found.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let verdict = if errors + warnings == 0 {
        "well".to_owned()
    } else {
        format!("{errors} errors, {warnings} warnings")
    };
    let mut text = format!("{}: {verdict} (looked at in {} ms)\n", plain(&facts.node), facts.took_ms);
    for finding in shown {
        let severity = match finding.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Info => "INFO",
        };
        text.push_str(&format!("  {severity} {}: {}\n", finding.check, plain(&finding.what)));
        for (label, words) in [("seen", &finding.evidence), ("mend", &finding.mend)] {
            if !words.is_empty() {
                text.push_str(&format!("    {label}: {}\n", plain(words)));
            }
        }
    }
    text
}

fn node_json(facts: &Facts, found: &[Finding]) -> Value {
    json!({ "node": facts.node, "tookMs": facts.took_ms, "findings": found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_the_way_cannot_explain() {
        assert_eq!(ahead(150, 100, 200), 0);
        assert_eq!(ahead(9_000, 100, 200), 8_800);
        assert_eq!(ahead(20, 100, 200), -80);
    }

    #[test]
    fn a_finding_stands_with_what_was_seen_and_what_mends_it() {
        let mut facts = Facts { node: "n1".into(), took_ms: 7, ..Facts::default() };
        facts.felix.answers = true;
        facts.speaker.answers = true;
        facts.sysctls.ip_forward = Some("0".into());

        let text = node_text(&facts, &judge(&facts), false);

        let expected = "\
n1: 1 errors, 0 warnings (looked at in 7 ms)
  ERROR ip-forward: the node does not forward IPv4: no pod reaches anything beyond the node
    seen: net.ipv4.ip_forward = 0
    mend: sysctl -w net.ipv4.ip_forward=1
";
        assert_eq!(text, expected);
    }
}
