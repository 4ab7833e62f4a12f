//! What an operator may do to a running session. Owns the peers that an operator switched off: that lasts
//! over changes of the configuration, and ends with the process.

use std::time::Instant;

use bgp_packet::{Capability, Cease, Family, Notification, RouteRefresh};

use crate::{Cause, PeerKey, Speaker};

impl Speaker {
    /// Ends a peer's session and begins a new one; the peer's operator sees `text` (RFC 9003).
    pub fn reset(&mut self, peer: impl Into<PeerKey>, text: &str, now: Instant) {
        let Some(index) = self.by_key.get(&peer.into()).copied() else { return };
        let notification = cease(Cease::AdministrativeReset, text);
        self.end_all(index, &Cause::AdministrativeReset, Some(notification), now);
        self.arm(index);
    }

    /// Ends a peer's session and allows no other until [`Self::enable`]; the peer's operator sees `text`.
    /// The peer drops our routes also when graceful restart was negotiated (RFC 8538 §3.1).
    pub fn disable(&mut self, peer: impl Into<PeerKey>, text: &str, now: Instant) {
        let key = peer.into();
        let Some(index) = self.by_key.get(&key).copied() else { return };
        self.switched_off.insert(key);
        let Some(peer) = self.peer_mut(index) else { return };
        peer.config.admin_down = true;
        let session = peer.session.as_ref();
        let keeps = session.is_some_and(|s| s.restart.as_ref().is_some_and(|gr| gr.notification));
        let shutdown = cease(Cease::AdministrativeShutdown, text);
        let shutdown = if keeps { shutdown.hard_reset() } else { shutdown };
        self.end_all(index, &Cause::AdminDown, Some(shutdown), now);
        self.first_attempt(index, now);
    }

    /// Allows sessions again that [`Self::disable`] forbade; what the configuration forbids stays forbidden.
    pub fn enable(&mut self, peer: impl Into<PeerKey>, now: Instant) {
        let key = peer.into();
        if !self.switched_off.remove(&key) {
            return;
        }
        let configured = self.config.peers.get(&key).is_some_and(|config| config.admin_down);
        let Some(index) = self.by_key.get(&key).copied() else { return };
        if let Some(peer) = self.peer_mut(index) {
            peer.config.admin_down = configured;
        }
        self.first_attempt(index, now);
    }

    /// Peers that an operator switched off.
    pub fn switched_off(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.switched_off.iter().copied()
    }

    /// Sends a peer all routes that it should have (RFC 2918, from our side).
    pub fn refresh_out(&mut self, peer: impl Into<PeerKey>) {
        let Some(index) = self.by_key.get(&peer.into()).copied() else { return };
        Family::ALL.into_iter().for_each(|family| self.send_again(index, family, false));
    }

    /// Asks a peer for all its routes of every negotiated family (RFC 2918). Gives back whether it can be
    /// asked: it is Established and has the capability.
    pub fn refresh_in(&mut self, peer: impl Into<PeerKey>) -> bool {
        let Some(index) = self.by_key.get(&peer.into()).copied() else { return false };
        let Some(peer) = self.peer(index) else { return false };
        let Some(session) = &peer.session else { return false };
        let open = peer.connections.iter().find(|c| c.id == session.conn).and_then(|c| c.open.as_ref());
        if !open.is_some_and(|open| open.capabilities.contains(&Capability::RouteRefresh)) {
            return false;
        }
        let (conn, mut bytes) = (session.conn, Vec::new());
        for family in &session.families {
            RouteRefresh { family: (*family).into(), subtype: 0 }.encode(&mut bytes);
        }
        self.send(conn, bytes);
        true
    }
}

fn cease(subcode: Cease, text: &str) -> Notification {
    if text.is_empty() { Notification::cease(subcode) } else { Notification::cease_with_text(subcode, text) }
}
