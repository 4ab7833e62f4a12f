//! Route refresh (RFC 2918, RFC 7313). Owns the answer to a request and what a bracketed answer of the peer does.

use std::time::{Duration, Instant};

use bgp_packet::{Family, RouteRefresh};

use crate::Speaker;
use crate::rib::{Keep, PeerIndex};
use crate::timers::is_due;

/// How long the bracketed answer of a peer may take before what it did not repeat goes (RFC 7313 §4).
const ANSWER_LIMIT: Duration = Duration::from_secs(180);

/// Subtypes of ROUTE-REFRESH (RFC 7313 §3.2).
const REQUEST: u8 = 0;
const BEGIN: u8 = 1;
const END: u8 = 2;

impl Speaker {
    pub(crate) fn handle_route_refresh(&mut self, index: PeerIndex, refresh: RouteRefresh, now: Instant) {
        let Some(session) = self.peer(index).and_then(|p| p.session.as_ref()) else { return };
        let Some(family) = Family::from_afi_safi(refresh.family) else { return };
        if !session.families.contains(&family) {
            return;
        }
        match refresh.subtype {
            REQUEST => self.answer_refresh(index, family),
            BEGIN if session.enhanced_refresh => self.begin_refresh(index, family, now),
            END if session.enhanced_refresh => self.end_refresh(index, family),
            // Other subtypes, and brackets that were not negotiated, are ignored (RFC 7313 §5).
            _ => {}
        }
    }

    /// Sends a family again, between BoRR and EoRR when the peer knows them.
    fn answer_refresh(&mut self, index: PeerIndex, family: Family) {
        let session = self.peer(index).and_then(|p| p.session.as_ref());
        // Before End-of-RIB a bracket must not begin (RFC 7313 §4).
        let bracketed = session.is_some_and(|s| s.enhanced_refresh) && self.deferral.is_none();
        self.send_again(index, family, bracketed);
    }

    /// The peer begins to send a family again: what it has told so far goes unless it is repeated.
    fn begin_refresh(&mut self, index: PeerIndex, family: Family, now: Instant) {
        let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut()) else { return };
        // Ours to ignore before the peer's End-of-RIB (RFC 7313 §4): stale routes are marked already.
        if session.restart.is_some() && !session.end_of_rib_seen.contains(&family) {
            return;
        }
        session.refreshing[family.index()] = Some(now + ANSWER_LIMIT);
        self.rib.visit_peer(index, |prefix, path, _| {
            path.stale |= prefix.family() == family;
            Keep::Keep
        });
    }

    /// The peer has sent a family again.
    fn end_refresh(&mut self, index: PeerIndex, family: Family) {
        let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut()) else { return };
        if session.refreshing[family.index()].take().is_some() {
            self.drop_stale(index, family);
        }
    }

    /// An answer that never ends is taken as ended.
    pub(crate) fn fire_refresh(&mut self, index: PeerIndex, now: Instant) {
        let Some(session) = self.peer(index).and_then(|p| p.session.as_ref()) else { return };
        let refreshing = session.refreshing;
        for family in Family::ALL.into_iter().filter(|f| is_due(refreshing[f.index()], now)) {
            self.end_refresh(index, family);
        }
    }
}
