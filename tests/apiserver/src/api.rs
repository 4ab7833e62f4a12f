//! What can be done with objects, whoever asks: the HTTP handlers and the embedding program use the same calls.

mod admit;
mod delete;
mod read;
mod write;

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;

use crate::object::Object;
use crate::registry::{Index, Registry, Resource};
use crate::status::ApiError;
use crate::store::{Store, Watch};

pub use self::delete::{DeleteOptions, Deleted};
pub use self::read::{ListOptions, Listing};
pub use self::write::Part;

/// The API over one store. Cheap to share; all writers queue up behind one lock.
#[derive(Debug)]
pub struct Api {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Registry,
    writers: Mutex<()>,
}

/// What a write does with fields that no schema knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Refuse.
    Strict,
    /// Drop and warn.
    #[default]
    Warn,
    /// Drop.
    Ignore,
}

/// How to write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Check everything, store nothing.
    pub dry_run: bool,
    /// Owner of the fields that are written.
    pub field_manager: String,
    /// What to do with unknown fields.
    pub field_validation: FieldValidation,
    /// Server-side apply: take fields from other managers.
    pub force: bool,
}

impl WriteOptions {
    /// Options of a writer named `manager`.
    pub fn by(manager: &str) -> Self {
        Self { field_manager: manager.into(), ..Self::default() }
    }
}

/// Outcome of a write.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as it is now.
    pub object: Arc<Object>,
    /// Whether it is new.
    pub is_created: bool,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

impl Api {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let api = Self { store, registry: Registry::new(), writers: Mutex::new(()) };
        api.reload_crds();
        api
    }

    /// The resource that serves a kind, such as (`projectcalico.org/v3`, `IPPool`).
    pub fn resource(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.index().all().iter().find(|r| r.kind == kind && r.api_version() == api_version).cloned()
    }

    /// Follows a resource after a revision, such as the one of a [`Listing`].
    ///
    /// # Errors
    /// 410 if the log does not reach back so far.
    pub fn watch(&self, resource: &Resource, revision: u64) -> Result<Watch, ApiError> {
        self.store.watch(&resource.collection(), revision).map_err(|e| ApiError::expired(e.to_string()))
    }

    pub(crate) fn index(&self) -> Arc<Index> {
        self.registry.index()
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writers.lock()
    }

    fn put(&self, resource: &Resource, value: Value) -> Result<Arc<Object>, ApiError> {
        let object = self.store.put(&resource.collection(), value).map_err(|e| storage(&e))?;
        if resource.is(CRD_GROUP, CRDS) {
            self.reload_crds();
        }
        Ok(object)
    }

    fn reload_crds(&self) {
        let (objects, _) = self.store.list(&format!("{CRD_GROUP}/{CRDS}"), None);
        let crds: Vec<Value> = objects.iter().map(|o| o.value().clone()).collect();
        self.registry.set_crds(&crds);
    }
}

pub(crate) const CRD_GROUP: &str = "apiextensions.k8s.io";
pub(crate) const CRDS: &str = "customresourcedefinitions";

fn storage(error: &anyhow::Error) -> ApiError {
    tracing::error!(%error, "the store cannot be written");
    ApiError::internal(format!("the store cannot be written: {error:#}"))
}
