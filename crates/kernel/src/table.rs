//! One kind of kernel state: what it should hold, what it holds, and another try for what failed.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use delta::Delta;

use crate::driver::{Driver, Failures};
use crate::pauses::Pauses;

/// What one `apply` did.
#[derive(Debug)]
pub struct Applied<K> {
    pub written: usize,
    pub deleted: usize,
    /// Entries that failed in this run; they stay pending.
    pub failed: Failures<K>,
}

impl<K> Default for Applied<K> {
    fn default() -> Self {
        Self { written: 0, deleted: 0, failed: Vec::new() }
    }
}

impl<K> Applied<K> {
    /// Adds what another step of the same run did.
    pub fn merge(&mut self, other: Self) {
        self.written += other.written;
        self.deleted += other.deleted;
        self.failed.extend(other.failed);
    }
}

/// Tells the delta what was done to a key.
type Mark<D> = fn(&mut Delta<<D as Driver>::Key, <D as Driver>::Value>, &<D as Driver>::Key);

/// A kind of kernel state with its driver.
///
/// Bounded by the number of objects: what is set twice before an apply counts once, and a retry is forgotten
/// with its key. Before the first `resync` it writes what is wanted and deletes nothing.
pub struct Table<D: Driver> {
    driver: D,
    delta: Delta<D::Key, D::Value>,
    retries: Pauses<D::Key>,
}

impl<D: Driver> Table<D> {
    pub fn new(driver: D) -> Self {
        Self { driver, delta: Delta::with_matches(D::matches), retries: Pauses::default() }
    }

    /// Wants `key` to hold `value`, or not to exist. Nothing is written before `apply`.
    pub fn set(&mut self, key: D::Key, value: Option<D::Value>) {
        let changed = self.delta.desired().get(&key) != value.as_ref();
        if changed {
            // New content deserves a try at once.
            self.retries.forget(&key);
        }
        self.delta.set(key, value);
    }

    /// Wants exactly `desired`: sets these keys and unsets all others.
    pub fn set_all(&mut self, desired: BTreeMap<D::Key, D::Value>) {
        let gone = |key: &&D::Key| !desired.contains_key(*key);
        let gone: Vec<_> = self.delta.desired().keys().filter(gone).cloned().collect();
        gone.into_iter().for_each(|key| self.set(key, None));
        desired.into_iter().for_each(|(key, value)| self.set(key, Some(value)));
    }

    /// Reads the kernel's state and compares; what differs is pending. Returns how many entries differ.
    pub fn resync(&mut self) -> io::Result<usize> {
        self.delta.resync(self.driver.list()?);
        self.prune();
        Ok(self.delta.pending())
    }

    /// Forgets what the kernel holds for `key`, so that it is written again: for when the kernel dropped it by
    /// itself, as routes of a link that went down. A later `resync` finds what is there.
    pub fn forget(&mut self, key: &D::Key) {
        self.delta.set_actual(key.clone(), None);
        self.retries.forget(key);
    }

    /// Somebody else made `key` hold `value`, or deleted it: what is wanted is written at the next `apply`.
    pub fn observe(&mut self, key: D::Key, value: Option<D::Value>) {
        if !self.delta.is_pending(&key) {
            self.retries.forget(&key);
        }
        self.delta.set_actual(key, value);
    }

    /// Writes and deletes all that is pending and due at `now`.
    pub fn apply(&mut self, now: Instant) -> Applied<D::Key> {
        let mut applied = self.apply_puts(now);
        applied.merge(self.apply_deletes(now));
        applied
    }

    /// Only writes: for what others are about to refer to.
    pub fn apply_puts(&mut self, now: Instant) -> Applied<D::Key> {
        let due = |(key, _): &(&D::Key, &D::Value)| self.is_due(key, now);
        let puts: Vec<_> = self.delta.puts().filter(due).map(|(k, v)| (k.clone(), v.clone())).collect();
        if puts.is_empty() {
            return Applied::default();
        }
        let mut failed = self.driver.apply(&puts, &[]);
        failed.sort_by(|a, b| a.0.cmp(&b.0));
        let total = puts.len();
        for (key, _) in puts {
            self.settle(key, now, &failed, Delta::mark_put);
        }
        Applied { written: total - failed.len(), deleted: 0, failed }
    }

    /// Only deletes: for what nobody refers to any more.
    pub fn apply_deletes(&mut self, now: Instant) -> Applied<D::Key> {
        self.apply_deletes_but(now, |_| false)
    }

    /// Only deletes, but for those that are still referred to.
    pub fn apply_deletes_but(&mut self, now: Instant, spared: impl Fn(&D::Key) -> bool) -> Applied<D::Key> {
        let due = |key: &&D::Key| self.is_due(key, now) && !spared(key);
        let deletes: Vec<_> = self.delta.deletes().filter(due).cloned().collect();
        if deletes.is_empty() {
            return Applied::default();
        }
        let mut failed = self.driver.apply(&[], &deletes);
        failed.sort_by(|a, b| a.0.cmp(&b.0));
        let total = deletes.len();
        for key in deletes {
            self.settle(key, now, &failed, Delta::mark_deleted);
        }
        Applied { written: 0, deleted: total - failed.len(), failed }
    }

    /// When the next failed entry is due again; `None` when nothing failed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.retries.next()
    }

    /// Tries everything that failed at the next `apply`, whatever its pause.
    pub fn retry_now(&mut self, now: Instant) {
        self.retries.end_all(now);
    }

    /// Does every key hold what is wanted?
    pub fn is_settled(&self) -> bool {
        self.delta.pending() == 0
    }

    /// What is still to be written.
    pub fn pending_puts(&self) -> impl Iterator<Item = &D::Key> {
        self.delta.puts().map(|(key, _)| key)
    }

    /// What is still to be deleted.
    pub fn pending_deletes(&self) -> impl Iterator<Item = &D::Key> {
        self.delta.deletes()
    }

    /// Is anything there that is not wanted?
    pub fn has_deletes(&self) -> bool {
        self.delta.deletes().next().is_some()
    }

    /// Is `key` still to be written or deleted?
    pub fn is_pending(&self, key: &D::Key) -> bool {
        self.delta.is_pending(key)
    }

    /// How many entries are still to be written or deleted.
    pub fn pending(&self) -> usize {
        self.delta.pending()
    }

    /// Entries whose last try failed, with its reason.
    pub fn failing(&self) -> impl Iterator<Item = (&D::Key, &str)> {
        self.retries.iter()
    }

    /// Why the last try of `key` failed; `None` when it did not.
    pub fn error(&self, key: &D::Key) -> Option<&str> {
        self.retries.error(key)
    }

    pub fn desired(&self) -> &BTreeMap<D::Key, D::Value> {
        self.delta.desired()
    }

    /// What the kernel held at the last `resync`, with what was done since.
    pub fn actual(&self) -> &BTreeMap<D::Key, D::Value> {
        self.delta.actual()
    }

    pub fn driver(&self) -> &D {
        &self.driver
    }

    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    fn is_due(&self, key: &D::Key, now: Instant) -> bool {
        self.retries.is_due(key, now)
    }

    /// `failed` is sorted by key.
    fn settle(&mut self, key: D::Key, now: Instant, failed: &Failures<D::Key>, mark: Mark<D>) {
        let Ok(found) = failed.binary_search_by(|(other, _)| other.cmp(&key)) else {
            self.retries.forget(&key);
            mark(&mut self.delta, &key);
            return;
        };
        self.retries.failed(key, failed[found].1.to_string(), now);
    }

    /// Drops the retries of keys that turned out to be right.
    fn prune(&mut self) {
        let delta = &self.delta;
        self.retries.retain(|key| delta.is_pending(key));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Takes anything but the keys it is told to refuse.
    #[derive(Default)]
    struct Memory {
        held: BTreeMap<u8, u8>,
        refuse: Vec<u8>,
        calls: usize,
    }

    impl Driver for Memory {
        type Key = u8;
        type Value = u8;

        fn list(&mut self) -> io::Result<BTreeMap<u8, u8>> {
            Ok(self.held.clone())
        }

        fn apply(&mut self, puts: &[(u8, u8)], deletes: &[u8]) -> Failures<u8> {
            self.calls += 1;
            let mut failures = Vec::new();
            for (key, value) in puts {
                if self.refuse.contains(key) {
                    failures.push((*key, io::Error::other("refused")));
                } else {
                    self.held.insert(*key, *value);
                }
            }
            for key in deletes {
                if self.refuse.contains(key) {
                    failures.push((*key, io::Error::other("refused")));
                } else {
                    self.held.remove(key);
                }
            }
            failures
        }
    }

    /// Any instant will do: only differences matter.
    #[expect(clippy::disallowed_methods, reason = "a test begins at some instant")]
    fn clock() -> Instant {
        Instant::now()
    }

    fn table(held: &[(u8, u8)]) -> Table<Memory> {
        Table::new(Memory { held: held.iter().copied().collect(), ..Memory::default() })
    }

    #[test]
    fn adopts_what_is_right_and_sweeps_what_is_not_wanted() {
        let now = clock();
        let mut table = table(&[(1, 10), (2, 22), (3, 30)]);
        table.set(1, Some(10));
        table.set(2, Some(20));

        assert_eq!(table.resync().unwrap(), 2);
        let applied = table.apply(now);

        assert_eq!((applied.written, applied.deleted), (1, 1));
        assert_eq!(table.driver().held, BTreeMap::from([(1, 10), (2, 20)]));
        assert!(table.is_settled());
        table.apply(now);
        assert_eq!(table.driver().calls, 2);
    }

    #[test]
    fn nothing_is_deleted_before_the_first_resync() {
        let mut table = table(&[(3, 30)]);
        table.set(1, Some(10));

        table.apply(clock());

        assert_eq!(table.driver().held, BTreeMap::from([(1, 10), (3, 30)]));
    }

    #[test]
    fn a_failed_entry_stops_no_other_and_is_tried_again_later_and_later() {
        let start = clock();
        let mut table = table(&[]);
        table.driver_mut().refuse = vec![1];
        table.set(1, Some(10));
        table.set(2, Some(20));

        let applied = table.apply(start);
        assert_eq!(applied.written, 1);
        assert_eq!(applied.failed[0].0, 1);
        assert!(table.is_pending(&1));
        assert_eq!(table.failing().collect::<Vec<_>>(), [(&1, "refused")]);

        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..10 {
            let due = table.poll_timeout().unwrap();
            assert!(table.apply(due - Duration::from_millis(1)).failed.is_empty());
            assert_eq!(table.apply(due).failed.len(), 1);
            pauses.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);

        table.driver_mut().refuse.clear();
        assert_eq!(table.apply(table.poll_timeout().unwrap()).written, 1);
        assert_eq!(table.poll_timeout(), None);
    }

    #[test]
    fn new_content_does_not_wait_for_the_pause_of_the_old() {
        let now = clock();
        let mut table = table(&[]);
        table.driver_mut().refuse = vec![1];
        table.set(1, Some(10));
        table.apply(now);
        table.driver_mut().refuse.clear();

        table.set(1, Some(10));
        assert_eq!(table.apply(now).written, 0);
        table.set(1, Some(11));
        assert_eq!(table.apply(now).written, 1);
        assert_eq!(table.poll_timeout(), None);
    }

    #[test]
    fn giving_up_a_failing_entry_forgets_its_retry() {
        let now = clock();
        let mut table = table(&[]);
        table.driver_mut().refuse = vec![1];
        table.set(1, Some(10));
        table.apply(now);

        table.set(1, None);

        assert_eq!(table.poll_timeout(), None);
        assert!(table.is_settled());
    }

    #[test]
    fn forgotten_entries_are_written_again() {
        let now = clock();
        let mut table = table(&[]);
        table.set(1, Some(10));
        table.apply(now);
        table.driver_mut().held.clear();

        table.forget(&1);

        assert_eq!(table.apply(now).written, 1);
        assert_eq!(table.driver().held, BTreeMap::from([(1, 10)]));
    }

    #[test]
    fn what_somebody_else_did_is_put_right_without_reading_everything() {
        let now = clock();
        let mut table = table(&[]);
        table.set(1, Some(10));
        table.set(2, Some(20));
        table.apply(now);
        table.driver_mut().held = BTreeMap::from([(1, 11), (3, 30)]);

        table.observe(1, Some(11));
        table.observe(2, None);
        table.observe(3, Some(30));
        let applied = table.apply(now);

        assert_eq!((applied.written, applied.deleted), (2, 1));
        assert_eq!(table.driver().held, BTreeMap::from([(1, 10), (2, 20)]));
    }

    #[test]
    fn a_whole_state_replaces_the_former() {
        let now = clock();
        let mut table = table(&[]);
        table.set_all(BTreeMap::from([(1, 10), (2, 20)]));
        table.apply(now);

        table.set_all(BTreeMap::from([(2, 20), (3, 30)]));
        let applied = table.apply(now);

        assert_eq!((applied.written, applied.deleted), (1, 1));
        assert_eq!(table.driver().held, BTreeMap::from([(2, 20), (3, 30)]));
    }
}
