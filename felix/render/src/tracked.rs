//! A wish that knows what of it was not told yet.

use std::collections::{BTreeMap, BTreeSet};

/// Keeps one value a key; [`Tracked::take`] says which differ from what was told.
pub(crate) struct Tracked<K, V> {
    wished: BTreeMap<K, V>,
    dirty: BTreeSet<K>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { wished: BTreeMap::new(), dirty: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Tracked<K, V> {
    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.wished.get(&key) != Some(&value) {
            self.wished.insert(key.clone(), value);
            self.dirty.insert(key);
        }
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if self.wished.remove(key).is_some() {
            self.dirty.insert(key.clone());
        }
    }

    pub(crate) fn clear(&mut self) {
        self.dirty.extend(std::mem::take(&mut self.wished).into_keys());
    }

    /// The keys put or removed since the last call, each with its present value.
    pub(crate) fn take(&mut self) -> BTreeMap<K, Option<V>> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|key| (key.clone(), self.wished.get(&key).cloned())).collect()
    }
}
