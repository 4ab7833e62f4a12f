//! A cluster on one machine, driven as a cluster: nodes are network namespaces with the real felix, bird-lite and
//! CNI plugin; subnets are joined by a router namespace that is also the top-of-rack router; a kubelet stand-in runs
//! pods as namespaces with responders.
//!
//! The library carries what the `lab` binary does and what tests reuse (names and addresses, status, probes).
//! It never programs routes, policy or addresses of pods: that is what the lab is there to watch.

pub mod agents;
pub mod api_server;
pub mod cleanup;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod commands;
pub mod container;
pub mod control;
pub mod controllers;
pub mod daemon;
mod embedded;
pub mod inside;
pub mod kubelet;
pub mod lab;
pub mod locate;
pub mod logs;
pub mod manifest;
pub mod matrix;
pub mod names;
pub mod netlink;
pub mod netns;
pub mod node;
pub mod node_pod;
pub mod options;
mod pod_status;
mod pod_worker;
pub mod policy_kinds;
pub mod probe;
pub mod responder;
pub mod scheduler;
pub mod status;
pub mod topology;
pub mod tor;
pub mod up;
pub mod vm;
