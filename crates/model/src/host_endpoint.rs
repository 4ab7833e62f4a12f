//! Interfaces of nodes that policy protects.

use std::net::IpAddr;
use std::sync::Arc;

use crate::{EndpointPort, Labels, NodeName};

/// Which of a node's interfaces a host endpoint names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEndpointInterface {
    Named(Arc<str>),
    /// `*`: every interface.
    All,
}

/// A HostEndpoint; it has an interface, expected addresses, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpoint {
    pub name: Arc<str>,
    pub node: NodeName,
    /// `None`: the interface that has one of `expected_ips`.
    pub interface: Option<HostEndpointInterface>,
    pub expected_ips: Vec<IpAddr>,
    pub labels: Labels,
    /// In the order of evaluation.
    pub profiles: Vec<Arc<str>>,
    /// Named ports.
    pub ports: Vec<EndpointPort>,
}
