//! `ocicat diags`: one bundle of what a person needs who was not there, without secrets.
//!
//! Owns what is in it, its bounds, and that secrets are taken out. Changes nothing.

mod archive;
mod node;
mod scrub;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use kernel_linux::Netns;

use crate::Report;
use crate::client::{CallError, each_of};
use crate::cluster::{connect, runtime};
use crate::get;
use crate::kubectl::{Kubectl, read_within};
use crate::reach::{LabNode, PLACE, Places, Reach};
use archive::Archive;
use node::Files;

/// Largest file, bytes.
const LARGEST_FILE: usize = 2 << 20;
/// Most that one node adds, bytes.
const LARGEST_NODE: usize = 24 << 20;
/// How long one node may take, with the way there.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Args)]
pub(crate) struct DiagsOptions {
    /// The bundle; without it ocicat-diags-<time>.tar.gz here
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Lines of each container's log
    #[arg(long, value_name = "NUMBER", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lines: u32,
    /// Print what this node has as JSON: how other machines ask
    #[arg(long, hide = true)]
    here: bool,
    #[command(flatten)]
    reach: Reach,
}

/// One node, and how it is asked.
enum Source {
    Own,
    Lab(LabNode),
    Pod { kubectl: Kubectl, namespace: String, node: String, pod: String },
}

pub(crate) fn run(options: &DiagsOptions) -> Result<Report, CallError> {
    if options.here {
        let files = node::collect(PLACE.as_ref(), None);
        let text = serde_json::to_string(&files)
            .map_err(|error| CallError::Cluster { reason: error.to_string() })?;
        return Ok(Report::new(text, true));
    }
    let sources = sources(options)?;
    let count = sources.len();
    progress(&format!("asking {count} node{} …", if count == 1 { "" } else { "s" }));
    let seconds =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let path = options.output.clone().unwrap_or_else(|| format!("ocicat-diags-{seconds}.tar.gz").into());
    let failed = |error: io::Error| CallError::File { path: path.clone(), reason: error.to_string() };
    // Whoever made the bundle reads it, nobody else.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let mut archive = Archive::new(file, seconds);
    let mut complaints = Vec::new();
    let collected = each_of(&sources, |source| {
        let files = source.collect(options);
        progress(&match &files {
            Ok(files) => format!("node {}: {} files", source.name(), files.len()),
            Err(reason) => format!("node {}: {reason}", source.name()),
        });
        files
    });
    for (source, files) in sources.iter().zip(collected) {
        match files {
            Ok(files) => add_node(&mut archive, source.name(), &files).map_err(failed)?,
            Err(reason) => complaints.push(format!("node {}: {reason}", source.name())),
        }
    }
    progress("asking the cluster …");
    for (name, text) in of_cluster(options, &mut complaints) {
        archive.add(&format!("cluster/{name}"), scrub::scrub(&text).as_bytes()).map_err(failed)?;
    }
    let is_complete = complaints.is_empty();
    complaints.push(String::new());
    archive.add("complaints.txt", scrub::scrub(&complaints.join("\n")).as_bytes()).map_err(failed)?;
    archive.finish().and_then(|mut file| file.flush()).map_err(failed)?;
    Ok(Report::new(format!("{}\n", path.display()), is_complete))
}

fn progress(text: &str) {
    // Who listens no more has the bundle all the same.
    let _ = writeln!(io::stderr(), "ocicat: {}", crate::table::plain(text));
}

fn sources(options: &DiagsOptions) -> Result<Vec<Source>, CallError> {
    let mut sources: Vec<Source> = match options.reach.places() {
        Places::Pods { kubectl, namespace, pods } => pods
            .into_iter()
            .map(|(node, pod)| Source::Pod {
                kubectl: kubectl.clone(),
                namespace: namespace.clone(),
                node,
                pod,
            })
            .collect(),
        elsewhere => elsewhere.lab_nodes().into_iter().map(Source::Lab).collect(),
    };
    if sources.is_empty() {
        sources.push(Source::Own);
    }
    if let Some(wanted) = &options.node {
        sources.retain(|source| source.name() == wanted || matches!(source, Source::Own));
        if sources.is_empty() {
            return Err(CallError::Question { reason: format!("node {wanted} cannot be asked from here") });
        }
    }
    Ok(sources)
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Self::Own => "this",
            Self::Lab(node) => &node.name,
            Self::Pod { node, .. } => node,
        }
    }

    fn collect(&self, options: &DiagsOptions) -> Result<Files, String> {
        match self {
            Self::Own => Ok(node::collect(PLACE.as_ref(), Some("/var/log/calico".as_ref()))),
            Self::Lab(lab) => {
                let inside = Netns::open(&lab.netns);
                let collected = inside.and_then(|netns| {
                    netns.run(|| io::Result::Ok(node::collect(&lab.directory, Some(&lab.directory))))
                });
                collected.map_err(|error| error.to_string())
            }
            Self::Pod { kubectl, namespace, pod, .. } => {
                let pod = (namespace.as_str(), pod.as_str());
                let said = read_within(kubectl.exec(pod, "felix", &["ocicat", "diags", "--here"]), PATIENCE)?;
                let mut files: Files = serde_json::from_str(&said).map_err(|error| error.to_string())?;
                for container in ["felix", "bird-lite", "cni-configuration"] {
                    for (suffix, before) in [("", false), ("-before", true)] {
                        // Most containers have not been started before.
                        let log = kubectl.log(pod, container, options.lines, before);
                        if let Ok(log) = read_within(log, PATIENCE) {
                            files.insert(format!("logs/{container}{suffix}.log"), log);
                        }
                    }
                }
                Ok(files)
            }
        }
    }
}

/// What a node told is scrubbed once more: it may be of another release.
fn add_node(archive: &mut Archive<impl Write>, node: &str, files: &Files) -> io::Result<()> {
    let mut left = LARGEST_NODE;
    for (name, text) in files {
        let text = scrub::scrub(text);
        let Some(rest) = left.checked_sub(text.len()) else {
            archive
                .add(&format!("nodes/{node}/[cut]"), b"the node had more to tell than a bundle takes\n")?;
            return Ok(());
        };
        left = rest;
        archive.add(&format!("nodes/{node}/{name}"), text.as_bytes())?;
    }
    Ok(())
}

/// Objects of every kind that `get` knows, and what `doctor` and `status` say. Secrets are not read.
fn of_cluster(options: &DiagsOptions, complaints: &mut Vec<String>) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let objects = runtime().and_then(|runtime| {
        runtime.block_on(async {
            let datastore = connect(&options.reach.cluster).await?;
            Ok(get::everything(&datastore).await)
        })
    });
    match objects {
        Ok(kinds) => {
            for (kind, objects) in kinds {
                match objects {
                    Ok(text) => files.push((format!("objects/{kind}.yaml"), text)),
                    Err(error) => complaints.push(format!("{kind}: {error}")),
                }
            }
        }
        Err(error) => complaints.push(error.to_string()),
    }
    let own = std::env::current_exe().unwrap_or_else(|_| "ocicat".into());
    for (name, arguments) in [
        ("doctor.txt", &["doctor", "--verbose"][..]),
        ("facts.json", &["doctor", "--facts", "--no-probes"]),
        ("status.txt", &["status"]),
        ("ipam-check.txt", &["ipam", "check", "--show-problem-ips"]),
    ] {
        let mut command = std::process::Command::new(&own);
        command.args(arguments);
        if matches!(arguments.first(), Some(&("doctor" | "status"))) {
            command.args(options.reach.arguments());
        } else {
            command.args(options.reach.cluster.arguments());
        }
        match command.output() {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text =
                    String::from_utf8_lossy(text.get(..text.len().min(LARGEST_FILE)).unwrap_or_default())
                        .into_owned();
                files.push((name.to_owned(), text));
            }
            Err(error) => complaints.push(format!("{name}: {error}")),
        }
    }
    files
}
