//! The scenarios of `spec/felix.md` §12 that are about what policy means, by their numbers: the compiled rules and
//! the reference evaluator must both say what the scenario expects. `docs/conformance.md` lists all of them.

#![allow(clippy::unwrap_used, reason = "clippy exempts only the test functions themselves")]

mod bad_input;
#[path = "../../../render/tests/policy/dataplane.rs"]
#[allow(dead_code, reason = "shared with the renderer's own tests")]
mod dataplane;
mod hosts;
mod kinds;
#[path = "../../../render/tests/policy/nftables.rs"]
mod nftables;
#[path = "../../../render/tests/policy/node.rs"]
#[allow(dead_code, reason = "shared with the renderer's own tests")]
mod node;
mod policy;
mod story;
#[path = "../compiler/world.rs"]
#[allow(dead_code, reason = "shared with the random tests")]
mod world;
