//! What tests of whole clusters share: a lab of their own, kubectl, and waiting with a limit.
//!
//! The programs are those of the same build: `cargo build --workspace --bins` comes first. Functions panic
//! with what was seen, as tests do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic as tests do")]

mod cluster;
mod matrix;
mod place;
pub mod runtime;
mod wait;

pub use cluster::{Cluster, Options, programs};
pub use matrix::{Matrix, Probe};
pub use wait::{until, within};
