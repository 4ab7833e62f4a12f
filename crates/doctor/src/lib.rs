//! What may be wrong with a node, judged from facts: each finding with its evidence and the command that mends it.
//!
//! Owns the facts as data and the judgement. Never looks at anything itself: who gathers the facts is elsewhere, so
//! that a node's facts can be judged anywhere, also later from a bundle.

mod facts;
mod finding;
mod judge;

pub use facts::{
    Agent, Candidate, CgroupFacts, Chosen, CniFacts, CniFile, Conntrack, Descriptors, Difference, Facts,
    Link, Module, Path, Route, RuleFacts, Rules, Session, Sysctls,
};
pub use finding::{Finding, Severity};
pub use judge::judge;
