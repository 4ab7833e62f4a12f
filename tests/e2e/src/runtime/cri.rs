//! The few calls of the Container Runtime Interface that a kubelet makes for a pod, over a runtime's unix socket.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// A connection to a runtime.
pub struct Cri {
    tokio: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(300);

impl Cri {
    /// Connects; `None` when nobody answers yet.
    pub fn connect(socket: &Path) -> Option<Self> {
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sender = tokio.block_on(async {
            let stream = TokioIo::new(UnixStream::connect(socket).await.ok()?);
            let executor = TokioExecutor::new();
            let (sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.ok()?;
            tokio::spawn(connection);
            Some(sender)
        })?;
        Some(Self { tokio, sender })
    }

    /// Names of the conditions that hold, such as `NetworkReady`.
    pub fn conditions(&mut self) -> Result<Vec<String>, String> {
        let reply: StatusResponse = self.call("Status", &Empty {})?;
        let conditions = reply.status.unwrap_or_default().conditions;
        Ok(conditions
            .into_iter()
            .filter(|condition| condition.status)
            .map(|condition| condition.kind)
            .collect())
    }

    /// Makes a sandbox and connects it; returns its ID.
    pub fn run_pod_sandbox(&mut self, config: &SandboxConfig) -> Result<String, String> {
        let request = RunPodSandbox { config: Some(config.clone()) };
        self.call::<Id>("RunPodSandbox", &request).map(|reply| reply.id)
    }

    /// The sandbox's addresses, the first one first.
    pub fn addresses(&mut self, sandbox: &str) -> Result<Vec<String>, String> {
        let reply: SandboxStatusResponse = self.call("PodSandboxStatus", &Id { id: sandbox.to_owned() })?;
        let network = reply.status.and_then(|status| status.network).unwrap_or_default();
        let more = network.additional.into_iter().map(|entry| entry.id);
        Ok(std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect())
    }

    /// Disconnects a sandbox and ends its processes.
    pub fn stop_pod_sandbox(&mut self, sandbox: &str) -> Result<(), String> {
        self.call::<Empty>("StopPodSandbox", &Id { id: sandbox.to_owned() }).map(drop)
    }

    /// Removes what is left of a sandbox.
    pub fn remove_pod_sandbox(&mut self, sandbox: &str) -> Result<(), String> {
        self.call::<Empty>("RemovePodSandbox", &Id { id: sandbox.to_owned() }).map(drop)
    }

    /// IDs of all sandboxes.
    pub fn sandboxes(&mut self) -> Result<Vec<String>, String> {
        let reply: SandboxList = self.call("ListPodSandbox", &Empty {})?;
        Ok(reply.items.into_iter().map(|entry| entry.id).collect())
    }

    /// Makes and starts a container; returns its ID.
    pub fn run_container(
        &mut self,
        sandbox: &str,
        config: &SandboxConfig,
        image: &str,
        command: &[&str],
    ) -> Result<String, String> {
        let request = CreateContainer {
            sandbox: sandbox.to_owned(),
            config: Some(ContainerConfig {
                metadata: Some(Name { name: "main".to_owned() }),
                image: Some(Name { name: image.to_owned() }),
                command: command.iter().map(|word| (*word).to_owned()).collect(),
                log_path: "main.log".to_owned(),
                linux: Some(Empty {}),
            }),
            sandbox_config: Some(config.clone()),
        };
        let Id { id } = self.call("CreateContainer", &request)?;
        self.call::<Empty>("StartContainer", &Id { id: id.clone() })?;
        Ok(id)
    }

    /// Exit status and output of a command in a container.
    pub fn exec(&mut self, container: &str, command: &[&str]) -> Result<(i32, String), String> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let reply: ExecResponse =
            self.call("ExecSync", &Exec { container: container.to_owned(), command, timeout: 30 })?;
        Ok((reply.exit_code, String::from_utf8_lossy(&reply.stdout).into_owned()))
    }

    /// One unary call; the error is the runtime's own text.
    fn call<R: Message + Default>(&mut self, method: &str, request: &impl Message) -> Result<R, String> {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(request.encoded_len() as u32);
        request.encode(&mut frame).expect("the buffer grows");
        let uri: Uri = format!("http://localhost/runtime.v1.RuntimeService/{method}").parse().unwrap();
        let request = Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(frame.freeze()))
            .unwrap();
        let sending = self.sender.send_request(request);
        let answered = async {
            let response = sending.await.map_err(|error| error.to_string())?;
            let early = response.headers().clone();
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
            let trailers = body.trailers().cloned().unwrap_or(early);
            Ok::<_, String>((trailers, body.to_bytes()))
        };
        let answered = self.tokio.block_on(async { timeout(LIMIT, answered).await });
        let (trailers, bytes) = answered.map_err(|_| format!("{method}: no answer"))??;
        let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if text("grpc-status") != "0" {
            return Err(percent_decoded(text("grpc-message")));
        }
        R::decode(bytes.get(5..).unwrap_or_default()).map_err(|error| format!("{method}: {error}"))
    }
}

/// gRPC writes what is not printable ASCII as `%XX`.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%');
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// Many messages hold one string as their first field.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<SandboxMetadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(message, repeated, tag = "5")]
    pub ports: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "6")]
    pub labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SandboxMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct PortMapping {
    #[prost(int32, tag = "2")]
    pub container: i32,
    #[prost(int32, tag = "3")]
    pub host: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct LinuxSandbox {
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<NetworkStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct NetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional: Vec<Id>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxList {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Id>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Name>,
    #[prost(message, optional, tag = "2")]
    image: Option<Name>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<Empty>,
}

#[derive(Clone, PartialEq, Message)]
struct Exec {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}
