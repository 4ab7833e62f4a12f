//! What the speaker keeps of one peer. Owns the data of its connections; decides nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp_packet::{Capability, Open, Role};

use crate::history::History;
use crate::restart::Retained;
use crate::session::Session;
use crate::{BfdState, Cause, ConnId, PeerConfig, PeerKey};

/// One TCP connection to or from a peer.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) outgoing: bool,
    pub(crate) phase: Phase,
    pub(crate) local: Option<SocketAddr>,
    /// When to give up: connecting, OPEN missing, or hold timer. While our OPEN is delayed: when to send it.
    pub(crate) deadline: Option<Instant>,
    pub(crate) keepalive_at: Option<Instant>,
    /// What our OPEN offered.
    pub(crate) offered: Vec<Capability>,
    /// The peer's OPEN.
    pub(crate) open: Option<Open>,
    /// It came in while a session was up already: the peer may have restarted.
    pub(crate) after_established: bool,
    /// It counts among the half-open sessions of dynamic neighbours.
    pub(crate) half_open: bool,
}

impl Connection {
    pub(crate) fn new(id: ConnId, outgoing: bool, deadline: Instant) -> Self {
        Self {
            id,
            outgoing,
            phase: Phase::Connecting,
            local: None,
            deadline: Some(deadline),
            keepalive_at: None,
            offered: Vec::new(),
            open: None,
            after_established: false,
            half_open: false,
        }
    }
}

/// How far a connection is (RFC 4271 §8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// TCP is not there yet.
    Connecting,
    /// TCP is there; our OPEN waits for the peer's or the DelayOpenTimer. Still Connect or Active to the RFC.
    DelayOpen,
    OpenSent,
    OpenConfirm,
    Established,
}

/// Why a peer may have no session although its configuration says nothing against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeldDown {
    /// An operator switched it off.
    Disabled,
    /// Too many routes; until then, or until an operator intervenes.
    MaxPrefix(Option<Instant>),
}

/// What of a session decides about its routes, also when it is gone and they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) external: bool,
    /// The peer's AS.
    pub(crate) asn: u32,
    /// Our role towards the peer (RFC 9234).
    pub(crate) role: Option<Role>,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PeerKey,
    pub(crate) config: PeerConfig,
    pub(crate) dynamic: bool,
    pub(crate) held_down: Option<HeldDown>,
    /// Configured no more, but kept until its routes come another way; until then at most.
    pub(crate) retiring: Option<Instant>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) session: Option<Session>,
    /// Of the session, or of the last one.
    pub(crate) terms: Option<Terms>,
    /// When to connect next.
    pub(crate) retry_at: Option<Instant>,
    pub(crate) retry_delay: Duration,
    /// Routes of an ended session that are kept, by family.
    pub(crate) retained: [Option<Retained>; 2],
    pub(crate) cause: Cause,
    pub(crate) changed_at: Instant,
    pub(crate) sessions: u64,
    pub(crate) router_id: Option<Ipv4Addr>,
    /// The earliest deadline that the speaker's timer queue has for this peer.
    pub(crate) armed: Option<Instant>,
    pub(crate) history: History,
    pub(crate) problems: u64,
    /// What BFD says of the path, while it is watched.
    pub(crate) bfd: Option<BfdState>,
    pub(crate) last_problem: Option<String>,
}

impl Peer {
    pub(crate) fn new(key: PeerKey, config: PeerConfig, dynamic: bool, now: Instant) -> Self {
        Self {
            key,
            config,
            dynamic,
            held_down: None,
            retiring: None,
            connections: Vec::new(),
            session: None,
            terms: None,
            retry_at: None,
            retry_delay: FIRST_RETRY,
            retained: [None; 2],
            cause: Cause::Starting,
            changed_at: now,
            sessions: 0,
            router_id: None,
            armed: None,
            history: History::default(),
            problems: 0,
            bfd: None,
            last_problem: None,
        }
    }

    pub(crate) fn connection(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.id == id)
    }

    /// Our AS towards this peer.
    pub(crate) fn local_asn(&self, speaker: u32) -> u32 {
        self.config.local_asn.unwrap_or(speaker)
    }

    /// Whether the peer may have a session at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.config.is_enabled() && self.held_down.is_none()
    }

    /// Whether it may have a session, and is not on its way out.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_enabled() && self.retiring.is_none()
    }

    /// Whether we connect to the peer, not only it to us.
    pub(crate) fn is_active(&self) -> bool {
        self.is_wanted() && !self.config.passive
    }

    /// Whether routes of an ended session are kept.
    pub(crate) fn retains(&self) -> bool {
        self.retained.iter().any(Option::is_some)
    }

    /// The earliest time at which something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().flat_map(|c| [c.deadline, c.keepalive_at]);
        let session = self.session.iter().flat_map(|s| [s.send_deadline(), s.refreshing[0], s.refreshing[1]]);
        let retained = self.retained.iter().map(|r| r.map(|r| r.until));
        let held_down = match self.held_down {
            Some(HeldDown::MaxPrefix(until)) => until,
            _ => None,
        };
        let own = [self.retry_at, held_down];
        connections.chain(session).chain(retained).chain(own).flatten().min()
    }
}

/// Wait before the first retry after a session or attempt ended; doubled up to the configured limits.
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(250);
