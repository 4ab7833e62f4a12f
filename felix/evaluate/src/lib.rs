//! What policy means: one packet, one verdict, and the steps that led to it.
//!
//! Owns the semantics of Kubernetes and Calico policy as `spec/felix.md` §7 and `spec/control.md` §2 put them,
//! written from these pages and from nothing else. It keeps plain maps, searches them whole for every
//! packet and is slow on purpose: it judges the compiler (`felix-calc`, `felix-render`), so it shares no line
//! with it, and it answers `ocicat explain` and `ocicat policy whatif`. Never renders, never knows a chain,
//! a set or a mark.

mod endpoint;
mod host;
mod labels;
mod packet;
mod path;
mod rules;
mod staged;
mod state;
mod verdict;

pub use packet::{Packet, Place, Side};
pub use path::{Evaluator, evaluate};
pub use state::State;
pub use verdict::{Cause, Endpoint, Step, Verdict};
