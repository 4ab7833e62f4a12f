//! Which selectors match which Pods, kept true at a cost of what changes.
//!
//! Every selector stands in one bucket: that of a value which one label must have, of a key that must be
//! there, or of those that demand nothing. A Pod is tried only on the buckets of its own labels.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use model::{Restriction, Selector};

use crate::pods::{PodId, PodLabels, Pods};

pub(crate) struct MatchIndex<S> {
    entries: HashMap<S, Entry>,
    by_value: HashMap<Arc<str>, HashMap<Arc<str>, HashSet<S>>>,
    by_key: HashMap<Arc<str>, HashSet<S>>,
    others: HashSet<S>,
    by_pod: HashMap<PodId, BTreeSet<S>>,
}

struct Entry {
    selector: Selector,
    bucket: Bucket,
    pods: HashSet<PodId>,
}

enum Bucket {
    Values(Arc<str>, Vec<Arc<str>>),
    Key(Arc<str>),
    Other,
}

/// What matched a Pod before and what matches it now.
pub(crate) struct Matches<S> {
    pub(crate) before: BTreeSet<S>,
    pub(crate) after: BTreeSet<S>,
}

impl<S> Default for MatchIndex<S> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            by_value: HashMap::new(),
            by_key: HashMap::new(),
            others: HashSet::new(),
            by_pod: HashMap::new(),
        }
    }
}

impl<S: Clone + Ord + Hash> MatchIndex<S> {
    /// Adds (or replaces) a selector and tries it on `candidates`; those that it matches.
    pub(crate) fn insert(
        &mut self,
        id: S,
        selector: Selector,
        pods: &Pods,
        candidates: impl IntoIterator<Item = PodId>,
    ) -> HashSet<PodId> {
        self.remove(&id);
        let matches = |pod: &PodId| pods.labels(*pod).is_some_and(|labels| selector.matches(&labels));
        let matching: HashSet<_> = candidates.into_iter().filter(matches).collect();
        for pod in &matching {
            self.by_pod.entry(*pod).or_default().insert(id.clone());
        }
        let bucket = self.choose_bucket(&selector);
        match &bucket {
            Bucket::Values(key, values) if !values.is_empty() => {
                let by_value = self.by_value.entry(key.clone()).or_default();
                for value in values {
                    by_value.entry(value.clone()).or_default().insert(id.clone());
                }
            }
            // It can match nothing.
            Bucket::Values(..) => {}
            Bucket::Key(key) => _ = self.by_key.entry(key.clone()).or_default().insert(id.clone()),
            Bucket::Other => _ = self.others.insert(id.clone()),
        }
        self.entries.insert(id, Entry { selector, bucket, pods: matching.clone() });
        matching
    }

    /// Removes a selector; those that it matched.
    pub(crate) fn remove(&mut self, id: &S) -> HashSet<PodId> {
        let Some(entry) = self.entries.remove(id) else { return HashSet::new() };
        for pod in &entry.pods {
            remove_from(&mut self.by_pod, pod, |ids| ids.remove(id), BTreeSet::is_empty);
        }
        match &entry.bucket {
            Bucket::Values(key, values) if !values.is_empty() => {
                let by_value = self.by_value.get_mut(key).expect("every bucket in use is there");
                for value in values {
                    remove_from(by_value, value, |ids| ids.remove(id), HashSet::is_empty);
                }
                if by_value.is_empty() {
                    self.by_value.remove(key);
                }
            }
            Bucket::Values(..) => {}
            Bucket::Key(key) => remove_from(&mut self.by_key, key, |ids| ids.remove(id), HashSet::is_empty),
            Bucket::Other => _ = self.others.remove(id),
        }
        entry.pods
    }

    /// Tries a Pod whose labels may have changed, came or went (`None`).
    pub(crate) fn update(&mut self, pod: PodId, labels: Option<PodLabels<'_>>) -> Matches<S> {
        let before = self.by_pod.remove(&pod).unwrap_or_default();
        let after = labels.map(|labels| self.matching(&labels)).unwrap_or_default();
        for id in before.difference(&after) {
            self.entry(id).pods.remove(&pod);
        }
        for id in after.difference(&before) {
            self.entry(id).pods.insert(pod);
        }
        if !after.is_empty() {
            self.by_pod.insert(pod, after.clone());
        }
        Matches { before, after }
    }

    /// What matches a Pod.
    pub(crate) fn of_pod(&self, pod: PodId) -> impl Iterator<Item = &S> {
        self.by_pod.get(&pod).into_iter().flatten()
    }

    /// Does the selector match any Pod?
    pub(crate) fn matches_any(&self, id: &S) -> bool {
        self.entries.get(id).is_some_and(|entry| !entry.pods.is_empty())
    }

    fn matching(&self, labels: &PodLabels<'_>) -> BTreeSet<S> {
        let mut matching = BTreeSet::new();
        let mut try_all = |ids: &HashSet<S>| {
            let matches = ids.iter().filter(|id| self.entries[*id].selector.matches(labels));
            matching.extend(matches.cloned());
        };
        try_all(&self.others);
        labels.for_each(|key, value| {
            if let Some(ids) = self.by_value.get(key).and_then(|by_value| by_value.get(value)) {
                try_all(ids);
            }
            if let Some(ids) = self.by_key.get(key) {
                try_all(ids);
            }
        });
        matching
    }

    /// The bucket that fewest Pods have to look into: by value before by key, then the least full.
    fn choose_bucket(&self, selector: &Selector) -> Bucket {
        let rank = |key: &Arc<str>, restriction: &Restriction| match restriction {
            Restriction::OneOf(values) => {
                let by_value = self.by_value.get(key);
                let full = |value| by_value.and_then(|b| b.get(value)).map_or(0, HashSet::len);
                Some((is_shared_by_all(key), 0, values.iter().map(full).sum::<usize>() + values.len()))
            }
            Restriction::Present => {
                Some((is_shared_by_all(key), 1, self.by_key.get(key).map_or(0, HashSet::len)))
            }
            Restriction::Absent => None,
        };
        let restrictions = selector.restrictions();
        let ranked = restrictions.iter().filter_map(|(key, r)| Some((rank(key, r)?, key, r)));
        match ranked.min_by_key(|(rank, ..)| *rank) {
            Some((_, key, Restriction::OneOf(values))) => {
                Bucket::Values(key.clone(), values.iter().cloned().collect())
            }
            Some((_, key, _)) => Bucket::Key(key.clone()),
            None => Bucket::Other,
        }
    }

    fn entry(&mut self, id: &S) -> &mut Entry {
        self.entries.get_mut(id).expect("what matches a Pod is in the index")
    }
}

/// Does every Pod have this label with one and the same value?
fn is_shared_by_all(key: &str) -> bool {
    key == "projectcalico.org/orchestrator"
}

fn remove_from<K: Eq + Hash, C>(
    map: &mut HashMap<K, C>,
    key: &K,
    remove: impl FnOnce(&mut C) -> bool,
    is_empty: impl FnOnce(&C) -> bool,
) {
    if let Some(collection) = map.get_mut(key) {
        remove(collection);
        if is_empty(collection) {
            map.remove(key);
        }
    }
}
