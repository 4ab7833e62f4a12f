//! Figures of the process.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
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
    /// Automatic host endpoints written and deleted.
    pub host_endpoint_writes: Counter<u64, AtomicU64>,
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
            host_endpoint_writes: Counter::default(),
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
            "host_endpoint_writes",
            "Automatic host endpoints written and deleted",
            metrics.host_endpoint_writes.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// All figures in the text format of Prometheus.
    pub fn scrape(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        _ = encode(&mut text, &self.registry);
        text
    }
}
