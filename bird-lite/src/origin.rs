//! What this node announces by itself. Owns which blocks and addresses, and how preferred they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_packet::{Family, NextHop, PathAttributes, Prefix};

use crate::cluster::Cluster;
use crate::convert::prefix;

/// Kernel metric of a route that nothing says another one of.
pub const NORMAL_PRIORITY: u32 = 1024;
/// A kernel metric and LOCAL_PREF add up to this, so that they mirror each other.
pub const PREFERENCE_SUM: u32 = 2_147_483_647;

/// The routes that this node originates: its blocks whole, and single addresses that its endpoints hold in
/// blocks of others.
pub fn origins(cluster: &Cluster) -> BTreeMap<Prefix, PathAttributes> {
    let blocks: BTreeSet<_> = cluster.own_blocks().collect();
    let borrowed = cluster.own_addresses().filter(|(_, block)| !blocks.contains(block));
    let borrowed = borrowed.map(|(address, _)| Prefix::host(address));
    let all = blocks.iter().map(|block| prefix(*block)).chain(borrowed);
    all.map(|prefix| (prefix, attributes(prefix))).collect()
}

fn attributes(prefix: Prefix) -> PathAttributes {
    let unspecified = match prefix.family() {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut attributes = PathAttributes::new(NextHop::from(unspecified));
    attributes.local_pref = Some(PREFERENCE_SUM - NORMAL_PRIORITY);
    attributes
}
