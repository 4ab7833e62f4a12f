//! Moving a cluster from Calico and back: what maps, what does not, and in which order nodes change hands.
//!
//! Owns the spelling of Calico's stored objects (`crd.projectcalico.org/v1`), what becomes of each of their fields, whose
//! blocks count while both agents run, and the order of nodes. Objects are plain JSON, as the API server has them. It
//! never asks the API server and writes nothing: that is `ocicat migrate`'s.

mod blocks;
mod environment;
mod fields;
mod kinds;
mod mapping;
mod nodes;
mod note;

pub use blocks::{
    Counts, block_notes, free_addresses, handle_changes, is_sealed, owner, returned, seal, unsealed,
};
pub use environment::{Installation, installation_notes};
pub use fields::carried;
pub use kinds::{CALICO, KINDS, Kind, OURS, kind_of};
pub use mapping::{Mapped, collisions, same, to_calico_object, to_ours};
pub use nodes::{Agent, Direction, LABEL, NodeView, PodView, Step, kept_away, next_step};
pub use note::{Effect, Note};
