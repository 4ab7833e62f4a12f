//! When what failed is tried again: later and later, and at once when something new is wanted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// First pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

struct Retry {
    failures: u32,
    at: Instant,
    error: String,
}

/// The keys whose last try failed.
pub(crate) struct Pauses<K>(BTreeMap<K, Retry>);

impl<K: Ord> Default for Pauses<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Pauses<K> {
    /// Notes that `key` failed once more.
    pub(crate) fn failed(&mut self, key: K, error: String, now: Instant) {
        let failures = self.0.get(&key).map_or(0, |retry| retry.failures);
        let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
        self.0.insert(key, Retry { failures: failures.saturating_add(1), at: now + pause, error });
    }

    /// Has no reason to wait: it succeeded, or something else is wanted of it.
    pub(crate) fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    pub(crate) fn is_due(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_none_or(|retry| retry.at <= now)
    }

    /// Lets everything be tried at `now`.
    pub(crate) fn end_all(&mut self, now: Instant) {
        self.0.values_mut().for_each(|retry| retry.at = now);
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().map(|retry| retry.at).min()
    }

    /// Why the last try failed.
    pub(crate) fn error(&self, key: &K) -> Option<&str> {
        self.0.get(key).map(|retry| retry.error.as_str())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &str)> {
        self.0.iter().map(|(key, retry)| (key, retry.error.as_str()))
    }
}
