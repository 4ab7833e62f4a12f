//! Graceful restart (RFC 4724, RFC 8538). Owns both roles: the speaker that has restarted and waits for its
//! peers, and the helper that keeps the routes of a peer which went away. What comes after the restart time is in
//! `llgr`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bgp_packet::{Family, Notification};

use crate::peer::Peer;
use crate::rib::{Keep, PeerIndex};
use crate::session::Session;
use crate::timers::is_due;
use crate::{Cause, Config, Event, Speaker};

/// After a restart, peers that have not come back within this time are no longer waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody is waited for longer than this, whatever the restart times are.
const LONGEST_DEFERRAL: Duration = Duration::from_secs(60);
/// How long stale routes may stay after the session is back but End-of-RIB has not come.
const STALE_AFTER_RETURN: Duration = Duration::from_secs(180);

/// Routes of one family that are kept although their session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retained {
    /// When the stage is over.
    pub(crate) until: Instant,
    pub(crate) stage: Stage,
}

/// Why routes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The restart time runs; long-lived graceful restart for so long may follow.
    Graceful(Option<Duration>),
    /// The restart time is over (RFC 9494 §4.2).
    LongLived,
    /// The session is back and End-of-RIB is still to come.
    Returned,
}

/// A restarted speaker that waits for its peers before it sends what it learns (RFC 4724 §4.1).
#[derive(Debug)]
pub(crate) struct Deferral {
    patience_until: Instant,
    until: Instant,
    patience_over: bool,
    /// Who is waited for.
    waiting: BTreeSet<PeerIndex>,
}

/// Peers that restarted together with this speaker. None waits for the other before it sends, or both would wait
/// (RFC 4724 §4.1); but what forwarding state stands for is known only when they have told all they have.
#[derive(Debug)]
pub(crate) struct SweepHold {
    until: Instant,
    owing: BTreeSet<PeerIndex>,
}

impl SweepHold {
    pub(crate) fn deadline(&self) -> Instant {
        self.until
    }
}

impl Deferral {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        let templates = config.dynamic.iter().map(|d| &d.template);
        let times = config.peers.values().chain(templates).map(|p| p.restart_time);
        let limit = Duration::from_secs(u64::from(times.max().unwrap_or(0))).min(LONGEST_DEFERRAL);
        let patience_until = now + PATIENCE.min(limit);
        Self { patience_until, until: now + limit, patience_over: false, waiting: BTreeSet::new() }
    }

    pub(crate) fn deadline(&self) -> Instant {
        if self.patience_over { self.until } else { self.patience_until.min(self.until) }
    }

    /// Whether the peer may still have something to tell that is worth waiting for.
    fn awaits(&self, peer: &Peer) -> bool {
        if !peer.is_wanted() {
            return false;
        }
        match &peer.session {
            // Two that have both restarted would wait for one another (RFC 4724 §4.1).
            Some(s) => !s.is_heard() && s.restart.as_ref().is_some_and(|gr| !gr.restarting),
            // A handshake under way is worth waiting for.
            None => !self.patience_over || peer.connections.iter().any(|c| c.open.is_some()),
        }
    }
}

impl Speaker {
    /// Whether the speaker still waits for its peers after a restart.
    pub fn is_restarting(&self) -> bool {
        self.deferral.is_some()
    }

    /// Notes whether a peer is waited for, after something about it changed.
    pub(crate) fn note_deferral(&mut self, index: PeerIndex, now: Instant) {
        let peer = self.peers.get(index as usize).and_then(Option::as_ref);
        if let Some(hold) = &mut self.sweep_hold {
            // One whose session is lost again may come back and tell.
            let owes =
                |peer: &Peer| peer.is_wanted() && !peer.session.as_ref().is_some_and(Session::is_heard);
            if !peer.is_some_and(owes) && hold.owing.remove(&index) {
                self.check_sweep_hold(now);
            }
            return;
        }
        let Some(deferral) = &mut self.deferral else { return };
        if peer.is_some_and(|peer| deferral.awaits(peer)) {
            deferral.waiting.insert(index);
        } else if deferral.waiting.remove(&index) {
            self.check_deferral(now);
        }
    }

    /// Ends the waiting when it has served its purpose: all configured peers are heard; or, after some
    /// patience, all that are connected are; or the longest time is over.
    pub(crate) fn check_deferral(&mut self, now: Instant) {
        let Some(deferral) = &mut self.deferral else { return };
        if now >= deferral.patience_until && !deferral.patience_over {
            deferral.patience_over = true;
            let still = deferral.waiting.iter().copied();
            let peer = |index: &PeerIndex| self.peers.get(*index as usize).and_then(Option::as_ref);
            let still = still.filter(|index| peer(index).is_some_and(|p| deferral.awaits(p))).collect();
            deferral.waiting = still;
        }
        let expects_unknown = !self.config.dynamic.is_empty() && !deferral.patience_over;
        if now < deferral.until && (expects_unknown || !deferral.waiting.is_empty()) {
            return;
        }
        let until = deferral.until;
        self.deferral = None;
        let owes = |peer: &Peer| {
            peer.is_wanted() && peer.session.as_ref().is_some_and(|s| s.restart.is_some() && !s.is_heard())
        };
        let peers = (0..).zip(&self.peers);
        let owing =
            peers.filter(|(_, peer)| peer.as_ref().is_some_and(owes)).map(|(index, _)| index).collect();
        self.sweep_hold = Some(SweepHold { until, owing });
        self.check_sweep_hold(now);
    }

    /// Lets the caller sweep when nobody who restarted together with us owes anything, or the time is over.
    pub(crate) fn check_sweep_hold(&mut self, now: Instant) {
        if self.sweep_hold.as_ref().is_some_and(|hold| hold.owing.is_empty() || now >= hold.until) {
            self.sweep_hold = None;
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
        let plans = Family::ALL.map(|family| retention(peer, family, cause, sent, now));
        let refreshing = peer.session.as_ref().map_or([None; 2], |s| s.refreshing);
        let mut any = [false; 2];
        self.rib.visit_peer(index, |prefix, path, _| {
            let slot = prefix.family().index();
            let Some(plan) = plans[slot] else { return Keep::Drop };
            // A second restart before the first was over takes what was stale already (RFC 4724 §4.2), but for
            // long-lived routes (RFC 9494 §4.2) and those that a route refresh only doubted.
            if path.stale && refreshing[slot].is_none() && !plan.keeps_stale {
                return Keep::Drop;
            }
            path.stale = true;
            any[slot] = true;
            Keep::Keep
        });
        let kept = Family::ALL.map(|f| plans[f.index()].filter(|_| any[f.index()]).map(|p| p.retained));
        if let Some(peer) = self.peer_mut(index) {
            peer.retained = kept;
        }
        for family in Family::ALL {
            if matches!(kept[family.index()], Some(Retained { until, .. }) if until <= now) {
                self.restart_time_over(index, family, now);
            }
        }
        self.peer(index).is_some_and(Peer::retains)
    }

    /// The session is back: drops stale routes of families whose forwarding state was lost.
    pub(crate) fn helper_resume(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        let Some(session) = &peer.session else { return };
        let mut lost = Vec::new();
        for family in Family::ALL {
            let Some(retained) = &mut peer.retained[family.index()] else { continue };
            let kept = match retained.stage {
                Stage::LongLived => {
                    session.long_lived_stale[family.index()].map(|(forwarding, _)| forwarding)
                }
                _ => session.restart.as_ref().and_then(|gr| gr.forwarding(family)),
            };
            if kept != Some(true) || !session.families.contains(&family) {
                lost.push(family);
            } else if retained.stage != Stage::LongLived {
                *retained = Retained { until: now + STALE_AFTER_RETURN, stage: Stage::Returned };
            }
        }
        lost.into_iter().for_each(|family| self.drop_stale(index, family));
    }

    /// The peer has sent all it has of a family.
    pub(crate) fn handle_end_of_rib(&mut self, index: PeerIndex, family: Family, now: Instant) {
        self.drop_stale(index, family);
        if let Some(session) = self.peer_mut(index).and_then(|p| p.session.as_mut())
            && !session.end_of_rib_seen.contains(&family)
        {
            session.end_of_rib_seen.push(family);
        }
        self.note_deferral(index, now);
    }

    /// Drops stale routes of one family.
    pub(crate) fn drop_stale(&mut self, index: PeerIndex, family: Family) {
        let Some(peer) = self.peer_mut(index) else { return };
        peer.retained[family.index()] = None;
        if self.rib.tally(index).stale == 0 {
            return;
        }
        self.rib.visit_peer(index, |prefix, path, _| {
            if path.stale && prefix.family() == family { Keep::Drop } else { Keep::Keep }
        });
    }

    /// Ends the stages of kept routes that are over.
    pub(crate) fn fire_retained(&mut self, index: PeerIndex, now: Instant) {
        for family in Family::ALL {
            let Some(retained) = self.peer(index).and_then(|p| p.retained[family.index()]) else { continue };
            if is_due(Some(retained.until), now) {
                self.restart_time_over(index, family, now);
            }
        }
    }

    fn restart_time_over(&mut self, index: PeerIndex, family: Family, now: Instant) {
        let stage = self.peer(index).and_then(|p| p.retained[family.index()]).map(|r| r.stage);
        match stage {
            Some(Stage::Graceful(Some(stale_time))) => {
                self.begin_long_lived(index, family, now + stale_time);
            }
            _ => self.drop_stale(index, family),
        }
    }
}

/// How the routes of a family are kept.
#[derive(Clone, Copy, Debug)]
struct Retention {
    retained: Retained,
    /// Also those that are stale already.
    keeps_stale: bool,
}

/// Whether and how routes of a family survive the end of a session (RFC 4724 §4.2, RFC 8538 §3, RFC 9494 §4.2).
fn retention(
    peer: &Peer,
    family: Family,
    cause: &Cause,
    sent: Option<&Notification>,
    now: Instant,
) -> Option<Retention> {
    if let Some(until) = peer.retiring {
        let retained = Retained { until, stage: Stage::Graceful(None) };
        return Some(Retention { retained, keeps_stale: true });
    }
    let session = peer.session.as_ref()?;
    let restart = session.restart.as_ref()?;
    restart.forwarding(family)?;
    if !survives(cause, sent, restart.notification) {
        return None;
    }
    let stale_time = session.long_lived_stale[family.index()].map(|(_, time)| time).filter(|t| !t.is_zero());
    if restart.restart_time == 0 && stale_time.is_none() {
        return None;
    }
    // The stale time of a long-lived restart that is not over yet goes on (RFC 9494 §4.2).
    if let Some(running @ Retained { stage: Stage::LongLived, .. }) = peer.retained[family.index()] {
        return Some(Retention { retained: running, keeps_stale: true });
    }
    let until = now + Duration::from_secs(u64::from(restart.restart_time));
    Some(Retention {
        retained: Retained { until, stage: Stage::Graceful(stale_time) },
        keeps_stale: stale_time.is_some(),
    })
}

/// Whether routes survive the end of a session for this cause (RFC 4724 §4.2, RFC 8538 §3).
fn survives(cause: &Cause, sent: Option<&Notification>, notification_bit: bool) -> bool {
    let received = match cause {
        Cause::Bfd { forwarding_lost: true, .. } => return false,
        Cause::MaxPrefix { .. } | Cause::Disabled(_) | Cause::AdminDown => return false,
        Cause::NotificationReceived(n) => Some(n),
        _ => None,
    };
    match sent.or(received) {
        Some(n) => notification_bit && !n.is_hard_reset(),
        None => true,
    }
}
