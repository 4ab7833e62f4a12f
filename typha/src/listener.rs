//! Connections of clients: accepted, known by their certificates, and served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datastore::typha::{Identity, Incoming, ServerTls, peer_matches};
use fanout::ClientId;
use parking_lot::Mutex;
use proto::typha::FromClient;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::hub::Hub;

/// Longest message of a client, octets.
const MAX_MESSAGE: usize = 64 << 10;
/// Octets that are written before anything is read.
const BURST: usize = 256 << 10;
/// Handshakes at once; others wait in the kernel's queue.
const HANDSHAKES: usize = 64;
/// How often the files of certificates are looked at.
const RELOAD: Duration = Duration::from_secs(10);

/// How connections are treated.
pub struct Listener {
    pub hub: Arc<Hub>,
    /// `None`: without TLS.
    pub tls: Option<Arc<Mutex<ServerTls>>>,
    /// Who may connect.
    pub clients: Identity,
    /// More connections are refused.
    pub most: usize,
    pub handshake: Duration,
    /// What is written must be taken within this.
    pub write: Duration,
}

impl Listener {
    /// Accepts until `stopped`; connections live on.
    pub async fn run(self: Arc<Self>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let permit = handshakes.clone().acquire_owned().await.expect("the semaphore is never closed");
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let listener = self.clone();
                    tokio::spawn(async move {
                        let end = listener.serve(stream, peer, permit).await;
                        tracing::debug!(%peer, ?end, "connection ends");
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Follows the files of certificates, for ever; what was in force stays when they cannot be used.
    pub async fn follow_files(tls: Arc<Mutex<ServerTls>>) {
        let mut failed = false;
        loop {
            tokio::time::sleep(RELOAD).await;
            let reloaded = tls.lock().reload();
            match &reloaded {
                Ok(true) => tracing::info!("new certificates are in force"),
                Err(error) if !failed => tracing::error!(%error, "certificates stay as they were"),
                Ok(false) | Err(_) => {}
            }
            failed = reloaded.is_err();
        }
    }

    async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> io::Result<()> {
        if self.hub.look(fanout::Server::connections) >= self.most {
            return Err(io::Error::other("there are too many connections"));
        }
        stream.set_nodelay(true)?;
        let Some(config) = self.tls.as_ref().map(|tls| tls.lock().config()) else {
            drop(permit);
            return self.carry(stream).await;
        };
        let accepted = timeout(self.handshake, TlsAcceptor::from(config).accept(stream)).await;
        let stream = accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        drop(permit);
        if !peer_matches(stream.get_ref().1.peer_certificates(), &self.clients) {
            tracing::warn!(%peer, "a certificate of our CA names nobody who may connect");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.carry(stream).await
    }

    /// Carries octets until the connection ends.
    async fn carry(&self, stream: impl AsyncRead + AsyncWrite) -> io::Result<()> {
        let (id, wake) = self.hub.connect();
        let _connected = Connected { hub: &self.hub, id };
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut incoming = Incoming::new(MAX_MESSAGE);
        loop {
            let (frames, is_over) = self.hub.poll(id, BURST);
            let may_wait = frames.is_empty();
            if !may_wait {
                timeout(self.write, write(&mut writer, frames))
                    .await
                    .map_err(|_| io::Error::other("it does not read"))??;
            }
            if is_over {
                return writer.shutdown().await;
            }
            tokio::select! {
                biased;
                message = incoming.next::<FromClient>(&mut reader) => match message? {
                    Some(message) => self.hub.message(id, message),
                    None => return Ok(()),
                },
                () = wake.notified(), if may_wait => {}
                () = std::future::ready(()), if !may_wait => {}
            }
        }
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), frames: Vec<Bytes>) -> io::Result<()> {
    for frame in frames {
        writer.write_all(&frame).await?;
    }
    writer.flush().await
}

/// Says goodbye to the machine, however the connection ends.
struct Connected<'a> {
    hub: &'a Hub,
    id: ClientId,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.hub.disconnect(self.id);
    }
}
