//! Addresses that nobody uses any more: who finds them, and what must be sure before one is taken back.
//!
//! An address goes in two phases. First it is a suspect: no evidence says that somebody uses it. When that has
//! been so for a grace period without a break ([`Suspects`]), the node's own truth has the last word: a living
//! node looks at its own interfaces and endpoints ([`OwnTruth`]), and a node that seems gone is asked, and has not
//! answered ([`GoneNodes`]). What the API server says can only keep an address, never release one alone.
//! [`take_back`] then frees it by handle and sequence number, so that an address which was given out anew in the
//! meantime is left alone. Owns no list, no clock and no API call.

mod allocation;
mod audit;
mod empty;
mod gone;
mod suspects;
mod take_back;
mod truth;
mod usage;

pub use allocation::{Allocation, User, allocations, grouped};
pub use audit::{Finding, Inventory, Problem, audit};
pub use empty::{Spare, is_idle, release_spare, spare_blocks, stale_claims, unowned_blocks};
pub use gone::{GoneNodes, Plan, Turn, end_claim, holders, is_question, plan, question};
pub use suspects::{Suspects, Suspicion};
pub use take_back::{Leak, drop_unowned, restore_handle, settle_handle, take_back};
pub use truth::{OwnTruth, PodAnswer, Why, is_used_by, own_suspects};
pub use usage::{PoolUsage, Usage, usage, usage_by_node, withhold};
