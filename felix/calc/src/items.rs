//! Everything that is in IP sets by its labels: pods, host endpoints and network sets, with the addresses that
//! each stands for.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashTable;
use model::Cidr;

use crate::classes::{ClassId, Classes, Description};
use crate::difference::difference;
use crate::sets::IpSets;
use crate::slab::Slab;

/// Stands for a pod, host endpoint or network set while it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ItemId(u32);

/// Prefixes, sorted, each once; most pods have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nets {
    One(Cidr),
    Any(Arc<[Cidr]>),
}

impl Nets {
    pub(crate) fn new(mut nets: Vec<Cidr>) -> Self {
        nets.sort_unstable();
        nets.dedup();
        match nets[..] {
            [net] => Self::One(net),
            _ => Self::Any(nets.into()),
        }
    }

    pub(crate) fn of_hosts(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::new(addresses.into_iter().map(Cidr::host).collect())
    }

    pub(crate) fn as_slice(&self) -> &[Cidr] {
        match self {
            Self::One(net) => std::slice::from_ref(net),
            Self::Any(nets) => nets,
        }
    }
}

struct Item {
    /// Kind, namespace and name.
    name: Box<str>,
    class: ClassId,
    /// In the class.
    place: u32,
    nets: Nets,
}

/// What an item is to IP sets.
#[derive(Clone, Copy)]
pub(crate) struct Membership<'a> {
    pub(crate) class: ClassId,
    pub(crate) nets: &'a [Cidr],
}

#[derive(Default)]
pub(crate) struct Items {
    pub(crate) classes: Classes,
    items: Slab<Item>,
    ids: HashTable<ItemId>,
    hasher: RandomState,
    /// Whose each prefix is.
    owners: HashMap<Cidr, ItemId>,
    /// Those beside the one above, where there are several.
    more_owners: HashMap<Cidr, Vec<ItemId>>,
}

impl Items {
    pub(crate) fn find(&self, name: &str) -> Option<Membership<'_>> {
        self.find_id(name).map(|id| self.membership(id))
    }

    pub(crate) fn membership(&self, id: ItemId) -> Membership<'_> {
        let item = self.items.get(id.0);
        Membership { class: item.class, nets: item.nets.as_slice() }
    }

    /// Those that have exactly this prefix.
    pub(crate) fn owners(&self, net: Cidr) -> impl Iterator<Item = Membership<'_>> {
        let more = self.more_owners.get(&net).into_iter().flatten();
        self.owners.get(&net).into_iter().chain(more).map(|id| self.membership(*id))
    }

    /// Stores an item; does that change anything?
    pub(crate) fn set(&mut self, name: &str, is: &Description<'_>, nets: Nets, sets: &mut IpSets) -> bool {
        let (class, is_new) = self.classes.find_or_make(is);
        if is_new {
            sets.add_class(class, &self.classes);
        }
        self.put(name, class, nets, sets)
    }

    /// Changes what an item that is known stands for.
    pub(crate) fn set_nets(&mut self, name: &str, nets: Nets, sets: &mut IpSets) {
        if let Some(class) = self.find(name).map(|item| item.class) {
            self.put(name, class, nets, sets);
        }
    }

    /// Forgets an item; was it there?
    pub(crate) fn remove(&mut self, name: &str, sets: &mut IpSets) -> bool {
        let Some(id) = self.find_id(name) else { return false };
        sets.item_changes(Some(self.membership(id)), None, self);
        let nets = self.items.get(id.0).nets.clone();
        self.disown(id, nets.as_slice());
        if let Ok(entry) = self.ids.find_entry(self.hasher.hash_one(name), |other| *other == id) {
            entry.remove();
        }
        let item = self.items.remove(id.0);
        self.leave(item.class, item.place, sets);
        true
    }

    /// Lets go of a class that was held.
    pub(crate) fn release_class(&mut self, class: ClassId, sets: &mut IpSets) {
        self.classes.release(class);
        self.forget_class_if_unused(class, sets);
    }

    fn put(&mut self, name: &str, class: ClassId, nets: Nets, sets: &mut IpSets) -> bool {
        let Some(id) = self.find_id(name) else {
            sets.item_changes(None, Some(Membership { class, nets: nets.as_slice() }), self);
            let id = ItemId(self.items.insert(Item { name: name.into(), class, place: 0, nets }));
            self.items.get_mut(id.0).place = self.classes.enter(class, id);
            let (items, hasher) = (&self.items, &self.hasher);
            let hash = |id: &ItemId| hasher.hash_one(&*items.get(id.0).name);
            self.ids.insert_unique(hasher.hash_one(name), id, hash);
            let nets = self.items.get(id.0).nets.clone();
            self.own(id, nets.as_slice());
            return true;
        };
        let old = self.items.get(id.0);
        if old.class == class && old.nets == nets {
            return false;
        }
        sets.item_changes(Some(self.membership(id)), Some(Membership { class, nets: nets.as_slice() }), self);
        let (old_class, old_place) = (old.class, old.place);
        if old.nets != nets {
            let (gone, come) = difference(old.nets.as_slice(), nets.as_slice());
            self.disown(id, &gone);
            self.own(id, &come);
            self.items.get_mut(id.0).nets = nets;
        }
        if old_class != class {
            self.items.get_mut(id.0).class = class;
            self.items.get_mut(id.0).place = self.classes.enter(class, id);
            self.leave(old_class, old_place, sets);
        }
        true
    }

    fn leave(&mut self, class: ClassId, place: u32, sets: &mut IpSets) {
        if let Some(moved) = self.classes.leave(class, place) {
            self.items.get_mut(moved.0).place = place;
        }
        self.forget_class_if_unused(class, sets);
    }

    fn forget_class_if_unused(&mut self, class: ClassId, sets: &mut IpSets) {
        if self.classes.forget_if_unused(class) {
            sets.remove_class(class);
        }
    }

    fn own(&mut self, id: ItemId, nets: &[Cidr]) {
        for net in nets {
            let first = *self.owners.entry(*net).or_insert(id);
            if first != id {
                self.more_owners.entry(*net).or_default().push(id);
            }
        }
    }

    fn disown(&mut self, id: ItemId, nets: &[Cidr]) {
        for net in nets {
            let more = self.more_owners.get_mut(net);
            let is_first = self.owners.get(net) == Some(&id);
            let Some(more) = more else {
                self.owners.remove(net);
                continue;
            };
            if is_first {
                let next = more.pop().expect("where there are more owners, there is one");
                self.owners.insert(*net, next);
            } else {
                more.retain(|other| *other != id);
            }
            if more.is_empty() {
                self.more_owners.remove(net);
            }
        }
    }

    fn find_id(&self, name: &str) -> Option<ItemId> {
        let hash = self.hasher.hash_one(name);
        self.ids.find(hash, |id| *self.items.get(id.0).name == *name).copied()
    }
}
