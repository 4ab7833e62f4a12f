//! Make before break: peers that are configured no more keep their session until their routes come another way, and
//! a reflector that is to be none any more reflects a while longer. Owns when both end.
//!
//! Nodes learn of a new configuration one after another. A node that went ahead and closed the session with one
//! that lags behind would take its routes from it, and nobody else has them there yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::path::{Path, PeerIndex};
use crate::{Cause, Config, PeerKey, Speaker};

/// How often the table is looked at while peers retire.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// A peer must have been dispensable for so long: what we heard another way, it must have had time to hear.
const SETTLE: Duration = Duration::from_secs(5);

/// Peers that are configured no more, each with the time since when nothing depends on it.
#[derive(Debug, Default)]
pub(crate) struct Retiring {
    peers: BTreeMap<PeerIndex, Option<Instant>>,
    check_at: Option<Instant>,
}

impl Retiring {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.check_at
    }

    pub(crate) fn forget(&mut self, index: PeerIndex) {
        self.peers.remove(&index);
    }
}

/// A reflector that is to be none any more.
#[derive(Debug)]
pub(crate) struct Lingering {
    until: Instant,
    /// What was asked for.
    target: Config,
}

impl Lingering {
    pub(crate) fn deadline(&self) -> Instant {
        self.until
    }
}

impl Speaker {
    /// Keeps a peer that the new configuration does not have for so long, if it has something to keep. Gives back
    /// whether it does.
    pub(crate) fn retire_peer(&mut self, key: PeerKey, limit: Duration, now: Instant) -> bool {
        let Some(index) = self.by_key.get(&key).copied() else { return false };
        let Some(peer) = self.peer_mut(index) else { return false };
        if !(peer.session.is_some() || peer.retains()) {
            return false;
        }
        if peer.retiring.is_none() {
            peer.retiring = Some(now + limit);
            peer.retry_at = None;
            self.retiring.peers.insert(index, None);
            self.retiring.check_at.get_or_insert(now + CHECK_EVERY);
        }
        true
    }

    /// A retiring peer is configured again. Gives back whether it was one.
    pub(crate) fn reinstate_peer(&mut self, index: PeerIndex) -> bool {
        self.retiring.forget(index);
        self.peer_mut(index).is_some_and(|peer| peer.retiring.take().is_some())
    }

    /// Peers that are configured no more but keep their session for now.
    pub fn retiring(&self) -> Vec<PeerKey> {
        self.retiring.peers.keys().filter_map(|index| self.peer(*index)).map(|p| p.key).collect()
    }

    /// Lets go the retiring peers that nothing depends on any more, or whose time is over.
    pub(crate) fn check_retiring(&mut self, now: Instant) {
        if self.retiring.check_at.is_none_or(|at| at > now) {
            return;
        }
        let needed = self.needed(now);
        let mut done = Vec::new();
        for (index, free_since) in &mut self.retiring.peers {
            let until = self.peers.get(*index as usize).and_then(|p| p.as_ref()?.retiring);
            let Some(until) = until else { continue };
            if needed.contains(index) {
                *free_since = None;
            } else {
                free_since.get_or_insert(now);
            }
            if now >= until || free_since.is_some_and(|since| now >= since + SETTLE) {
                done.push(*index);
            }
        }
        for index in done {
            let Some(key) = self.peer(index).map(|p| p.key) else { continue };
            self.remove_peer(key, Cause::Retired, now);
        }
        self.retiring.check_at = (!self.retiring.peers.is_empty()).then(|| now + CHECK_EVERY);
    }

    /// The retiring peers that somebody still depends on: we, for a prefix that nobody else told us, or perhaps the
    /// peer itself, which has nothing that could show that it is reached another way.
    fn needed(&self, now: Instant) -> BTreeSet<PeerIndex> {
        let retires = |index: &PeerIndex| self.retiring.peers.contains_key(index);
        let sessions = self.peers.iter().flatten().filter(|p| p.retiring.is_none());
        let mut sessions = sessions.filter_map(|p| p.session.as_ref());
        // Somebody who stays must have our routes before those who go may lose them.
        if !sessions.any(|s| now.saturating_duration_since(s.since) >= SETTLE) {
            return self.retiring.peers.keys().copied().collect();
        }
        let silent = |index: &PeerIndex| {
            let up = self.peer(*index).is_some_and(|p| p.session.is_some());
            up && self.rib.tally(*index).received == [0; 2]
        };
        let mut needed: BTreeSet<PeerIndex> = self.retiring.peers.keys().copied().filter(silent).collect();
        for slot in self.rib.used_slots() {
            let (paths, best) = self.rib.paths(slot);
            let from = best.and_then(|(at, _)| paths.get(at)?.source.as_peer());
            let Some(from) = from.filter(|from| retires(from) && !needed.contains(from)) else { continue };
            let stays = |path: &&Path| path.source.as_peer().is_none_or(|peer| !retires(&peer));
            if !paths.iter().filter(stays).any(|path| self.rib.rejection(path).is_none()) {
                needed.insert(from);
            }
        }
        needed
    }

    /// The configuration to apply now: one that ends reflection leaves it on for a while, when peers may retire.
    pub(crate) fn linger(&mut self, new: Config, now: Instant) -> Config {
        let ends = self.config.cluster_id.is_some() && new.cluster_id.is_none();
        if !ends || new.retire.is_empty() || new.retire_limit.is_zero() {
            self.lingering = None;
            return new;
        }
        let until = self.lingering.as_ref().map_or(now + new.retire_limit, |l| l.until);
        if now >= until {
            self.lingering = None;
            return new;
        }
        let mut for_now = Config { cluster_id: self.config.cluster_id, ..new.clone() };
        for (key, peer) in &mut for_now.peers {
            peer.reflector_client |= self.config.peers.get(key).is_some_and(|old| old.reflector_client);
        }
        self.lingering = Some(Lingering { until, target: new });
        for_now
    }

    /// The configuration that is gone over to when reflection ends, if it is to.
    pub(crate) fn lingering_for(&self) -> Option<&Config> {
        self.lingering.as_ref().map(|lingering| &lingering.target)
    }

    /// Ends reflection when its time is over.
    pub(crate) fn check_lingering(&mut self, now: Instant) {
        if let Some(lingering) = self.lingering.take_if(|l| l.until <= now) {
            self.apply(lingering.target, now);
        }
    }
}
