//! What the dataplane did, for logs and metrics: changes and failures once, never the same twice in a row.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use felix_calc::Change;
use felix_dataplane::{Dataplane, Failed, Kind, Ports, Report, Status};
use model::SettingNote;

use crate::metrics::{AddStage, Kind as KindLabel, Metrics, Reason};

/// Remembers what was logged.
pub struct Journal {
    metrics: Arc<Metrics>,
    failing: BTreeSet<(Kind, String, String)>,
    endpoints: BTreeSet<String>,
    policies: BTreeSet<String>,
    notes: Vec<SettingNote>,
    problems: Vec<String>,
}

impl Journal {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            failing: BTreeSet::new(),
            endpoints: BTreeSet::new(),
            policies: BTreeSet::new(),
            notes: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// The datastore has told everything once.
    pub fn in_sync(&self) {
        self.metrics.resync_state.set(3);
        tracing::info!("datastore in sync");
    }

    /// The calculation said something.
    pub fn change(&mut self, change: &Change) {
        let set = |set: &mut BTreeSet<String>, key: String, is_there: bool| {
            if is_there {
                set.insert(key);
            } else {
                set.remove(&key);
            }
        };
        match change {
            Change::Endpoint(interface, endpoint) => {
                set(&mut self.endpoints, interface.clone(), endpoint.is_some());
                self.metrics.local_endpoints.set(self.endpoints.len() as i64);
            }
            Change::Policy(key, policy) => {
                set(&mut self.policies, key.to_string(), policy.is_some());
                self.metrics.local_policies.set(self.policies.len() as i64);
            }
            _ => {}
        }
    }

    /// Settings that are not in force as they were given.
    pub fn settings(&mut self, notes: &[SettingNote]) {
        for note in notes.iter().filter(|note| !self.notes.contains(note)) {
            tracing::warn!(setting = %note, "not in force as given");
        }
        for reason in ["unknown", "invalid", "not-acted-upon"] {
            let count = notes.iter().filter(|note| note.reason.as_str() == reason).count();
            self.metrics.ignored_settings.get_or_create(&Reason::new(reason)).set(count as i64);
        }
        self.notes = notes.to_vec();
    }

    /// What is not in force as somebody wants it, apart from settings.
    pub fn problems(&mut self, problems: &[String]) {
        if self.problems == problems {
            return;
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)).take(MAX_LINES) {
            tracing::warn!(problem, "not in force as wanted");
        }
        self.metrics.problems.set(problems.len() as i64);
        self.problems = problems.to_vec();
    }

    /// An ADD was at a stage for so long.
    pub fn add_stage(&self, stage: AddStage, took: Duration) {
        self.metrics.add_stage(stage, took);
    }

    /// What the datastore told so long ago is in the kernel now.
    pub fn latency(&self, latency: Option<Duration>) {
        if let Some(latency) = latency {
            self.metrics.programming_latency.observe(latency.as_secs_f64());
        }
    }

    /// An apply is done.
    pub fn applied<P: Ports>(
        &mut self,
        report: &Report,
        dataplane: &Dataplane<P>,
        time: Duration,
        is_first: bool,
    ) {
        for (kind, found) in &report.resynced {
            let label = KindLabel::new(kind.to_string());
            self.metrics.resyncs.get_or_create(&label).inc();
            if *found > 0 {
                self.metrics.repairs.get_or_create(&label).inc_by(*found as u64);
                tracing::info!(%kind, entries = found, "somebody else changed what is ours; putting it right");
            }
        }
        for (_, times) in &report.restores {
            self.metrics.lock_wait.observe(times.lock_wait.as_secs_f64());
            self.metrics.restore_time.observe(times.run.as_secs_f64());
        }
        if report.changed.is_empty() && report.failed.is_empty() && report.resynced.is_empty() && !is_first {
            return;
        }
        self.metrics.apply_time.observe(time.as_secs_f64());
        if !report.failed.is_empty() {
            self.metrics.apply_failures.inc();
        }
        let status = dataplane.status();
        self.measure(&status);
        self.name_failures(status.failing);
        let milliseconds = time.as_millis() as u64;
        if is_first {
            tracing::info!(changed = ?report.changed, milliseconds, "kernel brought in line");
        } else if !report.changed.is_empty() {
            tracing::debug!(changed = ?report.changed, milliseconds, "applied");
        }
    }

    fn measure(&self, status: &Status) {
        for (kind, pending) in &status.pending {
            let label = KindLabel::new(kind.to_string());
            self.metrics.pending.get_or_create(&label).set(*pending as i64);
        }
        let wanted = |is: fn(&Kind) -> bool| {
            let of_kind = status.wanted.iter().filter(|(kind, _)| is(kind));
            of_kind.map(|(_, wanted)| *wanted as i64).sum::<i64>()
        };
        self.metrics.ip_sets.set(wanted(|kind| *kind == Kind::IpSets));
        self.metrics.chains.set(wanted(|kind| matches!(kind, Kind::Chains(_))));
        self.metrics.routes.set(wanted(|kind| *kind == Kind::Routes));
    }

    /// Logs what began or ceased to fail.
    fn name_failures(&mut self, failing: Vec<Failed>) {
        let failing: BTreeSet<_> =
            failing.into_iter().map(|failed| (failed.kind, failed.what, failed.error)).collect();
        for (kind, what, error) in failing.difference(&self.failing).take(MAX_LINES) {
            tracing::warn!(%kind, what, error, "cannot be written yet; will be retried");
        }
        let still: BTreeSet<_> = failing.iter().map(|(kind, what, _)| (kind, what)).collect();
        let is_over = |(kind, what, _): &&(Kind, String, String)| !still.contains(&(kind, what));
        for (kind, what, _) in self.failing.iter().filter(is_over).take(MAX_LINES) {
            tracing::info!(%kind, what, "fails no longer");
        }
        self.failing = failing;
    }
}

/// So many failures are logged one by one at a time; metrics count them all.
const MAX_LINES: usize = 20;
