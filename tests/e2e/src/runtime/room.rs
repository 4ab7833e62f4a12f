//! A place for a runtime: a node's network, mounts that nobody else sees, a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::image;
use crate::{Cluster, programs, within};

/// Namespaces held open by a process that sleeps, so that a runtime may die and come back into them.
pub(super) struct Room {
    directory: PathBuf,
    holder: Child,
}

impl Room {
    /// A room on a node of the lab, with the image, the plugins and the network configuration in it.
    pub(super) fn new(cluster: &Cluster, node: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ocicat-rt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let netns = format!("--net=/run/netns/{}-{node}", cluster.name());
        let mut command = Command::new("nsenter");
        command.args([&netns, "unshare", "--mount", "--propagation", "private", "sleep", "3600"]);
        let holder =
            command.stdin(Stdio::null()).spawn().expect("nsenter starts (Debian package util-linux)");
        let room = Self { directory, holder };
        let name = room.proc("comm");
        let comm = || fs::read_to_string(&name).unwrap_or_default();
        within(10, "the room's namespaces are made", comm, |comm| comm.trim() == "sleep");
        // Layers on layers are refused, and the namespaces of others need not be seen here.
        let data = room.directory.join("data");
        fs::create_dir(&data).unwrap();
        for place in [data.to_str().unwrap(), "/run/netns"] {
            room.run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", place]);
        }
        room.install_plugins(&cluster.socket(node, "felix.sock"));
        image::write(&room.path("image.tar"), &room.path("image"));
        room
    }

    /// A path in the room's directory; `data/…` is seen inside only.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A command that will run in the room.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.holder.id().to_string();
        command.args(["--target", &target, "--mount", "--net", program]).stdin(Stdio::null());
        command
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}{text}");
        text
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join(file)
    }

    /// What `calico install` installs, by `calico install`.
    fn install_plugins(&self, socket: &Path) {
        let source = self.path("plugins");
        fs::create_dir(&source).unwrap();
        let ours = ["calico", "calico-ipam"].map(|name| programs().join(name));
        let debians = ["loopback", "portmap"].map(|name| Path::new("/usr/lib/cni").join(name));
        for file in ours.iter().chain(&debians) {
            fs::copy(file, source.join(file.file_name().unwrap())).unwrap();
        }
        let log = self.path("cni.log");
        let output = Command::new(source.join("calico"))
            .arg("install")
            .args([Path::new("--bin-dir"), &self.path("bin"), Path::new("--net-dir"), &self.path("net.d")])
            .args([Path::new("--source-dir"), &source, Path::new("--felix-socket"), socket])
            .args([Path::new("--log-file"), &log])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The installed network configuration.
    pub(super) fn conflist(&self) -> Value {
        let text = fs::read(self.path("net.d/10-calico.conflist")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Puts another network configuration in the place of the installed one.
    pub(super) fn set_conflist(&self, conflist: &Value) {
        fs::write(self.path("net.d/10-calico.conflist"), json!(conflist).to_string()).unwrap();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Shims and monitors do not end with their runtime.
        let needle = self.directory.to_string_lossy().into_owned();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if let Some(pid) = pid.filter(|_| command.contains(&needle)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
