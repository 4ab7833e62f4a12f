//! Lists of datastore states, each with what it must lead to, walked in every way: forth, back, through
//! nothing, several at once, with everything said twice and in any order.

#![allow(clippy::unwrap_used, reason = "clippy exempts only the test functions themselves")]

mod cluster_routes;
mod fake;
mod kinds;
mod network;
mod plain;
mod random;
mod random_states;
mod scenarios;
mod state;
mod wireguard;
