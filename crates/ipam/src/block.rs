//! What happens inside one block: addresses given out and taken back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{AllocationAttributes, Block, Cidr, NodeName};

/// A new, empty block of `owner`.
///
/// `now` in nanoseconds since the epoch starts the sequence numbers, so that a block that is deleted and made
/// again never repeats one.
pub fn new_block(cidr: Cidr, owner: NodeName, now: u64) -> Block {
    let size = 1_usize << (cidr.family().bits() - cidr.length()).min(16);
    Block {
        cidr,
        affinity: Some(owner),
        allocations: vec![None; size],
        unallocated: (0..size).collect(),
        attributes: Vec::new(),
        sequence_number: now,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    }
}

/// Is no address given out?
pub fn is_empty(block: &Block) -> bool {
    block.allocations.iter().all(Option::is_none)
}

/// Addresses that one handle holds, in order.
pub fn held_by(block: &Block, handle: &str) -> Vec<IpAddr> {
    if !block.attributes.iter().any(|attributes| attributes.handle.as_deref() == Some(handle)) {
        return Vec::new();
    }
    block
        .allocated()
        .filter(|(_, attributes)| attributes.handle.as_deref() == Some(handle))
        .map(|(address, _)| address)
        .collect()
}

/// Who holds `address`; `None` when it is free or elsewhere.
pub fn holder(block: &Block, address: IpAddr) -> Option<&AllocationAttributes> {
    let index = (*block.allocations.get(ordinal(block, address)?)?)?;
    block.attributes.get(index)
}

/// The block after its next `count` free addresses were given out; fewer when there are fewer.
///
/// Addresses that were free for the longest time go first.
pub fn allocate(block: &Block, count: usize, attributes: &AllocationAttributes) -> Block {
    let mut block = block.clone();
    let count = count.min(block.unallocated.len());
    let ordinals: Vec<usize> = block.unallocated.drain(..count).collect();
    give(&mut block, &ordinals, attributes);
    block
}

/// The block after one address was given out; `None` when it is not free.
pub fn allocate_address(block: &Block, address: IpAddr, attributes: &AllocationAttributes) -> Option<Block> {
    let ordinal = ordinal(block, address)?;
    let mut block = block.clone();
    let position = block.unallocated.iter().position(|free| *free == ordinal)?;
    block.unallocated.remove(position);
    give(&mut block, &[ordinal], attributes);
    Some(block)
}

/// The block after everything that `handle` holds was taken back. Freed addresses queue up behind all others.
pub fn release_handle(block: &Block, handle: &str) -> Block {
    let of = |index: usize| block.attributes.get(index).and_then(|a| a.handle.as_deref());
    let taken = |entry: &Option<usize>| entry.is_some_and(|index| of(index) == Some(handle));
    let ordinals: Vec<usize> =
        block.allocations.iter().enumerate().filter(|(_, entry)| taken(entry)).map(|(i, _)| i).collect();
    release_ordinals(block, &ordinals)
}

/// The block after one address was taken back, and whether it was.
///
/// It is not when it is free, or held by another handle, or was given out under another sequence number: whoever
/// asks then speaks of an earlier owner.
pub fn release_address(
    block: &Block,
    address: IpAddr,
    handle: Option<&str>,
    sequence_number: Option<u64>,
) -> Result<Block, NotReleased> {
    let Some(attributes) = holder(block, address) else { return Err(NotReleased::Free) };
    if handle.is_some() && attributes.handle.as_deref() != handle {
        return Err(NotReleased::OtherHandle(attributes.handle.clone().unwrap_or_default()));
    }
    let ordinal = ordinal(block, address).ok_or(NotReleased::Free)?;
    let given = block.sequence_number_for_allocation.get(&ordinal).copied();
    if sequence_number.is_some() && given.is_some() && given != sequence_number {
        return Err(NotReleased::OtherSequenceNumber);
    }
    Ok(release_ordinals(block, &[ordinal]))
}

/// Why an address was not taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReleased {
    #[error("the address is free")]
    Free,
    #[error("the address belongs to handle {0}")]
    OtherHandle(String),
    #[error("the address was given out anew since")]
    OtherSequenceNumber,
}

fn ordinal(block: &Block, address: IpAddr) -> Option<usize> {
    usize::try_from(block.cidr.offset(address)?).ok()
}

/// Equal attributes are stored once.
fn give(block: &mut Block, ordinals: &[usize], attributes: &AllocationAttributes) {
    let found = block.attributes.iter().position(|known| known == attributes);
    let index = found.unwrap_or_else(|| {
        block.attributes.push(attributes.clone());
        block.attributes.len() - 1
    });
    block.sequence_number += 1;
    for ordinal in ordinals {
        block.allocations[*ordinal] = Some(index);
        block.sequence_number_for_allocation.insert(*ordinal, block.sequence_number);
    }
}

fn release_ordinals(block: &Block, ordinals: &[usize]) -> Block {
    let mut block = block.clone();
    for ordinal in ordinals {
        block.allocations[*ordinal] = None;
        block.unallocated.push(*ordinal);
        block.sequence_number_for_allocation.remove(ordinal);
    }
    block.sequence_number += 1;
    compact(&mut block);
    block
}

/// Drops attributes that no address has any more, and renumbers the others.
fn compact(block: &mut Block) {
    let mut renumbered = vec![None; block.attributes.len()];
    let mut kept = Vec::new();
    for entry in block.allocations.iter_mut().flatten() {
        let Some(slot) = renumbered.get_mut(*entry) else { continue };
        let index = *slot.get_or_insert_with(|| {
            kept.push(block.attributes[*entry].clone());
            kept.len() - 1
        });
        *entry = index;
    }
    block.attributes = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        new_block("10.0.0.0/30".parse().unwrap(), "a".into(), 100)
    }

    fn of(handle: &str) -> AllocationAttributes {
        AllocationAttributes { handle: Some(handle.to_owned()), ..AllocationAttributes::default() }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn freed_addresses_wait_behind_all_others() {
        let block = allocate(&block(), 2, &of("x"));
        assert_eq!(held_by(&block, "x"), [ip(0), ip(1)]);

        let block = release_handle(&block, "x");
        let block = allocate(&block, 1, &of("y"));

        assert_eq!(held_by(&block, "y"), [ip(2)]);
        assert_eq!(block.unallocated, [3, 0, 1]);
        assert_eq!(block.attributes, [of("y")]);
        assert_eq!(block.sequence_number, 103);
    }

    #[test]
    fn attributes_are_shared_and_renumbered() {
        let block = allocate(&block(), 1, &of("x"));
        let block = allocate(&block, 2, &of("y"));
        assert_eq!(block.attributes.len(), 2);

        let block = release_handle(&block, "x");

        assert_eq!(block.allocations, [None, Some(0), Some(0), None]);
        assert_eq!(block.attributes, [of("y")]);
    }

    #[test]
    fn an_address_in_use_cannot_be_given_out_again() {
        let block = allocate_address(&block(), ip(2), &of("x")).unwrap();

        assert_eq!(allocate_address(&block, ip(2), &of("y")), None);
        assert_eq!(allocate_address(&block, IpAddr::from([10, 0, 1, 0]), &of("y")), None);
        assert_eq!(holder(&block, ip(2)), Some(&of("x")));
        assert_eq!(block.unallocated, [0, 1, 3]);
    }

    #[test]
    fn only_the_owner_it_was_given_to_releases_an_address() {
        let block = allocate(&block(), 1, &of("x"));
        let number = block.sequence_number_for_allocation[&0];

        assert_eq!(release_address(&block, ip(1), None, None), Err(NotReleased::Free));
        assert_eq!(
            release_address(&block, ip(0), Some("y"), None),
            Err(NotReleased::OtherHandle("x".to_owned()))
        );
        assert_eq!(release_address(&block, ip(0), Some("x"), Some(1)), Err(NotReleased::OtherSequenceNumber));
        assert!(is_empty(&release_address(&block, ip(0), Some("x"), Some(number)).unwrap()));
    }
}
