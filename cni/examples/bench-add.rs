//! Whole-process ADD and DEL of `calico` beside Debian's `ptp` with `host-local`, in one run, call by call in turn.
//!
//! `cargo run --release --example bench-add -p cni [-- PODS [PATH-OF-CALICO]]`, as root. The agent is a pretended one
//! that gives an address and programs route, neighbour and sysctls of the pod as the real one does; it has no policy
//! to program and no datastore, so this is the cost of the plugin and of the kernel.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use common::{Container, Node};
use kernel_linux::Rtnl;
use serde_json::{Value, json};

/// A plugin under measurement.
struct Candidate {
    name: &'static str,
    binary: PathBuf,
    conf: Value,
    add: Samples,
    del: Samples,
    version: Samples,
}

/// Wall and CPU times of one verb.
#[derive(Default)]
struct Samples {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let pods: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(40);
    let binary = arguments.next().map_or_else(beside_this_example, PathBuf::from);
    let ptp = PathBuf::from("/usr/lib/cni/ptp");
    for (path, remedy) in [
        (&binary, "build it with `make cni-static`, or name its path as second argument"),
        (&ptp, "install the Debian package containernetworking-plugins"),
    ] {
        if !path.is_file() {
            eprintln!("{} is missing: {remedy}", path.display());
            return ExitCode::FAILURE;
        }
    }
    let node = Node::new();
    let mut calico = candidate("calico", binary, node.runtime().conf);
    let mut ptp = candidate("ptp + host-local", ptp, ptp_conf(&node.directory));
    for round in 0..pods {
        // Who comes first changes, so that neither always finds the caches of the other.
        let order = if round % 2 == 0 { [&mut calico, &mut ptp] } else { [&mut ptp, &mut calico] };
        for candidate in order {
            measure(&node, candidate, round);
        }
        // The agent deletes retired links together, in the background.
        if round % 20 == 19 {
            node.inside(|| Rtnl::open().and_then(|mut rtnl| rtnl.reap_retired()))
                .expect("links can be deleted");
        }
    }
    report(pods, &calico, &ptp)
}

fn candidate(name: &'static str, binary: PathBuf, conf: Value) -> Candidate {
    let (add, del, version) = Default::default();
    Candidate { name, binary, conf, add, del, version }
}

/// One pod: VERSION, ADD and DEL, each a process of its own.
fn measure(node: &Node, candidate: &mut Candidate, round: usize) {
    let container = Container::new(&format!("bench{round}"));
    let calls =
        [("VERSION", &mut candidate.version), ("ADD", &mut candidate.add), ("DEL", &mut candidate.del)];
    for (verb, samples) in calls {
        let (binary, conf) = (&candidate.binary, &candidate.conf);
        let (wall, cpu) = node.inside(|| call(binary, verb, &container, conf));
        samples.wall.push(wall);
        samples.cpu.push(cpu);
    }
}

/// From before the process exists until it has been waited for.
fn call(binary: &Path, verb: &str, container: &Container, conf: &Value) -> (Duration, Duration) {
    let conf = conf.to_string();
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={}", container.id);
    let before = children_cpu();
    let start = Instant::now();
    let mut child = Command::new(binary)
        .env_clear()
        .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", &container.id), ("CNI_NETNS", &container.path)])
        .envs([("CNI_IFNAME", "eth0"), ("CNI_ARGS", &args), ("CNI_PATH", "/usr/lib/cni")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin can be started");
    // A plugin that needs no configuration may not read it.
    let _ = child.stdin.take().expect("it is piped").write_all(conf.as_bytes());
    let mut text = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut text).expect("a plugin prints text");
    let status = child.wait().expect("it is our child");
    let wall = start.elapsed();
    assert!(status.success(), "{} {verb}: {text}", binary.display());
    (wall, children_cpu() - before)
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

fn report(pods: usize, calico: &Candidate, ptp: &Candidate) -> ExitCode {
    println!(
        "{pods} pods each, one call of either in turn, fresh network namespaces; milliseconds from before fork to"
    );
    println!(
        "after wait; CPU of the process and its children. The agent is pretended: no policy, no datastore."
    );
    println!("binary: {} ({} kB)", calico.binary.display(), kilobytes(&calico.binary));
    println!("{:<18} {:<8} {:>8} {:>8} {:>8}", "plugin", "verb", "median", "min", "CPU");
    for candidate in [calico, ptp] {
        for (verb, samples) in
            [("VERSION", &candidate.version), ("ADD", &candidate.add), ("DEL", &candidate.del)]
        {
            let [median, min, cpu] = [median(&samples.wall), minimum(&samples.wall), mean(&samples.cpu)];
            println!("{:<18} {verb:<8} {median:>8.2} {min:>8.2} {cpu:>8.2}", candidate.name);
        }
    }
    let ratio = median(&calico.add.wall) / median(&ptp.add.wall);
    let verdict = if ratio <= TARGET { "met" } else { "missed" };
    println!(
        "ADD ratio {ratio:.2} (target at most {TARGET}: {verdict}); DEL ratio {:.2}",
        median(&calico.del.wall) / median(&ptp.del.wall)
    );
    ExitCode::SUCCESS
}

fn median(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn minimum(times: &[Duration]) -> f64 {
    times.iter().min().map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn mean(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64
}

fn kilobytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |data| data.len() / 1000)
}

/// `target/PROFILE/examples/bench-add` → `target/PROFILE/calico`.
fn beside_this_example() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().and_then(Path::parent).unwrap_or(Path::new("")).join("calico")
}

fn ptp_conf(directory: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "bench-ptp", "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.67.0.0/16", "dataDir": directory.join("host-local")},
    })
}

/// Of Debian's time: what the project has set itself.
const TARGET: f64 = 0.5;
