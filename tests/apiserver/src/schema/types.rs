//! Schemas of the built-in kinds, taken from the published API types.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Schema;
use crate::builtin;
use crate::registry::Resource;

const REFERENCE: &str = "#/components/schemas/";
/// Name of the metadata's schema.
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Types that are taken as they come: numbers or text, and schemas inside CRDs, which are checked on their own.
const FREE: &[&str] = &[
    "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
];

struct Types {
    definitions: Map<String, Value>,
    /// (group, kind) to the name of the schema and the compiled schema.
    kinds: BTreeMap<(String, String), (String, Schema)>,
    object_meta: Schema,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let settings = SchemaSettings::draft07().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = SchemaGenerator::new(settings);
    generator.subschema_for::<ObjectMeta>();
    let mut names = Vec::new();
    for resource in builtin::table() {
        if let Some(builtin) = resource.builtin() {
            let name = (builtin.schema)(&mut generator);
            names.push(((resource.group.clone(), resource.kind.clone()), name));
        }
    }
    let definitions: Map<String, Value> =
        generator.take_definitions(true).into_iter().map(|(name, schema)| (name, tidy(schema))).collect();
    let compile = |name: &str| Schema::compile(&resolved(&definitions, name, &mut Vec::new()));
    let kinds = names.into_iter().map(|(kind, name)| {
        let schema = compile(&name);
        (kind, (name, schema))
    });
    let (kinds, object_meta) = (kinds.collect(), compile(OBJECT_META));
    Types { definitions, kinds, object_meta }
});

/// The schema of a built-in kind.
pub(crate) fn of(resource: &Resource) -> Option<&'static Schema> {
    TYPES.kinds.get(&(resource.group.clone(), resource.kind.clone())).map(|(_, schema)| schema)
}

/// The schema of the metadata of any object.
pub(crate) fn object_meta() -> &'static Schema {
    &TYPES.object_meta
}

/// Name of the OpenAPI schema of a built-in kind.
pub(crate) fn name_of(resource: &Resource) -> Option<&'static str> {
    TYPES.kinds.get(&(resource.group.clone(), resource.kind.clone())).map(|(name, _)| name.as_str())
}

/// OpenAPI schemas under these names and all that they refer to.
pub(crate) fn closure(names: &[&str]) -> Map<String, Value> {
    let mut wanted: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut seen = BTreeSet::new();
    let mut out = Map::new();
    while let Some(name) = wanted.pop() {
        let Some(schema) = TYPES.definitions.get(&name) else { continue };
        if seen.insert(name.clone()) {
            references(schema, &mut wanted);
            out.insert(name, schema.clone());
        }
    }
    out
}

fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) =
                map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE))
            {
                out.push(name.to_owned());
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

/// A reference beside other members goes into `allOf`, where OpenAPI 3.0 wants it.
fn tidy(schema: Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut map: Map<String, Value> = map.into_iter().map(|(k, v)| (k, tidy(v))).collect();
            if map.len() > 1
                && map.get("$ref").is_some_and(Value::is_string)
                && let Some(reference) = map.remove("$ref")
            {
                map.insert("allOf".into(), json!([{"$ref": reference}]));
            }
            Value::Object(map)
        }
        Value::Array(items) => items.into_iter().map(tidy).collect(),
        other => other,
    }
}

/// A definition with all references replaced by what they refer to; recursion ends in a schema that takes anything.
fn resolved(definitions: &Map<String, Value>, name: &str, inside: &mut Vec<String>) -> Value {
    let Some(schema) = definitions.get(name) else { return json!({}) };
    if FREE.contains(&name) || inside.iter().any(|i| i == name) {
        return json!({"x-kubernetes-preserve-unknown-fields": true});
    }
    inside.push(name.to_owned());
    let out = resolve(definitions, schema, inside);
    inside.pop();
    out
}

fn resolve(definitions: &Map<String, Value>, schema: &Value, inside: &mut Vec<String>) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let target = map.get("$ref").or_else(|| map.get("allOf")?.get(0)?.get("$ref"));
    if let Some(name) = target.and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE)) {
        return resolved(definitions, name, inside);
    }
    let mut out = Map::new();
    for (key, value) in map {
        let value = match (key.as_str(), value) {
            ("description", _) => continue,
            ("properties", Value::Object(properties)) => {
                let all = properties.iter().map(|(n, p)| (n.clone(), resolve(definitions, p, inside)));
                Value::Object(all.collect())
            }
            ("items" | "additionalProperties", inner) => resolve(definitions, inner, inside),
            (_, other) => other.clone(),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(plural: &str) -> Resource {
        builtin::table().into_iter().find(|r| r.plural == plural).unwrap()
    }

    #[test]
    fn typos_in_built_in_kinds_are_found() {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "lables": {}, "labels": {"any": "thing"}},
            "spec": {"containers": [{"name": "c", "imagee": "i", "resources": {"limits": {"cpu": 0.5}}}], "nodeSelector": {"a": "b"}},
        });
        let mut unknown = Vec::new();

        of(&resource("pods")).unwrap().prune(&mut pod, &mut unknown);

        assert_eq!(unknown, ["metadata.lables", "spec.containers[0].imagee"]);
        assert_eq!(of(&resource("pods")).unwrap().type_error(&pod), None);
    }

    #[test]
    fn wrong_types_are_named() {
        let policy = json!({"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": [80]}]}]}});

        let why = of(&resource("networkpolicies")).unwrap().type_error(&policy).unwrap();

        assert!(why.starts_with("spec.ingress[0].ports[0].port: "), "{why}");
    }

    #[test]
    fn every_kind_has_a_closed_set_of_schemas() {
        for resource in builtin::table() {
            let name = name_of(&resource).unwrap_or_else(|| panic!("{} has no schema", resource.kind));
            let schemas = closure(&[name]);
            let mut wanted = Vec::new();
            schemas.values().for_each(|s| references(s, &mut wanted));
            assert!(wanted.iter().all(|w| schemas.contains_key(w)), "{name}");
        }
    }
}
