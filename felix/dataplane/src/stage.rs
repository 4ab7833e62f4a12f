//! One kind of kernel state with the wish to read it back.

use std::fmt;
use std::time::{Duration, Instant};

use kernel::{Applied, Driver, Table};

use crate::status::{Failed, Kind, Report, Status};

/// First pause after reading back failed; it doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A table that is read back when asked to, or when its refresh is due.
pub(crate) struct Stage<D: Driver> {
    pub(crate) kind: Kind,
    pub(crate) table: Table<D>,
    pub(crate) describe: fn(&D::Key) -> String,
    /// Read back at the first apply at or after this.
    resync_at: Option<Instant>,
    /// `None`: never by itself.
    refresh: Option<Duration>,
    list_failures: u32,
    list_error: Option<String>,
    was_read: bool,
}

impl<D: Driver> Stage<D> {
    pub(crate) fn new(kind: Kind, driver: D, describe: fn(&D::Key) -> String) -> Self {
        Self {
            kind,
            table: Table::new(driver),
            describe,
            resync_at: None,
            refresh: None,
            list_failures: 0,
            list_error: None,
            was_read: false,
        }
    }

    /// Reads back at the first apply at or after `at`, or earlier when that was already asked for.
    pub(crate) fn resync_at(&mut self, at: Instant) {
        self.resync_at = Some(self.resync_at.map_or(at, |other| other.min(at)));
    }

    /// Reads back regularly from now on; zero means never.
    pub(crate) fn set_refresh(&mut self, interval: Duration, now: Instant) {
        let interval = (!interval.is_zero()).then_some(interval);
        if interval == self.refresh {
            return;
        }
        self.refresh = interval;
        if let Some(interval) = interval {
            self.resync_at(now + interval);
        }
    }

    /// Reads back if that is due.
    pub(crate) fn resync_if_due(&mut self, now: Instant, report: &mut Report) {
        if self.resync_at.is_none_or(|at| at > now) {
            return;
        }
        let before = self.table.pending();
        match self.table.resync() {
            Ok(pending) => {
                let found = if self.was_read { pending.saturating_sub(before) } else { 0 };
                report.resynced.insert(self.kind, found);
                self.was_read = true;
                self.list_failures = 0;
                self.list_error = None;
                self.resync_at = self.refresh.map(|interval| now + interval);
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.list_failures.min(16)).min(LONGEST_PAUSE);
                self.list_failures = self.list_failures.saturating_add(1);
                self.resync_at = Some(now + pause);
                let error = error.to_string();
                report.failed.push(self.failed_list(&error));
                self.list_error = Some(error);
            }
        }
    }

    /// Notes in the report what was done.
    fn note(&self, applied: Applied<D::Key>, report: &mut Report) {
        let changed = applied.written + applied.deleted;
        if changed > 0 {
            *report.changed.entry(self.kind).or_default() += changed;
        }
        for (key, error) in applied.failed {
            let what = (self.describe)(&key);
            report.failed.push(Failed { kind: self.kind, what, error: error.to_string() });
        }
    }

    pub(crate) fn apply(&mut self, now: Instant, report: &mut Report) {
        let applied = self.table.apply(now);
        self.note(applied, report);
    }

    /// Only writes: for what others are about to refer to.
    pub(crate) fn apply_puts(&mut self, now: Instant, report: &mut Report) {
        let applied = self.table.apply_puts(now);
        self.note(applied, report);
    }

    /// Only deletes, but for what is still needed.
    pub(crate) fn apply_deletes_but(
        &mut self,
        now: Instant,
        report: &mut Report,
        spared: impl Fn(&D::Key) -> bool,
    ) {
        let applied = self.table.apply_deletes_but(now, spared);
        self.note(applied, report);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.table.poll_timeout(), self.resync_at].into_iter().flatten().min()
    }

    pub(crate) fn add_to(&self, status: &mut Status) {
        status.wanted.insert(self.kind, self.table.desired().len());
        status.pending.insert(self.kind, self.table.pending());
        for (key, error) in self.table.failing() {
            let what = (self.describe)(key);
            status.failing.push(Failed { kind: self.kind, what, error: error.to_owned() });
        }
        if let Some(error) = &self.list_error {
            status.failing.push(self.failed_list(error));
        }
    }

    /// Says of a key what is wrong with it; `None` when the kernel holds what is wanted.
    pub(crate) fn missing(&self, key: &D::Key) -> Option<String> {
        if !self.table.is_pending(key) {
            return None;
        }
        Some(self.sentence(key, self.table.error(key)))
    }

    fn sentence(&self, key: &D::Key, error: Option<impl fmt::Display>) -> String {
        let what = (self.describe)(key);
        match error {
            Some(error) => format!("{} {what}: {error}", self.kind),
            None => format!("{} {what} is not written yet", self.kind),
        }
    }

    fn failed_list(&self, error: &str) -> Failed {
        Failed { kind: self.kind, what: "all (cannot be read back)".to_owned(), error: error.to_owned() }
    }
}
