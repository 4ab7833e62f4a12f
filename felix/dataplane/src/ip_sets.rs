//! IP sets: the renderer's differences, and when the kernel's sets are looked at again.

use std::time::{Duration, Instant};

use felix_render::IpSetChange;
use kernel::{Applied, IpSetName, IpSetPort, IpSets};

use crate::audit::{Difference, KindAudit};
use crate::status::{Failed, Kind, Report, Status};

/// How often each set is asked for two of its members: the kernel tells nobody when somebody flushes a set.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// First pause after reading back failed; it doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const KIND: Kind = Kind::IpSets;

pub(crate) struct SetStage<D> {
    pub(crate) sets: IpSets<D>,
    /// Everything is read at the first apply at or after this.
    resync_at: Option<Instant>,
    /// Sets are asked for members at the first apply at or after this.
    check_at: Option<Instant>,
    /// `None`: never by itself.
    refresh: Option<Duration>,
    list_failures: u32,
    list_error: Option<String>,
    was_read: bool,
}

impl<D: IpSetPort> SetStage<D> {
    pub(crate) fn new(driver: D) -> Self {
        Self {
            sets: IpSets::new(driver),
            resync_at: None,
            check_at: None,
            refresh: None,
            list_failures: 0,
            list_error: None,
            was_read: false,
        }
    }

    /// Wants what a change leads to.
    pub(crate) fn want(&mut self, name: IpSetName, change: IpSetChange) {
        match change {
            IpSetChange::Full(set) => self.sets.set(name, &set),
            IpSetChange::Delta { added, removed } => self.sets.change(&name, added, &removed),
            IpSetChange::Gone => self.sets.remove(&name),
        }
    }

    /// Wants no set of ours in the kernel any more.
    pub(crate) fn want_nothing(&mut self, now: Instant) {
        let names: Vec<_> = self.sets.all_wanted().map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.sets.remove(name));
        self.resync_at(now);
    }

    /// Reads everything at the first apply at or after `at`, or earlier when that was already asked for.
    pub(crate) fn resync_at(&mut self, at: Instant) {
        self.resync_at = Some(self.resync_at.map_or(at, |other| other.min(at)));
    }

    /// Reads everything regularly from now on; zero means never, and no asking for members either.
    pub(crate) fn set_refresh(&mut self, interval: Duration, now: Instant) {
        let interval = (!interval.is_zero()).then_some(interval);
        if interval == self.refresh {
            return;
        }
        self.refresh = interval;
        self.check_at = interval.map(|_| now + CHECK_INTERVAL);
        if let Some(interval) = interval {
            self.resync_at(now + interval);
        }
    }

    /// Reads back, or asks for members, if that is due.
    pub(crate) fn resync_if_due(&mut self, now: Instant, report: &mut Report) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_whole = is_due(self.resync_at);
        let is_checked = is_due(self.check_at) && self.was_read;
        if !is_whole && !is_checked {
            return;
        }
        let before = self.sets.pending();
        self.check_at = self.refresh.map(|_| now + CHECK_INTERVAL);
        match if is_whole { self.sets.resync() } else { self.sets.check() } {
            Ok(pending) => {
                let found = if self.was_read { pending.saturating_sub(before) } else { 0 };
                if is_whole {
                    self.was_read = true;
                    self.resync_at = self.refresh.map(|interval| now + interval);
                }
                if is_whole || found > 0 {
                    report.resynced.insert(KIND, found);
                }
                self.list_failures = 0;
                self.list_error = None;
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.list_failures.min(16)).min(LONGEST_PAUSE);
                self.list_failures = self.list_failures.saturating_add(1);
                self.resync_at = Some(now + pause);
                let error = error.to_string();
                report.failed.push(failed_list(&error));
                self.list_error = Some(error);
            }
        }
    }

    /// Writes what is wanted: before chains refer to it.
    pub(crate) fn apply_puts(&mut self, now: Instant, report: &mut Report) {
        let applied = self.sets.apply_puts(now);
        note(applied, report);
    }

    /// Destroys what is not wanted: after no chain refers to it any more.
    pub(crate) fn apply_deletes(&mut self, now: Instant, report: &mut Report) {
        let applied = self.sets.apply_deletes(now);
        note(applied, report);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let check_at = self.check_at.filter(|_| self.was_read);
        [self.sets.poll_timeout(), self.resync_at, check_at].into_iter().flatten().min()
    }

    pub(crate) fn add_to(&self, status: &mut Status) {
        status.wanted.insert(KIND, self.sets.all_wanted().len());
        status.pending.insert(KIND, self.sets.pending());
        for (name, error) in self.sets.failing() {
            status.failing.push(Failed { kind: KIND, what: name.to_string(), error: error.to_owned() });
        }
        status.failing.extend(self.list_error.as_deref().map(failed_list));
    }

    /// Reads the kernel's sets and compares.
    pub(crate) fn audit(&mut self) -> KindAudit {
        let mut audit = KindAudit { intended: self.sets.all_wanted().len(), ..KindAudit::default() };
        match self.sets.resync() {
            Ok(_) => {
                let differences = self.sets.differences().into_iter();
                let differences = differences.map(|(name, intended, actual)| Difference {
                    what: name.to_string(),
                    intended,
                    actual,
                });
                audit.differences = differences.collect();
            }
            Err(error) => audit.error = Some(error.to_string()),
        }
        audit
    }

    /// Why a set cannot be referred to; `None` when it is in the kernel as wanted.
    pub(crate) fn missing(&self, name: &IpSetName) -> Option<String> {
        if self.sets.wanted(name).is_none() {
            return Some(format!("IP set {name} is not known"));
        }
        if !self.sets.is_pending(name) {
            return None;
        }
        Some(match self.sets.error(name) {
            Some(error) => format!("{KIND} {name}: {error}"),
            None => format!("{KIND} {name} is not written yet"),
        })
    }
}

fn note(applied: Applied<IpSetName>, report: &mut Report) {
    let changed = applied.written + applied.deleted;
    if changed > 0 {
        *report.changed.entry(KIND).or_default() += changed;
    }
    for (name, error) in applied.failed {
        report.failed.push(Failed { kind: KIND, what: name.to_string(), error: error.to_string() });
    }
}

fn failed_list(error: &str) -> Failed {
    Failed { kind: KIND, what: "all (cannot be read back)".to_owned(), error: error.to_owned() }
}
