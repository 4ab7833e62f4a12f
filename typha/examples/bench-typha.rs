//! Measures typha with many clients over TLS on loopback: `make bench-typha`, or with `ARGS="CLIENTS ENDPOINTS"`.
//!
//! The API server and all clients are in this process, typha is a process of its own. Half of the clients want what
//! felix wants, half what bird-lite wants. All take in every message; one in a hundred also reads the objects.

#![allow(clippy::unwrap_used, reason = "a benchmark ends where something goes wrong")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Part, PatchKind, WriteOptions};
use datastore::typha::{FIELDS, Files, Identity, Incoming, client_config};
use datastore::{Interest, Kind};
use fanout::{Event, Follower};
use proto::typha::{FromClient, FromServer, Pong, from_client, from_server};
use proto::{MAX_FRAME, encode_frame};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

const ROUNDS: usize = 20;
const RATE: u32 = 1_000;
const SECONDS: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(120);

/// What all clients write down.
struct Shared {
    started: Instant,
    /// Lists that are still to end.
    unlisted: AtomicUsize,
    octets: AtomicU64,
    /// Pods that were heard of, by clients that want them; chunks for those that do not read objects.
    heard: AtomicUsize,
    /// Microseconds since `started` at which the last client heard.
    heard_at: AtomicU64,
    /// Latencies of changes in microseconds, of those that read objects.
    latencies: parking_lot::Mutex<Vec<u64>>,
}

#[tokio::main]
async fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let clients = numbers.first().copied().unwrap_or(2_000);
    let endpoints = numbers.get(1).copied().unwrap_or(100_000);
    let directory = std::env::temp_dir().join(format!("bench-typha-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let server = api_server(endpoints);
    let handle = server.serve(vec![TcpListener::bind("127.0.0.1:0").unwrap()]).unwrap();
    let kubeconfig = directory.join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig(&handle.url())).unwrap();
    let (typha_files, client_files) = certificates(&directory);

    let started = Instant::now();
    let mut typha = Typha::start(&kubeconfig, &typha_files).await;
    println!("{endpoints} endpoints, {clients} clients, TLS");
    println!("typha has listed everything after {:.1?}: {}", started.elapsed(), typha.usage());
    let watches = established(handle.addresses()[0]);

    let shared = Arc::new(Shared {
        started: Instant::now(),
        unlisted: AtomicUsize::new(0),
        octets: AtomicU64::new(0),
        heard: AtomicUsize::new(0),
        heard_at: AtomicU64::new(0),
        latencies: parking_lot::Mutex::default(),
    });
    connect_all(clients, typha.clients, &client_files, &shared).await;
    let took = shared.started.elapsed();
    let octets = shared.octets.load(Ordering::Relaxed);
    println!(
        "all clients have all lists after {took:.1?}: {:.1} GB sent, {:.1} MB to a felix; {}",
        octets as f64 / 1e9,
        octets as f64 / 1e6 / clients.div_ceil(2) as f64,
        typha.usage()
    );
    println!(
        "connections of typha with the API server: {watches} without clients, {} with {clients}",
        established(handle.addresses()[0])
    );
    one_change(&server, clients.div_ceil(2), &shared).await;
    many_changes(&server, endpoints, &shared, &mut typha).await;
    drop(typha);
    std::fs::remove_dir_all(directory).unwrap();
}

/// Waits, and gives up where a client or typha has ended.
async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn api_server(endpoints: usize) -> ApiServer {
    let server = ApiServer::builder().build().unwrap();
    let options = WriteOptions::by("bench");
    let create = |version: &str, kind: &str, namespace: &str, mut object: Value| {
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        let resource = server.api().resource(version, kind).unwrap();
        server.api().create(&resource, namespace, object, &options).unwrap();
    };
    for definition in datastore::crd::definitions() {
        create("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", definition);
    }
    for n in 0..endpoints {
        create("v1", "Pod", "default", pod(n));
    }
    server
}

/// With what a kubelet and a ReplicaSet write besides what we read.
fn pod(n: usize) -> Value {
    let template = format!("{:010x}", n / 5);
    let address = format!("10.{}.{}.{}", 64 + n / 65536, n / 256 % 256, n % 256);
    json!({
        "metadata": {
            "name": format!("web-{template}-{n:05x}"),
            "labels": {"app": format!("app-{}", n % 500), "tier": "front", "pod-template-hash": template},
            "annotations": {
                "cni.projectcalico.org/podIP": format!("{address}/32"),
                "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(400),
            },
        },
        "spec": {
            "nodeName": format!("node-{:04}", n % 1_000), "serviceAccountName": "default",
            "containers": [{"name": "main", "image": "registry.example.org/team/application:1.2.3",
                "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                "env": [{"name": "GREETING", "value": "y".repeat(300)}]}],
        },
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn certificates(directory: &Path) -> (Files, Files) {
    let authority = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = directory.join("ca.pem");
    std::fs::write(&ca, parameters.self_signed(&authority).unwrap().pem()).unwrap();
    let issuer = Issuer::new(parameters, authority);
    let files = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        let at = |suffix: &str| directory.join(format!("{name}.{suffix}"));
        std::fs::write(at("pem"), certificate.pem()).unwrap();
        std::fs::write(at("key"), key.serialize_pem()).unwrap();
        Files { ca: ca.clone(), certificate: at("pem"), key: at("key") }
    };
    (files("typha-server"), files("typha-client"))
}

struct Typha {
    child: Child,
    clients: SocketAddr,
    /// CPU time that was told last.
    told: f64,
}

/// However the measurement ends, nothing of it runs on.
impl Drop for Typha {
    fn drop(&mut self) {
        // Both fail only for one that has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Typha {
    async fn start(kubeconfig: &Path, files: &Files) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (clients, health) = (free(), free());
        let binary: PathBuf = std::env::current_exe().unwrap().parent().unwrap().with_file_name("typha");
        let child = Command::new(binary)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args([
                "--listen",
                &clients.to_string(),
                "--health-listen",
                &health.to_string(),
                "--service",
                "none",
            ])
            .arg("--ca-file")
            .arg(&files.ca)
            .arg("--cert-file")
            .arg(&files.certificate)
            .arg("--key-file")
            .arg(&files.key)
            .args(["--client-cn", "typha-client", "--log-level", "error"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let typha = Self { child, clients, told: 0.0 };
        while !is_ready(health).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        typha
    }

    /// CPU time since the last call, and memory.
    fn usage(&mut self) -> String {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let stat = read("stat");
        let fields: Vec<i64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        // After the state, which is no number: utime is the 11th, stime the 12th. A tick is 10 ms.
        let cpu = (fields[10] + fields[11]) as f64 / 100.0;
        let status = read("status");
        let memory = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
        };
        let text = format!(
            "typha used {:.1} s of CPU time, has {} MB ({} MB at most)",
            cpu - self.told,
            memory("VmRSS"),
            memory("VmHWM")
        );
        self.told = cpu;
        text
    }
}

async fn is_ready(health: SocketAddr) -> bool {
    use tokio::io::AsyncReadExt;
    let Ok(mut stream) = TcpStream::connect(health).await else { return false };
    let mut reply = String::new();
    let asked = stream.write_all(b"GET /readiness HTTP/1.0\r\n\r\n").await.is_ok();
    asked && stream.read_to_string(&mut reply).await.is_ok() && reply.contains("200 OK")
}

/// Connections that a server at this address has; all are typha's.
fn established(server: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", server.port());
    let is_ours = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&port) && fields[3] == "01"
    };
    table.lines().skip(1).filter(is_ours).count()
}

async fn connect_all(clients: usize, typha: SocketAddr, files: &Files, shared: &Arc<Shared>) {
    let server = Identity { common_name: Some("typha-server".to_owned()), uri_san: None };
    let config = client_config(files, &server).unwrap();
    let felix = Interest::felix("n".into()).kinds;
    let speaker = Interest::speaker("n".into(), Default::default()).kinds;
    // As many at once as typha takes.
    let handshakes = Arc::new(Semaphore::new(64));
    for number in 0..clients {
        let kinds = if number % 2 == 0 { &felix } else { &speaker };
        let kinds: Vec<&'static str> = kinds
            .iter()
            .filter(|kind| !kind.is_on_demand())
            .filter_map(|kind| Kind::shared_name(*kind))
            .collect();
        shared.unlisted.fetch_add(kinds.len(), Ordering::Relaxed);
        let (shared, config, handshakes) = (shared.clone(), config.clone(), handshakes.clone());
        tokio::spawn(async move {
            let permit = handshakes.acquire_owned().await.unwrap();
            let stream = TcpStream::connect(typha).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let stream =
                TlsConnector::from(config).connect(ServerName::from(typha.ip()), stream).await.unwrap();
            drop(permit);
            let mut follower = Follower::new(&format!("n{number}"), "bench", "0", FIELDS);
            kinds.iter().for_each(|kind| follower.subscribe(kind));
            client(stream, follower, number % 100 == 0, &shared).await;
        });
    }
    wait_until("lists of all clients", || shared.unlisted.load(Ordering::Relaxed) == 0).await;
}

async fn client(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    mut follower: Follower,
    reads_objects: bool,
    shared: &Shared,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut incoming = Incoming::new(MAX_FRAME);
    writer.write_all(&encode_frame(&follower.connected())).await.unwrap();
    writer.flush().await.unwrap();
    while let Ok(Some(message)) = incoming.next::<FromServer>(&mut reader).await {
        match &message.message {
            Some(from_server::Message::Chunk(chunk)) => {
                shared.octets.fetch_add(chunk.objects.len() as u64, Ordering::Relaxed);
                if chunk.kind == "Pod" {
                    shared.heard.fetch_add(1, Ordering::Relaxed);
                    shared.heard_at.fetch_max(micros(shared.started), Ordering::Relaxed);
                }
            }
            Some(from_server::Message::Listed(_) | from_server::Message::Missing(_)) => {
                shared.unlisted.fetch_sub(1, Ordering::Relaxed);
            }
            Some(from_server::Message::Ping(ping)) => {
                let pong = from_client::Message::Pong(Pong { number: ping.number });
                let pong = encode_frame(&FromClient { message: Some(pong) });
                writer.write_all(&pong).await.unwrap();
                writer.flush().await.unwrap();
                continue;
            }
            _ => {}
        }
        if reads_objects {
            for (_, event) in follower.handle(message).unwrap() {
                note_latency(event, shared);
            }
        }
    }
}

/// A change says when it was made.
fn note_latency(event: Event, shared: &Shared) {
    let Event::Put(_, content) = event else { return };
    let Ok(object) = serde_json::from_slice::<Value>(&content) else { return };
    let made = object["metadata"]["labels"]["made"].as_str().and_then(|made| made.parse::<u64>().ok());
    if let Some(made) = made {
        shared.latencies.lock().push(micros(shared.started).saturating_sub(made));
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap()
}

fn change(server: &ApiServer, n: usize, shared: &Shared) {
    let pods = server.api().resource("v1", "Pod").unwrap();
    let name = format!("web-{:010x}-{n:05x}", n / 5);
    let patch = json!({"metadata": {"labels": {"made": micros(shared.started).to_string()}}});
    let options = WriteOptions::by("bench");
    server.api().patch(&pods, ("default", &name), Part::Main, (PatchKind::Merge, &patch), &options).unwrap();
}

async fn one_change(server: &ApiServer, felixes: usize, shared: &Shared) {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(200)).await;
        shared.heard.store(0, Ordering::Relaxed);
        let made = micros(shared.started);
        change(server, round, shared);
        wait_until("one change", || shared.heard.load(Ordering::Relaxed) >= felixes).await;
        times.push(shared.heard_at.load(Ordering::Relaxed) - made);
    }
    println!("one change until the last of {felixes} felixes has it: {}", percentiles(times));
}

async fn many_changes(server: &ApiServer, endpoints: usize, shared: &Shared, typha: &mut Typha) {
    typha.usage();
    shared.latencies.lock().clear();
    let octets = shared.octets.load(Ordering::Relaxed);
    let started = Instant::now();
    for number in 0..RATE * SECONDS {
        let due = started + Duration::from_secs(1) / RATE * number;
        if Instant::now() < due {
            tokio::time::sleep_until(due.into()).await;
        }
        change(server, number as usize % endpoints.min(5_000), shared);
    }
    let took = started.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = (shared.octets.load(Ordering::Relaxed) - octets) as f64 / 1e6;
    let times = std::mem::take(&mut *shared.latencies.lock());
    println!(
        "{} changes in {took:.1?}, until a felix has read one: {}; {sent:.0} MB sent; {}",
        RATE * SECONDS,
        percentiles(times),
        typha.usage()
    );
}

fn percentiles(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    let text =
        |share| at(share).map_or("none".to_owned(), |time| format!("{:.1?}", Duration::from_micros(*time)));
    format!("median {}, 99th percentile {}, worst {}", text(50), text(99), text(100))
}
