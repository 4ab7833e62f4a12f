//! OpenAPI v3: the little that `kubectl apply`, `create` and `explain` need, with full schemas where they are known.

use std::collections::BTreeMap;

use bytes::Bytes;
use ring::digest;
use serde_json::{Map, Value, json};

use crate::registry::{Index, Resource};
use crate::schema::types;

/// A hash that names the content of a document.
pub(crate) fn hash(text: &str) -> String {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

/// The documents of one state of the registry, by path, with the hash of each.
pub(crate) type Documents = BTreeMap<String, (String, Bytes)>;

/// Makes all documents.
pub(crate) fn documents(index: &Index) -> Documents {
    let mut documents = BTreeMap::new();
    for (group, versions) in index.groups() {
        for version in versions {
            let text = group_document(index, &group, &version).to_string();
            documents.insert(path_of(&group, &version), (hash(&text), Bytes::from(text)));
        }
    }
    documents
}

/// `/openapi/v3`: every group and version must stand here, or `kubectl` believes that it is not served.
pub(crate) fn index(documents: &Documents) -> Value {
    let entry = |(path, (hash, _)): (&String, &(String, Bytes))| {
        (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
    };
    json!({"paths": documents.iter().map(entry).collect::<Map<_, _>>()})
}

/// OpenAPI v2 without a definition: what clients fall back on when they find a kind in no v3 document.
pub(crate) fn empty_v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": {}})
}

/// The same as protobuf: fields 1 (swagger), 2 (info: title, version) and 8 (paths) of `openapi.v2.Document`.
pub(crate) const EMPTY_V2_PROTOBUF: &[u8] = b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1\x42\x00";

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_document(index: &Index, group: &str, version: &str) -> Value {
    let resources = index.of(group, version);
    let mut names = vec![types::OBJECT_META];
    names.extend(resources.iter().filter(|r| !r.is_custom()).filter_map(|r| types::name_of(r)));
    let (mut paths, mut schemas) = (Map::new(), types::closure(&names));
    for resource in &resources {
        add_paths(resource, &mut paths);
        let name = schema_name(resource);
        let mut schema = match resource.custom() {
            Some(custom) => custom_schema(&custom.source),
            None => schemas.remove(&name).unwrap_or_else(|| json!({"type": "object"})),
        };
        schema["x-kubernetes-group-version-kind"] = json!([kind_of(resource)]);
        schemas.insert(name, schema);
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths, "components": {"schemas": schemas},
    })
}

/// `org.example.v1.Kind`, as the real server names schemas.
fn schema_name(resource: &Resource) -> String {
    if resource.is_custom() {
        let reversed: Vec<&str> = resource.group.rsplit('.').collect();
        format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
    } else {
        types::name_of(resource).unwrap_or_default().to_owned()
    }
}

fn kind_of(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn add_paths(resource: &Resource, paths: &mut Map<String, Value>) {
    let base = format!("/{}", path_of(&resource.group, &resource.version));
    let scope = if resource.is_namespaced() { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", resource.plural);
    let reference = json!({"$ref": format!("#/components/schemas/{}", schema_name(resource))});
    let operation = |action: &str, body: Option<Value>| {
        let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
        let parameters: Vec<Value> = match action {
            "get" | "list" => Vec::new(),
            "patch" => ["dryRun", "fieldManager", "fieldValidation", "force"].map(query).into(),
            _ => ["dryRun", "fieldManager", "fieldValidation"].map(query).into(),
        };
        let mut out = json!({
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind_of(resource),
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
        });
        if let Some(body) = body {
            out["requestBody"] = body;
        }
        out
    };
    let body = || Some(json!({"content": {"application/json": {"schema": reference}}}));
    let all = json!({"get": operation("list", None), "post": operation("post", body())});
    let patch_body = json!({"content": {
        "application/apply-patch+yaml": {"schema": {"type": "object"}},
        "application/json-patch+json": {"schema": {"type": "object"}},
        "application/merge-patch+json": {"schema": {"type": "object"}},
    }});
    let one = json!({
        "get": operation("get", None), "put": operation("put", body()), "patch": operation("patch", Some(patch_body)),
        "delete": operation("delete", None),
    });
    paths.insert(collection.clone(), all);
    paths.insert(format!("{collection}/{{name}}"), one);
}

fn custom_schema(source: &Value) -> Value {
    let mut schema = without_extensions(source);
    let text = |description: &str| json!({"type": "string", "description": description});
    schema["type"] = json!("object");
    let metadata = json!({"description": "Standard object's metadata.",
        "allOf": [{"$ref": format!("#/components/schemas/{}", types::OBJECT_META)}]});
    let properties = crate::object::child_mut(&mut schema, "properties");
    properties.insert("apiVersion".into(), text("APIVersion defines the versioned schema of this object."));
    properties.insert("kind".into(), text("Kind is the name of the resource type of this object."));
    properties.insert("metadata".into(), metadata);
    schema
}

/// OpenAPI has no place for validation rules; `kubectl` needs none.
fn without_extensions(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let kept = map.iter().filter(|(name, _)| *name != "x-kubernetes-validations");
            Value::Object(kept.map(|(n, v)| (n.clone(), without_extensions(v))).collect())
        }
        Value::Array(items) => items.iter().map(without_extensions).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[test]
    fn every_group_has_its_document() {
        let registry = Registry::new().index();

        let documents = documents(&registry);

        assert_eq!(documents.len(), registry.groups().len());
        assert!(
            index(&documents)["paths"]["apis/apps/v1"]["serverRelativeURL"]
                .as_str()
                .unwrap()
                .contains("?hash=")
        );
        for (path, (_, text)) in documents {
            let document: Value = serde_json::from_slice(&text).unwrap();
            assert!(!document["paths"].as_object().unwrap().is_empty(), "{path}");
        }
    }
}
