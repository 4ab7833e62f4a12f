//! Freeing what nobody uses, one step at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;

use model::{Block, Cidr, Handle};

use super::allocation::Allocation;
use crate::block::{end_rests, held_by, is_empty, release_address};
use crate::snapshot::{Key, Known, Object, Read, Snapshot, Step, Write};

/// An address to free, and how to tell whether it is still the one that was judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    pub address: IpAddr,
    pub block: Cidr,
    pub handle: Option<String>,
    pub sequence_number: Option<u64>,
}

impl Leak {
    pub fn of(allocation: &Allocation) -> Self {
        Self {
            address: allocation.address,
            block: allocation.block,
            handle: allocation.handle.clone(),
            sequence_number: allocation.sequence_number,
        }
    }

    /// Is this what the block still says?
    fn is_in(&self, block: &Block) -> bool {
        release_address(block, self.address, self.handle.as_deref(), self.sequence_number, None).is_ok()
    }
}

/// The next step to free addresses: one write for each block. Addresses that were given out anew stay, and so
/// does every address of a handle that holds another one besides. [`settle_handle`] is for afterwards.
///
/// They rest `from` then on, or are free at once: when nobody has used them for longer than the cool-down.
pub fn take_back(leaks: &[Leak], snapshot: &Snapshot, from: Option<u64>) -> Step<(), Infallible> {
    let mut by_block: BTreeMap<Cidr, Vec<&Leak>> = BTreeMap::new();
    for leak in leaks {
        by_block.entry(leak.block).or_default().push(leak);
    }
    for cidr in by_block.keys() {
        match snapshot.block(*cidr) {
            Known::Absent => {}
            Known::Present(block) if block.is_fresh => {}
            _ => return Step::Read(Read::One(Key::Block(*cidr))),
        }
    }
    let is_whole = |handle: &str| {
        let mut blocks = by_block.keys().filter_map(|cidr| snapshot.block(*cidr).present());
        blocks.all(|block| {
            let covers = |address| {
                leaks.iter().any(|leak| {
                    leak.address == address
                        && leak.handle.as_deref() == Some(handle)
                        && leak.is_in(&block.value)
                })
            };
            held_by(&block.value, handle).into_iter().all(covers)
        })
    };
    for (cidr, leaks) in &by_block {
        let Some(block) = snapshot.block(*cidr).present() else { continue };
        let mut after = block.value.clone();
        for leak in leaks.iter().filter(|leak| leak.handle.as_deref().is_none_or(is_whole)) {
            let freed =
                release_address(&after, leak.address, leak.handle.as_deref(), leak.sequence_number, from);
            after = freed.unwrap_or(after);
        }
        if after == block.value || block.value.deleted {
            continue;
        }
        let version = block.version.clone();
        return Step::Write(if is_empty(&after) && after.affinity.is_none() {
            Write::Delete(Key::Block(*cidr), version)
        } else {
            Write::Update(Object::Block(after), version)
        });
    }
    Step::Done(())
}

/// The next step to make a handle count what the blocks say; one that holds nothing is deleted.
///
/// For a handle that nobody is writing: its owner counts first and takes the address then.
pub fn settle_handle(id: &str, snapshot: &Snapshot) -> Step<(), Infallible> {
    let handle = match snapshot.handle(id) {
        Known::Unknown => return Step::Read(Read::One(Key::Handle(id.to_owned()))),
        Known::Absent => return Step::Done(()),
        // The name stands for another handle: it is not ours to touch.
        Known::Present(stored) if stored.value.id != id => return Step::Done(()),
        Known::Present(stored) => stored,
    };
    let mut blocks = BTreeMap::new();
    for cidr in handle.value.blocks.keys() {
        match snapshot.block(*cidr) {
            Known::Absent => {}
            Known::Present(block) if block.is_fresh => {
                let held = held_by(&block.value, id).len();
                if held > 0 {
                    blocks.insert(*cidr, u32::try_from(held).unwrap_or(u32::MAX));
                }
            }
            _ => return Step::Read(Read::One(Key::Block(*cidr))),
        }
    }
    if blocks.is_empty() {
        return Step::Write(Write::Delete(Key::Handle(id.to_owned()), handle.version.clone()));
    }
    if blocks == handle.value.blocks && !handle.value.deleted {
        return Step::Done(());
    }
    let settled = Handle { id: id.to_owned(), blocks, deleted: false };
    Step::Write(Write::Update(Object::Handle(settled), handle.version.clone()))
}

/// The next step to make the object of a handle that blocks name and that does not exist. `blocks` are those that
/// were seen to name it; one that is there by now is left as it is.
pub fn restore_handle(id: &str, blocks: &BTreeSet<Cidr>, snapshot: &Snapshot) -> Step<(), Infallible> {
    match snapshot.handle(id) {
        Known::Unknown => return Step::Read(Read::One(Key::Handle(id.to_owned()))),
        Known::Present(_) => return Step::Done(()),
        Known::Absent => {}
    }
    let mut counts = BTreeMap::new();
    for cidr in blocks {
        match snapshot.block(*cidr) {
            Known::Absent => {}
            Known::Present(block) if block.is_fresh => {
                let held = held_by(&block.value, id).len();
                if held > 0 {
                    counts.insert(*cidr, u32::try_from(held).unwrap_or(u32::MAX));
                }
            }
            _ => return Step::Read(Read::One(Key::Block(*cidr))),
        }
    }
    if counts.is_empty() {
        return Step::Done(());
    }
    let handle = Handle { id: id.to_owned(), blocks: counts, deleted: false };
    Step::Write(Write::Create(Object::Handle(handle)))
}

/// Frees what has rested in a block for long enough; `None` when nothing has, or the block is not known freshly.
pub(super) fn rests_over<T, E>(snapshot: &Snapshot, cidr: Cidr, now: u64) -> Option<Step<T, E>> {
    let block = snapshot.block(cidr).present().filter(|block| block.is_fresh && !block.value.deleted)?;
    let after = end_rests(&block.value, now, snapshot.settings.configuration.cooldown)?;
    Some(Step::Write(Write::Update(Object::Block(after), block.version.clone())))
}

/// The next step to delete a block that is empty and that nobody owns. `now` in nanoseconds since the epoch.
pub fn drop_unowned(snapshot: &Snapshot, cidr: Cidr, now: u64) -> Step<(), Infallible> {
    if let Some(step) = rests_over(snapshot, cidr, now) {
        return step;
    }
    match snapshot.block(cidr) {
        Known::Absent => Step::Done(()),
        Known::Present(block) if block.is_fresh => {
            if block.value.affinity.is_some() || !is_empty(&block.value) {
                return Step::Done(());
            }
            Step::Write(Write::Delete(Key::Block(cidr), block.version.clone()))
        }
        _ => Step::Read(Read::One(Key::Block(cidr))),
    }
}
