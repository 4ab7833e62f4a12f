//! Changes of configuration while running. Owns the difference of two configurations and how each part is
//! applied: a change of one peer never touches the session of another.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bgp_packet::{Cease, Family, Notification, Prefix};

use crate::peer::Peer;
use crate::rib::{Keep, PeerIndex, PeerInfo};
use crate::{Cause, Config, Output, Password, PeerConfig, PeerKey, Speaker};

/// One difference between two configurations and what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The peer is new.
    PeerAdded(PeerKey),
    /// The peer is gone; its session was ended.
    PeerRemoved(PeerKey),
    /// The peer's session was ended because its transport, AS or capabilities differ.
    PeerReset(PeerKey),
    /// The peer's settings were changed under its running session.
    PeerUpdated(PeerKey),
    /// AS or identifier of the speaker changed: all sessions were ended.
    SpeakerReset,
    /// Other settings of the speaker changed under the running sessions.
    SpeakerUpdated,
}

/// First attempts of the side with the lower address wait a little, so that both do not connect at once.
const POLITE_DELAY: Duration = Duration::from_millis(400);

impl Speaker {
    /// Goes over to another configuration by the differences only, and gives them back.
    pub fn reconfigure(&mut self, new: Config, now: Instant) -> Vec<Change> {
        let mut changes = self.reconfigure_speaker(&new, now);
        let gone = self.config.peers.keys().filter(|key| !new.peers.contains_key(key));
        for key in gone.copied().collect::<Vec<_>>() {
            self.remove_peer(key, now);
            changes.push(Change::PeerRemoved(key));
        }
        for (key, config) in &new.peers {
            let key = *key;
            match self.config.peers.get(&key) {
                Some(old) if old == config => continue,
                Some(old) => {
                    let reset = old.needs_reset(config);
                    self.update_peer(key, config.clone(), reset, now);
                    changes.push(if reset { Change::PeerReset(key) } else { Change::PeerUpdated(key) });
                }
                None => {
                    self.configure_peer(key, config.clone(), now);
                    changes.push(Change::PeerAdded(key));
                }
            }
        }
        self.update_dynamic(&new, now);
        self.config = new;
        self.update_listen_hops();
        changes
    }

    /// Takes over the speaker's own settings; peers stay as they are in `self.config`.
    fn reconfigure_speaker(&mut self, new: &Config, now: Instant) -> Vec<Change> {
        let old = &self.config;
        let identity = (old.asn, old.router_id) != (new.asn, new.router_id);
        let export =
            (old.client_to_client, old.cluster_id, old.default_local_pref, old.next_hop_v4, old.next_hop_v6)
                != (
                    new.client_to_client,
                    new.cluster_id,
                    new.default_local_pref,
                    new.next_hop_v4,
                    new.next_hop_v6,
                );
        self.config.asn = new.asn;
        self.config.router_id = new.router_id;
        self.config.cluster_id = new.cluster_id;
        self.config.client_to_client = new.client_to_client;
        self.config.default_local_pref = new.default_local_pref;
        self.config.next_hop_v4 = new.next_hop_v4;
        self.config.next_hop_v6 = new.next_hop_v6;
        self.set_max_paths(new.max_paths);
        let indices: Vec<PeerIndex> = self.by_key.values().copied().collect();
        if identity {
            for index in indices {
                let notification = Notification::cease(Cease::OtherConfigurationChange);
                self.end_all(index, &Cause::ConfigurationChanged, Some(notification), now);
                self.arm(index);
            }
            return vec![Change::SpeakerReset];
        }
        if export {
            for index in indices {
                self.import_again(index);
                self.export_again(index);
            }
            return vec![Change::SpeakerUpdated];
        }
        Vec::new()
    }

    fn configure_peer(&mut self, key: PeerKey, config: PeerConfig, now: Instant) {
        if let Some(index) = self.by_key.get(&key).copied() {
            // It was a dynamic neighbour so far: its session stays.
            if let Some(peer) = self.peer_mut(index)
                && std::mem::take(&mut peer.dynamic)
            {
                self.dynamic_peers -= 1;
            }
            return self.update_peer(key, config, false, now);
        }
        if config.password.is_some() {
            let password = config.password.clone();
            self.outputs.push_back(Output::ListenPassword { peers: Prefix::host(key.address()), password });
        }
        let peer = Peer::new(key, config, false, now);
        let index = self.add_peer(peer);
        self.first_attempt(index, now);
    }

    /// Sets when a peer is first connected to, or says why it is not.
    pub(crate) fn first_attempt(&mut self, index: PeerIndex, now: Instant) {
        let delay = self.jitter(POLITE_DELAY);
        if let Some(peer) = self.peer_mut(index) {
            peer.cause = match &peer.config {
                c if c.admin_down => Cause::AdminDown,
                c if c.password_missing => Cause::PasswordMissing,
                c if c.passive => Cause::WaitingForPeer,
                _ => Cause::Starting,
            };
            let polite = peer.config.local_address.is_some_and(|local| local < peer.key.address());
            let active = peer.config.is_enabled() && !peer.config.passive;
            peer.retry_at = active.then(|| if polite { now + delay } else { now });
        }
        self.arm(index);
    }

    fn remove_peer(&mut self, key: PeerKey, now: Instant) {
        let Some(index) = self.by_key.get(&key).copied() else { return };
        let with_restart = self
            .peer(index)
            .and_then(|p| p.session.as_ref())
            .is_some_and(|s| s.restart.as_ref().is_some_and(|gr| gr.notification));
        let notification = Notification::cease(Cease::PeerDeconfigured);
        let notification = if with_restart { notification.hard_reset() } else { notification };
        self.end_all(index, &Cause::ConfigurationChanged, Some(notification), now);
        if self.peer(index).is_some_and(|p| p.config.password.is_some()) {
            self.outputs
                .push_back(Output::ListenPassword { peers: Prefix::host(key.address()), password: None });
        }
        self.forget_peer(index);
    }

    /// Drops a peer and all it told us.
    pub(crate) fn forget_peer(&mut self, index: PeerIndex) {
        self.rib.visit_peer(index, |_, _, _| Keep::Drop);
        self.rib.forget_peer(index);
        let Some(peer) = self.peers.get_mut(index as usize).and_then(Option::take) else { return };
        self.by_key.remove(&peer.key);
        self.free_peers.push(index);
        self.dynamic_peers -= usize::from(peer.dynamic);
        for connection in &peer.connections {
            self.by_conn.remove(&connection.id);
        }
        if let Some(armed) = peer.armed {
            self.timers.remove(&(armed, index));
        }
    }

    fn update_peer(&mut self, key: PeerKey, mut config: PeerConfig, reset: bool, now: Instant) {
        config.admin_down |= self.switched_off.contains(&key);
        let Some(index) = self.by_key.get(&key).copied() else { return };
        let Some(peer) = self.peer_mut(index) else { return };
        let old = std::mem::replace(&mut peer.config, config);
        let new = &peer.config;
        let was_enabled = old.is_enabled();
        let enabled = new.is_enabled();
        let import = old.import != new.import || old.allow_own_as != new.allow_own_as;
        let client = old.reflector_client != new.reflector_client;
        let export = old.export != new.export
            || old.next_hop != new.next_hop
            || old.add_path_send_max != new.add_path_send_max;
        let passive_changed = old.passive != new.passive;
        let bfd = old.bfd != new.bfd;
        // Those of a range share the key of the range.
        if old.password != new.password && !peer.dynamic {
            let password = new.password.clone();
            self.outputs.push_back(Output::ListenPassword { peers: Prefix::host(key.address()), password });
        }
        if was_enabled && !enabled {
            let notification = Notification::cease(Cease::AdministrativeShutdown);
            self.end_all(index, &Cause::AdminDown, Some(notification), now);
            self.first_attempt(index, now);
            return;
        }
        if reset || (!was_enabled && enabled) {
            let notification = Notification::cease(Cease::OtherConfigurationChange);
            self.end_all(index, &Cause::ConfigurationChanged, Some(notification), now);
            self.first_attempt(index, now);
            return;
        }
        if bfd {
            self.end_bfd(index);
            self.begin_bfd(index);
        }
        if client {
            self.set_client(index);
        }
        if import {
            self.import_again(index);
        }
        if export || client {
            self.export_again(index);
        }
        if passive_changed && self.peer(index).is_some_and(|p| p.session.is_none()) {
            self.first_attempt(index, now);
        }
    }

    /// Takes over whether a peer is a client: all others may get or lose its routes.
    fn set_client(&mut self, index: PeerIndex) {
        let Some(client) = self.peer(index).map(|p| p.config.reflector_client) else { return };
        if let Some(info) = self.rib.peer(index).cloned() {
            self.rib.set_peer(index, PeerInfo { client, ..info });
        }
        let all: Vec<PeerIndex> = self.by_key.values().copied().collect();
        all.into_iter().for_each(|other| self.export_again(other));
    }

    /// Tells listening sockets how far those may be who connect, when that has changed.
    fn update_listen_hops(&mut self) {
        let config = &self.config;
        let hops = Family::ALL.map(|family| {
            let peers = config.peers.iter().filter(|(key, _)| Family::of(key.address()) == family);
            let ranges = config.dynamic.iter().filter(|d| d.prefix.family() == family);
            let all = peers.map(|(_, c)| c).chain(ranges.map(|d| &d.template));
            all.map(|c| c.ttl_security).reduce(|a, b| Some(a?.max(b?))).flatten()
        });
        if hops != self.listen_hops {
            self.listen_hops = hops;
            self.outputs.push_back(Output::ListenTtlSecurity { hops });
        }
    }

    /// Sets the passwords that ranges of dynamic neighbours use from now on.
    fn update_range_passwords(&mut self, new: &Config) {
        let passwords = |config: &Config| -> BTreeMap<Prefix, Password> {
            let ranges = config.dynamic.iter();
            ranges.filter_map(|d| Some((d.prefix, d.template.password.clone()?))).collect()
        };
        let (old, new) = (passwords(&self.config), passwords(new));
        for peers in old.keys().filter(|peers| !new.contains_key(peers)) {
            self.outputs.push_back(Output::ListenPassword { peers: *peers, password: None });
        }
        for (peers, password) in new.into_iter().filter(|(peers, p)| old.get(peers) != Some(p)) {
            self.outputs.push_back(Output::ListenPassword { peers, password: Some(password) });
        }
    }

    /// Applies changed ranges of dynamic neighbours to the peers that came from them.
    fn update_dynamic(&mut self, new: &Config, now: Instant) {
        if self.config.dynamic == new.dynamic {
            return;
        }
        self.update_range_passwords(new);
        let dynamic = self.peers.iter().flatten().filter(|p| p.dynamic);
        let current: Vec<(PeerKey, PeerConfig)> = dynamic.map(|p| (p.key, p.config.clone())).collect();
        for (key, old) in current {
            let matching = new.dynamic.iter().filter(|d| d.covers(key));
            let Some(range) = matching.max_by_key(|d| d.prefix.len()) else {
                self.remove_peer(key, now);
                continue;
            };
            let config = PeerConfig { passive: true, ..range.template.clone() };
            if config != old {
                let reset = old.needs_reset(&config);
                self.update_peer(key, config, reset, now);
            }
        }
    }
}
