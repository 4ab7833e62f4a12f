//! What the cluster needs once, not on every node: a validating admission webhook for the objects of
//! `projectcalico.org/v3`, the status of policies, summed up from what the nodes say, Events about objects that make
//! no sense, host endpoints that every node gets, addresses of nodes that are gone, and addresses of Services of type LoadBalancer.
//!
//! Owns credentials and registration of the webhook and the election of the one that writes status. Never
//! changes an object that somebody wrote, and nothing depends on it: without it policy works as well.

pub mod aggregate;
pub mod complaints;
pub mod credentials;
pub mod host_endpoints;
pub mod ipam;
pub mod leader;
pub mod load_balancer;
pub mod metrics;
pub mod policy_status;
mod program;
pub mod review;
pub mod settings;
pub mod web;
pub mod webhook;

pub use program::{command, main};
