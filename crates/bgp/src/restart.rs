//! Graceful restart (RFC 4724, RFC 8538). Owns both roles: the speaker that has restarted and waits for its
//! peers, and the helper that keeps the routes of a peer which went away.

use std::time::{Duration, Instant};

use bgp_packet::{Family, Notification};

use crate::rib::{Keep, PeerIndex};
use crate::{Cause, Config, Event, Speaker};

/// After a restart, peers that have not come back within this time are no longer waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long stale routes may stay after the session is back but End-of-RIB has not come.
const STALE_AFTER_RETURN: Duration = Duration::from_secs(180);

/// A restarted speaker that waits for its peers before it sends what it learns (RFC 4724 §4.1).
#[derive(Debug)]
pub(crate) struct Deferral {
    patience_until: Instant,
    until: Instant,
    patience_over: bool,
}

impl Deferral {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        let templates = config.dynamic.iter().map(|d| &d.template);
        let times = config.peers.values().chain(templates).map(|p| p.restart_time);
        let limit = Duration::from_secs(u64::from(times.max().unwrap_or(0)));
        let patience = PATIENCE.min(limit);
        Self { patience_until: now + patience, until: now + limit, patience_over: false }
    }

    pub(crate) fn deadline(&self) -> Instant {
        if self.patience_over { self.until } else { self.patience_until.min(self.until) }
    }
}

impl Speaker {
    /// Whether the speaker still waits for its peers after a restart.
    pub fn is_restarting(&self) -> bool {
        self.deferral.is_some()
    }

    /// Ends the waiting when it has served its purpose: all configured peers are heard; or, after some
    /// patience, all that are connected are; or the restart time is over.
    pub(crate) fn check_deferral(&mut self, now: Instant) {
        let Some(deferral) = &mut self.deferral else { return };
        deferral.patience_over |= now >= deferral.patience_until;
        let over = now >= deferral.until;
        let patience_over = deferral.patience_over;
        let mut peers = self.peers.iter().flatten().filter(|p| p.config.is_enabled());
        let all_heard = peers.all(|p| match &p.session {
            Some(s) => {
                let heard = s.families.iter().all(|f| s.end_of_rib_seen.contains(f));
                heard || s.restart.as_ref().is_none_or(|gr| gr.restarting)
            }
            // A handshake under way is worth waiting for.
            None => patience_over && p.connections.iter().all(|c| c.open.is_none()),
        });
        let expects_unknown = !self.config.dynamic.is_empty() && !patience_over;
        if over || (all_heard && !expects_unknown) {
            self.deferral = None;
            self.events.push_back(Event::RestartComplete);
        }
    }

    /// The session is gone: keeps or drops the peer's routes. Gives back whether any are kept.
    pub(crate) fn helper_begin(
        &mut self,
        index: PeerIndex,
        cause: &Cause,
        sent: Option<&Notification>,
        now: Instant,
    ) -> bool {
        let Some(Some(peer)) = self.peers.get(index as usize) else { return false };
        let restart = peer.session.as_ref().and_then(|s| s.restart.clone());
        let kept: Vec<Family> = match &restart {
            Some(gr) if survives(cause, sent, gr.notification) => {
                Family::ALL.into_iter().filter(|f| gr.forwarding(*f).is_some()).collect()
            }
            _ => Vec::new(),
        };
        let limit = restart.map_or(0, |gr| gr.restart_time);
        let kept = if limit == 0 { Vec::new() } else { kept };
        let mut any = false;
        self.rib.visit_peer(index, |prefix, path, _| {
            // A second restart before the first was over takes what was stale already (RFC 4724 §4.2).
            if !kept.contains(&prefix.family()) || path.stale {
                return Keep::Drop;
            }
            path.stale = true;
            any = true;
            Keep::Keep
        });
        if let Some(peer) = self.peer_mut(index) {
            peer.stale_until = any.then(|| now + Duration::from_secs(u64::from(limit)));
        }
        any
    }

    /// The session is back: drops stale routes of families whose forwarding state was lost.
    pub(crate) fn helper_resume(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        if peer.stale_until.is_none() {
            return;
        }
        peer.stale_until = Some(now + STALE_AFTER_RETURN);
        let restart = peer.session.as_ref().and_then(|s| s.restart.clone());
        let lost = |family: &Family| {
            restart.as_ref().and_then(|gr| gr.forwarding(*family)).is_none_or(|forwarding| !forwarding)
        };
        Family::ALL.into_iter().filter(lost).for_each(|family| self.drop_stale(index, Some(family)));
    }

    /// The peer has sent all it has of a family.
    pub(crate) fn handle_end_of_rib(&mut self, index: PeerIndex, family: Family, now: Instant) {
        self.drop_stale(index, Some(family));
        if let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut())
            && !session.end_of_rib_seen.contains(&family)
        {
            session.end_of_rib_seen.push(family);
        }
        self.check_deferral(now);
    }

    /// Drops stale routes of one family, or of all.
    pub(crate) fn drop_stale(&mut self, index: PeerIndex, family: Option<Family>) {
        let mut left = false;
        self.rib.visit_peer(index, |prefix, path, _| {
            if path.stale && family.is_none_or(|f| f == prefix.family()) {
                return Keep::Drop;
            }
            left |= path.stale;
            Keep::Keep
        });
        if !left && let Some(peer) = self.peer_mut(index) {
            peer.stale_until = None;
        }
    }
}

/// Whether routes survive the end of a session for this cause (RFC 4724 §4.2, RFC 8538 §3).
fn survives(cause: &Cause, sent: Option<&Notification>, notification_bit: bool) -> bool {
    let received = match cause {
        Cause::NotificationReceived(n) => Some(n),
        Cause::Bfd { forwarding_lost: true, .. } => return false,
        _ => None,
    };
    match sent.or(received) {
        Some(n) => notification_bit && !n.is_hard_reset(),
        None => true,
    }
}
