//! YAML documents as values.

use serde_json::Value;

/// The documents of a YAML text that hold something.
///
/// # Errors
/// The text is no YAML.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// `Kind namespace/name`, by which two texts' objects are matched.
pub fn identity(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

/// Without documents that are only comments, and sorted by [`identity`].
pub fn sorted(mut documents: Vec<Value>) -> Vec<Value> {
    documents.sort_by_key(identity);
    documents
}
