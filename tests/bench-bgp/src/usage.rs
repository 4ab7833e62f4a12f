//! What a subject costs: CPU time and memory of all its processes, as the kernel counts them.

use std::fs;
use std::time::Duration;

/// Processes of a group.
pub(crate) fn processes(group: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| group_of(*pid) == Some(group)).collect()
}

fn group_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; state, parent and group follow it.
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

/// CPU time of a process group so far, over all threads that live.
pub(crate) fn cpu(group: u32) -> Duration {
    let threads = processes(group).into_iter().flat_map(|pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.map(|task| task.path().join("schedstat"))
    });
    let run = |path| fs::read_to_string(path).ok()?.split(' ').next()?.parse::<u64>().ok();
    Duration::from_nanos(threads.filter_map(run).sum())
}

/// Peak resident memory of a process group, in bytes: the sum of its processes' peaks.
pub(crate) fn peak(group: u32) -> u64 {
    let of = |pid: u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    processes(group).into_iter().filter_map(of).sum::<u64>() * 1024
}

/// Whether somebody listens on a TCP port of this network namespace.
pub(crate) fn is_listening(port: u16) -> bool {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let local = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace();
        words.nth(1).is_some_and(|address| address.ends_with(&local)) && words.nth(1) == Some("0A")
    })
}
