//! TCP connections of peers. Owns who connects, which incoming connection is taken, and how one is given up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::peer::{Connection, Phase};
use crate::record::Entry;
use crate::rib::PeerIndex;
use crate::{Cause, Closed, ConnId, ConnectFailure, Output, PeerKey, Refused, Speaker};

/// How long a TCP connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Speaker {
    /// A connection that was asked for is open.
    pub fn handle_connected(&mut self, conn: ConnId, local: SocketAddr, now: Instant) {
        self.note(Some(now), |_| Entry::Connected { conn: conn.0, local });
        let Some(index) = self.by_conn.get(&conn).copied() else { return };
        let Some(peer) = self.peer_mut(index) else { return };
        if peer.session.is_some() {
            self.discard(index, conn);
        } else {
            if let Some(connection) = peer.connection(conn) {
                connection.local = Some(local);
            }
            self.begin_open(index, conn, now);
        }
        self.settle(index, now);
    }

    /// A connection that was asked for could not be opened.
    pub fn handle_connect_failed(&mut self, conn: ConnId, failure: ConnectFailure, now: Instant) {
        self.note(Some(now), |_| Entry::ConnectFailed { conn: conn.0, failure: failure.clone() });
        let Some(index) = self.by_conn.get(&conn).copied() else { return };
        self.forget_conn(index, conn);
        let Some(peer) = self.peer(index) else { return };
        let cause = Cause::Connect(failure, peer.config.password.is_some());
        self.attempt_failed(index, cause, now);
        self.settle(index, now);
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
        self.note(Some(now), |_| Entry::Incoming { remote, local });
        let key = PeerKey::from(remote);
        let index = match self.by_key.get(&key) {
            Some(index) => *index,
            None => self.add_dynamic(key, now)?,
        };
        let peer = self.peer(index).ok_or(Refused::NotConfigured)?;
        if peer.retiring.is_some() {
            return Err(Refused::NotConfigured);
        }
        if !peer.is_enabled() {
            return Err(Refused::AdminDown);
        }
        let (after_established, dynamic) = (peer.session.is_some(), peer.dynamic);
        // A peer that connects again has given up its earlier attempt.
        let earlier = peer.connections.iter().find(|c| !c.outgoing && c.phase != Phase::Established);
        if let Some(id) = earlier.map(|c| c.id) {
            self.discard(index, id);
        }
        let conn = self.new_conn(index);
        let mut connection = Connection::new(conn, false, now);
        connection.local = Some(local);
        connection.after_established = after_established;
        connection.half_open = dynamic;
        self.half_open += usize::from(dynamic);
        if let Some(peer) = self.peer_mut(index) {
            peer.connections.push(connection);
        }
        self.begin_open(index, conn, now);
        self.settle(index, now);
        Ok(conn)
    }

    /// The connection is gone.
    pub fn handle_closed(&mut self, conn: ConnId, closed: Closed, now: Instant) {
        self.note(Some(now), |_| Entry::Closed { conn: conn.0, closed: closed.clone() });
        let Some(index) = self.by_conn.get(&conn).copied() else { return };
        let before_open =
            self.peer_mut(index).and_then(|p| p.connection(conn)).is_some_and(|c| c.open.is_none());
        let cause = if before_open { Cause::ClosedBeforeOpen } else { Cause::Closed(closed) };
        self.end(index, conn, cause, None, now);
        self.settle(index, now);
    }

    /// Connects to a peer, unless something is under way already.
    pub(crate) fn connect(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer(index) else { return };
        let busy = !peer.connections.is_empty() || peer.session.is_some();
        if busy || !peer.is_active() {
            // An incoming attempt is under way; should it fail, its end schedules the next try.
            return;
        }
        let config = peer.config.clone();
        let remote = peer.key.socket(config.port);
        let conn = self.new_conn(index);
        if let Some(peer) = self.peer_mut(index) {
            peer.connections.push(Connection::new(conn, true, now + CONNECT_TIMEOUT));
        }
        self.outputs.push_back(Output::Connect {
            conn,
            remote,
            local: config.local_address,
            hold_time: config.hold_time(),
            password: config.password,
            ttl_security: config.ttl_security,
        });
    }

    /// Stops our own attempts that have not come as far as TCP.
    pub(crate) fn drop_connecting(&mut self, index: PeerIndex) {
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
        let Some(peer) = self.peer_mut(index) else { return };
        let Some(at) = peer.connections.iter().position(|c| c.id == conn) else { return };
        let gone = peer.connections.swap_remove(at);
        self.half_open -= usize::from(gone.half_open);
    }
}
