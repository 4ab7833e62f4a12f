//! The image: built from this machine's files, and what a node's pod does with it.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::programs;
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

    fn call(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("podman");
        command.args(self.options()).args(arguments).env("CONTAINERS_CONF", self.0.join("containers.conf"));
        let output = command.output().expect("podman starts (Debian package podman)");
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
        let _ = self.call(&["rmi", "--all", "--force"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn image_is_built_and_installs_the_plugins() {
    let place = std::env::temp_dir().join(format!("ocicat-image-{}", std::process::id()));
    let node = place.join("node/opt/cni/bin");
    std::fs::create_dir_all(&node).unwrap();
    let podman = Podman(place.clone());
    let settings = "[containers]\napparmor_profile = \"unconfined\"\n\
                    default_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n[engine]\nevents_logger = \"file\"\n";
    std::fs::write(place.join("containers.conf"), settings).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/build");
    let mut build = Command::new(script);
    build.args(["--tag", TAG, "--programs"]).arg(programs()).arg("--").args(podman.options());
    let output = build.output().expect("images/build starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    for program in ["felix", "bird-lite", "controllers", "ocicat", "route-reflector"] {
        let said = podman.run(&[], &[program, "--version"]).unwrap();
        assert!(said.starts_with(program) || program == "ocicat" && said.contains("ocicat"), "{said}");
    }
    for tool in ["iptables-nft-restore", "iptables-legacy-save", "ip6tables-nft-save"] {
        assert!(podman.run(&[], &[tool, "--version"]).unwrap().contains(" v1."), "{tool}");
    }

    // As the init container does it, and once more over what is there.
    let volume = format!("{}:/host/opt/cni/bin", node.display());
    for _ in 0..2 {
        let install = ["/opt/cni/bin/calico", "install", "--binaries-only"];
        podman.run(&["--user=0", "--volume", &volume], &install).unwrap();
    }
    for plugin in ["calico", "calico-ipam", "loopback", "portmap"] {
        assert!(node.join(plugin).is_file(), "{plugin}");
    }

    let inspected = podman.call(&["image", "inspect", TAG]).unwrap();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["User"], "65532:65532");
    assert_eq!(inspected[0]["Labels"]["org.opencontainers.image.licenses"], "Apache-2.0");

    // What it is made of stands in it.
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
