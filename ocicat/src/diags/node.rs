//! What is collected on one node, from inside its network namespace. Programs that are not there are left out: the agent's
//! image has few.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{LARGEST_FILE, scrub};

/// Name of a file, and its text.
pub(super) type Files = BTreeMap<String, String>;

/// How long all of one node may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one program may take.
const ONE: Duration = Duration::from_secs(5);

/// File, and the program with its arguments that fills it. None of these shows keys of connections.
const PROGRAMS: [(&str, &[&str]); 14] = [
    ("links.txt", &["ip", "-d", "-s", "link"]),
    ("addresses.txt", &["ip", "address"]),
    ("routes4.txt", &["ip", "-4", "route", "show", "table", "all"]),
    ("routes6.txt", &["ip", "-6", "route", "show", "table", "all"]),
    ("rules4.txt", &["ip", "-4", "rule"]),
    ("nexthops.txt", &["ip", "nexthop"]),
    ("neighbours.txt", &["ip", "neighbour"]),
    ("nftables.txt", &["nft", "list", "ruleset"]),
    ("iptables-nft.txt", &["iptables-nft-save", "-c"]),
    ("iptables-legacy.txt", &["iptables-legacy-save", "-c"]),
    ("ipsets.txt", &["ipset", "list"]),
    ("conntrack.txt", &["conntrack", "-S"]),
    ("sockets.txt", &["ss", "-tulpn"]),
    ("uname.txt", &["uname", "-a"]),
];

/// Files of the kernel.
const FILES: [(&str, &str); 8] = [
    ("proc-net-dev.txt", "/proc/thread-self/net/dev"),
    ("proc-net-snmp.txt", "/proc/thread-self/net/snmp"),
    ("proc-net-netstat.txt", "/proc/thread-self/net/netstat"),
    ("proc-conntrack-stat.txt", "/proc/thread-self/net/stat/nf_conntrack"),
    ("meminfo.txt", "/proc/meminfo"),
    ("loadavg.txt", "/proc/loadavg"),
    ("modules.txt", "/proc/modules"),
    ("limits.txt", "/proc/self/limits"),
];

/// What `ocicat` itself can ask the agents of the node.
const QUESTIONS: [(&str, &[&str], Socket); 6] = [
    ("felix-audit.json", &["audit", "-o", "json"], Socket::Felix),
    ("felix-config.json", &["node", "config", "-o", "json"], Socket::Felix),
    ("felix-policies.json", &["policy", "status", "-o", "json"], Socket::Felix),
    ("felix-drops.json", &["drops", "-o", "json"], Socket::Felix),
    ("bgp-summary.json", &["bgp", "summary", "-o", "json"], Socket::Speaker),
    ("bgp-routes.txt", &["bgp", "routes"], Socket::Speaker),
];

#[derive(Clone, Copy)]
enum Socket {
    Felix,
    Speaker,
}

/// Everything of this node; what was too slow is named.
pub(super) fn collect(sockets: &Path, logs: Option<&Path>) -> Files {
    let end = Instant::now() + PATIENCE;
    let mut files = Files::new();
    for (name, path) in FILES {
        if let Ok(text) = std::fs::read(path) {
            keep(&mut files, name, &text, false);
        }
    }
    let own = std::env::current_exe().unwrap_or_else(|_| "ocicat".into());
    for (name, arguments, socket) in QUESTIONS {
        let socket = sockets.join(match socket {
            Socket::Felix => proto::felix::SOCKET,
            Socket::Speaker => "bird-lite.sock",
        });
        let mut command = Command::new(&own);
        command.args(arguments).arg("--socket").arg(socket);
        run(&mut files, name, command, end);
    }
    for (name, words) in PROGRAMS {
        // Asking for tables of iptables-legacy would load them.
        let has_legacy = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
            .is_ok_and(|names| !names.is_empty());
        if let [program, arguments @ ..] = words
            && (*program != "iptables-legacy-save" || has_legacy)
        {
            let mut command = Command::new(program);
            command.args(arguments);
            run(&mut files, name, command, end);
        }
    }
    for log in logs.and_then(|directory| std::fs::read_dir(directory).ok()).into_iter().flatten().flatten() {
        let name = log.file_name().to_string_lossy().into_owned();
        if name.ends_with(".log")
            && let Ok(text) = std::fs::read(log.path())
        {
            keep(&mut files, &format!("logs/{name}"), &text, true);
        }
    }
    files
}

/// Of a log the end is kept, of anything else the beginning.
fn keep(files: &mut Files, name: &str, text: &[u8], is_log: bool) {
    let is_cut = text.len() > LARGEST_FILE;
    let kept = match (is_cut, is_log) {
        (false, _) => text,
        (true, true) => text.get(text.len() - LARGEST_FILE..).unwrap_or_default(),
        (true, false) => text.get(..LARGEST_FILE).unwrap_or_default(),
    };
    let mut text = scrub::scrub(&String::from_utf8_lossy(kept));
    if is_cut {
        text.push_str("\n[cut]\n");
    }
    files.insert(name.to_owned(), text);
}

/// What a program prints; nothing when it is not here.
fn run(files: &mut Files, name: &str, mut command: Command, end: Instant) {
    let limit = ONE.min(end.saturating_duration_since(Instant::now()));
    if limit.is_zero() {
        files.insert(name.to_owned(), "[not collected: the time was over]\n".to_owned());
        return;
    }
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = started else { return };
    let (give, take) = mpsc::channel();
    let output = child.stdout.take();
    std::thread::spawn(move || {
        let mut octets = Vec::new();
        let _ = output.map(|output| output.take(LARGEST_FILE as u64 + 1).read_to_end(&mut octets));
        let _ = give.send(octets);
    });
    let came = take.recv_timeout(limit);
    // Fails only for one that has ended.
    let _ = child.kill();
    let _ = child.wait();
    match came {
        Ok(octets) => keep(files, name, &octets, false),
        Err(_) => _ = files.insert(name.to_owned(), "[not collected: it took too long]\n".to_owned()),
    }
}
