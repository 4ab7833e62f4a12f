//! Carries BFD between its machine and UDP. Owns the sockets and which peer a session is for; decides nothing.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bfd::{Arrival, Bfd, Failure, MULTIHOP_PORT, Path, SINGLE_HOP_PORT, Settings, State};
use bgp::{BfdConfig, BfdFailure, BfdState, BfdWanted, PeerKey};
use rustix::net::SendFlags;

use crate::poller::{Poller, Wait};
use crate::udp::{receive, receiver, sender, with_scope};

/// Packets that are read from one socket before others have their turn.
const QUANTUM: usize = 256;

/// What BFD says of a peer.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) peer: PeerKey,
    pub(crate) state: BfdState,
    /// Set when the path was up; with whether no restart explains it.
    pub(crate) failure: Option<(BfdFailure, bool)>,
}

/// The sessions of a driver. Without any it holds no socket.
#[derive(Debug, Default)]
pub(crate) struct BfdDoor {
    machine: Bfd,
    /// By family and hops: [IPv6][multihop].
    receivers: [[Option<OwnedFd>; 2]; 2],
    /// One for each session, so that its port is its own.
    senders: HashMap<Path, OwnedFd>,
    paths: HashMap<PeerKey, Path>,
    peers: HashMap<Path, PeerKey>,
    random: RandomState,
    started: u64,
}

impl BfdDoor {
    /// Begins, changes or ends the session of a peer. Sockets are watched under `token` and the next three.
    pub(crate) fn set(
        &mut self,
        peer: PeerKey,
        wanted: Option<BfdWanted>,
        poller: &Poller,
        token: u64,
        now: Instant,
    ) {
        let path = wanted.map(|(local, config)| path(peer, local, &config));
        if let Some(old) = self.paths.get(&peer).copied().filter(|old| path != Some(*old)) {
            self.machine.remove(old, now);
            self.paths.remove(&peer);
            self.peers.remove(&old);
        }
        let (Some(path), Some((_, config))) = (path, wanted) else { return };
        let entropy = self.entropy();
        let ready = self.open(path, poller, token).and_then(|()| self.open_sender(path, entropy));
        if let Err(error) = ready {
            return tracing::error!(%peer, %error, "cannot start BFD: the session goes on without");
        }
        self.paths.insert(peer, path);
        self.peers.insert(path, peer);
        self.machine.add(path, settings(&config), entropy, now);
    }

    fn entropy(&mut self) -> u64 {
        self.started += 1;
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.started);
        hasher.finish()
    }

    fn open(&mut self, path: Path, poller: &Poller, token: u64) -> io::Result<()> {
        let (ipv6, multihop) = (path.local.is_ipv6(), path.multihop);
        let slot = &mut self.receivers[usize::from(ipv6)][usize::from(multihop)];
        if slot.is_some() {
            return Ok(());
        }
        let port = if multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT };
        let socket = receiver(ipv6, port)?;
        poller.add(&socket, token + 2 * u64::from(ipv6) + u64::from(multihop), Wait::Read)?;
        *slot = Some(socket);
        Ok(())
    }

    fn open_sender(&mut self, path: Path, entropy: u64) -> io::Result<()> {
        if let Entry::Vacant(vacant) = self.senders.entry(path) {
            vacant.insert(sender(path.local, path.interface, entropy)?);
        }
        Ok(())
    }

    /// Takes in what came to the socket with this number (0 to 3).
    pub(crate) fn handle_ready(&mut self, number: usize, now: Instant) {
        let (ipv6, multihop) = (number / 2, number % 2);
        for _ in 0..QUANTUM {
            let Some(socket) = self.receivers.get(ipv6).and_then(|r| r[multihop].as_ref()) else { return };
            let Ok(datagram) = receive(socket) else { return };
            let arrival = Arrival {
                remote: datagram.remote.to_canonical(),
                interface: datagram.interface,
                multihop: multihop == 1,
                ttl: datagram.ttl,
            };
            let bytes = &datagram.bytes[..datagram.len];
            if let Err(discarded) = self.machine.handle_packet(arrival, bytes, now) {
                tracing::trace!(remote = %arrival.remote, %discarded, "BFD packet");
            }
        }
    }

    /// Fires what is due, and sends.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
        while let Some((path, bytes)) = self.machine.poll_packet() {
            let port = if path.multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT };
            let to = with_scope(path.remote, port, path.interface);
            if let Some(socket) = self.senders.get(&path)
                && let Err(error) = rustix::net::sendto(socket, &bytes, SendFlags::NOSIGNAL, &to)
            {
                // A path that is down may say so: that is what the detection time is for.
                tracing::trace!(remote = %path.remote, %error, "send BFD packet");
            }
        }
        if self.senders.len() > self.paths.len() {
            self.senders.retain(|path, _| !self.machine.is_forgotten(path));
        }
    }

    /// When `handle_timeout` is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    /// What BFD has to say.
    pub(crate) fn poll_word(&mut self) -> Option<Word> {
        loop {
            let event = self.machine.poll_event()?;
            let Some(peer) = self.peers.get(&event.path).copied() else { continue };
            let change = event.change;
            let was_up = change.from == State::Up;
            let failure = change.failure.filter(|_| was_up).and_then(failure);
            let state = match (change.to, change.failure) {
                (_, Some(Failure::NeighbourAdminDown)) => BfdState::AdminDown,
                (State::Up, _) => BfdState::Up,
                (State::Init, _) => BfdState::Init,
                _ => BfdState::Down,
            };
            tracing::info!(%peer, ?state, ?failure, "BFD");
            let failure = failure.map(|f| (f, change.control_plane_independent));
            return Some(Word { peer, state, failure });
        }
    }
}

fn path(peer: PeerKey, local: std::net::IpAddr, config: &BfdConfig) -> Path {
    Path { remote: peer.address(), local, interface: peer.scope(), multihop: config.multihop }
}

/// Zeros make no sense in settings and are taken as the least that does.
fn settings(config: &BfdConfig) -> Settings {
    let ms = |n: u32| Duration::from_millis(n.max(1).into());
    Settings {
        min_tx: ms(config.min_tx),
        min_rx: ms(config.min_rx),
        detect_multiplier: config.detect_multiplier.max(1),
    }
}

/// A peer that was switched off says nothing of the path (RFC 5882 §3.2).
fn failure(failure: Failure) -> Option<BfdFailure> {
    match failure {
        Failure::DetectionTimeExpired(time) => {
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Some(BfdFailure::DetectionTimeExpired(ms))
        }
        Failure::NeighbourSignaledDown(diagnostic) => Some(BfdFailure::NeighbourSignaledDown(diagnostic.0)),
        Failure::NeighbourAdminDown => None,
    }
}
