//! A node in a network namespace of its own, a pretended agent on a unix socket, and a runtime that calls the
//! real binary as containerd does.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use kernel::{Driver, Neighbour, NeighbourKey, NextHop, PROTO_BOOT, Route, RouteKey, RouteKind};
use kernel_linux::{NeighbourDriver, Netns, RouteDriver, Rtnl, sysctl};
use model::{Cidr, PodKey, host_interface_name};
use proto::node::reply::{Allocated, Collected, CollectedEndpoint, Done, Failed, NodeSubnets, Outcome};
use proto::node::request::{Allocate, Attachment, Call, EndpointUp};
use proto::node::{Failure, Reply, Request};
use proto::{read_frame, write_frame};
use serde_json::{Value, json};

/// A node: a network namespace, a directory, an agent.
pub struct Node {
    pub netns: Netns,
    pub directory: PathBuf,
    pub felix: Option<Felix>,
}

/// A container: a network namespace under a path that other processes can open.
pub struct Container {
    pub id: String,
    pub netns: Netns,
    pub path: String,
}

/// What a plugin printed, and whether it succeeded.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    pub json: Value,
    pub text: String,
}

/// Which binary to call, and how.
pub struct Runtime<'a> {
    pub node: &'a Node,
    pub binary: PathBuf,
    pub conf: Value,
    pub args: String,
    pub interface: String,
    pub cni_path: String,
}

impl Node {
    /// Makes a node whose agent runs.
    pub fn new() -> Self {
        let mut node = Self { netns: new_netns(), directory: temporary(), felix: None };
        node.inside(|| {
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["addr", "add", "192.0.2.1/32", "dev", "lo"]);
            run("ip", &["-6", "addr", "add", "2001:db8::1/128", "dev", "lo"]);
        });
        node.start_felix();
        node
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("felix.sock")
    }

    pub fn start_felix(&mut self) {
        self.felix = Some(Felix::start(&self.netns, &self.socket()));
    }

    pub fn stop_felix(&mut self) {
        self.felix = None;
    }

    pub fn felix(&self) -> MutexGuard<'_, State> {
        self.felix.as_ref().expect("the agent runs").state()
    }

    /// Runs `work` in the node's namespace; processes that it starts are in it too.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(|| Ok(work())).expect("the test's own message is above")
    }

    /// Links of pods that are in use, by name.
    pub fn pod_links(&self) -> Vec<String> {
        let links = self.inside(|| Rtnl::open().unwrap().links().unwrap());
        links.into_iter().filter(|link| link.up && link.name != "lo").map(|link| link.name).collect()
    }

    /// A runtime with the configuration that most tests use. The binary is known to tests only, not to examples.
    pub fn runtime(&self) -> Runtime<'_> {
        Runtime {
            node: self,
            binary: option_env!("CARGO_BIN_EXE_calico").unwrap_or_default().into(),
            conf: json!({
                "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico",
                "felix_socket": self.socket(), "mtu": 0,
                "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
            }),
            args: POD_ARGS.to_owned(),
            interface: "eth0".to_owned(),
            cni_path: "/usr/lib/cni".to_owned(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.felix = None;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Container {
    pub fn new(id: &str) -> Self {
        let netns = new_netns();
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.raw_fd());
        Self { id: id.to_owned(), netns, path }
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(|| Ok(work())).expect("the test's own message is above")
    }
}

impl Runtime<'_> {
    pub fn add(&self, container: &Container) -> Answer {
        self.call("ADD", &container.id, &container.path, &self.conf)
    }

    pub fn del(&self, container: &Container) -> Answer {
        self.call("DEL", &container.id, &container.path, &self.conf)
    }

    /// What RemovePodSandbox sends: the namespace is gone.
    pub fn del_without_netns(&self, container: &Container) -> Answer {
        self.call("DEL", &container.id, "", &self.conf)
    }

    pub fn check(&self, container: &Container, result: &Value) -> Answer {
        let mut conf = self.conf.clone();
        conf["prevResult"] = result.clone();
        self.call("CHECK", &container.id, &container.path, &conf)
    }

    pub fn call(&self, verb: &str, id: &str, netns: &str, conf: &Value) -> Answer {
        let output = self.node.inside(|| {
            let mut child = Command::new(&self.binary)
                .env_clear()
                .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_NETNS", netns)])
                .envs([
                    ("CNI_IFNAME", &self.interface),
                    ("CNI_ARGS", &self.args),
                    ("CNI_PATH", &self.cni_path),
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // A plugin that fails at once may have closed it.
            let _ = child.stdin.take().unwrap().write_all(conf.to_string().as_bytes());
            child.wait_with_output().unwrap()
        });
        Answer::from(output)
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = serde_json::from_str(&stdout).unwrap_or_default();
        let text = stdout + &String::from_utf8_lossy(&output.stderr);
        Self { ok: output.status.success(), json, text }
    }
}

impl Answer {
    pub fn code(&self) -> u64 {
        assert!(!self.ok, "{}", self.text);
        self.json["code"].as_u64().unwrap_or_else(|| panic!("no CNI error: {}", self.text))
    }

    pub fn message(&self) -> String {
        self.json["msg"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn unwrap(self) -> Value {
        assert!(self.ok, "{}", self.text);
        self.json
    }
}

/// The pretended agent: gives addresses, programs routes as the real one does, remembers what it was asked.
pub struct Felix {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

/// What the agent knows, and how it is to misbehave.
#[derive(Default)]
pub struct State {
    pub calls: Vec<Call>,
    /// By container ID.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Host interface by container ID.
    pub endpoints: BTreeMap<String, String>,
    pub fail_allocate: Option<Failure>,
    pub fail_endpoint_up: Option<Failure>,
    /// Close the connection instead of answering EndpointUp.
    pub hang_up: bool,
    /// At EndpointUp, stop listening too.
    pub die_at_endpoint_up: bool,
    next: u8,
    stopped: bool,
}

impl Felix {
    pub fn start(netns: &Netns, socket: &Path) -> Self {
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let thread = std::thread::spawn({
            let (state, socket) = (state.clone(), socket.to_owned());
            let netns = Netns::open(path_of(netns)).unwrap();
            move || {
                let serve = || {
                    serve(&listener, &socket, &state);
                    Ok(())
                };
                netns.run(serve).unwrap();
            }
        });
        Self { socket: socket.to_owned(), state, thread: Some(thread) }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Felix {
    fn drop(&mut self) {
        self.state().stopped = true;
        let _ = UnixStream::connect(&self.socket);
        let _ = fs::remove_file(&self.socket);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &UnixListener, socket: &Path, state: &Mutex<State>) {
    let mut kernel = Kernel {
        routes: RouteDriver::new(Vec::new()).unwrap(),
        neighbours: NeighbourDriver::new(vec!["cali".to_owned()]).unwrap(),
    };
    for stream in listener.incoming() {
        let mut state = state.lock().unwrap();
        if state.stopped {
            return;
        }
        let mut stream = stream.unwrap();
        let Ok(Request { call: Some(call) }) = read_frame(&mut stream) else { continue };
        state.calls.push(call.clone());
        if state.die_at_endpoint_up && matches!(call, Call::EndpointUp(_)) {
            let _ = fs::remove_file(socket);
            return;
        }
        if let Some(outcome) = state.answer(call, &mut kernel) {
            let _ = write_frame(&mut stream, &Reply { outcome: Some(outcome) });
        }
    }
}

struct Kernel {
    routes: RouteDriver,
    neighbours: NeighbourDriver,
}

impl State {
    fn answer(&mut self, call: Call, kernel: &mut Kernel) -> Option<Outcome> {
        let failed = |failure: Failure, message: &str| {
            Some(Outcome::Failed(Failed { failure: failure.into(), message: message.to_owned() }))
        };
        match call {
            Call::Allocate(_) if self.fail_allocate.is_some() => {
                failed(self.fail_allocate.unwrap(), "no address is left in pool default")
            }
            Call::Allocate(call) => Some(Outcome::Allocated(self.allocate(call))),
            Call::EndpointUp(_) if self.hang_up => None,
            Call::EndpointUp(_) if self.fail_endpoint_up.is_some() => {
                failed(self.fail_endpoint_up.unwrap(), "policy was not programmed within 10 s")
            }
            Call::EndpointUp(call) => {
                if !kernel.program(&call) {
                    return failed(Failure::Retry, "the link is gone");
                }
                self.endpoints.insert(call.attachment.unwrap().container_id, call.host_interface);
                Some(Outcome::Done(Done {}))
            }
            Call::EndpointDown(call) => {
                let id = call.attachment.unwrap().container_id;
                self.addresses.remove(&id);
                if !call.addresses_only {
                    self.endpoints.remove(&id);
                }
                Some(Outcome::Done(Done {}))
            }
            Call::EndpointCheck(call) => {
                let id = call.attachment.unwrap().container_id;
                if self.endpoints.contains_key(&id) {
                    return Some(Outcome::Done(Done {}));
                }
                failed(Failure::Permanent, "the endpoint is unknown")
            }
            Call::Status(_) => Some(Outcome::Done(Done {})),
            Call::NodeSubnets(_) => {
                Some(Outcome::NodeSubnets(NodeSubnets { subnets: vec!["10.99.0.0/24".to_owned()] }))
            }
            Call::Collect(call) => {
                let is_valid = |id: &String| call.valid.iter().any(|valid| valid.container_id == *id);
                let gone: Vec<_> = self.endpoints.keys().filter(|id| !is_valid(id)).cloned().collect();
                let take = |id: String| {
                    self.addresses.remove(&id);
                    let host_interface = self.endpoints.remove(&id).unwrap_or_default();
                    CollectedEndpoint { container_id: id, host_interface }
                };
                Some(Outcome::Collected(Collected { endpoints: gone.into_iter().map(take).collect() }))
            }
        }
    }

    fn allocate(&mut self, call: Allocate) -> Allocated {
        let attachment = call.attachment.unwrap_or_default();
        if !self.addresses.contains_key(&attachment.container_id) {
            self.next += 1;
            let mut addresses = Vec::new();
            if !call.addresses.is_empty() {
                addresses.extend(call.addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()));
            } else {
                let v4 = IpAddr::from(Ipv4Addr::new(10, 65, 0, self.next));
                let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, self.next.into()));
                addresses.extend(call.ipv4.then_some(v4));
                addresses.extend(call.ipv6.then_some(v6));
            }
            if !addresses.is_empty() {
                self.addresses.insert(attachment.container_id.clone(), addresses);
            }
        }
        let addresses = self.addresses.get(&attachment.container_id).cloned().unwrap_or_default();
        Allocated {
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            mtu: 1480,
            host_interface: host_interface(&attachment),
            mac: Vec::new(),
        }
    }
}

impl Kernel {
    /// False where the link is not there any more: its plugin was killed meanwhile, and DEL came.
    fn program(&mut self, call: &EndpointUp) -> bool {
        let interface = &call.host_interface;
        let addresses: Vec<IpAddr> = call.addresses.iter().map(|text| text.parse().unwrap()).collect();
        let has_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        if sysctl::configure_pod_interface(interface, "1", has_ipv6).is_err() {
            return false;
        }
        let mac = call.mac.as_slice().try_into().unwrap();
        let hop = NextHop { gateway: None, interface: Some(interface.clone()), onlink: false };
        let routes: Vec<_> = addresses
            .iter()
            .map(|address| {
                let destination = Cidr::host(*address);
                let key = RouteKey { destination, metric: if address.is_ipv4() { 0 } else { 1024 } };
                let kind = RouteKind::Unicast(vec![hop.clone()]);
                (key, Route { kind, protocol: PROTO_BOOT, source: None, mtu: None })
            })
            .collect();
        let neighbours: Vec<_> = addresses
            .iter()
            .map(|address| {
                (NeighbourKey { interface: interface.clone(), address: *address }, Neighbour { mac })
            })
            .collect();
        self.routes.apply(&routes, &[]).is_empty() && self.neighbours.apply(&neighbours, &[]).is_empty()
    }
}

/// The agent's rule: without a namespace the container stands for the pod.
pub fn host_interface(attachment: &Attachment) -> String {
    let pod = match attachment.namespace.as_str() {
        "" => PodKey::new("", &attachment.container_id),
        namespace => PodKey::new(namespace, &attachment.pod),
    };
    host_interface_name("cali", &pod)
}

/// A namespace that goes away with the value.
pub fn new_netns() -> Netns {
    std::thread::spawn(|| {
        // SAFETY: plain system call that changes this short-lived thread only.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert!(result == 0, "a network namespace of its own: run the tests as root");
        Netns::current().unwrap()
    })
    .join()
    .unwrap()
}

fn path_of(netns: &Netns) -> String {
    format!("/proc/self/fd/{}", netns.raw_fd())
}

/// A directory with a short name: a socket's path has 107 bytes.
fn temporary() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("ocicat-cni-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    fs::create_dir(&path).unwrap();
    path
}

/// Runs a tool in the network namespace of the calling thread; returns what it printed.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().unwrap_or_else(|error| {
        let package = if tool == "ping" { "iputils-ping" } else { "iproute2" };
        panic!("cannot run {tool}: {error}; install the Debian package {package}")
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?} failed: {text}");
    text.into_owned()
}

const POD_ARGS: &str =
    "K8S_POD_INFRA_CONTAINER_ID=c1;IgnoreUnknown=1;K8S_POD_UID=u-1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=prod";
