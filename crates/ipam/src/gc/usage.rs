//! How full pools and blocks are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{Block, Cidr, IpPool, NodeName};

use super::allocation::{Allocation, User, allocations};

/// Addresses of a pool or a block by what they are used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many there are.
    pub total: u128,
    /// Given out to pods, containers, tunnels and others.
    pub in_use: u128,
    /// Kept ready by a node for its next pods.
    pub reserved: u128,
    /// Released, and resting before they are given out again.
    pub resting: u128,
    /// Of those in use, how many by another node than the block's owner.
    pub borrowed: u128,
    /// Free, but kept back by an IPReservation ([`withhold`]).
    pub withheld: u128,
    pub blocks: usize,
}

impl Usage {
    pub fn free(&self) -> u128 {
        self.total.saturating_sub(self.in_use + self.reserved + self.resting + self.withheld)
    }

    /// How much of what can be given out is given out or kept, in percent.
    pub fn percent_used(&self) -> f64 {
        percent(self.in_use + self.reserved + self.resting, self.total.saturating_sub(self.withheld))
    }

    /// One block.
    pub fn of(block: &Block) -> Self {
        let mut usage = Self { total: size(block.cidr), blocks: 1, ..Self::default() };
        allocations(block).for_each(|allocation| usage.count(&allocation));
        usage
    }

    fn count(&mut self, allocation: &Allocation) {
        match allocation.user {
            _ if allocation.is_cooling => self.resting += 1,
            User::Reserved => self.reserved += 1,
            _ => {
                self.in_use += 1;
                self.borrowed += u128::from(allocation.is_borrowed());
            }
        }
    }

    fn add(&mut self, other: &Usage) {
        self.in_use += other.in_use;
        self.reserved += other.reserved;
        self.resting += other.resting;
        self.borrowed += other.borrowed;
        self.blocks += other.blocks;
    }
}

/// A pool and its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// `None`: blocks that no pool covers.
    pub pool: Option<(String, Cidr)>,
    pub usage: Usage,
    pub blocks: Vec<(Cidr, Usage)>,
}

/// Every pool in the given order, then blocks without one.
pub fn usage<'a>(pools: &[IpPool], blocks: impl IntoIterator<Item = &'a Block>) -> Vec<PoolUsage> {
    let empty = |pool: &IpPool| PoolUsage {
        pool: Some((pool.name.clone(), pool.cidr)),
        usage: Usage { total: size(pool.cidr), ..Usage::default() },
        blocks: Vec::new(),
    };
    let mut all: Vec<PoolUsage> = pools.iter().map(empty).collect();
    let mut orphans = PoolUsage { pool: None, usage: Usage::default(), blocks: Vec::new() };
    for block in blocks {
        let usage = Usage::of(block);
        let home = all.iter_mut().find(|pool| pool.pool.as_ref().is_some_and(|(_, c)| c.covers(block.cidr)));
        let place = match home {
            Some(pool) => pool,
            None => {
                orphans.usage.total += usage.total;
                &mut orphans
            }
        };
        place.usage.add(&usage);
        place.blocks.push((block.cidr, usage));
    }
    if !orphans.blocks.is_empty() {
        all.push(orphans);
    }
    all
}

/// Takes note of what IPReservations keep back.
pub fn withhold<'a>(
    usages: &mut [PoolUsage],
    reservations: &[Cidr],
    blocks: impl IntoIterator<Item = &'a Block>,
) {
    // Ranges are within one another or apart: of those within another nothing is counted.
    let mut ranges: Vec<Cidr> = reservations.to_vec();
    ranges.sort_unstable();
    ranges.dedup();
    let all = ranges.clone();
    ranges.retain(|range| !all.iter().any(|other| other != range && other.covers(*range)));
    if ranges.is_empty() {
        return;
    }
    let given = blocks.into_iter().flat_map(allocations).map(|allocation| allocation.address);
    let given: Vec<IpAddr> =
        given.filter(|address| ranges.iter().any(|range| range.contains(*address))).collect();
    let within = |cidr: Cidr| {
        let parts = ranges.iter().filter(|range| range.overlaps(cidr));
        let parts: u128 = parts.map(|range| size(*range).min(size(cidr))).fold(0, u128::saturating_add);
        parts.saturating_sub(given.iter().filter(|address| cidr.contains(**address)).count() as u128)
    };
    for pool in usages {
        if let Some((_, cidr)) = &pool.pool {
            pool.usage.withheld = within(*cidr);
        }
        for (cidr, usage) in &mut pool.blocks {
            usage.withheld = within(*cidr);
        }
    }
}

/// What each node has of each pool: addresses by the node that uses them, blocks by their owner. Without a name:
/// blocks of no pool, and what is of no node.
pub fn usage_by_node<'a>(
    pools: &[IpPool],
    blocks: impl IntoIterator<Item = &'a Block>,
) -> BTreeMap<(String, String), Usage> {
    let mut all: BTreeMap<(String, String), Usage> = BTreeMap::new();
    for block in blocks {
        let pool = pools.iter().find(|pool| pool.cidr.covers(block.cidr)).map_or("", |pool| &pool.name);
        let key =
            |node: Option<&NodeName>| (pool.to_owned(), node.map_or(String::new(), ToString::to_string));
        all.entry(key(block.affinity.as_ref())).or_default().blocks += 1;
        for allocation in allocations(block) {
            all.entry(key(allocation.node.as_ref())).or_default().count(&allocation);
        }
    }
    all
}

/// A part of a whole in percent; of nothing it is nothing.
pub(crate) fn percent(part: u128, whole: u128) -> f64 {
    // The numbers are shown, nothing is decided by their last digits.
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn size(cidr: Cidr) -> u128 {
    1_u128.checked_shl(u32::from(cidr.family().bits() - cidr.length())).unwrap_or(u128::MAX)
}
