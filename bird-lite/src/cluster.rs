//! What the cluster says now. Owns the newest state of every object that matters to BGP.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{
    AffinityState, BgpConfiguration, BgpPeer, Block, BlockAffinity, Cidr, IpPool, Node, NodeName, Update,
};

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// This node.
    pub node_name: NodeName,
    /// Every kind has been listed once.
    pub in_sync: bool,
    pub nodes: BTreeMap<NodeName, Node>,
    pub pools: BTreeMap<String, IpPool>,
    pub blocks: BTreeMap<Cidr, Block>,
    /// Affinities of this node.
    pub affinities: BTreeMap<Cidr, BlockAffinity>,
    pub configuration: BgpConfiguration,
    pub peers: BTreeMap<String, BgpPeer>,
}

impl Cluster {
    /// Nothing is known yet.
    pub fn new(node_name: NodeName) -> Self {
        Self {
            node_name,
            in_sync: false,
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            blocks: BTreeMap::new(),
            affinities: BTreeMap::new(),
            configuration: BgpConfiguration::default(),
            peers: BTreeMap::new(),
        }
    }

    /// Takes in one update. Gives back whether it can matter.
    pub fn apply(&mut self, update: Update) -> bool {
        match update {
            Update::Node(name, node) => set(&mut self.nodes, name, node),
            Update::Pool(name, pool) => set(&mut self.pools, name, pool),
            Update::Block(cidr, block) => {
                let block = block.map(|b| *b).filter(|b| !b.deleted);
                set(&mut self.blocks, cidr, block)
            }
            Update::BlockAffinity(node, cidr, affinity) => {
                node == self.node_name && set(&mut self.affinities, cidr, affinity.filter(|a| !a.deleted))
            }
            Update::BgpConfiguration(configuration) => {
                let new = configuration.unwrap_or_default();
                let changed = new != self.configuration;
                self.configuration = new;
                changed
            }
            Update::BgpPeer(name, peer) => set(&mut self.peers, name, peer),
            Update::InSync => !std::mem::replace(&mut self.in_sync, true),
            _ => false,
        }
    }

    /// This node, once it is known.
    pub fn node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// Blocks that this node owns: its confirmed affinities.
    pub fn own_blocks(&self) -> impl Iterator<Item = Cidr> + '_ {
        let confirmed = |a: &&BlockAffinity| a.state == AffinityState::Confirmed;
        self.affinities.values().filter(confirmed).map(|a| a.cidr)
    }

    /// Addresses that this node's endpoints hold, with the block that each is from.
    pub fn own_addresses(&self) -> impl Iterator<Item = (IpAddr, Cidr)> + '_ {
        self.blocks.values().flat_map(move |block| {
            let ours = block.allocated().filter(|(_, attributes)| {
                let node = attributes.secondary.get("node").map(String::as_str);
                node == Some(self.node_name.as_str()) && attributes.released_at.is_none()
            });
            ours.map(|(address, _)| (address, block.cidr))
        })
    }

    /// The smallest pool that a prefix is in.
    pub fn pool_of(&self, cidr: Cidr) -> Option<&IpPool> {
        self.pools.values().filter(|p| p.cidr.covers(cidr)).max_by_key(|p| p.cidr.length())
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
