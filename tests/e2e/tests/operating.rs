//! What an operator does to a running cluster, or what befalls it: every node's programs are replaced and rolled back,
//! a node is replaced under its name, its address changes, the API server stays away. Packets are counted throughout;
//! `make measure-ops` prints figures for docs/operating.md.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::{Cluster, Options, programs, within};
use ping::RunningPing;
use serde_json::Value;

const DAEMONS: [&str; 2] = ["felix", "bird-lite"];

#[test]
fn programs_of_all_nodes_are_replaced_and_rolled_back_without_a_lost_packet() {
    let versions = Versions::new();
    let directory = versions.directory.to_str().unwrap();
    let environment = [("OCICAT_BIN_DIR", directory)];
    let cluster = with_pods("upgrade", &Options { environment: &environment, ..Options::default() });
    let traffic = Traffic::start(&cluster);

    for version in ["new", "old"] {
        versions.choose(version);
        for node in ["n1", "n2", "n3"] {
            let start = Instant::now();
            cluster.lab_ok(&["stop", node]);
            cluster.lab_ok(&["start", node]);
            cluster.well_again(node);
            for daemon in DAEMONS {
                let running = fs::read_link(format!("/proc/{}/exe", pid(&cluster, node, daemon))).unwrap();
                assert_eq!(running, versions.of(version).join(daemon));
            }
            eprintln!("{node} runs the {version} programs after {:.1} s", start.elapsed().as_secs_f64());
        }
    }

    traffic.nothing_lost("two rounds over three nodes");
}

#[test]
fn the_api_server_stays_away_and_pods_come_and_go_all_the_same() {
    let cluster = with_pods("outage", &Options::default());
    cluster.apply(&bound_pod("known"));
    let uid = cluster.kubectl_ok(&["get", "pod", "known", "-o", "jsonpath={.metadata.uid}"]);
    let sandbox = Sandbox::new(&cluster, "known", &uid);
    let traffic = Traffic::start(&cluster);
    let sessions = sessions(&cluster);
    let seconds = std::env::var("OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);

    cluster.lab_ok(&["stop", "apiserver"]);
    let end = Instant::now() + Duration::from_secs(seconds);
    let start = Instant::now();
    let address = sandbox.call(&cluster, "ADD");
    eprintln!("a pod was connected without the API server in {} ms", start.elapsed().as_millis());
    cluster.expect_probe("default/p2", &address, 80, "refused");
    sandbox.call(&cluster, "DEL");
    let before = pid(&cluster, "n2", "felix");
    cluster.lab_ok(&["kill", "n2", "felix"]);
    within(
        20,
        "felix is another process",
        || pid(&cluster, "n2", "felix"),
        |now| *now != 0 && *now != before,
    );
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    let start = Instant::now();
    cluster.lab_ok(&["start", "apiserver"]);
    cluster.pod("late", "n2");
    cluster.kubectl_ok(&["wait", "--for=condition=Ready", "pod/late", "--timeout=300s"]);
    eprintln!("a pod is Ready {:.1} s after the API server is back", start.elapsed().as_secs_f64());

    cluster.expect_probe("default/p1", "default/late", 80, "allowed");
    let held = || cluster.allocations();
    within(20, "the address of the pod that went is free", held, |held| {
        !held.iter().any(|of| of["secondary"]["pod"] == "known")
    });
    assert_eq!(self::sessions(&cluster), sessions, "a session went down while the API server was away");
    traffic.nothing_lost(&format!("{seconds} s without the API server"));
}

#[test]
fn a_token_that_has_ended_stops_nothing_and_a_new_one_is_used_at_once() {
    let environment = [("OCICAT_LAB_MANIFEST", "shipped")];
    let cluster = with_pods("token", &Options { environment: &environment, ..Options::default() });
    let accounts = Path::new(cluster.kubeconfig()).with_file_name("serviceaccounts");
    let place = accounts.join("calico-node/token");
    let good = fs::read_to_string(&place).unwrap();
    let sessions = sessions(&cluster);
    let traffic = Traffic::start(&cluster);

    // The API server says the same of a token that has ended and of one that it never gave.
    replace_file(&place, "of-an-hour-that-has-passed");
    // Watches that are there already outlive their token: they are broken off.
    cluster.lab_ok(&["kill", "apiserver"]);
    // Agents that start now know nothing but what is in the kernel.
    for daemon in DAEMONS {
        cluster.lab_ok(&["kill", "n2", daemon]);
        let log = || fs::read_to_string(cluster.socket("n2", &format!("{daemon}.log"))).unwrap_or_default();
        within(60, &format!("{daemon} is refused"), log, |text| text.contains("nauthorized"));
    }
    cluster.apply(NO_TCP);
    let start = Instant::now();
    replace_file(&place, &good);
    let probe = || cluster.probe("default/p2", "default/p1", 80);
    within(60, "the policy is in force", probe, |verdict| verdict == "denied");
    eprintln!("a policy is in force {:.1} s after the new token", start.elapsed().as_secs_f64());

    cluster.well_again("n2");
    let others: Vec<String> = sessions.into_iter().filter(|of| is_between_n1_and_n3(of)).collect();
    let now = self::sessions(&cluster);
    assert!(others.iter().all(|session| now.contains(session)), "{others:?} {now:?}");
    traffic.nothing_lost("a token that had ended");
}

/// As [`sessions`] names it.
fn is_between_n1_and_n3(session: &str) -> bool {
    session.starts_with("n1 172.20.1.13 ") || session.starts_with("n3 172.20.0.11 ")
}

/// Whoever reads meanwhile sees the old content or the new one.
fn replace_file(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// Pings go on.
const NO_TCP: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-tcp}
spec: {selector: app == 'p1', types: [Ingress], ingress: [{action: Deny, protocol: TCP}, {action: Allow}]}
";

#[test]
fn a_node_comes_back_under_its_name_with_another_address_and_changes_it_while_it_runs() {
    let environment = [("IP_AUTODETECTION_METHOD", "interface=eth0")];
    let cluster = with_pods("replace", &Options { environment: &environment, ..Options::default() });
    let uid = || cluster.kubectl_ok(&["get", "node", "n3", "-o", "jsonpath={.metadata.uid}"]);
    let before = uid();

    cluster.lab_ok(&["stop", "n3"]);
    cluster.kubectl_ok(&["delete", "node", "n3"]);
    move_to(&cluster, "172.20.1.113");
    let start = Instant::now();
    cluster.apply(NODE);
    cluster.lab_ok(&["start", "n3"]);
    peers_at(&cluster, "172.20.1.113", "172.20.1.13");
    cluster.expect_probe("default/p1", "default/p3", 80, "allowed");
    eprintln!("a replaced node is reached after {:.1} s", start.elapsed().as_secs_f64());
    assert_ne!(uid(), before);

    let start = Instant::now();
    move_to(&cluster, "172.20.1.114");
    peers_at(&cluster, "172.20.1.114", "172.20.1.113");
    cluster.expect_probe("default/p1", "default/p3", 80, "allowed");
    cluster.expect_probe("default/p3", "default/p2", 80, "allowed");
    eprintln!("a node that changed its address is reached after {:.1} s", start.elapsed().as_secs_f64());
}

/// As a kubelet registers it.
const NODE: &str = "apiVersion: v1
kind: Node
metadata:
  name: n3
  labels: {kubernetes.io/hostname: n3, kubernetes.io/os: linux, topology.kubernetes.io/zone: subnet-1}
";

/// A pod on each node, all of them reaching each other.
fn with_pods(test: &str, options: &Options<'_>) -> Cluster {
    let cluster = Cluster::up(test, options);
    for node in 1..=3 {
        cluster.pod(&format!("p{node}"), &format!("n{node}"));
    }
    cluster.pods_ready();
    // Sessions are compared with what they are from now on.
    ["n1", "n2", "n3"].iter().for_each(|node| cluster.well_again(node));
    for (from, to) in PAIRS {
        cluster.expect_probe(&format!("default/{from}"), &format!("default/{to}"), 80, "allowed");
    }
    cluster
}

const PAIRS: [(&str, &str); 6] =
    [("p1", "p2"), ("p1", "p3"), ("p2", "p1"), ("p2", "p3"), ("p3", "p1"), ("p3", "p2")];

/// Gives `n3` another address in its subnet.
fn move_to(cluster: &Cluster, address: &str) {
    let script = format!(
        "ip addr flush dev eth0 scope global && ip addr add {address}/24 dev eth0 && ip route add default via 172.20.1.1"
    );
    cluster.exec("n3", &["sh", "-c", &script]);
}

/// Waits until n1 has a session with one address of n3, and none with the other.
#[track_caller]
fn peers_at(cluster: &Cluster, present: &str, past: &str) {
    within(
        30,
        &format!("n1 peers with {present}"),
        || cluster.bgp_peers("n1"),
        |peers| peers.get(present).is_some_and(|state| state == "Established") && !peers.contains_key(past),
    );
}

/// A pod that the agent on n1 knows and nobody runs.
fn bound_pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{lab/kubelet: none}}}}\n\
         spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}\n"
    )
}

/// The process of a daemon, 0 when there is none.
fn pid(cluster: &Cluster, node: &str, daemon: &str) -> u64 {
    let status: Value = serde_json::from_str(&cluster.lab_ok(&["status", "-o", "json"])).unwrap();
    let find = |list: &Value, name: &str| {
        list.as_array().into_iter().flatten().find(|of| of["name"] == name).cloned().unwrap_or_default()
    };
    find(&find(&status["nodes"], node)["agents"], daemon)["pid"].as_u64().unwrap_or_default()
}

/// Each session of each node, with how many have ended before it.
fn sessions(cluster: &Cluster) -> Vec<String> {
    let mut all = Vec::new();
    for node in ["n1", "n2", "n3"] {
        let output = Command::new(programs().join("ocicat"))
            .args(["bgp", "summary", "-o", "json", "--socket"])
            .arg(cluster.socket(node, "bird-lite.sock"))
            .output()
            .unwrap();
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let peers = summary["peers"].as_array().cloned().unwrap_or_default();
        assert!(!peers.is_empty(), "{node} has no peers");
        let session =
            |peer: &Value| format!("{node} {} {} {}", peer["address"], peer["state"], peer["sessions"]);
        all.extend(peers.iter().map(session));
    }
    all
}

/// A network namespace that stands for a pod whose kubelet knows it already.
struct Sandbox {
    name: String,
    arguments: String,
}

impl Sandbox {
    fn new(cluster: &Cluster, pod: &str, uid: &str) -> Self {
        let name = format!("{}-x-{pod}", cluster.name());
        ip(&["netns", "add", &name]);
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={uid}");
        Self { name, arguments }
    }

    /// Calls the plugin on n1; gives back the pod's address.
    fn call(&self, cluster: &Cluster, verb: &str) -> String {
        let socket = cluster.socket("n1", "felix.sock");
        let conf = serde_json::json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico", "felix_socket": socket,
            "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
        });
        let Self { name, arguments } = self;
        let plugin = programs().join("calico").display().to_string();
        let script = format!(
            "echo '{conf}' | CNI_COMMAND={verb} CNI_CONTAINERID={name} CNI_NETNS=/run/netns/{name} CNI_IFNAME=eth0 \
             CNI_PATH=/usr/lib/cni CNI_ARGS='{arguments}' {plugin}"
        );
        let said = cluster.exec("n1", &["sh", "-c", &script]);
        let result: Value = serde_json::from_str(&said).unwrap_or_default();
        let address = result["ips"][0]["address"].as_str().unwrap_or_default();
        address.split('/').next().unwrap_or_default().to_owned()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status();
    assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking(), "ip {arguments:?}");
}

/// A ping between every ordered pair of pods, 50 packets a second each.
struct Traffic(Vec<(String, RunningPing)>);

impl Traffic {
    fn start(cluster: &Cluster) -> Self {
        let start = |(from, to): (&str, &str)| {
            let (place, address) = (format!("default/{from}"), cluster.address(to));
            (format!("{from} to {to}"), cluster.ping_every("0.02", &place, &address))
        };
        Self(PAIRS.into_iter().map(start).collect())
    }

    #[track_caller]
    fn nothing_lost(self, during: &str) {
        let (mut sent, mut lost) = (0, 0);
        for (way, ping) in self.0 {
            let tally = ping.stop().expect("ping ran");
            assert!(tally.sent > 50, "{way}: the ping did not run: {tally}");
            assert_eq!(tally.lost(), 0, "{way}: {tally}");
            sent += tally.sent;
            lost += tally.lost();
        }
        eprintln!("{during}: {sent} packets sent, {lost} lost");
    }
}

/// Two versions of the daemons in folders of their own, and the folder where the lab finds the chosen one.
struct Versions {
    directory: PathBuf,
}

impl Versions {
    fn new() -> Self {
        let directory = programs().join(format!("versions-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let versions = Self { directory };
        for program in ["calico", "calico-ipam", "controllers", "ocicat"] {
            symlink(programs().join(program), versions.directory.join(program)).unwrap();
        }
        for version in ["old", "new"] {
            fs::create_dir_all(versions.of(version)).unwrap();
            for daemon in DAEMONS {
                fs::copy(programs().join(daemon), versions.of(version).join(daemon)).unwrap();
            }
        }
        versions.choose("old");
        versions
    }

    fn of(&self, version: &str) -> PathBuf {
        fs::canonicalize(&self.directory).unwrap().join(version)
    }

    /// What is started from now on is of this version.
    fn choose(&self, version: &str) {
        for daemon in DAEMONS {
            let (link, next) = (self.directory.join(daemon), self.directory.join(format!("{daemon}.next")));
            replace(&self.of(version).join(daemon), &next, &link);
        }
    }
}

fn replace(target: &Path, next: &Path, link: &Path) {
    symlink(target, next).unwrap();
    fs::rename(next, link).unwrap();
}

impl Drop for Versions {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
