//! BGP policy with a router that is not ours: what a filter rejects, what is announced of Services, and passwords
//! out of Secrets.

use std::path::PathBuf;
use std::process::Command;

use e2e::{Cluster, Options, programs, within};

/// The router's network behind it, which it announces.
const WORLD: &str = "198.51.100.0/24";

fn ocicat(cluster: &Cluster, node: &str, arguments: &[&str]) -> String {
    let output = Command::new(programs().join("ocicat"))
        .args(arguments)
        .arg("--socket")
        .arg(cluster.socket(node, "bird-lite.sock"))
        .output()
        .expect("ocicat starts");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Names of the lab's peerings with its router.
fn peerings(cluster: &Cluster) -> Vec<String> {
    let names = cluster.kubectl_ok(&["get", "bgppeers", "-o", "jsonpath={.items[*].metadata.name}"]);
    names.split_whitespace().map(str::to_owned).collect()
}

fn patch_peerings(cluster: &Cluster, patch: &str) {
    for name in peerings(cluster) {
        cluster.kubectl_ok(&["patch", "bgppeer", &name, "--type", "merge", "-p", patch]);
    }
}

fn a_filter_rejects_and_shows_itself(cluster: &Cluster) {
    let routes = || cluster.exec("n1", &["ip", "-4", "route"]);
    within(30, "the router's network is in the kernel", routes, |text| text.contains(WORLD));
    cluster.apply(&format!(
        "apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {{name: no-world}}
spec:
  importV4:
  - {{action: Accept, cidr: 192.0.2.0/24, matchOperator: Equal}}
  - {{action: Reject, cidr: {WORLD}, matchOperator: In}}
"
    ));

    patch_peerings(cluster, r#"{"spec": {"filters": ["no-world"]}}"#);

    within(30, "the router's network is out of the kernel", routes, |text| !text.contains(WORLD));
    let rejected = || ocicat(cluster, "n1", &["bgp", "routes", "--rejected"]);
    within(30, "the rule is shown", rejected, |text| {
        text.contains(WORLD) && text.contains("BGPFilter no-world importV4 rule 2")
    });
    cluster.kubectl_ok(&["delete", "bgpfilter", "no-world"]);
    within(30, "without the filter it is back", routes, |text| text.contains(WORLD));
    let summary = || ocicat(cluster, "n1", &["bgp", "summary"]);
    within(30, "the missing filter is named", summary, |text| {
        text.contains("BGPFilter no-world does not exist")
    });
}

fn a_load_balancer_reaches_the_router(cluster: &Cluster) {
    cluster.apply(
        "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  serviceLoadBalancerIPs: [{cidr: 203.0.113.0/24}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
endpoints:
- {addresses: [10.65.0.1], nodeName: n2, conditions: {ready: true}}
",
    );
    let ingress = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}}"#;
    cluster.kubectl_ok(&[
        "patch",
        "service",
        "web",
        "--subresource",
        "status",
        "--type",
        "merge",
        "-p",
        ingress,
    ]);
    let second = cluster.kubectl_ok(&[
        "get",
        "node",
        "n2",
        "-o",
        "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}",
    ]);
    let routes = || cluster.exec("tor", &["ip", "-4", "route"]);

    within(30, "the address leads to the node with the endpoint", routes, |text| {
        text.contains("203.0.113.0/24")
            && text.lines().any(|line| line.starts_with("203.0.113.5 ") && line.contains(&second))
    });
    let own = cluster.exec("n1", &["ip", "-4", "route"]);
    assert!(!own.contains("203.0.113."), "a node answers for Services itself: {own}");
    cluster.kubectl_ok(&["delete", "service", "web"]);
    within(30, "the address is withdrawn", routes, |text| !text.contains("203.0.113.5 "));
}

/// Sets the password of the router's side.
fn give_router_password(cluster: &Cluster) {
    let dir: PathBuf = ["/run/ocicat-lab", cluster.name(), "tor"].iter().collect();
    let config = dir.join("bird.conf");
    let text = std::fs::read_to_string(&config).expect("the router's configuration");
    let text = text.replace("  passive;\n", "  passive;\n  password \"opensesame\";\n");
    std::fs::write(&config, text).expect("write the router's configuration");
    let socket = dir.join("bird.ctl");
    cluster.exec("tor", &["birdc", "-s", &socket.display().to_string(), "configure"]);
}

fn a_password_comes_from_a_secret(cluster: &Cluster) {
    patch_peerings(
        cluster,
        r#"{"spec": {"password": {"secretKeyRef": {"name": "bgp-secrets", "key": "tor"}}}}"#,
    );
    let summary = || ocicat(cluster, "n1", &["bgp", "summary"]);
    within(30, "the Secret that is missing is named", summary, |text| {
        text.contains("there is no Secret bgp-secrets in namespace kube-system")
    });
    give_router_password(cluster);

    cluster.apply(
        "apiVersion: v1
kind: Secret
metadata: {name: bgp-secrets, namespace: kube-system}
stringData: {tor: opensesame}
",
    );

    let peers = || cluster.bgp_peers("n1");
    within(60, "every session is up", peers, |peers| {
        !peers.is_empty() && peers.values().all(|state| state == "Established")
    });
    let log = cluster.lab_ok(&["logs", "n1", "bird-lite"]);
    assert!(!log.contains("opensesame"), "the password is in the log");
}

/// A node fills the status that names it, and its sessions coming up were told as Events.
fn the_cluster_is_told_of_sessions(cluster: &Cluster) {
    // A speaker with a problem, such as a filter that is missing, is not Ready.
    patch_peerings(cluster, r#"{"spec": {"filters": null}}"#);
    cluster.apply(
        "apiVersion: projectcalico.org/v3
kind: CalicoNodeStatus
metadata: {name: second}
spec: {node: n2, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}
",
    );
    let told = || {
        let path = "jsonpath={.status.agent.birdV4.state} {.status.bgp.peersV4[*].state} {.status.routes.routesV4[*].type}";
        cluster.kubectl_ok(&["get", "caliconodestatus", "second", "-o", path])
    };
    within(60, "the node's own words", told, |text| {
        text.starts_with("Ready ") && text.contains("Established") && text.contains("FIB")
    });
    let events = || {
        let fields = "involvedObject.kind=Node,involvedObject.name=n1";
        let path = "jsonpath={.items[*].source.component}";
        cluster.kubectl_ok(&["get", "events", "--field-selector", fields, "-o", path])
    };
    within(120, "an Event of the speaker", events, |text| text.contains("bird-lite"));
}

/// A pod with BIRD in it peers with its node, and what it announces is reached by the other node.
fn a_pod_peers_with_its_node(cluster: &Cluster) {
    cluster.pod("router", "n1");
    cluster.pods_ready();
    let address = cluster.address("router");
    cluster.apply(
        "apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {defaultEndpointToHostAction: Accept}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {localWorkloadPeeringIPV4: 169.254.0.179}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: routers}
spec: {localWorkloadSelector: app == 'router', asNumber: 65401}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: behind-pods}
spec: {cidr: 10.77.0.0/16, disabled: true}
",
    );
    let dir = std::env::temp_dir().join(format!("bird-in-pod-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("make a directory");
    let config = format!(
        "router id {address}; protocol device {{}} protocol static {{ ipv4; route 10.77.1.0/26 blackhole; }}
         protocol bgp node {{ local {address} as 65401; neighbor 169.254.0.179 as 64512; multihop;
           connect retry time 1; error wait time 1, 2; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}"
    );
    std::fs::write(dir.join("bird.conf"), config).expect("write the configuration");
    let file = |name: &str| dir.join(name).display().to_string();
    let (conf, socket) = (file("bird.conf"), file("bird.ctl"));
    let bird = ["exec", "default/router", "--", "/usr/sbin/bird", "-f", "-c", &conf, "-s", &socket];
    let mut bird = cluster.lab_command(&bird).spawn().expect("BIRD starts");

    let routes = |node: &'static str| move || cluster.exec(node, &["ip", "-4", "route"]);
    within(90, "the way to the pod", routes("n1"), |text| {
        text.lines().any(|l| l.starts_with("10.77.1.0/26") && l.contains(&address) && l.contains("dev cali"))
    });
    within(60, "the way to its node", routes("n2"), |text| text.contains("10.77.1.0/26"));
    bird.kill().expect("BIRD ends");
    let _ = bird.wait();
    cluster.kubectl_ok(&["delete", "bgppeer", "routers"]);
    within(60, "nothing of it is left", routes("n1"), |text| !text.contains("10.77.1.0/26"));
    let links = || cluster.exec("n1", &["ip", "-o", "-4", "addr"]);
    within(30, "the address goes", links, |text| !text.contains("169.254.0.179"));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn filters_services_and_passwords_live() {
    let options = Options { nodes: 2, subnets: 1, ..Options::default() };
    let cluster = Cluster::up("policy", &options);
    cluster.nodes_ready(2);
    a_filter_rejects_and_shows_itself(&cluster);
    a_load_balancer_reaches_the_router(&cluster);
    a_password_comes_from_a_secret(&cluster);
    the_cluster_is_told_of_sessions(&cluster);
    a_pod_peers_with_its_node(&cluster);
}
