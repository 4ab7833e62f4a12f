//! Who gets which address: blocks, affinities, handles.
//!
//! Owns the rules by which addresses are given out and taken back, in Calico's own objects, as pure functions:
//! a request and a [`Snapshot`] of what is known give the next [`Step`], a read or one compare-and-swap write.
//! Whoever executes it tells the snapshot what came of it and asks again. Nothing is remembered between two
//! steps, so that a crash after any write leaves a state that the next step carries on from. Never calls an API,
//! reads a clock or throws dice.

mod affinity;
mod assign;
mod block;
mod candidates;
pub mod gc;
pub mod names;
mod pools;
mod release;
mod request;
mod reserve;
mod settings;
mod snapshot;
mod upkeep;

pub use affinity::{BlockInUse, release_affinity};
pub use assign::assign;
pub use block::{
    NotReleased, allocate, allocate_address, end_rests, held_by, holder, is_empty, new_block,
    release_address, release_handle, rest_ends, rest_from,
};
pub use candidates::fnv64;
pub use pools::{Reason, Refusal};
pub use release::{release, release_others, release_unused};
pub use request::{AssignError, Request};
pub use reserve::{Draw, Reserve, Returned};
pub use settings::Settings;
pub use snapshot::{Key, Known, Object, Read, Snapshot, Step, Stored, Version, Write};
pub use upkeep::{Lost, READY, Settled, fill_up, upkeep};

/// A result, or the step that has to come before it.
pub(crate) type Next<T, E, D = Vec<std::net::IpAddr>> = Result<T, Box<Step<D, E>>>;

pub(crate) fn next_write<T, E, D>(write: Write) -> Next<T, E, D> {
    Err(Box::new(Step::Write(write)))
}

pub(crate) fn next_read<T, E, D>(key: Key) -> Next<T, E, D> {
    Err(Box::new(Step::Read(Read::One(key))))
}
