//! Chains and hooks of one family, and what becomes of a chain whose IP sets are not there.
//!
//! A rule that looks up a set which does not exist would make the kernel refuse its whole table. So such a
//! chain stays as it was last written; one that never was is written closed. The rest of the table goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kernel::{
    Chain, ChainName, Hook, HookName, IpSetName, Iptables, IptablesDriver, IptablesTable, PacketRule, Part,
    RuleAction,
};
use model::{ChainInsertMode, Family};

use crate::audit::{Difference, KindAudit};
use crate::status::{Failed, Kind, Report, Status};

/// How often the driver is asked whether somebody else has written, where it can tell.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Others' writes lead to reading back at most so often.
const SELDOM: Duration = Duration::from_millis(500);
/// How long chains of pods that were deleted are gathered, to be taken away together.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest pause between two looks after a write.
const LAST_CHECK: Duration = Duration::from_secs(3600);
/// Chains in which nothing may pass when they are not what they should be.
const CLOSED_PREFIXES: [&str; 6] = ["cali-pi-", "cali-po-", "cali-pri-", "cali-pro-", "cali-tw-", "cali-fw-"];

pub(crate) type Key = (IptablesTable, ChainName);

pub(crate) struct Chains<D> {
    pub(crate) family: Family,
    iptables: Iptables<D>,
    wanted: BTreeMap<Key, Chain>,
    /// Changed since they were last handed over.
    changed: BTreeSet<Key>,
    /// Not handed over as wanted, with the reason.
    blocked: BTreeMap<Key, String>,
    /// Handed over as wanted once, so that the kernel holds the present or an earlier wish.
    handed: BTreeSet<Key>,
    /// Tables with changes that are not in the kernel yet.
    unwritten: BTreeSet<IptablesTable>,
    list_error: Option<String>,
    resync_at: Option<Instant>,
    refresh: Option<Duration>,
    /// First look after a write; `None`: never.
    check_after: Option<Duration>,
    /// Pause before the next look, which doubles each time.
    next_check: Option<Duration>,
    /// The longest run of a write so far, with its wait for the lock.
    peak: Duration,
    /// When the driver is asked next whether somebody else has written.
    watch_at: Option<Instant>,
    /// Somebody else has written since all was read.
    is_disturbed: bool,
    /// When all was read last because of that.
    disturbed_at: Option<Instant>,
    was_read: bool,
}

impl<D: IptablesDriver> Chains<D> {
    pub(crate) fn new(family: Family, driver: D) -> Self {
        Self {
            family,
            iptables: Iptables::new(driver, ChainInsertMode::default()).with_patience(PATIENCE),
            wanted: BTreeMap::new(),
            changed: BTreeSet::new(),
            blocked: BTreeMap::new(),
            handed: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            list_error: None,
            resync_at: None,
            refresh: None,
            check_after: None,
            next_check: None,
            peak: Duration::ZERO,
            watch_at: None,
            is_disturbed: false,
            disturbed_at: None,
            was_read: false,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::Chains(self.family)
    }

    pub(crate) fn want_chain(&mut self, table: IptablesTable, name: ChainName, chain: Option<Chain>) {
        let key = (table, name);
        match chain {
            Some(chain) => self.wanted.insert(key.clone(), chain),
            None => self.wanted.remove(&key),
        };
        self.changed.insert(key);
    }

    pub(crate) fn want_hook(&mut self, table: IptablesTable, name: HookName, hook: Hook) {
        self.iptables.set_hook(table, name, hook);
        self.unwritten.insert(table);
    }

    /// The rules that are wanted in a chain of ours.
    pub(crate) fn rules(&self, table: IptablesTable, name: &ChainName) -> Option<&[PacketRule]> {
        Some(&self.wanted.get(&(table, name.clone()))?.rules)
    }

    /// What is wanted in a chain of the kernel.
    pub(crate) fn hook(&self, table: IptablesTable, name: HookName) -> Option<&Hook> {
        self.iptables.hook(table, name)
    }

    pub(crate) fn set_insert_mode(&mut self, mode: ChainInsertMode) {
        self.iptables.set_insert_mode(mode);
        self.unwritten.extend(IptablesTable::ALL);
    }

    pub(crate) fn resync_at(&mut self, at: Instant) {
        self.resync_at = Some(self.resync_at.map_or(at, |other| other.min(at)));
    }

    /// Reads back regularly from now on; zero means never.
    pub(crate) fn set_refresh(&mut self, interval: Duration, now: Instant) {
        let interval = (!interval.is_zero()).then_some(interval);
        if interval != self.refresh {
            self.refresh = interval;
            interval.into_iter().for_each(|interval| self.resync_at(now + interval));
        }
    }

    /// Looks again so long after a write, and then less and less often; zero means never.
    pub(crate) fn set_check_after(&mut self, interval: Duration) {
        self.check_after = (!interval.is_zero()).then_some(interval);
    }

    /// Somebody wrote rules; says whether it was somebody else.
    pub(crate) fn written_by(&mut self, writer: u32, now: Instant) -> bool {
        let is_foreign = !self.iptables.driver().has_written(writer);
        if is_foreign {
            self.disturbed(now);
        }
        is_foreign
    }

    /// Somebody else wrote what may concern us: reads back soon.
    pub(crate) fn disturbed(&mut self, now: Instant) {
        self.is_disturbed = true;
        self.resync_at(self.disturbed_at.map_or(now, |last| now.max(last + SELDOM)));
    }

    /// Wants nothing of ours in the kernel any more.
    pub(crate) fn want_nothing(&mut self, now: Instant) {
        for (table, name) in std::mem::take(&mut self.wanted).into_keys() {
            self.changed.insert((table, name));
        }
        self.iptables.clear_hooks();
        self.iptables.take_away_at_once();
        self.unwritten.extend(IptablesTable::ALL);
        self.resync_at(now);
    }

    /// Goes on through another driver; returns the one used so far, behind which everything is as it was.
    pub(crate) fn replace_driver(&mut self, driver: D, now: Instant) -> D {
        self.unwritten.extend(IptablesTable::ALL);
        self.was_read = false;
        self.watch_at = None;
        self.resync_at(now);
        self.iptables.replace_driver(driver)
    }

    /// Reads the kernel's chains and compares.
    pub(crate) fn audit(&mut self) -> KindAudit {
        let mut audit = KindAudit { intended: self.wanted.len(), ..KindAudit::default() };
        match self.iptables.resync() {
            Ok(_) => {
                let differences = self.iptables.differences().into_iter();
                let differences =
                    differences.map(|(what, intended, actual)| Difference { what, intended, actual });
                audit.differences = differences.collect();
                // So that the next apply writes.
                if !audit.differences.is_empty() {
                    self.unwritten.extend(IptablesTable::ALL);
                }
            }
            Err(error) => audit.error = Some(error.to_string()),
        }
        for ((table, name), reason) in &self.blocked {
            let what = format!("table {}: chain {name}", table.name());
            let (intended, actual) = (Some("its rules".to_owned()), Some(format!("held back: {reason}")));
            audit.differences.push(Difference { what, intended, actual });
        }
        audit
    }

    /// Are there chains that go a little later, and may refer to sets that are not wanted?
    pub(crate) fn gathers(&self) -> bool {
        self.iptables.gathers()
    }

    /// Is everything in the kernel, as far as is known?
    pub(crate) fn is_settled(&self) -> bool {
        self.was_read && self.unwritten.is_empty() && self.blocked.is_empty() && self.iptables.is_settled()
    }

    /// Reads back if that is due, and writes what differs and can be written.
    pub(crate) fn apply(
        &mut self,
        now: Instant,
        report: &mut Report,
        missing_set: impl Fn(&IpSetName) -> Option<String>,
    ) {
        self.hand_over(missing_set);
        self.watch(now);
        let is_due = self.resync_at.is_some_and(|at| at <= now);
        if is_due {
            self.read_back(now, report);
        }
        let is_retry = self.iptables.poll_timeout().is_some_and(|at| at <= now);
        if is_due || is_retry || !self.unwritten.is_empty() {
            self.write(now, report);
        }
    }

    /// Asks the driver whether somebody else has written, if that is due.
    fn watch(&mut self, now: Instant) {
        if self.watch_at.is_some_and(|at| at <= now) {
            self.watch_at = Some(now + WATCH_INTERVAL);
            if self.iptables.is_disturbed() {
                self.disturbed(now);
            }
        }
    }

    /// Plans the next look after a write, or after a look that found everything in order.
    fn check_later(&mut self, now: Instant, has_written: bool) {
        let Some(first) = self.check_after else { return };
        let first = first.max(2 * self.peak);
        let pause = match self.next_check {
            Some(pause) if !has_written => pause,
            None if !has_written => return,
            _ => first,
        };
        self.next_check = Some(2 * pause).filter(|next| *next <= self.refresh.unwrap_or(LAST_CHECK));
        self.resync_at(now + pause);
    }

    fn hand_over(&mut self, missing_set: impl Fn(&IpSetName) -> Option<String>) {
        let open: BTreeSet<Key> =
            self.blocked.keys().cloned().chain(std::mem::take(&mut self.changed)).collect();
        for key in open {
            let (table, name) = &key;
            let Some(chain) = self.wanted.get(&key) else {
                self.iptables.set_chain(*table, name.clone(), None);
                self.unwritten.insert(*table);
                self.blocked.remove(&key);
                self.handed.remove(&key);
                continue;
            };
            match chain.rules.iter().flat_map(PacketRule::sets).find_map(&missing_set) {
                None => {
                    self.iptables.set_chain(*table, name.clone(), Some(chain.clone()));
                    self.unwritten.insert(*table);
                    self.blocked.remove(&key);
                    self.handed.insert(key);
                }
                Some(reason) => {
                    if !self.handed.contains(&key) {
                        let closed = closed(chain, &missing_set);
                        self.iptables.set_chain(*table, name.clone(), Some(closed));
                        self.unwritten.insert(*table);
                    }
                    self.blocked.insert(key, reason);
                }
            }
        }
    }

    fn read_back(&mut self, now: Instant, report: &mut Report) {
        if std::mem::take(&mut self.is_disturbed) {
            self.disturbed_at = Some(now);
        }
        self.resync_at = self.refresh.map(|interval| now + interval);
        self.check_later(now, false);
        match self.iptables.resync() {
            Ok(different) => {
                let is_news =
                    self.was_read && self.unwritten.is_empty() && self.iptables.refused().next().is_none();
                report.resynced.insert(self.kind(), if is_news { different } else { 0 });
                self.was_read = true;
            }
            // `write` reads again, and reports what happens.
            Err(_) => self.iptables.invalidate(),
        }
    }

    fn write(&mut self, now: Instant, report: &mut Report) {
        if self.iptables.is_unreadable() && self.iptables.poll_timeout().is_some_and(|at| at > now) {
            return;
        }
        let result = self.iptables.apply(now);
        if let Some(times) = self.iptables.driver_mut().take_times() {
            self.peak = self.peak.max(times.lock_wait + times.run);
            report.restores.push((self.family, times));
        }
        if self.iptables.tells_disturbance() && self.watch_at.is_none() {
            self.watch_at = Some(now + WATCH_INTERVAL);
        }
        match result {
            Ok(applied) => {
                self.was_read = true;
                self.list_error = None;
                self.unwritten.clear();
                for refused in &applied.failed {
                    let error = refused.error.to_string();
                    report.failed.push(self.failed(Some((refused.table, &refused.part)), &error));
                }
                let changed = applied.chains_written + applied.chains_deleted + applied.hooks_written;
                if changed > 0 {
                    *report.changed.entry(self.kind()).or_default() += changed;
                    self.check_later(now, true);
                }
            }
            Err(error) => {
                let error = error.to_string();
                report.failed.push(self.failed(None, &error));
                self.list_error = Some(error);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.iptables.poll_timeout(), self.resync_at, self.watch_at].into_iter().flatten().min()
    }

    pub(crate) fn add_to(&self, status: &mut Status) {
        let pending = if self.was_read { self.iptables.pending() } else { self.wanted.len() };
        status.wanted.insert(self.kind(), self.wanted.len());
        status.pending.insert(self.kind(), pending + self.blocked.len() + self.changed.len());
        let refused = self.iptables.refused();
        let refused = refused.map(|(table, part, error)| self.failed(Some((table, part)), error));
        status.failing.extend(refused);
        status.failing.extend(self.list_error.iter().map(|error| self.failed(None, error)));
        for ((table, name), reason) in &self.blocked {
            let what = format!("chain {} {name}", table.name());
            status.failing.push(Failed { kind: self.kind(), what, error: reason.clone() });
        }
    }

    fn failed(&self, what: Option<(IptablesTable, &Part)>, error: &str) -> Failed {
        let what = match what {
            Some((table, part)) => format!("table {}: {part}", table.name()),
            None => "all tables (cannot be read back)".to_owned(),
        };
        Failed { kind: self.kind(), what, error: error.to_owned() }
    }

    /// The rules that are wanted in a chain of the filter table.
    pub(crate) fn filter_rules(&self, name: &ChainName) -> Option<&[PacketRule]> {
        self.wanted.get(&(IptablesTable::Filter, name.clone())).map(|chain| &*chain.rules)
    }

    /// Why a chain of the filter table is not in the kernel as wanted; `None` when it is.
    pub(crate) fn missing(&self, name: &ChainName) -> Option<String> {
        let key = (IptablesTable::Filter, name.clone());
        let kind = self.kind();
        if let Some(reason) = self.blocked.get(&key) {
            return Some(format!("{kind} chain {name}: {reason}"));
        }
        // Without its jumps no chain is reached; one that is to go harms nobody.
        let concerns = |part: &Part| match part {
            Part::Table | Part::Hooks => true,
            Part::Chain(refused) => refused == name,
            Part::Stale => false,
        };
        let mut refused = self.iptables.refused();
        let refused = refused.find(|(table, part, _)| *table == IptablesTable::Filter && concerns(part));
        if let Some(error) = refused.map(|(_, _, error)| error).or(self.list_error.as_deref()) {
            return Some(format!("{kind} chain {name}: {error}"));
        }
        let is_unwritten = self.changed.contains(&key) || self.unwritten.contains(&IptablesTable::Filter);
        is_unwritten.then(|| format!("{kind} chain {name} is not written yet"))
    }

    /// Does some chain of the filter table that is in the kernel lead to this one?
    pub(crate) fn is_referred_to(&self, name: &ChainName) -> bool {
        self.wanted.iter().any(|((table, chain), content)| {
            *table == IptablesTable::Filter
                && content.rules.iter().flat_map(PacketRule::targets).any(|target| target == name)
                && self.missing(chain).is_none()
        })
    }
}

/// A chain without the rules that look up missing sets; where policy is decided, nothing passes at all.
fn closed(chain: &Chain, missing_set: &impl Fn(&IpSetName) -> Option<String>) -> Chain {
    let name = chain.name.as_str();
    if CLOSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        let drop = PacketRule::new(RuleAction::Drop).comment("IP set missing");
        return Chain { name: chain.name.clone(), rules: [drop].into() };
    }
    let is_whole = |rule: &&PacketRule| rule.sets().all(|set| missing_set(set).is_none());
    Chain { name: chain.name.clone(), rules: chain.rules.iter().filter(is_whole).cloned().collect() }
}
