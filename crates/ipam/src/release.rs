//! Taking addresses back, one step at a time.

use std::convert::Infallible;
use std::net::IpAddr;

use crate::block::{held_by, is_empty, release_address, release_handle, rest_from};
use crate::gc::settle_handle;
use crate::snapshot::{Key, Known, Object, Read, Snapshot, Step, Write};

/// The next step to take back all that a handle holds. Blocks first, the handle last, so that whoever dies in
/// between leaves a handle by which the rest is found. Nothing held is no error.
///
/// With a cool-down the addresses rest first; `now` is in nanoseconds since the epoch.
pub fn release(handle: &str, snapshot: &Snapshot, now: u64) -> Step<(), Infallible> {
    take_back(handle, snapshot, rest_from(now, snapshot.settings.configuration.cooldown))
}

/// The next step to take back what a handle holds and nobody was told of: it needs no rest.
pub fn release_unused(handle: &str, snapshot: &Snapshot) -> Step<(), Infallible> {
    take_back(handle, snapshot, None)
}

/// The next step to take back all that a handle holds but one address, and to make it count that one.
///
/// For an owner that has moved there; addresses rest as with [`release`].
pub fn release_others(handle: &str, keep: IpAddr, snapshot: &Snapshot, now: u64) -> Step<(), Infallible> {
    let found = match snapshot.handle(handle) {
        Known::Unknown => return Step::Read(Read::One(Key::Handle(handle.to_owned()))),
        Known::Absent => return Step::Done(()),
        Known::Present(stored) if stored.value.id != handle => return Step::Done(()),
        Known::Present(stored) => stored,
    };
    let from = rest_from(now, snapshot.settings.configuration.cooldown);
    for cidr in found.value.blocks.keys() {
        let block = match snapshot.block(*cidr) {
            Known::Absent => continue,
            Known::Present(block) if block.is_fresh => block,
            _ => return Step::Read(Read::One(Key::Block(*cidr))),
        };
        let others = held_by(&block.value, handle).into_iter().filter(|address| *address != keep);
        let after = others.fold(block.value.clone(), |block, address| {
            release_address(&block, address, Some(handle), None, from).unwrap_or(block)
        });
        if after == block.value {
            continue;
        }
        let version = block.version.clone();
        return Step::Write(if is_empty(&after) && after.affinity.is_none() {
            Write::Delete(Key::Block(*cidr), version)
        } else {
            Write::Update(Object::Block(after), version)
        });
    }
    settle_handle(handle, snapshot)
}

fn take_back(handle: &str, snapshot: &Snapshot, from: Option<u64>) -> Step<(), Infallible> {
    let found = match snapshot.handle(handle) {
        Known::Unknown => return Step::Read(Read::One(Key::Handle(handle.to_owned()))),
        Known::Absent => None,
        // The name stands for another handle: it is not ours to touch.
        Known::Present(stored) if stored.value.id != handle => None,
        Known::Present(stored) => Some(stored),
    };
    for block in snapshot.blocks() {
        if held_by(&block.value, handle).is_empty() {
            continue;
        }
        let after = release_handle(&block.value, handle, from);
        let version = block.version.clone();
        return Step::Write(if is_empty(&after) && after.affinity.is_none() {
            Write::Delete(Key::Block(after.cidr), version)
        } else {
            Write::Update(Object::Block(after), version)
        });
    }
    let Some(found) = found else { return Step::Done(()) };
    for cidr in found.value.blocks.keys() {
        let is_known = match snapshot.block(*cidr) {
            Known::Unknown => false,
            Known::Absent => true,
            // An old view that shows nothing proves nothing.
            Known::Present(block) => block.is_fresh,
        };
        if !is_known {
            return Step::Read(Read::One(Key::Block(*cidr)));
        }
    }
    Step::Write(Write::Delete(Key::Handle(handle.to_owned()), found.version.clone()))
}
