//! `iptables-save` and `iptables-restore`: one process for all tables of a family.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kernel::{ChainName, IptablesDriver, RestoreSection, RestoreTimes};
use model::Family;

use crate::iptables_session::Session;
use crate::nft::probe as nft_probe;
use crate::nl::named;
use crate::table_info::TableInfo;
use crate::xtables_lock as lock;

/// Which of the kernel's two rule engines the tools talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    Legacy,
    Nft,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Legacy => "legacy",
            Backend::Nft => "nft",
        })
    }
}

/// Chains by which the kubelet and kube-proxy show which backend the cluster uses.
const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
/// Names of the network namespace's tables of iptables-legacy; no file where the kernel does not have it loaded.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";
/// Seconds for which `iptables-restore` waits for the lock of iptables-legacy.
const LOCK_WAIT: &str = "5";
/// Arguments of `iptables-restore`.
const RESTORE: [&str; 3] = ["--noflush", "--wait", LOCK_WAIT];
/// Of so many programs that wrote for us the kernel's word is recognised.
const WRITERS: usize = 32;
/// For which we wait before that: other kinds of kernel state wait with us.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

impl Backend {
    /// The backend that others on this node use (`spec/felix.md` §1.12): the one that has the kubelet's marks,
    /// else the one in which others have more rules, else the one that holds ours from an earlier run, else the
    /// one that plain `iptables` talks to, so that an operator who types it sees our rules.
    ///
    /// Where only one works, that one. Fails when none does, with what each said.
    pub fn detect() -> io::Result<Self> {
        let nft = nft_probe(Family::V4).and_then(|()| save(Backend::Nft, Family::V4));
        // Looking at legacy tables loads their modules, which then slow every packet: only when they are there.
        if nft.is_ok() && !has_legacy_tables() {
            return Ok(Backend::Nft);
        }
        match (save(Backend::Legacy, Family::V4), nft) {
            (Ok(legacy), Ok(nft)) => Ok(choose(&legacy, &nft, Self::of_plain_iptables())),
            (Ok(_), Err(_)) => Ok(Backend::Legacy),
            (Err(_), Ok(_)) => Ok(Backend::Nft),
            (Err(legacy), Err(nft)) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("no iptables backend works: {legacy}; {nft}"),
            )),
        }
    }

    /// The backend that carries the kubelet's or kube-proxy's marks; `None` when none does. Reads two small
    /// tables.
    pub fn hinted() -> Option<Self> {
        let has = |backend| {
            let tools = Tools::new(backend, Family::V4);
            tools.save(&["-t", "mangle"]).is_ok_and(|text| has_hint(&text))
        };
        if nft_probe(Family::V4).is_ok() && has(Backend::Nft) {
            return Some(Backend::Nft);
        }
        // Who asks legacy for a table makes the kernel have it, and every packet pass it.
        (has_legacy_table("mangle") && has(Backend::Legacy)).then_some(Backend::Legacy)
    }

    /// The other one, in which an earlier run may have left rules.
    pub fn other(self) -> Self {
        match self {
            Backend::Legacy => Backend::Nft,
            Backend::Nft => Backend::Legacy,
        }
    }

    /// What `iptables` without a suffix is on this machine; legacy where there is none that says.
    fn of_plain_iptables() -> Self {
        let output = Command::new("iptables").arg("--version").stdin(Stdio::null()).output();
        let is_nft = output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("nf_tables"));
        if is_nft { Backend::Nft } else { Backend::Legacy }
    }
}

/// Does the kernel have iptables-legacy loaded?
fn has_legacy_tables() -> bool {
    Path::new(LEGACY_TABLES).exists()
}

/// Is there a table of iptables-legacy in this network namespace?
fn has_legacy_table(name: &str) -> bool {
    fs::read_to_string(LEGACY_TABLES).is_ok_and(|text| text.lines().any(|line| line == name))
}

fn has_hint(text: &str) -> bool {
    let mangle = text.split("*mangle\n").nth(1).and_then(|rest| rest.split("COMMIT").next());
    mangle.is_some_and(|mangle| HINTS.iter().any(|hint| mangle.contains(&format!(":{hint} "))))
}

fn choose(legacy: &str, nft: &str, plain: Backend) -> Backend {
    // Others' rules, then ours.
    let rules = |text: &str| {
        let rules = text.lines().filter_map(|line| line.strip_prefix("-A "));
        let (ours, others): (Vec<_>, Vec<_>) =
            rules.partition(|rule| ChainName::is_ours(rule) || rule.contains("--comment \"cali:"));
        (others.len(), ours.len())
    };
    match (has_hint(nft), has_hint(legacy), rules(legacy).cmp(&rules(nft))) {
        (true, _, _) => Backend::Nft,
        (false, true, _) | (false, false, Ordering::Greater) => Backend::Legacy,
        (false, false, Ordering::Less) => Backend::Nft,
        (false, false, Ordering::Equal) => plain,
    }
}

fn save(backend: Backend, family: Family) -> io::Result<String> {
    Tools::new(backend, family).save(&[])
}

/// The programs of one backend and family.
#[derive(Clone, Copy, Debug)]
struct Tools {
    backend: Backend,
    family: Family,
    /// There are no programs of the backend's own name, and those without suffix are of this backend.
    is_plain: bool,
}

impl Tools {
    fn new(backend: Backend, family: Family) -> Self {
        let mut tools = Self { backend, family, is_plain: false };
        let probe = Command::new(tools.name("save")).arg("--version").stdin(Stdio::null()).output();
        let is_missing = probe.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        tools.is_plain = is_missing && Backend::of_plain_iptables() == backend;
        tools
    }

    fn name(self, action: &str) -> String {
        let family = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        if self.is_plain {
            format!("{family}-{action}")
        } else {
            format!("{family}-{}-{action}", self.backend)
        }
    }

    fn save(self, arguments: &[&str]) -> io::Result<String> {
        let name = self.name("save");
        let output = Command::new(&name)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| named(format!("run {name} (Debian package iptables)"), e))?;
        check(&name, &output, "", 0)?;
        String::from_utf8(output.stdout)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{name} printed no UTF-8")))
    }

    /// An error comes with the number of the line that failed, when the tool named it.
    fn restore(self, input: &str, started: impl FnOnce(u32)) -> Result<(), (io::Error, Option<usize>)> {
        let output = self.run_restore(input, started).map_err(|error| (error, None))?;
        self.judge(&output, input, 0)
    }

    /// What became of a write before which the program had been told `before` lines.
    fn judge(self, output: &Output, input: &str, before: usize) -> Result<(), (io::Error, Option<usize>)> {
        let line = line_in(&String::from_utf8_lossy(&output.stderr), before);
        check(&self.name("restore"), output, input, before).map_err(|error| (error, line))
    }

    fn run_restore(self, input: &str, started: impl FnOnce(u32)) -> io::Result<Output> {
        let name = self.name("restore");
        let mut child = Command::new(&name)
            .args(RESTORE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| named(format!("run {name} (Debian package iptables)"), e))?;
        started(child.id());
        let stdin = child.stdin.take();
        // Writing beside reading, so that neither pipe can fill up and block both sides.
        let output = thread::scope(|scope| {
            scope.spawn(move || {
                // A process that stops reading says why on its stderr.
                let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
            });
            child.wait_with_output()
        });
        output.map_err(|e| named(format!("wait for {name}"), e))
    }
}

/// Turns a failed run into an error with what it printed and the line that it stumbled over.
fn check(name: &str, output: &Output, input: &str, before: usize) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    let printed = printed.trim();
    let mut text = format!("{name} failed ({}): {printed}", output.status);
    if let Some(line) = line_in(printed, before).and_then(|number| input.lines().nth(number - 1)) {
        text.push_str(&format!(" [{line}]"));
    }
    let is_busy = printed.contains("xtables lock") || printed.contains("Resource temporarily unavailable");
    Err(io::Error::new(if is_busy { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other }, text))
}

/// The line that failed, counted behind the first `before` ones.
fn line_in(printed: &str, before: usize) -> Option<usize> {
    failed_line(printed)?.checked_sub(before).filter(|number| *number > 0)
}

/// The number in `line 3 failed`, `line: 3` or `Error occurred at line: 3`; counted from 1.
fn failed_line(printed: &str) -> Option<usize> {
    printed.match_indices("line").find_map(|(at, _)| {
        let rest = printed[at + 4..].trim_start_matches([':', ' ']);
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok().filter(|number| *number > 0)
    })
}

/// Reads and writes the tables of one family through one backend.
#[derive(Debug)]
pub struct IptablesTools {
    tools: Tools,
    /// Of the kernel's tables; iptables-legacy only.
    info: Option<TableInfo>,
    times: Option<RestoreTimes>,
    /// The last programs that wrote for us, by process ID.
    writers: VecDeque<u32>,
    lock_patience: Duration,
    /// A program that stays open; iptables-nft only, for the other one keeps the tables locked.
    session: Option<Session>,
    may_stay_open: bool,
}

impl IptablesTools {
    /// Checks that the family works with this backend; the error says why not (`Unsupported` for IPv6 on a
    /// kernel without it).
    pub fn new(backend: Backend, family: Family) -> io::Result<Self> {
        if family == Family::V6 && !Path::new("/proc/thread-self/net/if_inet6").exists() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no IPv6"));
        }
        if backend == Backend::Nft {
            nft_probe(family)?;
        }
        let tools = Tools::new(backend, family);
        tools.save(&[])?;
        // Without it others' writes are noticed later.
        let info = (backend == Backend::Legacy).then(|| TableInfo::open(family).ok()).flatten();
        Ok(Self {
            tools,
            info,
            times: None,
            writers: VecDeque::new(),
            lock_patience: LOCK_PATIENCE,
            session: None,
            may_stay_open: backend == Backend::Nft,
        })
    }

    /// For sweeping what was left behind a backend that is not in use. `None` where there is nothing to sweep:
    /// no programs of it, or no tables of it in this kernel (looking at them would load them).
    pub fn of_leftovers(backend: Backend, family: Family) -> Option<Self> {
        let names = match family {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        let is_loaded = || fs::read_to_string(names).is_ok_and(|names| !names.trim().is_empty());
        let tools = Tools::new(backend, family);
        // Programs without a suffix are those that are in use.
        if tools.is_plain || backend == Backend::Legacy && !is_loaded() {
            return None;
        }
        Self::new(backend, family).ok()
    }

    pub fn backend(&self) -> Backend {
        self.tools.backend
    }

    /// Waits for others at most so long before a write; two seconds unless said otherwise.
    pub fn set_lock_patience(&mut self, patience: Duration) {
        self.lock_patience = patience;
    }

    /// Writes through the program that stays open, where there can be one.
    fn run(&mut self, input: &str) -> Result<(), (io::Error, Option<usize>)> {
        if self.session.as_ref().is_none_or(Session::is_worn) {
            self.session = None;
            self.open_session();
        }
        let Some(session) = &mut self.session else {
            let note = |id| note_writer(&mut self.writers, id);
            return self.tools.restore(input, note);
        };
        let Err(ended) = session.restore(input) else { return Ok(()) };
        self.session = None;
        let ended = ended.map_err(|error| (error, None))?;
        self.tools.judge(&ended.output, input, ended.lines)?;
        Err((io::Error::other("iptables-restore ended before its input"), None))
    }

    fn open_session(&mut self) {
        if !self.may_stay_open {
            return;
        }
        // What is in the way of it is in the way of a program that ends as well, and is named there.
        match Session::start(&self.tools.name("restore"), &RESTORE) {
            Ok(Some(session)) => {
                note_writer(&mut self.writers, session.id());
                self.session = Some(session);
            }
            Ok(None) => self.may_stay_open = false,
            Err(_) => {}
        }
    }

    /// Waits until nobody holds the lock, to know for how long, and to say who is in the way.
    fn wait_for_lock(&self) -> io::Result<Duration> {
        if self.tools.backend == Backend::Nft { Ok(Duration::ZERO) } else { lock::wait(self.lock_patience) }
    }
}

impl IptablesDriver for IptablesTools {
    fn save(&mut self) -> io::Result<String> {
        self.tools.save(&[])
    }

    /// All sections in one process. When one fails, those before it are committed, and those behind it go into
    /// another process, so that one bad table stops no other.
    fn restore(&mut self, sections: &[RestoreSection]) -> Vec<(usize, io::Error)> {
        let all_failed = |from: usize, error: &io::Error| {
            let copy = |index| (index, io::Error::new(error.kind(), error.to_string()));
            (from..sections.len()).map(copy).collect::<Vec<_>>()
        };
        let lock_wait = match self.wait_for_lock() {
            Ok(wait) => wait,
            Err(error) => return all_failed(0, &error),
        };
        let started = Instant::now();
        let mut failures = Vec::new();
        let mut first = 0;
        while first < sections.len() {
            let rest = &sections[first..];
            let input: String = rest.iter().map(|section| section.text.as_str()).collect();
            let Err((error, line)) = self.run(&input) else { break };
            let Some(bad) = line.and_then(|line| section_of(rest, line)) else {
                // Nothing says how far it came: all count as failed, and the caller looks before it goes on.
                failures.extend(all_failed(first, &error));
                break;
            };
            failures.push((first + bad, error));
            first += bad + 1;
        }
        let times = self.times.get_or_insert_default();
        times.lock_wait += lock_wait;
        times.run += started.elapsed();
        failures
    }

    fn fingerprint(&mut self) -> Option<u64> {
        self.info.as_ref()?.fingerprint().ok()
    }

    fn has_written(&self, writer: u32) -> bool {
        self.writers.contains(&writer)
    }

    fn take_times(&mut self) -> Option<RestoreTimes> {
        self.times.take()
    }
}

fn note_writer(writers: &mut VecDeque<u32>, id: u32) {
    writers.truncate(WRITERS - 1);
    writers.push_front(id);
}

/// The section in which a line of the joined input stands.
fn section_of(sections: &[RestoreSection], line: usize) -> Option<usize> {
    let mut end = 0;
    sections.iter().position(|section| {
        end += section.text.lines().count();
        line <= end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_with_the_kubelets_mark_is_chosen() {
        let marked = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
        let elsewhere = "*nat\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n*mangle\nCOMMIT\n";
        let rules = "*filter\n-A INPUT -j DROP\nCOMMIT\n";

        for plain in [Backend::Legacy, Backend::Nft] {
            assert_eq!(choose(rules, marked, plain), Backend::Nft);
            assert_eq!(choose(marked, rules, plain), Backend::Legacy);
            assert_eq!(choose("", rules, plain), Backend::Nft);
            assert_eq!(choose(rules, "", plain), Backend::Legacy);
            assert_eq!(choose("", elsewhere, plain), plain);
            assert_eq!(choose(rules, rules, plain), plain);
            // Ours count only where others give no reason.
            let ours = "*filter\n-A cali-INPUT -j DROP\n-A cali-INPUT -j DROP\nCOMMIT\n";
            assert_eq!(choose(rules, ours, plain), Backend::Legacy);
            assert_eq!(choose("", ours, plain), Backend::Nft);
        }
    }

    #[test]
    fn the_line_that_failed_is_found() {
        assert_eq!(failed_line("iptables-restore: line 3 failed"), Some(3));
        assert_eq!(failed_line("Error occurred at line: 12\nTry `x' for more"), Some(12));
        assert_eq!(failed_line("unknown option on the command line"), None);
        assert_eq!(failed_line("line 0 failed"), None);
    }
}
