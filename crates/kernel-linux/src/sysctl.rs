//! Writes to /proc/sys of the network namespace of the calling thread.
//!
//! Whose sysctls below `net` a file is depends on who opens it, not on where the file system is mounted. So a container,
//! in which /proc/sys is read-only, writes through another mount of the host's (see [`use_mount`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kernel::{Driver, Failures};

use crate::nl::named;

/// Where sysctls are mounted, when that is not /proc/sys.
static MOUNT: OnceLock<PathBuf> = OnceLock::new();

/// Writes below `mount` from now on in place of /proc/sys: another place where its directory `net` is mounted, and can be
/// written. Once in a process; later calls change nothing.
pub fn use_mount(mount: &Path) {
    MOUNT.get_or_init(|| mount.to_owned());
}

/// Reads one value, as `read("net/ipv4/conf/default/rp_filter")`.
pub fn read(path: &str) -> io::Result<String> {
    let mut value = String::new();
    full_path(path)
        .and_then(|path| File::open(path)?.read_to_string(&mut value))
        .map_err(|e| named(format!("read {}/{path}", mount().display()), e))?;
    Ok(value.trim_end().to_owned())
}

/// Writes one value. The error names the path.
pub fn write(path: &str, value: &str) -> io::Result<()> {
    full_path(path)
        .and_then(|path| OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes()))
        .map_err(|e| named(format!("write {value} to {}/{path}", mount().display()), e))
}

/// An interface name may contain dots but neither slashes nor a way up.
fn full_path(path: &str) -> io::Result<PathBuf> {
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path below /proc/sys"));
    }
    Ok(mount().join(path))
}

fn mount() -> &'static Path {
    MOUNT.get().map_or(Path::new("/proc/sys"), PathBuf::as_path)
}

/// What the host side of a pod's veth needs so that the pod reaches everything through it
/// (`spec/felix.md` §3.4). Missing IPv6 is skipped when `ipv6` is false.
///
/// Every value is tried; the first error of an essential one is returned.
pub fn configure_pod_interface(interface: &str, rp_filter: &str, ipv6: bool) -> io::Result<()> {
    let v4 = format!("net/ipv4/conf/{interface}");
    let mut result = Ok(());
    let mut essential = |outcome: io::Result<()>| {
        if result.is_ok() {
            result = outcome;
        }
    };
    // A failure only delays the first ARP answer, which the permanent neighbour makes unnecessary.
    let _ = write(&format!("net/ipv4/neigh/{interface}/proxy_delay"), "0");
    essential(write(&format!("{v4}/route_localnet"), "1"));
    essential(write(&format!("{v4}/proxy_arp"), "1"));
    essential(write(&format!("{v4}/forwarding"), "1"));
    essential(write(&format!("{v4}/rp_filter"), rp_filter));
    let v6 = format!("net/ipv6/conf/{interface}");
    if ipv6 {
        essential(write(&format!("{v6}/disable_ipv6"), "0"));
        essential(write(&format!("{v6}/accept_ra"), "0"));
        essential(write(&format!("{v6}/proxy_ndp"), "1"));
        essential(write(&format!("{v6}/forwarding"), "1"));
    } else {
        // A pod must not configure its host by router advertisements, even where we do no IPv6.
        let _ = write(&format!("{v6}/accept_ra"), "0");
    }
    result
}

/// Sysctls as entries of a table. Lists those that were written before; deleting leaves the value.
#[derive(Debug, Default)]
pub struct SysctlDriver {
    paths: BTreeSet<String>,
}

impl SysctlDriver {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Driver for SysctlDriver {
    /// Below /proc/sys, as `net/ipv4/conf/cali1/proxy_arp`.
    type Key = String;
    type Value = String;

    fn list(&mut self) -> io::Result<BTreeMap<String, String>> {
        // One whose interface is gone cannot be read, and then has no value.
        let read = |path: &String| Some((path.clone(), read(path).ok()?));
        Ok(self.paths.iter().filter_map(read).collect())
    }

    fn apply(&mut self, puts: &[(String, String)], deletes: &[String]) -> Failures<String> {
        let mut failures = Vec::new();
        for (path, value) in puts {
            self.paths.insert(path.clone());
            if let Err(error) = write(path, value) {
                failures.push((path.clone(), error));
            }
        }
        for path in deletes {
            self.paths.remove(path);
        }
        failures
    }
}
