//! JSON patch (RFC 6902).

use serde_json::Value;

use crate::status::ApiError;

/// Longest patch that is accepted, as in the real server.
const MAX_OPERATIONS: usize = 10_000;

/// Applies all operations or none.
pub(super) fn apply(current: &Value, patch: &Value) -> Result<Value, ApiError> {
    let operations = patch
        .as_array()
        .ok_or_else(|| ApiError::bad_request("a JSON patch must be an array of operations"))?;
    if operations.len() > MAX_OPERATIONS {
        let message = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}");
        return Err(ApiError::too_large(message));
    }
    let mut value = current.clone();
    for operation in operations {
        step(&mut value, operation)?;
    }
    Ok(value)
}

fn step(value: &mut Value, operation: &Value) -> Result<(), ApiError> {
    let text = |field: &str| operation.get(field).and_then(Value::as_str);
    let kind = text("op").unwrap_or("");
    let path = text("path").ok_or_else(|| ApiError::bad_request("a JSON patch operation needs a path"))?;
    let given = || operation.get("value").cloned();
    match kind {
        "add" => add(value, path, given().unwrap_or(Value::Null)),
        "remove" => remove(value, path).map(drop),
        "replace" => {
            let slot = value.pointer_mut(path).ok_or_else(|| missing("replace", path))?;
            *slot = given().unwrap_or(Value::Null);
            Ok(())
        }
        "move" => {
            let moved = remove(value, text("from").unwrap_or(""))?;
            add(value, path, moved)
        }
        "copy" => {
            let from = text("from").unwrap_or("");
            let copied = value.pointer(from).cloned().ok_or_else(|| missing("copy", from))?;
            add(value, path, copied)
        }
        "test" => {
            if value.pointer(path).unwrap_or(&Value::Null) == &given().unwrap_or(Value::Null) {
                Ok(())
            } else {
                Err(ApiError::unprocessable("the server rejected our request due to an error in our request"))
            }
        }
        other => Err(ApiError::bad_request(format!("Unexpected kind: {other}"))),
    }
}

fn missing(operation: &str, path: &str) -> ApiError {
    let message = format!(
        "the server rejected our request due to an error in our request: {operation} operation does not apply: doc is \
         missing path: {path}"
    );
    ApiError::unprocessable(message)
}

fn add(value: &mut Value, path: &str, new: Value) -> Result<(), ApiError> {
    if path.is_empty() {
        *value = new;
        return Ok(());
    }
    let (parent, name) = split(path);
    match value.pointer_mut(parent).ok_or_else(|| missing("add", path))? {
        Value::Object(map) => {
            map.insert(name, new);
        }
        Value::Array(items) if name == "-" => items.push(new),
        Value::Array(items) => {
            let at = name
                .parse::<usize>()
                .ok()
                .filter(|i| *i <= items.len())
                .ok_or_else(|| missing("add", path))?;
            items.insert(at, new);
        }
        _ => return Err(missing("add", path)),
    }
    Ok(())
}

fn remove(value: &mut Value, path: &str) -> Result<Value, ApiError> {
    let (parent, name) = split(path);
    let removed = match value.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&name),
        Some(Value::Array(items)) => {
            name.parse::<usize>().ok().filter(|i| *i < items.len()).map(|i| items.remove(i))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", path))
}

fn split(path: &str) -> (&str, String) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    (parent, name.replace("~1", "/").replace("~0", "~"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_do_what_the_rfc_says() {
        let value = json!({"a": [1, 2], "m": {"x/y": 1}});
        for (patch, result) in [
            (json!([{"op": "add", "path": "/a/1", "value": 9}]), json!({"a": [1, 9, 2], "m": {"x/y": 1}})),
            (json!([{"op": "add", "path": "/a/-", "value": 9}]), json!({"a": [1, 2, 9], "m": {"x/y": 1}})),
            (json!([{"op": "remove", "path": "/m/x~1y"}]), json!({"a": [1, 2], "m": {}})),
            (json!([{"op": "replace", "path": "/a/0", "value": 3}]), json!({"a": [3, 2], "m": {"x/y": 1}})),
            (json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": [1, 2], "m": {"x/y": 1}})),
            (
                json!([{"op": "copy", "from": "/a/0", "path": "/c"}]),
                json!({"a": [1, 2], "c": 1, "m": {"x/y": 1}}),
            ),
            (json!([{"op": "test", "path": "/a/0", "value": 1}]), value.clone()),
        ] {
            assert_eq!(apply(&value, &patch).unwrap(), result, "{patch}");
        }
    }

    #[test]
    fn what_does_not_apply_is_refused() {
        let value = json!({"a": [1]});
        for (operation, code) in [
            (json!({"op": "test", "path": "/a/0", "value": 2}), 422),
            (json!({"op": "remove", "path": "/b"}), 422),
            (json!({"op": "replace", "path": "/b", "value": 1}), 422),
            (json!({"op": "add", "path": "/a/7", "value": 1}), 422),
            (json!({"op": "add", "path": "/b/c", "value": 1}), 422),
            (json!({"op": "frob", "path": "/a"}), 400),
            (json!({"op": "add"}), 400),
        ] {
            assert_eq!(apply(&value, &json!([operation])).unwrap_err().code, code, "{operation}");
        }
        assert_eq!(apply(&value, &json!({})).unwrap_err().code, 400);
    }
}
