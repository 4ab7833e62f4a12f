//! Which fields of an object the schema of our kind has, and which of those anything acts upon.

use serde_json::{Map, Value};

use crate::{Effect, Note};

/// What the API server would make of a value under `schema` (`openAPIV3Schema`), defaults and all, with a note for each
/// field that it would drop, and for each that it keeps and nothing acts upon.
pub fn carried(path: &str, value: &Value, schema: &Value, notes: &mut Vec<Note>) -> Value {
    if schema.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(true) {
        return value.clone();
    }
    match value {
        Value::Object(members) => object(path, members, schema, notes),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return value.clone() };
            let each = |(index, item)| carried(&format!("{path}[{index}]"), item, schema, notes);
            Value::Array(items.iter().enumerate().map(each).collect())
        }
        _ => value.clone(),
    }
}

fn object(path: &str, members: &Map<String, Value>, schema: &Value, notes: &mut Vec<Note>) -> Value {
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema.get("additionalProperties");
    if properties.is_none() && additional.is_none() {
        return Value::Object(members.clone());
    }
    let mut kept = Map::new();
    for (key, value) in members {
        let path = format!("{path}.{key}");
        let known = properties.and_then(|properties| properties.get(key)).or(additional);
        match known {
            // Absent says the same, and is the only way to say it here.
            _ if value.is_null() => {}
            Some(known) => {
                if says_something(value) && is_inert(known) {
                    notes.push(Note::new(Effect::Ignored, &path, "is kept, and nothing acts upon it"));
                }
                kept.insert(key.clone(), carried(&path, value, known, notes));
            }
            None if says_something(value) => {
                notes.push(Note::new(Effect::Ignored, path, "there is no such field here"));
            }
            None => {}
        }
    }
    let defaults = properties.into_iter().flatten().filter_map(|(key, of)| Some((key, of.get("default")?)));
    for (key, default) in defaults {
        kept.entry(key.clone()).or_insert_with(|| default.clone());
    }
    Value::Object(kept)
}

/// The schemas say so in words, which is how people learn of it, too.
fn is_inert(schema: &Value) -> bool {
    schema.get("description").and_then(Value::as_str).is_some_and(|text| text.contains("not acted upon"))
}

/// Is it more than what an absent field says?
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty() && text != "Never",
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => members.values().any(says_something),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_that_does_not_go_over_is_named() {
        let schema = json!({"properties": {
            "a": {"type": "string"},
            "said": {"type": "string", "default": "all()"},
            "mode": {"type": "string", "description": "Kept, not acted upon yet."},
            "rules": {"type": "array", "items": {"properties": {"action": {"type": "string"}}}},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "labels": {"additionalProperties": {"type": "string"}},
        }});
        let value = json!({
            "a": "x", "mode": "Always", "b": null, "c": "", "d": [1],
            "rules": [{"action": "Allow", "new": {"x": 1}}],
            "any": {"thing": 1}, "labels": {"k": "v"},
        });
        let mut notes = Vec::new();

        let kept = carried("spec", &value, &schema, &mut notes);

        let expected = json!({
            "a": "x", "mode": "Always", "rules": [{"action": "Allow"}], "any": {"thing": 1}, "labels": {"k": "v"},
            "said": "all()",
        });
        assert_eq!(kept, expected);
        let fields: Vec<_> = notes.iter().map(|note| note.field.as_str()).collect();
        assert_eq!(fields, ["spec.d", "spec.mode", "spec.rules[0].new"]);
    }

    #[test]
    fn a_value_of_another_shape_stays_for_the_check_to_refuse() {
        let mut notes = Vec::new();

        assert_eq!(carried("spec", &json!("text"), &json!({"properties": {}}), &mut notes), json!("text"));
        assert_eq!(carried("spec", &json!([[1]]), &json!(null), &mut notes), json!([[1]]));
        assert!(notes.is_empty());
    }
}
