//! `calico install` with the real binary, into directories of the test's own.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Felix, Node, new_netns};
use serde_json::Value;

/// A directory that goes away with the value.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ocicat-install-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("bin")).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn install(&self, options: &[&str], env: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_calico"))
            .env_clear()
            .envs(env.iter().copied())
            .arg("install")
            .args(["--bin-dir".as_ref(), self.path("bin").as_os_str()])
            .args(["--net-dir".as_ref(), self.path("net.d").as_os_str()])
            .args(options)
            .output()
            .unwrap()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_configuration_waits_for_the_agent_and_outlives_the_container() {
    let root = Root::new("ready");
    succeed(&root.install(&["--binaries-only"], &[]));
    let path = root.path("net.d/10-calico.conflist");
    assert!(!path.exists() && root.path("bin/calico").exists());

    let node = Node { netns: new_netns(), directory: root.path("agent"), felix: None };
    fs::create_dir(&node.directory).unwrap();
    let socket = node.socket();
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_calico"))
        .args(["install", "--when-ready", "--stay", "--felix-socket"])
        .arg(&socket)
        .args(["--bin-dir".as_ref(), root.path("bin").as_os_str()])
        .args(["--net-dir".as_ref(), root.path("net.d").as_os_str()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It says what it waits for.
    let mut said = BufReader::new(waiting.stdout.take().unwrap()).lines();
    let reason = said.next().unwrap().unwrap();
    assert!(reason.contains("does not listen"), "{reason}");
    assert!(!path.exists());

    let felix = Felix::start(&node.netns, &socket);
    assert!(said.any(|line| line.unwrap().starts_with("wrote ")));
    assert!(path.exists());
    // SAFETY: a plain system call; the process is ours and not waited for yet.
    assert_eq!(unsafe { libc::kill(waiting.id() as libc::pid_t, libc::SIGTERM) }, 0);
    assert!(waiting.wait().unwrap().success());
    assert!(path.exists());
    drop(felix);
}

#[test]
fn installs_plugins_and_configuration_and_takes_them_away_again() {
    let root = Root::new("all");
    fs::write(root.path("bin/portmap"), "").unwrap();

    succeed(&root.install(&[], &[]));

    for name in ["bin/calico", "bin/calico-ipam"] {
        assert_eq!(mode(&root.path(name)), 0o755, "{name}");
    }
    let path = root.path("net.d/10-calico.conflist");
    assert_eq!(mode(&path), 0o600);
    let conf: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!((&conf["cniVersion"], &conf["plugins"][1]["type"]), (&"1.0.0".into(), &"portmap".into()));
    assert_eq!(names(&root.path("net.d")), ["10-calico.conflist"]);

    succeed(&root.install(&["--uninstall"], &[]));
    succeed(&root.install(&["--uninstall"], &[]));
    assert_eq!(names(&root.path("bin")), ["portmap"]);
    assert_eq!(names(&root.path("net.d")), [""; 0]);
}

#[test]
fn a_running_plugin_is_replaced_unless_it_is_to_be_kept() {
    let root = Root::new("update");
    // Written in place, a running binary would refuse (ETXTBSY); a rename leaves the old file to its process.
    let old = root.path("bin/calico");
    // By another process: a child of a test beside this one could hold a file that this one writes.
    assert!(Command::new("cp").arg("/bin/sleep").arg(&old).status().unwrap().success());
    let mut running = Command::new(&old).arg("60").spawn().unwrap();

    let kept = root.install(&[], &[("UPDATE_CNI_BINARIES", "false")]);
    let is_kept = fs::read(&old).unwrap() == fs::read("/bin/sleep").unwrap();
    let replaced = root.install(&[], &[]);
    running.kill().unwrap();
    running.wait().unwrap();

    succeed(&kept);
    assert!(is_kept);
    succeed(&replaced);
    assert_eq!(fs::read(&old).unwrap(), fs::read(env!("CARGO_BIN_EXE_calico")).unwrap());
}

#[test]
fn one_directory_that_can_be_written_is_enough() {
    let root = Root::new("dirs");
    let file = root.path("no-directory");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();

    succeed(&root.install(&["--bin-dir", file], &[]));

    let output = Command::new(env!("CARGO_BIN_EXE_calico"))
        .args(["install", "--bin-dir", file, "--net-dir", root.path("other").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(file));
    assert!(!root.path("other").exists(), "without plugins there must be no configuration");
}

#[test]
fn a_bad_template_changes_nothing_and_a_file_goes_before_the_variable() {
    let root = Root::new("template");

    let output = root.install(&[], &[("CNI_NETWORK_CONFIG", "{ not json")]);

    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("CNI_NETWORK_CONFIG"));
    assert_eq!(names(&root.path("bin")), [""; 0]);

    let file = root.path("template.json");
    fs::write(
        &file,
        r#"{"name":"mine","cniVersion":"0.3.1","plugins":[{"type":"calico","mtu":__CNI_MTU__}]}"#,
    )
    .unwrap();
    fs::create_dir(root.path("net.d")).unwrap();
    symlink("/dev/null", root.path("net.d/05-old.conflist")).unwrap();
    let env = [
        ("CNI_NETWORK_CONFIG", "{ not json"),
        ("CNI_NETWORK_CONFIG_FILE", file.to_str().unwrap()),
        ("CNI_CONF_NAME", "07-mine.conflist"),
        ("CNI_OLD_CONF_NAME", "05-old.conflist"),
        ("CNI_MTU", "1333"),
    ];
    succeed(&root.install(&[], &env));
    assert_eq!(names(&root.path("net.d")), ["07-mine.conflist"]);
    assert!(fs::read_to_string(root.path("net.d/07-mine.conflist")).unwrap().contains("1333"));
}

#[track_caller]
fn succeed(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
