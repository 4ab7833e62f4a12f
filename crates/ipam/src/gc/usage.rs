//! How full pools and blocks are.

use model::{Block, Cidr, IpPool};

use super::allocation::{User, allocations};

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
    pub blocks: usize,
}

impl Usage {
    pub fn free(&self) -> u128 {
        self.total.saturating_sub(self.in_use + self.reserved + self.resting)
    }

    /// How much of it is given out or kept, in percent.
    pub fn percent_used(&self) -> f64 {
        percent(self.total - self.free(), self.total)
    }

    /// One block.
    pub fn of(block: &Block) -> Self {
        let mut usage = Self { total: size(block.cidr), blocks: 1, ..Self::default() };
        for allocation in allocations(block) {
            match allocation.user {
                _ if allocation.is_cooling => usage.resting += 1,
                User::Reserved => usage.reserved += 1,
                _ => {
                    usage.in_use += 1;
                    usage.borrowed += u128::from(allocation.is_borrowed());
                }
            }
        }
        usage
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

/// A part of a whole in percent; of nothing it is nothing.
pub(crate) fn percent(part: u128, whole: u128) -> f64 {
    // The numbers are shown, nothing is decided by their last digits.
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn size(cidr: Cidr) -> u128 {
    1_u128.checked_shl(u32::from(cidr.family().bits() - cidr.length())).unwrap_or(u128::MAX)
}
