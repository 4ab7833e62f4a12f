//! The webhook as somebody with `kubectl` meets it, and the status of policies as nodes make it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Handle, WriteOptions};
use controllers::metrics::Metrics;
use controllers::settings::Decided;
use controllers::webhook::Endpoint;
use controllers::{host_endpoints, leader, policy_status, settings, webhook};
use datastore::Datastore;
use datastore::crd::{NodePolicyEntry, NodePolicyStatusSpec};
use tokio::runtime::Runtime;
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(120);

/// An API server with our kinds, and `kubectl` with a home of its own.
struct Cluster {
    runtime: Runtime,
    /// Listens while it lives.
    _listening: (ApiServer, Handle),
    datastore: Datastore,
    home: PathBuf,
}

impl Cluster {
    fn start(name: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let server = ApiServer::builder().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = runtime.block_on(async { server.serve(vec![listener]).unwrap() });
        let home = std::env::temp_dir().join(format!("controllers-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let kubeconfig = home.join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig(&handle.url())).unwrap();
        let definitions =
            server.api().resource("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
        for definition in datastore::crd::definitions() {
            server.api().create(&definitions, "", definition, &WriteOptions::by("test")).unwrap();
        }
        let datastore = runtime.block_on(Datastore::connect(Some(&kubeconfig))).unwrap();
        Self { runtime, _listening: (server, handle), datastore, home }
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        let command = Command::new("kubectl")
            .args(arguments)
            .env("HOME", &self.home)
            .env("KUBECONFIG", self.home.join("kubeconfig"))
            .output();
        command.expect("kubectl runs: it is in the Debian package kubernetes-client")
    }

    /// Applies YAML; what it says when it is refused.
    fn apply(&self, yaml: &str) -> Result<(), String> {
        said(&self.apply_raw(yaml))
    }

    fn apply_raw(&self, yaml: &str) -> Output {
        let file = self.home.join("object.yaml");
        std::fs::write(&file, yaml).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()])
    }

    /// Starts the webhook, and waits until it is registered.
    fn start_webhook(&self) {
        let (datastore, metrics) = (self.datastore.clone(), Arc::new(Metrics::default()));
        self.runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = Endpoint::Url(format!("https://{}", listener.local_addr().unwrap()));
            let namespace = "kube-system".to_owned();
            let (registered, _) = watch::channel(false);
            tokio::spawn(webhook::run(datastore, namespace, endpoint, listener, metrics, registered));
        });
        let get = ["get", "validatingwebhookconfiguration", webhook::SERVICE];
        eventually("the webhook is registered", || self.kubectl(&get).status.success());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.home);
    }
}

fn said(output: &Output) -> Result<(), String> {
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn kubectl_is_told_what_is_wrong_and_where() {
    let cluster = Cluster::start("refused");
    cluster.start_webhook();
    let refused = [
        // Parentheses are beyond what a pattern of the schema can say.
        (
            "GlobalNetworkPolicy",
            "{ingress: [{action: Allow, source: {selector: \"(role == 'db'\"}}]}",
            "spec.ingress[0].source.selector: expected",
        ),
        ("GlobalNetworkPolicy", "{selector: \"role == 'a' && (b == 'c'\"}", "at position 24"),
        (
            "GlobalNetworkPolicy",
            "{ingress: [{action: Allow, protocol: TCP, destination: {ports: [\"90:80\"]}}]}",
            "spec.ingress[0].destination.ports[0]",
        ),
        (
            "GlobalNetworkPolicy",
            "{ingress: [{action: Deny, source: {nets: [10.0.0.0/8, \"fd00::/8\"]}}]}",
            "IPv4 and IPv6",
        ),
        (
            "StagedGlobalNetworkPolicy",
            "{stagedAction: Delete, ingress: [{action: Deny}]}",
            "stages a deletion",
        ),
        ("Tier", "{order: 5}", "spec.order"),
        ("FelixConfiguration", "{natPortRange: \"9:8\"}", "spec.natPortRange"),
        (
            "HostEndpoint",
            "{node: n1, interfaceName: eth0, ports: [{name: a, protocol: ICMP, port: 1}], expectedIPs: [\":::\"]}",
            "spec.expectedIPs[0]",
        ),
    ];
    for (kind, spec, words) in refused {
        let name = if matches!(kind, "Tier" | "FelixConfiguration") { "default" } else { "x" };
        let error = cluster.apply(&policy(kind, name, spec)).expect_err(spec);
        assert!(error.contains(words) && error.contains("denied the request"), "{kind} {spec}: {error}");
    }
    let sound =
        "{selector: \"role == 'db'\", ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}";
    cluster.apply(&policy("GlobalNetworkPolicy", "x", sound)).unwrap();
    let label = ["label", "globalnetworkpolicies.projectcalico.org", "x", "a=b"];
    said(&cluster.kubectl(&label)).unwrap();
}

#[test]
fn a_pool_that_shares_addresses_or_has_blocks_of_another_size_is_refused() {
    let cluster = Cluster::start("overlap");
    cluster.start_webhook();
    cluster.apply(&policy("IPPool", "old", "{cidr: 10.0.0.0/16}")).unwrap();
    let left = "{cidr: 10.9.0.64/26, allocations: [], attributes: [], unallocated: []}";
    cluster.apply(&policy("IPAMBlock", "10-9-0-64-26", left)).unwrap();

    for (spec, words) in [
        ("{cidr: 10.0.128.0/17}", "spec.cidr: overlaps IPPool old (10.0.0.0/16)"),
        ("{cidr: 10.0.0.0/8, disabled: true}", "spec.cidr: overlaps IPPool old"),
        ("{cidr: 10.9.0.0/16, blockSize: 28}", "spec.blockSize: 28, but block 10.9.0.64/26"),
    ] {
        let error = cluster.apply(&policy("IPPool", "new", spec)).expect_err(spec);
        assert!(error.contains(words), "{spec}: {error}");
    }
    cluster.apply(&policy("IPPool", "apart", "{cidr: 10.1.0.0/16, blockSize: 28}")).unwrap();
    cluster.apply(&policy("IPPool", "same", "{cidr: 10.9.0.0/16}")).unwrap();
    // What is there already can be changed, and a pool can be cut into its parts.
    cluster.apply(&policy("IPPool", "old", "{cidr: 10.0.0.0/16, natOutgoing: true}")).unwrap();
    let parts = ["10.0.0.0/17".parse().unwrap(), "10.0.128.0/17".parse().unwrap()];
    cluster.runtime.block_on(cluster.datastore.replace_pool("old", &parts)).unwrap();
}

#[test]
fn a_tier_stays_while_policies_are_in_it() {
    let cluster = Cluster::start("tiers");
    cluster.start_webhook();
    cluster.apply(&policy("Tier", "platform", "{order: 5}")).unwrap();
    cluster.apply(&policy("Tier", "default", "{}")).unwrap();
    cluster.apply(&policy("GlobalNetworkPolicy", "x", "{tier: platform}")).unwrap();
    let delete = |kind: &str, name: &str| said(&cluster.kubectl(&["delete", kind, name]));

    let error = delete("tiers.projectcalico.org", "platform").unwrap_err();
    assert!(error.contains("tier platform has policies: gnp/x"), "{error}");
    let error = delete("tiers.projectcalico.org", "default").unwrap_err();
    assert!(error.contains("built in"), "{error}");

    delete("globalnetworkpolicies.projectcalico.org", "x").unwrap();
    delete("tiers.projectcalico.org", "platform").unwrap();
}

#[test]
fn a_policy_in_a_tier_that_is_not_there_yet_is_warned_of() {
    let cluster = Cluster::start("no-tier");
    cluster.start_webhook();
    let warning = |name: &str, tier: &str| {
        let spec = format!("{{tier: {tier}}}");
        let output = cluster.apply_raw(&policy("GlobalNetworkPolicy", name, &spec));
        said(&output).unwrap();
        String::from_utf8(output.stderr).unwrap()
    };

    assert!(warning("early", "platform").contains("Warning: spec.tier: there is no Tier platform"));
    cluster.apply(&policy("Tier", "platform", "{order: 5}")).unwrap();
    assert_eq!(warning("late", "platform"), "");
    assert_eq!(warning("built-in", "kube-admin"), "");
}

#[test]
fn an_object_that_makes_no_sense_has_an_event() {
    let cluster = Cluster::start("events");
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n").unwrap();
    // There is no webhook that would refuse them.
    let broken = "{ingress: [{action: Allow, source: {selector: \"(a == 'b'\"}}]}";
    cluster.apply(&policy("NetworkPolicy", "x, namespace: shop", broken)).unwrap();
    let upside_down = "{ingress: [{action: Allow, protocol: TCP, destination: {ports: [\"90:80\"]}}]}";
    cluster.apply(&policy("GlobalNetworkPolicy", "bad", upside_down)).unwrap();
    let (_leading, leads) = watch::channel(true);
    let metrics = Arc::new(Metrics::default());
    cluster.runtime.spawn(policy_status::run(cluster.datastore.clone(), leads.clone(), metrics.clone()));
    let describe = |arguments: &[&str]| {
        let described = cluster.kubectl(&[&["describe"], arguments].concat());
        String::from_utf8(described.stdout).unwrap()
    };
    let of_policy = || describe(&["networkpolicies.projectcalico.org", "x", "-n", "shop"]);
    let of_global = || describe(&["globalnetworkpolicies.projectcalico.org", "bad"]);
    let tells = |text: &str, field: &str| text.contains("NotUnderstood") && text.contains(field);

    eventually("the policy has an Event", || tells(&of_policy(), "spec.ingress[0].source.selector"));
    eventually("the other has one", || tells(&of_global(), "spec.ingress[0].destination.ports[0]"));
    let figure = "ocicat_controllers_not_understood_objects 2";
    eventually("the figure says so", || metrics.scrape().body.contains(figure));

    // Another one leads and says the same: it is counted.
    cluster.runtime.spawn(policy_status::run(cluster.datastore.clone(), leads, metrics));
    let count = || {
        let path = "jsonpath={.items[*].count}";
        String::from_utf8(cluster.kubectl(&["get", "events", "-n", "shop", "-o", path]).stdout).unwrap()
    };
    eventually("the Event is counted", || count().parse().is_ok_and(|count: u32| count >= 2));
}

#[test]
fn without_the_webhook_everything_works_and_a_restart_keeps_its_certificate() {
    let cluster = Cluster::start("restart");
    cluster.start_webhook();
    let bundle = || {
        let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
        let get = ["get", "validatingwebhookconfiguration", webhook::SERVICE, "-o", path];
        String::from_utf8(cluster.kubectl(&get).stdout).unwrap()
    };
    let first = bundle();
    assert!(first.len() > 100, "{first}");
    let gone = "[{\"op\": \"replace\", \"path\": \"/webhooks/0/clientConfig/url\", \"value\": \"https://127.0.0.1:1/\"}]";
    let patch = ["patch", "validatingwebhookconfiguration", webhook::SERVICE, "--type=json", "-p", gone];
    said(&cluster.kubectl(&patch)).unwrap();

    cluster.apply(&policy("GlobalNetworkPolicy", "x", "{selector: \"(a == 'b'\"}")).unwrap();

    cluster.start_webhook();
    eventually("the second webhook is registered", || {
        cluster.apply(&policy("GlobalNetworkPolicy", "y", "{selector: \"(a == 'b'\"}")).is_err()
    });
    assert_eq!(bundle(), first);
}

#[test]
fn nodes_get_host_endpoints_while_somebody_wants_them() {
    let cluster = Cluster::start("hosts");
    let node = |name: &str, zone: &str| {
        let meta = format!("{{name: {name}, labels: {{zone: {zone}}}}}");
        cluster.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {meta}\n")).unwrap();
        let address = format!(
            "{{\"status\": {{\"addresses\": [{{\"type\": \"InternalIP\", \"address\": \"192.0.2.{}\"}}]}}}}",
            &name[1..]
        );
        said(&cluster.kubectl(&[
            "patch",
            "node",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &address,
        ]))
        .unwrap();
    };
    node("n1", "a");
    node("n2", "a");
    // Somebody's own, which looks like one of ours by its name alone.
    let own = "{node: n2, interfaceName: eth0}";
    cluster.apply(&policy("HostEndpoint", "n2-auto-hep", own)).unwrap();
    let (_leading, leads) = watch::channel(true);
    let metrics = Arc::new(Metrics::default());
    let inside = cluster.runtime.enter();
    let settings = settings::watch(&cluster.datastore, Decided::default());
    let status =
        settings::report(cluster.datastore.clone(), leads.clone(), settings.clone(), Decided::default());
    cluster.runtime.spawn(status);
    cluster.runtime.spawn(host_endpoints::run(cluster.datastore.clone(), leads, metrics, settings));
    drop(inside);
    let get = |name: &str, path: &str| {
        let output = format!("jsonpath={{{path}}}");
        let get = ["get", "hostendpoints.projectcalico.org", name, "-o", &output, "--ignore-not-found"];
        String::from_utf8(cluster.kubectl(&get).stdout).unwrap()
    };
    let switch = |word: &str| {
        let spec = format!("{{controllers: {{node: {{hostEndpoint: {{autoCreate: {word}}}}}}}}}");
        cluster.apply(&policy("KubeControllersConfiguration", "default", &spec)).unwrap();
    };

    switch("Enabled");
    let running = || {
        let path = "jsonpath={.status.runningConfig.controllers.node.hostEndpoint.autoCreate}";
        let get = ["get", "kubecontrollersconfigurations.projectcalico.org", "default", "-o", path];
        String::from_utf8(cluster.kubectl(&get).stdout).unwrap()
    };
    eventually("the settings say what is in force", || running() == "Enabled");
    eventually("the node has one", || !get("n1-auto-hep", ".spec.node").is_empty());
    assert_eq!(get("n1-auto-hep", ".spec.interfaceName"), "*");
    assert_eq!(get("n1-auto-hep", ".spec.expectedIPs"), "[\"192.0.2.1\"]");
    assert_eq!(get("n1-auto-hep", ".spec.profiles"), "[\"projectcalico-default-allow\"]");
    node("n1", "b");
    eventually("its labels follow the node's", || get("n1-auto-hep", ".metadata.labels.zone") == "b");
    said(&cluster.kubectl(&["delete", "hostendpoints.projectcalico.org", "n1-auto-hep"])).unwrap();
    eventually("it comes back", || !get("n1-auto-hep", ".spec.node").is_empty());
    node("n3", "a");
    eventually("a new node has one", || !get("n3-auto-hep", ".spec.node").is_empty());
    said(&cluster.kubectl(&["delete", "node", "n3"])).unwrap();
    eventually("it goes with its node", || get("n3-auto-hep", ".spec.node").is_empty());

    switch("Disabled");
    eventually("nobody wants them", || get("n1-auto-hep", ".spec.node").is_empty());
    assert_eq!(get("n2-auto-hep", ".spec.interfaceName"), "eth0");
}

#[test]
fn a_policy_says_when_every_node_that_needs_it_has_it() {
    let cluster = Cluster::start("status");
    for node in ["n1", "n2"] {
        cluster.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n")).unwrap();
    }
    cluster.apply(&policy("GlobalNetworkPolicy", "x", "{selector: \"role == 'db'\"}")).unwrap();
    let (leading, leads) = watch::channel(false);
    let metrics = Arc::new(Metrics::default());
    let election = leader::Election {
        datastore: cluster.datastore.clone(),
        namespace: "kube-system".to_owned(),
        identity: "one".to_owned(),
    };
    let figures = metrics.clone();
    cluster.runtime.spawn(policy_status::run(cluster.datastore.clone(), leads, metrics));
    cluster.runtime.spawn(async move { election.run(&leading, &figures).await });
    let get = |path: &str| {
        let output = format!("jsonpath={{{path}}}");
        let get = ["get", "globalnetworkpolicies.projectcalico.org", "x", "-o", &output];
        String::from_utf8(cluster.kubectl(&get).stdout).unwrap()
    };
    let uid = get(".metadata.uid");
    let report = |node: &str, generation: i64, error: Option<&str>| {
        let entry = NodePolicyEntry { generation, uid: uid.clone(), error: error.map(str::to_owned) };
        let policies = BTreeMap::from([("gnp/x".to_owned(), entry)]);
        let spec = NodePolicyStatusSpec { policies, ..NodePolicyStatusSpec::default() };
        cluster.runtime.block_on(cluster.datastore.write_node_policies(&node.into(), &spec)).unwrap();
    };
    let condition = || get(".status.conditions[0].reason");

    report("n1", 1, None);
    report("n2", 0, Some("no memory"));
    eventually("a node that failed is named", || condition() == "Failed");
    assert!(get(".status.conditions[0].message").contains("n2: no memory"));
    assert_eq!((get(".status.nodes"), get(".status.programmed")), ("2".to_owned(), "1".to_owned()));

    report("n2", 1, None);
    let wait =
        ["wait", "--for=condition=Programmed", "globalnetworkpolicies.projectcalico.org/x", "--timeout=60s"];
    said(&cluster.kubectl(&wait)).unwrap();
    assert_eq!(get(".status.conditions[0].observedGeneration"), "1");

    cluster.apply(&policy("GlobalNetworkPolicy", "x", "{selector: \"role == 'web'\"}")).unwrap();
    eventually("a new generation is pending", || condition() == "Pending");
    said(&cluster.kubectl(&["delete", "node", "n2"])).unwrap();
    report("n1", 2, None);
    eventually("the node that is gone is waited for no more", || condition() == "Programmed");
    eventually("what it said is gone, too", || {
        !cluster.kubectl(&["get", "nodepolicystatuses.projectcalico.org", "n2"]).status.success()
    });
}
