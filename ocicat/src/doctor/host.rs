//! The machine: processes, parts of the kernel, limits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use doctor::{CgroupFacts, Conntrack, Descriptors, Facts, Module};
use kernel_linux::{IpSetDriver, probe_nftables, sysctl};
use model::Family;

/// Our processes.
const OURS: [&str; 2] = ["felix", "bird-lite"];
/// Programs that take care of links and rules, too.
const MEDDLERS: [&str; 2] = ["NetworkManager", "firewalld"];

pub(super) fn kernel_release() -> String {
    text("/proc/sys/kernel/osrelease").unwrap_or_default()
}

/// Name of the machine.
pub(super) fn name() -> String {
    text("/proc/sys/kernel/hostname").unwrap_or_default()
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path)?.parse().ok()
}

pub(super) fn read(facts: &mut Facts) {
    let has_tunnel = facts.link("tunl0").is_some();
    facts.modules = modules(&facts.kernel, has_tunnel);
    let table = |name: &str| sysctl::read(&format!("net/netfilter/{name}")).ok()?.trim().parse().ok();
    if let (Some(count), Some(max)) = (table("nf_conntrack_count"), table("nf_conntrack_max")) {
        facts.conntrack = Some(Conntrack { count, max });
    }
    facts.cgroup = cgroup();
    for (process, name) in processes() {
        if OURS.contains(&name.as_str()) {
            facts.descriptors.extend(descriptors(&process, &name));
        } else if name == "NetworkManager" {
            facts.meddlers.insert(name, Some(leaves_us_alone()));
        } else {
            facts.meddlers.insert(name, None);
        }
    }
}

/// Processes of the calling thread's network namespace that are known by name.
fn processes() -> Vec<(PathBuf, String)> {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered =
        entries.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    numbered
        .filter_map(|entry| {
            let name = text(entry.path().join("comm"))?;
            let known = OURS.contains(&name.as_str()) || MEDDLERS.contains(&name.as_str());
            let is_here = known && own.is_some() && fs::read_link(entry.path().join("ns/net")).ok() == own;
            is_here.then(|| (entry.path(), name))
        })
        .collect()
}

fn descriptors(process: &Path, name: &str) -> Option<Descriptors> {
    let open = fs::read_dir(process.join("fd")).ok()?.count() as u64;
    let limits = text(process.join("limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let limit = line.split_whitespace().next()?.parse().ok()?;
    Some(Descriptors { process: name.to_owned(), open, limit })
}

/// How the node's address is found, as far as the agent's environment says; its default otherwise.
pub(super) fn address_method(family: Family) -> String {
    let (address, method) = match family {
        Family::V4 => ("IP", "IP_AUTODETECTION_METHOD"),
        Family::V6 => ("IP6", "IP6_AUTODETECTION_METHOD"),
    };
    let felix = processes().into_iter().find(|(_, name)| name == "felix");
    let Some(environment) = felix.and_then(|(process, _)| fs::read(process.join("environ")).ok()) else {
        return String::new();
    };
    let environment = String::from_utf8_lossy(&environment);
    // Only these two are looked at: there are secrets among the others.
    let of = |wanted: &str| {
        let mut pairs = environment.split('\0').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| crate::table::plain(value))
            .filter(|v| !v.is_empty())
    };
    match of(address) {
        Some(fixed) if fixed != "autodetect" => format!("fixed by {address}={fixed}"),
        _ => of(method).unwrap_or_else(|| "kubernetes-internal-ip".to_owned()),
    }
}

/// Does its configuration say that pods' links are not its business?
fn leaves_us_alone() -> bool {
    let directories =
        ["/etc/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d", "/run/NetworkManager/conf.d"];
    let files =
        directories.iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    let files =
        files.map(|entry| entry.path()).chain([PathBuf::from("/etc/NetworkManager/NetworkManager.conf")]);
    files.filter_map(text).any(|text| {
        text.lines().any(|line| line.trim_start().starts_with("unmanaged-devices") && line.contains("cali"))
    })
}

fn modules(kernel: &str, has_tunnel: bool) -> BTreeMap<String, Module> {
    let directory = Path::new("/lib/modules").join(kernel);
    let lists = ["modules.dep", "modules.builtin"].map(|name| text(directory.join(name)).unwrap_or_default());
    let takes_modules = Path::new("/proc/modules").exists();
    let of = |module: &str, works: bool| {
        let file = format!("/{}.ko", module);
        let is_listed = |list: &str| {
            list.lines().any(|line| {
                line.split([':', '.'])
                    .next()
                    .is_some_and(|stem| file.strip_suffix(".ko").is_some_and(|wanted| stem.ends_with(wanted)))
            })
        };
        let [loadable, builtin] = &lists;
        if works || Path::new("/sys/module").join(module).exists() || is_listed(builtin) {
            Some(Module::Present)
        } else if is_listed(loadable) {
            Some(Module::Loadable)
        } else if !takes_modules || !loadable.is_empty() {
            Some(Module::Missing)
        } else {
            None
        }
    };
    let has_conntrack = sysctl::read("net/netfilter/nf_conntrack_max").is_ok();
    let known = [
        ("nf_conntrack", of("nf_conntrack", has_conntrack)),
        ("nf_tables", of("nf_tables", probe_nftables(Family::V4).is_ok())),
        ("ip_set", of("ip_set", IpSetDriver::open().is_ok())),
        ("ipip", of("ipip", has_tunnel)),
        // What is built in does not show itself when it is not used: it is only judged where modules are.
        ("nft_fib", of("nft_fib_inet", false).filter(|_| !lists[0].is_empty())),
        ("vxlan", of("vxlan", false).filter(|_| !lists[0].is_empty())),
        ("wireguard", of("wireguard", false).filter(|_| !lists[0].is_empty())),
        (
            "nexthop",
            Some(if sysctl::read("net/ipv4/nexthop_compat_mode").is_ok() {
                Module::Present
            } else {
                Module::Missing
            }),
        ),
    ];
    known.into_iter().filter_map(|(name, module)| Some((name.to_owned(), module?))).collect()
}

/// Of the control group that this process is in; in the agent's container that is the agent's.
fn cgroup() -> CgroupFacts {
    let own = text("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let inside = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    let place = if inside.join("memory.current").exists() { inside } else { PathBuf::from("/sys/fs/cgroup") };
    let events = text(place.join("memory.events")).unwrap_or_default();
    let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    CgroupFacts {
        memory: number(place.join("memory.current")),
        memory_max: number(place.join("memory.max")),
        oom_kills: kills.and_then(|count| count.parse().ok()).unwrap_or(0),
        tasks: number(place.join("pids.current")),
        tasks_max: number(place.join("pids.max")),
    }
}
