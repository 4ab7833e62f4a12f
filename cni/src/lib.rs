//! The CNI plugins `calico` and `calico-ipam`, and their installer.
//!
//! Owns the veth of a pod and what is inside the pod. Never talks to the Kubernetes API and holds no token:
//! addresses, routes and policy are the node agent's, asked over its unix socket.

pub mod agent;
pub mod config;
pub mod error;
mod gc;
pub mod install;
pub mod invocation;
pub mod queue;
pub mod result;
pub mod version;

mod add;
mod check;
mod del;
mod delegate;
mod ipam;
mod keys;
mod log;
mod plugin;
mod readiness;

pub use plugin::{calico, calico_ipam};
