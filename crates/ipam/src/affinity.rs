//! A node's claim on a block, from the first write to the last.

use model::{AffinityState, Block, BlockAffinity, Cidr, NodeName};

use crate::block::{is_empty, new_block};
use crate::snapshot::{Known, Object, Read, Snapshot, Step, Stored, Write};
use crate::{Key, Next, next_write};

/// Claims a block for this node: the first of three writes, `complete` does the others.
pub(crate) fn claim<T, E, D>(snapshot: &Snapshot, cidr: Cidr) -> Next<T, E, D> {
    next_write(Write::Create(Object::Affinity(BlockAffinity {
        node: snapshot.node.clone(),
        cidr,
        state: AffinityState::Pending,
        deleted: false,
    })))
}

/// The block of one of this node's claims, once the claim is complete; until then the next step towards it.
///
/// A claim is an affinity that is pending, then a block that names the node, then the affinity confirmed.
/// Whatever was left half done is carried on from where it stands.
pub(crate) fn complete<'a, E, D>(
    snapshot: &'a Snapshot,
    affinity: &'a Stored<BlockAffinity>,
    now: u64,
) -> Next<&'a Stored<Block>, E, D> {
    let cidr = affinity.value.cidr;
    let drop_claim = || {
        let key = Key::Affinity(affinity.value.node.clone(), cidr);
        next_write(Write::Delete(key, affinity.version.clone()))
    };
    let is_being_deleted = affinity.value.state == AffinityState::PendingDeletion;
    if affinity.value.deleted {
        return drop_claim();
    }
    let block = match snapshot.block(cidr) {
        Known::Unknown => return Err(Box::new(Step::Read(Read::One(Key::Block(cidr))))),
        Known::Absent if is_being_deleted => return drop_claim(),
        Known::Absent => {
            return next_write(Write::Create(Object::Block(new_block(cidr, snapshot.node.clone(), now))));
        }
        Known::Present(block) => block,
    };
    if block.value.deleted {
        return next_write(Write::Delete(Key::Block(cidr), block.version.clone()));
    }
    match &block.value.affinity {
        Some(owner) if *owner == snapshot.node && affinity.value.state == AffinityState::Confirmed => {
            Ok(block)
        }
        Some(owner) if *owner == snapshot.node => next_write(set_state(affinity, AffinityState::Confirmed)),
        Some(_) => drop_claim(),
        None if is_being_deleted => drop_claim(),
        None => {
            let owned = Block {
                affinity: Some(snapshot.node.clone()),
                sequence_number: now.max(block.value.sequence_number + 1),
                ..block.value.clone()
            };
            next_write(Write::Update(Object::Block(owned), block.version.clone()))
        }
    }
}

/// Takes an empty block away from its owner; `Ok` when it is gone.
///
/// The owner's next write to the block fails, and it looks again.
pub(crate) fn reclaim<E>(snapshot: &Snapshot, block: &Stored<Block>, owner: &NodeName) -> Next<(), E> {
    let cidr = block.value.cidr;
    if let Some(affinity) = snapshot.affinity(owner, cidr)
        && affinity.value.state != AffinityState::PendingDeletion
    {
        return next_write(set_state(affinity, AffinityState::PendingDeletion));
    }
    next_write(Write::Delete(Key::Block(cidr), block.version.clone()))
}

/// Why a claim was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {0} still has addresses in use")]
pub struct BlockInUse(pub Cidr);

/// The next step to end this node's claim on a block.
///
/// A block with addresses in use loses its owner and stays; when it `must_be_empty`, the claim is kept instead.
pub fn release_affinity(snapshot: &Snapshot, cidr: Cidr, must_be_empty: bool) -> Step<(), BlockInUse> {
    let key = Key::Affinity(snapshot.node.clone(), cidr);
    let Some(affinity) = snapshot.own_affinity(cidr) else {
        return if snapshot.knows_own_affinity(cidr) { Step::Done(()) } else { Step::Read(Read::One(key)) };
    };
    if !affinity.is_fresh {
        return Step::Read(Read::One(key));
    }
    let block = match snapshot.block(cidr) {
        Known::Unknown => return Step::Read(Read::One(Key::Block(cidr))),
        Known::Absent => return Step::Write(Write::Delete(key, affinity.version.clone())),
        Known::Present(block) if !block.is_fresh => return Step::Read(Read::One(Key::Block(cidr))),
        Known::Present(block) => block,
    };
    if block.value.affinity.as_ref() != Some(&snapshot.node) {
        return Step::Write(Write::Delete(key, affinity.version.clone()));
    }
    let is_empty = is_empty(&block.value);
    if must_be_empty && !is_empty {
        return match affinity.value.state {
            AffinityState::PendingDeletion => Step::Write(set_state(affinity, AffinityState::Confirmed)),
            _ => Step::Failed(BlockInUse(cidr)),
        };
    }
    if affinity.value.state != AffinityState::PendingDeletion {
        return Step::Write(set_state(affinity, AffinityState::PendingDeletion));
    }
    if is_empty {
        return Step::Write(Write::Delete(Key::Block(cidr), block.version.clone()));
    }
    let sequence_number = block.value.sequence_number + 1;
    let unowned = Block { affinity: None, sequence_number, ..block.value.clone() };
    Step::Write(Write::Update(Object::Block(unowned), block.version.clone()))
}

fn set_state(affinity: &Stored<BlockAffinity>, state: AffinityState) -> Write {
    let changed = BlockAffinity { state, ..affinity.value.clone() };
    Write::Update(Object::Affinity(changed), affinity.version.clone())
}
