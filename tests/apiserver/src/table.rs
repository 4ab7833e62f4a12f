//! Objects in the shapes that a client asks for with `Accept`: as they are, as rows of a Table, or metadata only.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::columns;
use crate::jsonpath;
use crate::object::Object;
use crate::registry::{Flavour, Resource};

/// Shape of objects in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object itself.
    Full,
    /// `Table` of meta.k8s.io; the rows hold metadata, nothing, or the object.
    Table(RowObject),
    /// `PartialObjectMetadata`.
    Metadata,
}

/// What `includeObject` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowObject {
    Metadata,
    None,
    Object,
}

impl Shape {
    /// Name under which the bytes of an event are shared.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Metadata => "metadata",
            Self::Table(RowObject::Metadata) => "table",
            Self::Table(RowObject::None) => "table-none",
            Self::Table(RowObject::Object) => "table-object",
        }
    }
}

/// One object in a shape. `with_heads` is about Tables only.
pub(crate) fn one(resource: &Resource, object: &Object, shape: Shape, with_heads: bool) -> Bytes {
    match shape {
        Shape::Full => full(&resource.prefix(), object),
        Shape::Metadata => Bytes::from(metadata(object).to_string()),
        Shape::Table(include) => {
            let heads = with_heads.then(|| heads(resource));
            let meta = json!({"resourceVersion": object.revision.to_string()});
            Bytes::from(table(meta, heads, vec![row(resource, object, include)]).to_string())
        }
    }
}

/// The object itself with its type in front, without serialising it again.
pub(crate) fn full(prefix: &str, object: &Object) -> Bytes {
    let mut out = BytesMut::with_capacity(prefix.len() + object.tail().len());
    out.put_slice(prefix.as_bytes());
    out.put_slice(object.tail());
    out.freeze()
}

/// A list in a shape; `meta` is the list's metadata. Items of built-in lists do not name their type.
pub(crate) fn list(resource: &Resource, objects: &[impl AsRef<Object>], meta: Value, shape: Shape) -> Bytes {
    match shape {
        Shape::Full => full_list(resource, objects, &meta),
        Shape::Metadata => {
            let items: Vec<Value> = objects.iter().map(|o| metadata(o.as_ref())).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items});
            Bytes::from(list.to_string())
        }
        Shape::Table(include) => {
            let rows = objects.iter().map(|o| row(resource, o.as_ref(), include)).collect();
            Bytes::from(table(meta, Some(heads(resource)), rows).to_string())
        }
    }
}

fn full_list(resource: &Resource, objects: &[impl AsRef<Object>], meta: &Value) -> Bytes {
    let prefix = if resource.is_custom() { resource.prefix() } else { "{".to_owned() };
    let size: usize = objects.iter().map(|o| o.as_ref().tail().len() + prefix.len() + 1).sum();
    let mut out = BytesMut::with_capacity(size + 256);
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        resource.list_kind,
        resource.api_version()
    );
    out.put_slice(head.as_bytes());
    for (i, object) in objects.iter().enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        out.put_slice(prefix.as_bytes());
        out.put_slice(object.as_ref().tail());
    }
    out.put_slice(b"]}");
    out.freeze()
}

/// The object's metadata as an object of its own.
pub(crate) fn metadata(object: &Object) -> Value {
    let meta = object.value().get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
}

fn table(meta: Value, heads: Option<Value>, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
        "columnDefinitions": heads.unwrap_or(Value::Null), "rows": rows,
    })
}

fn row(resource: &Resource, object: &Object, include: RowObject) -> Value {
    let cells = match &resource.flavour {
        Flavour::BuiltIn(builtin) => (builtin.columns.cells)(object.value()),
        Flavour::Custom(custom) => custom_cells(&custom.columns, object.value()),
    };
    match include {
        RowObject::None => json!({"cells": cells}),
        RowObject::Metadata => json!({"cells": cells, "object": metadata(object)}),
        RowObject::Object => {
            json!({"cells": cells, "object": object.typed(&resource.api_version(), &resource.kind)})
        }
    }
}

fn heads(resource: &Resource) -> Value {
    match &resource.flavour {
        Flavour::BuiltIn(builtin) => {
            let all = builtin.columns.heads.iter();
            all.map(|(name, kind, priority)| head(name, kind, "", i64::from(*priority), "")).collect()
        }
        Flavour::Custom(custom) => {
            let mut all = vec![head("Name", "string", "name", 0, "Name must be unique within a namespace.")];
            all.extend(custom.columns.iter().map(|c| {
                let path = format!("Custom resource definition column (in JSONPath format): {}", c.path);
                let description = c.description.as_deref().unwrap_or(&path);
                head(&c.name, &c.kind, &c.format, c.priority, description)
            }));
            Value::Array(all)
        }
    }
}

fn head(name: &str, kind: &str, format: &str, priority: i64, description: &str) -> Value {
    let format = if name == "Name" { "name" } else { format };
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

/// One `additionalPrinterColumns` entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CustomColumn {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) path: String,
    pub(crate) priority: i64,
    pub(crate) description: Option<String>,
}

fn custom_cells(columns: &[CustomColumn], object: &Value) -> Vec<Value> {
    let mut cells = vec![object.pointer("/metadata/name").cloned().unwrap_or(Value::Null)];
    cells.extend(columns.iter().map(|c| custom_cell(c, object)));
    cells
}

fn custom_cell(column: &CustomColumn, object: &Value) -> Value {
    let found = jsonpath::find(object, &column.path);
    let Some(first) = found.first() else { return Value::Null };
    match column.kind.as_str() {
        "date" => first.as_str().map_or(Value::Null, |t| json!(columns::since(t))),
        "integer" => first.as_i64().map_or(Value::Null, |n| json!(n)),
        "number" => first.as_f64().map_or(Value::Null, |n| json!(n)),
        "boolean" => first.as_bool().map_or(Value::Null, |b| json!(b)),
        _ => {
            let texts: Vec<String> =
                found.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            json!(texts.join(" "))
        }
    }
}

impl AsRef<Object> for Object {
    fn as_ref(&self) -> &Object {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_cells_follow_their_type() {
        let column = |kind: &str, path: &str| CustomColumn {
            name: "X".into(),
            kind: kind.into(),
            format: String::new(),
            path: path.into(),
            priority: 0,
            description: None,
        };
        let object =
            json!({"metadata": {"name": "a"}, "spec": {"n": 3, "list": ["x", "y"], "map": {"k": 1}}});

        let cells = custom_cells(
            &[
                column("integer", ".spec.n"),
                column("string", ".spec.list[*]"),
                column("string", ".spec.map"),
                column("string", ".spec.gone"),
                column("integer", ".spec.list[0]"),
            ],
            &object,
        );

        assert_eq!(cells, [json!("a"), json!(3), json!("x y"), json!("{\"k\":1}"), Value::Null, Value::Null]);
    }
}
