//! Which resources are served: the built-in table and whatever the CRDs add.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use serde_json::Value;

use crate::builtin::{self, Builtin};
use crate::crd::CustomVersion;
use crate::names::NameRule;
use crate::openapi::{self, Documents};

/// Whether objects live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Once per cluster.
    Cluster,
}

/// One served resource in one version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group, "" for the core.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
    /// Plural name as in the URL.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Where objects live.
    pub scope: Scope,
    /// Names that `kubectl` accepts for the plural.
    pub short_names: Vec<String>,
    /// Groups of resources that `kubectl get` knows, such as `all`.
    pub categories: Vec<String>,
    /// Whether `/status` is served (and status ignored elsewhere).
    pub has_status: bool,
    pub(crate) subresources: Vec<&'static str>,
    pub(crate) verbs: &'static [&'static str],
    pub(crate) counts_generation: bool,
    pub(crate) name_rule: NameRule,
    pub(crate) fields: Vec<String>,
    pub(crate) flavour: Flavour,
}

/// What is special about a resource.
#[derive(Debug, Clone)]
pub(crate) enum Flavour {
    BuiltIn(Builtin),
    Custom(Arc<CustomVersion>),
}

/// Everything that can be done with an ordinary resource.
pub(crate) const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Resource {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Name of its collection in the store; the same for all versions.
    pub fn collection(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }

    /// Whether objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether a CRD defines it.
    pub fn is_custom(&self) -> bool {
        matches!(self.flavour, Flavour::Custom(_))
    }

    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn custom(&self) -> Option<&CustomVersion> {
        match &self.flavour {
            Flavour::Custom(version) => Some(version),
            Flavour::BuiltIn(_) => None,
        }
    }

    pub(crate) fn builtin(&self) -> Option<&Builtin> {
        match &self.flavour {
            Flavour::BuiltIn(builtin) => Some(builtin),
            Flavour::Custom(_) => None,
        }
    }

    /// JSON with which every object of this resource starts on the wire.
    pub(crate) fn prefix(&self) -> String {
        format!("{{\"apiVersion\":\"{}\",\"kind\":\"{}\",", self.api_version(), self.kind)
    }
}

/// A snapshot of what is served.
#[derive(Debug, Default)]
pub(crate) struct Index {
    resources: Vec<Arc<Resource>>,
    documents: OnceLock<Documents>,
}

impl Index {
    /// All resources: the built-in ones first, in the order of the table.
    pub(crate) fn all(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// OpenAPI of all this, made when first asked for.
    pub(crate) fn documents(&self) -> &Documents {
        self.documents.get_or_init(|| openapi::documents(self))
    }

    /// By what a URL says.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources
            .iter()
            .find(|r| r.group == group && r.version == version && r.plural == plural)
            .cloned()
    }

    /// Groups and their versions, in the order served.
    pub(crate) fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in &self.resources {
            match groups.iter_mut().find(|(name, _)| *name == resource.group) {
                Some((_, versions)) if versions.contains(&resource.version) => {}
                Some((_, versions)) => versions.push(resource.version.clone()),
                None => groups.push((resource.group.clone(), vec![resource.version.clone()])),
            }
        }
        groups
    }

    /// Resources of one group and version.
    pub(crate) fn of(&self, group: &str, version: &str) -> Vec<Arc<Resource>> {
        self.resources.iter().filter(|r| r.group == group && r.version == version).cloned().collect()
    }
}

/// The registry; readers take a snapshot.
#[derive(Debug)]
pub(crate) struct Registry {
    index: RwLock<Arc<Index>>,
}

impl Registry {
    /// Knows only what is built in.
    pub(crate) fn new() -> Self {
        let resources = builtin::table().into_iter().map(Arc::new).collect();
        Self { index: RwLock::new(Arc::new(Index { resources, documents: OnceLock::new() })) }
    }

    /// What is served now.
    pub(crate) fn index(&self) -> Arc<Index> {
        self.index.read().clone()
    }

    /// Replaces what CRDs add. CRDs that are being deleted are still served.
    pub(crate) fn set_crds(&self, crds: &[Value]) {
        let mut resources: Vec<Arc<Resource>> = builtin::table().into_iter().map(Arc::new).collect();
        let mut by_name: BTreeMap<String, Vec<Resource>> = BTreeMap::new();
        for crd in crds {
            let name = crate::object::meta_str(crd, "name").to_owned();
            by_name.insert(name, crate::crd::resources(crd));
        }
        resources.extend(by_name.into_values().flatten().map(Arc::new));
        *self.index.write() = Arc::new(Index { resources, documents: OnceLock::new() });
    }
}
