//! What happens inside one block: addresses given out and taken back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{AllocationAttributes, Block, Cidr, NodeName};

use crate::Settings;

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

/// Is every address free? One that rests after its release is not.
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

/// Who holds `address`, or held it until it began to rest; `None` when it is free or elsewhere.
pub fn holder(block: &Block, address: IpAddr) -> Option<&AllocationAttributes> {
    let index = (*block.allocations.get(ordinal(block, address)?)?)?;
    block.attributes.get(index)
}

/// From when on a released address rests: seconds since the epoch, rounded up, so that a rest is never shorter
/// than the cool-down. `None` without a cool-down: then it is free at once.
pub fn rest_from(now: u64, cooldown: u64) -> Option<u64> {
    (cooldown > 0).then(|| now.div_ceil(SECOND))
}

/// The block after its next `count` free addresses were given out; fewer when there are fewer.
///
/// Addresses that were free for the longest time go first; those that an IPReservation keeps back stay.
pub fn allocate(
    block: &Block,
    count: usize,
    attributes: &AllocationAttributes,
    settings: &Settings,
) -> Block {
    let ordinals: Vec<usize> = to_give(block, settings).take(count).collect();
    let mut block = block.clone();
    if ordinals.is_empty() {
        return block;
    }
    block.unallocated.retain(|free| !ordinals.contains(free));
    give(&mut block, &ordinals, attributes);
    block
}

/// Ordinals of free addresses that no IPReservation keeps back, the next one to give first.
pub(crate) fn to_give<'a>(block: &'a Block, settings: &'a Settings) -> impl Iterator<Item = usize> + 'a {
    let is_reserved = |ordinal: usize| {
        !settings.reservations.is_empty()
            && block.cidr.nth(ordinal as u128).is_none_or(|address| settings.is_reserved(address))
    };
    block.unallocated.iter().copied().filter(move |ordinal| !is_reserved(*ordinal))
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

/// The block after an address that is given out was handed over to another owner, or rests.
pub(crate) fn hand_over(block: &Block, address: IpAddr, attributes: &AllocationAttributes) -> Block {
    let mut block = block.clone();
    if let Some(ordinal) = ordinal(&block, address) {
        give(&mut block, &[ordinal], attributes);
        compact(&mut block);
    }
    block
}

/// The block's sequence number when this address was given out; 0 when it is not.
pub(crate) fn given_at(block: &Block, address: IpAddr) -> u64 {
    let number = ordinal(block, address).and_then(|o| block.sequence_number_for_allocation.get(&o));
    number.copied().unwrap_or_default()
}

/// The block after everything that `handle` holds was taken back: resting `from` then on, or else free.
pub fn release_handle(block: &Block, handle: &str, from: Option<u64>) -> Block {
    let ordinals: Vec<usize> =
        held_by(block, handle).into_iter().filter_map(|address| ordinal(block, address)).collect();
    release_ordinals(block, &ordinals, from)
}

/// The block after one address was taken back: resting `from` then on ([`rest_from`]), or else free.
///
/// # Errors
/// When it is free or rests already, or is held by another handle, or was given out under another sequence
/// number: whoever asks then speaks of an earlier owner.
pub fn release_address(
    block: &Block,
    address: IpAddr,
    handle: Option<&str>,
    sequence_number: Option<u64>,
    from: Option<u64>,
) -> Result<Block, NotReleased> {
    let Some(attributes) = holder(block, address).filter(|attributes| attributes.released_at.is_none())
    else {
        return Err(NotReleased::Free);
    };
    if handle.is_some() && attributes.handle.as_deref() != handle {
        return Err(NotReleased::OtherHandle(attributes.handle.clone().unwrap_or_default()));
    }
    let ordinal = ordinal(block, address).ok_or(NotReleased::Free)?;
    let given = block.sequence_number_for_allocation.get(&ordinal).copied();
    if sequence_number.is_some() && given.is_some() && given != sequence_number {
        return Err(NotReleased::OtherSequenceNumber);
    }
    Ok(release_ordinals(block, &[ordinal], from))
}

/// The block after every rest that is over ended: those addresses queue up behind all free ones, the one that
/// rested longest first. `None` when no rest is over. `now` in nanoseconds since the epoch.
pub fn end_rests(block: &Block, now: u64, cooldown: u64) -> Option<Block> {
    let now = now / SECOND;
    let is_over = |since: u64| since.saturating_add(cooldown) <= now || since > now + WRONG_CLOCK;
    let mut over: Vec<(u64, usize)> = Vec::new();
    for (ordinal, entry) in block.allocations.iter().enumerate() {
        let attributes = entry.and_then(|index| block.attributes.get(index));
        let since = attributes.and_then(|attributes| attributes.released_at);
        over.extend(since.filter(|since| is_over(*since)).map(|since| (since, ordinal)));
    }
    if over.is_empty() {
        return None;
    }
    over.sort_unstable();
    let ordinals: Vec<usize> = over.into_iter().map(|(_, ordinal)| ordinal).collect();
    Some(release_ordinals(block, &ordinals, None))
}

/// When the first rest in this block ends, in nanoseconds since the epoch; `None` when nothing rests.
pub fn rest_ends(block: &Block, cooldown: u64) -> Option<u64> {
    let ends = block.resting().filter_map(|(_, attributes)| attributes.released_at);
    ends.min().map(|since| since.saturating_add(cooldown).saturating_mul(SECOND))
}

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// Seconds: a rest that began so far in the future was written by a clock that was wrong, and holds nothing back.
const WRONG_CLOCK: u64 = 3600;

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

fn give(block: &mut Block, ordinals: &[usize], attributes: &AllocationAttributes) {
    let index = index_of(block, attributes);
    block.sequence_number += 1;
    for ordinal in ordinals {
        block.allocations[*ordinal] = Some(index);
        block.sequence_number_for_allocation.insert(*ordinal, block.sequence_number);
    }
}

/// Equal attributes are stored once.
fn index_of(block: &mut Block, attributes: &AllocationAttributes) -> usize {
    let found = block.attributes.iter().position(|known| known == attributes);
    found.unwrap_or_else(|| {
        block.attributes.push(attributes.clone());
        block.attributes.len() - 1
    })
}

/// Freed addresses queue up behind all others.
fn release_ordinals(block: &Block, ordinals: &[usize], from: Option<u64>) -> Block {
    let mut block = block.clone();
    for ordinal in ordinals {
        let attributes = block.allocations[*ordinal].and_then(|index| block.attributes.get(index)).cloned();
        match (from, attributes) {
            (Some(_), Some(attributes)) => {
                let resting = AllocationAttributes { released_at: from, ..attributes };
                block.allocations[*ordinal] = Some(index_of(&mut block, &resting));
            }
            _ => {
                block.allocations[*ordinal] = None;
                block.unallocated.push(*ordinal);
                block.sequence_number_for_allocation.remove(ordinal);
            }
        }
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
        let block = allocate(&block(), 2, &of("x"), &Settings::default());
        assert_eq!(held_by(&block, "x"), [ip(0), ip(1)]);

        let block = release_handle(&block, "x", None);
        let block = allocate(&block, 1, &of("y"), &Settings::default());

        assert_eq!(held_by(&block, "y"), [ip(2)]);
        assert_eq!(block.unallocated, [3, 0, 1]);
        assert_eq!(block.attributes, [of("y")]);
        assert_eq!(block.sequence_number, 103);
    }

    #[test]
    fn attributes_are_shared_and_renumbered() {
        let block = allocate(&block(), 1, &of("x"), &Settings::default());
        let block = allocate(&block, 2, &of("y"), &Settings::default());
        assert_eq!(block.attributes.len(), 2);

        let block = release_handle(&block, "x", None);

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
        let block = allocate(&block(), 1, &of("x"), &Settings::default());
        let number = block.sequence_number_for_allocation[&0];

        assert_eq!(release_address(&block, ip(1), None, None, None), Err(NotReleased::Free));
        assert_eq!(
            release_address(&block, ip(0), Some("y"), None, None),
            Err(NotReleased::OtherHandle("x".to_owned()))
        );
        assert_eq!(
            release_address(&block, ip(0), Some("x"), Some(1), None),
            Err(NotReleased::OtherSequenceNumber)
        );
        assert!(is_empty(&release_address(&block, ip(0), Some("x"), Some(number), None).unwrap()));
    }

    #[test]
    fn a_released_address_rests_as_long_as_the_cool_down_says() {
        let block = allocate(&block(), 2, &of("x"), &Settings::default());
        let from = rest_from(10 * SECOND + 1, 60);
        assert_eq!((from, rest_from(10 * SECOND, 0)), (Some(11), None));

        let block = release_address(&block, ip(1), Some("x"), None, from).unwrap();
        let block = release_handle(&block, "x", Some(12));

        assert_eq!((held_by(&block, "x"), block.unallocated.as_slice()), (Vec::new(), &[2, 3][..]));
        assert_eq!(block.resting().map(|(address, _)| address).collect::<Vec<_>>(), [ip(0), ip(1)]);
        assert_eq!(release_address(&block, ip(0), Some("x"), None, None), Err(NotReleased::Free));
        assert_eq!(rest_ends(&block, 60), Some(71 * SECOND));
        assert_eq!(end_rests(&block, 71 * SECOND - 1, 60), None);
        assert_eq!(end_rests(&block, 71 * SECOND, 60).unwrap().unallocated, [2, 3, 1]);
        let rested = end_rests(&block, 100 * SECOND, 60).unwrap();
        assert_eq!((rested.unallocated.as_slice(), rested.attributes.len()), (&[2, 3, 1, 0][..], 0));
        // A clock that was hours ahead does not keep an address for hours.
        let ahead = release_handle(&allocate(&block, 1, &of("y"), &Settings::default()), "y", Some(99_999));
        assert!(end_rests(&ahead, 100 * SECOND, 60).unwrap().resting().next().is_none());
    }
}
