//! What the time of one turn of the thread goes into, for the pods that are told of it.

use std::time::{Duration, Instant};

use felix_dataplane::Step;

use crate::metrics::AddStage;

/// Times of the present turn.
#[derive(Debug)]
pub(super) struct Turn {
    last: Instant,
    calculate: Duration,
    policy: Duration,
    routes: Duration,
}

impl Turn {
    pub(super) fn begin(now: Instant) -> Self {
        Self { last: now, calculate: Duration::ZERO, policy: Duration::ZERO, routes: Duration::ZERO }
    }

    /// All that policy asks for is known.
    pub(super) fn calculated(&mut self, now: Instant) {
        let took = self.lap(now);
        self.calculate += took;
    }

    /// The dataplane has done a step.
    pub(super) fn stepped(&mut self, step: Step, now: Instant) {
        let took = self.lap(now);
        match step {
            Step::Policy => self.policy += took,
            Step::ReadBack | Step::Routes => self.routes += took,
        }
    }

    /// What the metrics are to hear.
    pub(super) fn stages(&self) -> [(AddStage, Duration); 3] {
        [
            (AddStage::Calculate, self.calculate),
            (AddStage::Policy, self.policy),
            (AddStage::Routes, self.routes),
        ]
    }

    fn lap(&mut self, now: Instant) -> Duration {
        let took = now.saturating_duration_since(self.last);
        self.last = now;
        took
    }
}
