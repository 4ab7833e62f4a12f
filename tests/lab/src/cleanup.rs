//! Removing every trace of a lab: processes, namespaces, state; also after its daemon has died.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::control;
use crate::controllers::CONTROLLERS;
use crate::names::{LabName, STATE_ROOT, netns_path};
use crate::netns;

/// How long the lab's processes may take to end.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the kernel may take for one that is killed.
const KILLED: Duration = Duration::from_secs(30);

/// What a sweep found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Namespaces that were removed.
    pub namespaces: usize,
    /// Processes that were ended.
    pub processes: usize,
    /// Whether there was a state directory.
    pub state: bool,
}

impl Swept {
    /// Whether there was nothing to remove.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Ends the lab's processes, removes its namespaces, then its state.
pub fn sweep(lab: &LabName) -> io::Result<Swept> {
    let namespaces = namespaces_of(lab);
    let paths: Vec<_> = namespaces.iter().map(|name| netns_path(name)).collect();
    let inodes: HashSet<u64> = paths.iter().filter_map(|path| netns::inode(path)).collect();
    let mut pids = if inodes.is_empty() { Vec::new() } else { netns::processes_in(&inodes) };
    pids.extend(daemon_pid(lab));
    pids.extend(controllers_of(lab));
    netns::end_processes(&pids, PATIENCE, KILLED);
    for name in &namespaces {
        netns::remove(name)
            .map_err(|e| io::Error::new(e.kind(), format!("remove network namespace {name}: {e}")))?;
    }
    let state = lab.state_dir();
    let had_state = state.exists();
    if had_state {
        fs::remove_dir_all(&state)
            .map_err(|e| io::Error::new(e.kind(), format!("remove {}: {e}", state.display())))?;
    }
    // Only the last lab's end empties it.
    fs::remove_dir(STATE_ROOT).ok();
    Ok(Swept { namespaces: namespaces.len(), processes: pids.len(), state: had_state })
}

/// The daemon's process id, if it is not this process and still is a lab daemon.
pub fn daemon_pid(lab: &LabName) -> Option<i32> {
    let pid: i32 = fs::read_to_string(lab.state_dir().join("daemon.pid")).ok()?.trim().parse().ok()?;
    if u32::try_from(pid).ok()? == std::process::id() {
        return None;
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<&[u8]> = command.split(|&b| b == 0).collect();
    // The number may have been given to another program since.
    (words.contains(&b"daemon".as_slice()) && words.contains(&lab.as_str().as_bytes())).then_some(pid)
}

/// The lab's `controllers`, which is in no namespace of the lab: whoever was started with its kubeconfig.
fn controllers_of(lab: &LabName) -> Vec<i32> {
    let kubeconfig = lab.controllers_kubeconfig();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split(|&b| b == 0);
        let program = words.next().and_then(|path| path.rsplit(|&b| b == b'/').next());
        program == Some(CONTROLLERS.as_bytes()) && words.any(|word| word == kubeconfig.as_os_str().as_bytes())
    })
    .collect()
}

/// Waits for a daemon that is about to end; ends it if it does not.
pub fn wait_gone(pid: i32) {
    if !netns::ends_within(&[pid], PATIENCE) {
        netns::signal(pid, libc::SIGKILL);
        netns::ends_within(&[pid], KILLED);
    }
}

/// The namespaces with this lab's marks, and those whose names only this lab gives.
fn namespaces_of(lab: &LabName) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = read_names(&lab.marker_dir()).into_iter().collect();
    let others: Vec<String> = control::running_labs()
        .iter()
        .filter(|other| *other != lab)
        .map(|other| format!("{other}-"))
        .collect();
    let own = format!("{lab}-");
    names.extend(netns::list().into_iter().filter(|name| {
        name.strip_prefix(&own).is_some_and(is_member) && !others.iter().any(|other| name.starts_with(other))
    }));
    names
}

/// Whether the rest of a namespace's name is that of a node or of the router.
fn is_member(rest: &str) -> bool {
    rest == "tor"
        || rest.strip_prefix('n').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn read_names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_lab_gives_are_members() {
        assert!(is_member("tor") && is_member("n12"));
        assert!(!is_member("n") && !is_member("nx") && !is_member("default-web"));
    }
}
