//! IPAM records: blocks, affinities, handles. The rules by which they change are `crates/ipam`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::{Cidr, NodeName};

/// Who an address was given to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocationAttributes {
    pub handle: Option<String>,
    /// `node`, `namespace`, `pod`, `uid`, `interface`, `timestamp`, `type`: the names are constants of `crates/ipam`.
    pub secondary: BTreeMap<String, String>,
    /// Seconds since the epoch when it was released and its cool-down began: nobody's, but not free yet.
    pub released_at: Option<u64>,
}

/// `IPAMBlock`: a range of addresses and who holds each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub cidr: Cidr,
    /// The node that takes addresses from it first and announces it; `None` when nobody owns it.
    pub affinity: Option<NodeName>,
    /// One entry an address: index into `attributes`, or free.
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals, the one to take next first.
    pub unallocated: Vec<usize>,
    pub attributes: Vec<AllocationAttributes>,
    /// Grows with every write.
    pub sequence_number: u64,
    /// By ordinal: the block's sequence number when that address was given out.
    pub sequence_number_for_allocation: BTreeMap<usize, u64>,
    /// Marked for deletion: reads as absent.
    pub deleted: bool,
}

impl Block {
    /// Every address that is given out, with its attributes; those that rest after their release are not.
    pub fn allocated(&self) -> impl Iterator<Item = (IpAddr, &AllocationAttributes)> {
        self.taken().filter(|(_, attributes)| attributes.released_at.is_none())
    }

    /// Every address that was released and rests before it is given out again, with its former attributes.
    pub fn resting(&self) -> impl Iterator<Item = (IpAddr, &AllocationAttributes)> {
        self.taken().filter(|(_, attributes)| attributes.released_at.is_some())
    }

    fn taken(&self) -> impl Iterator<Item = (IpAddr, &AllocationAttributes)> {
        self.allocations.iter().enumerate().filter_map(|(ordinal, index)| {
            let attributes = self.attributes.get((*index)?)?;
            Some((self.cidr.nth(ordinal as u128)?, attributes))
        })
    }
}

/// How far a node's claim on a block has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AffinityState {
    /// Claimed, the block is perhaps not written yet.
    Pending,
    #[default]
    Confirmed,
    PendingDeletion,
}

/// `BlockAffinity`: a node's claim on a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockAffinity {
    pub node: NodeName,
    pub cidr: Cidr,
    pub state: AffinityState,
    pub deleted: bool,
}

/// `IPAMHandle`: how many addresses of each block one owner holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    pub id: String,
    pub blocks: BTreeMap<Cidr, u32>,
    pub deleted: bool,
}

/// `IPAMConfiguration` named `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpamConfiguration {
    /// Never take addresses from another node's block.
    pub strict_affinity: bool,
    pub auto_allocate_blocks: bool,
    /// 0 means the built-in limit of 20.
    pub max_blocks_per_host: u32,
    /// Seconds for which a released address rests before it is given out again.
    pub cooldown: u64,
}

/// Seconds for which a released address rests unless the configuration says otherwise.
pub const DEFAULT_COOLDOWN: u64 = 60;

impl Default for IpamConfiguration {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            cooldown: DEFAULT_COOLDOWN,
        }
    }
}
