//! What the speaker keeps of one peer. Owns the data of its connections and session; decides nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bgp_packet::{Capability, EncodeOptions, Family, GracefulRestart, Open, UpdateContext};

use crate::history::History;
use crate::{BfdState, Cause, ConnId, PeerConfig, PeerKey};

/// One TCP connection to or from a peer.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) outgoing: bool,
    pub(crate) phase: Phase,
    pub(crate) local: Option<SocketAddr>,
    /// When to give up: connecting, OPEN missing, or hold timer.
    pub(crate) deadline: Option<Instant>,
    pub(crate) keepalive_at: Option<Instant>,
    /// What our OPEN offered.
    pub(crate) offered: Vec<Capability>,
    /// The peer's OPEN.
    pub(crate) open: Option<Open>,
    /// It came in while a session was up already: the peer may have restarted.
    pub(crate) after_established: bool,
}

/// How far a connection is (RFC 4271 §8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

/// What was negotiated on the established connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    pub(crate) since: Instant,
    pub(crate) asn: u32,
    pub(crate) internal: bool,
    pub(crate) context: UpdateContext,
    pub(crate) options: EncodeOptions,
    pub(crate) families: Vec<Family>,
    /// Families whose routes are ignored until the session ends, by [`Family::index`] (RFC 4760 §7).
    pub(crate) disabled: [bool; 2],
    pub(crate) hold_time: u16,
    pub(crate) local: IpAddr,
    /// The peer's graceful restart capability, when both sides have it.
    pub(crate) restart: Option<GracefulRestart>,
    /// Families whose End-of-RIB came from the peer.
    pub(crate) end_of_rib_seen: Vec<Family>,
    /// Octets handed to the transport and not yet taken by the kernel.
    pub(crate) in_flight: usize,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PeerKey,
    pub(crate) config: PeerConfig,
    pub(crate) dynamic: bool,
    pub(crate) connections: Vec<Connection>,
    pub(crate) session: Option<Session>,
    /// When to connect next.
    pub(crate) retry_at: Option<Instant>,
    pub(crate) retry_delay: Duration,
    /// When stale routes go at last (RFC 4724 §4.2).
    pub(crate) stale_until: Option<Instant>,
    pub(crate) cause: Cause,
    pub(crate) changed_at: Instant,
    pub(crate) sessions: u64,
    pub(crate) router_id: Option<std::net::Ipv4Addr>,
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
            connections: Vec::new(),
            session: None,
            retry_at: None,
            retry_delay: FIRST_RETRY,
            stale_until: None,
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

    /// The earliest time at which something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().flat_map(|c| [c.deadline, c.keepalive_at]);
        connections.chain([self.retry_at, self.stale_until]).flatten().min()
    }
}

/// Wait before the first retry after a session or attempt ended; doubled up to [`MAX_RETRY`].
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Longest wait between attempts while the peer cannot be reached.
pub(crate) const MAX_RETRY: Duration = Duration::from_secs(5);
/// Longest wait after a NOTIFICATION, when trying again at once is unlikely to help.
pub(crate) const MAX_ERROR_WAIT: Duration = Duration::from_secs(30);
