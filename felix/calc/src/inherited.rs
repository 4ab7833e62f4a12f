//! Labels that endpoints inherit from their profiles: those of namespaces and service accounts, mostly.

use std::collections::HashMap;
use std::sync::Arc;

use crate::classes::{ClassId, Label};
use crate::slab::{IdSet, Slab};

/// Stands for a profile while its labels are known or some class inherits them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ParentId(u32);

struct Parent {
    name: Arc<str>,
    /// Sorted; `None` when there is no such object.
    labels: Option<Box<[Label]>>,
    children: IdSet<ClassId>,
}

/// Who inherits what, by name of the profile.
#[derive(Default)]
pub(crate) struct Inherited {
    ids: HashMap<Arc<str>, ParentId>,
    parents: Slab<Parent>,
}

impl Inherited {
    pub(crate) fn find_or_make(&mut self, name: &str) -> ParentId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        let parent = Parent { name: name.clone(), labels: None, children: IdSet::default() };
        let id = ParentId(self.parents.insert(parent));
        self.ids.insert(name, id);
        id
    }

    /// Stores labels; the ones before.
    pub(crate) fn replace(&mut self, id: ParentId, labels: Option<Box<[Label]>>) -> Option<Box<[Label]>> {
        std::mem::replace(&mut self.parents.get_mut(id.0).labels, labels)
    }

    pub(crate) fn add_child(&mut self, id: ParentId, class: ClassId) {
        self.parents.get_mut(id.0).children.insert(class);
    }

    pub(crate) fn remove_child(&mut self, id: ParentId, class: ClassId) {
        self.parents.get_mut(id.0).children.remove(&class);
    }

    pub(crate) fn children(&self, id: ParentId) -> impl ExactSizeIterator<Item = ClassId> {
        self.parents.get(id.0).children.iter().copied()
    }

    pub(crate) fn labels(&self, id: ParentId) -> &[Label] {
        self.parents.get(id.0).labels.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_known(&self, name: &str) -> bool {
        self.ids.get(name).is_some_and(|id| self.parents.get(id.0).labels.is_some())
    }

    pub(crate) fn forget_if_unused(&mut self, id: ParentId) {
        let parent = self.parents.get(id.0);
        if parent.labels.is_none() && parent.children.is_empty() {
            let parent = self.parents.remove(id.0);
            self.ids.remove(&parent.name);
        }
    }
}
