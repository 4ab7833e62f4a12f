//! What an operator can see. Owns snapshots of peers and routes; changes nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bgp_packet::{Capability, Family};

use crate::history::{MessageCounts, Turn};
use crate::path::PeerIndex;
use crate::peer::{Connection, Peer, Phase};
use crate::{BfdState, Cause, PeerConfig, PeerKey, PeerKind, Speaker};

/// States of RFC 4271 §8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// Switched off, or waiting before the next attempt.
    Idle,
    /// TCP connection under way.
    Connect,
    /// Listening for the peer.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN received.
    OpenConfirm,
    /// Up.
    Established,
}

/// One peer as it is now.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The peer.
    pub peer: PeerKey,
    /// What the configuration calls it.
    pub description: String,
    /// Where the peering comes from.
    pub kind: PeerKind,
    /// Its AS: from the session, else the configured one; `None` when any is taken.
    pub asn: Option<u32>,
    /// Its identifier, once seen.
    pub router_id: Option<Ipv4Addr>,
    /// State.
    pub state: PeerState,
    /// Since when it is Established, or has not been.
    pub since: Instant,
    /// Why it is not Established; when it is, why the session before ended, if there was one.
    pub cause: Cause,
    /// Routes that it sent and that are kept.
    pub received: usize,
    /// Of these, the ones that import policy and loop checks let through.
    pub accepted: usize,
    /// Routes that it has from us.
    pub advertised: usize,
    /// Routes kept from before it went away (RFC 4724).
    pub stale: usize,
    /// Sessions so far.
    pub sessions: u64,
    /// What BFD says of the path, while it is watched.
    pub bfd: Option<BfdState>,
    /// It came from a range of dynamic neighbours.
    pub dynamic: bool,
    /// It is configured no more, and keeps its session until its routes come another way.
    pub retiring: bool,
    /// It is a client of this reflector.
    pub reflector_client: bool,
    /// Both sides are in one AS.
    pub internal: bool,
    /// Negotiated families.
    pub families: Vec<Family>,
    /// Negotiated hold time in seconds.
    pub hold_time: u16,
    /// Graceful restart was negotiated.
    pub graceful_restart: bool,
    /// Own address of the session.
    pub local_address: Option<IpAddr>,
    /// Malformed messages that did not end the session (RFC 7606), and the last one.
    pub problems: u64,
    /// The last of them, in words.
    pub last_problem: Option<String>,
    /// Messages that came in.
    pub messages_received: MessageCounts,
    /// Messages that went out.
    pub messages_sent: MessageCounts,
    /// Established sessions that ended, other than by giving way to a second connection with the same peer.
    pub flaps: u64,
    /// What the session went through, the newest first; bounded.
    pub history: Vec<Turn>,
    /// What is due when.
    pub timers: PeerTimers,
    /// What our OPEN offered; of the connection that is furthest, empty without one.
    pub capabilities_sent: Vec<Capability>,
    /// What the peer's OPEN offered.
    pub capabilities_received: Vec<Capability>,
    /// Octets handed to the transport and not yet taken by the kernel.
    pub in_flight: usize,
    /// `received` and `accepted` by family: IPv4, IPv6.
    pub received_by_family: [usize; 2],
    /// See `received_by_family`.
    pub accepted_by_family: [usize; 2],
}

/// When timers of a peer fire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTimers {
    /// Hold timer; before Established, the limit of the attempt.
    pub hold: Option<Instant>,
    /// Next KEEPALIVE.
    pub keepalive: Option<Instant>,
    /// Next attempt to connect.
    pub connect_retry: Option<Instant>,
    /// Routes kept over the peer's restart go at last (RFC 4724 §4.2).
    pub stale: Option<Instant>,
}

impl Speaker {
    /// All peers, in order of address.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut keys: Vec<(&PeerKey, &PeerIndex)> = self.by_key.iter().collect();
        keys.sort();
        keys.into_iter().filter_map(|(_, index)| self.peer_status(*index)).collect()
    }

    /// One peer.
    pub fn peer_at(&self, peer: impl Into<PeerKey>) -> Option<PeerStatus> {
        self.peer_status(*self.by_key.get(&peer.into())?)
    }

    /// Settings of a peer, dynamic ones included.
    pub fn peer_config(&self, peer: impl Into<PeerKey>) -> Option<&PeerConfig> {
        self.by_key.get(&peer.into()).and_then(|i| self.peer(*i)).map(|p| &p.config)
    }

    fn peer_status(&self, index: PeerIndex) -> Option<PeerStatus> {
        let peer = self.peer(index)?;
        let tally = self.rib.tally(index);
        let session = peer.session.as_ref();
        let furthest = peer.connections.iter().max_by_key(|c| c.phase);
        Some(PeerStatus {
            peer: peer.key,
            description: peer.config.description.clone(),
            kind: peer.config.kind,
            bfd: peer.bfd,
            asn: session.map(|s| s.asn).or(peer.config.asn),
            router_id: peer.router_id,
            state: state(peer),
            since: peer.changed_at,
            cause: peer.cause.clone(),
            received: tally.received.iter().sum(),
            accepted: tally.accepted.iter().sum(),
            stale: tally.stale,
            advertised: self.members.group(index).map_or(0, |(group, _)| group.advertised_to(index)),
            sessions: peer.sessions,
            dynamic: peer.dynamic,
            retiring: peer.retiring.is_some(),
            reflector_client: peer.config.reflector_client,
            internal: session
                .map_or(peer.config.asn == Some(peer.local_asn(self.config.asn)), |s| s.internal),
            families: session.map_or_else(|| peer.config.families.clone(), |s| s.families.clone()),
            hold_time: session.map_or(peer.config.hold_time, |s| s.hold_time),
            graceful_restart: session.is_some_and(|s| s.restart.is_some()),
            local_address: session.map(|s| s.local),
            problems: peer.problems,
            last_problem: peer.last_problem.clone(),
            messages_received: peer.history.received,
            messages_sent: peer.history.sent,
            flaps: peer.history.flaps,
            history: peer.history.turns(),
            timers: timers(peer),
            capabilities_sent: furthest.map_or_else(Vec::new, |c| c.offered.clone()),
            capabilities_received: furthest
                .and_then(|c| c.open.as_ref())
                .map_or_else(Vec::new, |open| open.capabilities.clone()),
            in_flight: session.map_or(0, |s| s.in_flight),
            received_by_family: tally.received,
            accepted_by_family: tally.accepted,
        })
    }
}

fn timers(peer: &Peer) -> PeerTimers {
    let earliest = |of: fn(&Connection) -> Option<Instant>| peer.connections.iter().filter_map(of).min();
    PeerTimers {
        hold: earliest(|c| c.deadline),
        keepalive: earliest(|c| c.keepalive_at),
        connect_retry: peer.retry_at,
        stale: peer.retained.iter().flatten().map(|r| r.until).min(),
    }
}

pub(crate) fn state(peer: &Peer) -> PeerState {
    let phase = peer.connections.iter().map(|c| c.phase).max();
    match phase {
        Some(Phase::Established) => PeerState::Established,
        Some(Phase::OpenConfirm) => PeerState::OpenConfirm,
        Some(Phase::OpenSent) => PeerState::OpenSent,
        Some(Phase::DelayOpen | Phase::Connecting) => PeerState::Connect,
        None if !peer.is_enabled() => PeerState::Idle,
        None => PeerState::Active,
    }
}
