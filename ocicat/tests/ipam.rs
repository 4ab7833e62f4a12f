//! `ocicat ipam` against an API server: what is shown, what is found wrong, and what is mended.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};

use apiserver::{ApiServer, Handle, WriteOptions};
use datastore::{AssignRequest, Datastore, IpamClient};
use model::{AllowedUse, NodeName};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Pool 10.65.0.0/28 of blocks of four, and a node `n1`.
struct Cluster {
    runtime: Runtime,
    server: ApiServer,
    _listening: Handle,
    kubeconfig: PathBuf,
    datastore: Datastore,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

impl Cluster {
    fn start(test: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let server = ApiServer::builder().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = runtime.block_on(async { server.serve(vec![listener]).unwrap() });
        let kubeconfig = std::env::temp_dir().join(format!("ocicat-ipam-{test}-{}", std::process::id()));
        std::fs::write(&kubeconfig, server.kubeconfig(&handle.url())).unwrap();
        let datastore = runtime.block_on(Datastore::connect(Some(&kubeconfig))).unwrap();
        let cluster = Self { runtime, server, _listening: handle, kubeconfig, datastore };
        for definition in datastore::crd::definitions() {
            cluster.create("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", definition);
        }
        let pool = json!({"cidr": "10.65.0.0/28", "blockSize": 30});
        cluster.create(V3, "IPPool", "", json!({"metadata": {"name": "pods"}, "spec": pool}));
        cluster.create("v1", "Node", "", json!({"metadata": {"name": "n1"}}));
        cluster
    }

    fn create(&self, version: &str, kind: &str, namespace: &str, mut object: Value) {
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        let resource = self.server.api().resource(version, kind).unwrap();
        self.server.api().create(&resource, namespace, object, &WriteOptions::by("test")).unwrap();
    }

    /// Gives an address to a pod of a node, whether they exist or not.
    fn give(&self, node: &str, pod: &str) -> IpAddr {
        let attributes = [("node", node), ("namespace", "default"), ("pod", pod)];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let handle = format!("net.{pod}");
        let request =
            AssignRequest { ipv4: 1, attributes, ..AssignRequest::new(handle, AllowedUse::Workload) };
        let client = IpamClient::new(&self.datastore, NodeName::from(node));
        self.runtime.block_on(client.assign(&request)).unwrap()[0]
    }

    fn ocicat(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocicat"));
        let Output { status, stdout, stderr } =
            command.arg("ipam").args(arguments).env("KUBECONFIG", &self.kubeconfig).output().unwrap();
        let said = String::from_utf8(stdout).unwrap();
        assert!(status.code().is_some_and(|code| code < 2), "{said}{}", String::from_utf8_lossy(&stderr));
        (status.code(), said)
    }

    /// What `check` finds wrong, by its short name.
    fn problems(&self) -> Vec<String> {
        let (_, said) = self.ocicat(&["check", "-o", "json"]);
        let report: Value = serde_json::from_str(&said).unwrap();
        let findings = report["findings"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            findings.map(|finding| finding["problem"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

const V3: &str = "projectcalico.org/v3";

#[test]
fn what_a_reservation_keeps_back_is_shown() {
    let cluster = Cluster::start("reserved");
    let ranges = json!({"reservedCIDRs": ["10.65.0.0/30", "10.65.0.9"]});
    cluster.create(V3, "IPReservation", "", json!({"metadata": {"name": "r"}, "spec": ranges}));
    cluster.give("n1", "web");

    let (_, said) = cluster.ocicat(&["show", "-o", "json"]);
    let (_, table) = cluster.ocicat(&["show"]);

    let pool = &serde_json::from_str::<Value>(&said).unwrap()[0];
    assert_eq!((&pool["reserved"], &pool["inUse"], &pool["free"]), (&json!(5), &json!(1), &json!(10)));
    assert!(table.contains("5 (31%)"), "{table}");
}

#[test]
fn handles_and_claims_that_leaked_are_mended_and_nothing_else() {
    let cluster = Cluster::start("fix");
    let address = cluster.give("n1", "web");
    let pod = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"podIP": address, "podIPs": [{"ip": address}]},
    });
    cluster.create("v1", "Pod", "default", pod);
    assert_eq!(cluster.problems(), [""; 0]);

    // A node that went for good while nobody looked, and a handle whose block was deleted by hand.
    cluster.give("gone", "old");
    let handle = json!({"handleID": "net.lost", "block": {"10.65.0.12/30": 1}});
    cluster.create(V3, "IPAMHandle", "", json!({"metadata": {"name": "net.lost"}, "spec": handle}));
    assert_eq!(cluster.problems(), ["claim-of-gone-node", "handle-empty", "not-in-use"]);

    let (code, said) = cluster.ocicat(&["check", "--fix", "--wait", "5"]);

    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("mended: node gone is gone: 1 addresses and 1 blocks freed"), "{said}");
    assert!(said.contains("mended: handle net.lost counts what the blocks say"), "{said}");
    let (_, holder) = cluster.ocicat(&["show", "--ip", &address.to_string()]);
    assert!(holder.contains("pod: web"), "{holder}");
}
