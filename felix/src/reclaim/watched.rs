//! What the datastore says of this node's addresses, kept as small as may be.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipam::gc::{Allocation, Spare, User, allocations, is_question, spare_blocks, stale_claims};
use model::{AffinityState, Block, BlockAffinity, Cidr, IpPool, IpamConfiguration, NodeName, PodKey, Update};

/// See the module.
pub struct Watched {
    node: NodeName,
    /// Addresses of whatever block that name this node.
    own: BTreeMap<Cidr, Vec<Allocation>>,
    /// Blocks of this node.
    blocks: BTreeMap<Cidr, Block>,
    /// Owners of all blocks.
    owners: BTreeMap<Cidr, Option<NodeName>>,
    claims: BTreeMap<Cidr, BlockAffinity>,
    /// Pods of this node: UID and addresses.
    pods: BTreeMap<PodKey, (String, Vec<IpAddr>)>,
    pools: BTreeMap<String, IpPool>,
    configuration: IpamConfiguration,
    has_node: bool,
}

impl Watched {
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            own: BTreeMap::new(),
            blocks: BTreeMap::new(),
            owners: BTreeMap::new(),
            claims: BTreeMap::new(),
            pods: BTreeMap::new(),
            pools: BTreeMap::new(),
            configuration: IpamConfiguration::default(),
            has_node: false,
        }
    }

    /// Notes what an update says.
    pub fn observe(&mut self, update: &Update) {
        match update {
            Update::Block(cidr, block) => self.block(*cidr, block.as_deref()),
            Update::BlockAffinity(node, cidr, claim) if *node == self.node => {
                match claim {
                    Some(claim) => self.claims.insert(*cidr, claim.clone()),
                    None => self.claims.remove(cidr),
                };
            }
            Update::Pod(key, pod) => {
                match pod.as_ref().filter(|pod| pod.node.as_ref() == Some(&self.node)) {
                    Some(pod) => self.pods.insert(key.clone(), (pod.uid.clone(), pod.addresses.clone())),
                    None => self.pods.remove(key),
                };
            }
            Update::Pool(name, pool) => {
                match pool {
                    Some(pool) => self.pools.insert(name.clone(), pool.clone()),
                    None => self.pools.remove(name),
                };
            }
            Update::IpamConfiguration(configuration) => {
                self.configuration = configuration.clone().unwrap_or_default();
            }
            Update::Node(name, node) if *name == self.node => self.has_node = node.is_some(),
            _ => {}
        }
    }

    fn block(&mut self, cidr: Cidr, block: Option<&Block>) {
        self.own.remove(&cidr);
        self.blocks.remove(&cidr);
        self.owners.remove(&cidr);
        let Some(block) = block else { return };
        self.owners.insert(cidr, block.affinity.clone());
        let own: Vec<_> = allocations(block).filter(|a| a.node.as_ref() == Some(&self.node)).collect();
        if !own.is_empty() {
            self.own.insert(cidr, own);
        }
        if block.affinity.as_ref() == Some(&self.node) {
            self.blocks.insert(cidr, block.clone());
        }
    }

    /// Addresses that name this node.
    pub fn own(&self) -> impl Iterator<Item = &Allocation> {
        self.own.values().flatten()
    }

    /// Does a Pod of this node have this address, as the watch tells?
    pub fn has_pod(&self, allocation: &Allocation) -> bool {
        let User::Pod { key, uid } = &allocation.user else { return false };
        self.pods.get(key).is_some_and(|(present, addresses)| {
            uid.as_ref().is_none_or(|uid| uid == present) && addresses.contains(&allocation.address)
        })
    }

    /// Is a Pod with this UID on this node? An empty UID means any.
    pub fn knows_pod(&self, key: &PodKey, uid: &str) -> bool {
        self.pods.get(key).is_some_and(|(present, _)| uid.is_empty() || uid == present)
    }

    /// Somebody asks whether this node lives.
    pub fn is_asked(&self) -> bool {
        self.claims.keys().any(|cidr| is_question(*cidr))
    }

    /// The API server has a Node of this name.
    pub fn has_node(&self) -> bool {
        self.has_node
    }

    /// Empty blocks of this node that it need not keep.
    pub fn spare(&self, is_empty: impl Fn(&Block) -> bool) -> Vec<Spare> {
        let pools: Vec<IpPool> = self.pools.values().cloned().collect();
        spare_blocks(&self.node, self.blocks.values(), &pools, is_empty)
    }

    /// Claims of this node that were never finished, or whose block is not its own.
    pub fn stale_claims(&self) -> Vec<(Cidr, AffinityState)> {
        stale_claims(self.claims.values(), &self.owners)
    }

    /// Seconds for which a released address rests.
    pub fn cooldown(&self) -> u64 {
        self.configuration.cooldown
    }
}
