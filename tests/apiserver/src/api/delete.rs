//! Deletion: preconditions, grace, finalizers, and what falls with a namespace or a CRD.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, CRD_GROUP, CRDS, ListOptions, Listing, storage};
use crate::clock;
use crate::object::{Key, Object, has_finalizers, is_terminating, meta, meta_str, set_meta};
use crate::registry::Resource;
use crate::status::ApiError;

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds that a pod may take; 0 removes it at once.
    pub grace_seconds: Option<i64>,
    /// Delete only the object with this uid.
    pub uid: Option<String>,
    /// Delete only this revision.
    pub resource_version: Option<String>,
    /// Check everything, delete nothing.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// At once, without grace.
    pub fn now() -> Self {
        Self { grace_seconds: Some(0), ..Self::default() }
    }

    /// Reads a `DeleteOptions` object.
    pub(crate) fn from_json(value: &Value) -> Self {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        Self {
            grace_seconds: value.get("gracePeriodSeconds").and_then(Value::as_i64),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run: value.get("dryRun").and_then(Value::as_array).is_some_and(|d| !d.is_empty()),
        }
    }
}

/// Outcome of a deletion.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The object: its last state, or the one that is terminating.
    pub object: Arc<Object>,
    /// Whether it is gone already.
    pub is_gone: bool,
}

impl Api {
    /// Deletes one object, or starts to.
    ///
    /// # Errors
    /// 404, or 409 if a precondition does not hold.
    pub fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let _writing = self.lock();
        let object = self.get(resource, namespace, name)?;
        check_preconditions(resource, &object, options)?;
        if resource.is("", "namespaces") && matches!(name, "default" | "kube-system" | "kube-public") {
            return Err(ApiError::forbidden("", "namespaces", name, "this namespace may not be deleted"));
        }
        if options.dry_run {
            return Ok(Deleted { object, is_gone: true });
        }
        self.delete_locked(resource, object, options.grace_seconds)
    }

    /// Deletes all that a list finds and returns that list.
    ///
    /// # Errors
    /// See [`Api::list`].
    pub fn delete_collection(
        &self,
        resource: &Resource,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Listing, ApiError> {
        let _writing = self.lock();
        let listing = self.list(resource, list)?;
        for object in listing.objects.iter().filter(|_| !options.dry_run) {
            self.delete_locked(resource, object.clone(), options.grace_seconds)?;
        }
        Ok(listing)
    }

    fn delete_locked(
        &self,
        resource: &Resource,
        object: Arc<Object>,
        grace: Option<i64>,
    ) -> Result<Deleted, ApiError> {
        let grace = grace_of(resource, object.value(), grace);
        if resource.is("", "namespaces") {
            return self.delete_namespace(resource, &object);
        }
        if resource.is(CRD_GROUP, CRDS) {
            return self.delete_crd(resource, &object);
        }
        if has_finalizers(object.value()) || grace > 0 {
            return self.mark(resource, &object, grace);
        }
        self.remove(resource, &object)
    }

    /// Takes an object out of the store, and its namespace if that was only waiting for it.
    pub(super) fn remove(&self, resource: &Resource, object: &Object) -> Result<Deleted, ApiError> {
        let removed = self.store.remove(&resource.collection(), &object.key).map_err(|e| storage(&e))?;
        let removed = removed
            .ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, &object.key.name))?;
        if resource.is(CRD_GROUP, CRDS) {
            self.reload_crds();
        }
        self.finish_namespace(&object.key.namespace)?;
        if resource.is_custom() {
            self.finish_crd(resource)?;
        }
        Ok(Deleted { object: removed, is_gone: true })
    }

    /// Sets the deletion timestamp. A shorter grace replaces a longer one.
    fn mark(&self, resource: &Resource, object: &Arc<Object>, grace: i64) -> Result<Deleted, ApiError> {
        let before = meta(object.value(), "deletionGracePeriodSeconds").and_then(Value::as_i64);
        if is_terminating(object.value()) && before.is_none_or(|b| b <= grace) {
            return Ok(Deleted { object: object.clone(), is_gone: false });
        }
        let mut value = object.value().clone();
        set_meta(&mut value, "deletionTimestamp", json!(clock::format_time(clock::unix_now() + grace)));
        set_meta(&mut value, "deletionGracePeriodSeconds", json!(grace));
        if resource.counts_generation {
            let generation = meta(&value, "generation").and_then(Value::as_i64).unwrap_or(0);
            set_meta(&mut value, "generation", json!(generation + 1));
        }
        Ok(Deleted { object: self.put(resource, value)?, is_gone: false })
    }

    fn delete_namespace(&self, resource: &Resource, object: &Arc<Object>) -> Result<Deleted, ApiError> {
        let mut marked = object.clone();
        if !is_terminating(object.value()) {
            let mut value = object.value().clone();
            set_meta(&mut value, "deletionTimestamp", json!(clock::now()));
            value["status"]["phase"] = json!("Terminating");
            marked = self.put(resource, value)?;
        }
        let name = object.key.name.clone();
        let index = self.index();
        for (collection, content) in self.store.namespace_content(&name) {
            let Some(resource) = index.all().iter().find(|r| r.collection() == collection) else { continue };
            self.delete_locked(resource, content, None)?;
        }
        self.finish_namespace(&name)?;
        let is_gone = self.get(resource, "", &name).is_err();
        Ok(Deleted { object: marked, is_gone })
    }

    /// Removes a namespace that is terminating and empty.
    pub(super) fn finish_namespace(&self, name: &str) -> Result<(), ApiError> {
        let Some(namespaces) = self.resource("v1", "Namespace") else { return Ok(()) };
        let Ok(namespace) = self.get(&namespaces, "", name) else { return Ok(()) };
        let is_done = is_terminating(namespace.value())
            && !has_finalizers(namespace.value())
            && self.store.is_namespace_empty(name);
        if is_done {
            self.store.remove(&namespaces.collection(), &Key::new("", name)).map_err(|e| storage(&e))?;
        }
        Ok(())
    }

    fn delete_crd(&self, resource: &Resource, object: &Arc<Object>) -> Result<Deleted, ApiError> {
        let marked = self.mark(resource, object, 0)?.object;
        for custom in crate::crd::resources(object.value()).iter().take(1) {
            for content in self.store.list(&custom.collection(), None).0 {
                self.delete_locked(custom, content, None)?;
            }
        }
        self.finish_crd_named(&object.key.name)?;
        let is_gone = self.get(resource, "", &object.key.name).is_err();
        Ok(Deleted { object: marked, is_gone })
    }

    fn finish_crd(&self, custom: &Resource) -> Result<(), ApiError> {
        self.finish_crd_named(&format!("{}.{}", custom.plural, custom.group))
    }

    /// Removes a CRD that is terminating and has no objects left.
    fn finish_crd_named(&self, name: &str) -> Result<(), ApiError> {
        let Some(crds) = self.resource("apiextensions.k8s.io/v1", "CustomResourceDefinition") else {
            return Ok(());
        };
        let Ok(crd) = self.get(&crds, "", name) else { return Ok(()) };
        if !is_terminating(crd.value()) || has_finalizers(crd.value()) {
            return Ok(());
        }
        let is_empty = crate::crd::resources(crd.value())
            .first()
            .is_none_or(|custom| self.store.list(&custom.collection(), None).0.is_empty());
        if is_empty {
            self.store.remove(&crds.collection(), &Key::new("", name)).map_err(|e| storage(&e))?;
            self.reload_crds();
        }
        Ok(())
    }
}

fn check_preconditions(
    resource: &Resource,
    object: &Object,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let conflict = |what: &str, wanted: &str, found: &str| {
        let why = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might \
             have been {}",
            if what == "UID" { "deleted and then recreated" } else { "modified" }
        );
        Err(ApiError::conflict(&resource.group, &resource.kind, &object.key.name, why))
    };
    let uid = meta_str(object.value(), "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|w| *w != uid) {
        return conflict("UID", wanted, uid);
    }
    let revision = object.revision.to_string();
    if let Some(wanted) = options.resource_version.as_deref().filter(|w| *w != revision) {
        return conflict("ResourceVersion", wanted, &revision);
    }
    Ok(())
}

/// Grace is for pods that a node runs; all else goes at once.
fn grace_of(resource: &Resource, value: &Value, asked: Option<i64>) -> i64 {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or("");
    let is_finished = matches!(text("/status/phase"), "Succeeded" | "Failed");
    if !resource.is("", "pods") || text("/spec/nodeName").is_empty() || is_finished {
        return 0;
    }
    let own = value.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
    asked.unwrap_or(own).max(0)
}
