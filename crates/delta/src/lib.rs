//! Desired state against actual state: which entries are to be put, which deleted.
//!
//! Setting or reporting one key costs O(log n); only `resync` looks at everything. Owns the comparison; never
//! applies anything.

use std::collections::{BTreeMap, BTreeSet};

/// Two maps and what differs between them.
#[derive(Clone, Debug)]
pub struct Delta<K, V> {
    desired: BTreeMap<K, V>,
    actual: BTreeMap<K, V>,
    puts: BTreeSet<K>,
    deletes: BTreeSet<K>,
    /// Is an actual value as good as the desired one?
    matches: fn(&V, &V) -> bool,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Default for Delta<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Delta<K, V> {
    /// Nothing desired, nothing there.
    pub fn new() -> Self {
        Self::with_matches(V::eq)
    }

    /// Compares values by `matches(desired, actual)`, for values of which the kernel fills in parts.
    pub fn with_matches(matches: fn(&V, &V) -> bool) -> Self {
        Self {
            desired: BTreeMap::new(),
            actual: BTreeMap::new(),
            puts: BTreeSet::new(),
            deletes: BTreeSet::new(),
            matches,
        }
    }

    /// Wants `key` to hold `value`, or not to exist.
    pub fn set(&mut self, key: K, value: Option<V>) {
        match value {
            Some(value) => self.desired.insert(key.clone(), value),
            None => self.desired.remove(&key),
        };
        self.compare(key);
    }

    /// Learns what one key actually holds: because it was written or deleted, or because somebody says so.
    pub fn set_actual(&mut self, key: K, value: Option<V>) {
        match value {
            Some(value) => self.actual.insert(key.clone(), value),
            None => self.actual.remove(&key),
        };
        self.compare(key);
    }

    /// Notes that the desired value of `key` was written.
    pub fn mark_put(&mut self, key: &K) {
        let value = self.desired.get(key).cloned();
        self.set_actual(key.clone(), value);
    }

    /// Notes that `key` was deleted.
    pub fn mark_deleted(&mut self, key: &K) {
        self.set_actual(key.clone(), None);
    }

    /// Replaces everything that is known about the actual state.
    pub fn resync(&mut self, actual: BTreeMap<K, V>) {
        self.actual = actual;
        let (desired, actual, matches) = (&self.desired, &self.actual, self.matches);
        let is_wrong = |(key, wanted): &(&K, &V)| !actual.get(*key).is_some_and(|has| matches(wanted, has));
        self.puts = desired.iter().filter(is_wrong).map(|(key, _)| key.clone()).collect();
        self.deletes = actual.keys().filter(|key| !desired.contains_key(*key)).cloned().collect();
    }

    /// Keys whose desired value is not there, with that value, in order.
    pub fn puts(&self) -> impl Iterator<Item = (&K, &V)> {
        self.puts.iter().map(|key| (key, &self.desired[key]))
    }

    /// Keys that are there and not desired, in order.
    pub fn deletes(&self) -> impl Iterator<Item = &K> {
        self.deletes.iter()
    }

    /// Does `key` differ?
    pub fn is_pending(&self, key: &K) -> bool {
        self.puts.contains(key) || self.deletes.contains(key)
    }

    /// How many keys differ.
    pub fn pending(&self) -> usize {
        self.puts.len() + self.deletes.len()
    }

    pub fn desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    pub fn actual(&self) -> &BTreeMap<K, V> {
        &self.actual
    }

    fn compare(&mut self, key: K) {
        match (self.desired.get(&key), self.actual.get(&key)) {
            (Some(wanted), Some(has)) if (self.matches)(wanted, has) => self.settle(&key),
            (Some(_), _) => {
                self.deletes.remove(&key);
                self.puts.insert(key);
            }
            (None, Some(_)) => {
                self.puts.remove(&key);
                self.deletes.insert(key);
            }
            (None, None) => self.settle(&key),
        }
    }

    fn settle(&mut self, key: &K) {
        self.puts.remove(key);
        self.deletes.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(delta: &Delta<u8, u8>) -> (Vec<(u8, u8)>, Vec<u8>) {
        (delta.puts().map(|(k, v)| (*k, *v)).collect(), delta.deletes().copied().collect())
    }

    #[test]
    fn difference_of_desired_and_actual_is_pending() {
        let mut delta = Delta::new();
        delta.set(1, Some(10));
        delta.set(2, Some(20));
        delta.set(3, Some(30));

        delta.resync(BTreeMap::from([(2, 20), (3, 33), (4, 40)]));

        assert_eq!(pending(&delta), (vec![(1, 10), (3, 30)], vec![4]));
        assert_eq!(delta.pending(), 3);
        assert!(delta.is_pending(&4) && !delta.is_pending(&2));
    }

    #[test]
    fn what_was_done_is_no_longer_pending() {
        let mut delta = Delta::new();
        delta.set(1, Some(10));
        delta.resync(BTreeMap::from([(4, 40)]));

        delta.mark_put(&1);
        delta.mark_deleted(&4);

        assert_eq!(pending(&delta), (vec![], vec![]));
        assert_eq!(delta.actual(), delta.desired());
    }

    #[test]
    fn going_back_before_applying_leaves_nothing_to_do() {
        let mut delta = Delta::new();
        delta.resync(BTreeMap::from([(1, 10)]));
        delta.set(1, Some(10));

        delta.set(1, Some(11));
        delta.set(1, Some(10));
        delta.set(2, Some(20));
        delta.set(2, None);

        assert_eq!(pending(&delta), (vec![], vec![]));
    }

    #[test]
    fn values_compare_as_the_owner_says() {
        let mut delta = Delta::with_matches(|desired: &u8, actual| *desired == 0 || desired == actual);
        delta.set(1, Some(0));
        delta.set(2, Some(5));

        delta.resync(BTreeMap::from([(1, 7), (2, 7)]));

        assert_eq!(pending(&delta), (vec![(2, 5)], vec![]));
    }

    /// After any steps the pending keys are those by which the two maps differ, and doing them makes them equal.
    #[test]
    fn any_walk_ends_where_a_full_comparison_ends() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        for _ in 0..200 {
            let mut delta = Delta::new();
            for _ in 0..60 {
                let key = next(8) as u8;
                let value = (next(3) > 0).then(|| next(3) as u8);
                match next(10) {
                    0 => delta.resync((0..next(8) as u8).map(|key| (key, 1)).collect()),
                    1..4 => delta.set_actual(key, value),
                    4 => delta.mark_put(&key),
                    5 => delta.mark_deleted(&key),
                    _ => delta.set(key, value),
                }
                let mut fresh = Delta::new();
                delta.desired().iter().for_each(|(k, v)| fresh.set(*k, Some(*v)));
                fresh.resync(delta.actual().clone());
                assert_eq!(pending(&delta), pending(&fresh));
            }
            let (puts, deletes) = pending(&delta);
            puts.iter().for_each(|(key, _)| delta.mark_put(key));
            deletes.iter().for_each(|key| delta.mark_deleted(key));
            assert_eq!(delta.actual(), delta.desired());
            assert_eq!(delta.pending(), 0);
        }
    }
}
