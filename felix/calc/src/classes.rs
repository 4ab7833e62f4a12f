//! What no selector and no named port can tell apart is one class: the pods of a ReplicaSet, mostly.
//!
//! Owns labels, those that are inherited among them, and where to look for the classes that a selector may
//! match. A class lives as long as something is in it or holds it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use model::{LabelLookup, Protocol, Restriction};

use crate::inherited::{Inherited, ParentId};
use crate::items::ItemId;
use crate::slab::{IdMap, IdSet, Slab};
use crate::symbols::{Symbol, Symbols};

/// Stands for a class while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClassId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Pod,
    HostEndpoint,
    NetworkSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label {
    pub(crate) key: Symbol,
    pub(crate) value: Symbol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NamedPort {
    pub(crate) name: Symbol,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// What makes a class.
#[derive(PartialEq, Eq, Hash)]
struct Traits {
    kind: Kind,
    /// Sorted; they come before what is inherited.
    labels: Box<[Label]>,
    /// Each once; of two that have a label, the first one counts.
    parents: Box<[ParentId]>,
    ports: Box<[NamedPort]>,
}

pub(crate) struct Class {
    traits: Traits,
    pub(crate) items: Vec<ItemId>,
    /// Held by others than items.
    holders: u32,
}

impl Class {
    pub(crate) fn kind(&self) -> Kind {
        self.traits.kind
    }

    /// Sorted.
    pub(crate) fn ports(&self) -> &[NamedPort] {
        &self.traits.ports
    }
}

/// A class in words.
pub(crate) struct Description<'a> {
    pub(crate) kind: Kind,
    /// Each key once.
    pub(crate) labels: Vec<(&'a str, &'a str)>,
    /// Names of profiles whose labels are inherited.
    pub(crate) parents: Vec<String>,
    /// Name, protocol and number.
    pub(crate) ports: Vec<(&'a str, Protocol, u16)>,
}

/// Who has a label.
#[derive(Default)]
struct Holders {
    classes: IdSet<ClassId>,
    parents: IdSet<ParentId>,
}

#[derive(Default)]
pub(crate) struct Classes {
    pub(crate) symbols: Symbols,
    inherited: Inherited,
    classes: Slab<Class>,
    ids: HashTable<ClassId>,
    hasher: RandomState,
    by_label: IdMap<Label, Holders>,
    values: IdMap<Symbol, IdSet<Symbol>>,
}

impl Classes {
    pub(crate) fn get(&self, id: ClassId) -> &Class {
        self.classes.get(id.0)
    }

    /// The class that has this description; is it new? The caller puts something into it or holds it.
    pub(crate) fn find_or_make(&mut self, description: &Description<'_>) -> (ClassId, bool) {
        let traits = self.hold_traits(description);
        let hash = self.hasher.hash_one(&traits);
        if let Some(id) = self.ids.find(hash, |id| self.classes.get(id.0).traits == traits) {
            let id = *id;
            self.release_traits(&traits);
            return (id, false);
        }
        let id = ClassId(self.classes.insert(Class { traits, items: Vec::new(), holders: 0 }));
        let (classes, hasher) = (&self.classes, &self.hasher);
        self.ids.insert_unique(hash, id, |id| hasher.hash_one(&classes.get(id.0).traits));
        let traits = &self.classes.get(id.0).traits;
        traits.parents.iter().for_each(|parent| self.inherited.add_child(*parent, id));
        for label in traits.labels.iter().filter(|label| is_indexed(&self.symbols, label.key)) {
            self.by_label.entry(*label).or_default().classes.insert(id);
            self.values.entry(label.key).or_default().insert(label.value);
        }
        (id, true)
    }

    /// Keeps the class alive.
    pub(crate) fn hold(&mut self, id: ClassId) {
        self.classes.get_mut(id.0).holders += 1;
    }

    pub(crate) fn release(&mut self, id: ClassId) {
        self.classes.get_mut(id.0).holders -= 1;
    }

    /// Puts an item into the class; its place there.
    pub(crate) fn enter(&mut self, id: ClassId, item: ItemId) -> u32 {
        let items = &mut self.classes.get_mut(id.0).items;
        items.push(item);
        u32::try_from(items.len() - 1).expect("fewer than 2^32 objects fit into memory")
    }

    /// Takes the item at `place` out; the one that stands there now.
    pub(crate) fn leave(&mut self, id: ClassId, place: u32) -> Option<ItemId> {
        let items = &mut self.classes.get_mut(id.0).items;
        items.swap_remove(place as usize);
        items.get(place as usize).copied()
    }

    /// Ends a class that nothing is in and nobody holds; has it ended?
    pub(crate) fn forget_if_unused(&mut self, id: ClassId) -> bool {
        let class = self.classes.get(id.0);
        if !class.items.is_empty() || class.holders > 0 {
            return false;
        }
        let hash = self.hasher.hash_one(&class.traits);
        if let Ok(entry) = self.ids.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        let class = self.classes.remove(id.0);
        class.traits.parents.iter().for_each(|parent| self.inherited.remove_child(*parent, id));
        for label in &class.traits.labels {
            if let Some(holders) = self.by_label.get_mut(label) {
                holders.classes.remove(&id);
            }
            self.forget_label_if_unused(*label);
        }
        self.release_traits(&class.traits);
        true
    }

    /// Says which labels (`None`: there is no such object) those inherit that have the profile `name`; the
    /// classes concerned.
    pub(crate) fn set_inherited(&mut self, name: &str, labels: Option<&[(String, &str)]>) -> Vec<ClassId> {
        let labels = labels.map(|labels| {
            let held = labels.iter().map(|(key, value)| hold_label(&mut self.symbols, key, value));
            let mut held: Vec<_> = held.collect();
            held.sort_unstable();
            held.into_boxed_slice()
        });
        let parent = self.inherited.find_or_make(name);
        let new = labels.clone();
        let old = self.inherited.replace(parent, labels);
        let differs = old != new;
        for label in new.iter().flatten() {
            self.by_label.entry(*label).or_default().parents.insert(parent);
            self.values.entry(label.key).or_default().insert(label.value);
        }
        for label in old.iter().flatten() {
            if !new.iter().flatten().any(|kept| kept == label)
                && let Some(holders) = self.by_label.get_mut(label)
            {
                holders.parents.remove(&parent);
            }
            self.forget_label_if_unused(*label);
            self.release_label(*label);
        }
        let concerned = self.inherited.children(parent).filter(|_| differs).collect();
        self.inherited.forget_if_unused(parent);
        concerned
    }

    /// Is the object known whose labels those inherit that have the profile `name`?
    pub(crate) fn is_known(&self, name: &str) -> bool {
        self.inherited.is_known(name)
    }

    /// What selectors see of a class.
    pub(crate) fn labels(&self, id: ClassId) -> ClassLabels<'_> {
        ClassLabels { all: self, traits: &self.classes.get(id.0).traits }
    }

    /// Every class for which `restrictions` may hold, and perhaps others: the fewest of the ways to find them.
    pub(crate) fn candidates(&self, restrictions: &BTreeMap<Arc<str>, Restriction>) -> Vec<ClassId> {
        let ways = restrictions.iter().filter_map(|(key, restriction)| self.labels_for(key, restriction));
        let size = |labels: &Vec<Label>| labels.iter().map(|label| self.count(*label)).sum::<usize>();
        let Some(labels) = ways.min_by_key(size) else {
            return self.classes.ids().map(ClassId).collect();
        };
        let holders = labels.iter().filter_map(|label| self.by_label.get(label));
        let mut found = Vec::new();
        for holders in holders {
            found.extend(holders.classes.iter().copied());
            found.extend(holders.parents.iter().flat_map(|parent| self.inherited.children(*parent)));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The labels of which a class must have one; `None` when the restriction does not tell.
    fn labels_for(&self, key: &str, restriction: &Restriction) -> Option<Vec<Label>> {
        let Some(key) = self.symbols.find(key) else {
            return (*restriction != Restriction::Absent).then(Vec::new);
        };
        if !is_indexed(&self.symbols, key) {
            return None;
        }
        match restriction {
            Restriction::Absent => None,
            Restriction::Present => {
                let values = self.values.get(&key).into_iter().flatten();
                Some(values.map(|value| Label { key, value: *value }).collect())
            }
            Restriction::OneOf(values) => {
                let values = values.iter().filter_map(|value| self.symbols.find(value));
                Some(values.map(|value| Label { key, value }).collect())
            }
        }
    }

    /// How many classes have the label, at most.
    fn count(&self, label: Label) -> usize {
        let Some(holders) = self.by_label.get(&label) else { return 0 };
        let inherited = holders.parents.iter().map(|parent| self.inherited.children(*parent).count());
        holders.classes.len() + inherited.sum::<usize>()
    }

    fn hold_traits(&mut self, description: &Description<'_>) -> Traits {
        let symbols = &mut self.symbols;
        let mut labels: Vec<_> =
            description.labels.iter().map(|(key, value)| hold_label(symbols, key, value)).collect();
        labels.sort_unstable();
        let ports = description.ports.iter().map(|(name, protocol, port)| NamedPort {
            name: symbols.hold(name),
            protocol: *protocol,
            port: *port,
        });
        let mut ports: Vec<_> = ports.collect();
        ports.sort_unstable();
        let mut parents = Vec::new();
        for parent in description.parents.iter().map(|name| self.inherited.find_or_make(name)) {
            if !parents.contains(&parent) {
                parents.push(parent);
            }
        }
        Traits { kind: description.kind, labels: labels.into(), parents: parents.into(), ports: ports.into() }
    }

    fn release_traits(&mut self, traits: &Traits) {
        traits.labels.iter().for_each(|label| self.release_label(*label));
        traits.ports.iter().for_each(|port| self.symbols.release(port.name));
        traits.parents.iter().for_each(|parent| self.inherited.forget_if_unused(*parent));
    }

    fn release_label(&mut self, label: Label) {
        self.symbols.release(label.key);
        self.symbols.release(label.value);
    }

    fn forget_label_if_unused(&mut self, label: Label) {
        let Some(holders) = self.by_label.get(&label) else { return };
        if !holders.classes.is_empty() || !holders.parents.is_empty() {
            return;
        }
        self.by_label.remove(&label);
        if let Some(values) = self.values.get_mut(&label.key) {
            values.remove(&label.value);
            if values.is_empty() {
                self.values.remove(&label.key);
            }
        }
    }
}

fn hold_label(symbols: &mut Symbols, key: &str, value: &str) -> Label {
    Label { key: symbols.hold(key), value: symbols.hold(value) }
}

/// Every pod has this one with one and the same value: no way to find few.
pub(crate) const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";

fn is_indexed(symbols: &Symbols, key: Symbol) -> bool {
    symbols.text(key) != ORCHESTRATOR
}

/// The labels of a class, its own and those that it inherits; nothing is copied.
#[derive(Clone, Copy)]
pub(crate) struct ClassLabels<'a> {
    all: &'a Classes,
    traits: &'a Traits,
}

impl ClassLabels<'_> {
    /// Every label; also one that another label with the same key hides.
    pub(crate) fn each(&self) -> impl Iterator<Item = Label> {
        let inherited = self.traits.parents.iter().flat_map(|parent| self.all.inherited.labels(*parent));
        self.traits.labels.iter().chain(inherited).copied()
    }

    /// The value of the label with this key.
    pub(crate) fn value(&self, key: Symbol) -> Option<&str> {
        let find = |labels: &[Label]| labels.iter().find(|label| label.key == key).copied();
        let inherited =
            || self.traits.parents.iter().find_map(|parent| find(self.all.inherited.labels(*parent)));
        let label = find(&self.traits.labels).or_else(inherited)?;
        Some(self.all.symbols.text(label.value))
    }
}

/// For a question that is asked once; whoever asks often finds the keys' symbols before.
impl LabelLookup for ClassLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        self.value(self.all.symbols.find(key)?)
    }
}
