//! Changes of configuration while running. Owns the difference of two configurations and how each part is
//! applied: a change of one peer never touches the session of another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bgp_packet::{Cease, Family, Notification, Prefix};
use serde::{Deserialize, Serialize};

use crate::dynamic::settings;
use crate::peer::{FIRST_RETRY, HeldDown, Peer};
use crate::rib::{Keep, PeerIndex, PeerInfo};
use crate::{Cause, Config, Output, Password, PeerConfig, PeerKey, Speaker};

/// One difference between two configurations and what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The peer is new.
    PeerAdded(PeerKey),
    /// The peer is gone; its session was ended.
    PeerRemoved(PeerKey),
    /// The peer is gone; its session stays until its routes come another way.
    PeerRetiring(PeerKey),
    /// The peer's session was ended because its transport, AS or capabilities differ.
    PeerReset(PeerKey),
    /// The peer's settings were changed under its running session.
    PeerUpdated(PeerKey),
    /// AS or identifier of the speaker changed: all sessions were ended.
    SpeakerReset,
    /// Other settings of the speaker changed under the running sessions.
    SpeakerUpdated,
}

/// Other settings of some peers, where all else stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerChanges {
    /// Peers that are new or have other settings; `None` is configured no more.
    pub peers: BTreeMap<PeerKey, Option<PeerConfig>>,
    /// What [`Config::retire`] says of a peer from now on, where that is something else.
    pub retire: BTreeMap<PeerKey, bool>,
}

impl PeerChanges {
    /// Nothing changes.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.retire.is_empty()
    }

    /// Makes the same changes to a whole configuration.
    pub fn apply_to(&self, config: &mut Config) {
        for (key, settings) in &self.peers {
            match settings {
                Some(settings) => drop(config.peers.insert(*key, settings.clone())),
                None => drop(config.peers.remove(key)),
            }
        }
        self.apply_retire(config);
    }

    fn apply_retire(&self, config: &mut Config) {
        for (key, retires) in &self.retire {
            if *retires {
                config.retire.insert(*key)
            } else {
                config.retire.remove(key)
            };
        }
    }
}

/// What becomes of a peer that is configured no more.
struct Fate {
    /// A range of dynamic neighbours has it.
    dynamic: Option<PeerConfig>,
    /// It may keep its session for so long.
    retire: Option<Duration>,
}

impl Fate {
    fn of(config: &Config, key: PeerKey) -> Self {
        let retire = config.retire.contains(&key).then_some(config.retire_limit);
        Self { dynamic: settings(config, key), retire }
    }
}

/// First attempts of the side with the lower address wait a little, so that both do not connect at once.
const POLITE_DELAY: Duration = Duration::from_millis(400);

impl Speaker {
    /// Goes over to another configuration by the differences only, and gives them back.
    pub fn reconfigure(&mut self, new: Config, now: Instant) -> Vec<Change> {
        self.note(Some(now), |tape| crate::record::Entry::Reconfigure(Box::new(tape.scrub(&new))));
        let new = self.linger(new, now);
        self.apply(new, now)
    }

    /// Goes over to other settings of some peers, at the cost of these, and gives back what it did.
    pub fn reconfigure_peers(&mut self, changes: PeerChanges, now: Instant) -> Vec<Change> {
        if let Some(target) = self.lingering_for() {
            let mut new = target.clone();
            changes.apply_to(&mut new);
            return self.reconfigure(new, now);
        }
        self.note(Some(now), |tape| {
            crate::record::Entry::ReconfigurePeers(Box::new(tape.scrub_changes(&changes)))
        });
        changes.apply_retire(&mut self.config);
        let mut done = Vec::new();
        // A peer that retires already may have to go at once now.
        let retiring = self.retiring().into_iter().filter(|key| changes.retire.contains_key(key));
        let dropped = changes.peers.keys().copied().filter(|key| self.config.peers.contains_key(key));
        let gone = retiring.chain(dropped).filter(|key| !matches!(changes.peers.get(key), Some(Some(_))));
        for key in gone.collect::<BTreeSet<_>>() {
            done.extend(self.drop_peer(key, Fate::of(&self.config, key), now));
            self.config.peers.remove(&key);
        }
        for (key, settings) in changes.peers {
            if let Some(settings) = settings.filter(|new| self.config.peers.get(&key) != Some(new)) {
                done.push(self.configure_peer(key, settings.clone(), now));
                self.config.peers.insert(key, settings);
            }
        }
        self.update_listen_hops();
        done
    }

    pub(crate) fn apply(&mut self, new: Config, now: Instant) -> Vec<Change> {
        let mut changes = self.reconfigure_speaker(&new, now);
        // Also those that retire since an earlier change.
        let configured = self.config.peers.keys().copied().chain(self.retiring());
        let gone: BTreeSet<PeerKey> = configured.filter(|key| !new.peers.contains_key(key)).collect();
        for key in gone {
            changes.extend(self.drop_peer(key, Fate::of(&new, key), now));
        }
        for (key, config) in &new.peers {
            match self.config.peers.get(key) {
                Some(old) if old == config => {}
                _ => changes.push(self.configure_peer(*key, config.clone(), now)),
            }
        }
        self.update_dynamic(&new, now, &mut changes);
        self.config = new;
        self.update_listen_hops();
        changes
    }

    /// Takes over the speaker's own settings; peers stay as they are in `self.config`.
    fn reconfigure_speaker(&mut self, new: &Config, now: Instant) -> Vec<Change> {
        let export = |c: &Config| {
            let next_hops = (c.next_hop_v4, c.next_hop_v6);
            let policy = (c.ebgp_requires_policy, c.graceful_shutdown);
            (c.client_to_client, c.cluster_id, c.default_local_pref, next_hops, policy)
        };
        let identity = (self.config.asn, self.config.router_id) != (new.asn, new.router_id);
        let differs = export(&self.config) != export(new);
        self.set_max_paths(new.max_paths);
        let (peers, dynamic) =
            (std::mem::take(&mut self.config.peers), std::mem::take(&mut self.config.dynamic));
        self.config = Config { peers, dynamic, ..new.clone() };
        let indices: Vec<PeerIndex> = self.by_key.values().copied().collect();
        if identity {
            for index in indices {
                let notification = Notification::cease(Cease::OtherConfigurationChange);
                self.end_all(index, &Cause::ConfigurationChanged, Some(&notification), now);
                self.settle(index, now);
            }
            return vec![Change::SpeakerReset];
        }
        if differs {
            for index in indices {
                self.import_again(index);
                self.export_again(index);
            }
            return vec![Change::SpeakerUpdated];
        }
        Vec::new()
    }

    /// A peer is configured no more.
    fn drop_peer(&mut self, key: PeerKey, fate: Fate, now: Instant) -> Option<Change> {
        let index = self.by_key.get(&key).copied();
        if let (Some(index), Some(config)) = (index, fate.dynamic)
            && let Some(change) = self.make_dynamic(index, config, now)
        {
            return Some(change);
        }
        let retired_before =
            self.by_key.get(&key).and_then(|i| self.peer(*i)).is_some_and(|p| p.retiring.is_some());
        if fate.retire.is_some_and(|limit| self.retire_peer(key, limit, now)) {
            return (!retired_before).then_some(Change::PeerRetiring(key));
        }
        self.remove_peer(key, Cause::ConfigurationChanged, now);
        Some(Change::PeerRemoved(key))
    }

    /// A peer is new, or its settings are. One that was a dynamic neighbour, or was retiring, keeps its session.
    fn configure_peer(&mut self, key: PeerKey, config: PeerConfig, now: Instant) -> Change {
        if let Some(index) = self.by_key.get(&key).copied() {
            self.make_static(index, &config);
            let was_retiring = self.reinstate_peer(index);
            let change = self.update_peer(index, config, now);
            if was_retiring && self.peer(index).is_some_and(|p| p.connections.is_empty()) {
                self.first_attempt(index, now);
                self.settle(index, now);
            }
            return change;
        }
        if config.password.is_some() {
            let password = config.password.clone();
            self.outputs.push_back(Output::ListenPassword { peers: Prefix::host(key.address()), password });
        }
        let peer = Peer::new(key, config, false, now);
        let index = self.add_peer(peer);
        self.apply_switched_off(index);
        self.first_attempt(index, now);
        self.settle(index, now);
        Change::PeerAdded(key)
    }

    /// Sets when a peer is first connected to, or says why it is not.
    pub(crate) fn first_attempt(&mut self, index: PeerIndex, now: Instant) {
        let delay = self.jitter(POLITE_DELAY);
        let Some(key) = self.peer(index).map(|p| p.key) else { return };
        let text = self.switched_off.get(&key).cloned();
        let Some(peer) = self.peer_mut(index) else { return };
        if matches!(peer.held_down, Some(HeldDown::MaxPrefix(_))) {
            return;
        }
        peer.cause = match &peer.config {
            c if c.admin_down => Cause::AdminDown,
            PeerConfig { password_missing: Some(why), .. } => Cause::PasswordMissing(why.clone()),
            _ if text.is_some() => Cause::Disabled(text.unwrap_or_default()),
            c if c.passive => Cause::WaitingForPeer,
            _ => Cause::Starting,
        };
        let polite = peer.config.local_address.is_some_and(|local| local < key.address());
        peer.retry_delay = FIRST_RETRY;
        peer.retry_at = peer.is_active().then(|| if polite { now + delay } else { now });
    }

    /// Ends a peer's session and forgets the peer. One that retired is told so gently: it may keep our routes until
    /// it has them another way.
    pub(crate) fn remove_peer(&mut self, key: PeerKey, cause: Cause, now: Instant) {
        let Some(index) = self.by_key.get(&key).copied() else { return };
        let mut notification = Notification::cease(Cease::PeerDeconfigured);
        if cause != Cause::Retired {
            notification = self.for_good(index, notification);
        }
        self.end_all(index, &cause, Some(&notification), now);
        if self.peer(index).is_some_and(|p| p.config.password.is_some() && !p.dynamic) {
            self.outputs
                .push_back(Output::ListenPassword { peers: Prefix::host(key.address()), password: None });
        }
        self.forget_peer(index);
        self.note_deferral(index, now);
    }

    /// Drops a peer and all it told us.
    pub(crate) fn forget_peer(&mut self, index: PeerIndex) {
        self.rib.visit_peer(index, |_, _, _| Keep::Drop);
        self.rib.forget_peer(index);
        self.retiring.forget(index);
        self.take_peer(index);
    }

    /// Goes over to other settings of a peer.
    pub(crate) fn update_peer(&mut self, index: PeerIndex, config: PeerConfig, now: Instant) -> Change {
        let Some(Some(peer)) = self.peers.get_mut(index as usize) else { return Change::SpeakerUpdated };
        let key = peer.key;
        let was_enabled = peer.is_enabled();
        let old = std::mem::replace(&mut peer.config, config);
        let enabled = peer.is_enabled();
        let passive_changed = old.passive != peer.config.passive;
        // Why it is down reads differently now.
        let still_missing = !enabled && old.password_missing != peer.config.password_missing;
        let reset = old.needs_reset(&peer.config);
        // Those of a range share the key of the range.
        if old.password != peer.config.password && !peer.dynamic {
            let password = peer.config.password.clone();
            self.outputs.push_back(Output::ListenPassword { peers: Prefix::host(key.address()), password });
        }
        if was_enabled && !enabled {
            let notification = self.for_good(index, Notification::cease(Cease::AdministrativeShutdown));
            self.end_all(index, &Cause::AdminDown, Some(&notification), now);
            self.first_attempt(index, now);
        } else if reset || was_enabled != enabled {
            let notification = Notification::cease(Cease::OtherConfigurationChange);
            self.end_all(index, &Cause::ConfigurationChanged, Some(&notification), now);
            self.first_attempt(index, now);
        } else {
            self.update_running(index, &old, now);
            let idle = self.peer(index).is_some_and(|p| p.session.is_none());
            if still_missing || (passive_changed && idle) {
                self.first_attempt(index, now);
            }
        }
        self.settle(index, now);
        if reset { Change::PeerReset(key) } else { Change::PeerUpdated(key) }
    }

    /// Takes over settings that a running session can change to.
    fn update_running(&mut self, index: PeerIndex, old: &PeerConfig, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        let new = &peer.config;
        let shutdown = old.graceful_shutdown != new.graceful_shutdown;
        let client = old.reflector_client != new.reflector_client;
        let import = shutdown || (&old.import, old.allow_own_as) != (&new.import, new.allow_own_as);
        let sends = |c: &PeerConfig| (c.export.clone(), c.next_hop, c.add_path_send_max);
        let export = shutdown || client || sends(old) != sends(new);
        let bfd = old.bfd != new.bfd;
        if let Some(session) = &mut peer.session {
            session.update(&peer.config);
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
        if export {
            self.export_again(index);
        }
        self.check_max_prefix(index, now);
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
            let mut hops = all.map(|c| c.ttl_security);
            hops.try_fold(None, |most, hops| hops.map(|hops| most.max(Some(hops)))).flatten()
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
    fn update_dynamic(&mut self, new: &Config, now: Instant, changes: &mut Vec<Change>) {
        if self.config.dynamic == new.dynamic {
            return;
        }
        self.update_range_passwords(new);
        let dynamic = self.peers.iter().flatten().filter(|p| p.dynamic);
        let current: Vec<(PeerKey, PeerConfig)> = dynamic.map(|p| (p.key, p.config.clone())).collect();
        for (key, old) in current {
            let Some(index) = self.by_key.get(&key).copied() else { continue };
            match settings(new, key) {
                None => changes.extend(self.drop_peer(key, Fate::of(new, key), now)),
                Some(config) if config != old => changes.push(self.update_peer(index, config, now)),
                Some(_) => {}
            }
        }
    }
}
