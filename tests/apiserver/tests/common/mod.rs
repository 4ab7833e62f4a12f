//! A server on loopback, and `kubectl` with a home of its own.
#![allow(dead_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Handle};
use kube::config::{KubeConfigOptions, Kubeconfig};

pub const DEADLINE: Duration = Duration::from_secs(60);

/// A directory that goes with the test.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("apiserver-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ignored = std::fs::remove_dir_all(&self.0);
    }
}

pub fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

pub async fn client(server: &ApiServer, handle: &Handle) -> kube::Client {
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(&handle.url())).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

/// `kubectl` against one server.
pub struct Kubectl {
    home: TempDir,
}

impl Kubectl {
    pub fn new(kubeconfig: &str) -> Self {
        let home = TempDir::new();
        std::fs::write(home.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { home }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        match self.command(arguments).output() {
            Ok(output) => output,
            Err(error) => {
                panic!("cannot run kubectl ({error}): install the Debian package kubernetes-client")
            }
        }
    }

    /// Standard output of a command that must succeed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments:?} failed\n{out}\n{err}");
        out
    }

    /// Standard error of a command that must fail.
    pub fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "kubectl {arguments:?} succeeded\n{}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Is it new enough (1.25) for strict validation and subresources? Debian 12's own is not: what the test
    /// then leaves out is named.
    pub fn is_recent(&self, left_out: &str) -> bool {
        let minor = self.minor();
        if minor < 25 {
            eprintln!("kubectl 1.{minor} is older than 1.25, not tested: {left_out}");
        }
        minor >= 25
    }

    fn minor(&self) -> u32 {
        let version: serde_json::Value =
            serde_json::from_str(&self.run(&["version", "--client", "-o", "json"])).unwrap();
        let minor = version["clientVersion"]["minor"].as_str().unwrap();
        minor.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    /// Path of a file with a manifest.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Columns of a table as `kubectl` prints it, header first.
pub fn rows(table: &str) -> Vec<Vec<String>> {
    let cells =
        |line: &str| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect();
    table.lines().map(cells).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Polls until `done`, at most until the deadline.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub const POOL_CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ippools.lab.example.org}
spec:
  group: lab.example.org
  scope: Cluster
  names: {plural: ippools, singular: ippool, kind: IPPool, shortNames: [ipp]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: CIDR, type: string, jsonPath: .spec.cidr}
    - {name: IPIP, type: string, jsonPath: .spec.ipipMode, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What the pool is.
            required: [cidr]
            properties:
              cidr:
                type: string
                description: Range of addresses.
                x-kubernetes-validations: [{rule: self == oldSelf, message: cidr is immutable}]
              ipipMode: {type: string, enum: [Never, Always, CrossSubnet], default: Never}
              natOutgoing: {type: boolean}
          status: {type: object, properties: {blocks: {type: integer}}}
"#;

pub const POOL: &str = "
apiVersion: lab.example.org/v1
kind: IPPool
metadata: {name: default-pool}
spec: {cidr: 10.65.0.0/16, ipipMode: CrossSubnet, natOutgoing: true}
";

pub const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p1, labels: {app: a}}
spec: {nodeName: n1, containers: [{name: c, image: b, ports: [{containerPort: 80}]}]}
";
