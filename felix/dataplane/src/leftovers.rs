//! What is behind a driver of iptables that is not used: chains and jumps of ours that would still take effect.
//!
//! Only what is recognised as ours goes. A failure is tried again at the next refresh, and stops nothing.

use std::time::{Duration, Instant};

use kernel::{Iptables, IptablesDriver};
use model::{ChainInsertMode, Family};

use crate::status::{Failed, Kind, Report};

/// How often it is looked at again: an old agent may still run, or come back.
const INTERVAL: Duration = Duration::from_secs(90);
/// After a sweep, or one that failed; doubles each time.
const SOON: Duration = Duration::from_secs(1);

pub(crate) struct Leftovers<D> {
    pub(crate) family: Family,
    /// Wants nothing.
    iptables: Iptables<D>,
    /// `None`: as soon as everything is behind the driver in use.
    at: Option<Instant>,
    /// Before the next look.
    pause: Duration,
}

impl<D: IptablesDriver> Leftovers<D> {
    pub(crate) fn new(family: Family, driver: D) -> Self {
        Self { family, iptables: Iptables::new(driver, ChainInsertMode::default()), at: None, pause: SOON }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }

    /// Sweeps, if that is due. Call it when everything is behind the driver in use.
    pub(crate) fn apply(&mut self, now: Instant, report: &mut Report) {
        if self.at.is_some_and(|at| at > now) {
            return;
        }
        self.iptables.invalidate();
        let result = self.iptables.apply(now);
        let mut is_clean = true;
        let failed: Vec<(String, String)> = match result {
            Ok(applied) => {
                let swept = applied.chains_deleted + applied.hooks_written;
                if swept > 0 {
                    *report.changed.entry(Kind::Leftovers(self.family)).or_default() += swept;
                    is_clean = false;
                }
                let failed = applied.failed.into_iter();
                failed.map(|refused| (refused.part.to_string(), refused.error.to_string())).collect()
            }
            Err(error) => vec![("everything".to_owned(), error.to_string())],
        };
        for (what, error) in failed {
            report.failed.push(Failed { kind: Kind::Leftovers(self.family), what, error });
            is_clean = false;
        }
        self.pause = if is_clean { INTERVAL } else { (2 * self.pause).min(INTERVAL) };
        self.at = Some(now + self.pause);
    }
}
