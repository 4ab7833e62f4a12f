//! Nodes of a cluster as clients: the reflector as a process, beside an API server.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apiserver::ApiServer;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use rustix::net::{AddressFamily, SocketType};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(120);

struct Reflector {
    child: Child,
    dir: PathBuf,
    address: SocketAddr,
}

impl Reflector {
    fn start(kubeconfig: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("reflector-nodes-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = dir.join("kubeconfig");
        std::fs::write(&config, kubeconfig).unwrap();
        let text = format!(
            "routerId: 127.0.0.1\nasNumber: 64512\nlisten: ['{address}']\n\
             kubernetes: {{nodeSelector: \"role == 'worker'\", kubeconfig: {}}}\n",
            config.display()
        );
        std::fs::write(dir.join("rr.yaml"), text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_route-reflector"))
            .args(["--config".as_ref(), dir.join("rr.yaml").as_os_str()])
            .args(["--socket".as_ref(), dir.join("rr.sock").as_os_str()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, dir, address }
    }

    /// Whether the reflector greets who connects from an address with an OPEN.
    fn greets(&self, from: Ipv4Addr) -> bool {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from((from, 0))).unwrap();
        if rustix::net::connect(&socket, &self.address).is_err() {
            return false;
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut first = [0];
        stream.read(&mut first).is_ok_and(|n| n == 1)
    }

    async fn until(&self, from: Ipv4Addr, greeted: bool) {
        let end = Instant::now() + DEADLINE;
        while self.greets(from) != greeted {
            assert!(Instant::now() < end, "{from} is still {}", if greeted { "refused" } else { "greeted" });
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn node(name: &str, role: &str, address: Ipv4Addr) -> DynamicObject {
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"role": role}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    });
    serde_json::from_value(node).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_chosen_are_clients_as_long_as_they_exist() {
    let server = ApiServer::builder().build().unwrap();
    let handle = server.serve(vec![TcpListener::bind("127.0.0.1:0").unwrap()]).unwrap();
    let kubeconfig = server.kubeconfig(&handle.url());
    let options = KubeConfigOptions::default();
    let access = Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let access = kube::Config::from_custom_kubeconfig(access, &options).await.unwrap();
    let client = kube::Client::try_from(access).unwrap();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Node"));
    let nodes: Api<DynamicObject> = Api::all_with(client, &kind);
    let [first, second, other] = [1, 2, 3].map(|n| Ipv4Addr::new(127, 77, 0, n));
    nodes.create(&PostParams::default(), &node("first", "worker", first)).await.unwrap();
    nodes.create(&PostParams::default(), &node("other", "router", other)).await.unwrap();

    let reflector = Reflector::start(&kubeconfig);
    reflector.until(first, true).await;
    assert!(!reflector.greets(second) && !reflector.greets(other), "only chosen nodes are let in");

    nodes.create(&PostParams::default(), &node("second", "worker", second)).await.unwrap();
    reflector.until(second, true).await;
    nodes.delete("first", &DeleteParams::default()).await.unwrap();
    reflector.until(first, false).await;
    assert!(reflector.greets(second));
}
