//! Sets of fields as `managedFields` writes them (FieldsV1), and how they come from values.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::lists::{ListKind, item_key};
use crate::registry::Resource;

/// A set of paths. Steps are `f:name`, `k:{keys}` or `v:value`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

/// Fields of the metadata that the server owns.
const SYSTEM_METADATA: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

impl FieldSet {
    /// Reads FieldsV1; what is no object is a leaf.
    pub(crate) fn from_json(value: &Value) -> Self {
        let Some(map) = value.as_object().filter(|m| !m.is_empty()) else {
            return Self { member: true, children: BTreeMap::new() };
        };
        let is_step = |k: &str| ["f:", "k:", "v:"].iter().any(|p| k.starts_with(p));
        let children = map.iter().filter(|(k, _)| is_step(k)).map(|(k, v)| (k.clone(), Self::from_json(v)));
        Self { member: map.contains_key("."), children: children.collect() }
    }

    /// Writes FieldsV1.
    pub(crate) fn to_json(&self) -> Value {
        let mut map: Map<String, Value> =
            self.children.iter().map(|(k, v)| (k.clone(), v.to_json())).collect();
        if self.member && !map.is_empty() {
            map.insert(".".into(), json!({}));
        }
        Value::Object(map)
    }

    /// All fields of an object, without what the server owns.
    pub(crate) fn of(resource: &Resource, object: &Value) -> Self {
        let mut changed = Self::default();
        Self::compare(resource, &Value::Null, object, &mut changed, &mut Self::default());
        changed
    }

    /// Which fields `new` added or changed, and which are gone from `old`.
    pub(crate) fn compare(
        resource: &Resource,
        old: &Value,
        new: &Value,
        changed: &mut Self,
        removed: &mut Self,
    ) {
        let (old, new) = (owned_part(old), owned_part(new));
        Differ { resource, path: Vec::new() }.differ(Some(&old), Some(&new), changed, removed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds all of `other`.
    pub(crate) fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (step, child) in &other.children {
            self.children.entry(step.clone()).or_default().union(child);
        }
    }

    /// Takes all of `other` out; a leaf of `other` takes out what is below it too.
    pub(crate) fn subtract(&mut self, other: &Self) {
        if other.member {
            self.member = false;
        }
        if other.member && other.children.is_empty() {
            self.children.clear();
        }
        for (step, theirs) in &other.children {
            if let Some(ours) = self.children.get_mut(step) {
                ours.subtract(theirs);
                if ours.is_empty() {
                    self.children.remove(step);
                }
            }
        }
    }

    /// The paths of both.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(step, ours)| {
            let both = ours.intersection(other.children.get(step)?);
            (!both.is_empty()).then(|| (step.clone(), both))
        });
        Self { member: self.member && other.member, children: children.collect() }
    }

    /// Paths of all leaves, in the notation of conflict messages (`.spec.cidr`, `.spec.ports[port=80]`).
    pub(crate) fn leaves(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_leaves(String::new(), &mut out);
        out
    }

    fn collect_leaves(&self, path: String, out: &mut Vec<String>) {
        if self.children.is_empty() && self.member {
            out.push(path);
            return;
        }
        for (step, child) in &self.children {
            child.collect_leaves(format!("{path}{}", shown(step)), out);
        }
    }

    /// Removes the fields of this set from a value, except those that `kept` has.
    pub(crate) fn remove_from(&self, value: &mut Value, kept: &Self) {
        for (step, child) in &self.children {
            let others = kept.children.get(step);
            let is_gone = child.member && others.is_none();
            match (step.split_at(2), &mut *value) {
                (("f:", name), Value::Object(map)) => {
                    if is_gone {
                        map.remove(name);
                    } else if let Some(inner) = map.get_mut(name) {
                        child.remove_from(inner, others.unwrap_or(&Self::default()));
                        if is_hollow(inner) && others.is_none() {
                            map.remove(name);
                        }
                    }
                }
                (("k:", keys), Value::Array(items)) => {
                    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                    let is_it = |item: &Value| {
                        let names: Vec<String> = keys.keys().cloned().collect();
                        item_key(item, &names).iter().eq(keys.values())
                    };
                    if is_gone {
                        items.retain(|item| !is_it(item));
                    } else if let Some(item) = items.iter_mut().find(|i| is_it(i)) {
                        child.remove_from(item, others.unwrap_or(&Self::default()));
                    }
                }
                (("v:", text), Value::Array(items)) if is_gone => {
                    let wanted: Value = serde_json::from_str(text).unwrap_or(Value::Null);
                    items.retain(|item| *item != wanted);
                }
                _ => {}
            }
        }
    }
}

fn is_hollow(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// The object without its type and without the metadata of the server.
fn owned_part(object: &Value) -> Value {
    let mut value = object.clone();
    if let Some(map) = value.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            metadata.retain(|name, _| !SYSTEM_METADATA.contains(&name.as_str()));
            if metadata.is_empty() {
                map.remove("metadata");
            }
        }
    }
    value
}

fn shown(step: &str) -> String {
    let (kind, rest) = step.split_at(2);
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", pairs.join(","))
        }
        _ => format!("[={rest}]"),
    }
}

struct Differ<'a> {
    resource: &'a Resource,
    path: Vec<String>,
}

impl Differ<'_> {
    fn differ(
        &mut self,
        old: Option<&Value>,
        new: Option<&Value>,
        changed: &mut FieldSet,
        removed: &mut FieldSet,
    ) {
        if old == new {
            return;
        }
        let is_root = self.path.is_empty();
        match (old.filter(|v| !v.is_null()), new) {
            (before, Some(Value::Object(after)))
                if (is_root || !after.is_empty()) && !self.resource.is_atomic_map(&self.path) =>
            {
                let empty = Map::new();
                let before_map = before.and_then(Value::as_object).unwrap_or(&empty);
                for name in before_map.keys().chain(after.keys().filter(|k| !before_map.contains_key(*k))) {
                    self.child(
                        &format!("f:{name}"),
                        name,
                        before_map.get(name),
                        after.get(name),
                        changed,
                        removed,
                    );
                }
            }
            (before, Some(Value::Array(after)))
                if self.resource.list_kind(&self.path) != ListKind::Atomic =>
            {
                let nothing = Vec::new();
                let before = before.and_then(Value::as_array).unwrap_or(&nothing);
                self.lists(before, after, changed, removed);
            }
            (Some(before), None) => {
                removed.member = true;
                let mut all = FieldSet::default();
                self.differ(None, Some(before), &mut all, &mut FieldSet::default());
                removed.children = all.children;
            }
            (_, Some(_)) => changed.member = true,
            (None, None) => {}
        }
    }

    fn lists(&mut self, before: &[Value], after: &[Value], changed: &mut FieldSet, removed: &mut FieldSet) {
        match self.resource.list_kind(&self.path) {
            ListKind::Map(keys) => {
                let step = |item: &Value| {
                    let pairs: Map<String, Value> = keys.iter().cloned().zip(item_key(item, &keys)).collect();
                    format!("k:{}", Value::Object(pairs))
                };
                let of =
                    |items: &[Value]| items.iter().map(|i| (step(i), i.clone())).collect::<BTreeMap<_, _>>();
                let (old_items, new_items) = (of(before), of(after));
                for step in old_items.keys().chain(new_items.keys().filter(|k| !old_items.contains_key(*k))) {
                    let (old, new) = (old_items.get(step), new_items.get(step));
                    self.child(step, "*", old, new, changed, removed);
                    if old.is_none()
                        && let Some(child) = changed.children.get_mut(step)
                    {
                        child.member = true;
                    }
                }
            }
            ListKind::Set => {
                let leaf = || FieldSet { member: true, children: BTreeMap::new() };
                for item in after.iter().filter(|i| !before.contains(i)) {
                    changed.children.insert(format!("v:{item}"), leaf());
                }
                for item in before.iter().filter(|i| !after.contains(i)) {
                    removed.children.insert(format!("v:{item}"), leaf());
                }
            }
            ListKind::Atomic => changed.member = true,
        }
    }

    fn child(
        &mut self,
        step: &str,
        name: &str,
        old: Option<&Value>,
        new: Option<&Value>,
        changed: &mut FieldSet,
        removed: &mut FieldSet,
    ) {
        self.path.push(name.to_owned());
        let (mut changed_below, mut removed_below) = (FieldSet::default(), FieldSet::default());
        self.differ(old, new, &mut changed_below, &mut removed_below);
        self.path.pop();
        for (set, below) in [(changed, changed_below), (removed, removed_below)] {
            if !below.is_empty() {
                set.children.insert(step.to_owned(), below);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(plural: &str) -> Resource {
        crate::builtin::table().into_iter().find(|r| r.plural == plural).unwrap()
    }

    #[test]
    fn fields_are_written_as_the_real_server_writes_them() {
        let pod = json!({"apiVersion": "v1", "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["x/y"]},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}], "nodeSelector": {"n": "1"}}});

        let set = FieldSet::of(&resource("pods"), &pod);

        assert_eq!(
            set.to_json(),
            json!({
                "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
                "f:spec": {"f:nodeSelector": {}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}},
            })
        );
        assert_eq!(FieldSet::from_json(&set.to_json()), set);
    }

    #[test]
    fn comparison_tells_changes_from_removals() {
        let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());

        FieldSet::compare(
            &resource("configmaps"),
            &json!({"data": {"a": "1", "b": "1", "c": "1"}}),
            &json!({"data": {"a": "1", "b": "2", "d": "1"}}),
            &mut changed,
            &mut removed,
        );

        assert_eq!(changed.leaves(), [".data.b", ".data.d"]);
        assert_eq!(removed.leaves(), [".data.c"]);
    }

    #[test]
    fn removal_spares_what_others_own() {
        let r = resource("pods");
        let mut value = json!({"spec": {"containers": [{"name": "a", "image": "1", "tty": true}, {"name": "b"}], "hostNetwork": true}});
        let mine = FieldSet::of(&r, &value);
        let others = FieldSet::of(&r, &json!({"spec": {"containers": [{"name": "a", "tty": true}]}}));

        mine.remove_from(&mut value, &others);

        assert_eq!(value, json!({"spec": {"containers": [{"name": "a", "tty": true}]}}));
    }
}
