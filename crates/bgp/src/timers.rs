//! Timers of a peer (RFC 4271 §10, RFC 9687). Owns what each does when it fires.
//!
//! A host that slept fires them late, and what peers said meanwhile is still unread. Whoever finds a hold timer
//! expired so late gives the peer one more moment.

use std::time::{Duration, Instant};

use bgp_packet::{Notification, code, encode_keepalive};

use crate::peer::{HeldDown, Phase};
use crate::rib::PeerIndex;
use crate::{Cause, ConnId, ConnectFailure, Speaker};

/// A timer that fires this much later than it was due was held up by us, not by the peer.
const LATE: Duration = Duration::from_secs(2);
/// The moment that a peer gets then.
const GRACE: Duration = Duration::from_secs(5);

impl Speaker {
    /// Fires what is due for one peer.
    pub(crate) fn fire(&mut self, index: PeerIndex, now: Instant) {
        self.give_grace(index, now);
        self.fire_retained(index, now);
        self.fire_refresh(index, now);
        self.fire_keepalives(index, now);
        self.fire_deadlines(index, now);
        self.fire_held_down(index, now);
        let Some(peer) = self.peer_mut(index) else { return };
        if is_due(peer.retry_at, now) {
            peer.retry_at = None;
            self.connect(index, now);
        }
    }

    /// Puts off what ends sessions or drops routes when we come too late to judge.
    fn give_grace(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        let confirmed = peer.connections.iter_mut().filter(|c| c.phase >= Phase::OpenConfirm);
        let holds = confirmed.filter_map(|c| c.deadline.as_mut());
        let retained = peer.retained.iter_mut().flatten().map(|r| &mut r.until);
        for deadline in holds.chain(retained) {
            if now.saturating_duration_since(*deadline) >= LATE {
                *deadline = now + GRACE;
            }
        }
        if let Some(session) = peer.session.as_mut()
            && session.send_deadline().is_some_and(|at| now >= at + LATE)
        {
            session.blocked_since = Some(now);
        }
    }

    /// The peer said something: it lives.
    pub(crate) fn refresh_hold(&mut self, index: PeerIndex, conn: ConnId, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        let hold = peer.session.as_ref().map_or(0, |s| s.hold_time);
        if let (Some(connection), 1..) = (peer.connection(conn), hold) {
            connection.deadline = Some(now + Duration::from_secs(u64::from(hold)));
        }
    }

    fn fire_keepalives(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer(index) else { return };
        let Some(interval) = peer.session.as_ref().map(|s| s.keepalive) else { return };
        let due: Vec<ConnId> =
            peer.connections.iter().filter(|c| is_due(c.keepalive_at, now)).map(|c| c.id).collect();
        for conn in due {
            let next = now + self.jitter(interval);
            let Some(peer) = self.peer_mut(index) else { return };
            if let Some(connection) = peer.connection(conn) {
                connection.keepalive_at = Some(next);
            }
            // What still waits since the last time is a peer that does not read; `handle_sent` clears it.
            if let Some(session) = peer.session.as_mut().filter(|s| s.in_flight > 0) {
                session.blocked_since.get_or_insert(now);
            }
            let mut bytes = Vec::new();
            encode_keepalive(&mut bytes);
            self.send(conn, bytes);
        }
    }

    fn fire_deadlines(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer(index) else { return };
        let expired: Vec<(ConnId, Phase)> =
            peer.connections.iter().filter(|c| is_due(c.deadline, now)).map(|c| (c.id, c.phase)).collect();
        for (conn, phase) in expired {
            self.expire(index, conn, phase, now);
        }
        let Some(session) = self.peer(index).and_then(|p| p.session.as_ref()) else { return };
        if is_due(session.send_deadline(), now) {
            let cause = Cause::SendHoldTimerExpired(session.send_hold);
            let notification = Notification::new(code::SEND_HOLD_TIMER, 0);
            self.end(index, session.conn, cause, Some(notification), now);
        }
    }

    fn expire(&mut self, index: PeerIndex, conn: ConnId, phase: Phase, now: Instant) {
        let Some(peer) = self.peer(index) else { return };
        let negotiated = peer.session.as_ref().map(|s| s.hold_time);
        let hold = negotiated.unwrap_or_else(|| peer.config.hold_time());
        let with_password = peer.config.password.is_some();
        let expired = Some(Notification::new(code::HOLD_TIMER, 0));
        let (cause, notification) = match phase {
            Phase::DelayOpen => return self.send_open(index, conn, now),
            Phase::Connecting => (Cause::Connect(ConnectFailure::TimedOut, with_password), None),
            Phase::OpenSent => (Cause::OpenTimeout, expired),
            Phase::OpenConfirm | Phase::Established => (Cause::HoldTimerExpired(hold), expired),
        };
        self.end(index, conn, cause, notification, now);
    }

    fn fire_held_down(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        if let Some(HeldDown::MaxPrefix(Some(until))) = peer.held_down
            && until <= now
        {
            peer.held_down = None;
            self.first_attempt(index, now);
        }
    }
}

/// Whether a time has come.
pub(crate) fn is_due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}
