//! The loop. Owns sockets and the speaker, and carries bytes and time between them; decides nothing.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bgp::{Closed, ConnId, Output, Password, Speaker};
use bgp_packet::Prefix;

use crate::bfd_door::BfdDoor;
use crate::connection::Connection;
use crate::dial::{self, Dial};
use crate::farewell::Farewells;
use crate::limits;
use crate::listener::{ListenError, Listener};
use crate::options::{same_family, set_common, set_md5, set_ttl_security, set_user_timeout};
use crate::poller::{Poller, Ready, Wait};

/// Size of the buffer that all connections share. A message that came in part (at most 64 KiB) leaves half of it.
const BUFFER: usize = 128 * 1024;
/// Connections that are accepted before those that exist have their turn.
const ACCEPT_QUANTUM: usize = 256;
/// Bytes that are written to one peer before the others have their turn.
const WRITE_QUANTUM: usize = 256 * 1024;
/// Bytes that the speaker may hand out before timers, readers and the owner have their turn.
const OUTPUT_QUANTUM: usize = 1024 * 1024;
/// How often a connection that broke is read at last.
const LAST_READS: usize = 8;
/// Accepted connections that have not said a word; the oldest goes when there are more.
const MAX_SILENT: usize = 4096;
/// How long nothing is accepted when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Tokens of listening sockets, of farewells; those of connections are their names.
const LISTENER: u64 = 1 << 63;
const FAREWELL: u64 = 1 << 62;
/// Tokens of the sockets of BFD: this one and the next three.
const BFD: u64 = 1 << 61;

/// Runs a speaker on real sockets. Must live inside a tokio runtime.
#[derive(Debug)]
pub struct Driver {
    speaker: Speaker,
    poller: Poller,
    listeners: Vec<Listener>,
    next_listener: u64,
    /// Since when nothing is accepted, until when.
    accept_again: Option<Instant>,
    passwords: HashMap<Prefix, Password>,
    /// How far those may be who connect, by family.
    listen_hops: [Option<u8>; 2],
    connections: HashMap<ConnId, Connection>,
    /// Accepted connections in order; some of them have spoken since, or are gone.
    silent: VecDeque<ConnId>,
    farewells: Farewells,
    bfd: BfdDoor,
    /// Connections with something to write that the kernel may have room for.
    dirty: Vec<ConnId>,
    /// The speaker had more to say than one turn carries.
    busy: bool,
    ready: Vec<Ready>,
    buffer: Vec<u8>,
}

impl Driver {
    /// A driver that does not listen yet.
    ///
    /// # Errors
    /// When the system gives no descriptor for it.
    pub fn new(speaker: Speaker) -> io::Result<Self> {
        Ok(Self {
            speaker,
            poller: Poller::new()?,
            listeners: Vec::new(),
            next_listener: 0,
            accept_again: None,
            passwords: HashMap::new(),
            listen_hops: [None; 2],
            connections: HashMap::new(),
            silent: VecDeque::new(),
            farewells: Farewells::default(),
            bfd: BfdDoor::default(),
            dirty: Vec::new(),
            busy: false,
            ready: Vec::new(),
            buffer: vec![0; BUFFER],
        })
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

    /// Listens on exactly `addresses`: those that stay are not touched, and neither is any session.
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
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn bind(&mut self, address: SocketAddr) -> Result<Listener, ListenError> {
        let listener = Listener::bind(address, LISTENER | self.next_listener)?;
        self.next_listener += 1;
        for (peers, password) in &self.passwords {
            if same_family(address.ip(), peers.address()) {
                report_key(*peers, set_md5(&listener.socket, *peers, Some(password)));
            }
        }
        self.set_listen_hops(&listener);
        let added = self.poller.add(&listener.socket, listener.token, Wait::Read);
        added.map_err(|source| ListenError::Other { address, source })?;
        Ok(listener)
    }

    /// Carries bytes and time until something has happened. Then ask the speaker for events and routes.
    /// May be dropped at any time without loss.
    pub async fn turn(&mut self) {
        self.perform();
        if self.busy {
            // Whatever else lives in this runtime has its turn, too.
            tokio::task::yield_now().await;
        } else {
            self.wait().await;
        }
        let now = now();
        self.speaker.handle_timeout(now);
        self.farewells.handle_timeout(now);
        if self.accept_again.is_some_and(|at| at <= now) {
            self.resume_accepting();
        }
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.take(&mut ready);
        for event in &ready {
            self.handle(*event);
        }
        self.ready = ready;
        self.carry_bfd();
        self.perform();
    }

    /// Sends what BFD has to send and tells the speaker what it has to say.
    fn carry_bfd(&mut self) {
        let now = now();
        self.bfd.handle_timeout(now);
        while let Some(word) = self.bfd.poll_word() {
            self.speaker.handle_bfd(word.peer, word.state, word.failure, now);
        }
    }

    async fn wait(&mut self) {
        let deadlines = [
            self.speaker.poll_timeout(),
            self.farewells.poll_timeout(),
            self.accept_again,
            self.bfd.poll_timeout(),
        ];
        match deadlines.into_iter().flatten().min() {
            None => self.poller.ready().await,
            Some(at) => tokio::select! {
                () = self.poller.ready() => {}
                () = tokio::time::sleep_until(at.into()) => {}
            },
        }
    }

    fn handle(&mut self, event: Ready) {
        if event.token & LISTENER != 0 {
            return self.accept(event.token);
        }
        if event.token & FAREWELL != 0 {
            return self.carry_farewell(event.token);
        }
        if event.token & BFD != 0 {
            return self.bfd.handle_ready((event.token & 3) as usize, now());
        }
        let conn = ConnId(event.token);
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if connection.connecting {
            return self.connected(conn);
        }
        if event.writable && connection.blocked {
            connection.blocked = false;
            if self.poller.modify(connection.stream(), conn.0, Wait::Read).is_ok() && !connection.dirty {
                connection.dirty = true;
                self.dirty.push(conn);
            }
        }
        if event.readable {
            self.read(conn);
        }
    }

    fn accept(&mut self, token: u64) {
        for _ in 0..ACCEPT_QUANTUM {
            let Some(listener) = self.listeners.iter().find(|l| l.token == token) else { return };
            match listener.accept() {
                Ok((socket, remote)) => self.accepted(socket.into(), remote),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if limits::is_exhausted(&error) => {
                    tracing::warn!(%error, limit = limits::descriptors(), "cannot accept connections");
                    self.listeners.iter().for_each(|l| self.poller.remove(&l.socket));
                    self.accept_again = Some(now() + ACCEPT_PAUSE);
                    return;
                }
                // The connection broke before it was accepted.
                Err(error) => tracing::debug!(%error, "accept"),
            }
        }
    }

    fn resume_accepting(&mut self) {
        self.accept_again = None;
        for listener in &self.listeners {
            if let Err(error) = self.poller.add(&listener.socket, listener.token, Wait::Read) {
                tracing::debug!(%error, address = %listener.address, "watch listener");
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
        let set = set_common(&stream, remote.ip())
            .and_then(|()| set_user_timeout(&stream, hold_time))
            .and_then(|()| set_ttl_security(&stream, remote.ip(), hops))
            .and_then(|()| self.poller.add(&stream, conn.0, Wait::Read));
        if let Err(error) = set {
            tracing::warn!(%remote, %error, "cannot set socket options");
            return self.speaker.handle_closed(conn, Closed::Error(error.to_string()), now());
        }
        self.connections.insert(conn, Connection::new(stream, false));
        self.note_silent(conn);
    }

    /// Bounds how many connections are open and have never said anything.
    fn note_silent(&mut self, conn: ConnId) {
        self.silent.push_back(conn);
        let silent = |c: &ConnId, all: &HashMap<ConnId, Connection>| all.get(c).is_some_and(|c| c.silent);
        while self.silent.pop_front_if(|c| !silent(c, &self.connections)).is_some() {}
        if self.silent.len() <= MAX_SILENT {
            return;
        }
        self.silent.retain(|c| silent(c, &self.connections));
        if self.silent.len() > MAX_SILENT
            && let Some(oldest) = self.silent.pop_front()
        {
            self.lost(oldest, Closed::Error("too many connections that say nothing".to_owned()));
        }
    }

    fn connect(&mut self, conn: ConnId, dial: &Dial) {
        let stream = match dial.begin() {
            Ok(stream) => stream,
            Err(failure) => return self.speaker.handle_connect_failed(conn, failure, now()),
        };
        if let Err(error) = self.poller.add(&stream, conn.0, Wait::ReadWrite) {
            let failure = bgp::ConnectFailure::Other(error.to_string());
            return self.speaker.handle_connect_failed(conn, failure, now());
        }
        self.connections.insert(conn, Connection::new(stream, true));
    }

    fn connected(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let outcome = dial::outcome(connection.stream());
        let watched = self.poller.modify(connection.stream(), conn.0, Wait::Read);
        match outcome.and_then(|l| watched.map(|()| l).map_err(|e| bgp::ConnectFailure::Other(e.to_string())))
        {
            Ok(local) => {
                connection.connecting = false;
                connection.blocked = false;
                self.speaker.handle_connected(conn, local, now());
            }
            Err(failure) => {
                self.connections.remove(&conn);
                self.speaker.handle_connect_failed(conn, failure, now());
            }
        }
    }

    /// Reads once: the kernel reports what is left in the next turn, when the others had theirs.
    fn read(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        match connection.read(&mut self.buffer) {
            Ok((_, 0)) => self.lost(conn, Closed::Eof),
            Ok((len, _)) => {
                let used = self.speaker.handle_data(conn, &self.buffer[..len], now());
                connection.keep(&self.buffer[used..len]);
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => self.lost(conn, Closed::Error(error.to_string())),
        }
    }

    fn lost(&mut self, conn: ConnId, closed: Closed) {
        self.connections.remove(&conn);
        self.speaker.handle_closed(conn, closed, now());
    }

    /// Does what the speaker wants done, up to a quantum.
    fn perform(&mut self) {
        let mut bytes = 0;
        loop {
            while bytes < OUTPUT_QUANTUM
                && let Some(output) = self.speaker.poll_output()
            {
                bytes += self.execute(output);
            }
            if self.dirty.is_empty() {
                break;
            }
            self.write_dirty();
            if bytes >= OUTPUT_QUANTUM {
                break;
            }
        }
        self.busy = bytes >= OUTPUT_QUANTUM;
    }

    /// Does one thing; gives back how many bytes it queued.
    fn execute(&mut self, output: Output) -> usize {
        match output {
            Output::Send { conn, bytes } => {
                let Some(connection) = self.connections.get_mut(&conn) else { return 0 };
                let len = bytes.len();
                connection.push(bytes);
                if !connection.dirty && !connection.blocked {
                    connection.dirty = true;
                    self.dirty.push(conn);
                }
                return len;
            }
            Output::Close { conn } => self.close(conn),
            Output::Connect { conn, remote, local, password, ttl_security, hold_time } => {
                self.connect(conn, &Dial { remote, local, password, ttl_security, hold_time });
            }
            Output::Bfd { peer, wanted } => self.bfd.set(peer, wanted, &self.poller, BFD, now()),
            Output::ListenTtlSecurity { hops } => {
                self.listen_hops = hops;
                self.listeners.iter().for_each(|l| self.set_listen_hops(l));
            }
            Output::ListenPassword { peers, password } => self.set_password(peers, password),
        }
        0
    }

    /// Writes to every connection that has something, each up to a quantum.
    fn write_dirty(&mut self) {
        for conn in std::mem::take(&mut self.dirty) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            connection.dirty = false;
            match connection.write(WRITE_QUANTUM) {
                Ok(n) => {
                    if connection.blocked {
                        let _ = self.poller.modify(connection.stream(), conn.0, Wait::ReadWrite);
                    } else if connection.has_output() {
                        connection.dirty = true;
                        self.dirty.push(conn);
                    }
                    self.speaker.handle_sent(conn, n);
                }
                // Bytes that came before the connection broke say why it did: they are read first.
                Err(error) => {
                    (0..LAST_READS).for_each(|_| self.read(conn));
                    self.lost(conn, Closed::Error(error.to_string()));
                }
            }
        }
    }

    fn close(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        if connection.connecting {
            return;
        }
        let token = FAREWELL | conn.0;
        if self.poller.modify(connection.stream(), token, Wait::Read).is_ok()
            && self.farewells.begin(token, connection, now())
        {
            self.watch_farewell(token);
        }
    }

    fn carry_farewell(&mut self, token: u64) {
        if self.farewells.handle_ready(token) {
            self.watch_farewell(token);
        }
    }

    fn watch_farewell(&self, token: u64) {
        let Some(connection) = self.farewells.connection(token) else { return };
        let wait = if connection.blocked { Wait::ReadWrite } else { Wait::Read };
        let _ = self.poller.modify(connection.stream(), token, wait);
    }

    fn set_listen_hops(&self, listener: &Listener) {
        let address = listener.address.ip();
        if let Err(error) =
            set_ttl_security(&listener.socket, address, self.listen_hops[usize::from(address.is_ipv6())])
        {
            tracing::warn!(%address, %error, "cannot set TTL security");
        }
    }

    fn set_password(&mut self, peers: Prefix, password: Option<Password>) {
        for listener in self.listeners.iter().filter(|l| same_family(l.address.ip(), peers.address())) {
            report_key(peers, set_md5(&listener.socket, peers, password.as_ref()));
        }
        match password {
            Some(password) => self.passwords.insert(peers, password),
            None => self.passwords.remove(&peers),
        };
    }
}

fn report_key(peers: Prefix, result: io::Result<()>) {
    match result {
        // A key that is not there need not be removed.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            tracing::warn!(%peers, %error, "cannot set the TCP MD5 key; see net.core.optmem_max");
        }
        _ => {}
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
