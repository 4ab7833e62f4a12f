//! Network namespaces: making named ones, working inside one from a thread, finding and ending the processes in one.
//! It never touches links, addresses or routes; see `netlink`.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::names::{NETNS_ROOT, netns_path};

/// Makes a named network namespace, visible as /run/netns/`name`, with `lo` still down.
pub fn create(name: &str) -> io::Result<()> {
    fs::create_dir_all(NETNS_ROOT)?;
    let path = netns_path(name);
    fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    let mounted = in_thread(|| {
        // SAFETY: only this short-lived thread leaves the process's namespace; no descriptor table is unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)?;
        Ok(())
    });
    if mounted.is_err() {
        fs::remove_file(&path).ok();
    }
    mounted
}

/// Removes a named network namespace; one that is not there counts as removed.
pub fn remove(name: &str) -> io::Result<()> {
    let path = netns_path(name);
    match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Runs `work` in a thread that has entered the namespace mounted at `path`, and waits for it.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = open(path)?;
    in_thread(move || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    })
}

/// Like [`within`], for asynchronous callers: the thread works while the caller's task waits.
pub async fn enter<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        tx.send(within_this_thread(&path, work)).ok();
    })?;
    rx.await
        .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace ended without a result")))
}

/// Moves the calling thread into the namespace for good, then runs `work`.
fn within_this_thread<T>(path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    move_this_thread(path)?;
    work()
}

/// Moves the calling thread into the namespace mounted at `path` for good.
pub fn move_this_thread(path: &Path) -> io::Result<()> {
    let namespace = open(path)?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Gives the calling thread mounts of its own, so that /sys shows the network namespace it is in.
/// Refusal (as in a restricted container) leaves the old /sys in place: few programs look there.
pub fn remount_sys() {
    // SAFETY: the mount table of this thread alone is unshared; nothing else of the process depends on it.
    if unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.is_err() {
        return;
    }
    let slave = rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
    if rustix::mount::mount_change("/", slave).is_ok() {
        rustix::mount::mount("sysfs", "/sys", c"sysfs", MountFlags::empty(), None).ok();
    }
}

/// Writes a kernel setting such as `net/ipv4/ip_forward` as seen from the calling thread's namespace.
pub fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{key}");
    fs::write(&path, value).map_err(|e| io::Error::new(e.kind(), format!("write {value} to {path}: {e}")))
}

/// The inode that identifies the namespace mounted at `path`; `None` when there is no mounted namespace.
pub fn inode(path: &Path) -> Option<u64> {
    let meta = fs::metadata(path).ok()?;
    // A file left without its mount is an ordinary file on another device.
    let own = fs::metadata("/proc/self/ns/net").ok()?;
    (meta.dev() == own.dev()).then(|| meta.ino())
}

/// The processes whose main thread sits in one of the namespaces.
pub fn processes_in(inodes: &HashSet<u64>) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| pid != own)
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| inodes.contains(&m.ino())))
        .collect()
}

/// Ends the processes by their ids: SIGTERM, a short wait, then SIGKILL, and what `killed` allows the kernel for that.
pub fn end_processes(pids: &[i32], patience: Duration, killed: Duration) {
    for &pid in pids {
        signal(pid, libc::SIGTERM);
    }
    if ends_within(pids, patience) {
        return;
    }
    for &pid in pids.iter().filter(|&&pid| is_alive(pid)) {
        signal(pid, libc::SIGKILL);
    }
    ends_within(pids, killed);
}

/// Waits until none of the processes is alive; false when one still is after that time.
pub fn ends_within(pids: &[i32], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while pids.iter().any(|&pid| is_alive(pid)) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Sends a signal to a process; one that has gone is no error.
pub fn signal(pid: i32, signal: i32) {
    if pid > 1 {
        // SAFETY: kill takes two integers and has no memory effects.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z')))
        .unwrap_or(false)
}

/// The names below /run/netns.
pub fn list() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_ROOT) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// The index of a link in the calling thread's namespace.
pub fn link_index(name: &str) -> io::Result<u32> {
    let c_name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: the pointer is to a live, NUL-terminated string.
    match unsafe { libc::if_nametoindex(c_name.as_ptr()) } {
        0 => Err(io::Error::new(io::ErrorKind::NotFound, format!("no link {name}"))),
        index => Ok(index),
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("open network namespace {}: {e}", path.display())))
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}
