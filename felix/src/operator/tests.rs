//! The operator's socket as a gRPC client has it: HTTP/2 by hand, so that both ends cannot be wrong alike.

use std::path::PathBuf;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kernel::IptablesTable;
use model::{Family, LocalEndpoint, PodKey, Update};
use operator_socket::ControlSocket;
use prost::Message;
use tokio::net::UnixStream;

use super::*;
use crate::command::Command;
use crate::metrics::Metrics;
use crate::settings::Overrides;
use crate::worker::tests::Node;

/// A deadline for what should take milliseconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// An agent over a kernel in memory, with one client.
struct Agent {
    kernel: kernel::fake::FakeKernel,
    drops: Arc<DropLog>,
    dataplane: Dataplane,
    client: SendRequest<Full<Bytes>>,
    _socket: ControlSocket,
}

impl Agent {
    async fn start(test: &str) -> Self {
        let mut node = Node::new(Overrides::default());
        node.update(Update::InSync);
        let kernel = node.kernel.clone();
        let (dataplane, commands) = Dataplane::channel();
        std::thread::spawn(move || node.worker.run(&commands));
        let drops = DropLog::new(Arc::new(Metrics::new("n1")));
        let path: PathBuf = std::env::temp_dir().join(format!("felix-{test}-{}.sock", std::process::id()));
        let operator = Operator {
            node: "n1".into(),
            drops: drops.clone(),
            dataplane: dataplane.clone(),
            suspected: Arc::default(),
        };
        let socket = ControlSocket::bind(&path, operator).unwrap();
        let stream = TokioIo::new(UnixStream::connect(&path).await.unwrap());
        let (client, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        Self { kernel, drops, dataplane, client, _socket: socket }
    }

    /// Begins a call (gRPC over HTTP/2, "Requests").
    async fn call(&mut self, path: &str, question: &impl Message) -> Answer {
        let mut body = vec![0];
        body.extend(u32::try_from(question.encoded_len()).unwrap().to_be_bytes());
        body.extend(question.encode_to_vec());
        let request = Request::post(format!("http://felix{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let answer = tokio::time::timeout(DEADLINE, self.client.send_request(request)).await;
        let (head, body) = answer.expect("an answer in time").unwrap().into_parts();
        Answer { body, waiting: BytesMut::new(), trailers: head.headers }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.dataplane.send(Command::Stop);
    }
}

/// Messages as they come, and how it ended.
struct Answer {
    body: Incoming,
    waiting: BytesMut,
    /// Of a call that is refused outright, these stand in the head.
    trailers: HeaderMap,
}

impl Answer {
    /// The next message; `None` at the end.
    async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some((head, rest)) = self.waiting.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if rest.len() >= length {
                    self.waiting.advance(5);
                    return Some(M::decode(self.waiting.split_to(length)).unwrap());
                }
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("a frame in time")?;
            match frame.unwrap().into_data() {
                Ok(data) => self.waiting.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().unwrap(),
            }
        }
    }

    fn status(&self) -> &str {
        self.trailers.get("grpc-status").map_or("none", |status| status.to_str().unwrap())
    }
}

fn path(call: &str) -> String {
    format!("{}{call}", api::SERVICE)
}

fn question() -> request::Explain {
    request::Explain {
        source: "10.65.0.1".to_owned(),
        destination: "10.65.0.2".to_owned(),
        protocol: 6,
        destination_port: 80,
        ..request::Explain::default()
    }
}

fn pod(number: u8) -> LocalEndpoint {
    LocalEndpoint {
        container_id: format!("c{number}"),
        pod: PodKey::new("default", format!("p{number}").as_str()),
        interface: format!("cali{number}"),
        addresses: vec![[10, 65, 0, number].into()],
        mac: [2, 0, 0, 0, 0, number],
    }
}

#[tokio::test]
async fn explain_is_answered_and_shows_what_differs_in_the_kernel() {
    let mut agent = Agent::start("explain").await;
    for number in [1, 2] {
        agent.dataplane.send(Command::EndpointUp { endpoint: pod(number), waiter: None });
    }
    let mut answer = agent.call(&path("Explain"), &question()).await;
    let told: api::Explained = answer.next().await.unwrap();
    assert!(answer.next::<api::Explained>().await.is_none());
    assert_eq!((answer.status(), told.node.as_str()), ("0", "n1"));
    assert_eq!((told.from_interface.as_str(), told.to_interface.as_str()), ("cali1", "cali2"));

    // Somebody empties a chain on the packet's way, and one of another pod; nobody tells the agent.
    agent.call(&path("Explain"), &question()).await.next::<api::Explained>().await.unwrap();
    {
        let mut state = agent.kernel.state();
        let chains = &mut state.chains.get_mut(&(Family::V4, IptablesTable::Filter)).unwrap().rules;
        for chain in ["cali-fw-cali1", "cali-tw-cali1"] {
            chains.get_mut(chain).unwrap().clear();
        }
    }
    let told: api::Explained = agent.call(&path("Explain"), &question()).await.next().await.unwrap();
    let differs = |told: &api::Explained, kind: &str| -> Vec<String> {
        let of_kind = told.differences.iter().filter(|difference| difference.kind == kind);
        of_kind.map(|difference| difference.entry.clone()).collect()
    };
    let on_its_way = ["table filter: chain cali-fw-cali1"];
    assert_eq!(differs(&told, "iptables"), on_its_way, "the other chain is for packets to that pod");
    assert_eq!(differs(&told, "link"), ["cali1", "cali2"], "these pods were never made");

    // What was told is put right.
    let told: api::Explained = agent.call(&path("Explain"), &question()).await.next().await.unwrap();
    assert!(differs(&told, "iptables").is_empty(), "{:?}", told.differences);
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_in_words() {
    let mut agent = Agent::start("refused").await;
    let mut question = question();
    question.source = "fd00::1".to_owned();

    let mut answer = agent.call(&path("Explain"), &question).await;

    assert!(answer.next::<api::Explained>().await.is_none());
    assert_eq!(answer.status(), "3", "INVALID_ARGUMENT");
}

#[tokio::test]
async fn drops_stream_what_is_kept_and_then_what_comes() {
    let mut agent = Agent::start("drops").await;
    let record = |policy: &str| api::Drop { policy: policy.to_owned(), count: 1, ..api::Drop::default() };
    agent.drops.take(record("knp/default/one"), Instant::now());

    let once = request::Drops::default();
    let mut answer = agent.call(&path("Drops"), &once).await;
    let page: api::Drops = answer.next().await.unwrap();
    assert_eq!((page.records[0].policy.as_str(), page.more), ("knp/default/one", false));
    assert!(answer.next::<api::Drops>().await.is_none());
    assert_eq!(answer.status(), "0");

    let follow = request::Drops { follow: true, ..request::Drops::default() };
    let mut answer = agent.call(&path("Drops"), &follow).await;
    let page: api::Drops = answer.next().await.unwrap();
    assert_eq!((page.records.len(), page.more), (1, true));
    agent.drops.take(record("knp/default/two"), Instant::now());
    let page: api::Drops = answer.next().await.unwrap();
    assert_eq!(page.records[0].policy, "knp/default/two");
}

#[tokio::test]
async fn unknown_calls_are_unimplemented() {
    let mut agent = Agent::start("unknown").await;

    for path in [path("Reboot"), "/ocicat.felix.v2.Operator/Drops".to_owned(), "/".to_owned()] {
        let mut answer = agent.call(&path, &request::Audit {}).await;
        assert!(answer.next::<api::Audit>().await.is_none());
        assert_eq!(answer.status(), "12", "{path}");
    }
}
