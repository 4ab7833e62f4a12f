//! Services and where their endpoints are, as far as announcing them and policy go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::{Family, NodeName, Protocol};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service with an address in the cluster; others (headless, ExternalName) are not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: ObjectKey,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `externalTrafficPolicy: Local`: only nodes with an endpoint take traffic from outside.
    pub local_traffic_only: bool,
    /// What its addresses listen on.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service, or one that its endpoints listen on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Joins a port of the Service to that of its endpoints; empty when there is only one.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

/// A part of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub key: ObjectKey,
    /// Name of the Service, in the same namespace.
    pub service: Arc<str>,
    /// Family of the endpoints.
    pub family: Family,
    /// An endpoint that is ready is there, on whatever node.
    pub any_ready: bool,
    /// Nodes that have an endpoint that is ready.
    pub ready_nodes: BTreeSet<NodeName>,
    /// Addresses of all endpoints, also those that are not ready, sorted: what a rule's `services` match means.
    pub addresses: Vec<IpAddr>,
    /// Ports that every one of them listens on.
    pub ports: Vec<ServicePort>,
}
