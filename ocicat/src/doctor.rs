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

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use doctor::{Facts, Finding, Severity, judge};
use kernel_linux::Netns;
use serde_json::{Value, json};

use crate::client::{Answers, CallError, each_of};
use crate::kubectl::{Kubectl, read_within};
use crate::reach::{self, Reach};
use crate::table::plain;
use crate::{Format, OutputOptions, Report, UNWELL, WARNED};
use gather::{Places, gather, now_ms};

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
        None => Answers::of(each_of(&patients(options)?, |patient| look(patient, options)))?,
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

fn patients(options: &DoctorOptions) -> Result<Vec<Patient>, CallError> {
    let places = |node: Option<String>, sockets: PathBuf, cni: Option<PathBuf>| Places {
        node,
        sockets,
        cni,
        probes: !options.no_probes,
    };
    let own = || Places { probes: !options.no_probes, ..Places::own(options.cni_directory.clone()) };
    if options.here {
        return Ok(vec![Patient::Near { netns: None, places: own() }]);
    }
    let mut found = match options.reach.places() {
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
                places: places(Some(node.name), node.directory, options.cni_directory.clone()),
            });
            let in_labs: Vec<Patient> = in_labs.collect();
            if in_labs.is_empty() { vec![Patient::Near { netns: None, places: own() }] } else { in_labs }
        }
    };
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
        Patient::Near { netns: None, places } => gather(places),
        Patient::Near { netns: Some(path), places } => {
            let inside = Netns::open(path).and_then(|netns| netns.run(|| io::Result::Ok(gather(places))));
            inside.map_err(|error| CallError::Connect {
                agent: format!("node {}", patient.name().unwrap_or("?")),
                error,
            })?
        }
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
    let before = now_ms();
    let said = read_within(kubectl.exec((namespace, pod), "felix", &program), PATIENCE).map_err(failed)?;
    let after = now_ms();
    let mut facts: Vec<Facts> = serde_json::from_str(&said)
        .map_err(|error| failed(format!("its facts are not understood: {error}")))?;
    let mut facts = facts.pop().ok_or_else(|| failed("it told nothing".to_owned()))?;
    node.clone_into(&mut facts.node);
    facts.clock_ahead_ms = Some(ahead(facts.time_ms, before, after));
    Ok(facts)
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
