//! What the speaker has to do with Bidirectional Forwarding Detection (RFC 5882). Owns when a BFD session is
//! wanted and what its end means to the BGP session; the BFD protocol itself is elsewhere.

use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use bgp_packet::{Cease, Notification};

use crate::rib::PeerIndex;
use crate::{Cause, Output, PeerKey, Speaker};

/// Settings of the BFD session that watches the path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BfdConfig {
    /// How often we want to send, at most (RFC 5880 §6.8.1 `bfd.DesiredMinTxInterval`), in milliseconds.
    pub min_tx: u32,
    /// How often we can receive (`bfd.RequiredMinRxInterval`), in milliseconds.
    pub min_rx: u32,
    /// After how many missing packets the path is down (`bfd.DetectMult`).
    pub detect_multiplier: u8,
    /// The peer may be several hops away: port 4784, any TTL (RFC 5883). Otherwise port 3784, TTL 255 (RFC 5881).
    pub multihop: bool,
}

impl Default for BfdConfig {
    /// Ten packets in three seconds, three of which may miss; one hop.
    fn default() -> Self {
        Self { min_tx: 300, min_rx: 300, detect_multiplier: 3, multihop: false }
    }
}

/// What BFD says of the path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum BfdState {
    /// The peer has BFD switched off: nothing can be said.
    AdminDown,
    /// Nothing is heard, or the peer hears nothing.
    #[default]
    Down,
    /// Both sides are about to be up.
    Init,
    /// The path works in both directions.
    Up,
}

/// Why BFD says that a path does not work any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum BfdFailure {
    /// Nothing was heard for the detection time, in milliseconds.
    DetectionTimeExpired(u64),
    /// The peer hears nothing, or went down; the number is its diagnostic (RFC 5880 §4.1).
    NeighbourSignaledDown(u8),
}

impl fmt::Display for BfdFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DetectionTimeExpired(ms) => {
                write!(f, "nothing heard for {ms} ms: the path or the peer is down")
            }
            Self::NeighbourSignaledDown(1) => f.write_str("the peer hears nothing from us"),
            Self::NeighbourSignaledDown(diagnostic) => {
                write!(f, "the peer signaled down (diagnostic {diagnostic})")
            }
        }
    }
}

impl Speaker {
    /// BFD has a word on the path to a peer. `failure` is set when the path was up and is not any more;
    /// `independent` is the peer's C bit: its BFD does not share the fate of its BGP (RFC 5882 §4.3).
    pub fn handle_bfd(
        &mut self,
        peer: PeerKey,
        state: BfdState,
        failure: Option<(BfdFailure, bool)>,
        now: Instant,
    ) {
        self.note(Some(now), |_| crate::record::Entry::Bfd { peer, state, failure });
        let Some(index) = self.by_key.get(&peer).copied() else { return };
        let Some(Some(p)) = self.peers.get_mut(index as usize) else { return };
        p.bfd = Some(state);
        let (Some((failure, forwarding_lost)), Some(session)) = (failure, &p.session) else { return };
        let conn = session.conn;
        let restart = session.restart.as_ref();
        // A peer that restarts is silent, too: where BFD shares the fate of BGP, its routes are kept, and nothing
        // may tell it to drop ours (RFC 5882 §4.3.2).
        let quiet = !forwarding_lost && restart.is_some_and(|gr| !gr.notification);
        let notification = Notification::cease(Cease::BfdDown);
        let hard = forwarding_lost && restart.is_some_and(|gr| gr.notification);
        let notification = if hard { notification.hard_reset() } else { notification };
        let cause = Cause::Bfd { failure, forwarding_lost };
        self.end(index, conn, cause, (!quiet).then_some(notification), now);
        self.settle(index, now);
    }

    /// The session is up: its path is watched from now on, if that is wanted.
    pub(crate) fn begin_bfd(&mut self, index: PeerIndex) {
        let Some(Some(peer)) = self.peers.get_mut(index as usize) else { return };
        let (Some(config), Some(session)) = (peer.config.bfd, &peer.session) else { return };
        peer.bfd = Some(BfdState::Down);
        let wanted = Some((session.local, config));
        self.outputs.push_back(Output::Bfd { peer: peer.key, wanted });
    }

    /// The session is gone, and so is the reason to watch its path.
    pub(crate) fn end_bfd(&mut self, index: PeerIndex) {
        let Some(Some(peer)) = self.peers.get_mut(index as usize) else { return };
        if peer.bfd.take().is_some() {
            self.outputs.push_back(Output::Bfd { peer: peer.key, wanted: None });
        }
    }
}

/// Own address and settings of a BFD session that is wanted.
pub type BfdWanted = (IpAddr, BfdConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_what_to_look_at() {
        let said = |failure: BfdFailure| failure.to_string();
        assert!(said(BfdFailure::DetectionTimeExpired(900)).contains("900 ms"));
        assert!(said(BfdFailure::NeighbourSignaledDown(1)).contains("hears nothing"));
        assert!(said(BfdFailure::NeighbourSignaledDown(7)).contains("diagnostic 7"));
    }
}
