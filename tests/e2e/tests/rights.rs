//! What is shipped is what is needed: every call that the programs make is allowed by their roles, every right is used, and
//! alerts and dashboard ask for figures that the programs have.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use apiserver::{ApiServer, Grant, Handle, grants_of};
use e2e::{Cluster, Options, programs, within};
use serde_json::Value;

/// Rights of a path that no test can walk in seconds, each with what needs it.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "ClusterRole calico-kube-controllers: get events",
        "an object has made no sense for half an hour, or another one is elected meanwhile",
    ),
    ("ClusterRole calico-kube-controllers: patch events", "as get"),
    (
        "ClusterRole calico-kube-controllers: delete ipamblocks.projectcalico.org",
        "a block that rests is deleted when its last address has rested",
    ),
    (
        "ClusterRole calico-node: get kubecontrollersconfigurations.projectcalico.org",
        "an address seems unused, and the node itself does not say for how long it may",
    ),
    ("ClusterRole calico-node: create events", "peers that come and go, at most one round a minute"),
    ("ClusterRole calico-node: get namespaces", "a pod whose namespace the watch has not told of yet"),
    ("ClusterRole calico-node: get nodes", "the node is asked before its watch has told of it"),
    (
        "ClusterRole calico-node: get blockaffinities.projectcalico.org",
        "a claim that another one was quicker with",
    ),
    (
        "Role calico-node-kubeadm: get configmaps kubeadm-config",
        "a pool, where the environment gives no range",
    ),
    (
        "ClusterRole calico-node: get ipamblocks.projectcalico.org",
        "a block that another one was quicker with",
    ),
    (
        "ClusterRole calico-node: get ipamconfigurations.projectcalico.org",
        "addresses are asked for before the watch has told of settings",
    ),
    (
        "ClusterRole calico-kube-controllers: delete nodepolicystatuses.projectcalico.org",
        "what a node said that is gone, by the one who is elected next",
    ),
];

/// Rights of typha of which it makes use when a client asks it to, each with who does.
const ASKED_BY_CLIENTS: &[(&str, &str)] = &[
    ("ClusterRole calico-typha: list services", "bird-lite, once a BGPConfiguration announces Services"),
    ("ClusterRole calico-typha: watch services", "bird-lite, once a BGPConfiguration announces Services"),
    ("ClusterRole calico-typha: watch endpointslices.discovery.k8s.io", "felix, once a rule names a Service"),
];

/// Rights of people that a pod must run for, or another kubectl, each with its use.
const OF_RUNNING_PODS: &[(&str, &str)] = &[
    ("Role ocicat-ask: get pods/log", "diags, when the pod could be asked"),
    ("Role ocicat-ask: get pods/exec", "kubectl from 1.30 on; older ones create"),
];

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests")
}

/// Everything that the roles of a manifest allow.
fn allowed(manifest: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(manifests().join(manifest)).unwrap();
    let objects = manifests::documents::parse(&text).unwrap();
    let is_role = |object: &&Value| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole"));
    objects.iter().filter(is_role).flat_map(grants_of).map(|grant| grant.to_string()).collect()
}

/// What programs were allowed and refused so far, as the API server noted it.
fn audit(text: &str) -> (BTreeSet<String>, Vec<Value>) {
    let audit: Value = serde_json::from_str(text).unwrap();
    let used = audit["used"].as_array().unwrap().iter().map(|grant| {
        let text = |name: &str| grant[name].as_str().unwrap().to_owned();
        let (role, group, resource) = (text("role"), text("group"), text("resource"));
        Grant { role, group, resource, verb: text("verb"), name: text("name") }.to_string()
    });
    (used.collect(), audit["refused"].as_array().unwrap().clone())
}

/// Objects that make the programs do what they do on a cluster in months.
const OBJECTS: &str = "apiVersion: projectcalico.org/v3
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {hostEndpoint: {autoCreate: Enabled}}}}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceClusterIPs: [{cidr: 10.96.0.0/12}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: with-password}
spec: {peerIP: 172.20.0.99, asNumber: 64999, password: {secretKeyRef: {name: bgp-secrets, key: tor}}}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: for-a-while}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: open}
spec: {selector: app == 'p1', ingress: [{action: Allow}], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: open, namespace: default}
spec: {selector: app == 'p1', ingress: [{action: Allow}], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: CalicoNodeStatus
metadata: {name: n1}
spec: {node: n1, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: outside}
spec: {cidr: 198.51.100.0/24, allowedUses: [LoadBalancer]}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: more}
spec: {cidr: 10.99.0.0/24, assignmentMode: Manual}
---
apiVersion: v1
kind: Pod
metadata: {name: p3, annotations: {cni.projectcalico.org/ipv4pools: '[\"more\"]'}}
spec: {nodeName: n1, containers: [{name: main, image: lab/responder}]}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: outside-v6}
spec: {cidr: 2001:db8:51::/112, blockSize: 122, allowedUses: [LoadBalancer]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  loadBalancerClass: calico
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {app: p1}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: greedy, annotations: {projectcalico.org/loadBalancerIPs: '[\"203.0.113.1\"]'}}
spec: {type: LoadBalancer, loadBalancerClass: calico, selector: {app: p1}, ports: [{port: 80}]}
";

/// Deletes all files of a directory; how many there were.
fn empty(directory: &Path) -> usize {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).map(|path| std::fs::remove_file(path).unwrap()).count()
}

/// Makes the programs do what they do on a cluster in months.
fn live(cluster: &Cluster) {
    cluster.controllers_ready();
    let secret = ["create", "secret", "generic", "bgp-secrets", "-n", "kube-system", "--from-literal=tor=x"];
    cluster.kubectl_ok(&secret);
    let mut ipam = Command::new(programs().join("ocicat"));
    ipam.args(["ipam", "configure", "--cooldown", "2"]).env("KUBECONFIG", cluster.kubeconfig());
    assert!(ipam.status().expect("ocicat starts").success());
    cluster.apply(OBJECTS);
    cluster.pod("p1", "n1");
    cluster.pod("p2", "n2");
    cluster.pods_ready();
    let there = |what: &str, arguments: &[&str]| {
        let said = || String::from_utf8_lossy(&cluster.kubectl(arguments).stdout).trim().to_owned();
        within(60, what, said, |said| !said.is_empty());
    };
    let field = |kind, name, path| ["get", kind, name, "-o", path];
    there(
        "a Service has its addresses",
        &field("service", "web", "jsonpath={.status.loadBalancer.ingress[1].ip}"),
    );
    there("n1 has its host endpoint", &field("hostendpoints.projectcalico.org", "n1-auto-hep", "name"));
    there("n2 told its policies", &field("nodepolicystatuses.projectcalico.org", "n2", "name"));
    let settings = "kubecontrollersconfigurations.projectcalico.org";
    there("settings are in force", &field(settings, "default", "jsonpath={.status.runningConfig}"));
    cluster.kubectl_ok(&["delete", "service", "web"]);
    cluster.kubectl_ok(&["delete", "tiers.projectcalico.org", "for-a-while"]);
    cluster.kubectl_ok(&["label", "node", "n1", "changed=yes"]);
    there(
        "the host endpoint follows its node",
        &["get", "hostendpoints.projectcalico.org", "-l", "changed=yes", "-o", "name"],
    );
    // Its block is one too many.
    cluster.kubectl_ok(&["delete", "pod", "p3", "--grace-period=0", "--force"]);
    // What an agent of another version left, and what it makes where nothing is.
    let information = "clusterinformations.projectcalico.org";
    cluster.kubectl_ok(&[
        "patch",
        information,
        "default",
        "--type=merge",
        "-p",
        "{\"spec\":{\"clusterType\":\"old\"}}",
    ]);
    cluster.lab_ok(&["kill", "n1", "felix"]);
    there(
        "the cluster's type is put right",
        &[
            "get",
            information,
            "--field-selector=metadata.name=default",
            "-o",
            "jsonpath={.items[?(@.spec.clusterType!=\"old\")].metadata.name}",
        ],
    );
    cluster.lab_ok(&["kill", "n1", "bird-lite"]);
    cluster.lab_ok(&["kill", "controllers"]);
    cluster.lab_ok(&["node", "remove", "n2"]);
    cluster.kubectl_ok(&["delete", settings, "default"]);
    cluster.lab_ok(&["stop", "n1", "felix"]);
    // A pod that goes unseen leaves its addresses to be taken back.
    cluster.kubectl_ok(&["delete", "pod", "p1", "--grace-period=0", "--force"]);
    within(60, "the DEL is queued", || empty(&cluster.socket("n1", "cni-del")), |count| *count > 0);
    empty(&cluster.socket("n1", "felix").join("endpoints"));
    cluster.kubectl_ok(&["delete", "ippools.projectcalico.org", "--all"]);
    cluster.kubectl_ok(&["delete", information, "default"]);
    cluster.lab_ok(&["start", "n1", "felix"]);
}

#[test]
fn programs_need_all_their_rights_and_no_others() {
    let options = Options {
        nodes: 2,
        subnets: 1,
        family: "46",
        environment: &[
            ("OCICAT_LAB_MANIFEST", "shipped"),
            ("OCICAT_LEAK_GRACE", "5"),
            ("OCICAT_NODE_GRACE", "5"),
        ],
        ..Options::default()
    };
    let cluster = Cluster::up("rights", &options);
    live(&cluster);
    let shipped = allowed("ocicat.yaml");
    let audit = || audit(&cluster.kubectl_ok(&["get", "--raw", "/audit"]));
    let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|(grant, _)| (*grant).to_owned()).collect();
    let stale: Vec<_> = elsewhere.difference(&shipped).collect();
    assert!(stale.is_empty(), "no role has these any more: {stale:#?}");

    let unused = || {
        let (used, _) = audit();
        shipped.difference(&used).filter(|grant| !elsewhere.contains(*grant)).cloned().collect::<Vec<_>>()
    };
    within(90, "every right is used", unused, Vec::is_empty);
    let (_, refused) = audit();
    assert!(refused.is_empty(), "the roles lack: {refused:#?}");
}

/// An API server with what is shipped in it, and a directory, both for one test.
struct Server {
    directory: PathBuf,
    server: ApiServer,
    handle: Handle,
    /// Ends with this.
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("ocicat-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = ApiServer::builder().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = runtime.block_on(async { server.serve(vec![listener]).unwrap() });
        std::fs::write(directory.join("admin"), server.kubeconfig(&handle.url())).unwrap();
        let started = Self { directory, server, handle, _runtime: runtime };
        for manifest in
            ["ocicat.yaml", "rendered/typha.yaml", "rendered/route-reflector.yaml", "cli/roles.yaml"]
        {
            started.kubectl(&["apply", "-f", &manifests().join(manifest).display().to_string()]);
        }
        for kind in ["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"] {
            started.apply(&policy_kind(kind));
        }
        started
    }

    fn apply(&self, yaml: &str) {
        let path = self.directory.join("applied.yaml");
        std::fs::write(&path, yaml).unwrap();
        self.kubectl(&["apply", "-f", &path.display().to_string()]);
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("kubectl");
        let config = self.directory.join("admin");
        let output = command.args(arguments).env("KUBECONFIG", config).env("HOME", &self.directory).output();
        let output = output.expect("kubectl starts (Debian package kubernetes-client)");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}{said}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// A kubeconfig for an account of kube-system.
    fn kubeconfig(&self, account: &str) -> PathBuf {
        let lifetime = std::time::Duration::from_secs(3600);
        let token = self.server.service_account_token("kube-system", account, lifetime).unwrap();
        let mut config =
            manifests::documents::parse(&self.server.kubeconfig(&self.handle.url())).unwrap().remove(0);
        config["users"][0]["user"] = serde_json::json!({ "token": token.token });
        let path = self.directory.join(account);
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Waits until every right of these is used, and holds that nothing was refused.
    #[track_caller]
    fn uses_all(&self, wanted: &BTreeSet<String>) {
        let audit = || audit(&self.kubectl(&["get", "--raw", "/audit"]));
        let unused = || wanted.difference(&audit().0).cloned().collect::<Vec<_>>();
        within(60, "every right is used", unused, Vec::is_empty);
        let (_, refused) = audit();
        assert!(refused.is_empty(), "the roles lack: {refused:#?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A kind of the policy working group, which not every cluster has, as its definition.
fn policy_kind(kind: &str) -> String {
    let (singular, version) =
        (kind.to_lowercase(), if kind.starts_with('C') { "v1alpha2" } else { "v1alpha1" });
    let plural = singular.replace("policy", "policies");
    let schema = "{openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}";
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.policy.networking.k8s.io}}
spec:
  group: policy.networking.k8s.io
  names: {{kind: {kind}, plural: {plural}, singular: {singular}}}
  scope: Cluster
  versions: [{{name: {version}, served: true, storage: true, schema: {schema}}}]
"
    )
}

/// A program of the build that ends with the test.
struct Running(Child);

impl Running {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(programs().join(program));
        Self(
            command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it was built"),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of what a manifest allows, what one role does.
fn of_role(manifest: &str, role: &str) -> BTreeSet<String> {
    let all = allowed(manifest).into_iter();
    let of_role: BTreeSet<String> = all.filter(|grant| grant.starts_with(&format!("{role}: "))).collect();
    assert!(!of_role.is_empty(), "{manifest} has no {role}");
    of_role
}

#[test]
fn typha_and_reflector_need_all_their_rights_and_no_others() {
    let server = Server::start("rights-watchers");
    let typha = server.kubeconfig("calico-typha").display().to_string();
    let reflector = server.kubeconfig("route-reflector").display().to_string();
    let config = server.directory.join("rr.yaml").display().to_string();
    let text = format!(
        "routerId: 127.0.0.1\nasNumber: 64512\nlisten: ['127.0.0.1:0']\nkubernetes: {{kubeconfig: {reflector}}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let socket = server.directory.join("rr.sock").display().to_string();

    let _typha = Running::start(
        "typha",
        &["--kubeconfig", &typha, "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"],
    );
    let _reflector = Running::start("route-reflector", &["--config", &config, "--socket", &socket]);

    let mut wanted = of_role("rendered/typha.yaml", "ClusterRole calico-typha");
    wanted.extend(of_role("rendered/route-reflector.yaml", "ClusterRole route-reflector"));
    for (grant, _) in ASKED_BY_CLIENTS {
        assert!(wanted.remove(*grant), "no role has this any more: {grant}");
    }
    server.uses_all(&wanted);
}

/// Somebody with both roles, and a pod that no kubelet runs but that can be asked for.
const VIEWER: &str = "apiVersion: v1
kind: ServiceAccount
metadata: {name: viewer, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: viewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ocicat-view}
subjects: [{kind: ServiceAccount, name: viewer, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewer, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: ocicat-ask}
subjects: [{kind: ServiceAccount, name: viewer, namespace: kube-system}]
---
apiVersion: v1
kind: Pod
metadata: {name: calico-node-x, namespace: kube-system, labels: {k8s-app: calico-node}}
spec: {nodeName: n1, containers: [{name: felix, image: x}, {name: bird-lite, image: x}]}
";

#[test]
fn who_looks_with_ocicat_needs_all_rights_of_the_role_and_no_others() {
    let server = Server::start("rights-people");
    server.apply(VIEWER);
    let config = server.kubeconfig("viewer");
    let bundle = server.directory.join("bundle.tar.gz").display().to_string();

    let ocicat = |arguments: &[&str]| -> Output {
        let mut command = Command::new(programs().join("ocicat"));
        command.args(arguments).env("KUBECONFIG", &config).env("HOME", &server.directory);
        command.stdin(Stdio::null()).output().expect("it was built")
    };
    for question in [
        &["status"][..],
        &["ipam", "show"],
        &["ipam", "check"],
        &["explain", "--from", "192.0.2.1", "--to", "192.0.2.2", "--port", "80"],
        &["bgp", "summary"],
        &["diags", "--output", &bundle],
    ] {
        let said = ocicat(question);
        let errors = String::from_utf8_lossy(&said.stderr);
        assert_ne!(said.status.code(), Some(2), "{question:?}: {errors}");
        assert!(!errors.contains("forbidden"), "{question:?}: {errors}");
    }

    // Which of the watches begin before the last list has come differs.
    let mut wanted = of_role("cli/roles.yaml", "ClusterRole ocicat-view");
    wanted.retain(|grant| !grant.contains(": watch "));
    wanted.extend(of_role("cli/roles.yaml", "Role ocicat-ask"));
    for (grant, _) in OF_RUNNING_PODS {
        assert!(wanted.remove(*grant), "no role has this any more: {grant}");
    }
    server.uses_all(&wanted);
}

/// Names of figures in a text, as the programs register them.
fn figures(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_ours = |word: &&str| OF_PROGRAMS.iter().any(|begin| word.starts_with(begin));
    let bare = words.filter(is_ours).map(|word| {
        let end = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
        end.unwrap_or(word).to_owned()
    });
    bare.collect()
}

const OF_PROGRAMS: [&str; 4] = ["felix_", "bgp_", "typha_", "ocicat_controllers_"];

#[test]
fn alerts_and_dashboard_ask_for_figures_that_there_are() {
    // Written out of what the programs register, which another test holds.
    let reference = manifests().join("../docs/reference/metrics.md");
    let reference = figures(&std::fs::read_to_string(reference).unwrap());
    let mut asked = BTreeSet::new();
    for file in ["alerts.yaml", "dashboard.yaml"] {
        asked.extend(figures(
            &std::fs::read_to_string(manifests().join("components/monitoring").join(file)).unwrap(),
        ));
    }

    for begin in OF_PROGRAMS {
        assert!(asked.iter().any(|name| name.starts_with(begin)), "nothing asks for {begin}*: {asked:?}");
    }
    let missing: Vec<_> = asked.difference(&reference).collect();
    assert!(missing.is_empty(), "no program has these figures: {missing:?}");
}
