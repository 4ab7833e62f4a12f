//! What people say about addresses: pools, reservations, the configuration, labels of the node.

use std::net::IpAddr;

use model::{Cidr, IpPool, IpamConfiguration, Labels};

/// Settings as far as they concern one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// In order of names.
    pub pools: Vec<IpPool>,
    pub configuration: IpamConfiguration,
    pub node_labels: Labels,
    /// IPReservations: none of these addresses is given to anybody who does not ask for it.
    pub reservations: Vec<Cidr>,
}

impl Settings {
    /// The pool that an address is in; of pools that overlap the one that counts.
    pub fn pool_of(&self, address: IpAddr) -> Option<&IpPool> {
        self.counting(self.pools.iter().filter(|pool| pool.cidr.contains(address)))
    }

    /// The pool that a block is part of.
    pub fn pool_around(&self, block: Cidr) -> Option<&IpPool> {
        self.counting(self.pools.iter().filter(|pool| pool.cidr.covers(block)))
    }

    fn counting<'a>(&self, pools: impl Iterator<Item = &'a IpPool>) -> Option<&'a IpPool> {
        pools.min_by_key(|pool| precedence(pool))
    }

    /// An older pool that shares addresses with this one: two pools would each give them out.
    pub fn overlapped_by(&self, pool: &IpPool) -> Option<&IpPool> {
        let is_older = |other: &&IpPool| precedence(other) < precedence(pool);
        self.pools.iter().filter(is_older).find(|other| other.cidr.overlaps(pool.cidr))
    }

    /// Does an IPReservation keep this address back?
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        self.reservations.iter().any(|reserved| reserved.contains(address))
    }

    /// Do IPReservations keep back every address of this block?
    pub fn is_all_reserved(&self, block: Cidr) -> bool {
        let near: Vec<&Cidr> = self.reservations.iter().filter(|reserved| reserved.overlaps(block)).collect();
        if near.is_empty() || near.iter().any(|reserved| reserved.covers(block)) {
            return !near.is_empty();
        }
        let size = 1_u128 << (block.family().bits() - block.length()).min(16);
        (0..size)
            .filter_map(|ordinal| block.nth(ordinal))
            .all(|address| near.iter().any(|reserved| reserved.contains(address)))
    }
}

/// Of pools that overlap, the one made first counts.
fn precedence(pool: &IpPool) -> (u64, &str) {
    (pool.created, &pool.name)
}
