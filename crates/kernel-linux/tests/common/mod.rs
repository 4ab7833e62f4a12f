//! Network namespaces that live as long as a test, and tools with the package that has them.
#![allow(dead_code)]

use std::io;
use std::process::Command;

use kernel_linux::Netns;

/// Runs `test` in a network namespace of its own with `lo` up. Needs root.
pub fn in_new_netns(test: impl FnOnce() + Send) {
    let netns = new_netns();
    netns
        .run(|| {
            run("ip", &["link", "set", "lo", "up"]);
            test();
            Ok(())
        })
        .expect("the test's own message is above");
}

/// A namespace that goes away with the value.
pub fn new_netns() -> Netns {
    std::thread::spawn(|| -> io::Result<Netns> {
        // SAFETY: plain system call that changes this short-lived thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Netns::current()
    })
    .join()
    .expect("the thread does not panic")
    .expect("a network namespace of its own; run the tests as root")
}

/// Runs a tool in the network namespace of the calling thread; returns what it printed.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let (ok, text) = attempt(tool, arguments);
    assert!(ok, "{tool} {arguments:?} failed: {text}");
    text
}

/// Like `run`, and says whether the tool succeeded.
pub fn attempt(tool: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(tool).args(arguments).output().unwrap_or_else(|error| {
        panic!("cannot run {tool}: {error}; install the Debian package {}", package(tool))
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

fn package(tool: &str) -> &'static str {
    match tool {
        "ip" => "iproute2",
        "ping" => "iputils-ping",
        "ipset" => "ipset",
        "conntrack" => "conntrack",
        "nft" => "nftables",
        _ => "iptables",
    }
}
