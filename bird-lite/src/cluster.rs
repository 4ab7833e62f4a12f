//! What the cluster says now. Owns the newest state of every object that matters to BGP, and what each change
//! touches: an update costs what it changes, not what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bgp::PeerKey;
use bgp_packet::Prefix;
use model::{
    AffinityState, AllocationAttributes, BgpConfiguration, BgpFilter, BgpPeer, Block, BlockAffinity, Cidr,
    IpPool, Node, NodeName, PeerSelection, PeerTarget, Pod, PodKey, Secret, Update, host_interface_name,
};

use crate::convert::prefix;
use crate::services::Services;

/// Nodes with this label announce no Service.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// This node.
    pub node_name: NodeName,
    /// Every kind has been listed once.
    pub in_sync: bool,
    pub nodes: BTreeMap<NodeName, Node>,
    pub pools: BTreeMap<String, IpPool>,
    /// Affinities of this node.
    pub affinities: BTreeMap<Cidr, BlockAffinity>,
    pub configuration: BgpConfiguration,
    pub peers: BTreeMap<String, BgpPeer>,
    pub filters: BTreeMap<String, BgpFilter>,
    /// Pods of this node that have an address of their own; known only while some of them may be peers.
    pub pods: BTreeMap<PodKey, Pod>,
    /// Routers at the other end of links, by the links' names.
    pub routers: BTreeMap<String, PeerKey>,
    /// Namespace of the Secrets that peerings refer to.
    pub namespace: String,
    /// Secrets that were asked for, by name.
    pub secrets: BTreeMap<String, Secret>,
    /// What is announced of Services.
    pub services: Services,
    /// Host routes to peers that are reached through a gateway, as the peerings say.
    pub gateways: BTreeMap<IpAddr, IpAddr>,
    own_addresses: OwnAddresses,
    pool_index: PoolIndex,
    changes: Changes,
}

/// What may be different since it was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Peers, their settings or their policies.
    pub peers: bool,
    /// Sessions with these other nodes, and nothing else of the peers.
    pub nodes: BTreeSet<NodeName>,
    /// Every announcement and every kernel route.
    pub all_routes: bool,
    /// Ways of kernel routes, such as through the tunnel or not.
    pub ways: bool,
    /// Announcements of these prefixes, and what the kernel does with them.
    pub prefixes: BTreeSet<Prefix>,
    /// Every kind has been listed for the first time.
    pub in_sync: bool,
}

impl Changes {
    /// Is everything as it was?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Notes that everything may be different, if it may.
    fn everything(&mut self, changed: bool) {
        self.peers |= changed;
        self.all_routes |= changed;
    }
}

impl Cluster {
    /// Nothing is known yet.
    pub fn new(node_name: NodeName) -> Self {
        Self {
            services: Services::new(node_name.clone()),
            node_name,
            in_sync: false,
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            affinities: BTreeMap::new(),
            configuration: BgpConfiguration::default(),
            peers: BTreeMap::new(),
            filters: BTreeMap::new(),
            pods: BTreeMap::new(),
            routers: BTreeMap::new(),
            namespace: "kube-system".to_owned(),
            secrets: BTreeMap::new(),
            gateways: BTreeMap::new(),
            own_addresses: OwnAddresses::default(),
            pool_index: PoolIndex::default(),
            changes: Changes::default(),
        }
    }

    /// With Secrets in another namespace than `kube-system`.
    #[must_use]
    pub fn with_namespace(self, namespace: String) -> Self {
        Self { namespace, ..self }
    }

    /// Takes in one update and notes what it touches.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Node(name, node) => self.set_node(name, node),
            Update::Pool(name, pool) => self.set_pool(name, pool),
            Update::Block(cidr, block) => self.set_block(cidr, block.as_deref()),
            Update::BlockAffinity(node, cidr, affinity) if node == self.node_name => {
                let changed = set(&mut self.affinities, cidr, affinity.filter(|a| !a.deleted));
                self.changes.everything(changed);
            }
            Update::BgpConfiguration(configuration) => {
                let new = configuration.map(|c| *c).unwrap_or_default();
                if new != self.configuration {
                    self.services.configure(new.services.clone());
                    self.configuration = new;
                    self.changes.everything(true);
                }
            }
            Update::BgpPeer(name, peer) => {
                self.changes.peers |= set(&mut self.peers, name, peer.map(|peer| *peer));
            }
            Update::BgpFilter(name, filter) => {
                self.changes.peers |= set(&mut self.filters, name, filter.map(|filter| *filter));
            }
            Update::Pod(key, pod) => {
                let own = |pod: &Pod| pod.node.as_ref() == Some(&self.node_name) && !pod.host_network;
                let pod = pod.filter(|pod| own(pod) && !pod.addresses.is_empty());
                self.changes.peers |= set(&mut self.pods, key, pod);
            }
            Update::Secret(name, secret) => self.changes.peers |= set(&mut self.secrets, name, secret),
            Update::Service(key, service) => self.services.set_service(key, service),
            Update::EndpointSlice(key, slice) => self.services.set_slice(key, slice),
            Update::InSync => self.changes.in_sync |= !std::mem::replace(&mut self.in_sync, true),
            _ => {}
        }
    }

    /// What was touched since this was called last.
    pub fn take_changes(&mut self) -> Changes {
        self.changes.prefixes.append(&mut self.services.take_changed());
        std::mem::take(&mut self.changes)
    }

    /// Takes over which peers are reached through which gateway.
    pub fn set_gateways(&mut self, gateways: BTreeMap<IpAddr, IpAddr>) {
        if self.gateways != gateways {
            self.gateways = gateways;
            self.changes.all_routes = true;
        }
    }

    /// Takes over which router is at the other end of each link.
    pub fn set_routers(&mut self, routers: BTreeMap<String, PeerKey>) {
        self.changes.peers |= self.routers != routers;
        self.routers = routers;
    }

    /// The encapsulation of a pool concerns the ways of its routes only; no route goes or comes for it.
    fn set_pool(&mut self, name: String, pool: Option<IpPool>) {
        let announced = |pool: &IpPool| (pool.cidr, pool.disable_bgp_export);
        let same = self.pools.get(&name).map(announced) == pool.as_ref().map(announced);
        if !set(&mut self.pools, name, pool) {
            return;
        }
        if same {
            self.changes.ways = true;
        } else {
            self.pool_index = PoolIndex::new(self.pools.values());
            self.changes.everything(true);
        }
    }

    fn set_node(&mut self, name: NodeName, node: Option<Node>) {
        let own = name == self.node_name;
        let sessions = !own && self.concerns_sessions(self.nodes.get(&name), node.as_ref());
        if !set(&mut self.nodes, name.clone(), node) {
            return;
        }
        if sessions {
            self.changes.nodes.insert(name);
        }
        if own {
            self.changes.peers = true;
            let label = self.node().and_then(|node| node.labels.get(EXCLUDED));
            let excluded = label.is_some_and(|value| value == "true");
            self.services.exclude(excluded);
            self.changes.all_routes = true;
        }
    }

    /// Whether a change of another node may change who peers with whom. What else a node tells of itself, such as the
    /// address of its tunnel, comes once from every node of a cluster that starts.
    fn concerns_sessions(&self, old: Option<&Node>, new: Option<&Node>) -> bool {
        let (Some(old), Some(new)) = (old, new) else { return true };
        let sessions = |n: &Node| (n.ipv4, n.ipv6, n.as_number, n.route_reflector_cluster_id);
        let selects = |peer: &BgpPeer| {
            let selector = matches!(peer.nodes, PeerSelection::Selector(_));
            selector || matches!(peer.target, PeerTarget::Nodes(_))
        };
        sessions(old) != sessions(new) || (old.labels != new.labels && self.peers.values().any(selects))
    }

    fn set_block(&mut self, cidr: Cidr, block: Option<&Block>) {
        let node = self.node_name.as_str();
        let allocated = block.filter(|b| !b.deleted).into_iter().flat_map(Block::allocated);
        let ours = allocated.filter(|(_, attributes)| {
            attributes.released_at.is_none()
                && attributes.secondary.get("node").is_some_and(|owner| owner == node)
        });
        let ours = ours.map(|(address, attributes)| (address, interface(attributes)));
        let changed = self.own_addresses.set(cidr, ours.collect());
        self.changes.prefixes.extend(changed.into_iter().map(Prefix::host));
    }

    /// This node, once it is known.
    pub fn node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// Where this node listens: on every address, or on its own ones alone.
    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        let port = self.configuration.listen_port;
        let own = self.node().filter(|_| self.configuration.listen_on_node_addresses);
        let addresses: Vec<IpAddr> = match own {
            Some(node) => {
                let own = [node.ipv4, node.ipv6].into_iter().flatten().map(|a| a.address);
                own.chain(self.configuration.local_workload_peering()).collect()
            }
            None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
        };
        addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
    }

    /// Blocks that this node owns: its confirmed affinities.
    pub fn own_blocks(&self) -> impl Iterator<Item = Cidr> + '_ {
        let confirmed = |a: &&BlockAffinity| a.state == AffinityState::Confirmed;
        self.affinities.values().filter(confirmed).map(|a| a.cidr)
    }

    /// Does this node own the block?
    pub fn is_own_block(&self, cidr: Cidr) -> bool {
        self.affinities.get(&cidr).is_some_and(|a| a.state == AffinityState::Confirmed)
    }

    /// Addresses that this node's endpoints hold, with the block that each is from.
    pub fn own_addresses(&self) -> impl Iterator<Item = (IpAddr, Cidr)> + '_ {
        self.own_addresses.by_address.iter().map(|(address, held)| (*address, held.block))
    }

    /// An address that an endpoint of this node holds.
    pub fn own_address(&self, address: IpAddr) -> Option<&OwnAddress> {
        self.own_addresses.by_address.get(&address)
    }

    /// The smallest pool that a prefix is in.
    pub fn pool_of(&self, cidr: Cidr) -> Option<&IpPool> {
        self.pool_index.name_of(cidr).and_then(|name| self.pools.get(name))
    }

    /// Prefixes that the node announces, or whose announcement it once considered: all that a change of
    /// everything may touch.
    pub fn announceable(&self) -> BTreeSet<Prefix> {
        let addresses = self.own_addresses().map(|(address, _)| Prefix::host(address));
        self.own_blocks().map(prefix).chain(addresses).chain(self.services.announced()).collect()
    }
}

/// Where an address of an endpoint of this node comes from, and where packets to it go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    pub block: Cidr,
    /// Host side of the pod's veth, or the tunnel.
    pub interface: Option<Arc<str>>,
}

/// The interface that packets to an allocated address leave through.
fn interface(attributes: &AllocationAttributes) -> Option<Arc<str>> {
    let text = |key: &str| attributes.secondary.get(key).map(String::as_str);
    match (text("namespace"), text("pod"), text("type")) {
        (Some(namespace), Some(pod), _) => Some(pod_interface(&PodKey::new(namespace, pod)).into()),
        (_, _, Some("ipipTunnelAddress")) => Some("tunl0".into()),
        (_, _, Some("vxlanTunnelAddress")) => Some("vxlan.calico".into()),
        (_, _, Some("vxlanV6TunnelAddress")) => Some("vxlan-v6.calico".into()),
        _ => None,
    }
}

/// The host side of a pod's interface.
pub(crate) fn pod_interface(pod: &PodKey) -> String {
    host_interface_name(POD_INTERFACES, pod)
}

/// How names of the host side of pods' interfaces begin.
pub const POD_INTERFACES: &str = "cali";

/// Addresses of this node's endpoints.
#[derive(Clone, Debug, Default)]
struct OwnAddresses {
    by_block: BTreeMap<Cidr, BTreeSet<IpAddr>>,
    by_address: BTreeMap<IpAddr, OwnAddress>,
}

impl OwnAddresses {
    /// Takes over what a block says. Gives back the addresses that came, went or changed hands.
    fn set(&mut self, block: Cidr, new: BTreeMap<IpAddr, Option<Arc<str>>>) -> Vec<IpAddr> {
        let addresses: BTreeSet<IpAddr> = new.keys().copied().collect();
        let old = match addresses.is_empty() {
            true => self.by_block.remove(&block),
            false => self.by_block.insert(block, addresses),
        };
        let mut changed = Vec::new();
        for gone in old.into_iter().flatten().filter(|address| !new.contains_key(address)) {
            self.by_address.remove(&gone);
            changed.push(gone);
        }
        for (address, interface) in new {
            let held = OwnAddress { block, interface };
            if self.by_address.get(&address) != Some(&held) {
                self.by_address.insert(address, held);
                changed.push(address);
            }
        }
        changed
    }
}

/// Pools by range: the smallest around a prefix is found by one lookup for each length that occurs.
#[derive(Clone, Debug, Default)]
struct PoolIndex {
    by_cidr: BTreeMap<Cidr, String>,
    /// Longest first.
    lengths: Vec<u8>,
}

impl PoolIndex {
    fn new<'a>(pools: impl Iterator<Item = &'a IpPool>) -> Self {
        let by_cidr: BTreeMap<_, _> = pools.map(|pool| (pool.cidr, pool.name.clone())).collect();
        let lengths: BTreeSet<u8> = by_cidr.keys().map(|cidr| cidr.length()).collect();
        Self { by_cidr, lengths: lengths.into_iter().rev().collect() }
    }

    fn name_of(&self, cidr: Cidr) -> Option<&String> {
        let lengths = self.lengths.iter().filter(|length| **length <= cidr.length());
        let around = lengths.filter_map(|length| Cidr::truncated(cidr.address(), *length));
        around.into_iter().find_map(|around| self.by_cidr.get(&around))
    }
}

fn set<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    if map.get(&key) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
    true
}
