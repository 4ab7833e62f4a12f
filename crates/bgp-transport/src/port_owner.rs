//! Who listens on a port. Owns the reading of `/proc`; used only to make an error message helpful.

use std::fmt;
use std::fs;
use std::path::Path;

/// A process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Finds the process that listens on a TCP port in this network namespace, if it can be seen.
pub fn port_owner(port: u16) -> Option<PortOwner> {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let text: String = tables.iter().filter_map(|t| fs::read_to_string(t).ok()).collect();
    let inodes = listening_inodes(&text, port);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            holds_socket(&entry.path(), &inodes).then_some((pid, entry.path()))
        })
        .map(|(pid, path)| {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned();
            PortOwner { pid, name }
        })
        .next()
}

/// Inodes of sockets that listen on `port`, out of the text of `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|f| f.len() > 9 && f[1].ends_with(&suffix) && f[3] == LISTEN)
        .map(|f| format!("socket:[{}]", f[9]))
        .collect()
}

fn holds_socket(process: &Path, inodes: &[String]) -> bool {
    let Ok(fds) = fs::read_dir(process.join("fd")) else { return false };
    fds.flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|target| target.to_str().is_some_and(|t| inodes.iter().any(|i| i == t)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn finds_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = port_owner(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(owner.pid, std::process::id());
    }

    #[test]
    fn reads_only_listening_sockets_of_the_port() {
        let table = "  sl  local rem st\n\
            0: 0100007F:00B3 00000000:0000 0A 0:0 0:0 0 0 0 4711 1\n\
            1: 0100007F:00B3 0100007F:9000 01 0:0 0:0 0 0 0 4712 1\n";
        assert_eq!(listening_inodes(table, 179), ["socket:[4711]"]);
        assert!(listening_inodes(table, 180).is_empty());
    }
}
