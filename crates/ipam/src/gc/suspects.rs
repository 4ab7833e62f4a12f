//! Since when something is under suspicion.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// One thing under suspicion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion<E> {
    /// What the suspicion is about; with other evidence it begins anew.
    pub evidence: E,
    pub since: Instant,
    /// How often it was found.
    looks: u32,
}

/// Remembers suspects from one look to the next. One look that does not find a suspect clears it.
#[derive(Clone, Debug)]
pub struct Suspects<K, E> {
    grace: Duration,
    known: BTreeMap<K, Suspicion<E>>,
}

impl<K: Ord + Clone, E: PartialEq + Clone> Suspects<K, E> {
    /// Suspects are confirmed after `grace`; zero confirms none, ever.
    pub fn new(grace: Duration) -> Self {
        Self { grace, known: BTreeMap::new() }
    }

    /// Suspects are confirmed after another time from now on.
    pub fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Notes what a look found; returns those that were found without a break for the whole grace period, and
    /// more than once.
    pub fn look(&mut self, now: Instant, found: impl IntoIterator<Item = (K, E)>) -> Vec<(K, E)> {
        let mut seen = BTreeSet::new();
        let mut confirmed = Vec::new();
        for (key, evidence) in found {
            let suspicion = self
                .known
                .entry(key.clone())
                .and_modify(|known| {
                    if known.evidence != evidence {
                        *known = Suspicion { evidence: evidence.clone(), since: now, looks: 0 };
                    }
                })
                .or_insert_with(|| Suspicion { evidence: evidence.clone(), since: now, looks: 0 });
            suspicion.looks = suspicion.looks.saturating_add(1);
            let is_old = now.saturating_duration_since(suspicion.since) >= self.grace;
            if !self.grace.is_zero() && is_old && suspicion.looks > 1 {
                confirmed.push((key.clone(), evidence));
            }
            seen.insert(key);
        }
        self.known.retain(|key, _| seen.contains(key));
        confirmed
    }

    /// It is none, or was dealt with; if it is found again, its time begins anew.
    pub fn clear(&mut self, key: &K) {
        self.known.remove(key);
    }

    /// Nothing that was found counts any more: whoever looked cannot be trusted.
    pub fn clear_all(&mut self) {
        self.known.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &Suspicion<E>)> {
        self.known.iter()
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn one_look_that_does_not_find_a_suspect_clears_it() {
        let start = clock();
        let mut suspects = Suspects::new(GRACE);

        assert_eq!(suspects.look(start, [("a", 1)]), []);
        assert_eq!(suspects.look(start + seconds(59), [("a", 1)]), []);
        assert_eq!(suspects.look(start + seconds(60), [("a", 1)]), [("a", 1)]);
        assert_eq!(suspects.look(start + seconds(61), []), []);
        assert_eq!(suspects.look(start + seconds(62), [("a", 1)]), []);
        assert_eq!(suspects.look(start + seconds(130), [("a", 1)]), [("a", 1)]);
    }

    #[test]
    fn other_evidence_is_another_suspicion() {
        let start = clock();
        let mut suspects = Suspects::new(GRACE);

        suspects.look(start, [("a", 1)]);
        assert_eq!(suspects.look(start + seconds(70), [("a", 2)]), []);
        assert_eq!(suspects.look(start + seconds(140), [("a", 2)]), [("a", 2)]);
    }

    #[test]
    fn without_a_grace_period_nothing_is_ever_confirmed() {
        let start = clock();
        let mut suspects = Suspects::new(Duration::ZERO);

        suspects.look(start, [("a", 1)]);
        assert_eq!(suspects.look(start + seconds(1_000_000), [("a", 1)]), []);
    }

    #[allow(clippy::disallowed_methods, reason = "a beginning of time for tests")]
    fn clock() -> Instant {
        Instant::now()
    }
}
