//! AFI/SAFI disable (RFC 7606 §2, RFC 4760 §7). Owns which families of a session are taken no more.

use std::time::Instant;

use bgp_packet::{Family, Notification, Update, code};

use crate::rib::{Keep, PeerIndex};
use crate::session::Session;
use crate::{Cause, Speaker};

impl Session {
    /// The families whose routes are taken from the peer.
    pub(crate) fn receives(&self) -> impl Iterator<Item = Family> + '_ {
        self.families.iter().copied().filter(|family| !self.disabled[family.index()])
    }
}

impl Speaker {
    /// Drops what the peer sent of families whose routes cannot be told any more; the other family lives on. A
    /// session that has no other is reset, as nothing but a new one mends it. Gives back whether the session lives.
    pub(crate) fn disable_families(&mut self, index: PeerIndex, update: &Update<'_>, now: Instant) -> bool {
        let spoken = |session: &Session, family: &Family| {
            update.disabled[family.index()] && session.families.contains(family)
        };
        let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut()) else { return false };
        let broken: Vec<Family> = Family::ALL.into_iter().filter(|f| spoken(session, f)).collect();
        if broken.is_empty() {
            return true;
        }
        broken.iter().for_each(|family| session.disabled[family.index()] = true);
        let (conn, left) = (session.conn, session.receives().next().is_some());
        if !left {
            let detail = update.problem.map(|p| p.to_string()).unwrap_or_default();
            let notification = Notification::new(code::UPDATE, 9);
            let cause = Cause::NotificationSent(notification.clone(), detail);
            self.end(index, conn, cause, Some(notification), now);
            return false;
        }
        self.rib.visit_peer(index, |prefix, _, _| match broken.contains(&prefix.family()) {
            true => Keep::Drop,
            false => Keep::Keep,
        });
        true
    }
}
