//! Named lists of prefixes that selectors match by label.

use std::fmt;
use std::sync::Arc;

use crate::{Cidr, Labels};

/// A NetworkSet, or a GlobalNetworkSet when it has no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkSetKey {
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

impl NetworkSetKey {
    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        Self { namespace: namespace.map(Into::into), name: name.into() }
    }
}

impl fmt::Display for NetworkSetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What rules mean when their selector matches `labels`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// The object's own, and `projectcalico.org/namespace` for one in a namespace. Labels of the namespace
    /// (`pcns.*`) are the index's to add, as for Pods.
    pub labels: Labels,
    /// Sorted, each once.
    pub nets: Arc<[Cidr]>,
}
