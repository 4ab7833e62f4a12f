//! The loop. Owns sockets and the speaker, and carries bytes and time between them; decides nothing.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bgp::{Closed, ConnId, Output, Password, PeerKey, Speaker};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::connection::Connection;
use crate::options::{connect_failure, same_family, set_md5, set_session, set_ttl_security};
use crate::{PortOwner, port_owner};

/// Waiting connections that the kernel keeps until they are accepted: a whole cluster may connect at once.
const BACKLOG: u32 = 4096;
/// Bytes that are read from one peer before the others have their turn.
const READ_QUANTUM: usize = 256 * 1024;
/// Events that are handled before the owner has its turn.
const EVENT_QUANTUM: usize = 256;

/// What tasks tell the loop. Each connection has at most one of a kind under way.
#[derive(Debug)]
pub(crate) enum Io {
    Accepted(TcpStream, SocketAddr),
    Connected(ConnId, io::Result<TcpStream>),
    Readable(ConnId),
    Writable(ConnId),
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has it.
    #[error("cannot listen on {address}: {}", describe_owner(.owner.as_ref()))]
    InUse {
        /// Address and port.
        address: SocketAddr,
        /// The process, if it can be seen.
        owner: Option<PortOwner>,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// Address and port.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

fn describe_owner(owner: Option<&PortOwner>) -> String {
    match owner {
        Some(owner) => format!("the port is held by {owner}; stop it or set another listen port"),
        None => "the port is held by another process; stop it or set another listen port".to_owned(),
    }
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    socket: std::sync::Arc<TcpListener>,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a speaker on real sockets. Must live inside a tokio runtime.
#[derive(Debug)]
pub struct Driver {
    speaker: Speaker,
    listeners: Vec<Listener>,
    passwords: HashMap<PeerKey, Password>,
    connections: HashMap<ConnId, Connection>,
    events: mpsc::Sender<Io>,
    inbox: mpsc::Receiver<Io>,
    buffer: Vec<u8>,
}

impl Driver {
    /// A driver that does not listen yet.
    pub fn new(speaker: Speaker) -> Self {
        let (events, inbox) = mpsc::channel(1024);
        Self {
            speaker,
            listeners: Vec::new(),
            passwords: HashMap::new(),
            connections: HashMap::new(),
            events,
            inbox,
            buffer: vec![0; 64 * 1024],
        }
    }

    /// The speaker, to ask.
    pub fn speaker(&self) -> &Speaker {
        &self.speaker
    }

    /// The speaker, to change. What it wants done is done by the next [`Self::turn`].
    pub fn speaker_mut(&mut self) -> &mut Speaker {
        &mut self.speaker
    }

    /// Addresses that are listened on.
    pub fn listening(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.listeners.iter().map(|l| l.address)
    }

    /// Listens on exactly `addresses`: those that stay are not touched.
    ///
    /// # Errors
    /// One for each address that failed; the others are listened on.
    pub fn listen(&mut self, addresses: &[SocketAddr]) -> Result<(), Vec<ListenError>> {
        self.listeners.retain(|l| addresses.contains(&l.address));
        let mut errors = Vec::new();
        for address in addresses {
            if self.listeners.iter().any(|l| l.address == *address) {
                continue;
            }
            match self.bind(*address) {
                Ok(listener) => self.listeners.push(listener),
                Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                    let owner = port_owner(address.port());
                    errors.push(ListenError::InUse { address: *address, owner });
                }
                Err(source) => errors.push(ListenError::Other { address: *address, source }),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Listener> {
        let socket = new_socket(address.ip())?;
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        }
        socket.bind(address)?;
        let listener = std::sync::Arc::new(socket.listen(BACKLOG)?);
        for (peer, password) in &self.passwords {
            if same_family(address, peer.address()) {
                set_md5(&*listener, peer.address(), Some(password))?;
            }
        }
        let address = if address.port() == 0 { listener.local_addr()? } else { address };
        let (accepting, events) = (listener.clone(), self.events.clone());
        let task = tokio::spawn(async move { accept(&accepting, &events).await });
        Ok(Listener { address, socket: listener, task: task.abort_handle() })
    }

    /// Carries bytes and time until something has happened. Then ask the speaker for events and routes.
    /// May be dropped at any time without loss.
    pub async fn turn(&mut self) {
        self.perform();
        let deadline = self.speaker.poll_timeout();
        let sleep = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = self.inbox.recv() => {
                let mut next = event;
                for _ in 0..EVENT_QUANTUM {
                    let Some(event) = next else { break };
                    self.handle(event);
                    next = self.inbox.try_recv().ok();
                }
                if let Some(event) = next {
                    self.handle(event);
                }
            }
            () = sleep => {}
        }
        self.speaker.handle_timeout(now());
        self.perform();
    }

    fn handle(&mut self, event: Io) {
        match event {
            Io::Accepted(stream, remote) => self.accepted(stream, remote),
            Io::Connected(conn, result) => self.connected(conn, result),
            Io::Readable(conn) => self.readable(conn),
            Io::Writable(conn) => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.writable();
                }
                self.write(conn);
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream, remote: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        let conn = match self.speaker.handle_incoming(remote, local, now()) {
            Ok(conn) => conn,
            Err(refused) => return tracing::debug!(%remote, %refused, "connection refused"),
        };
        let config = self.speaker.peer_config(remote);
        let (hold_time, hops) = config.map_or((90, None), |c| (c.hold_time, c.ttl_security));
        let set = set_session(&stream, hold_time)
            .and_then(|()| hops.map_or(Ok(()), |hops| set_ttl_security(&stream, remote.ip(), hops)));
        if let Err(error) = set {
            tracing::warn!(%remote, %error, "cannot set socket options");
        }
        self.connections.insert(conn, Connection::open(conn, stream, self.events.clone()));
    }

    fn connected(&mut self, conn: ConnId, result: io::Result<TcpStream>) {
        // An attempt that was given up in the meantime is not in the table any more.
        if !self.connections.contains_key(&conn) {
            return;
        }
        match result.and_then(|stream| Ok((stream.local_addr()?, stream))) {
            Ok((local, stream)) => {
                self.connections.insert(conn, Connection::open(conn, stream, self.events.clone()));
                self.speaker.handle_connected(conn, local, now());
            }
            Err(error) => {
                self.connections.remove(&conn);
                self.speaker.handle_connect_failed(conn, connect_failure(&error), now());
            }
        }
    }

    fn readable(&mut self, conn: ConnId) {
        let mut total = 0;
        while total < READ_QUANTUM {
            let Some(connection) = self.connections.get_mut(&conn) else { return };
            match connection.read(&mut self.buffer) {
                Ok(0) => return self.lost(conn, Closed::Eof),
                Ok(n) => {
                    total += n;
                    feed(&mut self.speaker, conn, &mut connection.partial, &self.buffer[..n]);
                    if n < self.buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.lost(conn, Closed::Error(error.to_string())),
            }
        }
        if let Some(connection) = self.connections.get(&conn) {
            connection.resume();
        }
    }

    fn lost(&mut self, conn: ConnId, closed: Closed) {
        if let Some(connection) = self.connections.remove(&conn) {
            connection.close();
        }
        self.speaker.handle_closed(conn, closed, now());
    }

    fn write(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        match connection.write(conn, &self.events) {
            Ok(n) => self.speaker.handle_sent(conn, n),
            // Bytes that came before the connection broke say why it did: they are read first.
            Err(error) => {
                self.readable(conn);
                self.lost(conn, Closed::Error(error.to_string()));
            }
        }
    }

    /// Does all that the speaker wants done.
    fn perform(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Send { conn, bytes } => {
                    if let Some(connection) = self.connections.get_mut(&conn) {
                        connection.push(bytes);
                        self.write(conn);
                    }
                }
                Output::Close { conn } => {
                    if let Some(connection) = self.connections.remove(&conn) {
                        connection.close();
                    }
                }
                Output::Connect { conn, remote, local, password, ttl_security, hold_time } => {
                    let events = self.events.clone();
                    let task = tokio::spawn(async move {
                        let stream = connect(remote, local, password, ttl_security, hold_time).await;
                        let _ = events.send(Io::Connected(conn, stream)).await;
                    });
                    self.connections.insert(conn, Connection::connecting(task.abort_handle()));
                }
                Output::ListenPassword { peer, password } => self.set_password(peer, password),
            }
        }
    }

    fn set_password(&mut self, peer: PeerKey, password: Option<Password>) {
        for listener in self.listeners.iter().filter(|l| same_family(l.address, peer.address())) {
            if let Err(error) = set_md5(&*listener.socket, peer.address(), password.as_ref()) {
                tracing::warn!(%peer, %error, "cannot set the TCP MD5 key; see net.core.optmem_max");
            }
        }
        match password {
            Some(password) => self.passwords.insert(peer, password),
            None => self.passwords.remove(&peer),
        };
    }
}

/// Hands bytes to the speaker; keeps the beginning of a message whose rest has not come.
fn feed(speaker: &mut Speaker, conn: ConnId, partial: &mut Vec<u8>, bytes: &[u8]) {
    if partial.is_empty() {
        let used = speaker.handle_data(conn, bytes, now());
        partial.extend_from_slice(&bytes[used..]);
        return;
    }
    partial.extend_from_slice(bytes);
    let used = speaker.handle_data(conn, partial, now());
    partial.drain(..used);
    if partial.is_empty() {
        partial.shrink_to(4096);
    }
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

async fn accept(listener: &TcpListener, events: &mpsc::Sender<Io>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                if events.send(Io::Accepted(stream, remote)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: give those in use time to be closed.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

fn new_socket(address: IpAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn connect(
    remote: SocketAddr,
    local: Option<IpAddr>,
    password: Option<Password>,
    ttl_security: Option<u8>,
    hold_time: u16,
) -> io::Result<TcpStream> {
    let socket = new_socket(remote.ip())?;
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    set_session(&socket, hold_time)?;
    if let Some(password) = &password {
        set_md5(&socket, remote.ip(), Some(password))?;
    }
    if let Some(hops) = ttl_security {
        set_ttl_security(&socket, remote.ip(), hops)?;
    }
    socket.connect(remote).await
}
