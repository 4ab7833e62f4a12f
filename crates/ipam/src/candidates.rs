//! Which blocks of a pool a node tries first.

use model::{Cidr, IpPool, NodeName};

/// The blocks of a pool, each once, in an order of the node's own, so that nodes that start together do not fight
/// for the same ones, not even for the next ones. At most `limit`.
pub(crate) fn blocks(pool: &IpPool, node: &NodeName, limit: usize) -> impl Iterator<Item = Cidr> {
    let (cidr, size) = (pool.cidr, pool.block_size);
    let bits = u32::from(size.saturating_sub(cidr.length())).min(64);
    let total = if size < cidr.length() { 0 } else { 1_u128 << bits };
    let host_bits = u32::from(cidr.family().bits() - size);
    let seed = fnv64(node.as_str());
    // An odd stride meets every one of a power of two.
    let (first, stride) = (u128::from(mixed(seed)), u128::from(mixed(!seed) | 1));
    (0..total.min(limit as u128)).filter_map(move |step| {
        let index = (first + step * stride) % total;
        let offset = index.checked_shl(host_bits)?;
        Cidr::truncated(cidr.nth(offset)?, size)
    })
}

/// Blocks looked at in one pool; a pool has more only when it is IPv6, and then it is not full.
pub(crate) const MOST: usize = 1 << 20;

/// How many blocks a pool has, as far as that can be counted.
pub(crate) fn count(pool: &IpPool) -> u128 {
    if pool.block_size < pool.cidr.length() {
        return 0;
    }
    1_u128 << u32::from(pool.block_size - pool.cidr.length()).min(64)
}

/// FNV-1a, 64 bits: spreads names over places where nobody gains by choosing one.
pub fn fnv64(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Spreads the low bits, too (the finalizer of `splitmix64`).
fn mixed(seed: u64) -> u64 {
    let x = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1, 32 bits.
pub(crate) fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::{AllowedUse, AssignmentMode, EncapMode, Selector};

    use super::*;

    fn pool(cidr: &str, block_size: u8) -> IpPool {
        IpPool {
            name: "p".to_owned(),
            cidr: cidr.parse().unwrap(),
            ipip_mode: EncapMode::Never,
            vxlan_mode: EncapMode::Never,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            block_size,
            node_selector: Selector::all(),
            namespace_selector: Selector::all(),
            allowed_uses: vec![AllowedUse::Workload],
            assignment_mode: AssignmentMode::Automatic,
            deleting: false,
            created: 0,
        }
    }

    #[test]
    fn every_block_is_tried_once_from_a_place_of_the_nodes_own() {
        let pool = pool("10.0.0.0/24", 26);
        let of = |node: &str| blocks(&pool, &node.into(), usize::MAX).collect::<Vec<_>>();

        let expected: BTreeSet<Cidr> = ["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26", "10.0.0.192/26"]
            .map(|text| text.parse().unwrap())
            .into();
        for node in ["a", "b", "c", "d"] {
            assert_eq!(of(node).len(), 4);
            assert_eq!(of(node).into_iter().collect::<BTreeSet<_>>(), expected);
        }
        assert_ne!(of("a")[0], of("b")[0]);
    }

    #[test]
    fn huge_and_tiny_pools_are_walked_without_overflow() {
        assert_eq!(blocks(&pool("::/0", 128), &"a".into(), 3).count(), 3);
        assert_eq!(blocks(&pool("fd00::/48", 122), &"a".into(), 3).count(), 3);
        assert_eq!(blocks(&pool("10.0.0.0/26", 26), &"a".into(), 9).count(), 1);
        assert_eq!(blocks(&pool("10.0.0.0/27", 26), &"a".into(), 9).count(), 0);
        assert_eq!(blocks(&pool("10.0.0.0/30", 32), &"a".into(), 9).count(), 4);
    }
}
