//! The unix socket on which a speaker tells about itself. Owns the socket, its framing, and the words of the
//! contract; what is asked is answered by whoever owns the [`Driver`].

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::{Cause, PeerKey, PeerState, PeerStatus, Rejection, RouteSource, RouteStatus, Speaker};
use bgp_packet::{Community, PathAttributes, Prefix};
use proto::speaker::{Peer, Request, Response, Route, Routes, Summary, request::Call, response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::Driver;

/// Longest request.
const MAX_REQUEST: usize = 64 * 1024;
/// Clients at a time; others wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;
/// How long a client may be silent or slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client asked, and the way back to it.
#[derive(Debug)]
pub struct ControlRequest {
    /// The request.
    pub request: Request,
    reply: oneshot::Sender<Response>,
}

impl ControlRequest {
    /// Sends the answer; a client that has gone meanwhile is no error.
    pub fn answer(self, answer: response::Answer) {
        let _ = self.reply.send(Response { answer: Some(answer) });
    }
}

/// The socket. It is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    requests: mpsc::Receiver<ControlRequest>,
}

impl ControlSocket {
    /// Listens on `path`, readable and writable by the owner only; takes the place of an older socket.
    ///
    /// # Errors
    /// What the file system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        fs::rename(&temporary, path)?;
        let (sender, requests) = mpsc::channel(MAX_CLIENTS);
        tokio::spawn(serve(listener, sender));
        Ok(Self { path: path.to_owned(), requests })
    }

    /// The next request. May be dropped at any time without loss.
    pub async fn next(&mut self) -> ControlRequest {
        match self.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, sender: mpsc::Sender<ControlRequest>) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    while let Ok(permit) = clients.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let sender = sender.clone();
        if sender.is_closed() {
            return;
        }
        tokio::spawn(async move {
            if let Err(error) = client(stream, &sender).await {
                tracing::debug!(%error, "control client");
            }
            drop(permit);
        });
    }
}

async fn client(mut stream: UnixStream, sender: &mpsc::Sender<ControlRequest>) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let used = match proto::decode_frame::<Request>(&buffer) {
            Ok(Some((request, used))) => {
                let (reply, answer) = oneshot::channel();
                let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                sender.send(ControlRequest { request, reply }).await.map_err(|_| gone(()))?;
                let response = answer.await.map_err(|_| gone(()))?;
                let bytes = proto::encode_frame(&response);
                tokio::time::timeout(PATIENCE, stream.write_all(&bytes)).await??;
                used
            }
            Ok(None) => {
                let mut part = [0; 1024];
                let n = tokio::time::timeout(PATIENCE, stream.read(&mut part)).await??;
                if n == 0 {
                    return Ok(());
                }
                buffer.extend_from_slice(&part[..n]);
                if buffer.len() > MAX_REQUEST {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "request is too long"));
                }
                0
            }
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        buffer.drain(..used);
    }
}

impl Driver {
    /// Answers what only the speaker needs to know. Fields of a summary that are the owner's stay empty.
    pub fn answer(&mut self, request: &Request, now: Instant) -> response::Answer {
        match &request.call {
            Some(Call::Summary(_)) => response::Answer::Summary(self.summary(now)),
            Some(Call::Routes(wanted)) => match routes(self.speaker(), wanted) {
                Ok(routes) => response::Answer::Routes(Routes { routes }),
                Err(error) => response::Answer::Error(error),
            },
            Some(Call::Reset(reset)) => match reset.peer.parse::<PeerKey>() {
                Ok(peer) if self.speaker().peer_at(peer).is_some() => {
                    self.speaker_mut().reset(peer, "", now);
                    response::Answer::Done(response::Done {})
                }
                _ => response::Answer::Error(format!("no peer has the address {:?}", reset.peer)),
            },
            None => response::Answer::Error("this speaker does not know the call".to_owned()),
        }
    }

    fn summary(&self, now: Instant) -> Summary {
        let speaker = self.speaker();
        Summary {
            asn: speaker.config().asn,
            router_id: speaker.config().router_id.to_string(),
            listening: self.listening().map(|a| a.to_string()).collect(),
            restarting: speaker.is_restarting(),
            peers: speaker.peers().into_iter().map(|p| peer(p, now)).collect(),
            routes: speaker.routes_count() as u64,
            cluster_id: speaker.config().cluster_id.map(|id| id.to_string()).unwrap_or_default(),
            ..Summary::default()
        }
    }
}

fn peer(status: PeerStatus, now: Instant) -> Peer {
    let silent = status.state == PeerState::Established && status.sessions <= 1;
    Peer {
        address: status.peer.to_string(),
        description: status.description,
        asn: status.asn.unwrap_or(0),
        router_id: status.router_id.map(|id| id.to_string()).unwrap_or_default(),
        state: format!("{:?}", status.state),
        seconds: now.saturating_duration_since(status.since).as_secs(),
        received: status.received as u64,
        accepted: status.accepted as u64,
        advertised: status.advertised as u64,
        stale: status.stale as u64,
        cause: if silent || status.cause == Cause::Starting {
            String::new()
        } else {
            status.cause.to_string()
        },
        sessions: status.sessions,
        internal: status.internal,
        reflector_client: status.reflector_client,
        dynamic: status.dynamic,
        families: status.families.iter().map(ToString::to_string).collect(),
        hold_time: u32::from(status.hold_time),
        graceful_restart: status.graceful_restart,
        local_address: status.local_address.map(|a| a.to_string()).unwrap_or_default(),
        malformed: status.problems,
        last_malformed: status.last_problem.unwrap_or_default(),
    }
}

fn routes(speaker: &Speaker, wanted: &proto::speaker::request::Routes) -> Result<Vec<Route>, String> {
    let prefix: Option<Prefix> = match wanted.prefix.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|e: bgp_packet::InvalidPrefix| e.to_string())?),
    };
    if !wanted.advertised_to.is_empty() {
        let peer: PeerKey =
            wanted.advertised_to.parse().map_err(|_| format!("{:?} is no address", wanted.advertised_to))?;
        let sent = speaker.advertised(peer).into_iter();
        let sent = sent.filter(|(p, _)| prefix.is_none_or(|wanted| wanted == *p));
        return Ok(sent.map(|(p, a)| attributes(&p, &a)).collect());
    }
    let all = match prefix {
        Some(prefix) => speaker.routes_to(&prefix),
        None => speaker.routes(),
    };
    Ok(all.into_iter().map(|r| route(speaker, r)).collect())
}

fn route(speaker: &Speaker, status: RouteStatus) -> Route {
    let source = match status.source {
        RouteSource::Local => "local".to_owned(),
        RouteSource::Peer(address) => address.to_string(),
    };
    let rejected = status.rejection.map(|rejection| match (rejection, status.source) {
        (Rejection::Policy(rule), RouteSource::Peer(address)) => {
            let config = speaker.peer_config(address);
            format!("import policy: {}", config.map_or("default", |c| c.import.rule_name(rule)))
        }
        (Rejection::AsLoop, _) => "own AS is in the AS path".to_owned(),
        (Rejection::OwnOriginator, _) => "originated by this speaker".to_owned(),
        (Rejection::ClusterLoop, _) => "own cluster is in the cluster list".to_owned(),
        (rejection, _) => format!("{rejection:?}"),
    });
    Route {
        source,
        best: status.best.is_some(),
        reason: status.best.map(|reason| format!("{reason:?}")).unwrap_or_default(),
        rejected: rejected.unwrap_or_default(),
        stale: status.stale,
        ..attributes(&status.prefix, &status.attributes)
    }
}

fn attributes(prefix: &Prefix, a: &PathAttributes) -> Route {
    let communities = a.communities.iter().map(Community::to_string);
    let large = a.large_communities.iter().map(ToString::to_string);
    Route {
        prefix: prefix.to_string(),
        next_hop: a.next_hop.to_string(),
        as_path: a.as_path.to_string(),
        local_pref: a.local_pref,
        med: a.med,
        communities: communities.chain(large).collect(),
        ..Route::default()
    }
}
