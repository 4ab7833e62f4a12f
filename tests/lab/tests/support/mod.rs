//! What the lab's own tests share: a guarded lab, a stand-in CNI plugin, polling with a deadline.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A lab that is removed when the test ends, however it ends.
pub struct TestLab {
    pub name: String,
    pub bin_dir: PathBuf,
}

impl TestLab {
    /// Prepares a name that no other run uses and a directory with a stand-in for the CNI plugin.
    pub fn new(test: &str) -> Self {
        need("ip", "iproute2");
        let name = format!("t{}-{test}", std::process::id());
        let bin_dir = std::env::temp_dir().join(format!("ocicat-{name}"));
        fs::create_dir_all(&bin_dir).unwrap();
        for plugin in ["calico", "calico-ipam"] {
            let path = bin_dir.join(plugin);
            fs::write(&path, include_str!("stand-in-cni.sh")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { name, bin_dir }
    }

    /// Runs `lab COMMAND --name <this lab> ARGUMENTS`.
    pub fn lab(&self, command: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(command.split(' '))
            .args(["--name", &self.name])
            .args(arguments)
            .env("OCICAT_BIN_DIR", &self.bin_dir)
            .output()
            .unwrap()
    }

    /// The same; it must succeed. Returns standard output.
    pub fn good(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.lab(command, arguments);
        assert!(output.status.success(), "lab {command} {arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What became of a probe that may take its time on a busy machine; one that is denied takes all of it.
    pub fn probe(&self, arguments: &[&str]) -> Value {
        self.json("probe", &[arguments, &["--timeout-ms", "30000"]].concat())
    }

    /// The same with JSON.
    pub fn json(&self, command: &str, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let output = self.lab(command, &all);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("lab {command}: {e}: {}", text(&output)))
    }

    /// The lab's kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        need("kubectl", "kubernetes-client");
        let output = Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", format!("/run/ocicat-lab/{}/kubeconfig", self.name))
            .output()
            .unwrap();
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Applies objects.
    pub fn apply(&self, yaml: &str) {
        let file = self.bin_dir.join("objects.yaml");
        fs::write(&file, yaml).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// Namespaces, state and processes that carry this lab's name.
    pub fn remains(&self) -> Vec<String> {
        let prefix = format!("{}-", self.name);
        let mut found: Vec<String> =
            entries("/run/netns").into_iter().filter(|n| n.starts_with(&prefix)).collect();
        found.extend(entries("/run/ocicat-lab").into_iter().filter(|n| *n == self.name));
        for pid in entries("/proc").into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = command.split(|&b| b == 0);
            if words.any(|w| {
                w == self.name.as_bytes() || String::from_utf8_lossy(w).contains(&format!("/{}/", self.name))
            }) {
                found.push(format!("process {pid}: {}", String::from_utf8_lossy(&command)));
            }
        }
        found
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log =
                fs::read_to_string(format!("/run/ocicat-lab/{}/daemon.log", self.name)).unwrap_or_default();
            eprintln!("daemon.log:\n{log}");
        }
        self.lab("down", &[]);
        fs::remove_dir_all(&self.bin_dir).ok();
    }
}

/// Fails with the package to install when a program is missing.
pub fn need(program: &str, package: &str) {
    let path = std::env::var("PATH").unwrap_or_default();
    let found =
        path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(program).is_file());
    assert!(found, "{program} is missing: apt-get install {package}");
}

/// Polls until `what` holds; fails with `why` after four minutes.
pub fn eventually(why: &str, what: impl FnMut() -> bool) {
    eventually_or(why, what, String::new);
}

/// As [`eventually`]; the failure also tells what `state` says then.
pub fn eventually_or(why: &str, mut what: impl FnMut() -> bool, state: impl FnOnce() -> String) {
    let deadline = Instant::now() + Duration::from_secs(240);
    while !what() {
        assert!(Instant::now() < deadline, "not in time: {why}\n{}", state());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn entries(dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}
