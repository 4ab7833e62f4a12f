//! Events about peers for the cluster. Owns that there are few: what comes together is one Event for each reason,
//! and between two rounds there is a pause, however often a session flaps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bgp::{Event, PeerKey};
use bgp_api::cause_name;
use datastore::NodeEvent;

/// What comes within this time is told together.
const GATHER: Duration = Duration::from_secs(5);
/// Least time between two rounds.
const PAUSE: Duration = Duration::from_secs(60);
/// Most Events of one round, and most peers that one of them names.
const MOST: usize = 8;

/// Turns of one peer since the last round.
#[derive(Debug)]
struct Turns {
    /// How it is now: `None` is up, otherwise a short name and the words.
    down: Option<(&'static str, String)>,
    count: usize,
}

/// Gathers what happens to peers.
#[derive(Debug, Default)]
pub struct PeerEvents {
    turns: BTreeMap<PeerKey, Turns>,
    round_at: Option<Instant>,
    not_before: Option<Instant>,
}

impl PeerEvents {
    /// Notes what a speaker tells.
    pub fn note(&mut self, event: &Event, now: Instant) {
        let (peer, down) = match event {
            Event::PeerUp { peer } => (*peer, None),
            Event::PeerDown { peer, cause, .. } | Event::PeerFailed { peer, cause } => {
                (*peer, Some((cause_name(cause), cause.to_string())))
            }
            _ => return,
        };
        let turns = self.turns.entry(peer).or_insert(Turns { down: None, count: 0 });
        turns.down = down;
        turns.count += 1;
        let at = (now + GATHER).max(self.not_before.unwrap_or(now));
        self.round_at.get_or_insert(at);
    }

    /// When the next round is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.round_at
    }

    /// What is to be told, if a round is due.
    pub fn take(&mut self, now: Instant) -> Vec<NodeEvent> {
        if self.round_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.round_at = None;
        self.not_before = Some(now + PAUSE);
        let mut by_reason: BTreeMap<Option<&'static str>, Vec<(PeerKey, Turns)>> = BTreeMap::new();
        for (peer, turns) in std::mem::take(&mut self.turns) {
            by_reason.entry(turns.down.as_ref().map(|(name, _)| *name)).or_default().push((peer, turns));
        }
        by_reason.into_iter().take(MOST).map(|(reason, peers)| tell(reason, &peers)).collect()
    }
}

fn tell(reason: Option<&'static str>, peers: &[(PeerKey, Turns)]) -> NodeEvent {
    let name = |(peer, turns): &(PeerKey, Turns)| match turns.count {
        1 => peer.to_string(),
        count => format!("{peer} ({count} turns)"),
    };
    let mut names: Vec<String> = peers.iter().take(MOST).map(name).collect();
    if peers.len() > MOST {
        names.push(format!("{} more", peers.len() - MOST));
    }
    let names = names.join(", ");
    let words = peers.first().and_then(|(_, turns)| turns.down.as_ref()).map(|(_, words)| words.as_str());
    match (reason, words) {
        (Some(reason), Some(words)) => NodeEvent {
            is_warning: true,
            reason: format!("BGPPeerDown{reason}"),
            message: format!("BGP session down: {names}: {words}"),
        },
        _ => NodeEvent {
            is_warning: false,
            reason: "BGPPeerUp".to_owned(),
            message: format!("BGP session up: {names}"),
        },
    }
}
