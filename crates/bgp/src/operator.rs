//! What an operator may do to a running session. Owns the peers that an operator switched off: that lasts
//! over changes of the configuration, and ends with the process.

use std::time::Instant;

use bgp_packet::{Cease, Family, Notification, RouteRefresh};

use crate::peer::HeldDown;
use crate::record::Entry;
use crate::rib::PeerIndex;
use crate::{Cause, PeerKey, Speaker};

impl Speaker {
    /// Ends a peer's session and begins a new one; the peer's operator sees `text` (RFC 9003). A peer that went
    /// down by its limit of routes gets another try.
    pub fn reset(&mut self, peer: impl Into<PeerKey>, text: &str, now: Instant) {
        let peer = peer.into();
        self.note(Some(now), |_| Entry::Reset { peer, text: text.to_owned() });
        let Some(index) = self.by_key.get(&peer).copied() else { return };
        let notification = cease(Cease::AdministrativeReset, text);
        self.end_all(index, &Cause::AdministrativeReset, Some(&notification), now);
        if let Some(peer) = self.peer_mut(index)
            && matches!(peer.held_down, Some(HeldDown::MaxPrefix(_)))
        {
            peer.held_down = None;
            self.first_attempt(index, now);
        }
        self.settle(index, now);
    }

    /// Ends a peer's session and allows no other until [`Self::enable`]; the peer's operator sees `text`.
    /// The peer drops our routes also when graceful restart was negotiated (RFC 8538 §3.1).
    pub fn disable(&mut self, peer: impl Into<PeerKey>, text: &str, now: Instant) {
        let key = peer.into();
        self.note(Some(now), |_| Entry::Disable { peer: key, text: text.to_owned() });
        let Some(index) = self.by_key.get(&key).copied() else { return };
        self.switched_off.insert(key, text.to_owned());
        let Some(peer) = self.peer_mut(index) else { return };
        peer.held_down = Some(HeldDown::Disabled);
        let shutdown = self.for_good(index, cease(Cease::AdministrativeShutdown, text));
        let cause = Cause::Disabled(text.to_owned());
        self.end_all(index, &cause, Some(&shutdown), now);
        self.attempt_failed(index, cause, now);
        self.settle(index, now);
    }

    /// Allows sessions again that [`Self::disable`] or the limit of routes forbade; what the configuration
    /// forbids stays forbidden.
    pub fn enable(&mut self, peer: impl Into<PeerKey>, now: Instant) {
        let key = peer.into();
        self.note(Some(now), |_| Entry::Enable { peer: key });
        self.switched_off.remove(&key);
        let Some(index) = self.by_key.get(&key).copied() else { return };
        let Some(peer) = self.peer_mut(index) else { return };
        if peer.held_down.take().is_some() {
            self.first_attempt(index, now);
            self.settle(index, now);
        }
    }

    /// Peers that an operator switched off.
    pub fn switched_off(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.switched_off.keys().copied()
    }

    /// Sends a peer all routes that it should have (RFC 2918, from our side).
    pub fn refresh_out(&mut self, peer: impl Into<PeerKey>) {
        let peer = peer.into();
        self.note(None, |_| Entry::RefreshOut { peer });
        let Some(index) = self.by_key.get(&peer).copied() else { return };
        Family::ALL.into_iter().for_each(|family| self.send_again(index, family, false));
    }

    /// Asks a peer for all its routes of every negotiated family (RFC 2918). Gives back whether it can be
    /// asked: it is Established and has the capability.
    pub fn refresh_in(&mut self, peer: impl Into<PeerKey>) -> bool {
        let peer = peer.into();
        self.note(None, |_| Entry::RefreshIn { peer });
        let Some(index) = self.by_key.get(&peer).copied() else { return false };
        let Some(session) = self.peer(index).and_then(|p| p.session.as_ref()).filter(|s| s.route_refresh)
        else {
            return false;
        };
        let (conn, mut bytes) = (session.conn, Vec::new());
        for family in &session.families {
            RouteRefresh { family: (*family).into(), subtype: 0 }.encode(&mut bytes);
        }
        self.send(conn, bytes);
        true
    }

    /// Takes over what an operator said of a peer that is new or was configured anew.
    pub(crate) fn apply_switched_off(&mut self, index: PeerIndex) {
        let Some(key) = self.peer(index).map(|p| p.key) else { return };
        let off = self.switched_off.contains_key(&key);
        if let Some(peer) = self.peer_mut(index).filter(|_| off) {
            peer.held_down = Some(HeldDown::Disabled);
        }
    }
}

fn cease(subcode: Cease, text: &str) -> Notification {
    if text.is_empty() { Notification::cease(subcode) } else { Notification::cease_with_text(subcode, text) }
}
