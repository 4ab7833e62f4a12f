//! Blocks and claims that are of no use.

use std::collections::{BTreeMap, BTreeSet};

use model::{AffinityState, Block, BlockAffinity, Cidr, Family, IpPool, NodeName};

use super::gone::is_question;
use super::take_back::rests_over;
use crate::affinity::{BlockInUse, release_affinity};
use crate::block::{end_rests, is_empty};
use crate::snapshot::{Snapshot, Step};

/// An empty block of a node that has others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spare {
    pub cidr: Cidr,
    /// It was empty at this state of the block; any write makes another.
    pub sequence_number: u64,
}

/// Is everything in a block free, or has rested for long enough? `now` in nanoseconds since the epoch, `cooldown` in
/// seconds.
pub fn is_idle(block: &Block, now: u64, cooldown: u64) -> bool {
    is_empty(block) || end_rests(block, now, cooldown).is_some_and(|after| is_empty(&after))
}

/// The next step to give up a block of this node's that [`spare_blocks`] named; one that is in use again is kept.
/// `now` in nanoseconds since the epoch.
pub fn release_spare(snapshot: &Snapshot, cidr: Cidr, now: u64) -> Step<(), BlockInUse> {
    rests_over(snapshot, cidr, now).unwrap_or_else(|| release_affinity(snapshot, cidr, true))
}

/// Empty blocks that a node may give up: all but one of each family, and those that no pool covers any more.
pub fn spare_blocks<'a>(
    node: &NodeName,
    blocks: impl IntoIterator<Item = &'a Block>,
    pools: &[IpPool],
    is_empty: impl Fn(&Block) -> bool,
) -> Vec<Spare> {
    let mut keeps: BTreeSet<Family> = BTreeSet::new();
    let mut empty = Vec::new();
    for block in blocks.into_iter().filter(|block| block.affinity.as_ref() == Some(node)) {
        let is_in_pool = pools.iter().any(|pool| pool.cidr.covers(block.cidr));
        if !is_empty(block) {
            keeps.insert(block.cidr.family());
        } else {
            empty.push((is_in_pool, Spare { cidr: block.cidr, sequence_number: block.sequence_number }));
        }
    }
    // The first that is empty stays when no other does.
    empty.retain(|(is_in_pool, spare)| !is_in_pool || !keeps.insert(spare.cidr.family()));
    empty.into_iter().map(|(_, spare)| spare).collect()
}

/// A node's claims on blocks that are not there or another node's, and those that were never finished.
pub fn stale_claims<'a>(
    affinities: impl IntoIterator<Item = &'a BlockAffinity>,
    owners: &BTreeMap<Cidr, Option<NodeName>>,
) -> Vec<(Cidr, AffinityState)> {
    let is_stale = |affinity: &&BlockAffinity| {
        let owner = owners.get(&affinity.cidr).and_then(Option::as_ref);
        !is_question(affinity.cidr)
            && (owner != Some(&affinity.node) || affinity.state != AffinityState::Confirmed)
    };
    affinities.into_iter().filter(is_stale).map(|affinity| (affinity.cidr, affinity.state)).collect()
}

/// Empty blocks that nobody owns: whoever released the last address died before deleting them, or their pool is
/// gone.
pub fn unowned_blocks<'a>(
    blocks: impl IntoIterator<Item = &'a Block>,
    is_empty: impl Fn(&Block) -> bool,
) -> Vec<Spare> {
    let is_unowned = |block: &&Block| block.affinity.is_none() && is_empty(block);
    let spare = |block: &Block| Spare { cidr: block.cidr, sequence_number: block.sequence_number };
    blocks.into_iter().filter(is_unowned).map(spare).collect()
}
