//! Structural schemas of CRDs: what is unknown is pruned, what is absent is defaulted, what is wrong is named.

mod check;
pub(crate) mod types;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::cel::Rule;
use crate::lists::ListKind;

/// A compiled `openAPIV3Schema`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    pub(super) kind: String,
    pub(super) properties: BTreeMap<String, Schema>,
    pub(super) additional: Option<Box<Schema>>,
    pub(super) items: Option<Box<Schema>>,
    pub(super) required: Vec<String>,
    pub(super) allowed: Vec<Value>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) exclusive_minimum: bool,
    pub(super) exclusive_maximum: bool,
    pub(super) multiple_of: Option<f64>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) pattern: Option<Regex>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) format: String,
    pub(super) nullable: bool,
    pub(super) int_or_string: bool,
    pub(super) preserve_unknown: bool,
    pub(super) embedded: bool,
    pub(super) default: Option<Value>,
    pub(super) list_type: String,
    pub(super) list_keys: Vec<String>,
    pub(super) atomic_map: bool,
    pub(super) rules: Vec<Rule>,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
}

impl Schema {
    /// Compiles a schema; parts that are no schema are taken as absent, since CRDs are validated before.
    pub(crate) fn compile(source: &Value) -> Self {
        let text = |field: &str| source.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        let flag = |field: &str| source.get(field).and_then(Value::as_bool).unwrap_or(false);
        let float = |field: &str| source.get(field).and_then(Value::as_f64);
        let count = |field: &str| source.get(field).and_then(Value::as_u64);
        let list = |field: &str| source.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let texts = |field: &str| {
            list(field).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let schemas = |field: &str| list(field).iter().map(Self::compile).collect::<Vec<_>>();
        let boxed =
            |field: &str| source.get(field).filter(|v| v.is_object()).map(|v| Box::new(Self::compile(v)));
        let properties = source.get("properties").and_then(Value::as_object);
        let additional = match source.get("additionalProperties") {
            Some(Value::Bool(true)) => Some(Box::new(Self { preserve_unknown: true, ..Self::default() })),
            Some(Value::Object(_)) => boxed("additionalProperties"),
            _ => None,
        };
        Self {
            kind: text("type"),
            properties: properties
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), Self::compile(v)))
                .collect(),
            additional,
            items: boxed("items"),
            required: texts("required"),
            allowed: list("enum"),
            minimum: float("minimum"),
            maximum: float("maximum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: float("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern: source.get("pattern").and_then(Value::as_str).and_then(|p| Regex::new(p).ok()),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            format: text("format"),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            default: source.get("default").cloned(),
            list_type: text("x-kubernetes-list-type"),
            list_keys: texts("x-kubernetes-list-map-keys"),
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            rules: list("x-kubernetes-validations").iter().filter_map(Rule::compile).collect(),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: boxed("not"),
        }
    }

    /// A schema that takes anything.
    pub(crate) fn any() -> Self {
        Self { preserve_unknown: true, ..Self::default() }
    }

    /// The schema at a path of members, with `*` for the items of a list.
    pub(crate) fn at(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |schema, step| match step.as_str() {
            "*" if schema.items.is_some() => schema.items.as_deref(),
            name => schema.properties.get(name).or(schema.additional.as_deref()),
        })
    }

    pub(crate) fn list_kind(&self) -> ListKind {
        match self.list_type.as_str() {
            "set" => ListKind::Set,
            "map" => ListKind::Map(self.list_keys.clone()),
            _ => ListKind::Atomic,
        }
    }

    pub(crate) fn is_atomic_map(&self) -> bool {
        self.atomic_map
    }

    /// Removes members that no schema names and collects their paths.
    pub(crate) fn prune(&self, value: &mut Value, unknown: &mut Vec<String>) {
        self.prune_at(value, "", true, unknown);
    }

    fn prune_at(&self, value: &mut Value, path: &str, is_root: bool, unknown: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let keep_all = self.preserve_unknown;
                let implied = is_root || self.embedded;
                map.retain(|name, member| {
                    let child = join(path, name);
                    if implied && matches!(name.as_str(), "apiVersion" | "kind") {
                        return true;
                    }
                    if implied && name == "metadata" {
                        types::object_meta().prune_at(member, &child, false, unknown);
                        return true;
                    }
                    match self.properties.get(name).or(self.additional.as_deref()) {
                        Some(schema) => {
                            schema.prune_at(member, &child, false, unknown);
                            true
                        }
                        None if keep_all => true,
                        None => {
                            unknown.push(child);
                            false
                        }
                    }
                });
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (i, item) in items.iter_mut().enumerate() {
                        schema.prune_at(item, &format!("{path}[{i}]"), false, unknown);
                    }
                }
            }
            _ => {}
        }
    }

    /// Fills in defaults, also into what defaults brought; a null that is not nullable counts as absent if there
    /// is a default.
    pub(crate) fn fill_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    if let Some(default) = &schema.default {
                        let slot = map.entry(name.clone()).or_insert_with(|| default.clone());
                        if slot.is_null() && !schema.nullable {
                            *slot = default.clone();
                        }
                    }
                    if let Some(member) = map.get_mut(name) {
                        schema.fill_defaults(member);
                    }
                }
                if let Some(schema) = &self.additional {
                    let rest = map.iter_mut().filter(|(name, _)| !self.properties.contains_key(*name));
                    rest.for_each(|(_, member)| schema.fill_defaults(member));
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.fill_defaults(item));
                }
            }
            _ => {}
        }
    }
}

/// `a` and `b` to `a.b`; the root has no name.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_members_are_pruned_and_named() {
        let schema = Schema::compile(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "cidr": {"type": "string"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            }}}}),
        );
        let mut value = json!({
            "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n", "labels": {"a": "b"}},
            "spec": {"cidr": "c", "typo": 1, "free": {"any": {"thing": 1}}, "map": {"k": {"a": "b", "z": 1}},
                     "list": [{"a": "b"}, {"z": 1}]},
            "status": {},
        });
        let mut unknown = Vec::new();

        schema.prune(&mut value, &mut unknown);

        assert_eq!(unknown, ["spec.list[1].z", "spec.map.k.z", "spec.typo", "status"]);
        assert_eq!(value["spec"]["free"]["any"]["thing"], 1);
        assert_eq!(value["spec"]["list"][1], json!({}));
        assert_eq!(value["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn defaults_reach_into_defaults() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {
        "type": "object", "default": {}, "properties": {
            "mode": {"type": "string", "default": "Never"},
            "n": {"type": "integer", "nullable": true, "default": 1},
            "m": {"type": "integer", "default": 2},
        }}}}));
        let (mut empty, mut nulls) = (json!({}), json!({"spec": {"mode": "Always", "n": null, "m": null}}));

        schema.fill_defaults(&mut empty);
        schema.fill_defaults(&mut nulls);

        assert_eq!(empty, json!({"spec": {"mode": "Never", "n": 1, "m": 2}}));
        assert_eq!(nulls, json!({"spec": {"mode": "Always", "n": null, "m": 2}}));
    }
}
