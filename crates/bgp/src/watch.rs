//! What changes while somebody watches. Owns what was not told yet: nothing is kept while nobody watches, and of a
//! route that changes often only that it did. Has no part in what the speaker does.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bgp_packet::Prefix;

use crate::path::PeerIndex;
use crate::status::state;
use crate::{PeerKey, PeerState, RouteStatus, Speaker};

/// What whoever watches hears of.
#[derive(Clone, Debug)]
pub enum Watched {
    /// A session came into another state.
    Peer {
        /// The peer; it may be configured no more.
        peer: PeerKey,
        /// Its state then.
        state: PeerState,
    },
    /// A prefix has another best path.
    Route {
        /// Destination.
        prefix: Prefix,
        /// The best path as it is now; `None` when there is none.
        best: Option<RouteStatus>,
    },
}

/// States of sessions that were told, and those that were not.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    told: HashMap<PeerKey, PeerState>,
    waiting: VecDeque<(PeerKey, PeerState)>,
}

impl Speaker {
    /// Begins to keep what changes from now on, or ceases to. Whoever switches it on asks
    /// [`Self::poll_watched`] after each turn.
    pub fn watch(&mut self, on: bool) {
        if on == self.is_watched() {
            return;
        }
        self.rib.watched = on.then(BTreeSet::new);
        self.watch = on.then(|| {
            let told = self.peers.iter().flatten().map(|peer| (peer.key, state(peer))).collect();
            Box::new(Watch { told, waiting: VecDeque::new() })
        });
    }

    /// Whether changes are kept for somebody.
    pub fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// The next change; states of sessions in the order in which they came, then routes. Several changes of one
    /// prefix come as one.
    pub fn poll_watched(&mut self) -> Option<Watched> {
        if let Some((peer, state)) = self.watch.as_mut()?.waiting.pop_front() {
            return Some(Watched::Peer { peer, state });
        }
        let prefix = self.rib.watched.as_mut()?.pop_first()?;
        let best = self.routes_to(&prefix).into_iter().find(|path| path.best.is_some());
        Some(Watched::Route { prefix, best })
    }

    /// Keeps the state of a peer when it is another than the last.
    pub(crate) fn note_state(&mut self, index: PeerIndex) {
        if self.watch.is_some()
            && let Some(peer) = self.peer(index)
        {
            let (key, state) = (peer.key, state(peer));
            self.note_state_of(key, state);
        }
    }

    /// The same of a peer that is configured no more.
    pub(crate) fn note_gone(&mut self, key: PeerKey) {
        self.note_state_of(key, PeerState::Idle);
        if let Some(watch) = &mut self.watch {
            watch.told.remove(&key);
        }
    }

    fn note_state_of(&mut self, key: PeerKey, state: PeerState) {
        if let Some(watch) = &mut self.watch
            && watch.told.insert(key, state) != Some(state)
        {
            watch.waiting.push_back((key, state));
        }
    }
}
