//! One stored object: its value, and its bytes so that a list or a watch never serialises it again.

use bytes::Bytes;
use serde_json::{Map, Value};

/// Name of an object inside one resource; the namespace is empty for cluster-scoped ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace or "".
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// Makes a key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// An object as it stands in the store. `apiVersion` and `kind` are no part of it: a resource may be served in
/// several versions, so they are put in front when it leaves.
#[derive(Debug)]
pub struct Object {
    /// Where it lives.
    pub key: Key,
    /// Revision of its last write, equal to `metadata.resourceVersion`.
    pub revision: u64,
    value: Value,
    tail: Bytes,
}

impl Object {
    /// Takes a complete object; its `apiVersion` and `kind` are dropped.
    pub(crate) fn new(mut value: Value, revision: u64) -> Self {
        if let Some(map) = value.as_object_mut() {
            map.remove("apiVersion");
            map.remove("kind");
        }
        set_meta(&mut value, "resourceVersion", Value::String(revision.to_string()));
        let key = Key::new(meta_str(&value, "namespace"), meta_str(&value, "name"));
        let text = value.to_string();
        let tail = Bytes::copy_from_slice(&text.as_bytes()[1..]);
        Self { key, revision, value, tail }
    }

    /// The object without `apiVersion` and `kind`.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The JSON text after the opening brace, to be put behind `{"apiVersion":…,"kind":…,`.
    pub(crate) fn tail(&self) -> &Bytes {
        &self.tail
    }

    /// A copy that names its type.
    pub fn typed(&self, api_version: &str, kind: &str) -> Value {
        let mut value = self.value.clone();
        set_type(&mut value, api_version, kind);
        value
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.value.get("metadata")?.get("labels")?.as_object()
    }
}

/// Writes `apiVersion` and `kind`.
pub(crate) fn set_type(value: &mut Value, api_version: &str, kind: &str) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), Value::String(api_version.into()));
        map.insert("kind".into(), Value::String(kind.into()));
    }
}

/// A string of the metadata, "" if absent.
pub(crate) fn meta_str<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// A field of the metadata.
pub(crate) fn meta<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    value.get("metadata")?.get(field)
}

/// The metadata, created if absent. A `metadata` that is no object is replaced.
pub(crate) fn meta_mut(value: &mut Value) -> &mut Map<String, Value> {
    child_mut(value, "metadata")
}

/// A member that is an object, created if absent or something else.
pub(crate) fn child_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let map = value.as_object_mut().expect("made an object above");
    let slot = map.entry(field).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object above")
}

/// Sets a field of the metadata.
pub(crate) fn set_meta(value: &mut Value, field: &str, to: Value) {
    meta_mut(value).insert(field.into(), to);
}

/// Sets a field of the metadata, or removes it for `None` and null.
pub(crate) fn put_meta(value: &mut Value, field: &str, to: Option<Value>) {
    match to {
        Some(v) if !v.is_null() => set_meta(value, field, v),
        _ => {
            meta_mut(value).remove(field);
        }
    }
}

/// Whether there is a finalizer left.
pub(crate) fn has_finalizers(value: &Value) -> bool {
    meta(value, "finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty())
}

/// Whether it is being deleted.
pub(crate) fn is_terminating(value: &Value) -> bool {
    meta(value, "deletionTimestamp").is_some_and(|t| !t.is_null())
}
