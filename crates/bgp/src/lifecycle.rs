//! A session's beginning and end (RFC 4271 §8.2.2). Owns what happens when it comes up, when it goes, and when the
//! next attempt is made.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp_packet::{Cease, Notification, code};

use crate::peer::{FIRST_RETRY, Phase, Terms};
use crate::rib::{PeerIndex, PeerInfo};
use crate::session::Session;
use crate::{Cause, ConnId, Event, Speaker};

/// First wait after an error that trying again at once is unlikely to mend (RFC 4271 §8.1.1, IdleHoldTime).
const FIRST_IDLE_HOLD: Duration = Duration::from_secs(1);
/// A session that lasted this long makes the waits short again.
const STABLE: Duration = Duration::from_secs(60);

impl Speaker {
    /// The peer has confirmed our OPEN: routes may flow.
    pub(crate) fn establish(&mut self, index: PeerIndex, conn: ConnId, now: Instant) {
        let speaker_asn = self.config.asn;
        let Some(peer) = self.peer_mut(index) else { return };
        let local_asn = peer.local_asn(speaker_asn);
        let Some(connection) = peer.connections.iter_mut().find(|c| c.id == conn) else { return };
        let Some(open) = connection.open.as_ref() else { return };
        let local = connection.local.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip().to_canonical());
        let session = Session::negotiate(conn, &peer.config, local_asn, open, local, now);
        let info = PeerInfo {
            key: peer.key,
            router_id: open.router_id,
            external: !session.internal,
            client: peer.config.reflector_client,
            only_here: peer.config.only_here || peer.key.is_link_local(),
        };
        let hold = Duration::from_secs(u64::from(session.hold_time));
        connection.phase = Phase::Established;
        connection.deadline = (!hold.is_zero()).then(|| now + hold);
        connection.keepalive_at = (!session.keepalive.is_zero()).then(|| now + session.keepalive);
        let was_half_open = std::mem::take(&mut connection.half_open);
        peer.retry_at = None;
        peer.sessions += 1;
        peer.changed_at = now;
        peer.history.turn(now, None);
        peer.terms = Some(Terms { external: !session.internal, asn: session.asn, role: session.role });
        peer.session = Some(session);
        let key = peer.key;
        self.half_open -= usize::from(was_half_open);
        self.rib.set_peer(index, info);
        self.begin_advertising(index);
        self.begin_bfd(index);
        self.drop_connecting(index);
        self.helper_resume(index, now);
        self.events.push_back(Event::PeerUp { peer: key });
    }

    /// Ends all connections of a peer.
    pub(crate) fn end_all(
        &mut self,
        index: PeerIndex,
        cause: &Cause,
        notification: Option<&Notification>,
        now: Instant,
    ) {
        let Some(peer) = self.peer(index) else { return };
        let all: Vec<ConnId> = peer.connections.iter().map(|c| c.id).collect();
        all.into_iter().for_each(|conn| self.end(index, conn, cause.clone(), notification.cloned(), now));
    }

    /// Ends a connection, and the session if it carried it.
    pub(crate) fn end(
        &mut self,
        index: PeerIndex,
        conn: ConnId,
        cause: Cause,
        notification: Option<Notification>,
        now: Instant,
    ) {
        let Some(peer) = self.peer_mut(index) else { return };
        let Some(phase) = peer.connection(conn).map(|c| c.phase) else { return };
        // Nothing is said before our OPEN (RFC 4271 §8.2.1.5).
        let notified = notification.filter(|_| phase > Phase::DelayOpen);
        if let Some(notification) = &notified {
            let mut bytes = Vec::new();
            notification.encode(&mut bytes);
            peer.history.sent.notification += 1;
            self.send(conn, bytes);
        }
        self.discard(index, conn);
        let Some(peer) = self.peer(index) else { return };
        let carried = peer.session.as_ref().is_some_and(|s| s.conn == conn);
        if carried {
            self.session_ended(index, cause, notified.as_ref(), now);
        } else if peer.session.is_none() && !is_collision(&cause) {
            self.attempt_failed(index, cause, now);
        } else if peer.session.is_none() && peer.connections.is_empty() {
            self.schedule(index, false, now);
        }
    }

    fn session_ended(&mut self, index: PeerIndex, cause: Cause, sent: Option<&Notification>, now: Instant) {
        self.end_bfd(index);
        self.end_advertising(index);
        let routes_kept = self.helper_begin(index, &cause, sent, now);
        let idle = needs_patience(&cause);
        let Some(peer) = self.peer_mut(index) else { return };
        let lasted = peer.session.take().map_or(Duration::ZERO, |s| now.saturating_duration_since(s.since));
        peer.cause = cause.clone();
        peer.changed_at = now;
        peer.history.turn(now, Some(cause.clone()));
        // The same two speakers go on talking over the connection that stays.
        peer.history.flaps += u64::from(!is_collision(&cause));
        // A session that ends again and again for one reason must not be tried faster and faster.
        if !idle {
            peer.retry_delay = FIRST_RETRY;
        } else if lasted >= STABLE {
            peer.retry_delay = FIRST_IDLE_HOLD;
        }
        let key = peer.key;
        self.events.push_back(Event::PeerDown { peer: key, cause, routes_kept });
        self.schedule(index, idle, now);
    }

    /// Notes a failed attempt; the owner hears of it once per cause.
    pub(crate) fn attempt_failed(&mut self, index: PeerIndex, cause: Cause, now: Instant) {
        let idle = needs_patience(&cause);
        let Some(peer) = self.peer_mut(index) else { return };
        if peer.session.is_some() {
            return;
        }
        let key = peer.key;
        if peer.cause != cause {
            peer.cause = cause.clone();
            peer.history.turn(now, Some(cause.clone()));
            self.events.push_back(Event::PeerFailed { peer: key, cause });
        }
        self.schedule(index, idle, now);
    }

    /// Sets the time of the next attempt, later each time; `idle` waits longer.
    pub(crate) fn schedule(&mut self, index: PeerIndex, idle: bool, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        if !peer.is_active() || peer.session.is_some() {
            peer.retry_at = None;
            return;
        }
        // Who connects to us and fails must not put off our own attempt for ever.
        if peer.retry_at.is_some_and(|at| at > now) {
            return;
        }
        let (least, most) = if idle {
            (FIRST_IDLE_HOLD, peer.config.idle_hold)
        } else {
            (FIRST_RETRY, peer.config.connect_retry)
        };
        let delay = peer.retry_delay.clamp(least.min(most), most);
        peer.retry_delay = delay * 2;
        let wait = self.jitter(delay);
        if let Some(peer) = self.peer_mut(index) {
            peer.retry_at = Some(now + wait);
        }
    }

    /// A NOTIFICATION after which the peer must not keep our routes either: wrapped into a Hard Reset where the
    /// peer would (RFC 8538 §3.1).
    pub(crate) fn for_good(&self, index: PeerIndex, notification: Notification) -> Notification {
        let session = self.peer(index).and_then(|p| p.session.as_ref());
        let keeps = session.and_then(|s| s.restart.as_ref()).is_some_and(|gr| gr.notification);
        if keeps { notification.hard_reset() } else { notification }
    }
}

fn is_collision(cause: &Cause) -> bool {
    let collision = |n: &Notification| n.code == code::CEASE && n.subcode == Cease::CollisionResolution as u8;
    match cause {
        Cause::NotificationReceived(n) | Cause::NotificationSent(n, _) => collision(n),
        _ => false,
    }
}

/// Whether trying again at once is unlikely to help.
fn needs_patience(cause: &Cause) -> bool {
    match cause {
        Cause::WrongAs { .. }
        | Cause::SameIdentifier(_)
        | Cause::RoleMismatch { .. }
        | Cause::NoCommonFamily
        | Cause::ClosedBeforeOpen
        | Cause::OpenTimeout => true,
        Cause::NotificationSent(n, _) | Cause::NotificationReceived(n) => !is_transient(n),
        _ => false,
    }
}

fn is_transient(n: &Notification) -> bool {
    n.code == code::HOLD_TIMER
        || (n.code == code::CEASE
            && [Cease::AdministrativeReset, Cease::OtherConfigurationChange, Cease::CollisionResolution]
                .iter()
                .any(|c| n.subcode == *c as u8))
}
