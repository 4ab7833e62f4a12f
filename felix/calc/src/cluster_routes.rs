//! Where pods of other nodes are, and how this node reaches them where the agent itself routes: in pools with VXLAN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{Block, Cidr, Family, IpPool, Node, NodeName, NodePath, TunnelKind, Unreachable};

use crate::wireguard::{Surroundings, Wireguard};
use crate::{Change, ClusterRoute, VxlanEnd, VxlanPeer};

/// Keeps the present state and what was told of it. A block, a node or a pool costs what it concerns.
pub(crate) struct ClusterRoutes {
    node: NodeName,
    nodes: BTreeMap<NodeName, Node>,
    pools: BTreeMap<String, IpPool>,
    /// `vxlanEnabled`, where it is set.
    enabled: Option<bool>,
    /// By block: destinations, and the nodes that these are on.
    blocks: BTreeMap<Cidr, BTreeMap<Cidr, NodeName>>,
    holders: BTreeMap<Cidr, NodeName>,
    /// The same by node.
    held: BTreeMap<NodeName, BTreeSet<Cidr>>,
    dirty: BTreeSet<Cidr>,
    dirty_peers: BTreeSet<NodeName>,
    ends_dirty: bool,
    told: BTreeMap<Cidr, ClusterRoute>,
    told_peers: BTreeMap<(Family, NodeName), VxlanPeer>,
    told_ends: BTreeMap<Family, VxlanEnd>,
    pub(crate) wireguard: Wireguard,
}

impl ClusterRoutes {
    pub(crate) fn new(node: NodeName) -> Self {
        Self {
            node,
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            enabled: None,
            blocks: BTreeMap::new(),
            holders: BTreeMap::new(),
            held: BTreeMap::new(),
            dirty: BTreeSet::new(),
            dirty_peers: BTreeSet::new(),
            ends_dirty: false,
            told: BTreeMap::new(),
            told_peers: BTreeMap::new(),
            told_ends: BTreeMap::new(),
            wireguard: Wireguard::default(),
        }
    }

    pub(crate) fn set_node(&mut self, name: &NodeName, node: Option<&Node>) {
        let old = self.nodes.get(name);
        let facts = |node: &Node| (node.ipv4, node.ipv6, node.tunnels.clone());
        // Nodes say often how they are, and seldom something new about where they are.
        if old.map(facts) == node.map(facts) {
            return;
        }
        self.wireguard.set_node(name, node);
        match node {
            Some(node) => _ = self.nodes.insert(name.clone(), node.clone()),
            None => _ = self.nodes.remove(name),
        }
        if *name == self.node {
            self.ends_dirty = true;
            self.dirty.extend(self.holders.keys());
        } else {
            self.dirty_peers.insert(name.clone());
            self.dirty.extend(self.held.get(name).into_iter().flatten());
        }
    }

    pub(crate) fn set_pool(&mut self, name: &str, pool: Option<&IpPool>) {
        let old = match pool {
            Some(pool) => self.pools.insert(name.to_owned(), pool.clone()),
            None => self.pools.remove(name),
        };
        self.ends_dirty = true;
        self.wireguard.pools_changed();
        for range in [old.as_ref(), pool].into_iter().flatten().map(|pool| pool.cidr) {
            let concerned = self.holders.keys().filter(|destination| range.covers(**destination));
            self.dirty.extend(concerned.copied());
        }
    }

    pub(crate) fn set_enabled(&mut self, enabled: Option<bool>) {
        if std::mem::replace(&mut self.enabled, enabled) != enabled {
            self.ends_dirty = true;
            self.dirty.extend(self.holders.keys());
        }
    }

    pub(crate) fn set_block(&mut self, cidr: Cidr, block: Option<&Block>) {
        let new = block.filter(|block| !block.deleted).map(destinations).unwrap_or_default();
        let old = match new.is_empty() {
            true => self.blocks.remove(&cidr),
            false => self.blocks.insert(cidr, new.clone()),
        };
        let old = old.unwrap_or_default();
        for gone in old.keys().filter(|destination| !new.contains_key(destination)) {
            self.set_holder(*gone, None);
        }
        for (destination, holder) in new {
            if old.get(&destination) != Some(&holder) {
                self.set_holder(destination, Some(holder));
            }
        }
    }

    fn set_holder(&mut self, destination: Cidr, holder: Option<NodeName>) {
        let old = match &holder {
            Some(holder) => self.holders.insert(destination, holder.clone()),
            None => self.holders.remove(&destination),
        };
        old.iter().chain(&holder).for_each(|node| self.wireguard.held_changed(node));
        if let Some(old) = old
            && let Some(held) = self.held.get_mut(&old)
        {
            held.remove(&destination);
            if held.is_empty() {
                self.held.remove(&old);
            }
        }
        if let Some(holder) = holder {
            self.held.entry(holder).or_default().insert(destination);
        }
        self.dirty.insert(destination);
    }

    /// Families whose VXLAN this node takes: those that a pool uses, and those that it has announced, until it takes
    /// that back. Others may send for as long as it stands there.
    pub(crate) fn receives(&self) -> BTreeSet<Family> {
        Family::ALL.into_iter().filter(|family| self.end(*family).is_some()).collect()
    }

    /// By family that travels through WireGuard: other nodes with an address of it that tell no key.
    pub(crate) fn keyless_nodes(&self) -> impl Iterator<Item = (Family, impl Iterator<Item = &NodeName>)> {
        let all = self.wireguard.keyless();
        all.map(|(family, nodes)| (family, nodes.filter(|name| **name != self.node)))
    }

    pub(crate) fn tell(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut peers_gone = Vec::new();
        if std::mem::take(&mut self.ends_dirty) {
            self.tell_ends(&mut changes);
        }
        self.tell_peers(&mut changes, &mut peers_gone);
        for destination in std::mem::take(&mut self.dirty) {
            let route = self.holders.get(&destination).and_then(|holder| self.route(destination, holder));
            if self.told.get(&destination) == route.as_ref() {
                continue;
            }
            match route {
                Some(route) => _ = self.told.insert(destination, route),
                None => _ = self.told.remove(&destination),
            }
            changes.push(Change::ClusterRoute(destination, route));
        }
        // Routes lead through them until here.
        changes.append(&mut peers_gone);
        let Self { node, nodes, pools, held, wireguard, .. } = self;
        wireguard.tell(&Surroundings { node, nodes, pools, held }, &mut changes);
        changes
    }

    fn tell_ends(&mut self, changes: &mut Vec<Change>) {
        for family in Family::ALL {
            let end = self.end(family);
            if self.told_ends.get(&family) == end.as_ref() {
                continue;
            }
            match end {
                Some(end) => _ = self.told_ends.insert(family, end),
                None => _ = self.told_ends.remove(&family),
            }
            changes.push(Change::VxlanEnd(family, end));
        }
    }

    fn tell_peers(&mut self, changes: &mut Vec<Change>, gone: &mut Vec<Change>) {
        for name in std::mem::take(&mut self.dirty_peers) {
            for family in Family::ALL {
                let peer = self.nodes.get(&name).and_then(|node| peer(node, family));
                let key = (family, name.clone());
                if self.told_peers.get(&key) == peer.as_ref() {
                    continue;
                }
                match peer {
                    Some(peer) => _ = self.told_peers.insert(key, peer),
                    None => _ = self.told_peers.remove(&key),
                }
                let list = if peer.is_some() { &mut *changes } else { &mut *gone };
                list.push(Change::VxlanPeer(family, name.clone(), peer));
            }
        }
    }

    fn end(&self, family: Family) -> Option<VxlanEnd> {
        let own = self.nodes.get(&self.node)?;
        let address = own.tunnels.address(TunnelKind::vxlan(family));
        let uses = self.pools.values().any(|pool| pool.is_routed_by_agent() && pool.cidr.family() == family);
        let is_wanted = self.enabled.unwrap_or(uses || address.is_some());
        let local = own.address(family).filter(|_| is_wanted)?.address;
        Some(VxlanEnd { local, address, mac: own.vxlan_mac(family) })
    }

    fn route(&self, destination: Cidr, holder: &NodeName) -> Option<ClusterRoute> {
        let pool = self.pool_of(destination).filter(|pool| pool.is_routed_by_agent());
        if *holder == self.node {
            return (pool.is_some() && !destination.is_host()).then_some(ClusterRoute::Blackhole);
        }
        let Some(pool) = pool else { return Some(ClusterRoute::OfSpeaker) };
        if self.enabled == Some(false) {
            return Some(ClusterRoute::Unreachable(Unreachable::Forbidden));
        }
        let (own, remote) = match (self.nodes.get(&self.node), self.nodes.get(holder)) {
            (Some(own), Some(remote)) => (own, remote),
            (None, _) => {
                return Some(ClusterRoute::Unreachable(Unreachable::NoOwnAddress(destination.family())));
            }
            (_, None) => return Some(ClusterRoute::Unreachable(Unreachable::UnknownNode)),
        };
        Some(match NodePath::of(pool, own, remote) {
            NodePath::Direct { gateway } => ClusterRoute::Direct { gateway },
            NodePath::Vxlan { gateway } => {
                ClusterRoute::Vxlan { gateway, mac: remote.vxlan_mac(destination.family()) }
            }
            NodePath::Ipip { .. } => ClusterRoute::OfSpeaker,
            NodePath::Unreachable(reason) => ClusterRoute::Unreachable(reason),
        })
    }

    /// The smallest pool that it is in.
    fn pool_of(&self, destination: Cidr) -> Option<&IpPool> {
        let around = self.pools.values().filter(|pool| pool.cidr.covers(destination));
        around.max_by_key(|pool| pool.cidr.length())
    }

    /// The node that holds what is told of a destination, for messages.
    pub(crate) fn unreachable(&self) -> impl Iterator<Item = (&NodeName, Unreachable)> {
        self.told.iter().filter_map(|(destination, route)| match route {
            ClusterRoute::Unreachable(reason) => Some((self.holders.get(destination)?, *reason)),
            _ => None,
        })
    }
}

/// The block is where its owner is; an address of it that another node holds is there.
fn destinations(block: &Block) -> BTreeMap<Cidr, NodeName> {
    let mut destinations: BTreeMap<Cidr, NodeName> = BTreeMap::new();
    destinations.extend(block.affinity.iter().map(|owner| (block.cidr, owner.clone())));
    for (address, attributes) in block.allocated() {
        let Some(holder) = attributes.secondary.get("node") else { continue };
        if block.affinity.as_ref().is_none_or(|owner| owner.as_str() != holder) {
            destinations.insert(Cidr::host(address), NodeName::from(holder.as_str()));
        }
    }
    destinations
}

/// Another node's end, once it is announced.
fn peer(node: &Node, family: Family) -> Option<VxlanPeer> {
    let tunnel: IpAddr = node.tunnels.address(TunnelKind::vxlan(family))?;
    let address = node.address(family)?.address;
    Some(VxlanPeer { tunnel, mac: node.vxlan_mac(family), address })
}
