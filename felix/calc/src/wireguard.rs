//! Which nodes this one shall talk with through WireGuard, and what is behind each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use model::{Cidr, Family, IpPool, Node, NodeName, TunnelKind, WireguardKey, WireguardSettings};

use crate::{Change, WireguardEnd, WireguardPeer};

/// What a node's part follows from; the index of routes keeps it.
pub(crate) struct Surroundings<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) nodes: &'a BTreeMap<NodeName, Node>,
    pub(crate) pools: &'a BTreeMap<String, IpPool>,
    /// By node: destinations that are there.
    pub(crate) held: &'a BTreeMap<NodeName, BTreeSet<Cidr>>,
}

/// Keeps what was told. A node costs what is behind it; settings and pools cost every node.
#[derive(Default)]
pub(crate) struct Wireguard {
    settings: WireguardSettings,
    /// Who says to have a key. Two nodes with one key are a mistake, or an attack: neither is talked with.
    owners: BTreeMap<(Family, WireguardKey), BTreeSet<NodeName>>,
    keys: BTreeMap<(Family, NodeName), WireguardKey>,
    /// Keys with more than one owner.
    shared: BTreeSet<(Family, WireguardKey)>,
    /// Nodes with an address of a family that tell no key.
    keyless: BTreeSet<(Family, NodeName)>,
    dirty: BTreeSet<NodeName>,
    everything: bool,
    told_ends: BTreeMap<Family, WireguardEnd>,
    told: BTreeMap<(Family, NodeName), WireguardPeer>,
}

impl Wireguard {
    pub(crate) fn set_settings(&mut self, settings: WireguardSettings) {
        self.everything |= std::mem::replace(&mut self.settings, settings) != settings;
    }

    pub(crate) fn set_node(&mut self, name: &NodeName, node: Option<&Node>) {
        for family in Family::ALL {
            let new = node.and_then(|node| node.tunnels.wireguard_key(family));
            let is_keyless = new.is_none() && node.is_some_and(|node| node.address(family).is_some());
            match is_keyless {
                true => self.keyless.insert((family, name.clone())),
                false => self.keyless.remove(&(family, name.clone())),
            };
            let old = match new {
                Some(key) => self.keys.insert((family, name.clone()), key),
                None => self.keys.remove(&(family, name.clone())),
            };
            if old == new {
                continue;
            }
            if let Some(old) = old {
                self.change_owners((family, old), |owners| owners.remove(name));
            }
            if let Some(new) = new {
                self.change_owners((family, new), |owners| owners.insert(name.clone()));
            }
        }
        self.dirty.insert(name.clone());
    }

    fn change_owners(
        &mut self,
        key: (Family, WireguardKey),
        change: impl FnOnce(&mut BTreeSet<NodeName>) -> bool,
    ) {
        let owners = self.owners.entry(key).or_default();
        change(owners);
        self.dirty.extend(owners.iter().cloned());
        match owners.len() > 1 {
            true => self.shared.insert(key),
            false => self.shared.remove(&key),
        };
        if owners.is_empty() {
            self.owners.remove(&key);
        }
    }

    /// What is on a node has changed.
    pub(crate) fn held_changed(&mut self, name: &NodeName) {
        self.dirty.insert(name.clone());
    }

    pub(crate) fn pools_changed(&mut self) {
        self.everything = true;
    }

    pub(crate) fn tell(&mut self, around: &Surroundings<'_>, changes: &mut Vec<Change>) {
        let dirty = std::mem::take(&mut self.dirty);
        let is_own_dirty = dirty.contains(around.node);
        let everything = std::mem::take(&mut self.everything);
        let mut gone = Vec::new();
        let mut concerned = dirty;
        if everything || is_own_dirty {
            let ends = self.tell_ends(around, changes, &mut gone);
            if everything || ends {
                concerned.extend(around.nodes.keys().cloned());
                concerned.extend(self.told.keys().map(|(_, name)| name.clone()));
            }
        }
        for name in concerned {
            for family in Family::ALL {
                let peer = self.peer(around, family, &name);
                let key = (family, name.clone());
                if self.told.get(&key) == peer.as_ref() {
                    continue;
                }
                match peer.clone() {
                    Some(peer) => _ = self.told.insert(key, peer),
                    None => _ = self.told.remove(&key),
                }
                changes.push(Change::WireguardPeer(family, name.clone(), peer));
            }
        }
        changes.append(&mut gone);
    }

    /// An end comes before those who are behind it, and goes after them. Has one come or gone?
    fn tell_ends(
        &mut self,
        around: &Surroundings<'_>,
        changes: &mut Vec<Change>,
        gone: &mut Vec<Change>,
    ) -> bool {
        let mut differ = false;
        for family in Family::ALL {
            let end = self.end(around, family);
            let old = match end {
                Some(end) => self.told_ends.insert(family, end),
                None => self.told_ends.remove(&family),
            };
            if old == end {
                continue;
            }
            differ |= old.is_some() != end.is_some();
            let list = if end.is_some() { &mut *changes } else { &mut *gone };
            list.push(Change::WireguardEnd(family, end));
        }
        differ
    }

    /// Families for which this node uses WireGuard.
    pub(crate) fn families(&self) -> BTreeSet<Family> {
        self.told_ends.keys().copied().collect()
    }

    fn end(&self, around: &Surroundings<'_>, family: Family) -> Option<WireguardEnd> {
        let own = around.nodes.get(around.node)?;
        own.address(family).filter(|_| self.settings.is_enabled(family))?;
        let address = own.tunnels.address(TunnelKind::wireguard(family));
        Some(WireguardEnd { port: self.settings.port(family), address })
    }

    fn peer(&self, around: &Surroundings<'_>, family: Family, name: &NodeName) -> Option<WireguardPeer> {
        if name == around.node || !self.told_ends.contains_key(&family) {
            return None;
        }
        let node = around.nodes.get(name)?;
        let key = node.tunnels.wireguard_key(family)?;
        if self.shared.contains(&(family, key)) {
            return None;
        }
        let address = node.address(family)?.address;
        let is_network = |destination: &Cidr| {
            let around = around.pools.values().filter(|pool| pool.cidr.covers(*destination));
            around.max_by_key(|pool| pool.cidr.length()).is_some_and(IpPool::is_network)
        };
        let held = around.held.get(name).into_iter().flatten().copied();
        let destinations: BTreeSet<Cidr> =
            held.filter(|destination| destination.family() == family).filter(is_network).collect();
        let endpoint = SocketAddr::new(address, self.settings.port(family));
        Some(WireguardPeer { key, endpoint, destinations: Arc::new(destinations) })
    }

    /// The node that says to have a key, of whichever family.
    pub(crate) fn node_of(&self, key: &WireguardKey) -> Option<&NodeName> {
        Family::ALL.into_iter().find_map(|family| self.owners.get(&(family, *key))?.first())
    }

    /// Nodes that say to have one and the same key.
    pub(crate) fn duplicates(&self) -> impl Iterator<Item = (&WireguardKey, &BTreeSet<NodeName>)> {
        self.shared.iter().filter_map(|shared| Some((&shared.1, self.owners.get(shared)?)))
    }

    /// By family that this node uses WireGuard for: nodes with an address of it that tell no key, itself among them.
    pub(crate) fn keyless(&self) -> impl Iterator<Item = (Family, impl Iterator<Item = &NodeName>)> {
        self.told_ends.keys().map(|used| {
            let keyless = self.keyless.iter().filter(move |(family, _)| family == used);
            (*used, keyless.map(|(_, name)| name))
        })
    }
}
