//! Addresses of Services of type LoadBalancer, against an API server.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Handle, Part, PatchKind, WriteOptions};
use controllers::ipam;
use controllers::metrics::Metrics;
use controllers::settings::{self, Decided};
use datastore::Datastore;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(120);

struct Cluster {
    runtime: Runtime,
    server: ApiServer,
    _listening: Handle,
    datastore: Datastore,
    metrics: Arc<Metrics>,
}

impl Cluster {
    /// With a pool for pods; the Service that every cluster has is there.
    fn start(name: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let server = ApiServer::builder().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = runtime.block_on(async { server.serve(vec![listener]).unwrap() });
        let path = std::env::temp_dir().join(format!("load-balancer-{name}-{}", std::process::id()));
        std::fs::write(&path, server.kubeconfig(&handle.url())).unwrap();
        let datastore = runtime.block_on(Datastore::connect(Some(&path))).unwrap();
        std::fs::remove_file(&path).unwrap();
        let cluster = Self { runtime, server, _listening: handle, datastore, metrics: Arc::default() };
        for definition in datastore::crd::definitions() {
            cluster.create("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", definition);
        }
        cluster.pool("pods", json!({"cidr": "10.65.0.0/24"}));
        cluster
    }

    /// Starts the controllers; they stop when what this gives is dropped.
    fn control(&self) -> Control {
        let (leading, leads) = watch::channel(true);
        let _inside = self.runtime.enter();
        let settings = settings::watch(&self.datastore, Decided::default());
        let metrics = self.metrics.clone();
        let task = self.runtime.spawn(ipam::run(
            self.datastore.clone(),
            leads,
            metrics,
            settings,
            Duration::from_secs(60),
        ));
        Control { _leading: leading, task }
    }

    fn create(&self, version: &str, kind: &str, namespace: &str, mut object: Value) {
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        let resource = self.server.api().resource(version, kind).unwrap();
        self.server.api().create(&resource, namespace, object, &WriteOptions::by("test")).unwrap();
    }

    fn pool(&self, name: &str, spec: Value) {
        self.create(V3, "IPPool", "", json!({"metadata": {"name": name}, "spec": spec}));
    }

    fn service(&self, name: &str, mut spec: Value, annotations: Value) {
        spec["ports"] = json!([{"port": 80}]);
        let meta = json!({"name": name, "namespace": "default", "annotations": annotations});
        self.create("v1", "Service", "default", json!({"metadata": meta, "spec": spec}));
    }

    fn change(&self, version: &str, kind: &str, namespace: &str, name: &str, patch: &Value) {
        let resource = self.server.api().resource(version, kind).unwrap();
        let (patch, by) = ((PatchKind::Merge, patch), WriteOptions::by("test"));
        self.server.api().patch(&resource, (namespace, name), Part::Main, patch, &by).unwrap();
    }

    fn delete(&self, version: &str, kind: &str, namespace: &str, name: &str) {
        let resource = self.server.api().resource(version, kind).unwrap();
        self.server.api().delete(&resource, namespace, name, &Default::default()).unwrap();
    }

    /// Addresses in the status of a Service.
    fn shown(&self, name: &str) -> Vec<String> {
        let resource = self.server.api().resource("v1", "Service").unwrap();
        let object = self.server.api().get(&resource, "default", name).unwrap();
        let object = serde_json::to_value(object.value()).unwrap();
        let ingress = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        ingress.iter().filter_map(|entry| entry["ip"].as_str().map(str::to_owned)).collect()
    }

    fn handles(&self) -> usize {
        let mut count = 0;
        self.runtime.block_on(self.datastore.each_handle(|_| count += 1)).unwrap();
        count
    }

    fn events(&self) -> String {
        let resource = self.server.api().resource("v1", "Event").unwrap();
        format!("{:?}", self.server.api().list(&resource, &Default::default()).unwrap().objects)
    }
}

struct Control {
    _leading: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const V3: &str = "projectcalico.org/v3";

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn balancer(more: Value) -> Value {
    let mut spec = json!({"type": "LoadBalancer"});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn lb_pool(cidr: &str) -> Value {
    json!({"cidr": cidr, "blockSize": 29, "allowedUses": ["LoadBalancer"]})
}

#[test]
fn services_get_addresses_of_their_pools_and_give_them_back() {
    let cluster = Cluster::start("life");
    let control = cluster.control();
    cluster.service("plain", balancer(json!({})), json!({}));
    cluster.service("others", balancer(json!({"loadBalancerClass": "example.com/other"})), json!({}));
    cluster.service("ours", balancer(json!({"loadBalancerClass": "calico"})), json!({}));
    let asked = json!({"projectcalico.org/loadBalancerIPs": "[\"198.51.100.9\"]"});
    cluster.service("asked", balancer(json!({})), asked.clone());
    cluster.service("named", balancer(json!({})), json!({"projectcalico.org/ipv4pools": "[\"blue\"]"}));

    cluster.pool("blue", lb_pool("203.0.113.0/28"));
    cluster.pool("lb", lb_pool("198.51.100.0/28"));

    eventually("plain has one", || cluster.shown("plain").len() == 1);
    eventually("ours has one", || cluster.shown("ours").len() == 1);
    eventually("asked has what it asks for", || cluster.shown("asked") == ["198.51.100.9"]);
    eventually("named is from its pool", || {
        cluster.shown("named").first().is_some_and(|ip| ip.starts_with("203.0.113."))
    });
    assert!(cluster.shown("others").is_empty());
    eventually("four hold addresses", || cluster.handles() == 4);

    // Two want one address: the second is told who has it, and gets it when that one goes.
    cluster.service("second", balancer(json!({})), asked);
    eventually("an Event says why", || cluster.events().contains("198.51.100.9 is in use by"));
    cluster.delete("v1", "Service", "default", "asked");
    eventually("the second has it", || cluster.shown("second") == ["198.51.100.9"]);

    // What is no load balancer any more has nothing, in its status or elsewhere.
    cluster.change("v1", "Service", "default", "ours", &json!({"spec": {"type": "ClusterIP"}}));
    eventually("the status is empty", || cluster.shown("ours").is_empty());
    eventually("three hold addresses", || cluster.handles() == 3);
    // While nobody looks one goes, and comes back as another.
    drop(control);
    cluster.delete("v1", "Service", "default", "plain");
    cluster.service("plain", balancer(json!({})), json!({}));
    let _control = cluster.control();
    eventually("the new one has an address", || cluster.shown("plain").len() == 1);
    eventually("the old one has none", || cluster.handles() == 3);

    // A pool that goes takes its addresses with it.
    cluster.delete(V3, "IPPool", "", "lb");
    eventually("plain is from the other pool", || {
        cluster.shown("plain").first().is_some_and(|ip| ip.starts_with("203.0.113."))
    });
    eventually("what nobody has any more is not shown", || cluster.shown("second").is_empty());
}

#[test]
fn only_those_that_ask_get_addresses_when_the_settings_say_so() {
    let cluster = Cluster::start("asking");
    let spec = json!({"controllers": {"loadBalancer": {"assignIPs": "RequestedServicesOnly"}}});
    cluster.create(
        V3,
        "KubeControllersConfiguration",
        "",
        json!({"metadata": {"name": "default"}, "spec": spec}),
    );
    cluster.pool("lb", lb_pool("198.51.100.0/28"));
    cluster.pool("lb6", json!({"cidr": "2001:db8::/120", "blockSize": 124, "allowedUses": ["LoadBalancer"]}));
    cluster.service("plain", balancer(json!({})), json!({}));
    let both = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]});
    cluster.service("both", balancer(both), json!({"projectcalico.org/ipv4pools": "[\"lb\"]"}));
    cluster.service("bad", balancer(json!({})), json!({"projectcalico.org/loadBalancerIPs": "198.51.100.3"}));

    let _control = cluster.control();

    eventually("who asks has one of each family", || cluster.shown("both").len() == 2);
    eventually("an Event says what is wrong", || cluster.events().contains("no JSON list"));
    assert!(cluster.shown("plain").is_empty());
    let all = json!({"spec": {"controllers": {"loadBalancer": {"assignIPs": "AllServices"}}}});
    cluster.change(V3, "KubeControllersConfiguration", "", "default", &all);
    eventually("all have one now", || cluster.shown("plain").len() == 1);
    let addresses = "ocicat_controllers_load_balancer_addresses 3";
    eventually("the figures say so", || cluster.metrics.scrape().body.contains(addresses));
}
