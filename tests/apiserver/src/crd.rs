//! `CustomResourceDefinition`: its own defaults, validation and status, and the resources that it makes.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::cel;
use crate::jsonpath;
use crate::names::NameRule;
use crate::object::{child_mut, meta_str};
use crate::registry::{ALL_VERBS, Flavour, Resource, Scope};
use crate::schema::Schema;
use crate::status::Cause;
use crate::table::CustomColumn;

/// What one version of a CRD brings.
#[derive(Debug, Clone)]
pub(crate) struct CustomVersion {
    /// Compiled schema.
    pub(crate) schema: Schema,
    /// The schema as written, for OpenAPI.
    pub(crate) source: Value,
    /// Columns, `Age` included if the CRD names none.
    pub(crate) columns: Vec<CustomColumn>,
}

/// The resources that a CRD serves, one per served version.
pub(crate) fn resources(crd: &Value) -> Vec<Resource> {
    let spec = &crd["spec"];
    let text = |path: &str| spec.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
    let texts = |path: &str| {
        let list = spec.pointer(path).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    versions(crd)
        .filter(|v| v["served"] == json!(true))
        .map(|version| {
            let source = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({}));
            let schema = if source.as_object().is_some_and(|s| s.is_empty())
                || spec["preserveUnknownFields"] == json!(true)
            {
                Schema::any()
            } else {
                Schema::compile(&source)
            };
            Resource {
                group: text("/group"),
                version: name_of(version).to_owned(),
                plural: text("/names/plural"),
                singular: text("/names/singular"),
                kind: text("/names/kind"),
                list_kind: text("/names/listKind"),
                scope: if text("/scope") == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
                short_names: texts("/names/shortNames"),
                categories: texts("/names/categories"),
                has_status: version.pointer("/subresources/status").is_some_and(|s| !s.is_null()),
                subresources: Vec::new(),
                verbs: ALL_VERBS,
                counts_generation: true,
                name_rule: NameRule::Subdomain,
                fields: selectable_fields(version),
                flavour: Flavour::Custom(Arc::new(CustomVersion {
                    schema,
                    source,
                    columns: columns(version),
                })),
            }
        })
        .collect()
}

/// Fills in the names that can be derived, and the status: a CRD is established at once.
pub(crate) fn default(crd: &mut Value, _old: Option<&Value>) {
    let now = crate::clock::now();
    let names = {
        let spec = child_mut(crd, "spec");
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
        let names = spec.entry("names").or_insert_with(|| json!({}));
        let kind = names["kind"].as_str().unwrap_or("").to_owned();
        if let Some(names) = names.as_object_mut() {
            names.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
            names.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
        }
        names.clone()
    };
    let stored: Vec<Value> =
        versions(crd).filter(|v| v["storage"] == json!(true)).map(|v| json!(name_of(v))).collect();
    let status = child_mut(crd, "status");
    status.insert("acceptedNames".into(), names);
    status.insert("storedVersions".into(), Value::Array(stored));
    if status.get("conditions").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message});
        let conditions = json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]);
        status.insert("conditions".into(), conditions);
    }
}

/// Says what is wrong with a CRD.
pub(crate) fn validate(crd: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &crd["spec"];
    for path in ["/group", "/names/plural", "/names/kind", "/scope"] {
        if spec.pointer(path).and_then(Value::as_str).unwrap_or("").is_empty() {
            causes.push(Cause::required(format!("spec{}", path.replace('/', ".")), ""));
        }
    }
    let (group, plural) =
        (spec["group"].as_str().unwrap_or(""), spec.pointer("/names/plural").and_then(Value::as_str));
    let wanted = format!("{}.{group}", plural.unwrap_or(""));
    let name = meta_str(crd, "name");
    if name != wanted {
        causes.push(Cause::invalid(
            "metadata.name",
            &json!(name),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    if !group.is_empty() && !group.contains('.') {
        causes.push(Cause::invalid("spec.group", &json!(group), "should be a domain with at least one dot"));
    }
    if let Some(scope) = spec["scope"].as_str().filter(|s| !matches!(*s, "Namespaced" | "Cluster" | "")) {
        causes.push(Cause::unsupported(
            "spec.scope",
            &json!(scope),
            &["Cluster".into(), "Namespaced".into()],
        ));
    }
    if versions(crd).filter(|v| v["storage"] == json!(true)).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], why));
    }
    for (i, version) in versions(crd).enumerate() {
        validate_version(version, &format!("spec.versions[{i}]"), &mut causes);
    }
    if let Some(old) = old {
        for path in ["/spec/group", "/spec/names/plural", "/spec/names/kind", "/spec/scope"] {
            if old.pointer(path) != crd.pointer(path) {
                let field = path[1..].replace('/', ".");
                causes.push(Cause::invalid(
                    field,
                    crd.pointer(path).unwrap_or(&Value::Null),
                    "field is immutable",
                ));
            }
        }
    }
    causes
}

/// Warnings for the creator: rules that are not enforced here.
pub(crate) fn warnings(crd: &Value) -> Vec<String> {
    cel::unsupported(&crd["spec"]["versions"])
}

fn validate_version(version: &Value, path: &str, causes: &mut Vec<Cause>) {
    if name_of(version).is_empty() {
        causes.push(Cause::required(format!("{path}.name"), ""));
    }
    let schema_path = format!("{path}.schema.openAPIV3Schema");
    match version.pointer("/schema/openAPIV3Schema") {
        Some(schema) if schema.is_object() => validate_schema(schema, &schema_path, true, causes),
        _ => causes.push(Cause::required(schema_path, "schemas are required")),
    }
    for (i, column) in version["additionalPrinterColumns"].as_array().into_iter().flatten().enumerate() {
        let field = format!("{path}.additionalPrinterColumns[{i}]");
        let kind = column["type"].as_str().unwrap_or("");
        if !matches!(kind, "integer" | "number" | "string" | "boolean" | "date") {
            let supported = ["boolean", "date", "integer", "number", "string"].map(str::to_owned);
            causes.push(Cause::unsupported(format!("{field}.type"), &column["type"], &supported));
        }
        let json_path = column["jsonPath"].as_str().unwrap_or("");
        if json_path.is_empty() {
            causes.push(Cause::required(format!("{field}.jsonPath"), ""));
        } else if !jsonpath::is_valid(json_path) {
            causes.push(Cause::invalid(
                format!("{field}.jsonPath"),
                &column["jsonPath"],
                "is an invalid JSONPath",
            ));
        }
    }
}

/// A schema must be structural: every node has a type, patterns can be read.
fn validate_schema(schema: &Value, path: &str, is_root: bool, causes: &mut Vec<Cause>) {
    let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or("");
    if is_root && kind != "object" {
        causes.push(Cause::invalid(format!("{path}.type"), &json!(kind), "must be object at the root"));
    } else if kind.is_empty()
        && !flag("x-kubernetes-int-or-string")
        && !flag("x-kubernetes-preserve-unknown-fields")
    {
        causes.push(Cause::required(format!("{path}.type"), "must not be empty for specified object fields"));
    } else if !matches!(kind, "" | "object" | "array" | "string" | "integer" | "number" | "boolean") {
        let supported = ["array", "boolean", "integer", "number", "object", "string"].map(str::to_owned);
        causes.push(Cause::unsupported(format!("{path}.type"), &json!(kind), &supported));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && let Err(error) = regex::Regex::new(pattern)
    {
        causes.push(Cause::invalid(format!("{path}.pattern"), &json!(pattern), error.to_string()));
    }
    if kind == "array" && !schema.get("items").is_some_and(Value::is_object) {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        if is_root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        validate_schema(property, &format!("{path}.properties[{name}]"), false, causes);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(name).filter(|v| v.is_object()) {
            validate_schema(inner, &format!("{path}.{name}"), false, causes);
        }
    }
}

fn versions(crd: &Value) -> impl Iterator<Item = &Value> {
    crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten()
}

fn name_of(version: &Value) -> &str {
    version["name"].as_str().unwrap_or("")
}

fn selectable_fields(version: &Value) -> Vec<String> {
    let all = version["selectableFields"].as_array().into_iter().flatten();
    all.filter_map(|f| f["jsonPath"].as_str()).map(|p| p.trim_start_matches('.').to_owned()).collect()
}

fn columns(version: &Value) -> Vec<CustomColumn> {
    let text = |c: &Value, field: &str| c[field].as_str().unwrap_or("").to_owned();
    let named = version["additionalPrinterColumns"].as_array().filter(|c| !c.is_empty());
    let Some(named) = named else {
        return vec![CustomColumn {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            path: ".metadata.creationTimestamp".into(),
            priority: 0,
            description: None,
        }];
    };
    named
        .iter()
        .map(|c| CustomColumn {
            name: text(c, "name"),
            kind: text(c, "type"),
            format: text(c, "format"),
            path: text(c, "jsonPath"),
            priority: c["priority"].as_i64().unwrap_or(0),
            description: c["description"].as_str().map(str::to_owned),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> Value {
        json!({
            "metadata": {"name": "pools.example.org"},
            "spec": {
                "group": "example.org", "scope": "Cluster", "names": {"plural": "pools", "kind": "Pool"},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}}}],
            },
        })
    }

    #[test]
    fn definition_becomes_a_resource() {
        let mut crd = crd();
        default(&mut crd, None);

        assert_eq!(validate(&crd, None), []);
        assert_eq!(crd["status"]["conditions"][1]["type"], "Established");
        let [resource] = resources(&crd).try_into().unwrap();
        assert_eq!((resource.singular.as_str(), resource.list_kind.as_str()), ("pool", "PoolList"));
        assert!(resource.has_status && !resource.is_namespaced());
        assert_eq!(resource.custom().unwrap().columns[0].name, "Age");
    }

    #[test]
    fn bad_definitions_are_named() {
        let mut bad = crd();
        bad["metadata"]["name"] = json!("other");
        bad["spec"]["versions"][0]["storage"] = json!(false);
        bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
            json!({"pattern": "("});

        let fields: Vec<_> = validate(&bad, None).into_iter().map(|c| c.field).collect();

        assert_eq!(
            fields,
            [
                "metadata.name",
                "spec.versions",
                "spec.versions[0].schema.openAPIV3Schema.properties[spec].type",
                "spec.versions[0].schema.openAPIV3Schema.properties[spec].pattern",
            ]
        );
    }
}
