//! podman with its CNI backend: containers that belong to no pod of any cluster.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use super::image::IMAGE;
use super::room::Room;
use crate::Cluster;

/// A place where podman keeps containers.
pub struct Podman {
    room: Room,
}

impl Podman {
    /// Prepares one on a node of the lab, with the image in it.
    pub fn new(cluster: &Cluster, node: &str) -> Self {
        let room = Room::new(cluster, node);
        let path = |name: &str| room.path(name).display().to_string();
        let containers = format!(
            r#"[containers]
apparmor_profile = "unconfined"
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["{bin}"]
network_config_dir = "{conf}"
default_network = "k8s-pod-network"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{tmp}"
"#,
            bin = path("bin"),
            conf = path("net.d"),
            tmp = path("data/tmp"),
        );
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            path("data/graph"),
            path("data/run")
        );
        fs::write(room.path("containers.conf"), containers).unwrap();
        fs::write(room.path("storage.conf"), storage).unwrap();
        fs::write(
            room.path("policy.json"),
            json!({"default": [{"type": "insecureAcceptAnything"}]}).to_string(),
        )
        .unwrap();
        let podman = Self { room };
        let (policy, image) =
            (podman.room.path("policy.json").display().to_string(), podman.room.path("image.tar"));
        podman.ok(&["load", "--signature-policy", &policy, "--input", &image.display().to_string()]);
        podman
    }

    /// Runs podman.
    pub fn call(&self, arguments: &[&str]) -> Output {
        let mut command = self.room.command("podman");
        command
            .env("CONTAINERS_CONF", self.room.path("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.room.path("storage.conf"));
        command.args(arguments).output().unwrap()
    }

    /// Standard output of a call that must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {arguments:?}: {errors}{text}");
        text
    }

    /// Starts a container that sleeps; further options come before the image's name.
    #[track_caller]
    pub fn run(&self, name: &str, options: &[&str]) -> String {
        let words = [&["run", "--detach", "--name", name], options, &[IMAGE]].concat();
        self.ok(&words)
    }

    /// A container's addresses by network.
    #[track_caller]
    pub fn address(&self, name: &str) -> String {
        let networks = self.ok(&["inspect", "--format", "{{json .NetworkSettings.Networks}}", name]);
        let networks: Value = serde_json::from_str(&networks).unwrap();
        networks["k8s-pod-network"]["IPAddress"].as_str().unwrap_or_default().to_owned()
    }

    /// A command in the node's network.
    #[track_caller]
    pub fn on_node(&self, program: &str, arguments: &[&str]) -> String {
        self.room.run(program, arguments)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time", "0"]);
    }
}
