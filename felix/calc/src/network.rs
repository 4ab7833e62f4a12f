//! Nodes, pools and configuration: what the node must know whatever pods it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use model::{BgpConfiguration, Cidr, EncapMode, Family, FelixConfiguration, IpPool, Node, NodeName};

use crate::{Change, Pools};

/// Keeps the present state and what was told of it; telling costs nothing where nothing was marked.
pub(crate) struct Network {
    node: NodeName,
    hosts: BTreeMap<NodeName, Vec<IpAddr>>,
    tunnel: Option<Ipv4Addr>,
    pools: BTreeMap<String, IpPool>,
    configuration: FelixConfiguration,
    services: Arc<[Cidr]>,
    vxlan: BTreeSet<Family>,
    wireguard: BTreeSet<Family>,
    dirty: bool,
    told: Option<Told>,
}

#[derive(PartialEq)]
struct Told {
    hosts: Arc<BTreeSet<IpAddr>>,
    tunnel: Option<Ipv4Addr>,
    pools: Arc<Pools>,
    configuration: FelixConfiguration,
    services: Arc<[Cidr]>,
}

impl Network {
    pub(crate) fn new(node: NodeName) -> Self {
        Self {
            node,
            hosts: BTreeMap::new(),
            tunnel: None,
            pools: BTreeMap::new(),
            configuration: FelixConfiguration::default(),
            services: Arc::default(),
            vxlan: BTreeSet::new(),
            wireguard: BTreeSet::new(),
            dirty: true,
            told: None,
        }
    }

    pub(crate) fn set_node(&mut self, name: NodeName, node: Option<Node>) {
        if name == self.node {
            let tunnel = node.as_ref().and_then(|node| node.tunnels.ipip);
            self.dirty |= std::mem::replace(&mut self.tunnel, tunnel) != tunnel;
        }
        let new = node.as_ref().map(addresses);
        // Nodes say often how they are, and seldom something new about where they are.
        if self.hosts.get(&name) == new.as_ref() {
            return;
        }
        match new {
            Some(addresses) => _ = self.hosts.insert(name, addresses),
            None => _ = self.hosts.remove(&name),
        }
        self.dirty = true;
    }

    pub(crate) fn set_pool(&mut self, name: String, pool: Option<IpPool>) {
        match pool {
            Some(pool) => _ = self.pools.insert(name, pool),
            None => _ = self.pools.remove(&name),
        }
        self.dirty = true;
    }

    pub(crate) fn set_configuration(&mut self, configuration: Option<FelixConfiguration>) {
        self.configuration = configuration.unwrap_or_default();
        self.dirty = true;
    }

    pub(crate) fn set_bgp_configuration(&mut self, configuration: Option<&BgpConfiguration>) {
        let ranges: BTreeSet<Cidr> =
            configuration.iter().flat_map(|configuration| configuration.services.all()).collect();
        self.services = ranges.into_iter().collect();
        self.dirty = true;
    }

    /// Families whose VXLAN this node takes.
    pub(crate) fn set_vxlan(&mut self, families: BTreeSet<Family>) {
        self.dirty |= self.vxlan != families;
        self.vxlan = families;
    }

    /// Families for which this node uses WireGuard.
    pub(crate) fn set_wireguard(&mut self, families: BTreeSet<Family>) {
        self.dirty |= self.wireguard != families;
        self.wireguard = families;
    }

    pub(crate) fn tell(&mut self) -> Vec<Change> {
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let present = Told {
            hosts: Arc::new(self.hosts.values().flatten().copied().collect()),
            tunnel: self.tunnel,
            pools: Arc::new(self.resolve_pools()),
            configuration: self.configuration.clone(),
            services: self.services.clone(),
        };
        let differs =
            |same: fn(&Told, &Told) -> bool| self.told.as_ref().is_none_or(|old| !same(old, &present));
        let mut changes = Vec::new();
        if differs(|a, b| a.configuration == b.configuration) {
            changes.push(Change::Configuration(Box::new(present.configuration.clone())));
        }
        if differs(|a, b| a.hosts == b.hosts) {
            changes.push(Change::Hosts(present.hosts.clone()));
        }
        if differs(|a, b| a.pools == b.pools) {
            changes.push(Change::Pools(present.pools.clone()));
        }
        if differs(|a, b| a.tunnel == b.tunnel) {
            changes.push(Change::TunnelAddress(present.tunnel));
        }
        if differs(|a, b| a.services == b.services) {
            changes.push(Change::ServiceRanges(present.services.clone()));
        }
        self.told = Some(present);
        changes
    }

    fn resolve_pools(&self) -> Pools {
        let cidrs = |wanted: fn(&IpPool) -> bool| {
            self.pools.values().filter(|pool| wanted(pool)).map(|pool| pool.cidr).collect()
        };
        Pools {
            network: cidrs(IpPool::is_network),
            masquerade: cidrs(|pool| pool.nat_outgoing),
            ipip: self.pools.values().any(|pool| pool.ipip_mode != EncapMode::Never),
            vxlan: self.vxlan.clone(),
            wireguard: self.wireguard.clone(),
        }
    }
}

fn addresses(node: &Node) -> Vec<IpAddr> {
    Family::ALL.iter().filter_map(|family| Some(node.address(*family)?.address)).collect()
}
