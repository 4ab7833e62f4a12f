//! Limits of how many routes a peer may send (RFC 4271 §8.1.2, RFC 4486 §3). Owns the warning and the end.

use std::time::Instant;

use bgp_packet::{AfiSafi, Cease, Family, Notification};

use crate::config::{MaxPrefix, MaxPrefixAction};
use crate::peer::HeldDown;
use crate::rib::PeerIndex;
use crate::{Cause, Event, Speaker};

impl Speaker {
    /// Looks whether a peer has sent more routes than it may; to be asked after each of its UPDATEs.
    pub(crate) fn check_max_prefix(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer(index) else { return };
        let limits = peer.config.max_prefix;
        if limits == [None; 2] {
            return;
        }
        let received = self.rib.tally(index).received;
        for family in Family::ALL {
            if let Some(limit) = limits[family.index()] {
                self.apply_max_prefix(index, family, received[family.index()], limit, now);
            }
        }
    }

    fn apply_max_prefix(
        &mut self,
        index: PeerIndex,
        family: Family,
        received: usize,
        max: MaxPrefix,
        now: Instant,
    ) {
        let limit = max.limit;
        if received > limit && max.action != MaxPrefixAction::Warn {
            let restart = match max.action {
                MaxPrefixAction::Restart(after) => Some(after),
                _ => None,
            };
            let cause = Cause::MaxPrefix { family, received, limit, restart };
            let notification = self.for_good(index, too_many(family, limit));
            if let Some(peer) = self.peer_mut(index) {
                peer.held_down = Some(HeldDown::MaxPrefix(restart.map(|after| now + after)));
            }
            return self.end_all(index, &cause, Some(&notification), now);
        }
        let warning = limit.saturating_mul(usize::from(max.warning_percent)) / 100;
        let Some(peer) = self.peer_mut(index) else { return };
        let Some(session) = peer.session.as_mut() else { return };
        let above = received > 0 && received >= warning;
        let before = std::mem::replace(&mut session.max_prefix_warned[family.index()], above);
        if above && !before {
            let peer = peer.key;
            self.events.push_back(Event::MaxPrefixWarning { peer, family, received, limit });
        }
    }
}

/// Maximum Number of Prefixes Reached, with the family and the limit (RFC 4486 §4).
fn too_many(family: Family, limit: usize) -> Notification {
    let AfiSafi { afi, safi } = family.into();
    let mut data = afi.to_be_bytes().to_vec();
    data.push(safi);
    data.extend_from_slice(&u32::try_from(limit).unwrap_or(u32::MAX).to_be_bytes());
    Notification { data, ..Notification::cease(Cease::MaxPrefixes) }
}
