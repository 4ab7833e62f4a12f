//! Who owns which field (`managedFields`), and server-side apply, which is built on that.

use serde_json::{Value, json};

use crate::clock;
use crate::fieldset::FieldSet;
use crate::lists::{ListKind, item_key};
use crate::object::{meta, put_meta};
use crate::registry::Resource;
use crate::status::{ApiError, Cause};

/// Who writes, and through what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    /// "" or "status".
    pub(crate) subresource: &'a str,
}

#[derive(Debug, Clone)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: Value,
    fields: FieldSet,
}

impl Entry {
    fn new(resource: &Resource, writer: Writer<'_>, operation: &str) -> Self {
        Self {
            manager: writer.manager.into(),
            operation: operation.into(),
            api_version: resource.api_version(),
            subresource: writer.subresource.into(),
            time: json!(clock::now()),
            fields: FieldSet::default(),
        }
    }

    fn is_of(&self, writer: Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        let fields = value.get("fieldsV1").filter(|f| f.is_object())?;
        Some(Self {
            manager: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value.get("time").cloned().unwrap_or(Value::Null),
            fields: FieldSet::from_json(fields),
        })
    }

    fn to_json(&self) -> Value {
        let mut out = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        if !self.time.is_null() {
            out["time"] = self.time.clone();
        }
        if !self.subresource.is_empty() {
            out["subresource"] = json!(self.subresource);
        }
        out
    }
}

/// Notes in `new` that `writer` made of `old` what it is. Managed fields that `new` brings count as the ones
/// before, so that a client may repair them; an empty list clears them.
pub(crate) fn track_update(resource: &Resource, old: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let brought = meta(new, "managedFields").filter(|m| m.is_array());
    let mut entries = entries(brought.or_else(|| old.and_then(|o| meta(o, "managedFields"))));
    let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
    FieldSet::compare(resource, old.unwrap_or(&Value::Null), new, &mut changed, &mut removed);
    if !changed.is_empty() || !removed.is_empty() {
        for entry in &mut entries {
            if !entry.is_of(writer, "Update") {
                entry.fields.subtract(&changed);
            }
            entry.fields.subtract(&removed);
        }
        if !changed.is_empty() {
            let at = entries.iter().position(|e| e.is_of(writer, "Update")).unwrap_or_else(|| {
                entries.push(Entry::new(resource, writer, "Update"));
                entries.len() - 1
            });
            entries[at].fields.union(&changed);
            entries[at].time = json!(clock::now());
            entries[at].api_version = resource.api_version();
        }
    }
    write_entries(new, &entries);
}

/// Server-side apply: what the configuration of `writer` makes of `live`.
pub(crate) fn server_side_apply(
    resource: &Resource,
    live: Option<&Value>,
    configuration: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    if meta(configuration, "managedFields").and_then(Value::as_array).is_some_and(|m| !m.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let nothing = json!({});
    let current = live.unwrap_or(&nothing);
    let mut entries = entries(meta(current, "managedFields"));
    let applied = FieldSet::of(resource, configuration);
    let mut merged = merge(resource, current, configuration, &mut Vec::new());

    let (mut changed, mut _removed) = (FieldSet::default(), FieldSet::default());
    FieldSet::compare(resource, current, &merged, &mut changed, &mut _removed);
    let disputed = changed.intersection(&applied);
    let causes = conflicts(&entries, &disputed, writer);
    if !causes.is_empty() && !force {
        return Err(ApiError::apply_conflict(causes));
    }
    for entry in entries.iter_mut().filter(|e| !e.is_of(writer, "Apply")) {
        entry.fields.subtract(&disputed);
    }

    let mut others = applied.clone();
    for entry in entries.iter().filter(|e| !e.is_of(writer, "Apply")) {
        others.union(&entry.fields);
    }
    let at = entries.iter().position(|e| e.is_of(writer, "Apply")).unwrap_or_else(|| {
        entries.push(Entry::new(resource, writer, "Apply"));
        entries.len() - 1
    });
    let mine = &mut entries[at];
    let mut dropped = mine.fields.clone();
    dropped.subtract(&applied);
    dropped.remove_from(&mut merged, &others);
    if mine.fields != applied {
        mine.fields = applied;
        mine.time = json!(clock::now());
        mine.api_version = resource.api_version();
    }
    write_entries(&mut merged, &entries);
    Ok(merged)
}

fn conflicts(entries: &[Entry], disputed: &FieldSet, writer: Writer<'_>) -> Vec<Cause> {
    let mut causes = Vec::new();
    for entry in entries.iter().filter(|e| !e.is_of(writer, "Apply")) {
        let mut name = format!("conflict with {:?}", entry.manager);
        if !entry.subresource.is_empty() {
            name.push_str(&format!(" with subresource {:?}", entry.subresource));
        }
        if entry.operation == "Update" {
            name.push_str(&format!(" using {}", entry.api_version));
        }
        for field in entry.fields.intersection(disputed).leaves() {
            causes.push(Cause { reason: "FieldManagerConflict", message: name.clone(), field });
        }
    }
    causes
}

fn entries(managed: Option<&Value>) -> Vec<Entry> {
    managed.and_then(Value::as_array).into_iter().flatten().filter_map(Entry::from_json).collect()
}

fn write_entries(value: &mut Value, entries: &[Entry]) {
    let list: Vec<Value> = entries.iter().filter(|e| !e.fields.is_empty()).map(Entry::to_json).collect();
    put_meta(value, "managedFields", (!list.is_empty()).then_some(Value::Array(list)));
}

/// Lays a configuration over the live object: maps are joined, keyed lists by their keys, the rest is replaced.
fn merge(resource: &Resource, live: &Value, configuration: &Value, path: &mut Vec<String>) -> Value {
    match (live, configuration) {
        (Value::Object(live), Value::Object(wanted)) if path.is_empty() || !resource.is_atomic_map(path) => {
            let mut out = live.clone();
            for (name, value) in wanted {
                path.push(name.clone());
                let before = live.get(name).unwrap_or(&Value::Null);
                out.insert(name.clone(), merge(resource, before, value, path));
                path.pop();
            }
            Value::Object(out)
        }
        (Value::Array(live), Value::Array(wanted)) => match resource.list_kind(path) {
            ListKind::Atomic => configuration.clone(),
            ListKind::Set => {
                let mut out = live.clone();
                out.extend(wanted.iter().filter(|w| !live.contains(w)).cloned());
                Value::Array(out)
            }
            ListKind::Map(keys) => {
                let mut out = live.clone();
                path.push("*".into());
                for item in wanted {
                    let key = item_key(item, &keys);
                    match out.iter().position(|o| item_key(o, &keys) == key) {
                        Some(at) => out[at] = merge(resource, &out[at], item, path),
                        None => out.push(item.clone()),
                    }
                }
                path.pop();
                Value::Array(out)
            }
        },
        _ => configuration.clone(),
    }
}

/// The name of a client without `fieldManager`: what stands before the slash of its user agent.
pub(crate) fn default_manager(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or("").trim();
    if name.is_empty() { "unknown".into() } else { name.chars().take(128).collect() }
}

/// Managed fields are of no interest for the question whether a write changes anything.
pub(crate) fn without_managed_fields(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        let _: Option<Value> = metadata.remove("managedFields");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> Resource {
        crate::builtin::table().into_iter().find(|r| r.plural == "pods").unwrap()
    }

    fn by(manager: &str) -> Writer<'_> {
        Writer { manager, subresource: "" }
    }

    fn apply(
        live: Option<&Value>,
        manager: &str,
        configuration: Value,
        force: bool,
    ) -> Result<Value, ApiError> {
        server_side_apply(&resource(), live, &configuration, by(manager), force)
    }

    #[test]
    fn second_manager_conflicts_unless_it_agrees_or_forces() {
        let live = apply(None, "m1", json!({"spec": {"hostname": "a"}}), false).unwrap();

        let error = apply(Some(&live), "m2", json!({"spec": {"hostname": "b"}}), false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"m1\": .spec.hostname");

        let shared = apply(Some(&live), "m2", json!({"spec": {"hostname": "a"}}), false).unwrap();
        assert_eq!(shared["metadata"]["managedFields"].as_array().unwrap().len(), 2);

        let forced = apply(Some(&live), "m2", json!({"spec": {"hostname": "b"}}), true).unwrap();
        assert_eq!(forced["spec"]["hostname"], "b");
        assert_eq!(forced["metadata"]["managedFields"][0]["manager"], "m2");
        assert_eq!(forced["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_a_manager_no_longer_applies_goes_unless_shared() {
        let live = apply(
            None,
            "m1",
            json!({"metadata": {"labels": {"a": "1", "b": "1"}}, "spec": {"hostname": "x"}}),
            false,
        );
        let live =
            apply(Some(&live.unwrap()), "m2", json!({"metadata": {"labels": {"b": "1"}}}), false).unwrap();

        let result = apply(Some(&live), "m1", json!({"metadata": {}}), false).unwrap();

        assert_eq!(result["metadata"]["labels"], json!({"b": "1"}));
        assert_eq!(result.get("spec"), None);
    }

    #[test]
    fn keyed_lists_are_shared_between_managers() {
        let live =
            apply(None, "m1", json!({"spec": {"containers": [{"name": "a", "image": "1"}]}}), false).unwrap();
        let live =
            apply(Some(&live), "m2", json!({"spec": {"containers": [{"name": "b", "image": "2"}]}}), false)
                .unwrap();
        assert_eq!(live["spec"]["containers"].as_array().unwrap().len(), 2);

        let result = apply(Some(&live), "m1", json!({"spec": {"containers": []}}), false).unwrap();

        assert_eq!(result["spec"]["containers"], json!([{"name": "b", "image": "2"}]));
    }

    #[test]
    fn update_takes_ownership_of_what_it_changes() {
        let old = apply(None, "m1", json!({"spec": {"hostname": "a", "nodeName": "n"}}), false).unwrap();
        let mut new = old.clone();
        new["spec"]["hostname"] = json!("b");

        track_update(&resource(), Some(&old), &mut new, by("editor"));

        let managed = new["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(managed[0]["fieldsV1"], json!({"f:spec": {"f:nodeName": {}}}));
        assert_eq!(managed[1]["manager"], "editor");
        assert_eq!(managed[1]["fieldsV1"], json!({"f:spec": {"f:hostname": {}}}));
        let error = apply(Some(&new), "m1", json!({"spec": {"hostname": "a"}}), false).unwrap_err();
        assert!(error.message.contains("conflict with \"editor\" using v1: .spec.hostname"), "{error}");
    }

    #[test]
    fn repeated_apply_changes_nothing() {
        let configuration = json!({"spec": {"hostname": "a"}});
        let live = apply(None, "m1", configuration.clone(), false).unwrap();

        assert_eq!(apply(Some(&live), "m1", configuration, false).unwrap(), live);
    }
}
