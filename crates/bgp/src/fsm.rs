//! Connections and sessions (RFC 4271 §8, §6.8; RFC 6286). Owns who connects, who is kept, when it ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp_packet::{
    AfiSafi, Capability, Cease, DecodeError, EncodeOptions, Family, GracefulRestart, MAX_LEN, Message,
    Notification, Open, UpdateContext, code, encode_keepalive, frame,
};

use crate::peer::{Connection, FIRST_RETRY, MAX_ERROR_WAIT, MAX_RETRY, Peer, Phase, Session};
use crate::rib::{PeerIndex, PeerInfo};
use crate::{Cause, Closed, ConnId, ConnectFailure, Event, Output, PeerKey, Refused, Speaker};

/// How long a TCP connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may take to send its OPEN.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// A session younger than this is not taken for that of a peer which has restarted since.
const YOUNG: Duration = Duration::from_secs(3);

impl Speaker {
    /// A connection that was asked for is open.
    pub fn handle_connected(&mut self, conn: ConnId, local: SocketAddr, now: Instant) {
        let Some(index) = self.by_conn.get(&conn).copied() else { return };
        let Some(peer) = self.peer_mut(index) else { return };
        if peer.session.is_some() {
            self.discard(index, conn);
            return;
        }
        if let Some(connection) = peer.connection(conn) {
            connection.local = Some(local);
        }
        self.send_open(index, conn, now);
    }

    /// A connection that was asked for could not be opened.
    pub fn handle_connect_failed(&mut self, conn: ConnId, failure: ConnectFailure, now: Instant) {
        let Some(index) = self.by_conn.get(&conn).copied() else { return };
        self.forget_conn(index, conn);
        let Some(peer) = self.peer(index) else { return };
        let cause = Cause::Connect(failure, peer.config.password.is_some());
        self.attempt_failed(index, cause, MAX_RETRY, now);
        self.arm(index);
    }

    /// A connection came in.
    ///
    /// # Errors
    /// When nobody with that address is expected; the transport closes the connection then.
    pub fn handle_incoming(
        &mut self,
        remote: SocketAddr,
        local: SocketAddr,
        now: Instant,
    ) -> Result<ConnId, Refused> {
        let key = PeerKey::from(remote);
        let index = match self.by_key.get(&key) {
            Some(index) => *index,
            None => self.add_dynamic(key, now)?,
        };
        let peer = self.peer(index).ok_or(Refused::NotConfigured)?;
        if !peer.config.is_enabled() {
            return Err(Refused::AdminDown);
        }
        let after_established = peer.session.is_some();
        // A peer that connects again has given up its earlier attempt.
        let earlier = peer.connections.iter().find(|c| !c.outgoing && c.phase != Phase::Established);
        if let Some(id) = earlier.map(|c| c.id) {
            self.discard(index, id);
        }
        let conn = self.new_conn(index);
        if let Some(peer) = self.peer_mut(index) {
            peer.connections.push(Connection {
                id: conn,
                outgoing: false,
                phase: Phase::OpenSent,
                local: Some(local),
                deadline: None,
                keepalive_at: None,
                offered: Vec::new(),
                open: None,
                after_established,
            });
        }
        self.send_open(index, conn, now);
        Ok(conn)
    }

    /// Bytes came in. Gives back how many were used up; the rest is the beginning of a message.
    pub fn handle_data(&mut self, conn: ConnId, bytes: &[u8], now: Instant) -> usize {
        let mut used = 0;
        while let Some(index) = self.by_conn.get(&conn).copied() {
            let context = self
                .peer(index)
                .and_then(|p| p.session.as_ref())
                .map_or(UpdateContext::default(), |s| s.context);
            match frame(&bytes[used..], MAX_LEN) {
                Ok(None) => break,
                Ok(Some(found)) => {
                    used += found.len;
                    match found.parse(context) {
                        Ok(message) => self.handle_message(index, conn, message, now),
                        Err(error) => self.protocol_error(index, conn, &error, now),
                    }
                }
                Err(error) => self.protocol_error(index, conn, &error, now),
            }
        }
        if let Some(index) = self.by_conn.get(&conn).copied() {
            self.arm(index);
            return used;
        }
        bytes.len()
    }

    /// The connection is gone.
    pub fn handle_closed(&mut self, conn: ConnId, closed: Closed, now: Instant) {
        let Some(index) = self.by_conn.get(&conn).copied() else { return };
        let before_open =
            self.peer_mut(index).and_then(|p| p.connection(conn)).is_some_and(|c| c.open.is_none());
        let cause = if before_open { Cause::ClosedBeforeOpen } else { Cause::Closed(closed) };
        self.end(index, conn, cause, None, now);
        self.arm(index);
    }

    fn handle_message(&mut self, index: PeerIndex, conn: ConnId, message: Message<'_>, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        peer.history.received.note(&message);
        let Some(connection) = peer.connection(conn) else { return };
        let phase = connection.phase;
        match (phase, message) {
            (_, Message::Notification(n)) => {
                self.end(index, conn, Cause::NotificationReceived(n), None, now);
            }
            (Phase::OpenSent, Message::Open(open)) => self.handle_open(index, conn, open, now),
            (Phase::OpenConfirm, Message::Keepalive) => self.establish(index, conn, now),
            (Phase::Established, Message::Keepalive) => self.refresh_hold(index, conn, now),
            (Phase::Established, Message::Update(update)) => {
                self.refresh_hold(index, conn, now);
                if self.disable_families(index, &update, now) {
                    self.handle_update(index, &update, now);
                }
            }
            (Phase::Established, Message::RouteRefresh(refresh)) => {
                self.refresh_hold(index, conn, now);
                if let (0, Some(family)) = (refresh.subtype, Family::from_afi_safi(refresh.family)) {
                    self.send_again(index, family, false);
                }
            }
            (phase, _) => {
                let subcode = match phase {
                    Phase::Connecting | Phase::OpenSent => 1,
                    Phase::OpenConfirm => 2,
                    Phase::Established => 3,
                };
                let notification = Notification::new(code::FSM, subcode);
                let cause = Cause::NotificationSent(notification.clone(), String::new());
                self.end(index, conn, cause, Some(notification), now);
            }
        }
    }

    fn refresh_hold(&mut self, index: PeerIndex, conn: ConnId, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        let hold = peer.session.as_ref().map_or(0, |s| s.hold_time);
        if let (Some(connection), 1..) = (peer.connection(conn), hold) {
            connection.deadline = Some(now + Duration::from_secs(u64::from(hold)));
        }
    }

    fn protocol_error(&mut self, index: PeerIndex, conn: ConnId, error: &DecodeError, now: Instant) {
        let cause = Cause::NotificationSent(error.notification.clone(), error.detail.to_owned());
        self.end(index, conn, cause, Some(error.notification.clone()), now);
    }

    /// Sends our OPEN, with the capabilities that the configuration and the state of a restart give.
    fn send_open(&mut self, index: PeerIndex, conn: ConnId, now: Instant) {
        let restarting = self.deferral.is_some();
        let Some(peer) = self.peer(index) else { return };
        let config = &peer.config;
        let asn = peer.local_asn(self.config.asn);
        let mut capabilities: Vec<Capability> =
            config.families.iter().map(|f| Capability::Multiprotocol((*f).into())).collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::FourOctetAs(asn));
        if config.restart_time > 0 {
            // Forwarding was kept over our restart, or since an earlier session of this run.
            let forwarding = self.start.forwarding_kept || peer.sessions > 0;
            let families = config.families.iter().map(|f| (AfiSafi::from(*f), forwarding)).collect();
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarting: restarting && peer.sessions == 0,
                notification: true,
                restart_time: config.restart_time,
                families,
            }));
        }
        let open = Open { asn, hold_time: config.hold_time, router_id: self.config.router_id, capabilities };
        let mut bytes = Vec::with_capacity(96);
        open.encode(&mut bytes);
        if let Some(connection) = self.peer_mut(index).and_then(|p| p.connection(conn)) {
            connection.phase = Phase::OpenSent;
            connection.deadline = Some(now + OPEN_TIMEOUT);
            connection.offered = open.capabilities;
        }
        self.send(conn, bytes);
        self.arm(index);
    }

    fn handle_open(&mut self, index: PeerIndex, conn: ConnId, open: Open, now: Instant) {
        let own_id = self.config.router_id;
        let Some(peer) = self.peer(index) else { return };
        let local_asn = peer.local_asn(self.config.asn);
        if let Some(expected) = peer.config.asn.filter(|expected| *expected != open.asn) {
            let cause = Cause::WrongAs { expected, got: open.asn };
            return self.end(index, conn, cause, Some(Notification::new(code::OPEN, 2)), now);
        }
        if open.router_id == own_id && open.asn == local_asn {
            let notification = Notification::new(code::OPEN, 3);
            let detail = format!("the peer has our own identifier {own_id}");
            let cause = Cause::NotificationSent(notification.clone(), detail);
            return self.end(index, conn, cause, Some(notification), now);
        }
        if !self.resolve_collision(index, conn, &open, now) {
            return;
        }
        let hold = self.peer(index).map_or(0, |p| p.config.hold_time.min(open.hold_time));
        let Some(peer) = self.peer_mut(index) else { return };
        peer.router_id = Some(open.router_id);
        let Some(connection) = peer.connection(conn) else { return };
        connection.open = Some(open);
        connection.phase = Phase::OpenConfirm;
        connection.deadline = Some(now + Duration::from_secs(if hold == 0 { 20 } else { hold.into() }));
        let mut bytes = Vec::new();
        encode_keepalive(&mut bytes);
        self.send(conn, bytes);
    }

    /// Decides which of two connections stays (RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §4.2).
    /// Gives back whether `conn` does.
    fn resolve_collision(&mut self, index: PeerIndex, conn: ConnId, open: &Open, now: Instant) -> bool {
        let own = (u32::from(self.config.router_id), self.config.asn);
        let Some(peer) = self.peer_mut(index) else { return false };
        let theirs = (u32::from(open.router_id), open.asn);
        let Some(new) = peer.connection(conn).map(|c| (c.outgoing, c.after_established)) else {
            return false;
        };
        if let Some(session) = &peer.session {
            let restarted = new.1 && session.restart.is_some() && now > session.since + YOUNG;
            let old = session.conn;
            if restarted {
                self.end(index, old, Cause::PeerRestarted, None, now);
            } else {
                self.close_collided(index, conn);
            }
            return restarted;
        }
        let rival = peer.connections.iter().find(|c| c.id != conn && c.phase == Phase::OpenConfirm);
        let Some(rival) = rival.map(|c| c.id) else { return true };
        let keep_new = (own > theirs) == new.0;
        self.close_collided(index, if keep_new { rival } else { conn });
        keep_new
    }

    fn close_collided(&mut self, index: PeerIndex, conn: ConnId) {
        let mut bytes = Vec::new();
        Notification::cease(Cease::CollisionResolution).encode(&mut bytes);
        self.send(conn, bytes);
        self.discard(index, conn);
    }

    /// The peer has confirmed our OPEN: routes may flow.
    fn establish(&mut self, index: PeerIndex, conn: ConnId, now: Instant) {
        let speaker_asn = self.config.asn;
        let Some(peer) = self.peer_mut(index) else { return };
        let local_asn = peer.local_asn(speaker_asn);
        let own_restart = peer.config.restart_time > 0;
        let (own_hold, families) = (peer.config.hold_time, peer.config.families.clone());
        let (key, client) = (peer.key, peer.config.reflector_client);
        let Some(connection) = peer.connection(conn) else { return };
        let Some(open) = connection.open.clone() else { return };
        let hold_time = own_hold.min(open.hold_time);
        connection.phase = Phase::Established;
        let seconds = |n: u16| Duration::from_secs(u64::from(n));
        connection.deadline = (hold_time > 0).then(|| now + seconds(hold_time));
        connection.keepalive_at = (hold_time > 0).then(|| now + seconds(hold_time) / 3);
        let local = connection.local.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip().to_canonical());
        let internal = open.asn == local_asn;
        let families: Vec<Family> = families.into_iter().filter(|f| open.speaks(*f)).collect();
        let session = Session {
            conn,
            since: now,
            asn: open.asn,
            internal,
            context: UpdateContext { as4: open.is_as4(), internal, ..UpdateContext::default() },
            options: EncodeOptions { as4: open.is_as4(), ..EncodeOptions::default() },
            families,
            disabled: [false; 2],
            hold_time,
            local,
            restart: open.graceful_restart().filter(|_| own_restart).cloned(),
            end_of_rib_seen: Vec::new(),
            in_flight: 0,
        };
        peer.retry_at = None;
        peer.retry_delay = FIRST_RETRY;
        peer.sessions += 1;
        peer.changed_at = now;
        peer.history.turn(now, None);
        peer.session = Some(session);
        let info = PeerInfo { key, router_id: open.router_id, external: !internal, client };
        self.rib.set_peer(index, info);
        self.begin_advertising(index);
        self.begin_bfd(index);
        self.drop_connecting(index);
        self.helper_resume(index, now);
        self.events.push_back(Event::PeerUp { peer: key });
        self.check_deferral(now);
    }

    /// Stops our own attempts that have not come as far as TCP.
    fn drop_connecting(&mut self, index: PeerIndex) {
        let Some(peer) = self.peer(index) else { return };
        let connecting: Vec<ConnId> =
            peer.connections.iter().filter(|c| c.phase == Phase::Connecting).map(|c| c.id).collect();
        connecting.into_iter().for_each(|conn| self.discard(index, conn));
    }

    /// Closes a connection that never mattered.
    pub(crate) fn discard(&mut self, index: PeerIndex, conn: ConnId) {
        self.outputs.push_back(Output::Close { conn });
        self.forget_conn(index, conn);
    }

    pub(crate) fn forget_conn(&mut self, index: PeerIndex, conn: ConnId) {
        self.by_conn.remove(&conn);
        if let Some(peer) = self.peer_mut(index) {
            peer.connections.retain(|c| c.id != conn);
        }
    }

    /// Ends all connections of a peer.
    pub(crate) fn end_all(
        &mut self,
        index: PeerIndex,
        cause: &Cause,
        notification: Option<Notification>,
        now: Instant,
    ) {
        let Some(peer) = self.peer(index) else { return };
        let all: Vec<ConnId> = peer.connections.iter().map(|c| c.id).collect();
        all.into_iter().for_each(|conn| self.end(index, conn, cause.clone(), notification.clone(), now));
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
        let notified = notification.filter(|_| phase > Phase::Connecting);
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
            let wait = if is_protocol(&cause) { MAX_ERROR_WAIT } else { MAX_RETRY };
            self.attempt_failed(index, cause, wait, now);
        } else if peer.session.is_none() && peer.connections.is_empty() {
            self.schedule(index, MAX_RETRY, now);
        }
    }

    fn session_ended(&mut self, index: PeerIndex, cause: Cause, sent: Option<&Notification>, now: Instant) {
        self.end_bfd(index);
        self.end_advertising(index);
        let routes_kept = self.helper_begin(index, &cause, sent, now);
        let Some(peer) = self.peer_mut(index) else { return };
        peer.session = None;
        peer.cause = cause.clone();
        peer.changed_at = now;
        peer.history.turn(now, Some(cause.clone()));
        peer.history.flaps += 1;
        peer.retry_delay = FIRST_RETRY;
        let key = peer.key;
        self.events.push_back(Event::PeerDown { peer: key, cause: cause.clone(), routes_kept });
        let wait = if is_protocol(&cause) { MAX_ERROR_WAIT } else { MAX_RETRY };
        if is_protocol(&cause)
            && let Some(peer) = self.peer_mut(index)
        {
            peer.retry_delay = Duration::from_secs(1);
        }
        self.schedule(index, wait, now);
        self.retire_dynamic(index);
        self.check_deferral(now);
    }

    /// Notes a failed attempt; the owner hears of it once per cause.
    fn attempt_failed(&mut self, index: PeerIndex, cause: Cause, max_wait: Duration, now: Instant) {
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
        self.schedule(index, max_wait, now);
        self.retire_dynamic(index);
    }

    /// Sets the time of the next attempt, later each time.
    pub(crate) fn schedule(&mut self, index: PeerIndex, max_wait: Duration, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        let (passive, enabled) = (peer.config.passive, peer.config.is_enabled());
        if passive || !enabled || peer.session.is_some() {
            peer.retry_at = None;
            return;
        }
        let delay = peer.retry_delay;
        peer.retry_delay = (delay * 2).min(max_wait);
        let wait = self.jitter(delay);
        if let Some(peer) = self.peer_mut(index) {
            peer.retry_at = Some(now + wait);
        }
    }

    /// Fires what is due for one peer.
    pub(crate) fn fire(&mut self, index: PeerIndex, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let Some(peer) = self.peer_mut(index) else { return };
        if due(peer.stale_until) {
            peer.stale_until = None;
            self.drop_stale(index, None);
            self.retire_dynamic(index);
        }
        let Some(peer) = self.peer_mut(index) else { return };
        let mut keepalives = Vec::new();
        let hold = peer.session.as_ref().map_or(90, |s| s.hold_time);
        for connection in peer.connections.iter_mut().filter(|c| due(c.keepalive_at)) {
            connection.keepalive_at = Some(now + Duration::from_secs(u64::from(hold)) / 3);
            keepalives.push(connection.id);
        }
        let expired: Vec<(ConnId, Phase)> =
            peer.connections.iter().filter(|c| due(c.deadline)).map(|c| (c.id, c.phase)).collect();
        for conn in keepalives {
            let mut bytes = Vec::new();
            encode_keepalive(&mut bytes);
            self.send(conn, bytes);
        }
        for (conn, phase) in expired {
            self.expire(index, conn, phase, hold, now);
        }
        let Some(peer) = self.peer_mut(index) else { return };
        if due(peer.retry_at) {
            peer.retry_at = None;
            self.connect(index, now);
        }
    }

    fn expire(&mut self, index: PeerIndex, conn: ConnId, phase: Phase, hold: u16, now: Instant) {
        let with_password = self.peer(index).is_some_and(|p| p.config.password.is_some());
        let hold_expired = Some(Notification::new(code::HOLD_TIMER, 0));
        let (cause, notification) = match phase {
            Phase::Connecting => (Cause::Connect(ConnectFailure::TimedOut, with_password), None),
            Phase::OpenSent => (Cause::OpenTimeout, hold_expired),
            Phase::OpenConfirm | Phase::Established => (Cause::HoldTimerExpired(hold), hold_expired),
        };
        self.end(index, conn, cause, notification, now);
    }

    fn connect(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer(index) else { return };
        let busy = !peer.connections.is_empty() || peer.session.is_some();
        if busy || peer.config.passive || !peer.config.is_enabled() {
            // An incoming attempt is under way; should it fail, its end schedules the next try.
            return;
        }
        let config = peer.config.clone();
        let remote = peer.key.socket(config.port);
        let conn = self.new_conn(index);
        if let Some(peer) = self.peer_mut(index) {
            peer.connections.push(Connection {
                id: conn,
                outgoing: true,
                phase: Phase::Connecting,
                local: None,
                deadline: Some(now + CONNECT_TIMEOUT),
                keepalive_at: None,
                offered: Vec::new(),
                open: None,
                after_established: false,
            });
        }
        self.outputs.push_back(Output::Connect {
            conn,
            remote,
            local: config.local_address,
            password: config.password,
            ttl_security: config.ttl_security,
            hold_time: config.hold_time,
        });
    }

    /// Makes a peer out of a range of dynamic neighbours.
    fn add_dynamic(&mut self, key: PeerKey, now: Instant) -> Result<PeerIndex, Refused> {
        if self.switched_off.contains(&key) {
            return Err(Refused::AdminDown);
        }
        let matching = self.config.dynamic.iter().filter(|d| d.covers(key));
        let range = matching.max_by_key(|d| d.prefix.len()).ok_or(Refused::NotConfigured)?;
        if self.dynamic_peers >= self.config.max_dynamic {
            return Err(Refused::TooMany);
        }
        let mut config = range.template.clone();
        config.passive = true;
        let mut peer = Peer::new(key, config, true, now);
        peer.cause = Cause::WaitingForPeer;
        self.dynamic_peers += 1;
        Ok(self.add_peer(peer))
    }

    /// Forgets a dynamic peer that has neither a connection nor routes that are still kept.
    pub(crate) fn retire_dynamic(&mut self, index: PeerIndex) {
        let idle = self.peer(index).is_some_and(|p| {
            p.dynamic && p.connections.is_empty() && p.session.is_none() && p.stale_until.is_none()
        });
        if idle {
            self.forget_peer(index);
        }
    }
}

fn is_collision(cause: &Cause) -> bool {
    let collision = |n: &Notification| n.code == code::CEASE && n.subcode == Cease::CollisionResolution as u8;
    matches!(cause, Cause::NotificationReceived(n) if collision(n))
}

/// Whether trying again at once is unlikely to help.
fn is_protocol(cause: &Cause) -> bool {
    match cause {
        Cause::WrongAs { .. } | Cause::ClosedBeforeOpen | Cause::OpenTimeout => true,
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
