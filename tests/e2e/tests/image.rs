//! The image: built from this machine's files, and what a node's pod does with it.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::runtime::NodePod;
use e2e::{Cluster, Options, programs};
use serde_json::Value;

const TAG: &str = "localhost/ocicat:test";

/// podman with images of its own, which go with the test.
struct Podman(PathBuf);

impl Podman {
    fn options(&self) -> Vec<String> {
        let path = |name: &str| self.0.join(name).display().to_string();
        let storage = ["--root", &path("root"), "--runroot", &path("run"), "--storage-driver", "vfs"];
        storage.iter().chain(&["--cgroup-manager", "cgroupfs"]).map(|word| (*word).to_owned()).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.args(self.options()).args(arguments).env("CONTAINERS_CONF", self.0.join("containers.conf"));
        command
    }

    fn call(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().expect("podman starts (Debian package podman)");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A container as a node's pod has it: read-only, without a capability.
    fn run(&self, options: &[&str], command: &[&str]) -> Result<String, String> {
        let fixed = ["run", "--rm", "--read-only", "--read-only-tmpfs=false", "--network=none"];
        let confined = ["--cap-drop=ALL", "--security-opt=no-new-privileges"];
        self.call(&[&fixed[..], &confined, options, &[TAG], command].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time", "0"]);
        let _ = self.call(&["rmi", "--all", "--force"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Shows what containers said when the test fails.
struct Logs<'a>(&'a Podman, &'a [String]);

impl Drop for Logs<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.1 {
                let output = self.0.command(&["logs", "--tail=20", name]).output().expect("podman starts");
                let (out, err) =
                    (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                eprintln!("--- {name}\n{out}{err}");
            }
        }
    }
}

#[test]
fn image_is_built_and_its_programs_work_as_a_node_runs_them() {
    let place = std::env::temp_dir().join(format!("ocicat-image-{}", std::process::id()));
    let podman = built(&place);

    for program in ["felix", "bird-lite", "controllers", "ocicat", "route-reflector", "typha"] {
        let said = podman.run(&[], &[program, "--version"]).unwrap();
        assert!(said.starts_with(program), "{said}");
    }
    for tool in ["iptables-nft-restore", "iptables-legacy-save", "ip6tables-nft-save"] {
        assert!(podman.run(&[], &[tool, "--version"]).unwrap().contains(" v1."), "{tool}");
    }
    it_installs_the_plugins(&podman, &place);
    it_says_what_it_is(&podman, &place);
    it_is_the_pod_of_a_node(&podman);
}

/// Builds the image with the programs of this build.
fn built(place: &Path) -> Podman {
    std::fs::create_dir_all(place).unwrap();
    let podman = Podman(place.to_owned());
    let settings = "[containers]\napparmor_profile = \"unconfined\"\n\
                    default_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n[engine]\nevents_logger = \"file\"\n";
    std::fs::write(place.join("containers.conf"), settings).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/build");
    let mut build = Command::new(script);
    build.args(["--tag", TAG, "--programs"]).arg(programs()).arg("--").args(podman.options());
    let output = build.output().expect("images/build starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    podman
}

/// As the init container does it, and once more over what is there.
fn it_installs_the_plugins(podman: &Podman, place: &Path) {
    let node = place.join("node/opt/cni/bin");
    std::fs::create_dir_all(&node).unwrap();
    let volume = format!("{}:/host/opt/cni/bin", node.display());
    for _ in 0..2 {
        let install = ["/opt/cni/bin/calico", "install", "--binaries-only"];
        podman.run(&["--user=0", "--volume", &volume], &install).unwrap();
    }
    for plugin in ["calico", "calico-ipam", "loopback", "portmap"] {
        assert!(node.join(plugin).is_file(), "{plugin}");
    }
    // One file in the image, and two plugins.
    for plugin in ["calico", "calico-ipam"] {
        let said = Command::new(node.join(plugin)).arg("--version").output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.starts_with(&format!("{plugin} ")), "{plugin}: {said}");
    }
}

/// Labels, and the list of what it is made of.
fn it_says_what_it_is(podman: &Podman, place: &Path) {
    let inspected = podman.call(&["image", "inspect", TAG]).unwrap();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["User"], "65532:65532");
    assert_eq!(inspected[0]["Labels"]["org.opencontainers.image.licenses"], "Apache-2.0");

    let share = place.join("share");
    std::fs::create_dir_all(&share).unwrap();
    podman.call(&["create", "--name", "look", TAG]).unwrap();
    podman.call(&["cp", "look:/usr/share/ocicat/sbom.cdx.json", &share.display().to_string()]).unwrap();
    podman.call(&["rm", "look"]).unwrap();
    let parts: Value = serde_json::from_slice(&std::fs::read(share.join("sbom.cdx.json")).unwrap()).unwrap();
    let names: Vec<&str> =
        parts["components"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    for part in ["felix", "kube-client", "tokio", "iptables", "libc6"] {
        assert!(names.contains(&part), "the list has no {part}");
    }
}

/// User, capabilities, read-only root, seccomp profile, paths of the node and account are those of the manifest.
fn it_is_the_pod_of_a_node(podman: &Podman) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/ocicat.yaml");
    let objects = manifests::documents::parse(&std::fs::read_to_string(manifest).unwrap()).unwrap();
    let environment = &[("OCICAT_LAB_MANIFEST", "shipped")];
    let cluster = Cluster::up("image", &Options { nodes: 1, subnets: 1, environment, ..Options::default() });
    let pod = NodePod::new(&cluster, "n1", &objects);
    let containers = pod.names("containers");
    let environments: Vec<_> = containers.iter().map(|name| pod.environment(&cluster, name)).collect();
    cluster.lab_ok(&["stop", "n1"]);

    let run = |options: &[&str], words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        podman.call(&[&["run"], options, &words].concat()).unwrap()
    };
    for name in pod.names("initContainers") {
        run(&["--rm"], pod.words(&name, TAG, &[]));
    }
    for (name, environment) in containers.iter().zip(&environments) {
        run(&["--detach", "--log-driver=k8s-file", "--name", name], pod.words(name, TAG, environment));
    }
    let logs = Logs(podman, &containers);
    // The session with the router above the node is up: port 179 could be had.
    cluster.well_again("n1");
    cluster.pod("p1", "n1");
    cluster.pod("p2", "n1");
    cluster.pods_ready();
    cluster.expect_probe("default/p2", "default/p1", 80, "allowed");
    cluster.apply(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody}
spec: {podSelector: {matchLabels: {app: p1}}, policyTypes: [Ingress]}
",
    );
    cluster.expect_probe("default/p2", "default/p1", 80, "denied");
    drop(logs);

    // The lab's own processes take over what the containers leave.
    podman.call(&["rm", "--all", "--force", "--time", "5"]).unwrap();
    cluster.lab_ok(&["start", "n1"]);
    cluster.well_again("n1");
    cluster.expect_probe("default/p2", "default/p1", 80, "denied");
}
