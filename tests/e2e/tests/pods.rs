//! Pods that the CNI plugin connects to a real agent: what their annotations ask for, and what becomes of them when the
//! disk is full or when API server and agent are away at the same time.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use e2e::{Cluster, Options, programs, within};
use serde_json::{Value, json};

#[test]
fn annotations_give_a_pod_its_mac_and_a_floating_address() {
    let cluster = one_node("annot");
    cluster.apply(
        "apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {floatingIPs: Enabled}
",
    );
    let runtime = Runtime::new(&cluster);
    let prefix = "cni.projectcalico.org";
    runtime.pod(
        "web",
        &format!(", {prefix}/hwAddr: 1a:2b:3c:4d:5e:6f, {prefix}/floatingIPs: '[\"203.0.113.7\"]'"),
    );

    let web = Sandbox::new(&cluster, "web");
    let refused = runtime.call("ADD", &web, "web", &runtime.conf).unwrap_err();
    assert_eq!(refused["code"], 7, "{refused}");
    assert!(refused["msg"].as_str().unwrap().contains("floating"), "{refused}");

    let mut conf = runtime.conf.clone();
    conf["feature_control"] = json!({"floating_ips": true});
    let result = runtime.call("ADD", &web, "web", &conf).unwrap();

    assert_eq!(result["interfaces"][1]["mac"], "1a:2b:3c:4d:5e:6f", "{result}");
    assert!(web.run(&["ip", "link", "show", "eth0"]).contains("1a:2b:3c:4d:5e:6f"));
    let own = address(&result);
    for address in [own.as_str(), "203.0.113.7"] {
        let ping = || cluster.lab(&["exec", "n1", "--", "ping", "-c", "1", "-W", "1", address]).status;
        within(20, &format!("the pod answers at {address}"), ping, |status| status.success());
    }

    runtime.call("DEL", &web, "web", &conf).unwrap();
    let rules = || cluster.exec("n1", &["iptables-save", "-t", "nat"]);
    within(20, "nothing leads to it any more", rules, |text| !text.contains("203.0.113.7"));
}

#[test]
fn a_full_disk_refuses_pods_and_lets_none_of_their_addresses_go() {
    let cluster = one_node("full");
    let runtime = Runtime::new(&cluster);
    let (old, new) = (Sandbox::new(&cluster, "old"), Sandbox::new(&cluster, "new"));
    ["old", "new"].iter().for_each(|name| runtime.pod(name, ""));
    // What the agent keeps about pods is on a disk of its own, and so are the DELs that wait.
    cluster.lab_ok(&["stop", "n1", "felix"]);
    let disks = [Disk::new(&cluster.socket("n1", "felix")), Disk::new(&cluster.socket("n1", "cni-del"))];
    cluster.lab_ok(&["start", "n1", "felix"]);
    let conf = &runtime.conf;
    let connected = within(30, "the agent is back", || runtime.call("ADD", &old, "old", conf), Result::is_ok);
    let held = address(&connected.unwrap());
    let is_held = |addresses: &BTreeSet<String>| addresses.contains(&held);
    within(30, "the block tells who has the address", || runtime.addresses(), is_held);

    disks.iter().for_each(Disk::fill);
    let refused = runtime.call("ADD", &new, "new", conf).unwrap_err();
    assert_eq!(refused["code"], 11, "{refused}");
    assert!(refused.to_string().contains("No space left"), "{refused}");
    let refused = runtime.call("DEL", &old, "old", conf).unwrap_err();
    assert!(refused["code"] == 5 || refused["code"] == 11, "{refused}");
    let links = cluster.exec("n1", &["ip", "-o", "link", "show", "up"]);
    assert!(!links.contains("cali"), "{links}");
    assert!(is_held(&runtime.addresses()), "the address of a pod whose DEL failed is given away");

    disks.iter().for_each(Disk::empty);
    runtime.call("DEL", &new, "new", conf).unwrap();
    runtime.call("DEL", &old, "old", conf).unwrap();
    within(30, "all addresses are released", || runtime.addresses(), BTreeSet::is_empty);
    runtime.call("ADD", &new, "new", conf).unwrap();
    let again = runtime.call("ADD", &new, "new", conf).unwrap();
    runtime.call("CHECK", &new, "new", &with_result(conf, &again)).unwrap();
}

#[test]
fn what_goes_while_api_server_and_agent_are_away_is_released_once() {
    let cluster = one_node("away");
    // However long the rest takes, no address has rested before its end.
    let configured = Command::new(programs().join("ocicat"))
        .args(["ipam", "configure", "--cooldown", "1200"])
        .env("KUBECONFIG", cluster.kubeconfig())
        .status();
    assert!(configured.unwrap().success());
    let runtime = Runtime::new(&cluster);
    let names: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
    names.iter().for_each(|name| runtime.pod(name, ""));
    let sandboxes: Vec<Sandbox> = names.iter().map(|name| Sandbox::new(&cluster, name)).collect();
    let add = |number: usize| runtime.call("ADD", &sandboxes[number], &names[number], &runtime.conf);
    let del = |number: usize| runtime.call("DEL", &sandboxes[number], &names[number], &runtime.conf).unwrap();
    let first: Vec<String> = (0..5).map(|number| address(&add(number).unwrap())).collect();
    let all: BTreeSet<String> = first.iter().cloned().collect();
    within(30, "the blocks show what was given", || runtime.addresses(), |held| *held == all);

    cluster.lab_ok(&["stop", "apiserver"]);
    // One goes by the agent, which can tell nobody. One goes while the agent is dead, one while it starts.
    del(0);
    cluster.lab_ok(&["stop", "n1", "felix"]);
    del(1);
    cluster.lab_ok(&["start", "n1", "felix"]);
    del(2);
    cluster.lab_ok(&["kill", "n1", "felix"]);
    del(2);
    cluster.lab_ok(&["start", "apiserver"]);
    cluster.nodes_ready(1);

    let queue = cluster.socket("n1", "cni-del");
    within(30, "the queue is drained", || files(&queue), Vec::is_empty);
    let live: BTreeSet<String> = first[3..].iter().cloned().collect();
    within(30, "what is gone is released, and nothing else", || runtime.addresses(), |held| *held == live);
    let next = within(30, "a pod is connected", || add(5), Result::is_ok);
    let mut given: Vec<String> = vec![address(&next.unwrap())];
    given.extend((6..8).map(|number| address(&add(number).unwrap())));
    let all: BTreeSet<String> = live.iter().chain(&given).cloned().collect();
    assert_eq!(all.len(), live.len() + given.len(), "{live:?} live on, {given:?} were given");
    assert!(given.iter().all(|address| !first.contains(address)), "{given:?} did not rest");
    within(30, "the blocks agree", || runtime.addresses(), |held| *held == all);
    let ipam = Command::new(programs().join("ocicat"))
        .args(["ipam", "check", "--show-problem-ips"])
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ipam.stdout);
    // Pods whose sandboxes are gone are still there: their objects are not what an address hangs on.
    assert!(!said.contains("not in use"), "{said}");
}

#[test]
fn addresses_of_another_ipam_plugin_are_reached_through_the_tunnels_of_their_nodes() {
    let environment = &[("USE_POD_CIDR", "true")];
    let cluster = Cluster::up("podcidr", &Options { nodes: 2, environment, ..Options::default() });
    let pool = ["patch", "ippool", "default-ipv4-ippool", "--type=merge", "-p"];
    cluster.kubectl_ok(&[&pool[..], &["{\"spec\":{\"vxlanMode\":\"Always\"}}"]].concat());
    let pods = [("a", "n1", "10.65.1.0/24"), ("b", "n2", "10.65.2.0/24")].map(|(name, node, range)| {
        let ranges = json!({"spec": {"podCIDR": range, "podCIDRs": [range]}}).to_string();
        cluster.kubectl_ok(&["patch", "node", node, "-p", &ranges]);
        let mut runtime = Runtime::on(&cluster, node);
        let leases = cluster.socket(node, "leases");
        runtime.conf["ipam"] = json!({"type": "host-local", "subnet": "usePodCidr", "dataDir": leases});
        runtime.pod(name, "");
        (runtime, Sandbox::new(&cluster, name), name)
    });

    let addresses = pods.each_ref().map(|(runtime, sandbox, name)| {
        let added = within(
            60,
            "the pod is connected",
            || runtime.call("ADD", sandbox, name, &runtime.conf),
            Result::is_ok,
        );
        address(&added.unwrap())
    });

    assert!(addresses[0].starts_with("10.65.1.") && addresses[1].starts_with("10.65.2."), "{addresses:?}");
    for ((node, tunnel), to) in
        [("n1", "10.65.1.1"), ("n2", "10.65.2.1")].into_iter().zip(addresses.iter().rev())
    {
        let way = || cluster.exec(node, &["ip", "route", "get", to]);
        within(60, "packets go through the tunnel", way, |way| {
            way.contains("dev vxlan.calico") && way.contains(&format!("src {tunnel}"))
        });
    }
    let (from, to) = (&pods[0].1, addresses[1].as_str());
    let ping =
        || Command::new("ip").args(["netns", "exec", &from.name, "ping", "-c", "1", "-W", "2", to]).output();
    within(60, "one pod reaches the other", ping, |said| {
        said.as_ref().is_ok_and(|said| said.status.success())
    })
    .unwrap();
    let handles = cluster.kubectl_ok(&["get", "ipamhandles", "-o", "name"]);
    assert!(!handles.contains("tunnel"), "a tunnel has an address of a pool: {handles}");
    for (runtime, sandbox, name) in &pods {
        runtime.call("DEL", sandbox, name, &runtime.conf).unwrap();
        let leases = files(&cluster.socket(runtime.node, "leases/k8s-pod-network"));
        let left: Vec<_> = leases.iter().filter(|path| path.to_string_lossy().contains("10.65.")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn one_node(test: &str) -> Cluster {
    Cluster::up(test, &Options { nodes: 1, subnets: 1, tor: "none", ..Options::default() })
}

/// Calls the plugin in the network of a node.
struct Runtime<'a> {
    cluster: &'a Cluster,
    node: &'static str,
    conf: Value,
}

impl<'a> Runtime<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self::on(cluster, "n1")
    }

    fn on(cluster: &'a Cluster, node: &'static str) -> Self {
        let conf = json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico",
            "felix_socket": cluster.socket(node, "felix.sock"), "ipam": {"type": "calico-ipam"},
        });
        Self { cluster, node, conf }
    }

    /// Makes a Pod of the node that the lab's kubelet leaves alone.
    fn pod(&self, name: &str, annotations: &str) {
        self.cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{lab/kubelet: none{annotations}}}}}
spec: {{nodeName: {}, containers: [{{name: main, image: lab/busybox}}]}}
",
            self.node
        ));
    }

    /// What the plugin says: a result, or an error.
    fn call(&self, verb: &str, sandbox: &Sandbox, pod: &str, conf: &Value) -> Result<Value, Value> {
        let netns = format!("--net=/run/netns/{}-{}", self.cluster.name(), self.node);
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}");
        let mut child = Command::new("nsenter")
            .arg(netns)
            .arg(programs().join("calico"))
            .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", &sandbox.id), ("CNI_IFNAME", "eth0")])
            .envs([("CNI_ARGS", args.as_str()), ("CNI_PATH", "/usr/lib/cni")])
            .env("CNI_NETNS", sandbox.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        let Output { status, stdout, .. } = child.wait_with_output().unwrap();
        let said = serde_json::from_slice(&stdout).unwrap_or_default();
        if status.success() { Ok(said) } else { Err(said) }
    }

    /// The addresses that blocks give to containers, without those that rest.
    fn addresses(&self) -> BTreeSet<String> {
        let text = self.cluster.kubectl_ok(&["get", "ipamblocks", "-o", "json"]);
        let blocks: Value = serde_json::from_str(&text).unwrap();
        let mut found = BTreeSet::new();
        for block in blocks["items"].as_array().unwrap() {
            let spec = &block["spec"];
            let base: Ipv4Addr = spec["cidr"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
            for (address, given) in (base.to_bits()..).zip(spec["allocations"].as_array().unwrap()) {
                let Some(index) = given.as_u64().and_then(|index| usize::try_from(index).ok()) else {
                    continue;
                };
                let holder = &spec["attributes"][index];
                let is_containers =
                    holder["handle_id"].as_str().is_some_and(|id| id.starts_with("k8s-pod-network."));
                if is_containers && holder["releasedAt"].is_null() {
                    found.insert(Ipv4Addr::from_bits(address).to_string());
                }
            }
        }
        found
    }
}

/// A network namespace with a name; goes with the value.
struct Sandbox {
    id: String,
    name: String,
}

impl Sandbox {
    fn new(cluster: &Cluster, id: &str) -> Self {
        let name = format!("{}-box-{id}", cluster.name());
        run("ip", &["netns", "add", &name]);
        Self { id: format!("c-{id}"), name }
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    fn run(&self, command: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.name], command].concat())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// A small disk over a directory, with what was in it.
struct Disk(PathBuf);

impl Disk {
    fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=128k", "tmpfs", &directory.to_string_lossy()]);
        Self(directory.to_owned())
    }

    /// Until nothing more goes in.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The pod's address, as ADD's result says it.
fn address(result: &Value) -> String {
    let text = result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("no address: {result}"));
    text.split('/').next().unwrap().to_owned()
}

fn with_result(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}
