//! Which selectors match which classes, kept true at a cost of what changes.
//!
//! Every selector stands in one bucket: that of the labels of which a class must have one, of a key that must
//! be there, or of those that demand nothing. A class is tried only on the buckets of its own labels.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use model::{LabelLookup, Restriction, Selector};

use crate::classes::{ClassId, ClassLabels, Classes, Label, ORCHESTRATOR};
use crate::difference::difference;
use crate::slab::{IdMap, IdSet, Slab};
use crate::symbols::{Symbol, Symbols};

/// Stands for a selector while somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SelectorId(u32);

#[derive(Default)]
pub(crate) struct MatchIndex {
    ids: HashMap<Selector, SelectorId>,
    entries: Slab<Entry>,
    by_label: IdMap<Label, Vec<SelectorId>>,
    by_key: IdMap<Symbol, Vec<SelectorId>>,
    others: Vec<SelectorId>,
    /// Sorted; classes that nothing matches are left out.
    matches: IdMap<ClassId, Vec<SelectorId>>,
    tried: u64,
}

struct Entry {
    selector: Selector,
    keys: Keys,
    bucket: Bucket,
    holders: u32,
    classes: IdSet<ClassId>,
}

/// The few keys that a selector asks for, so that no text is looked up for each class.
struct Keys(Box<[(Arc<str>, Symbol)]>);

impl Keys {
    fn hold(selector: &Selector, symbols: &mut Symbols) -> Self {
        let keys = selector.keys().into_iter();
        Self(keys.map(|key| (key.clone(), symbols.hold(&key))).collect())
    }

    fn release(self, symbols: &mut Symbols) {
        self.0.iter().for_each(|(_, symbol)| symbols.release(*symbol));
    }
}

/// What one selector sees of one class.
struct Seen<'a> {
    keys: &'a Keys,
    labels: ClassLabels<'a>,
}

impl LabelLookup for Seen<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        let (_, symbol) = self.keys.0.iter().find(|(text, _)| **text == *key)?;
        self.labels.value(*symbol)
    }
}

enum Bucket {
    /// Of no label: it can match nothing.
    Labels(Vec<Label>),
    Key(Symbol),
    Other,
}

/// How the selectors that match a class differ from those before.
#[derive(Default)]
pub(crate) struct Difference {
    pub(crate) lost: Vec<SelectorId>,
    pub(crate) gained: Vec<SelectorId>,
}

impl MatchIndex {
    /// Holds the selector (once more); `candidates` are the classes in the index that it may match.
    pub(crate) fn hold(
        &mut self,
        selector: &Selector,
        classes: &mut Classes,
        candidates: impl FnOnce(&Classes) -> Vec<ClassId>,
    ) -> SelectorId {
        if let Some(id) = self.ids.get(selector) {
            self.entries.get_mut(id.0).holders += 1;
            return *id;
        }
        let candidates = candidates(classes);
        self.tried += candidates.len() as u64;
        let keys = Keys::hold(selector, &mut classes.symbols);
        let labels = |class: ClassId| Seen { keys: &keys, labels: classes.labels(class) };
        let matches = |class: &ClassId| selector.matches(&labels(*class));
        let matching: IdSet<_> = candidates.into_iter().filter(matches).collect();
        let bucket = self.choose_bucket(selector, &mut classes.symbols);
        let entry = Entry { selector: selector.clone(), keys, bucket, holders: 1, classes: IdSet::default() };
        let id = SelectorId(self.entries.insert(entry));
        self.ids.insert(selector.clone(), id);
        for class in &matching {
            let matches = self.matches.entry(*class).or_default();
            if let Err(place) = matches.binary_search(&id) {
                matches.insert(place, id);
            }
        }
        let entry = self.entries.get_mut(id.0);
        entry.classes = matching;
        match &entry.bucket {
            Bucket::Labels(labels) => {
                labels.iter().for_each(|label| self.by_label.entry(*label).or_default().push(id));
            }
            Bucket::Key(key) => self.by_key.entry(*key).or_default().push(id),
            Bucket::Other => self.others.push(id),
        }
        id
    }

    /// Lets go what was held once; has it gone?
    pub(crate) fn release(&mut self, id: SelectorId, symbols: &mut Symbols) -> bool {
        let entry = self.entries.get_mut(id.0);
        entry.holders -= 1;
        if entry.holders > 0 {
            return false;
        }
        let entry = self.entries.remove(id.0);
        self.ids.remove(&entry.selector);
        for class in &entry.classes {
            remove_from(&mut self.matches, *class, id);
        }
        match entry.bucket {
            Bucket::Labels(labels) => {
                for label in labels {
                    remove_from(&mut self.by_label, label, id);
                    symbols.release(label.key);
                    symbols.release(label.value);
                }
            }
            Bucket::Key(key) => {
                remove_from(&mut self.by_key, key, id);
                symbols.release(key);
            }
            Bucket::Other => self.others.retain(|other| *other != id),
        }
        entry.keys.release(symbols);
        true
    }

    /// Tries a class that is new to the index or whose labels changed; the difference is only looked at.
    pub(crate) fn try_class(&mut self, class: ClassId, classes: &Classes) -> Difference {
        let after = self.matching(class, classes);
        let (lost, gained) = difference(self.matches(class), &after);
        Difference { lost, gained }
    }

    /// Makes a difference hold.
    pub(crate) fn accept(&mut self, class: ClassId, difference: &Difference) {
        for id in &difference.lost {
            self.entries.get_mut(id.0).classes.remove(&class);
            remove_from(&mut self.matches, class, *id);
        }
        if difference.gained.is_empty() {
            return;
        }
        let matches = self.matches.entry(class).or_default();
        matches.extend_from_slice(&difference.gained);
        matches.sort_unstable();
        for id in &difference.gained {
            self.entries.get_mut(id.0).classes.insert(class);
        }
    }

    /// Forgets a class; what matched it.
    pub(crate) fn remove_class(&mut self, class: ClassId) -> Vec<SelectorId> {
        let matched = self.matches.remove(&class).unwrap_or_default();
        for id in &matched {
            self.entries.get_mut(id.0).classes.remove(&class);
        }
        matched
    }

    /// The selectors that match a class, sorted.
    pub(crate) fn matches(&self, class: ClassId) -> &[SelectorId] {
        self.matches.get(&class).map(Vec::as_slice).unwrap_or_default()
    }

    /// The classes that a selector matches.
    pub(crate) fn classes(&self, id: SelectorId) -> impl Iterator<Item = ClassId> {
        self.entries.get(id.0).classes.iter().copied()
    }

    /// How often a selector was tried on a class so far.
    pub(crate) fn tried(&self) -> u64 {
        self.tried
    }

    fn matching(&mut self, class: ClassId, classes: &Classes) -> Vec<SelectorId> {
        let labels = classes.labels(class);
        let mut matching = Vec::new();
        let mut tried = 0;
        let mut try_all = |ids: &[SelectorId]| {
            tried += ids.len() as u64;
            let matches = |id: &&SelectorId| {
                let Entry { selector, keys, .. } = self.entries.get(id.0);
                selector.matches(&Seen { keys, labels })
            };
            matching.extend(ids.iter().filter(matches));
        };
        try_all(&self.others);
        for label in labels.each() {
            self.by_label.get(&label).into_iter().for_each(|ids| try_all(ids));
            self.by_key.get(&label.key).into_iter().for_each(|ids| try_all(ids));
        }
        self.tried += tried;
        matching.sort_unstable();
        // A label that another one hides leads to the same selectors.
        matching.dedup();
        matching
    }

    /// The bucket that fewest classes have to look into: by value before by key, then the least full.
    fn choose_bucket(&self, selector: &Selector, symbols: &mut Symbols) -> Bucket {
        let restrictions: BTreeMap<Arc<str>, Restriction> = selector.restrictions();
        let rank = |key: &str, restriction: &Restriction| {
            let symbol = symbols.find(key);
            let key_bucket = symbol.and_then(|key| self.by_key.get(&key)).map_or(0, Vec::len);
            let full = |value: &Arc<str>| {
                let label = Label { key: symbol?, value: symbols.find(value)? };
                self.by_label.get(&label).map(Vec::len)
            };
            match restriction {
                Restriction::OneOf(values) => {
                    let load = values.iter().map(|value| full(value).unwrap_or(0)).sum::<usize>();
                    Some((key == ORCHESTRATOR, 0, load + values.len()))
                }
                Restriction::Present => Some((key == ORCHESTRATOR, 1, key_bucket)),
                Restriction::Absent => None,
            }
        };
        let ranked = restrictions.iter().filter_map(|(key, r)| Some((rank(key, r)?, key, r)));
        match ranked.min_by_key(|(rank, ..)| *rank).map(|(_, key, restriction)| (key, restriction)) {
            Some((key, Restriction::OneOf(values))) => {
                let label = |value: &Arc<str>| Label { key: symbols.hold(key), value: symbols.hold(value) };
                Bucket::Labels(values.iter().map(label).collect())
            }
            Some((key, _)) => Bucket::Key(symbols.hold(key)),
            None => Bucket::Other,
        }
    }
}

fn remove_from<K: Eq + std::hash::Hash>(map: &mut IdMap<K, Vec<SelectorId>>, key: K, id: SelectorId) {
    if let Some(ids) = map.get_mut(&key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            map.remove(&key);
        }
    }
}
