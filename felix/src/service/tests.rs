//! The CNI plugin's calls over a real socket, with IPAM in memory and a dataplane that does what it is told.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::Receiver;

use model::TunnelKind;
use proto::{encode_frame, read_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::scratch::Scratch;
use crate::server;

#[tokio::test]
async fn add_check_and_del_go_through() {
    let agent = Agent::start("add", Programs::AtOnce).await;

    let Outcome::Allocated(allocated) = agent.call(Call::Allocate(allocate("c1"))).await else {
        panic!("no addresses")
    };
    assert_eq!((allocated.addresses.as_slice(), allocated.mtu), (["10.65.0.1".to_owned()].as_slice(), 1480));
    assert_eq!(allocated.host_interface, "cali68caf03a5f4");
    let again = agent.call(Call::Allocate(allocate("c1"))).await;
    assert_eq!(again, Outcome::Allocated(allocated.clone()));

    let up = EndpointUp { addresses: allocated.addresses, ..endpoint_up("c1") };
    assert_eq!(agent.call(Call::EndpointUp(up)).await, Outcome::Done(Done {}));
    assert!(agent.scratch.path().join("endpoints/c1.json").exists());
    let check = EndpointCheck { attachment: Some(container("c1")), addresses: Vec::new() };
    assert_eq!(agent.call(Call::EndpointCheck(check)).await, Outcome::Done(Done {}));

    assert_eq!(agent.call(Call::EndpointDown(down("c1"))).await, Outcome::Done(Done {}));
    assert_eq!(agent.call(Call::EndpointDown(down("c1"))).await, Outcome::Done(Done {}));
    assert!(!agent.scratch.path().join("endpoints/c1.json").exists());
    assert_eq!(agent.service.drain().await, 0);
    assert!(agent.service.addresses.0.lock().held.is_empty());
}

#[tokio::test]
async fn a_pod_that_is_not_programmed_in_time_is_retried_with_the_reason() {
    let agent = Agent::start("late", Programs::Never).await;

    let outcome = agent.call(Call::EndpointUp(EndpointUp { timeout_ms: 10, ..endpoint_up("c1") })).await;

    let (failure, message) = failed(outcome);
    assert_eq!(failure, Failure::Retry);
    assert!(message.contains("the route is missing"), "{message}");
    assert!(agent.service.store.lock().get("c1").is_some(), "a retry finds it");
}

#[tokio::test]
async fn a_del_of_an_old_sandbox_leaves_the_new_one_alone() {
    let agent = Agent::start("sandbox", Programs::AtOnce).await;
    agent.call(Call::EndpointUp(endpoint_up("old"))).await;
    agent.call(Call::EndpointUp(endpoint_up("new"))).await;

    agent.call(Call::EndpointDown(down("old"))).await;

    assert!(agent.service.store.lock().get("new").is_some());
    assert_eq!(*agent.downs.lock(), Vec::<String>::new());
}

#[tokio::test]
async fn addresses_are_released_when_ipam_is_back_and_not_before_a_new_add() {
    let agent = Agent::start("ipam", Programs::AtOnce).await;
    agent.call(Call::Allocate(allocate("c1"))).await;
    agent.service.addresses.0.lock().is_away = true;
    agent.call(Call::EndpointDown(down("c1"))).await;
    assert_eq!(agent.service.drain().await, 1);

    assert_eq!(failed(agent.call(Call::Allocate(allocate("c1"))).await).0, Failure::Retry);

    agent.service.addresses.0.lock().is_away = false;
    agent.call(Call::Allocate(allocate("c1"))).await;
    assert_eq!(agent.service.drain().await, 0);
    assert_eq!(agent.service.addresses.0.lock().held.len(), 1, "the new ADD keeps its address");
}

#[tokio::test]
async fn wrong_annotations_and_requests_are_refused_by_name() {
    let agent = Agent::start("invalid", Programs::AtOnce).await;
    let annotation = ("cni.projectcalico.org/ipAddrs".to_owned(), "nonsense".to_owned());
    *agent.service.pods.0.lock() = Some(Labels::from([annotation]));

    let (failure, message) = failed(agent.call(Call::Allocate(allocate("c1"))).await);
    assert_eq!(failure, Failure::Invalid);
    assert!(message.contains("cni.projectcalico.org/ipAddrs"), "{message}");

    for up in [
        EndpointUp { attachment: None, ..endpoint_up("c1") },
        EndpointUp { mac: vec![1], ..endpoint_up("c1") },
        EndpointUp { host_interface: "../../x".to_owned(), ..endpoint_up("c1") },
        EndpointUp { addresses: vec!["300.0.0.1".to_owned()], ..endpoint_up("c1") },
        endpoint_up("../c1"),
    ] {
        assert_eq!(failed(agent.call(Call::EndpointUp(up)).await).0, Failure::Invalid);
    }
    assert_eq!(agent.service.store.lock().iter().count(), 0);
}

#[tokio::test]
async fn garbage_of_a_network_goes_and_nothing_else() {
    let agent = Agent::start("gc", Programs::AtOnce).await;
    for (id, network, interface) in
        [("c1", NETWORK, "cali1"), ("c2", NETWORK, "cali2"), ("c3", "other", "cali3")]
    {
        let attachment = Attachment { network: network.to_owned(), ..container(id) };
        let allocate = Allocate { attachment: Some(attachment.clone()), ..allocate(id) };
        agent.call(Call::Allocate(allocate)).await;
        let up = EndpointUp {
            attachment: Some(attachment),
            host_interface: interface.to_owned(),
            ..endpoint_up(id)
        };
        assert_eq!(agent.call(Call::EndpointUp(up)).await, Outcome::Done(Done {}));
    }
    let valid = |interface: &str| Attachment { interface: interface.to_owned(), ..container("c1") };
    let collect = Collect { network: NETWORK.to_owned(), valid: vec![valid("net7"), valid("eth0")] };

    let outcome = agent.call(Call::Collect(collect.clone())).await;

    let gone = CollectedEndpoint { container_id: "c2".to_owned(), host_interface: "cali2".to_owned() };
    assert_eq!(outcome, Outcome::Collected(Collected { endpoints: vec![gone] }));
    assert_eq!(agent.service.drain().await, 0);
    let held: Vec<_> = agent.service.addresses.0.lock().held.keys().cloned().collect();
    assert_eq!(held, ["k8s-pod-network.c1", "other.c3"]);
    assert_eq!(agent.call(Call::Collect(collect)).await, Outcome::Collected(Collected::default()));
}

#[tokio::test]
async fn a_pod_may_bring_its_own_address_where_that_is_allowed() {
    let agent = Agent::start("own", Programs::AtOnce).await;
    let annotation = ("cni.projectcalico.org/ipAddrsNoIpam".to_owned(), "[\"192.0.2.9\"]".to_owned());
    *agent.service.pods.0.lock() = Some(Labels::from([annotation]));
    let allowed = |id: &str| Allocate { may_bypass_ipam: true, ..allocate(id) };

    assert_eq!(failed(agent.call(Call::Allocate(allocate("c1"))).await).0, Failure::Invalid);
    let Outcome::Allocated(allocated) = agent.call(Call::Allocate(allowed("c1"))).await else { panic!() };
    assert_eq!(allocated.addresses, ["192.0.2.9"]);
    let up = EndpointUp { addresses: allocated.addresses, ..endpoint_up("c1") };
    agent.call(Call::EndpointUp(up)).await;

    assert!(agent.service.addresses.0.lock().held.is_empty(), "IPAM was not asked");
    let (_, message) = failed(agent.call(Call::Allocate(allowed("c2"))).await);
    assert!(message.contains("in use by default/web"), "{message}");
}

#[tokio::test]
async fn five_hundred_pods_at_once_are_all_served() {
    let agent = Arc::new(Agent::start("many", Programs::AtOnce).await);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..500 {
        let agent = agent.clone();
        calls.spawn(async move {
            let id = format!("c{number}");
            let Outcome::Allocated(_) = agent.call(Call::Allocate(allocate(&id))).await else { panic!() };
            let up = EndpointUp { host_interface: format!("cali{number}"), ..endpoint_up(&id) };
            agent.call(Call::EndpointUp(up)).await
        });
    }

    let outcomes = calls.join_all().await;

    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done(Done {})));
    assert_eq!(agent.service.store.lock().iter().count(), 500);
}

#[tokio::test]
async fn a_full_disk_keeps_the_pod_out_and_nothing_half_done() {
    let agent = Agent::start("disk", Programs::AtOnce).await;
    // What cannot be made over a file cannot be written either, and root may write everywhere else.
    let endpoints = agent.scratch.path().join("endpoints");
    std::fs::remove_dir(&endpoints).unwrap();
    std::fs::write(&endpoints, "").unwrap();

    let (failure, message) = failed(agent.call(Call::EndpointUp(endpoint_up("c1"))).await);

    assert_eq!(failure, Failure::Retry);
    assert!(message.contains("store the endpoint"), "{message}");
    assert_eq!(agent.service.store.lock().iter().count(), 0);
}

const NETWORK: &str = "k8s-pod-network";

#[tokio::test]
async fn the_socket_is_roots_alone_and_survives_nonsense() {
    let agent = Agent::start("nonsense", Programs::AtOnce).await;
    let mode = std::fs::metadata(agent.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    for nonsense in [&b"\xff\xff\xff\xffxxxx"[..], b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x02\xff\xff", b""] {
        let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        assert!(reply.is_empty(), "{nonsense:?} was answered");
    }
    assert_eq!(agent.call(Call::Status(Default::default())).await, Outcome::Done(Done {}));
    assert_eq!(failed(agent.send(Request { call: None }).await).0, Failure::Invalid);
}

/// What the dataplane makes of endpoints.
#[derive(Clone, Copy, PartialEq)]
enum Programs {
    AtOnce,
    Never,
}

/// IPAM in memory.
#[derive(Default)]
struct Memory(Mutex<Held>);

#[derive(Default)]
struct Held {
    held: BTreeMap<String, IpAddr>,
    is_away: bool,
}

impl Addresses for Memory {
    async fn allocate(&self, request: AddressRequest) -> Result<Vec<IpAddr>, AddressError> {
        let mut memory = self.0.lock();
        let [high, low] = (memory.held.len() as u16 + 1).to_be_bytes();
        let next = IpAddr::from([10, 65, high, low]);
        Ok(vec![*memory.held.entry(request.handle).or_insert(next)])
    }

    async fn allocate_tunnel(
        &self,
        _: TunnelKind,
        _: &[String],
        _: Option<IpAddr>,
    ) -> Result<IpAddr, AddressError> {
        Err(AddressError::Unavailable("no tunnels here".to_owned()))
    }

    async fn release_others(&self, _: TunnelKind, _: IpAddr) -> Result<(), AddressError> {
        Ok(())
    }

    async fn release_tunnel(&self, _: TunnelKind) -> Result<(), AddressError> {
        Ok(())
    }

    async fn release(&self, handle: &str) -> Result<(), AddressError> {
        let mut memory = self.0.lock();
        if memory.is_away {
            return Err(AddressError::Unavailable("told to be away".to_owned()));
        }
        memory.held.remove(handle);
        Ok(())
    }
}

/// The annotations of every pod.
struct OnePod(Mutex<Option<Labels>>);

impl Pods for OnePod {
    async fn annotations(&self, _: &PodKey, _: &str) -> Result<Option<Labels>> {
        Ok(self.0.lock().clone())
    }

    async fn namespace_annotations(&self, _: &str) -> Result<Labels> {
        Ok(Labels::new())
    }

    async fn node_subnets(&self) -> Result<Vec<String>> {
        Ok(vec!["10.244.1.0/24".to_owned()])
    }
}

struct Agent {
    scratch: Scratch,
    service: Arc<NodeService<Memory, OnePod>>,
    /// Interfaces that the dataplane was told to take down.
    downs: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Agent {
    async fn start(name: &str, programs: Programs) -> Self {
        let scratch = Scratch::new(&format!("service-{name}"));
        let (dataplane, commands) = Dataplane::channel();
        let downs = Arc::new(Mutex::new(Vec::new()));
        let seen = downs.clone();
        std::thread::spawn(move || fake_dataplane(&commands, programs, &seen));
        let settings = PodSettings { interface_prefix: "cali".to_owned(), mtu: Some(1480) };
        let service = Arc::new(NodeService {
            store: Mutex::new(EndpointStore::open(scratch.path()).unwrap().0),
            queue: DelQueue::open(&scratch.path().join("cni-del")).unwrap(),
            queued: Notify::new(),
            addresses: Memory::default(),
            pods: OnePod(Mutex::new(Some(Labels::new()))),
            dataplane,
            settings: RwLock::new(settings),
            metrics: Arc::new(Metrics::new("n1")),
            not_ready: Box::new(|| None),
            adds: Adds::default(),
            locks: HandleLocks::default(),
        });
        let listener = server::bind(&scratch.path().join("felix.sock")).unwrap();
        let answering = service.clone();
        let server = tokio::spawn(server::serve(listener, move |request, came| {
            let service = answering.clone();
            async move { service.answer(request, came).await }
        }));
        Self { scratch, service, downs, server }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.scratch.path().join("felix.sock")
    }

    async fn call(&self, call: Call) -> Outcome {
        self.send(Request { call: Some(call) }).await
    }

    async fn send(&self, request: Request) -> Outcome {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(&encode_frame(&request)).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        read_frame::<Reply>(&mut bytes.as_slice()).unwrap().outcome.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Ends when the service is gone.
fn fake_dataplane(commands: &Receiver<Command>, programs: Programs, downs: &Mutex<Vec<String>>) {
    let mut waiting = Vec::new();
    while let Ok(command) = commands.recv() {
        match command {
            Command::EndpointUp { waiter: Some(waiter), .. } => match programs {
                Programs::AtOnce => _ = waiter.programmed.send(Instant::now()),
                Programs::Never => waiting.push(waiter),
            },
            Command::EndpointDown(interface) => downs.lock().push(interface),
            Command::Inspect { reply, .. } => {
                let state = match programs {
                    Programs::AtOnce => EndpointState::Programmed,
                    Programs::Never => EndpointState::Missing(vec!["the route is missing".to_owned()]),
                };
                let _ = reply.send(state);
            }
            _ => {}
        }
    }
}

fn container(id: &str) -> Attachment {
    Attachment {
        container_id: id.to_owned(),
        interface: "eth0".to_owned(),
        network: "k8s-pod-network".to_owned(),
        namespace: "default".to_owned(),
        pod: "web".to_owned(),
        uid: "u".to_owned(),
    }
}

fn allocate(id: &str) -> Allocate {
    Allocate { attachment: Some(container(id)), ipv4: true, ..Allocate::default() }
}

fn endpoint_up(id: &str) -> EndpointUp {
    EndpointUp {
        attachment: Some(container(id)),
        host_interface: "cali68caf03a5f4".to_owned(),
        addresses: vec!["10.65.0.1".to_owned()],
        mac: vec![2, 0, 0, 0, 0, 1],
        timeout_ms: 60_000,
    }
}

fn down(id: &str) -> EndpointDown {
    EndpointDown { attachment: Some(container(id)), addresses_only: false }
}

fn failed(outcome: Outcome) -> (Failure, String) {
    match outcome {
        Outcome::Failed(failed) => (failed.failure(), failed.message),
        outcome => panic!("{outcome:?} is no failure"),
    }
}
