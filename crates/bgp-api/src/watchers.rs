//! Who watches a speaker, and what waits for them. Owns the bounds: how many may watch, and how much may wait for one
//! before it is cut off. What has changed, the speaker knows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bgp::{PeerKey, PeerState, PeerStatus, RouteSource, Speaker, Watched};
use bgp_packet::Prefix;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::routes::Found;

/// Watchers at a time.
const MAX_WATCHERS: usize = 16;
/// Changes that may wait for one watcher: a table's worth may come at once, and memory is taken only by what waits.
pub(crate) const ROOM: usize = 1 << 16;

/// What somebody wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) peers: bool,
    pub(crate) routes: bool,
}

/// What has changed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A session came into another state; `status` is what there is to say of the peer, if it is still configured.
    Peer { peer: PeerKey, state: PeerState, local_asn: u32, status: Option<Box<PeerStatus>> },
    /// A prefix has another best path, or none; `from` is the peer that it came from.
    Route { prefix: Prefix, best: Option<Found>, from: Option<Arc<PeerStatus>> },
}

/// Why a watch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More changes than [`ROOM`] waited.
    Slow,
    /// The process is stopping.
    Gone,
}

/// There are as many watchers as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// All who watch; shared by those who come and the loop that feeds them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchers(Arc<Mutex<Vec<Watcher>>>);

#[derive(Debug)]
struct Watcher {
    interest: Interest,
    changes: mpsc::Sender<Arc<Change>>,
    is_slow: Arc<AtomicBool>,
}

/// The end at which one watcher takes its changes. It watches no more when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    changes: mpsc::Receiver<Arc<Change>>,
    is_slow: Arc<AtomicBool>,
}

impl Watch {
    /// The next change; those that waited when the watch was cut off come before its end.
    pub(crate) async fn next(&mut self) -> Result<Arc<Change>, End> {
        let change = self.changes.recv().await;
        change.ok_or_else(|| if self.is_slow.load(Ordering::Acquire) { End::Slow } else { End::Gone })
    }
}

impl Watcher {
    /// Whether it goes on.
    fn tell(&self, change: &Arc<Change>) -> bool {
        let wanted = match **change {
            Change::Peer { .. } => self.interest.peers,
            Change::Route { .. } => self.interest.routes,
        };
        if !wanted {
            return true;
        }
        let sent = self.changes.try_send(change.clone());
        if matches!(sent, Err(TrySendError::Full(_))) {
            self.is_slow.store(true, Ordering::Release);
        }
        sent.is_ok()
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Vec<Watcher>> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// Begins a watch, for whom `room` changes may wait: what happens from now on is told.
    pub(crate) fn add(
        &self,
        speaker: &mut Speaker,
        interest: Interest,
        room: usize,
    ) -> Result<Watch, TooMany> {
        let mut watchers = self.lock();
        watchers.retain(|watcher| !watcher.changes.is_closed());
        if watchers.len() >= MAX_WATCHERS {
            return Err(TooMany);
        }
        speaker.watch(true);
        let (sender, changes) = mpsc::channel(room);
        let is_slow = Arc::new(AtomicBool::new(false));
        watchers.push(Watcher { interest, changes: sender, is_slow: is_slow.clone() });
        Ok(Watch { changes, is_slow })
    }

    /// Tells all what has changed since the last turn. Never waits for any of them.
    pub(crate) fn take(&self, speaker: &mut Speaker) {
        let mut watchers = self.lock();
        watchers.retain(|watcher| !watcher.changes.is_closed());
        if watchers.is_empty() {
            return speaker.watch(false);
        }
        let mut peers = HashMap::new();
        while let Some(watched) = speaker.poll_watched() {
            let change = Arc::new(change(speaker, watched, &mut peers));
            watchers.retain(|watcher| watcher.tell(&change));
        }
    }
}

/// `peers` has those that routes came from in this turn.
fn change(
    speaker: &Speaker,
    watched: Watched,
    peers: &mut HashMap<PeerKey, Option<Arc<PeerStatus>>>,
) -> Change {
    match watched {
        Watched::Peer { peer, state } => {
            let own = speaker.peer_config(peer).and_then(|config| config.local_asn);
            let local_asn = own.unwrap_or(speaker.config().asn);
            Change::Peer { peer, state, local_asn, status: speaker.peer_at(peer).map(Box::new) }
        }
        Watched::Route { prefix, best } => {
            let from = match best.as_ref().map(|best| best.source) {
                Some(RouteSource::Peer(key)) => {
                    peers.entry(key).or_insert_with(|| speaker.peer_at(key).map(Arc::new)).clone()
                }
                Some(RouteSource::Local) | None => None,
            };
            Change::Route { prefix, best: best.map(|best| Found::path(best, false)), from }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Instant;

    use bgp::{Config, Start};
    use bgp_packet::{NextHop, PathAttributes};

    use super::*;

    const ROUTES: Interest = Interest { peers: false, routes: true };

    fn speaker() -> Speaker {
        let config = Config::new(64512, Ipv4Addr::new(192, 0, 2, 1));
        Speaker::new(config, Start { seed: 1, ..Start::default() }, Instant::now())
    }

    fn originate(speaker: &mut Speaker, count: u8) {
        for number in 0..count {
            let none = PathAttributes::new(NextHop::from(IpAddr::from([0; 4])));
            speaker.originate(prefix(number), none);
        }
    }

    fn prefix(number: u8) -> Prefix {
        Prefix::new(IpAddr::from([10, number, 0, 0]), 16).unwrap()
    }

    fn next(watch: &mut Watch) -> Result<(Prefix, bool), End> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        match &*runtime.block_on(watch.next())? {
            Change::Route { prefix, best, .. } => Ok((*prefix, best.is_some())),
            Change::Peer { .. } => panic!("nobody asked for sessions"),
        }
    }

    #[test]
    fn who_is_too_slow_is_cut_off_and_others_hear_all() {
        let (watchers, mut speaker) = (Watchers::default(), speaker());
        let mut slow = watchers.add(&mut speaker, ROUTES, 2).unwrap();
        let mut quick = watchers.add(&mut speaker, ROUTES, 3).unwrap();

        originate(&mut speaker, 3);
        watchers.take(&mut speaker);
        for number in 0..3 {
            assert_eq!(next(&mut quick), Ok((prefix(number), true)));
        }
        speaker.withdraw(prefix(1));
        watchers.take(&mut speaker);

        assert_eq!(next(&mut slow), Ok((prefix(0), true)), "what waited is not lost");
        assert_eq!(next(&mut slow), Ok((prefix(1), true)));
        assert_eq!(next(&mut slow), Err(End::Slow));
        assert_eq!(next(&mut quick), Ok((prefix(1), false)));
    }

    #[test]
    fn several_changes_of_a_prefix_in_one_turn_come_as_one() {
        let (watchers, mut speaker) = (Watchers::default(), speaker());
        let mut watch = watchers.add(&mut speaker, ROUTES, 9).unwrap();

        originate(&mut speaker, 2);
        speaker.withdraw(prefix(0));
        watchers.take(&mut speaker);

        assert_eq!(next(&mut watch), Ok((prefix(0), false)));
        assert_eq!(next(&mut watch), Ok((prefix(1), true)));
    }

    #[test]
    fn nothing_is_kept_when_the_last_watcher_has_gone() {
        let (watchers, mut speaker) = (Watchers::default(), speaker());
        let watch = watchers.add(&mut speaker, ROUTES, 9).unwrap();
        watchers.take(&mut speaker);
        assert!(speaker.is_watched());

        drop(watch);
        watchers.take(&mut speaker);

        assert!(!speaker.is_watched());
    }

    #[test]
    fn watchers_are_only_so_many() {
        let (watchers, mut speaker) = (Watchers::default(), speaker());
        let mut all: Vec<Watch> =
            (0..MAX_WATCHERS).map(|_| watchers.add(&mut speaker, ROUTES, 1).unwrap()).collect();

        assert_eq!(watchers.add(&mut speaker, ROUTES, 1).unwrap_err(), TooMany);
        all.pop();
        assert!(watchers.add(&mut speaker, ROUTES, 1).is_ok(), "one that went makes room");
    }
}
