//! containerd with its CRI plugin, called as the kubelet calls it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::process::Child;

use serde_json::Value;

use super::cri::{Cri, LinuxSandbox, PortMapping, SandboxConfig, SandboxMetadata};
use super::image::IMAGE;
use super::room::Room;
use crate::{Cluster, within};

/// A containerd that runs, or was killed.
pub struct Containerd {
    room: Room,
    process: Child,
    pub cri: Cri,
}

/// What the kubelet knows of a pod.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Container port and host port.
    pub ports: Vec<(u16, u16)>,
    /// Which sandbox of the pod this is, from 0.
    pub attempt: u32,
}

impl PodSpec {
    /// As the kubelet words it.
    pub fn config(&self) -> SandboxConfig {
        let labels = [
            ("io.kubernetes.pod.name", &self.name),
            ("io.kubernetes.pod.namespace", &self.namespace),
            ("io.kubernetes.pod.uid", &self.uid),
        ];
        let port = |(container, host): &(u16, u16)| PortMapping {
            container: i32::from(*container),
            host: i32::from(*host),
        };
        SandboxConfig {
            metadata: Some(SandboxMetadata {
                name: self.name.clone(),
                uid: self.uid.clone(),
                namespace: self.namespace.clone(),
                attempt: self.attempt,
            }),
            hostname: self.name.clone(),
            ports: self.ports.iter().map(port).collect(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.clone())).into(),
            annotations: HashMap::new(),
            linux: Some(LinuxSandbox { cgroup_parent: "/ocicat-tests".to_owned() }),
        }
    }
}

impl Containerd {
    /// Starts one on a node of the lab, with the image in it, and waits until it finds the network.
    pub fn start(cluster: &Cluster, node: &str) -> Self {
        let room = Room::new(cluster, node);
        let path = |name: &str| room.path(name).display().to_string();
        let config = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
disable_apparmor = true
restrict_oom_score_adj = true
disable_hugetlb_controller = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin}"
conf_dir = "{conf}"
max_conf_num = 1
"#,
            root = path("data/root"),
            state = path("data/state"),
            socket = path("c.sock"),
            bin = path("bin"),
            conf = path("net.d"),
        );
        fs::write(room.path("containerd.toml"), config).unwrap();
        let (process, cri) = launch(&room);
        let mut containerd = Self { room, process, cri };
        containerd.room.run(
            "ctr",
            &[
                "-a",
                &path_of(&containerd.room),
                "-n",
                "k8s.io",
                "images",
                "import",
                &containerd.room.path("image.tar").display().to_string(),
            ],
        );
        within(
            20,
            "containerd finds the network",
            || containerd.cri.conditions(),
            |held| held.as_ref().is_ok_and(|held| held.iter().any(|name| name == "NetworkReady")),
        )
        .unwrap();
        containerd
    }

    /// SIGKILL, and up again; sandboxes go on.
    pub fn kill_and_restart(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        (self.process, self.cri) = launch(&self.room);
    }

    /// A command in the node's network with containerd's mounts.
    #[track_caller]
    pub fn on_node(&self, program: &str, arguments: &[&str]) -> String {
        self.room.run(program, arguments)
    }

    /// Standard output of a command there, which may fail.
    pub fn try_on_node(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.room.command(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn conflist(&self) -> Value {
        self.room.conflist()
    }

    /// containerd notices by itself.
    pub fn set_conflist(&self, conflist: &Value) {
        self.room.set_conflist(conflist);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.room.path("containerd.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            eprintln!("--- containerd\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        for sandbox in self.cri.sandboxes().unwrap_or_default() {
            let _ = self.cri.stop_pod_sandbox(&sandbox).and_then(|()| self.cri.remove_pod_sandbox(&sandbox));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn path_of(room: &Room) -> String {
    room.path("c.sock").display().to_string()
}

fn launch(room: &Room) -> (Child, Cri) {
    let log = File::options().create(true).append(true).open(room.path("containerd.log")).unwrap();
    let mut command = room.command("containerd");
    command.arg("--config").arg(room.path("containerd.toml"));
    let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let socket = room.path("c.sock");
    let ask = || Cri::connect(&socket).and_then(|mut cri| cri.conditions().is_ok().then_some(cri));
    let mut found = None;
    within(
        20,
        "containerd answers",
        || {
            found = ask();
            found.is_some()
        },
        |is_there| *is_there,
    );
    (process, found.expect("it was there"))
}
