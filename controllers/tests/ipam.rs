//! Addresses of nodes that are gone, against an API server: what goes, what stays, and what it costs.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Handle, Part, PatchKind, WriteOptions};
use controllers::metrics::Metrics;
use controllers::settings::{self, Decided};
use controllers::{host_endpoints, ipam, policy_status};
use datastore::{AssignRequest, Datastore, Interest, IpamClient, Kind};
use model::{AllowedUse, NodeName, Update};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(120);
/// A node that lives answers within it, on a busy machine too.
const GRACE: Duration = Duration::from_secs(5);

struct Cluster {
    runtime: Runtime,
    server: ApiServer,
    _listening: Handle,
    datastore: Datastore,
    /// The API server for whoever is counted.
    counted: Datastore,
    calls: Arc<AtomicUsize>,
}

impl Cluster {
    fn start(name: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let server = ApiServer::builder().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let handle = runtime.block_on(async { server.serve(vec![listener]).unwrap() });
        let (proxy, calls) = counting_proxy(address);
        let connect = |url: &str, kind: &str| {
            let path = std::env::temp_dir().join(format!("controllers-{name}-{kind}-{}", std::process::id()));
            std::fs::write(&path, server.kubeconfig(url)).unwrap();
            let datastore = runtime.block_on(Datastore::connect(Some(&path))).unwrap();
            std::fs::remove_file(&path).unwrap();
            datastore
        };
        let datastore = connect(&handle.url(), "plain");
        let counted = connect(&handle.url().replace(&address.to_string(), &proxy.to_string()), "counted");
        let cluster = Self { runtime, server, _listening: handle, datastore, counted, calls };
        for definition in datastore::crd::definitions() {
            cluster.create("apiextensions.k8s.io/v1", "CustomResourceDefinition", definition);
        }
        let pool = json!({"metadata": {"name": "pods"}, "spec": {"cidr": "10.65.0.0/24", "blockSize": 29}});
        cluster.create("projectcalico.org/v3", "IPPool", pool);
        cluster
    }

    fn create(&self, version: &str, kind: &str, mut object: Value) {
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        let resource = self.server.api().resource(version, kind).unwrap();
        self.server.api().create(&resource, "", object, &WriteOptions::by("test")).unwrap();
    }

    fn node(&self, name: &str) {
        self.create("v1", "Node", json!({"metadata": {"name": name}}));
    }

    fn client(&self, node: &str) -> IpamClient {
        IpamClient::new(&self.datastore, NodeName::from(node))
    }

    fn give(&self, node: &str, handle: &str, attributes: &[(&str, &str)]) -> IpAddr {
        let attributes = [&[("node", node)], attributes].concat();
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request =
            AssignRequest { ipv4: 1, attributes, ..AssignRequest::new(handle, AllowedUse::Workload) };
        self.runtime.block_on(self.client(node).assign(&request)).unwrap()[0]
    }

    /// Owners of blocks, nodes with claims, and handles.
    fn left(&self) -> (Vec<String>, Vec<String>, Vec<String>) {
        let interest = Interest {
            kinds: vec![Kind::IpamBlock, Kind::BlockAffinity],
            ..Interest::felix(NodeName::from("test"))
        };
        let (mut owners, mut claims, mut handles) = (Vec::new(), Vec::new(), Vec::new());
        self.runtime.block_on(async {
            for update in self.datastore.snapshot(interest, DEADLINE).await.unwrap() {
                match update {
                    Update::Block(_, Some(block)) => owners.extend(block.affinity.map(|o| o.to_string())),
                    Update::BlockAffinity(node, _, Some(_)) => claims.push(node.to_string()),
                    _ => {}
                }
            }
            self.datastore.each_handle(|handle| handles.push(handle.id)).await.unwrap();
        });
        owners.sort();
        claims.sort();
        handles.sort();
        (owners, claims, handles)
    }

    /// Starts the collector over the connection that is counted.
    fn collect(&self, metrics: &Arc<Metrics>) -> watch::Sender<bool> {
        let (leading, leads) = watch::channel(true);
        let _inside = self.runtime.enter();
        let settings = settings::watch(&self.counted, Decided { leak_grace_period: Some(GRACE) });
        self.runtime.spawn(ipam::run(self.counted.clone(), leads, metrics.clone(), settings, GRACE));
        leading
    }
}

/// Hands bytes on and counts TLS records of application data among them: at least one a request, and some besides.
fn counting_proxy(target: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { return };
            let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let calls = counted.clone();
            std::thread::spawn(move || {
                let mut records = Records::default();
                pump(client, forth, |bytes| {
                    calls.fetch_add(records.see(bytes), Ordering::Relaxed);
                });
            });
            std::thread::spawn(move || pump(server, back, |_| {}));
        }
    });
    (address, calls)
}

/// Where in a stream of TLS records we are.
#[derive(Default)]
struct Records {
    header: Vec<u8>,
    /// Bytes of the present record that are still to come.
    left: usize,
}

impl Records {
    /// Takes bytes; how many records of application data begin in them?
    fn see(&mut self, bytes: &[u8]) -> usize {
        let mut data = 0;
        for byte in bytes {
            if self.left > 0 {
                self.left -= 1;
                continue;
            }
            self.header.push(*byte);
            if let [kind, _, _, high, low] = self.header[..] {
                data += usize::from(kind == 23);
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.header.clear();
            }
        }
        data
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut buffer = [0; 65536];
    while let Ok(count) = from.read(&mut buffer) {
        see(&buffer[..count]);
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    _ = to.shutdown(std::net::Shutdown::Both);
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn scenarios_89_and_91_a_node_that_is_gone_leaves_nothing_and_one_that_lives_keeps_all() {
    let cluster = Cluster::start("gone");
    // n1 is gone, n2 lives; n3 has no Node object, but its agent lives.
    cluster.node("n2");
    let pod = [("namespace", "default"), ("pod", "web"), ("uid", "u1")];
    for (node, count) in [("n1", 12), ("n2", 1), ("n3", 1)] {
        for number in 0..count {
            cluster.give(node, &format!("net.{node}-{number}"), &pod);
        }
    }
    cluster.give("n1", "ipip-tunnel-addr-n1", &[("type", "ipipTunnelAddress")]);
    cluster.give("n1", "ocicat-reserved-n1", &[("type", "reserved")]);
    let locked = json!({"metadata": {"name": "default"}, "spec": {"datastoreReady": false}});
    cluster.create("projectcalico.org/v3", "ClusterInformation", locked);
    let before = cluster.left();
    assert_eq!(before.2.len(), 16);
    let metrics = Arc::new(Metrics::default());
    let agent = cluster.client("n3");
    cluster.runtime.spawn(async move {
        loop {
            agent.answer().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let leading = cluster.collect(&metrics);

    // Scenario 91: nothing happens, for three times as long as it takes otherwise.
    std::thread::sleep(3 * GRACE);
    assert_eq!(cluster.left(), before);

    let resource = cluster.server.api().resource("projectcalico.org/v3", "ClusterInformation").unwrap();
    cluster.server.api().delete(&resource, "", "default", &Default::default()).unwrap();
    let stays = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    eventually("all of n1 is gone", || cluster.left().2 == stays(&["net.n2-0", "net.n3-0"]));
    eventually("its blocks too", || cluster.left().0 == stays(&["n2", "n3"]));
    eventually("and its claims", || cluster.left().1.iter().all(|node| node != "n1"));
    let reclaimed = "ocicat_controllers_ipam_gc_reclamations_total 14";
    eventually("what was reclaimed is counted", || metrics.scrape().body.contains(reclaimed));

    // With nothing to do, the cluster is asked for nothing but its handles now and then.
    leading.send_replace(false);
    let quiet = Arc::new(Metrics::default());
    let started = cluster.calls.load(Ordering::Relaxed);
    let _leading = cluster.collect(&quiet);
    let calls = || cluster.calls.load(Ordering::Relaxed) - started;
    eventually("the cluster is asked", || calls() > 0);
    let since = Instant::now();
    std::thread::sleep(2 * GRACE);
    // However long this thread waited for its turn.
    let (calls, periods) = (calls(), since.elapsed().as_secs_f64() / GRACE.as_secs_f64());
    assert!(calls as f64 <= 30.0 * periods, "{calls} calls in {periods} periods of grace");
}

#[test]
fn what_nobody_owns_is_deleted_and_a_full_pool_is_warned_of() {
    let cluster = Cluster::start("nobody");
    cluster.node("n1");
    let block = json!({
        "metadata": {"name": "10-65-0-248-29"},
        "spec": {
            "cidr": "10.65.0.248/29", "allocations": vec![Value::Null; 8], "attributes": [],
            "unallocated": [0, 1, 2, 3, 4, 5, 6, 7], "sequenceNumber": 1,
        },
    });
    cluster.create("projectcalico.org/v3", "IPAMBlock", block);
    let handle = json!({
        "metadata": {"name": "net.lost"}, "spec": {"handleID": "net.lost", "block": {"10.65.0.248/29": 1}},
    });
    cluster.create("projectcalico.org/v3", "IPAMHandle", handle);
    let kept =
        json!({"metadata": {"name": "kept"}, "spec": {"reservedCIDRs": ["10.65.0.0/28", "10.65.0.1"]}});
    cluster.create("projectcalico.org/v3", "IPReservation", kept);
    let full = json!({"metadata": {"name": "small"}, "spec": {"cidr": "10.66.0.0/30", "blockSize": 30}});
    cluster.create("projectcalico.org/v3", "IPPool", full);
    let allocations = json!({
        "metadata": {"name": "10-66-0-0-30"},
        "spec": {
            "cidr": "10.66.0.0/30", "affinity": "host:n1", "allocations": [0, 0, 0, 0], "unallocated": [],
            "attributes": [{"handle_id": "net.a", "secondary": {"node": "n1"}}], "sequenceNumber": 1,
        },
    });
    cluster.create("projectcalico.org/v3", "IPAMBlock", allocations);
    let metrics = Arc::new(Metrics::default());

    let _leading = cluster.collect(&metrics);

    eventually("the handle of nothing is gone", || cluster.left().2.is_empty());
    eventually("the block of nobody is gone", || cluster.left().0 == ["n1"]);
    let events = cluster.server.api().resource("v1", "Event").unwrap();
    eventually("an Event warns of the pool", || {
        let list = cluster.server.api().list(&events, &Default::default()).unwrap();
        format!("{:?}", list.objects).contains("PoolNearlyFull")
    });
    let scrape = metrics.scrape().body;
    for line in [
        "ocicat_controllers_ipam_ippool_size{ippool=\"small\"} 4",
        "ocicat_controllers_ipam_allocations_in_use{ippool=\"small\"} 4",
        "ocicat_controllers_ipam_node_allocations_in_use{ippool=\"small\",node=\"n1\"} 4",
        "ocicat_controllers_ipam_ips{ippool=\"small\",state=\"allocated\"} 4",
        "ocicat_controllers_ipam_ips{ippool=\"pods\",state=\"withheld\"} 16",
    ] {
        assert!(scrape.contains(line), "{line} is missing in:\n{scrape}");
    }
}

/// What a thousand nodes that do nothing but live cost the API server, with all controllers at work.
#[test]
fn a_thousand_nodes_that_send_heartbeats_cost_a_constant_number_of_calls() {
    const NODES: usize = 1000;
    let cluster = Cluster::start("thousand");
    for number in 0..NODES {
        cluster.node(&format!("n{number}"));
    }
    let metrics = Arc::new(Metrics::default());
    let (leading, leads) = watch::channel(true);
    let counted = || cluster.counted.clone();
    let inside = cluster.runtime.enter();
    let settings = settings::watch(&counted(), Decided { leak_grace_period: Some(Duration::from_secs(60)) });
    cluster.runtime.spawn(policy_status::run(counted(), leads.clone(), metrics.clone()));
    cluster.runtime.spawn(host_endpoints::run(counted(), leads.clone(), metrics.clone(), settings.clone()));
    cluster.runtime.spawn(ipam::run(counted(), leads, metrics.clone(), settings, Duration::from_secs(60)));
    drop(inside);
    let scraped = |line: &str| metrics.scrape().body.contains(line);
    eventually("everything was listed", || {
        scraped("ocicat_controllers_ipam_ippool_size{ippool=\"pods\"} 256")
    });
    let calls = || cluster.calls.load(Ordering::Relaxed);
    let mut listed = calls();
    eventually("nothing more is asked", || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut listed, calls()) == calls()
    });

    // Lists by pages, watches, looks at the Lease of the datastore now and then, and the settings: none of them by node.
    assert!(listed < NODES / 4, "{listed} records sent at the start");
    let nodes = cluster.server.api().resource("v1", "Node").unwrap();
    for number in 0..NODES {
        let name = format!("n{number}");
        let beat =
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "message": "beat"}]}});
        let patch = (PatchKind::Merge, &beat);
        let by = WriteOptions::by("kubelet");
        cluster.server.api().patch(&nodes, ("", &name), Part::Status, patch, &by).unwrap();
    }
    // What would follow from these would follow at once.
    std::thread::sleep(Duration::from_secs(1));
    // Some are made now and then, and the heartbeats take their time.
    assert!(calls() - listed < NODES / 10, "{} calls after {NODES} heartbeats", calls() - listed);
    drop(leading);
}
