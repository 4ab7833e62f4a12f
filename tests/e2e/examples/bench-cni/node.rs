//! The node on which plugins are called, and what a call costs there.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::Cluster;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::Outcome;
use crate::plugin::{Candidate, Sandbox};

/// A lab node, seen from inside its network.
pub struct Node {
    netns: File,
    /// Files of other plugins; goes with the value.
    pub scratch: PathBuf,
    felix: u32,
}

/// What one call cost.
#[derive(Clone, Copy)]
pub struct Cost {
    pub wall: Duration,
    /// Of the process and its children.
    pub cpu: Duration,
    /// Of the agent, meanwhile.
    pub agent: Duration,
}

impl Node {
    pub fn open(cluster: &Cluster, name: &str) -> Outcome<Self> {
        let netns = File::open(format!("/run/netns/{}-{name}", cluster.name()))?;
        let scratch = std::env::temp_dir().join(format!("bench-cni-{}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        let status: Value = serde_json::from_str(&cluster.lab_ok(&["status", "-o", "json"]))?;
        let agents = status["nodes"][0]["agents"].as_array().cloned().unwrap_or_default();
        let felix =
            agents.iter().find(|agent| agent["name"] == "felix").ok_or("lab status names no felix")?;
        let felix = felix["pid"].as_u64().ok_or("felix does not run")? as u32;
        Ok(Self { netns, scratch, felix })
    }

    /// Runs `work` on a thread in the node's network.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        within(&self.netns, work)
    }

    /// Calls a plugin once.
    pub fn measure(&self, subject: &Candidate, verb: &str, sandbox: &Sandbox) -> Outcome<Cost> {
        self.inside(|| {
            let (agent, cpu, start) = (on_cpu(self.felix), children_cpu(), Instant::now());
            subject.call(verb, sandbox)?;
            let wall = start.elapsed();
            Ok(Cost { wall, cpu: children_cpu() - cpu, agent: on_cpu(self.felix).saturating_sub(agent) })
        })
    }

    /// Pods a second when so many are added at a time.
    pub fn burst(&self, subject: &Candidate, sandboxes: &[Sandbox], parallel: usize) -> Outcome<f64> {
        let next = AtomicUsize::new(0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let work = || {
                self.inside(|| {
                    while let Some(sandbox) = sandboxes.get(next.fetch_add(1, Ordering::Relaxed)) {
                        subject.call("ADD", sandbox)?;
                    }
                    Ok(())
                })
            };
            let threads: Vec<_> = (0..parallel).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("the thread does not panic"))
        })?;
        Ok(sandboxes.len() as f64 / start.elapsed().as_secs_f64())
    }

    /// Takes the default route away for as long as `work` runs; the API server keeps one of its own.
    pub fn without_default_route(&self, work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let ip = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
            self.inside(move || Ok(Command::new("ip").args(&arguments).output()?))
        };
        let shown = ip(&["-4", "route", "show", "default"])?;
        let route = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
        let way: Vec<&str> = route.split_whitespace().skip(1).collect();
        let change = |verb, to| ip(&[&["-4", "route", verb, to], way.as_slice()].concat());
        change("add", API_SERVER)?;
        change("del", "default")?;
        let outcome = work();
        change("add", "default")?;
        change("del", API_SERVER)?;
        outcome
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Where a lab's nodes find it (docs/lab.md).
const API_SERVER: &str = "172.20.255.1";

/// Runs `work` on a thread in a network namespace.
pub fn within<T: Send>(netns: &File, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    std::thread::scope(|scope| {
        let entered = || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        };
        scope.spawn(entered).join().expect("the thread does not panic")
    })
}

/// CPU time of all children that have been waited for; theirs are counted in.
fn children_cpu() -> Duration {
    // SAFETY: all-zero is a valid rusage, and the call writes into it only.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.unsigned_abs()) + Duration::from_micros(t.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Time that all threads of a process have run.
fn on_cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).into_iter().flatten();
    let ran = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.flatten().filter_map(ran).sum())
}
