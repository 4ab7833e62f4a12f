//! The plugins under measurement, and sandboxes to connect.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::programs;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};

use crate::Outcome;

/// A plugin with its configuration.
pub struct Candidate {
    pub name: &'static str,
    pub binary: PathBuf,
    conf: Value,
}

/// A network namespace, and what the runtime says of it.
pub struct Sandbox {
    pub id: String,
    pub netns: File,
    args: String,
}

impl Sandbox {
    pub fn new(id: &str, (pod, uid): &(String, String)) -> Outcome<Self> {
        // The thread's namespace outlives it in the file.
        let netns = std::thread::spawn(|| {
            // SAFETY: this thread shares nothing with others that depends on its network namespace.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        });
        let netns = netns.join().expect("the thread does not panic")?;
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={uid}");
        Ok(Self { id: id.to_owned(), netns, args })
    }
}

impl Candidate {
    pub fn calico(socket: &Path) -> Self {
        Self {
            name: "calico",
            binary: std::env::args().nth(1).map_or_else(|| programs().join("calico"), PathBuf::from),
            conf: json!({
                "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico", "felix_socket": socket,
                "log_level": "error", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
            }),
        }
    }

    pub fn ptp(scratch: &Path) -> Self {
        Self {
            name: "ptp + host-local",
            binary: "/usr/lib/cni/ptp".into(),
            conf: json!({
                "cniVersion": "1.0.0", "name": "bench-ptp", "type": "ptp",
                "ipam": {"type": "host-local", "subnet": "10.67.0.0/16", "dataDir": scratch.join("ptp")},
            }),
        }
    }

    pub fn bridge(scratch: &Path) -> Self {
        Self {
            name: "bridge + host-local",
            binary: "/usr/lib/cni/bridge".into(),
            conf: json!({
                "cniVersion": "1.0.0", "name": "bench-bridge", "type": "bridge", "bridge": "bench0",
                "isGateway": true,
                "ipam": {
                    "type": "host-local", "subnet": "10.68.0.0/16", "dataDir": scratch.join("bridge"),
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }),
        }
    }

    /// One process from before its start until it has been waited for; returns what it printed. The calling thread
    /// is in the node's network.
    pub fn call(&self, verb: &str, sandbox: &Sandbox) -> Outcome<Value> {
        let netns = format!("/proc/{}/fd/{}", std::process::id(), sandbox.netns.as_raw_fd());
        let mut child = Command::new(&self.binary)
            .env_clear()
            .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", &sandbox.id), ("CNI_NETNS", &netns)])
            .envs([("CNI_IFNAME", "eth0"), ("CNI_ARGS", &sandbox.args), ("CNI_PATH", "/usr/lib/cni")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child.stdin.take().ok_or("no pipe")?.write_all(self.conf.to_string().as_bytes())?;
        let mut text = String::new();
        child.stdout.take().ok_or("no pipe")?.read_to_string(&mut text)?;
        if !child.wait()?.success() {
            return Err(format!("{} {verb} of {}: {text}", self.name, sandbox.id).into());
        }
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}
