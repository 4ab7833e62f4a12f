//! When a speaker that has just started counts as ready. Owns the wait for its first sessions, so that a rolling
//! update goes on to the next node when this one has its routes again; changes nothing.
//!
//! A session that goes down later makes no node unready, and one that never comes up does so for a few seconds only: a
//! dead remote node is no fault of this one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bgp::{PeerKey, PeerKind};

/// How long sessions are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked: thousands of sessions begin at once.
const PACE: Duration = Duration::from_millis(250);
/// So many peers are named in a reason.
const NAMED: usize = 3;

/// What is to be known of a peer.
#[derive(Clone, Debug)]
pub struct Session {
    pub peer: PeerKey,
    pub kind: PeerKind,
    /// Why it is not up; `None` when it is.
    pub cause: Option<String>,
}

/// Waits for a session of each kind of peering that is configured.
#[derive(Debug, Default)]
pub struct FirstSessions {
    since: Option<Instant>,
    looked: Option<Instant>,
    is_over: bool,
    reasons: Vec<String>,
}

impl FirstSessions {
    /// Why the speaker is not ready yet; nothing from then on that it was. `sessions` is asked now and then.
    pub fn look(&mut self, now: Instant, sessions: impl FnOnce() -> Vec<Session>) -> &[String] {
        let since = *self.since.get_or_insert(now);
        if self.is_over || self.looked.is_some_and(|at| now < at + PACE) {
            return &self.reasons;
        }
        self.looked = Some(now);
        self.reasons = if now >= since + PATIENCE { Vec::new() } else { missing(sessions()) };
        self.is_over = self.reasons.is_empty();
        &self.reasons
    }

    /// When it is to be looked again.
    pub fn deadline(&self) -> Option<Instant> {
        self.looked.filter(|_| !self.is_over).map(|at| at + PACE)
    }
}

/// Kinds of peering of which no session is up.
fn missing(sessions: Vec<Session>) -> Vec<String> {
    let mut by_kind: BTreeMap<&'static str, Vec<Session>> = BTreeMap::new();
    for session in sessions {
        let kind = match session.kind {
            PeerKind::Mesh => "the node-to-node mesh",
            PeerKind::Global => "global BGPPeers",
            PeerKind::Node | PeerKind::Other => "BGPPeers of this node",
        };
        by_kind.entry(kind).or_default().push(session);
    }
    let is_down =
        |(_, sessions): &(&str, Vec<Session>)| sessions.iter().all(|session| session.cause.is_some());
    let words = |(kind, sessions): (&str, Vec<Session>)| {
        let named =
            sessions.iter().take(NAMED).filter_map(|of| Some(format!("{}: {}", of.peer, of.cause.as_ref()?)));
        format!(
            "no session of {kind} is up yet, of {}: {}",
            sessions.len(),
            named.collect::<Vec<_>>().join("; ")
        )
    };
    by_kind.into_iter().filter(is_down).map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(last: u8, kind: PeerKind, cause: Option<&str>) -> Session {
        let peer = PeerKey::from(std::net::IpAddr::from([192, 0, 2, last]));
        Session { peer, kind, cause: cause.map(str::to_owned) }
    }

    #[test]
    fn one_session_of_each_kind_makes_ready_for_good() {
        let start = Instant::now();
        let mut first = FirstSessions::default();
        let mesh =
            |cause| vec![session(1, PeerKind::Mesh, cause), session(2, PeerKind::Mesh, Some("no route"))];
        let tor = |cause| session(9, PeerKind::Global, cause);

        let reasons = first.look(start, || [mesh(None), vec![tor(Some("refused"))]].concat()).to_vec();
        assert_eq!(reasons, ["no session of global BGPPeers is up yet, of 1: 192.0.2.9: refused"]);
        assert_eq!(first.deadline(), Some(start + PACE));
        let soon = start + Duration::from_millis(100);
        assert_eq!(first.look(soon, || unreachable!("it is too early to look")), reasons);

        let later = start + Duration::from_secs(1);
        assert_eq!(first.look(later, || [mesh(None), vec![tor(None)]].concat()), [""; 0]);
        assert_eq!(first.look(later + PATIENCE, || mesh(Some("all are dead"))), [""; 0]);
        assert_eq!(first.deadline(), None);
    }

    #[test]
    fn dead_peers_are_not_waited_for_long_and_none_not_at_all() {
        let start = Instant::now();
        let dead = || vec![session(1, PeerKind::Mesh, Some("no route"))];
        let mut first = FirstSessions::default();

        assert_eq!(first.look(start, dead).len(), 1);
        assert_eq!(first.look(start + PATIENCE, dead), [""; 0]);
        assert_eq!(FirstSessions::default().look(start, Vec::new), [""; 0]);
    }
}
