//! The speaker as others see it. Owns inputs, outputs and the timer queue; the protocol is in `fsm`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_packet::{Family, PathAttributes, Prefix};
use bytes::Bytes;

use crate::import::LastImport;
use crate::members::Members;
use crate::path::{Path, PeerIndex, Source};
use crate::peer::Peer;
use crate::random::Random;
use crate::record::{Entry, Tape};
use crate::restart::{Deferral, SweepHold};
use crate::retire::{Lingering, Retiring};
use crate::rib::Rib;
use crate::watch::Watch;
use crate::{BfdWanted, Cause, Config, NextHopInterest, Password, PeerKey, Route, Start};

/// Names a TCP connection between speaker and transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What the transport is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a TCP connection; answer with `handle_connected` or `handle_connect_failed`.
    Connect {
        /// Name for it.
        conn: ConnId,
        /// The peer's address and port.
        remote: SocketAddr,
        /// Own address, when it matters.
        local: Option<IpAddr>,
        /// TCP MD5 password.
        password: Option<Password>,
        /// Generalised TTL security: how many hops the peer may be away.
        ttl_security: Option<u8>,
        /// Hold time that will be proposed, for `TCP_USER_TIMEOUT`.
        hold_time: u16,
    },
    /// Write bytes; answer with `handle_sent` once the kernel has taken them. Several in a row for one
    /// connection are best written together.
    Send {
        /// Connection.
        conn: ConnId,
        /// Whole messages. Peers that get the same share the same memory.
        bytes: Bytes,
    },
    /// Close after what was sent has been written; no answer is expected.
    Close {
        /// Connection.
        conn: ConnId,
    },
    /// Watch the path to a peer by BFD, or cease to; tell what it says by `handle_bfd`.
    Bfd {
        /// The peer; one session each.
        peer: PeerKey,
        /// Own address and settings; `None` ends the BFD session.
        wanted: Option<BfdWanted>,
    },
    /// How many hops away those may be who connect to listening sockets: as far as the farthest peer of each
    /// family, IPv4 first. What a single peer may is set on its own sockets.
    ListenTtlSecurity {
        /// `None` where somebody may come from anywhere.
        hops: [Option<u8>; 2],
    },
    /// These peers use this password from now on (for listening sockets); the longest prefix wins.
    ListenPassword {
        /// One peer, or a range of dynamic neighbours.
        peers: Prefix,
        /// `None` removes it.
        password: Option<Password>,
    },
}

/// What the owner of the speaker may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session is established.
    PeerUp {
        /// Peer.
        peer: PeerKey,
    },
    /// A session ended.
    PeerDown {
        /// Peer.
        peer: PeerKey,
        /// Why.
        cause: Cause,
        /// Its routes are kept for a while (RFC 4724).
        routes_kept: bool,
    },
    /// An attempt failed for another reason than the last one.
    PeerFailed {
        /// Peer.
        peer: PeerKey,
        /// Why.
        cause: Cause,
    },
    /// A message was malformed but did not end the session (RFC 7606).
    Malformed {
        /// Peer.
        peer: PeerKey,
        /// What was wrong.
        detail: String,
    },
    /// A peer sends nearly as many routes as it may, or more where that is allowed; said once each time.
    MaxPrefixWarning {
        /// Peer.
        peer: PeerKey,
        /// Of which family.
        family: Family,
        /// How many there are.
        received: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Every peer has sent what it has, or the limit has passed: stale forwarding state may go.
    RestartComplete,
}

/// One BGP speaker.
#[derive(Debug)]
pub struct Speaker {
    pub(crate) config: Config,
    pub(crate) start: Start,
    pub(crate) peers: Vec<Option<Peer>>,
    /// Connections of dynamic neighbours that wait for a session.
    pub(crate) half_open: usize,
    pub(crate) by_key: HashMap<PeerKey, PeerIndex>,
    pub(crate) by_conn: HashMap<ConnId, PeerIndex>,
    pub(crate) rib: Rib,
    pub(crate) random: Random,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) timers: BTreeSet<(Instant, PeerIndex)>,
    pub(crate) deferral: Option<Deferral>,
    pub(crate) sweep_hold: Option<SweepHold>,
    /// What listening sockets were told last.
    pub(crate) listen_hops: [Option<u8>; 2],
    /// Peers that an operator switched off, with what they said.
    pub(crate) switched_off: BTreeMap<PeerKey, String>,
    pub(crate) retiring: Retiring,
    pub(crate) lingering: Option<Lingering>,
    /// Adj-RIB-Out of all sessions.
    pub(crate) members: Members,
    pub(crate) last_import: LastImport,
    /// Places in `peers` that are free.
    pub(crate) free_peers: Vec<PeerIndex>,
    /// How many peers came from ranges.
    pub(crate) dynamic_peers: usize,
    /// The recording, while one runs.
    pub(crate) tape: Option<Box<Tape>>,
    /// While somebody watches.
    pub(crate) watch: Option<Box<Watch>>,
    /// Something was told to the speaker since it is there.
    pub(crate) touched: bool,
    next_conn: u64,
}

/// What is originated for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Attributes; an unspecified next hop becomes the own address of each session.
    pub attributes: PathAttributes,
    /// Interface through which packets to the prefix leave, for policies that look at it.
    pub interface: Option<Arc<str>>,
}

impl From<PathAttributes> for Origin {
    fn from(attributes: PathAttributes) -> Self {
        Self { attributes, interface: None }
    }
}

impl Speaker {
    /// A speaker that connects to its peers as soon as it is polled.
    pub fn new(config: Config, start: Start, now: Instant) -> Self {
        let deferral = start.forwarding_kept.then(|| Deferral::new(&config, now));
        let mut speaker = Self {
            start,
            peers: Vec::new(),
            half_open: 0,
            by_key: HashMap::new(),
            by_conn: HashMap::new(),
            rib: Rib::new(start),
            random: Random::new(start.seed),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            timers: BTreeSet::new(),
            deferral,
            sweep_hold: None,
            listen_hops: [None; 2],
            switched_off: BTreeMap::new(),
            retiring: Retiring::default(),
            lingering: None,
            members: Members::default(),
            last_import: LastImport::default(),
            free_peers: Vec::new(),
            dynamic_peers: 0,
            tape: None,
            watch: None,
            touched: false,
            next_conn: 0,
            config: Config { peers: Default::default(), dynamic: Vec::new(), ..config.clone() },
        };
        speaker.reconfigure(config, now);
        speaker.touched = false;
        speaker
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Originates a route. An unspecified next hop becomes the own address of each session.
    pub fn originate(&mut self, prefix: Prefix, origin: impl Into<Origin>) {
        let origin = origin.into();
        self.note(None, |_| Entry::Originate {
            prefix,
            attributes: Box::new(origin.attributes.clone()),
            interface: origin.interface.as_deref().map(str::to_owned),
        });
        let Origin { attributes, interface } = origin;
        if self.rib.interfaces.get(&prefix) != interface.as_ref() {
            // Policy may look at the interface: the route is a new one.
            self.withdraw_local(prefix);
            self.rib.interfaces.extend(interface.map(|interface| (prefix, interface)));
        }
        let attributes = self.rib.attributes.intern(attributes);
        self.rib.insert(&prefix, Path::new(Source::LOCAL, attributes));
    }

    /// Takes back a route that was originated here.
    pub fn withdraw(&mut self, prefix: Prefix) {
        self.note(None, |_| Entry::Withdraw(prefix));
        self.withdraw_local(prefix);
    }

    fn withdraw_local(&mut self, prefix: Prefix) {
        self.rib.interfaces.remove(&prefix);
        self.rib.remove(&prefix, Source::LOCAL, 0);
    }

    /// What the transport is to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.flush();
        }
        let output = self.outputs.pop_front();
        if self.tape.is_some() {
            self.note_output(output.as_ref());
        }
        let output = output?;
        if let Output::Send { conn, bytes } = &output
            && let Some(index) = self.by_conn.get(conn).copied()
            && let Some(peer) = self.peer_mut(index)
        {
            peer.history.sent.note_sent(bytes);
        }
        Some(output)
    }

    /// What happened, for logs and decisions of the owner.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next prefix whose Loc-RIB route may have changed, with the route as it is now.
    /// Several changes of one prefix come as one.
    pub fn poll_route(&mut self) -> Option<(Prefix, Option<Route>)> {
        let prefix = self.rib.poll_reported()?;
        let route = self.rib.route(&prefix);
        Some((prefix, route))
    }

    /// The next thing to be asked of whoever knows the way to next hops; only with `Start::track_next_hops`.
    pub fn poll_next_hop(&mut self) -> Option<NextHopInterest> {
        self.rib.hops.poll()
    }

    /// Takes an answer: what the way to a watched next hop costs inside our network, or `None` when there is
    /// no way. Until the first answer there is none. Answers are best given together: the routes are decided
    /// about anew when the next output or route is asked for.
    pub fn handle_next_hop(&mut self, next_hop: IpAddr, cost: Option<u32>) {
        self.note(None, |_| Entry::NextHop { next_hop, cost });
        self.rib.hops.answer(next_hop, cost);
    }

    /// Takes over how many equally good paths a route may have.
    pub(crate) fn set_max_paths(&mut self, max_paths: usize) {
        let max_paths = max_paths.max(1);
        if std::mem::replace(&mut self.rib.max_paths, max_paths) != max_paths {
            self.rib.report_all();
        }
    }

    /// The Loc-RIB's route of a prefix.
    pub fn route(&self, prefix: &Prefix) -> Option<Route> {
        self.rib.route(prefix)
    }

    /// When `handle_timeout` is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let peers = self.timers.first().map(|(at, _)| *at);
        let deferral = self.deferral.as_ref().map(Deferral::deadline);
        let hold = self.sweep_hold.as_ref().map(SweepHold::deadline);
        let lingering = self.lingering.as_ref().map(Lingering::deadline);
        [peers, deferral, hold, self.retiring.deadline(), lingering].into_iter().flatten().min()
    }

    /// Fires what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.note(Some(now), |_| Entry::Timeout);
        while let Some((at, index)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(peer) = self.peer_mut(index) {
                peer.armed = None;
                self.fire(index, now);
            }
            self.settle(index, now);
        }
        self.check_retiring(now);
        self.check_lingering(now);
        self.check_deferral(now);
        self.check_sweep_hold(now);
    }

    /// Notes that the kernel has taken bytes that were sent.
    pub fn handle_sent(&mut self, conn: ConnId, bytes: usize) {
        self.note(None, |_| Entry::Sent { conn: conn.0, bytes });
        let Some(index) = self.by_conn.get(&conn).copied() else { return };
        let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut()) else { return };
        if session.conn == conn {
            session.in_flight = session.in_flight.saturating_sub(bytes);
            session.blocked_since = session.blocked_since.filter(|_| bytes == 0);
            self.members.enqueue(index);
        }
    }

    pub(crate) fn peer(&self, index: PeerIndex) -> Option<&Peer> {
        self.peers.get(index as usize)?.as_ref()
    }

    pub(crate) fn peer_mut(&mut self, index: PeerIndex) -> Option<&mut Peer> {
        self.peers.get_mut(index as usize)?.as_mut()
    }

    /// Makes room for a peer.
    pub(crate) fn add_peer(&mut self, peer: Peer) -> PeerIndex {
        let key = peer.key;
        self.dynamic_peers += usize::from(peer.dynamic);
        let index = self.free_peers.pop().unwrap_or_else(|| {
            self.peers.push(None);
            PeerIndex::try_from(self.peers.len() - 1).expect("fewer peers than addresses of IPv4")
        });
        self.peers[index as usize] = Some(peer);
        self.by_key.insert(key, index);
        index
    }

    /// Takes a peer out.
    pub(crate) fn take_peer(&mut self, index: PeerIndex) -> Option<Peer> {
        let peer = self.peers.get_mut(index as usize)?.take()?;
        self.free_peers.push(index);
        self.dynamic_peers -= usize::from(peer.dynamic);
        self.half_open -= peer.connections.iter().filter(|c| c.half_open).count();
        self.by_key.remove(&peer.key);
        self.note_gone(peer.key);
        for connection in &peer.connections {
            self.by_conn.remove(&connection.id);
        }
        if let Some(armed) = peer.armed {
            self.timers.remove(&(armed, index));
        }
        Some(peer)
    }

    /// What every input that concerns a peer ends with.
    pub(crate) fn settle(&mut self, index: PeerIndex, now: Instant) {
        self.note_state(index);
        self.forget_idle_dynamic(index);
        self.note_deferral(index, now);
        self.arm(index);
    }

    pub(crate) fn new_conn(&mut self, index: PeerIndex) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.by_conn.insert(conn, index);
        conn
    }

    /// Puts the peer's earliest deadline into the timer queue, unless an earlier one is there.
    pub(crate) fn arm(&mut self, index: PeerIndex) {
        let Some(Some(peer)) = self.peers.get_mut(index as usize) else { return };
        let Some(deadline) = peer.deadline() else { return };
        if peer.armed.is_none_or(|armed| deadline < armed) {
            if let Some(armed) = peer.armed.replace(deadline) {
                self.timers.remove(&(armed, index));
            }
            self.timers.insert((deadline, index));
        }
    }

    pub(crate) fn send(&mut self, conn: ConnId, bytes: Vec<u8>) {
        if let Some(index) = self.by_conn.get(&conn).copied()
            && let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut())
            && session.conn == conn
        {
            session.in_flight += bytes.len();
        }
        self.outputs.push_back(Output::Send { conn, bytes: bytes.into() });
    }

    pub(crate) fn jitter(&mut self, whole: Duration) -> Duration {
        self.random.jitter(whole)
    }
}
