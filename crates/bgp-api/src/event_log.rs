//! What a speaker's events put into the log. Owns the budget: nothing is said while nothing changes, and of a
//! peer that flaps only a few lines a minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bgp::{Event, PeerKey};

/// Lines of one peer within [`WINDOW`].
const LINES: u32 = 6;
/// After this long, a peer has its lines again.
const WINDOW: Duration = Duration::from_secs(60);

/// Writes events to the log.
#[derive(Debug, Default)]
pub struct EventLog {
    peers: BTreeMap<PeerKey, Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    unsaid: u64,
}

impl EventLog {
    /// Says what happened, unless the peer has said enough of late.
    pub fn log(&mut self, event: &Event, now: Instant) {
        if let Some(peer) = peer(event)
            && !self.allows(peer, now)
        {
            return;
        }
        match event {
            Event::PeerUp { peer } => tracing::info!(%peer, "session up"),
            Event::PeerDown { peer, cause, routes_kept } => {
                tracing::warn!(%peer, %cause, routes_kept, "session down");
            }
            Event::PeerFailed { peer, cause } => tracing::info!(%peer, %cause, "cannot connect"),
            Event::Malformed { peer, detail } => tracing::warn!(%peer, %detail, "malformed message"),
            Event::MaxPrefixWarning { peer, family, received, limit } => {
                tracing::warn!(%peer, %family, received, limit, "nearly as many routes as the peer may send");
            }
            Event::RestartComplete => tracing::info!("restart complete"),
        }
    }

    fn allows(&mut self, peer: PeerKey, now: Instant) -> bool {
        // Peers that were quiet for a while cost nothing.
        self.peers.retain(|key, window| {
            let is_over = now.saturating_duration_since(window.began) >= WINDOW;
            if is_over && window.unsaid > 0 {
                tracing::warn!(peer = %key, lines = window.unsaid, "more was not logged: the peer flaps");
            }
            !is_over
        });
        let window = self.peers.entry(peer).or_insert(Window { began: now, lines: 0, unsaid: 0 });
        window.lines += 1;
        let allows = window.lines <= LINES;
        window.unsaid += u64::from(!allows);
        allows
    }
}

fn peer(event: &Event) -> Option<PeerKey> {
    match event {
        Event::PeerUp { peer }
        | Event::PeerDown { peer, .. }
        | Event::PeerFailed { peer, .. }
        | Event::Malformed { peer, .. }
        | Event::MaxPrefixWarning { peer, .. } => Some(*peer),
        Event::RestartComplete => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_peer_that_flaps_has_a_few_lines_a_minute_and_takes_none_from_others() {
        let start = Instant::now();
        let key = |n: u8| PeerKey::from(IpAddr::from([192, 0, 2, n]));
        let mut log = EventLog::default();

        let said = (0..100).filter(|_| log.allows(key(1), start)).count();
        assert_eq!(said, LINES as usize);
        assert!(log.allows(key(2), start), "another peer has its own");
        assert!(log.allows(key(1), start + WINDOW), "a minute later it may speak again");
        assert!(log.peers.len() <= 2, "nothing is kept of quiet peers");
    }
}
