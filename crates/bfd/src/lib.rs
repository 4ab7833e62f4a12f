//! Bidirectional Forwarding Detection as a pure machine (RFC 5880, RFC 5881, RFC 5883).
//!
//! Owns packets, sessions in asynchronous mode, and which session a packet is for. Packets and time come in by
//! `handle_*`; what is to be sent and what changed comes out by `poll_*`. Echo, demand mode of our own and
//! authentication are not offered. Never touches a socket or a clock, and knows nothing of BGP.

mod packet;
mod session;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

pub use packet::{Diagnostic, Discarded, PACKET_LEN, Packet, State};
pub use session::{Change, Failure, Session, Settings};

/// UDP port of sessions over one hop (RFC 5881 §4).
pub const SINGLE_HOP_PORT: u16 = 3784;
/// UDP port of sessions over several hops (RFC 5883 §5).
pub const MULTIHOP_PORT: u16 = 4784;
/// How often the end of a session is told before it is forgotten.
const FAREWELLS: u32 = 3;

/// What is watched: there is one session for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    /// The other side's address.
    pub remote: IpAddr,
    /// Own address.
    pub local: IpAddr,
    /// Index of the interface of a link-local address, otherwise 0.
    pub interface: u32,
    /// There may be routers between; otherwise packets must come with TTL 255.
    pub multihop: bool,
}

/// How a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its source address.
    pub remote: IpAddr,
    /// Index of the interface that it came through.
    pub interface: u32,
    /// It came to the port of sessions over several hops.
    pub multihop: bool,
    /// Its TTL or hop limit.
    pub ttl: u8,
}

/// A session changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub path: Path,
    /// How.
    pub change: Change,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    discriminator: u32,
    armed: Option<Instant>,
    /// It was removed and is forgotten then.
    forget_at: Option<Instant>,
}

/// All sessions of a system.
#[derive(Debug, Default)]
pub struct Bfd {
    /// In order of the other side.
    sessions: BTreeMap<Path, Entry>,
    by_discriminator: HashMap<u32, Path>,
    timers: BTreeSet<(Instant, Path)>,
    packets: VecDeque<(Path, [u8; PACKET_LEN])>,
    events: VecDeque<Event>,
}

impl Bfd {
    /// Begins a session, or changes the settings of one that runs. `entropy` names it and seeds its jitter.
    pub fn add(&mut self, path: Path, settings: Settings, entropy: u64, now: Instant) {
        if let Some(entry) = self.sessions.get_mut(&path).filter(|e| e.forget_at.is_none()) {
            entry.session.change(settings, now);
            return self.arm(path);
        }
        self.forget(path);
        let mut discriminator = (entropy >> 32) as u32;
        while discriminator == 0 || self.by_discriminator.contains_key(&discriminator) {
            discriminator = discriminator.wrapping_mul(0x9e37_79b1).wrapping_add(1);
        }
        let session = Session::new(settings, discriminator, entropy, now);
        self.by_discriminator.insert(discriminator, path);
        self.sessions.insert(path, Entry { session, discriminator, armed: None, forget_at: None });
        self.arm(path);
    }

    /// Ends a session. The other side is told for a while that it was switched off, so that it does not take the
    /// silence for a failure.
    pub fn remove(&mut self, path: Path, now: Instant) {
        let Some(entry) = self.sessions.get_mut(&path).filter(|e| e.forget_at.is_none()) else { return };
        let patience = entry.session.detection_time().max(Duration::from_secs(1)) * FAREWELLS;
        entry.session.shut_down(now);
        entry.forget_at = Some(now + patience);
        self.arm(path);
    }

    /// State of a session.
    pub fn state(&self, path: &Path) -> Option<State> {
        self.sessions.get(path).filter(|e| e.forget_at.is_none()).map(|e| e.session.state())
    }

    /// Whether nothing is known of a session any more, not even that it has ended.
    pub fn is_forgotten(&self, path: &Path) -> bool {
        !self.sessions.contains_key(path)
    }

    /// Takes in what came to one of the ports.
    ///
    /// # Errors
    /// Why it was thrown away.
    pub fn handle_packet(&mut self, arrival: Arrival, bytes: &[u8], now: Instant) -> Result<(), Discarded> {
        if !arrival.multihop && arrival.ttl != 255 {
            return Err(Discarded::Ttl);
        }
        let packet = Packet::parse(bytes)?;
        let path = self.find(&arrival, packet.your_discriminator)?;
        let entry = self.sessions.get_mut(&path).ok_or(Discarded::Stranger)?;
        let (answer, change) = entry.session.handle_packet(&packet, now);
        self.note(path, answer, change);
        self.arm(path);
        Ok(())
    }

    /// The session that a packet is for: by its discriminator, or by addresses while the other side does not know
    /// that yet (RFC 5880 §6.8.6). The sender must be the session's in both cases.
    fn find(&self, arrival: &Arrival, discriminator: u32) -> Result<Path, Discarded> {
        let is_from = |path: &Path| {
            path.remote == arrival.remote
                && path.multihop == arrival.multihop
                && (path.interface == 0 || path.interface == arrival.interface)
        };
        if discriminator != 0 {
            let path = self.by_discriminator.get(&discriminator).ok_or(Discarded::Discriminator)?;
            return if is_from(path) { Ok(*path) } else { Err(Discarded::Stranger) };
        }
        let lowest = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let first = Path { remote: arrival.remote, local: lowest, interface: 0, multihop: false };
        let theirs = self.sessions.range(first..).map(|(path, _)| path);
        let mut theirs = theirs.take_while(|path| path.remote == arrival.remote);
        theirs.find(|path| is_from(path)).copied().ok_or(Discarded::Stranger)
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, path)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(entry) = self.sessions.get_mut(&path) else { continue };
            entry.armed = None;
            if entry.forget_at.is_some_and(|at| at <= now) {
                self.forget(path);
                continue;
            }
            let (packet, change) = entry.session.handle_timeout(now);
            self.note(path, packet, change);
            self.arm(path);
        }
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next packet to send.
    pub fn poll_packet(&mut self) -> Option<(Path, [u8; PACKET_LEN])> {
        self.packets.pop_front()
    }

    /// What changed.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn note(&mut self, path: Path, packet: Option<Packet>, change: Option<Change>) {
        self.packets.extend(packet.map(|packet| (path, packet.encode())));
        self.events.extend(change.map(|change| Event { path, change }));
    }

    fn forget(&mut self, path: Path) {
        let Some(entry) = self.sessions.remove(&path) else { return };
        self.by_discriminator.remove(&entry.discriminator);
        if let Some(armed) = entry.armed {
            self.timers.remove(&(armed, path));
        }
    }

    /// Puts the session's deadline into the queue, unless an earlier one is there.
    fn arm(&mut self, path: Path) {
        let Some(entry) = self.sessions.get_mut(&path) else { return };
        let Some(at) = [entry.session.poll_timeout(), entry.forget_at].into_iter().flatten().min() else {
            return;
        };
        if entry.armed.is_none_or(|armed| at < armed) {
            if let Some(armed) = entry.armed.replace(at) {
                self.timers.remove(&(armed, path));
            }
            self.timers.insert((at, path));
        }
    }
}
