//! Figures about the agent in Prometheus' text format; names are Calico's where the meaning is the same.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use parking_lot::Mutex;
use probes::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Every figure; updating one costs an atomic operation.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Time of one apply, seconds.
    pub apply_time: Histogram,
    /// Applies that left something to be retried.
    pub apply_failures: Counter,
    /// Entries that wait for a retry, by kind of kernel state.
    pub pending: Family<Kind, Level>,
    /// Settings that are not in force as they were given, by reason.
    pub ignored_settings: Family<Reason, Level>,
    /// What is not in force as somebody wants it, apart from settings.
    pub problems: Level,
    /// Variables that say otherwise than the pools.
    pub start_settings_ignored: Level,
    /// From the datastore's word to the kernel's, seconds.
    pub programming_latency: Histogram,
    /// Until nobody else held the lock of iptables, seconds.
    pub lock_wait: Histogram,
    /// Runs of `iptables-restore`, seconds.
    pub restore_time: Histogram,
    /// Comparisons with what the kernel really holds, by kind of kernel state.
    pub resyncs: Family<Kind, Counter>,
    /// Entries that somebody else had changed or deleted and that were put right, by kind.
    pub repairs: Family<Kind, Counter>,
    pub local_endpoints: Level,
    pub local_policies: Level,
    pub ip_sets: Level,
    pub chains: Level,
    pub routes: Level,
    /// 1 waiting for the datastore, 2 listing it, 3 in sync.
    pub resync_state: Level,
    /// Calls of the CNI plugin, by call and outcome.
    pub cni_calls: Family<Call, Counter>,
    /// From the plugin's word that a pod's interface exists to its route and policy in the kernel, seconds.
    pub time_to_policy: Histogram,
    /// What the time of ADDs goes into, by stage, seconds.
    add_stages: Family<Stage, Histogram>,
    /// DELs whose addresses are still to be released.
    pub releases_pending: Level,
    /// Handles whose addresses nobody on this node seems to use.
    pub ipam_suspects: Level,
    /// Addresses that nobody on this node used and that were taken back.
    pub ipam_reclaimed: Counter,
    /// MTU of pods, bytes.
    pub mtu: Level,
    /// Pods whose interface has another MTU.
    pub mtu_mismatches: Level,
    /// Packets that rules dropped and logged, by policy and direction.
    pub denied: Family<Denied, Counter>,
    /// Such packets that were not read in time.
    pub denied_lost: Counter,
}

/// A figure that goes up and down.
pub type Level = Gauge<i64, AtomicI64>;

/// Which kind of kernel state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    pub kind: String,
}

/// Which policy dropped, or what else did: `end of tier`, `no profile`, `closed`; beyond some hundred `other`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Denied {
    pub policy: String,
    pub direction: String,
}

/// Why a setting is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

impl Reason {
    pub fn new(reason: &'static str) -> Self {
        Self { reason }
    }
}

/// Which call of the CNI plugin, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    pub call: String,
    pub outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Host {
    host: String,
}

/// What an ADD is at. Pods whose endpoints come in one turn of the dataplane share its stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddStage {
    /// A request of the plugin is read.
    Decode,
    /// The pod's annotations, its addresses.
    Allocate,
    /// The plugin makes the veth, between its two requests.
    Link,
    /// The endpoint is kept on disk.
    Store,
    /// It waits for the dataplane's turn before.
    Queue,
    /// What the pod needs is calculated and rendered.
    Calculate,
    /// Sets, chains and dispatch are written into the kernel.
    Policy,
    /// Route, neighbour and sysctls are.
    Routes,
    /// The plugin is answered.
    Reply,
}

impl AddStage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Allocate => "allocate",
            Self::Link => "link",
            Self::Store => "store",
            Self::Queue => "queue",
            Self::Calculate => "calculate",
            Self::Policy => "policy",
            Self::Routes => "routes",
            Self::Reply => "reply",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

impl Kind {
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into() }
    }
}

impl Metrics {
    pub fn new(node: &str) -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            apply_time: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            apply_failures: Counter::default(),
            pending: Family::default(),
            ignored_settings: Family::default(),
            problems: Level::default(),
            start_settings_ignored: Level::default(),
            programming_latency: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            lock_wait: Histogram::new(exponential_buckets(0.000_1, 4.0, 9)),
            restore_time: Histogram::new(exponential_buckets(0.001, 2.0, 13)),
            resyncs: Family::default(),
            repairs: Family::default(),
            local_endpoints: Level::default(),
            local_policies: Level::default(),
            ip_sets: Level::default(),
            chains: Level::default(),
            routes: Level::default(),
            resync_state: Level::default(),
            cni_calls: Family::default(),
            time_to_policy: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            add_stages: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_05, 2.0, 15))
            }),
            releases_pending: Level::default(),
            ipam_suspects: Level::default(),
            ipam_reclaimed: Counter::default(),
            mtu: Level::default(),
            mtu_mismatches: Level::default(),
            denied: Family::default(),
            denied_lost: Counter::default(),
        };
        metrics.register(node);
        metrics
    }

    fn register(&self, node: &str) {
        let host: Family<Host, Level> = Family::default();
        host.get_or_create(&Host { host: node.to_owned() }).set(1);
        self.resync_state.set(1);
        let mut registry = self.registry.lock();
        registry.register("felix_host", "Constant 1 with the node's name", host);
        self.register_kernel(&mut registry);
        self.register_pods(&mut registry);
    }

    /// What was written into the kernel, and what was not.
    fn register_kernel(&self, r: &mut Registry) {
        r.register(
            "felix_int_dataplane_apply_time_seconds",
            "Time of one apply to the kernel",
            self.apply_time.clone(),
        );
        r.register(
            "felix_int_dataplane_failures",
            "Applies that left something to be retried",
            self.apply_failures.clone(),
        );
        r.register(
            "felix_int_dataplane_pending",
            "Kernel entries that wait for a retry, by kind",
            self.pending.clone(),
        );
        r.register(
            "felix_settings_ignored",
            "Settings that are not in force as they were given, by reason",
            self.ignored_settings.clone(),
        );
        r.register(
            "felix_problems",
            "What is not in force as wanted, see NodePolicyStatus",
            self.problems.clone(),
        );
        r.register(
            "felix_start_settings_ignored",
            "Variables of the environment that say otherwise than the pools that exist",
            self.start_settings_ignored.clone(),
        );
        r.register(
            "felix_policy_programming_latency_seconds",
            "From a change in the datastore to the kernel",
            self.programming_latency.clone(),
        );
        r.register(
            "felix_iptables_lock_acquire_seconds",
            "Wait for the lock that programs of iptables-legacy share",
            self.lock_wait.clone(),
        );
        r.register("felix_iptables_restore_seconds", "Runs of iptables-restore", self.restore_time.clone());
        r.register("felix_dataplane_resyncs", "Comparisons with the kernel, by kind", self.resyncs.clone());
        r.register(
            "felix_dataplane_repairs",
            "Entries put right after somebody else changed them, by kind",
            self.repairs.clone(),
        );
        r.register("felix_active_local_endpoints", "Pods of this node", self.local_endpoints.clone());
        r.register(
            "felix_active_local_policies",
            "Policies that apply to a pod of this node",
            self.local_policies.clone(),
        );
        r.register("felix_ipsets_calico", "IP sets of ours", self.ip_sets.clone());
        r.register("felix_iptables_chains", "Chains of ours, all tables", self.chains.clone());
        r.register("felix_route_table_num_routes", "Routes to pods of this node", self.routes.clone());
        r.register(
            "felix_resync_state",
            "1 waiting for the datastore, 2 listing, 3 in sync",
            self.resync_state.clone(),
        );
    }

    /// What pods came and went, and which of their packets were dropped.
    fn register_pods(&self, r: &mut Registry) {
        r.register("felix_cni_calls", "Calls of the CNI plugin, by call and outcome", self.cni_calls.clone());
        r.register(
            "felix_time_to_policy_seconds",
            "From a pod's interface to its route and policy in the kernel",
            self.time_to_policy.clone(),
        );
        r.register(
            "felix_cni_add_stage_seconds",
            "What the time of ADDs goes into; decode, allocate, link (the plugin makes the veth), store, queue, calculate, policy, routes, reply",
            self.add_stages.clone(),
        );
        r.register(
            "felix_releases_pending",
            "Deleted containers whose addresses are still to be released",
            self.releases_pending.clone(),
        );
        r.register(
            "felix_ipam_suspects",
            "Containers and pods of this node that hold addresses which nobody seems to use",
            self.ipam_suspects.clone(),
        );
        r.register(
            "felix_ipam_reclaimed_addresses",
            "Addresses taken back because nobody on this node used them",
            self.ipam_reclaimed.clone(),
        );
        r.register("felix_pod_mtu_bytes", "MTU of pods", self.mtu.clone());
        r.register(
            "felix_pod_mtu_mismatches",
            "Pods whose interface has another MTU than pods get now",
            self.mtu_mismatches.clone(),
        );
        r.register(
            "felix_denied_packets",
            "Packets that rules dropped and logged, by policy; rules log a limited number a second",
            self.denied.clone(),
        );
        r.register(
            "felix_denied_packets_lost",
            "Logged packets that were not read in time",
            self.denied_lost.clone(),
        );
    }

    /// Figures that are read when somebody scrapes.
    pub fn collect(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// An ADD was at a stage for so long.
    pub fn add_stage(&self, stage: AddStage, took: Duration) {
        self.add_stages.get_or_create(&Stage { stage: stage.as_str() }).observe(took.as_secs_f64());
    }

    /// `/metrics`
    pub fn scrape(&self) -> Response {
        Response::metrics(&self.registry.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_what_was_counted() {
        let metrics = Metrics::new("n1");
        metrics.pending.get_or_create(&Kind::new("route")).set(2);
        metrics.apply_failures.inc();

        let body = metrics.scrape().body;

        for line in [
            r#"felix_host{host="n1"} 1"#,
            r#"felix_int_dataplane_pending{kind="route"} 2"#,
            "felix_int_dataplane_failures_total 1",
            "felix_resync_state 1",
        ] {
            assert!(body.lines().any(|l| l == line), "{line} is missing in:\n{body}");
        }
    }
}
