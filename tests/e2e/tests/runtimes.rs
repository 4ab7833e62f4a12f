//! Real container runtimes as clients of the installed CNI plugin, with the real agent and its IPAM.

use std::path::Path;

use e2e::runtime::{Containerd, IMAGE, PodSpec, Podman};
use e2e::{Cluster, Options, within};

#[test]
fn containerd_connects_and_disconnects_pods_as_the_kubelet_asks() {
    if is_missing("containerd", "containerd") || is_missing("runc", "runc") {
        return;
    }
    let cluster = one_node("ctd");
    let mut containerd = Containerd::start(&cluster, "n1");
    let spec = PodSpec { ports: vec![(80, 8080)], ..foreign_pod(&cluster, "web") };

    let sandbox = containerd.cri.run_pod_sandbox(&spec.config()).unwrap();
    let addresses = containerd.cri.addresses(&sandbox).unwrap();
    let container = containerd
        .cri
        .run_container(&sandbox, &spec.config(), IMAGE, &["httpd", "-f", "-p", "80", "-h", "/www"])
        .unwrap();
    let [address] = addresses.as_slice() else { panic!("one address: {addresses:?}") };
    one_holder(&cluster, &sandbox);
    let (status, inside) = containerd.cri.exec(&container, &["ip", "addr", "show", "eth0"]).unwrap();
    assert!(status == 0 && inside.contains(&format!("inet {address}/32")), "{inside}");
    // The pod itself, and the node's port by way of the chained plugin.
    for url in [format!("http://{address}/"), "http://172.20.0.11:8080/".to_owned()] {
        // The container runs; its program takes a moment to listen.
        let get = ["timeout", "10", "busybox", "wget", "-q", "-O", "-", &url];
        within(20, &url, || containerd.try_on_node("busybox", &get), |page| page == "hello\n");
    }

    // A containerd that is killed disturbs no pod, and knows it again.
    let ping = cluster.ping("n1", address);
    containerd.kill_and_restart();
    assert_eq!(containerd.cri.addresses(&sandbox).unwrap(), addresses);
    assert_eq!(ping.stop().expect("ping ran").lost(), 0);

    // A new sandbox of the same pod comes before the old one is removed, as after a sandbox has died.
    containerd.cri.stop_pod_sandbox(&sandbox).unwrap();
    let second = PodSpec { attempt: 1, ..spec.clone() };
    let second = containerd.cri.run_pod_sandbox(&second.config()).unwrap();
    containerd.cri.stop_pod_sandbox(&sandbox).unwrap();
    containerd.cri.remove_pod_sandbox(&sandbox).unwrap();
    containerd.cri.remove_pod_sandbox(&sandbox).unwrap();
    let address = containerd.cri.addresses(&second).unwrap().remove(0);
    containerd.on_node("ping", &["-c", "1", "-w", "60", &address]);
    one_holder(&cluster, &second);
    containerd.cri.stop_pod_sandbox(&second).unwrap();
    containerd.cri.remove_pod_sandbox(&second).unwrap();
    nothing_left(&cluster);
}

#[test]
fn containerd_is_told_why_and_nothing_stays_while_the_agent_is_away() {
    if is_missing("containerd", "containerd") || is_missing("runc", "runc") {
        return;
    }
    let cluster = one_node("ctf");
    let mut containerd = Containerd::start(&cluster, "n1");
    let spec = foreign_pod(&cluster, "web");
    let old = foreign_pod(&cluster, "old");
    let stays = containerd.cri.run_pod_sandbox(&old.config()).unwrap();

    cluster.lab_ok(&["stop", "n1", "felix"]);
    let refused = containerd.cri.run_pod_sandbox(&spec.config()).unwrap_err();
    assert!(refused.contains("is the calico-node pod of this node running?"), "{refused}");
    containerd.cri.stop_pod_sandbox(&stays).unwrap();
    containerd.cri.remove_pod_sandbox(&stays).unwrap();
    let links = cluster.exec("n1", &["ip", "-o", "link", "show", "up"]);
    assert!(!links.contains("cali"), "{links}");

    cluster.lab_ok(&["start", "n1", "felix"]);
    nothing_left(&cluster);
    // The kubelet, too, asks until the agent is there.
    let asked =
        within(20, "the pod is connected", || containerd.cri.run_pod_sandbox(&spec.config()), Result::is_ok);
    one_holder(&cluster, &asked.unwrap());
}

#[test]
fn podman_connects_containers_without_a_cluster_in_mind() {
    if is_missing("podman", "podman") {
        return;
    }
    let cluster = one_node("pod");
    let podman = Podman::new(&cluster, "n1");

    podman.run("one", &[]);
    podman.run("two", &["--ip", "10.65.0.200", "--mac-address", "02:00:5e:00:53:01"]);
    let one = podman.address("one");
    assert_eq!(podman.address("two"), "10.65.0.200");
    let inside = podman.ok(&["exec", "two", "ip", "addr", "show", "eth0"]);
    assert!(inside.contains("02:00:5e:00:53:01") && inside.contains("10.65.0.200/32"), "{inside}");
    for address in [one.as_str(), "10.65.0.200"] {
        podman.on_node("ping", &["-c", "1", "-w", "60", address]);
    }
    within(10, "both hold an address", || holders(&cluster), |held| held.len() == 2);

    podman.ok(&["stop", "--time", "0", "one"]);
    podman.ok(&["rm", "one"]);
    podman.ok(&["rm", "--force", "--time", "0", "two"]);
    nothing_left(&cluster);
}

fn one_node(test: &str) -> Cluster {
    Cluster::up(test, &Options { nodes: 1, subnets: 1, tor: "none", ..Options::default() })
}

/// A pod of node n1 that the lab's kubelet leaves to somebody else.
fn foreign_pod(cluster: &Cluster, name: &str) -> PodSpec {
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{lab/kubelet: none}}}}
spec: {{nodeName: n1, containers: [{{name: main, image: lab/busybox}}]}}
"
    ));
    let uid = cluster.kubectl_ok(&["get", "pod", name, "-o", "jsonpath={.metadata.uid}"]);
    PodSpec { namespace: "default".to_owned(), name: name.to_owned(), uid, ..PodSpec::default() }
}

/// Who holds addresses of pods, by the handles in the cluster's blocks.
fn holders(cluster: &Cluster) -> Vec<String> {
    let held = cluster.allocations().into_iter();
    let handles = held.filter_map(|of| of["handle_id"].as_str().map(str::to_owned));
    let mut handles: Vec<_> = handles.filter(|handle| handle.starts_with("k8s-pod-network.")).collect();
    handles.sort();
    handles
}

/// The block hears of a pod's address a moment after the pod is there.
#[track_caller]
fn one_holder(cluster: &Cluster, sandbox: &str) {
    let held = [format!("k8s-pod-network.{sandbox}")];
    within(10, "this sandbox alone holds an address", || holders(cluster), |found| *found == held);
}

#[track_caller]
fn nothing_left(cluster: &Cluster) {
    within(10, "no address is held", || holders(cluster), Vec::is_empty);
    let links = || cluster.exec("n1", &["ip", "-o", "link"]);
    within(10, "no link of a pod is left", links, |links| !links.contains("cali"));
}

/// Skips a test visibly where its runtime is not installed; `make setup` installs it.
fn is_missing(program: &str, package: &str) -> bool {
    let directories = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
    let is_there = directories.iter().any(|directory| Path::new(directory).join(program).exists());
    if !is_there {
        eprintln!("SKIPPED: no {program}; install the Debian package {package} (make setup)");
    }
    !is_there
}
