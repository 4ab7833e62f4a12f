//! A cluster as Calico leaves it goes over and back, node by node: no packet is lost, no pod changes its address.
//!
//! What Calico would have in the kernel and in the API server is made by hand out of a lab; agents of either kind come and
//! go by the labels of nodes, as DaemonSets would have it. Calico's speaker is BIRD, and BIRD is what runs here, with the
//! configuration that Calico gives it.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Output, Stdio};

use e2e::{Cluster, Options, programs, within};
use serde_json::{Value, json};

const NODES: [&str; 2] = ["n1", "n2"];
const LABEL: &str = "projectcalico.org/network-agent";
/// Kinds of IPAM with Calico's plural and kind, which are its own for one of them.
const KINDS: [(&str, &str, &str); 6] = [
    ("ippools", "ippools", "IPPool"),
    ("ipamblocks", "ipamblocks", "IPAMBlock"),
    ("blockaffinities", "blockaffinities", "BlockAffinity"),
    ("ipamhandles", "ipamhandles", "IPAMHandle"),
    ("ipamconfigurations", "ipamconfigs", "IPAMConfig"),
    ("clusterinformations", "clusterinformations", "ClusterInformation"),
];

#[test]
fn a_cluster_of_calico_moves_in_and_back_without_losing_a_packet() {
    let cluster = Cluster::up("migr", &Options { nodes: 2, subnets: 1, tor: "none", ..Options::default() });
    for (pod, node) in [("p1", "n1"), ("p2", "n2"), ("p3", "n1")] {
        cluster.pod(pod, node);
    }
    cluster.pods_ready();
    cluster.expect_probe("default/p2", "default/p1", 80, "allowed");
    let tunnels = tunnel_addresses(&cluster);
    as_calico_leaves_it(&cluster);
    let mut birds = BTreeMap::new();
    NODES.iter().for_each(|node| _ = birds.insert(*node, Some(Bird::start(&cluster, node))));
    for (from, to) in [("default/p2", "default/p1"), ("default/p1", "default/p2")] {
        cluster.expect_probe(from, to, 80, "allowed");
    }
    let addresses = ["p1", "p2", "p3"].map(|pod| cluster.address(pod));
    let ping = cluster.ping("default/p2", &addresses[0]);

    let plan = said(&ocicat(&cluster, &["migrate", "plan", "-o", "json"]));
    assert_eq!(
        (&plan["blocked"], &plan["source"]),
        (&json!(false), &json!("crd.projectcalico.org/v1")),
        "{plan:#}"
    );
    // What cannot be done is said before anything is written.
    let dry = ocicat(&cluster, &["migrate", "apply", "--dry-run"]);
    assert!(dry.status.success() && objects(&cluster, "ippools.projectcalico.org").is_empty(), "{dry:?}");

    move_nodes(&cluster, "apply", &NODES[..1], &mut birds);
    // Half-way: one mesh of two kinds of agents.
    let verify = || said(&ocicat(&cluster, &["migrate", "verify", "-o", "json"]));
    let arrives = |told: &Value| {
        let what = "packets to pods of n2 (calico)";
        told.as_array().unwrap().iter().any(|of| of["node"] == "n1" && of["what"] == what && of["ok"] == true)
    };
    within(30, "packets get from the one that has moved to the other", verify, arrives);
    cluster.expect_probe("default/p1", "default/p2", 80, "allowed");
    move_nodes(&cluster, "apply", &NODES, &mut birds);

    let listed = objects(&cluster, "ipamblocks.projectcalico.org");
    for (pod, address) in ["p1", "p2", "p3"].iter().zip(&addresses) {
        assert_eq!(cluster.address(pod), *address);
        assert_eq!(holder(&listed, pod).as_deref(), handle_of(&cluster, pod).as_deref(), "{pod}");
    }
    cluster.expect_probe("default/p2", "default/p1", 80, "allowed");
    cluster.expect_probe("default/p1", "default/p3", 80, "denied");
    let rules = || cluster.exec("n1", &["sh", "-c", "iptables-save; ipset list -n"]);
    let is_swept = |text: &String| !text.contains("cali-pi-_gone") && !text.contains("cali40s:gone");
    within(20, "what Calico left and nobody wants is gone", rules, is_swept);
    // A kernel without IPIP is no fault of the move.
    let is_fine = |finding: &Value| finding["ok"] != false || finding["reason"].to_string().contains("tunl0");
    within(30, "all is as it should be", verify, |verified| verified.as_array().unwrap().iter().all(is_fine));
    assert_eq!(tunnel_addresses(&cluster), tunnels);
    let sealed = objects(&cluster, "ipamblocks.crd.projectcalico.org");
    assert!(sealed.iter().all(|block| block["spec"]["unallocated"] == json!([])), "{sealed:?}");

    // DEL of a pod that Calico made, and ADD of ours.
    cluster.kubectl_ok(&["delete", "pod", "p3", "--timeout=180s"]);
    let held = || holder(&objects(&cluster, "ipamblocks.projectcalico.org"), "p3");
    within(20, "the address is released", held, Option::is_none);
    let routes = || cluster.exec("n1", &["ip", "route"]);
    within(20, "the route is gone", routes, |text| !text.contains(&format!("{} dev", addresses[2])));
    cluster.pod("p4", "n1");
    cluster.pods_ready();
    cluster.expect_probe("default/p2", "default/p4", 80, "allowed");

    move_nodes(&cluster, "back", &NODES, &mut birds);

    let tally = ping.stop().expect("ping ran");
    assert_eq!(tally.lost(), 0, "{tally}");
    assert!(tally.sent > 20, "{tally}");
    let listed = objects(&cluster, "ipamblocks.crd.projectcalico.org");
    for (pod, is_there) in [("p1", true), ("p2", true), ("p3", false), ("p4", true)] {
        assert_eq!(holder(&listed, pod).is_some(), is_there, "{pod}: {listed:?}");
    }
    let text = json!(listed).to_string();
    assert!(!text.contains("ocicat-"), "Calico finds nothing that is only ours: {text}");
    let handles = json!(objects(&cluster, "ipamhandles.crd.projectcalico.org")).to_string();
    assert!(handles.contains(&handle_in(&listed, "p4")) && !handles.contains("ocicat-"), "{handles}");
    for (node, address) in &tunnels {
        assert!(handles.contains(&format!("ipip-tunnel-addr-{node}")), "{handles}");
        assert_eq!(tunnel_address(&cluster, node), *address);
    }
}

#[test]
fn vxlan_goes_over_in_place_and_blocks_that_calico_takes_meanwhile_are_known() {
    let cluster = Cluster::up("migrvx", &Options { nodes: 2, subnets: 1, tor: "none", ..Options::default() });
    cluster.kubectl_ok(&[
        "patch",
        "ippool",
        "default-ipv4-ippool",
        "--type=merge",
        "-p",
        "{\"spec\":{\"ipipMode\":\"Never\",\"vxlanMode\":\"Always\"}}",
    ]);
    for (pod, node) in [("p1", "n1"), ("p2", "n2"), ("p3", "n1")] {
        cluster.pod(pod, node);
    }
    cluster.pods_ready();
    let addresses = ["p1", "p2", "p3"].map(|pod| cluster.address(pod));
    for (node, to) in [("n1", &addresses[1]), ("n2", &addresses[0])] {
        let way = || cluster.exec(node, &["ip", "route", "get", to]);
        within(60, "packets go through VXLAN", way, |way| way.contains("dev vxlan.calico"));
    }
    // No speaker is here, and none of those that come is to wait for one.
    cluster.apply(
        "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
",
    );
    as_calico_leaves_it(&cluster);
    // Calico's agents on these nodes; what they wrote stands.
    let mut calicos: Calicos = NODES.into_iter().map(|node| (node, None)).collect();
    cluster.expect_probe("default/p2", "default/p1", 80, "allowed");
    let links = || NODES.map(|node| cluster.exec(node, &["ip", "-o", "link", "show", "vxlan.calico"]));
    let number = |link: &String| link.split(':').next().map(str::to_owned);
    let before = links();
    let ping = cluster.ping("default/p2", &addresses[0]);
    let plan = said(&ocicat(&cluster, &["migrate", "plan", "-o", "json"]));
    assert_eq!(plan["blocked"], false, "{plan:#}");

    move_nodes(&cluster, "apply", &NODES[..1], &mut calicos);
    let block = calico_takes_a_block(&cluster, "n2");
    let copied = ocicat(&cluster, &["migrate", "apply", "--objects"]);
    assert!(copied.status.success(), "{copied:?}");
    let routes = || cluster.exec("n1", &["ip", "route"]);
    within(60, "the new block of n2 is behind its tunnel", routes, |text| {
        text.lines().any(|line| line.starts_with(&block) && line.contains("dev vxlan.calico"))
    });
    cluster.expect_probe("default/p1", "default/p2", 80, "allowed");
    move_nodes(&cluster, "apply", &NODES, &mut calicos);

    let tally = ping.stop().expect("ping ran");
    assert_eq!(tally.lost(), 0, "{tally}");
    assert!(tally.sent > 20, "{tally}");
    assert_eq!(links().each_ref().map(number), before.each_ref().map(number), "links were made anew");
    for (pod, address) in ["p1", "p2", "p3"].iter().zip(&addresses) {
        assert_eq!(cluster.address(pod), *address);
    }
    cluster.expect_probe("default/p2", "default/p1", 80, "allowed");
    cluster.expect_probe("default/p1", "default/p3", 80, "denied");
}

/// What an agent of Calico's does when its blocks are full; returns the block.
fn calico_takes_a_block(cluster: &Cluster, node: &str) -> String {
    let of_node = format!("host:{node}");
    let blocks = objects(cluster, "ipamblocks.crd.projectcalico.org");
    let mut block = blocks.into_iter().find(|block| block["spec"]["affinity"] == *of_node).unwrap();
    let cidr = block["spec"]["cidr"].as_str().unwrap();
    let octets: Vec<&str> = cidr.split('.').collect();
    let cidr = format!("{}.{}.250.0/26", octets[0], octets[1]);
    let name = cidr.replace(['.', '/'], "-");
    block["metadata"] = json!({"name": name});
    block["spec"]["cidr"] = json!(cidr);
    block["spec"]["attributes"] = json!([]);
    block["spec"]["allocations"] = json!(vec![Value::Null; 64]);
    block["spec"]["unallocated"] = json!((0..64).collect::<Vec<u32>>());
    block["spec"]["sequenceNumberForAllocation"] = json!({});
    cluster.apply(&block.to_string());
    let claim = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
        "metadata": {"name": format!("{node}-{name}")},
        "spec": {"cidr": cidr, "node": node, "state": "confirmed", "deleted": "false"},
    });
    cluster.apply(&claim.to_string());
    cidr
}

/// Gives every node an address for `tunl0`, as a pool with IPIP between subnets does; these two need no tunnel.
fn tunnel_addresses(cluster: &Cluster) -> Vec<(&'static str, String)> {
    let patch = ["patch", "ippool", "default-ipv4-ippool", "--type=merge", "-p"];
    cluster.kubectl_ok(&[&patch[..], &["{\"spec\":{\"ipipMode\":\"CrossSubnet\"}}"]].concat());
    let address = |node: &'static str| {
        let what = format!("{node} has an address for its tunnel");
        (node, within(30, &what, || tunnel_address(cluster, node), |address| !address.is_empty()))
    };
    NODES.map(address).into()
}

fn tunnel_address(cluster: &Cluster, node: &str) -> String {
    let path = "jsonpath={.metadata.annotations.projectcalico\\.org/IPv4IPIPTunnelAddr}";
    cluster.kubectl_ok(&["get", "node", node, "-o", path])
}

/// Nodes that are Calico's, with their speakers where there is one.
type Calicos = BTreeMap<&'static str, Option<Bird>>;

/// BIRD on a node, as Calico starts and configures it; it is killed as a container's processes are.
struct Bird(Child);

impl Bird {
    fn start(cluster: &Cluster, node: &str) -> Self {
        let number = |node: &str| node.trim_start_matches('n').parse::<u32>().unwrap();
        let address = |node: &str| format!("172.20.0.{}", 10 + number(node));
        let of_node = format!("host:{node}");
        let blocks = objects(cluster, "ipamblocks.crd.projectcalico.org");
        let blocks: String = blocks
            .iter()
            .filter(|block| block["spec"]["affinity"] == *of_node)
            .map(|block| format!("  route {} blackhole;\n", block["spec"]["cidr"].as_str().unwrap()))
            .collect();
        let own = address(node);
        let peers: String = NODES
            .iter()
            .filter(|peer| **peer != node)
            .map(|peer| {
                let passive = if number(peer) < number(node) { "" } else { "  passive on;\n" };
                format!(
                    "protocol bgp mesh_{peer} from calico {{\n  neighbor {} as 64512;\n{passive}}}\n",
                    address(peer)
                )
            })
            .collect();
        let config = CALICOS_BIRD.replace("OWN", &own).replace("BLOCKS", &blocks) + &peers;
        let (path, control) = (cluster.socket(node, "bird.conf"), cluster.socket(node, "bird.ctl"));
        fs::write(&path, config).unwrap();
        let (path, control) = (path.display().to_string(), control.display().to_string());
        let command = ["exec", node, "--", "/usr/sbin/bird", "-R", "-f", "-c", &path, "-s", &control];
        Self(cluster.lab_command(&command).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What Calico's template says, in BIRD 2's words.
const CALICOS_BIRD: &str = "\
log stderr all;
router id OWN;
filter calico_export { if net.len > 16 && source = RTS_STATIC then accept; reject; }
protocol static blocks {
  ipv4;
BLOCKS}
protocol kernel {
  learn; persist; scan time 2; graceful restart on;
  ipv4 { import none; export where source = RTS_BGP || source = RTS_STATIC; };
}
protocol device { scan time 2; }
protocol direct { ipv4; interface -\"cali*\", \"*\"; }
template bgp calico {
  local OWN as 64512;
  multihop;
  graceful restart on;
  connect delay time 1; connect retry time 2; error wait time 1, 5;
  ipv4 { gateway recursive; import all; export filter calico_export; add paths on; };
}
";

#[test]
fn where_there_is_no_calico_nothing_is_planned() {
    let cluster = Cluster::up("nomigr", &Options { nodes: 1, subnets: 1, tor: "none", ..Options::default() });

    for verb in ["plan", "apply", "back", "verify"] {
        let output = ocicat(&cluster, &["migrate", verb]);

        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(1) && text.contains("there is no Calico here"),
            "{verb}: {output:?}"
        );
    }
}

/// Runs a move of some nodes while agents come and go as labels say, and asserts that it ends well.
#[track_caller]
fn move_nodes(cluster: &Cluster, verb: &str, nodes: &[&'static str], birds: &mut Calicos) {
    let (comes, leaves) = if verb == "apply" { ("ocicat", "calico") } else { ("calico", "ocicat") };
    let shown = format!("jsonpath={{.metadata.labels['{}']}}", LABEL.replace('.', "\\."));
    let of_node = |node: &str| cluster.kubectl_ok(&["get", "node", node, "-o", &shown]);
    let mut arguments = vec!["migrate", verb, "--wait", "900"];
    nodes.iter().for_each(|node| arguments.extend(["--node", node]));
    let still: Vec<&'static str> = nodes.iter().copied().filter(|node| of_node(node) != comes).collect();
    let mut moving = start(cluster, &arguments);
    for node in still {
        let ended = moving.try_wait().unwrap();
        assert!(ended.is_none(), "{verb} ended early: {:?}", moving.wait_with_output());
        // Nobody tells the lab that Calico's nodes would be well.
        let label = || {
            birds.keys().for_each(|node| ready(cluster, "", "node", node));
            of_node(node)
        };
        within(60, &format!("{node} is to be left"), label, |label| label == "moving");
        match comes {
            "ocicat" => drop(birds.remove(node)),
            _ => _ = cluster.lab_ok(&["stop", node]),
        }
        let pod = format!("{leaves}-{node}");
        cluster.kubectl_ok(&["delete", "pod", "-n", "kube-system", &pod, "--grace-period=0", "--force"]);
        within(60, &format!("{node} is another's"), || of_node(node), |label| label == comes);
        if comes == "ocicat" {
            cluster.lab_ok(&["start", node]);
            cluster.well_again(node);
        } else {
            birds.insert(node, Some(Bird::start(cluster, node)));
        }
        agent_pod(cluster, comes, node);
    }
    let ended = || {
        birds.keys().for_each(|node| ready(cluster, "", "node", node));
        moving.try_wait().unwrap()
    };
    within(60, &format!("{verb} ends"), ended, Option::is_some);
    let output = moving.wait_with_output().unwrap();
    assert!(output.status.success(), "{verb}: {output:?}");
}

/// Stops the agents and takes away what Calico would not have left, in the kernel, in files and in the API server.
fn as_calico_leaves_it(cluster: &Cluster) {
    for node in NODES {
        cluster.lab_ok(&["stop", node]);
        let state = cluster.socket(node, "felix");
        fs::remove_dir_all(&state).unwrap();
        fs::create_dir(&state).unwrap();
        cluster.exec(node, &["sh", "-c", FORGET]);
    }
    for (plural, calico_plural, kind) in KINDS {
        let objects = objects(cluster, &format!("{plural}.projectcalico.org"));
        cluster.apply(&definition(calico_plural, kind).to_string());
        within(
            20,
            "the kind is served",
            || cluster.kubectl(&["get", &format!("{calico_plural}.crd.projectcalico.org")]).status.success(),
            |served| *served,
        );
        for object in objects {
            let stored = as_stored(kind, &object);
            if let Some(stored) = stored {
                cluster.apply(&stored.to_string());
            }
        }
        cluster.kubectl_ok(&["delete", &format!("{plural}.projectcalico.org"), "--all"]);
    }
    cluster.apply(&definition("globalnetworkpolicies", "GlobalNetworkPolicy").to_string());
    let envelope =
        json!({"name": "closed", "labels": {"of": "calico"}, "creationTimestamp": null}).to_string();
    let policy = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "default.closed", "annotations": {"projectcalico.org/metadata": envelope}},
        "spec": {"selector": "app == 'p3'", "types": ["Ingress"], "ingress": [{"action": "Deny"}]},
    });
    within(
        20,
        "the policy is stored",
        || cluster.kubectl_with(&["apply", "-f", "-"], &policy.to_string()).status.success(),
        |stored| *stored,
    );
    for (name, container, selector) in
        [("calico-node", "calico-node", json!({})), ("calico-node-ocicat", "felix", json!({LABEL: "ocicat"}))]
    {
        let template = json!({
            "metadata": {"labels": {"k8s-app": "calico-node"}},
            "spec": {"nodeSelector": selector, "containers": [{"name": container, "image": "x"}]},
        });
        let set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"selector": {"matchLabels": {"k8s-app": "calico-node"}}, "template": template},
        });
        cluster.apply(&set.to_string());
    }
    NODES.iter().for_each(|node| agent_pod(cluster, "calico", node));
}

/// No container on links, no entry for neighbours, and things that nobody wants any more.
const FORGET: &str = "
set -e
for link in $(ip -o link show type veth | sed -n 's/^[0-9]*: \\(cali[^@:]*\\).*/\\1/p'); do
  ip link set dev $link alias ''
  ip neigh flush dev $link nud permanent
done
iptables -N cali-pi-_gone
iptables -A cali-pi-_gone -j DROP
ipset create cali40s:gone hash:net
";

fn definition(plural: &str, kind: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let scope = "Cluster";
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.crd.projectcalico.org")},
        "spec": {
            "group": "crd.projectcalico.org", "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

/// An object of ours as Calico would have it; what only ours has is left out.
fn as_stored(kind: &str, object: &Value) -> Option<Value> {
    let mut spec = object["spec"].clone();
    match kind {
        "IPAMBlock" => {
            let is_ours = |attribute: &Value| {
                let handle = attribute["handle_id"].as_str().unwrap_or_default();
                handle.starts_with("ocicat-") || !attribute["releasedAt"].is_null()
            };
            let attributes = spec["attributes"].as_array().unwrap().clone();
            let mut free = spec["unallocated"].as_array().unwrap().clone();
            for (ordinal, entry) in spec["allocations"].as_array_mut().unwrap().iter_mut().enumerate() {
                let index = entry.as_u64().map(|index| usize::try_from(index).unwrap());
                if index.is_some_and(|index| is_ours(&attributes[index])) {
                    *entry = Value::Null;
                    free.push(json!(ordinal));
                }
            }
            spec["unallocated"] = json!(free);
        }
        "IPAMHandle" if spec["handleID"].as_str()?.starts_with("ocicat-") => return None,
        "BlockAffinity" => spec["deleted"] = json!("false"),
        _ => {}
    }
    Some(json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": kind,
        "metadata": {"name": object["metadata"]["name"], "labels": object["metadata"]["labels"]},
        "spec": spec,
    }))
}

/// A pod of an agent that is ready, which no kubelet runs.
fn agent_pod(cluster: &Cluster, agent: &str, node: &str) {
    let container = if agent == "calico" { "calico-node" } else { "felix" };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{agent}-{node}"), "namespace": "kube-system", "labels": {"k8s-app": "calico-node"},
            "annotations": {"lab/kubelet": "none"},
        },
        "spec": {"nodeName": node, "hostNetwork": true, "containers": [{"name": container, "image": "x"}]},
    });
    cluster.apply(&pod.to_string());
    ready(cluster, "kube-system", "pod", &format!("{agent}-{node}"));
}

/// Says that a pod or a node is Ready.
fn ready(cluster: &Cluster, namespace: &str, kind: &str, name: &str) {
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}).to_string();
    let patch = [
        "patch",
        kind,
        name,
        "--namespace",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    cluster.kubectl_ok(&patch);
}

fn objects(cluster: &Cluster, kind: &str) -> Vec<Value> {
    let text = cluster.kubectl_ok(&["get", kind, "-o", "json"]);
    let list: Value = serde_json::from_str(&text).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// The handle of the address that a pod holds.
fn holder(blocks: &[Value], pod: &str) -> Option<String> {
    let of_block = |block: &Value| {
        let entries = block["spec"]["allocations"].as_array()?.iter();
        let indexes = entries.filter_map(|entry| usize::try_from(entry.as_u64()?).ok());
        let mut held = indexes.map(|index| block["spec"]["attributes"][index].clone());
        let of_pod = held.find(|of| of["secondary"]["pod"] == *pod && of["releasedAt"].is_null())?;
        of_pod["handle_id"].as_str().map(str::to_owned)
    };
    blocks.iter().find_map(of_block)
}

fn handle_in(blocks: &[Value], pod: &str) -> String {
    holder(blocks, pod).unwrap()
}

/// As Calico's block had it.
fn handle_of(cluster: &Cluster, pod: &str) -> Option<String> {
    holder(&objects(cluster, "ipamblocks.crd.projectcalico.org"), pod)
}

fn start(cluster: &Cluster, arguments: &[&str]) -> Child {
    Command::new(programs().join("ocicat"))
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ocicat(cluster: &Cluster, arguments: &[&str]) -> Output {
    start(cluster, arguments).wait_with_output().unwrap()
}

#[track_caller]
fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
