//! Figures of the process.

use std::sync::atomic::{AtomicI64, AtomicU64};

use probes::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of a review.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Review {
    /// allowed, refused or failed.
    pub outcome: &'static str,
}

/// Labels of figures about one pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Pool {
    /// Name; empty for blocks that no pool covers.
    pub ippool: String,
}

/// Labels of figures about one pool on one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PoolNode {
    /// Name; empty for blocks that no pool covers.
    pub ippool: String,
    /// Name; empty for what is of no node.
    pub node: String,
}

/// A figure about each pool on each node.
pub type NodeLevel = Family<PoolNode, Gauge<i64, AtomicI64>>;

/// Labels of figures about addresses of one pool in one state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PoolState {
    /// Name; empty for blocks that no pool covers.
    pub ippool: String,
    /// allocated, leaked, ready, resting, withheld or free.
    pub state: &'static str,
}

/// A figure about each pool.
pub type PoolLevel = Family<Pool, Gauge<i64, AtomicI64>>;

/// See the module. Cheap to share.
#[derive(Debug)]
pub struct Metrics {
    /// Answers of the webhook.
    pub reviews: Family<Review, Counter<u64, AtomicU64>>,
    /// 1 while this process writes the status of policies.
    pub leads: Gauge<i64, AtomicI64>,
    /// Statuses written.
    pub status_writes: Counter<u64, AtomicU64>,
    /// Statuses that could not be written, to be tried again.
    pub status_failures: Counter<u64, AtomicU64>,
    /// Policies that not every node that needs them has.
    pub unprogrammed: Gauge<i64, AtomicI64>,
    /// Objects of which something makes no sense.
    pub not_understood: Gauge<i64, AtomicI64>,
    /// Automatic host endpoints written and deleted.
    pub host_endpoint_writes: Counter<u64, AtomicU64>,
    /// Addresses that there are.
    pub ipam_size: PoolLevel,
    /// Addresses given out.
    pub ipam_in_use: PoolLevel,
    /// Addresses that nodes keep ready for their next pods.
    pub ipam_reserved: PoolLevel,
    /// Addresses that rest after their release.
    pub ipam_resting: PoolLevel,
    /// Addresses in use by another node than their block's owner.
    pub ipam_borrowed: PoolLevel,
    pub ipam_blocks: PoolLevel,
    /// Addresses of a pool by state.
    pub ipam_ips: Family<PoolState, Gauge<i64, AtomicI64>>,
    /// Addresses that a node uses.
    pub node_in_use: NodeLevel,
    /// Addresses that a node keeps ready.
    pub node_reserved: NodeLevel,
    /// Addresses that a node uses from others' blocks.
    pub node_borrowed: NodeLevel,
    pub node_blocks: NodeLevel,
    /// Addresses that Services of type LoadBalancer hold.
    pub load_balancer_addresses: Gauge<i64, AtomicI64>,
    /// Addresses that Services could not be given, and writes that failed.
    pub load_balancer_failures: Counter<u64, AtomicU64>,
    /// Handles and blocks that nobody seems to own.
    pub ipam_candidates: Gauge<i64, AtomicI64>,
    /// Nodes that hold addresses, have no Node object, and were asked whether they live.
    pub ipam_gone: Gauge<i64, AtomicI64>,
    /// Addresses of nodes that are gone which were freed.
    pub ipam_reclaimed: Counter<u64, AtomicU64>,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            reviews: Family::default(),
            leads: Gauge::default(),
            status_writes: Counter::default(),
            status_failures: Counter::default(),
            unprogrammed: Gauge::default(),
            not_understood: Gauge::default(),
            host_endpoint_writes: Counter::default(),
            ipam_size: PoolLevel::default(),
            ipam_in_use: PoolLevel::default(),
            ipam_reserved: PoolLevel::default(),
            ipam_resting: PoolLevel::default(),
            ipam_borrowed: PoolLevel::default(),
            ipam_blocks: PoolLevel::default(),
            ipam_ips: Family::default(),
            node_in_use: NodeLevel::default(),
            node_reserved: NodeLevel::default(),
            node_borrowed: NodeLevel::default(),
            node_blocks: NodeLevel::default(),
            load_balancer_addresses: Gauge::default(),
            load_balancer_failures: Counter::default(),
            ipam_candidates: Gauge::default(),
            ipam_gone: Gauge::default(),
            ipam_reclaimed: Counter::default(),
            registry: Registry::with_prefix("ocicat_controllers"),
        };
        let registry = &mut metrics.registry;
        registry.register("reviews", "Admission reviews by outcome", metrics.reviews.clone());
        registry.register("leads", "Does this process write the status of policies", metrics.leads.clone());
        registry.register("status_writes", "Statuses of policies written", metrics.status_writes.clone());
        registry.register("status_failures", "Failed writes of statuses", metrics.status_failures.clone());
        registry.register(
            "unprogrammed_policies",
            "Policies that not every node that needs them has in the kernel",
            metrics.unprogrammed.clone(),
        );
        registry.register(
            "not_understood_objects",
            "Objects of which something makes no sense",
            metrics.not_understood.clone(),
        );
        registry.register(
            "host_endpoint_writes",
            "Automatic host endpoints written and deleted",
            metrics.host_endpoint_writes.clone(),
        );
        registry.register(
            "load_balancer_addresses",
            "Addresses that Services of type LoadBalancer hold",
            metrics.load_balancer_addresses.clone(),
        );
        registry.register(
            "load_balancer_failures",
            "Addresses that Services could not be given, and failed writes",
            metrics.load_balancer_failures.clone(),
        );
        metrics.register_ipam();
        metrics
    }
}

impl Metrics {
    fn register_ipam(&mut self) {
        let registry = self.registry.sub_registry_with_prefix("ipam");
        for (name, help, family) in [
            ("ippool_size", "Addresses of a pool", &self.ipam_size),
            ("allocations_in_use", "Addresses given out", &self.ipam_in_use),
            ("allocations_reserved", "Addresses that nodes keep ready", &self.ipam_reserved),
            ("allocations_resting", "Addresses that rest after their release", &self.ipam_resting),
            ("allocations_borrowed", "Addresses from another node's block", &self.ipam_borrowed),
            ("blocks", "Blocks", &self.ipam_blocks),
        ] {
            registry.register(name, help, family.clone());
        }
        for (name, help, family) in [
            ("node_allocations_in_use", "Addresses that a node uses", &self.node_in_use),
            ("node_allocations_reserved", "Addresses that a node keeps ready", &self.node_reserved),
            ("node_allocations_borrowed", "Addresses from another node's block", &self.node_borrowed),
            ("node_blocks", "Blocks of a node", &self.node_blocks),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register("ips", "Addresses of a pool by state", self.ipam_ips.clone());
        registry.register(
            "gc_candidates",
            "Handles and blocks that nobody seems to own",
            self.ipam_candidates.clone(),
        );
        registry.register(
            "gone_nodes",
            "Nodes that hold addresses and have no Node object, asked whether they live",
            self.ipam_gone.clone(),
        );
        registry.register(
            "gc_reclamations",
            "Addresses of nodes that are gone which were freed",
            self.ipam_reclaimed.clone(),
        );
    }

    /// `/metrics`
    pub fn scrape(&self) -> Response {
        Response::metrics(&self.registry)
    }
}
