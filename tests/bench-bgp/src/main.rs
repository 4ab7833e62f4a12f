//! Measures BGP speakers with raw BGP: time until the last receiver knows all, CPU time and memory of the
//! speaker. Everything runs in a network namespace without a name, which ends with the last process in it.

mod floor;
mod report;
mod session;
mod shape;
mod subject;
mod usage;
mod wire;
mod world;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};

use report::Report;
use shape::{Limits, Shape};
use subject::{ADDRESS, ASN, PORT, Subject};

/// Measures BGP speakers in one run, beside one another.
#[derive(Debug, Parser)]
#[command(name = "bench-bgp")]
struct Arguments {
    /// Shapes of load; all unless given
    #[arg(long = "shape", value_delimiter = ',')]
    shapes: Vec<Shape>,
    /// Subjects; all that are installed unless given
    #[arg(long = "subject", value_delimiter = ',')]
    subjects: Vec<Subject>,
    /// Runs, of which medians are taken
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds that a phase may take; a subject that needs more is not run again
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// Seconds that idleness is watched: long enough for a keepalive of everybody
    #[arg(long, default_value_t = 35)]
    idle: u64,
    /// Writes all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// The route-reflector to measure
    #[arg(long, default_value = "target/release/route-reflector")]
    ocicat: PathBuf,
}

fn main() -> anyhow::Result<()> {
    // The floor is this program again, as a process of its own so that its costs can be told apart.
    if std::env::args().nth(1).as_deref() == Some("floor") {
        return floor::run(ADDRESS, PORT, ASN);
    }
    let arguments = Arguments::parse();
    isolate()?;
    let dir = std::env::temp_dir().join(format!("bench-bgp-{}", std::process::id()));
    let report = measure(&arguments, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    let report = report?;
    print!("{}", report.table());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, dir: &std::path::Path) -> anyhow::Result<Report> {
    let limits =
        Limits { phase: Duration::from_secs(arguments.limit), idle: Duration::from_secs(arguments.idle) };
    let all = |given: &[Subject]| {
        if given.is_empty() { Subject::value_variants().to_vec() } else { given.to_vec() }
    };
    let shapes =
        if arguments.shapes.is_empty() { Shape::value_variants().to_vec() } else { arguments.shapes.clone() };
    let mut subjects = Vec::new();
    for subject in all(&arguments.subjects) {
        match subject.program(&arguments.ocicat) {
            Some(program) => subjects.push((subject, program)),
            None => eprintln!("{} is not installed: left out", subject.name()),
        }
    }
    let mut report = Report::default();
    for shape in shapes {
        let mut results = vec![Vec::new(); subjects.len()];
        // Interleaved, so that a machine that changes its mind changes it for all.
        for run in 0..arguments.runs {
            for (i, (subject, program)) in subjects.iter().enumerate() {
                let failed = |r: &Result<Vec<shape::Outcome>, String>| {
                    !r.as_ref().is_ok_and(|o| o.iter().all(Result::is_ok))
                };
                if results[i].last().is_some_and(failed) {
                    continue;
                }
                let result = shape.run(*subject, program, dir, limits).map_err(|e| format!("{e:#}"));
                eprintln!("{} run {}: {}: {result:?}", shape.name(), run + 1, subject.name());
                results[i].push(result);
            }
        }
        for ((subject, _), runs) in subjects.iter().zip(&results) {
            report.add(shape, *subject, runs);
        }
    }
    report.compare();
    Ok(report)
}

/// Moves into a network namespace of its own, in which all addresses of the load are local.
fn isolate() -> anyhow::Result<()> {
    // SAFETY: no other thread is running yet.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .context("make a network namespace (root is needed)")?;
    for command in
        ["ip link set lo up", "ip addr add 10.200.0.1/16 dev lo", "ip addr add 10.201.0.1/16 dev lo"]
    {
        let mut words = command.split(' ');
        let status = Command::new(words.next().unwrap_or_default()).args(words).status().context("ip")?;
        ensure!(status.success(), "{command} failed");
    }
    for (name, value) in [("core/somaxconn", "8192"), ("ipv4/tcp_max_syn_backlog", "8192")] {
        // Not every kernel lets a namespace choose; then its default serves.
        let _ = std::fs::write(format!("/proc/sys/net/{name}"), value);
    }
    let resource = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(resource);
    limit.current = limit.maximum;
    rustix::process::setrlimit(resource, limit).context("raise the number of open files")
}
