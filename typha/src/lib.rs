//! `typha`: watches the cluster once for many nodes. Wiring only: the API server's events go to [`fanout::Server`],
//! and what it wants sent goes to felix and bird-lite on their connections.

pub mod balance;
pub mod hub;
pub mod listener;
mod program;
pub mod watches;
pub mod web;

pub use program::{command, main};
