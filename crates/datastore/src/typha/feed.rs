//! The one connection of a program with typha, for everybody in it who listens.
//!
//! Owns that it comes back: what was told stays as it is until then, the next typha says what differs. Who falls back
//! hears the same from the API server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanout::{Event, Follower};
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use kube::Client;
use model::NodeName;
use proto::typha::{FromClient, FromServer};
use proto::{MAX_FRAME, encode_frame};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::discovery::{Found, order, resolve};
use super::{FIELDS, Incoming, Settings, client_config};
use crate::watch::sources::watch_raw;
use crate::watch::{Kind, RawStream, Retry};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that wait for one who listens.
const CHANNEL: usize = 256;
/// How long a connection must hold for the next attempts to be quick again.
const GOOD: Duration = Duration::from_secs(10);

/// See the module. Cheap to clone; the connection lives as long as one clone.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    asks: mpsc::UnboundedSender<Ask>,
}

#[derive(Debug)]
struct Ask {
    kinds: Vec<Kind>,
    sender: mpsc::Sender<(Kind, Event)>,
}

/// Both directions of a connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Feed {
    /// Connects for a program on a node.
    pub(crate) fn start(client: Client, settings: Settings, node: &NodeName, program: &str) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let follower = Follower::new(node.as_str(), program, env!("CARGO_PKG_VERSION"), FIELDS);
        let worker = Worker {
            settings,
            client,
            node: node.to_string(),
            follower,
            asked,
            listeners: Vec::new(),
            known: Vec::new(),
            left: None,
            direct: None,
        };
        tokio::spawn(worker.run());
        Self { asks }
    }

    /// All objects of kinds, as a list and then what changes, for ever. A slow listener slows the others down.
    pub(crate) fn subscribe(&self, kinds: Vec<Kind>) -> mpsc::Receiver<(Kind, Event)> {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        // Without the worker there is nobody to hear from, and the stream ends.
        let _ = self.asks.send(Ask { kinds, sender });
        receiver
    }
}

struct Listener {
    /// Whether a list of it has begun for this one.
    kinds: BTreeMap<Kind, bool>,
    sender: mpsc::Sender<(Kind, Event)>,
}

struct Worker {
    settings: Settings,
    client: Client,
    node: String,
    follower: Follower,
    asked: mpsc::UnboundedReceiver<Ask>,
    listeners: Vec<Listener>,
    /// The last addresses that were found, for when the API server is away too.
    known: Vec<Found>,
    /// The address that was connected last.
    left: Option<SocketAddr>,
    /// Watches of the API server while there is no typha.
    direct: Option<SelectAll<RawStream>>,
}

/// Nobody listens any more.
struct Over;

impl Worker {
    async fn run(mut self) {
        let _: Result<(), Over> = self.stay().await;
    }

    async fn stay(&mut self) -> Result<(), Over> {
        // Who wants nothing needs no connection.
        let first = self.asked.recv().await.ok_or(Over)?;
        self.ask(first);
        let mut retry = Retry::new();
        let mut alone_since = Instant::now();
        loop {
            match self.connect_and_meanwhile().await? {
                Ok(stream) => {
                    let since = Instant::now();
                    let end = self.follow(stream).await?;
                    tracing::warn!(reason = end, "typha is gone; what it said stays, another is looked for");
                    if since.elapsed() >= GOOD {
                        retry = Retry::new();
                    }
                    if self.follower.is_welcome() {
                        alone_since = Instant::now();
                    }
                }
                Err(reason) => tracing::warn!(reason, "no typha; it is tried again"),
            }
            self.fall_back_after(alone_since);
            let pause = retry.next().unwrap_or(CONNECT_TIMEOUT);
            self.meanwhile(sleep(pause)).await?;
        }
    }

    /// Watches the API server when there has been no typha for long enough.
    fn fall_back_after(&mut self, alone_since: Instant) {
        let is_due = self.settings.fallback.is_some_and(|after| alone_since.elapsed() >= after);
        if is_due && self.direct.is_none() {
            tracing::warn!("no typha for a long time; the API server itself is watched");
            self.follower.forget();
            self.direct = Some(self.direct_watches());
        }
    }

    fn direct_watches(&self) -> SelectAll<RawStream> {
        let mut kinds: Vec<Kind> =
            self.listeners.iter().flat_map(|listener| listener.kinds.keys().copied()).collect();
        kinds.sort();
        kinds.dedup();
        kinds.into_iter().map(|kind| watch_raw(self.client.clone(), kind)).collect()
    }

    fn ask(&mut self, ask: Ask) {
        for name in ask.kinds.iter().filter_map(|kind| kind.shared_name()) {
            self.follower.subscribe(name);
        }
        let kinds = ask.kinds.into_iter().map(|kind| (kind, false)).collect();
        self.listeners.push(Listener { kinds, sender: ask.sender });
        if self.direct.is_some() {
            self.direct = Some(self.direct_watches());
        }
    }

    /// Waits for something, and serves who listens.
    async fn meanwhile<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T, Over> {
        let mut wanted = std::pin::pin!(wanted);
        loop {
            let event = tokio::select! {
                done = &mut wanted => return Ok(done),
                ask = self.asked.recv() => {
                    self.ask(ask.ok_or(Over)?);
                    continue;
                }
                Some(event) = next(&mut self.direct) => event,
            };
            self.deliver(event.0, event.1).await;
        }
    }

    async fn connect_and_meanwhile(&mut self) -> Result<Result<Box<dyn Stream>, String>, Over> {
        let (settings, client) = (self.settings.clone(), self.client.clone());
        let (node, known, left) = (self.node.clone(), self.known.clone(), self.left);
        let connected = self.meanwhile(connect(settings, client, node, known, left)).await?;
        Ok(connected.map(|(stream, address, found)| {
            tracing::info!(%address, "connected with typha");
            self.left = Some(address);
            self.known = found;
            stream
        }))
    }

    /// Listens until the connection is of no use any more, and says why.
    async fn follow(&mut self, stream: Box<dyn Stream>) -> Result<String, Over> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut incoming = Incoming::new(MAX_FRAME);
        let hello = self.follower.connected();
        let within = self.settings.write_timeout;
        if let Err(reason) = send(&mut writer, &[hello], within).await {
            return Ok(reason);
        }
        loop {
            let message = tokio::select! {
                message = timeout(self.settings.read_timeout, incoming.next::<FromServer>(&mut reader)) => message,
                ask = self.asked.recv() => {
                    self.ask(ask.ok_or(Over)?);
                    let answers = self.follower.take_answers();
                    if let Err(reason) = send(&mut writer, &answers, within).await {
                        return Ok(reason);
                    }
                    continue;
                }
            };
            let message = match message {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ok("it closed the connection".to_owned()),
                Ok(Err(error)) => return Ok(error.to_string()),
                Err(_) => return Ok("it says nothing".to_owned()),
            };
            match self.follower.handle(message) {
                Ok(events) => {
                    if self.follower.is_welcome() {
                        self.direct = None;
                    }
                    for (kind, event) in events {
                        if let Some(kind) = Kind::shared(&kind) {
                            self.deliver(kind, event).await;
                        }
                    }
                }
                Err(error) => return Ok(error.to_string()),
            }
            let answers = self.follower.take_answers();
            if let Err(reason) = send(&mut writer, &answers, within).await {
                return Ok(reason);
            }
        }
    }

    /// Tells an event to all who wait for it.
    async fn deliver(&mut self, kind: Kind, event: Event) {
        let mut is_gone = false;
        for listener in &mut self.listeners {
            let Some(begun) = listener.kinds.get_mut(&kind) else { continue };
            *begun |= matches!(event, Event::ListBegins | Event::Missing);
            if *begun {
                is_gone |= listener.sender.send((kind, event.clone())).await.is_err();
            }
        }
        if is_gone {
            self.listeners.retain(|listener| !listener.sender.is_closed());
        }
    }
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    messages: &[FromClient],
    within: Duration,
) -> Result<(), String> {
    if messages.is_empty() {
        return Ok(());
    }
    let octets: Vec<u8> = messages.iter().flat_map(encode_frame).collect();
    let written = async {
        writer.write_all(&octets).await?;
        writer.flush().await
    };
    match timeout(within, written).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it takes nothing".to_owned()),
    }
}

async fn next(direct: &mut Option<SelectAll<RawStream>>) -> Option<(Kind, Event)> {
    match direct {
        Some(streams) if !streams.is_empty() => streams.next().await,
        _ => std::future::pending().await,
    }
}

/// Connects with one of the endpoints that there are.
async fn connect(
    settings: Settings,
    client: Client,
    node: String,
    known: Vec<Found>,
    left: Option<SocketAddr>,
) -> Result<(Box<dyn Stream>, SocketAddr, Vec<Found>), String> {
    let found = match resolve(&settings.place, &client).await {
        Ok(found) => found,
        Err(reason) if known.is_empty() => return Err(reason),
        Err(_) => known,
    };
    let mut failures = "typha has no endpoint that is ready".to_owned();
    for address in order(found.clone(), &node, left, random()) {
        match timeout(CONNECT_TIMEOUT, connect_to(&settings, address)).await {
            Ok(Ok(stream)) => return Ok((stream, address, found)),
            Ok(Err(reason)) => failures = format!("{address}: {reason}"),
            Err(_) => failures = format!("{address}: no answer in time"),
        }
    }
    Err(failures)
}

async fn connect_to(settings: &Settings, address: SocketAddr) -> Result<Box<dyn Stream>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    // Pongs are small and waited for.
    let _ = stream.set_nodelay(true);
    let Some((files, server)) = &settings.tls else { return Ok(Box::new(stream)) };
    let config = client_config(files, server).map_err(|error| error.to_string())?;
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| error.to_string())?))
}

/// Another number each time.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
