//! Create, update and patch.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, WriteOptions, Written};
use crate::apply::{self, Writer};
use crate::clock;
use crate::object::{
    Object, child_mut, has_finalizers, is_terminating, meta, meta_mut, meta_str, put_meta, set_meta, set_type,
};
use crate::patch::{self, PatchKind};
use crate::registry::Resource;
use crate::status::{ApiError, Cause};

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but the status, if the resource has a status of its own.
    Main,
    /// The status, and of built-in kinds the metadata.
    Status,
}

impl Part {
    fn subresource(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
        }
    }
}

/// Names that `generateName` tries before it gives up.
const NAME_ATTEMPTS: usize = 8;

impl Api {
    /// Creates an object. `value` names its type; its name may come from `generateName`.
    ///
    /// # Errors
    /// 400, 404 (namespace), 409 or 422 as the real server has them.
    pub fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let _writing = self.lock();
        self.create_locked(resource, namespace, value, options, Ownership::Track)
    }

    fn create_locked(
        &self,
        resource: &Resource,
        namespace: &str,
        mut value: Value,
        options: &WriteOptions,
        ownership: Ownership,
    ) -> Result<Written, ApiError> {
        self.check_identity(resource, namespace, None, &mut value)?;
        if !meta_str(&value, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        self.generate_name(resource, namespace, &mut value)?;
        let name = meta_str(&value, "name").to_owned();
        self.check_namespace(resource, namespace, &name)?;
        if resource.has_status && !resource.builtin().is_some_and(|b| b.keeps_status_on_create) {
            drop_member(&mut value, "status");
        }
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            meta_mut(&mut value).remove(field);
        }
        set_meta(&mut value, "uid", json!(clock::uid()));
        set_meta(&mut value, "creationTimestamp", json!(clock::now()));
        if resource.counts_generation {
            set_meta(&mut value, "generation", json!(1));
        }
        let warnings = self.normalise(resource, &mut value, None, options.field_validation)?;
        self.check(resource, &value, None)?;
        if self.get(resource, namespace, &name).is_ok() {
            return Err(ApiError::already_exists(&resource.group, &resource.plural, &name));
        }
        if ownership == Ownership::Track {
            let writer = Writer { manager: &options.field_manager, subresource: "" };
            apply::track_update(resource, None, &mut value, writer);
        }
        let object = self.store_unless_dry(resource, value, None, options)?;
        if resource.is("", "namespaces") && !options.dry_run {
            self.furnish_namespace(&name)?;
        }
        Ok(Written { object, is_created: true, warnings })
    }

    /// Replaces an object or its status.
    ///
    /// # Errors
    /// 400, 404, 409 (it changed since the `resourceVersion` in `value`) or 422.
    pub fn update(
        &self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        part: Part,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let _writing = self.lock();
        self.check_identity(resource, namespace, Some(name), &mut value)?;
        let old = self.get(resource, namespace, name)?;
        if resource.is_custom() && meta_str(&value, "resourceVersion").is_empty() {
            let cause =
                Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
            return Err(ApiError::invalid(&resource.group, &resource.plural, name, vec![cause]));
        }
        self.replace(resource, &old, value, part, options, Ownership::Track)
    }

    /// Patches an object or its status. A server-side apply creates what is not there.
    ///
    /// # Errors
    /// As [`Api::update`], and 415 for a strategic merge patch of a custom resource.
    pub fn patch(
        &self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        part: Part,
        (kind, patch): (PatchKind, &Value),
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        if kind == PatchKind::Strategic && resource.is_custom() {
            return Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        let _writing = self.lock();
        if kind == PatchKind::Apply {
            return self.apply_locked(resource, (namespace, name), part, patch, options);
        }
        let old = self.get(resource, namespace, name)?;
        let current = old.typed(&resource.api_version(), &resource.kind);
        let mut value = patch::apply(kind, resource, &current, patch)?;
        self.check_identity(resource, namespace, Some(name), &mut value)?;
        self.replace(resource, &old, value, part, options, Ownership::Track)
    }

    fn apply_locked(
        &self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        part: Part,
        configuration: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        if options.field_manager.is_empty() {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
        }
        let mut configuration = configuration.clone();
        self.check_identity(resource, namespace, Some(name), &mut configuration)?;
        match part {
            Part::Main if resource.has_status => drop_member(&mut configuration, "status"),
            Part::Status => drop_member(&mut configuration, "spec"),
            Part::Main => {}
        }
        let old = self.get(resource, namespace, name).ok();
        if old.is_none() && part == Part::Status {
            return Err(ApiError::not_found(&resource.group, &resource.plural, name));
        }
        let asked = meta_str(&configuration, "uid").to_owned();
        if !asked.is_empty() && old.as_ref().is_none_or(|o| meta_str(o.value(), "uid") != asked) {
            let why = "uid mismatch: the provided object specified a uid that is not the one of the existing object";
            return Err(ApiError::conflict(&resource.group, &resource.plural, name, why));
        }
        let live = old.as_ref().map(|o| o.typed(&resource.api_version(), &resource.kind));
        let writer = Writer { manager: &options.field_manager, subresource: part.subresource() };
        let mut merged =
            apply::server_side_apply(resource, live.as_ref(), &configuration, writer, options.force)?;
        set_type(&mut merged, &resource.api_version(), &resource.kind);
        match old {
            Some(old) => self.replace(resource, &old, merged, part, options, Ownership::Settled),
            None => {
                meta_mut(&mut merged).remove("resourceVersion");
                self.create_locked(resource, namespace, merged, options, Ownership::Settled)
            }
        }
    }

    /// The common end of every write to an object that is there.
    fn replace(
        &self,
        resource: &Resource,
        old: &Arc<Object>,
        mut value: Value,
        part: Part,
        options: &WriteOptions,
        ownership: Ownership,
    ) -> Result<Written, ApiError> {
        let name = &old.key.name;
        let given = meta_str(&value, "resourceVersion");
        if !given.is_empty() && given != old.revision.to_string() {
            return Err(ApiError::stale(&resource.group, &resource.plural, name));
        }
        let (uid, given_uid) = (meta_str(old.value(), "uid"), meta_str(&value, "uid"));
        if !given_uid.is_empty() && given_uid != uid {
            let why =
                format!("Precondition failed: UID in precondition: {given_uid}, UID in object meta: {uid}");
            return Err(ApiError::conflict(&resource.group, &resource.plural, name, why));
        }
        combine(resource, old.value(), &mut value, part);
        let warnings = self.normalise(resource, &mut value, Some(old.value()), options.field_validation)?;
        refuse_new_finalizers(resource, old, &value)?;
        let main_changed = resource.counts_generation && has_new_content(resource, old.value(), &value);
        if main_changed && part == Part::Main {
            let generation = meta(old.value(), "generation").and_then(Value::as_i64).unwrap_or(0);
            set_meta(&mut value, "generation", json!(generation + 1));
        }
        self.check(resource, &value, Some(old.value()))?;
        if ownership == Ownership::Track {
            let writer = Writer { manager: &options.field_manager, subresource: part.subresource() };
            apply::track_update(resource, Some(old.value()), &mut value, writer);
        }
        if is_unchanged(old, &value) {
            return Ok(Written { object: old.clone(), is_created: false, warnings });
        }
        if is_terminating(&value) && !has_finalizers(&value) && has_no_grace(&value) && !options.dry_run {
            let mut last = Object::new(value, old.revision);
            last.key = old.key.clone();
            self.remove(resource, old)?;
            return Ok(Written { object: Arc::new(last), is_created: false, warnings });
        }
        let object = self.store_unless_dry(resource, value, Some(old), options)?;
        Ok(Written { object, is_created: false, warnings })
    }

    fn store_unless_dry(
        &self,
        resource: &Resource,
        value: Value,
        old: Option<&Arc<Object>>,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        if options.dry_run {
            let revision = old.map_or_else(|| self.revision(), |o| o.revision);
            return Ok(Arc::new(Object::new(value, revision)));
        }
        self.put(resource, value)
    }

    fn generate_name(&self, resource: &Resource, namespace: &str, value: &mut Value) -> Result<(), ApiError> {
        if !meta_str(value, "name").is_empty() {
            return Ok(());
        }
        let prefix = meta_str(value, "generateName").to_owned();
        if prefix.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(&resource.group, &resource.kind, "", vec![cause]));
        }
        let prefix: String = prefix.chars().take(58).collect();
        for _ in 0..NAME_ATTEMPTS {
            let name = format!("{prefix}{}", clock::suffix());
            if self.get(resource, namespace, &name).is_err() {
                set_meta(value, "name", json!(name));
                return Ok(());
            }
        }
        Err(ApiError::already_exists(&resource.group, &resource.plural, &prefix))
    }

    /// A new namespace gets the service account that pods use.
    fn furnish_namespace(&self, name: &str) -> Result<(), ApiError> {
        let Some(accounts) = self.resource("v1", "ServiceAccount") else { return Ok(()) };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let options = WriteOptions::by("kube-controller-manager");
        self.create_locked(&accounts, name, account, &options, Ownership::Track)?;
        Ok(())
    }

    /// Binds a pod to a node, as a scheduler does.
    ///
    /// # Errors
    /// 404, or 409 if the pod is bound already.
    pub fn bind(&self, namespace: &str, name: &str, node: &str) -> Result<(), ApiError> {
        let pods = self.resource("v1", "Pod").ok_or_else(ApiError::no_such_path)?;
        let _writing = self.lock();
        let pod = self.get(&pods, namespace, name)?;
        let mut value = pod.value().clone();
        let assigned = value.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
        if !assigned.is_empty() {
            let why = format!("pod {name} is already assigned to node {assigned:?}");
            return Err(ApiError::conflict("", "pods/binding", name, why));
        }
        child_mut(&mut value, "spec").insert("nodeName".into(), json!(node));
        let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": clock::now()});
        let status = child_mut(&mut value, "status");
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = conditions.as_array_mut() {
            list.retain(|c| c["type"] != "PodScheduled");
            list.push(condition);
        }
        self.put(&pods, value)?;
        Ok(())
    }
}

/// Whether managed fields are still to be worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    Track,
    Settled,
}

/// Brings together what the writer may change and what it may not.
fn combine(resource: &Resource, old: &Value, value: &mut Value, part: Part) {
    match part {
        Part::Main if resource.has_status => copy_member(old, value, "status"),
        Part::Main => {}
        Part::Status => {
            let status = value.get("status").cloned();
            let metadata = value.get("metadata").cloned();
            *value = old.clone();
            match status {
                Some(status) => child_insert(value, "status", status),
                None => drop_member(value, "status"),
            }
            if let Some(metadata) = metadata {
                let kept: &[&str] = if resource.is_custom() {
                    &["managedFields"]
                } else {
                    &["managedFields", "labels", "annotations"]
                };
                for field in kept {
                    put_meta(value, field, metadata.get(*field).cloned());
                }
            }
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        put_meta(value, field, meta(old, field).cloned());
    }
    meta_mut(value).remove("selfLink");
    if meta(value, "finalizers").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        meta_mut(value).remove("finalizers");
    }
}

fn refuse_new_finalizers(resource: &Resource, old: &Object, value: &Value) -> Result<(), ApiError> {
    if !is_terminating(old.value()) {
        return Ok(());
    }
    let before = meta(old.value(), "finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    let after = meta(value, "finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    let added: Vec<&Value> = after.iter().filter(|f| !before.contains(f)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
    );
    let cause = Cause::forbidden("metadata.finalizers", &why);
    Err(ApiError::invalid(&resource.group, &resource.kind, &old.key.name, vec![cause]))
}

/// Whether anything but metadata and status differs.
fn has_new_content(resource: &Resource, old: &Value, new: &Value) -> bool {
    let content = |value: &Value| {
        let mut map = value.as_object().cloned().unwrap_or_default();
        for field in ["metadata", "apiVersion", "kind"] {
            map.remove(field);
        }
        if resource.has_status {
            map.remove("status");
        }
        map
    };
    content(old) != content(new)
}

fn is_unchanged(old: &Object, value: &Value) -> bool {
    let mut new = value.clone();
    drop_member(&mut new, "apiVersion");
    drop_member(&mut new, "kind");
    if new == *old.value() {
        return true;
    }
    let is_repair = meta(&new, "managedFields") != meta(old.value(), "managedFields");
    !is_repair && apply::without_managed_fields(&new) == apply::without_managed_fields(old.value())
}

fn has_no_grace(value: &Value) -> bool {
    meta(value, "deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
}

fn drop_member(value: &mut Value, field: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(field);
    }
}

fn copy_member(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(member) => child_insert(to, field, member.clone()),
        None => drop_member(to, field),
    }
}

fn child_insert(value: &mut Value, field: &str, member: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(field.into(), member);
    }
}
