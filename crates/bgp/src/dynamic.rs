//! Dynamic neighbours. Owns how a peer comes out of a range of addresses and when it is forgotten.

use std::time::Instant;

use bgp_packet::Prefix;

use crate::peer::Peer;
use crate::rib::PeerIndex;
use crate::{Cause, Change, Config, Output, PeerConfig, PeerKey, Refused, Speaker};

/// The settings that the most specific range gives a peer; always passive.
pub(crate) fn settings(config: &Config, key: PeerKey) -> Option<PeerConfig> {
    let matching = config.dynamic.iter().filter(|d| d.covers(key));
    let range = matching.max_by_key(|d| d.prefix.len())?;
    Some(PeerConfig { passive: true, ..range.template.clone() })
}

impl Speaker {
    /// Makes a peer out of a range of dynamic neighbours.
    pub(crate) fn add_dynamic(&mut self, key: PeerKey, now: Instant) -> Result<PeerIndex, Refused> {
        if self.switched_off.contains_key(&key) {
            return Err(Refused::AdminDown);
        }
        let config = settings(&self.config, key).ok_or(Refused::NotConfigured)?;
        if !config.is_enabled() {
            return Err(Refused::AdminDown);
        }
        if self.dynamic_peers >= self.config.max_dynamic {
            return Err(Refused::TooMany);
        }
        if self.half_open >= self.config.max_half_open {
            return Err(Refused::TooManyHalfOpen);
        }
        let mut peer = Peer::new(key, config, true, now);
        peer.cause = Cause::WaitingForPeer;
        Ok(self.add_peer(peer))
    }

    /// A peer that was configured by itself comes out of a range from now on, if there is one that has it and it has
    /// anything to keep. Gives back what changed for it.
    pub(crate) fn make_dynamic(
        &mut self,
        index: PeerIndex,
        config: PeerConfig,
        now: Instant,
    ) -> Option<Change> {
        let peer = self.peers.get_mut(index as usize)?.as_mut()?;
        if peer.session.is_none() && !peer.retains() {
            return None;
        }
        let was_dynamic = std::mem::replace(&mut peer.dynamic, true);
        let key = peer.key;
        if !was_dynamic && peer.config.password.is_some() {
            self.outputs
                .push_back(Output::ListenPassword { peers: Prefix::host(key.address()), password: None });
        }
        self.dynamic_peers += usize::from(!was_dynamic);
        Some(self.update_peer(index, config, now))
    }

    /// A dynamic neighbour is configured by itself from now on: its session stays.
    pub(crate) fn make_static(&mut self, index: PeerIndex, config: &PeerConfig) {
        let Some(peer) = self.peer_mut(index) else { return };
        let was_dynamic = std::mem::take(&mut peer.dynamic);
        let key = peer.key;
        let waiting = peer.connections.iter_mut().map(|c| std::mem::take(&mut c.half_open));
        let waiting = waiting.filter(|half_open| *half_open).count();
        self.half_open -= waiting;
        self.dynamic_peers -= usize::from(was_dynamic);
        if was_dynamic && config.password.is_some() {
            let password = config.password.clone();
            self.outputs.push_back(Output::ListenPassword { peers: Prefix::host(key.address()), password });
        }
    }

    /// Forgets a dynamic peer that has neither a connection nor anything that is kept for it.
    pub(crate) fn forget_idle_dynamic(&mut self, index: PeerIndex) {
        let idle = self.peer(index).is_some_and(|p| {
            let silent = p.connections.is_empty() && p.session.is_none();
            p.dynamic && silent && !p.retains() && p.held_down.is_none() && p.retiring.is_none()
        });
        if idle {
            self.forget_peer(index);
        }
    }
}
