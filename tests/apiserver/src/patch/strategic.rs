//! Strategic merge patch: lists of the built-in kinds are merged by key, and directives say more.

use serde_json::{Map, Value};

use crate::registry::Resource;
use crate::status::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Applies a patch to an object of `resource`.
pub(super) fn apply(resource: &Resource, current: Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Object(changes) = patch else {
        return Err(ApiError::bad_request("a strategic merge patch must be a JSON object"));
    };
    let map = match current {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    Ok(Value::Object(merge_map(resource, map, changes, &mut Vec::new())?))
}

fn merge_map(
    resource: &Resource,
    mut map: Map<String, Value>,
    changes: &Map<String, Value>,
    path: &mut Vec<String>,
) -> Result<Map<String, Value>, ApiError> {
    match changes.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => return Ok(without_directives(changes)),
        Some("delete") => return Ok(Map::new()),
        Some("merge") | None => {}
        Some(other) => return Err(ApiError::bad_request(format!("unknown $patch type {other:?}"))),
    }
    if let Some(Value::Array(keep)) = changes.get(RETAIN) {
        map.retain(|name, _| keep.iter().any(|k| k == name));
    }
    for (name, gone) in changes {
        if let Some(list) = name.strip_prefix(DELETE_PRIMITIVES)
            && let (Some(Value::Array(items)), Some(gone)) = (map.get_mut(list), gone.as_array())
        {
            items.retain(|i| !gone.contains(i));
        }
    }
    for (name, change) in changes.iter().filter(|(name, _)| !name.starts_with('$')) {
        path.push(name.clone());
        match (map.remove(name), change) {
            (_, Value::Null) => {}
            (Some(Value::Object(before)), Value::Object(inner)) => {
                let is_deletion = inner.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
                let merged = merge_map(resource, before, inner, path)?;
                if !is_deletion {
                    map.insert(name.clone(), Value::Object(merged));
                }
            }
            (None | Some(_), Value::Object(inner)) => {
                if inner.get(DIRECTIVE).and_then(Value::as_str) != Some("delete") {
                    let merged = merge_map(resource, Map::new(), inner, path)?;
                    map.insert(name.clone(), Value::Object(merged));
                }
            }
            (before, Value::Array(items)) => {
                let before = before.and_then(|b| if let Value::Array(b) = b { Some(b) } else { None });
                let order = changes.get(&format!("{ORDER}{name}")).and_then(Value::as_array);
                let merged = merge_list(resource, before.unwrap_or_default(), items, order, path)?;
                map.insert(name.clone(), Value::Array(merged));
            }
            (_, other) => {
                map.insert(name.clone(), other.clone());
            }
        }
        path.pop();
    }
    for (name, order) in changes {
        let Some(list) = name.strip_prefix(ORDER) else { continue };
        path.push(list.to_owned());
        let key = resource.strategic_key(path);
        path.pop();
        if let (Some(Value::Array(items)), Some(order), Some(key)) =
            (map.get_mut(list), order.as_array(), key)
        {
            reorder(items, order, key);
        }
    }
    Ok(map)
}

fn merge_list(
    resource: &Resource,
    before: Vec<Value>,
    changes: &[Value],
    order: Option<&Vec<Value>>,
    path: &mut Vec<String>,
) -> Result<Vec<Value>, ApiError> {
    let replaces = |c: &&Value| c.get(DIRECTIVE).and_then(Value::as_str) == Some("replace");
    let rest = || changes.iter().filter(|c| !replaces(c)).cloned().collect::<Vec<_>>();
    let key = match resource.strategic_key(path) {
        None => return Ok(rest()),
        Some(_) if changes.iter().any(|c| replaces(&c)) => return Ok(rest()),
        Some(key) => key,
    };
    let mut merged = before;
    for change in changes {
        let Some(key) = key else {
            if !merged.contains(change) {
                merged.push(change.clone());
            }
            continue;
        };
        let Value::Object(fields) = change else {
            return Err(ApiError::bad_request(format!("an item of {} must be an object", path.join("."))));
        };
        let Some(wanted) = fields.get(key) else {
            let message = format!("map: {change} does not contain declared merge key: {key}");
            return Err(ApiError::bad_request(message));
        };
        let is_same = |item: &Value| item.get(key) == Some(wanted) && same_protocol(item, fields);
        if fields.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
            merged.retain(|item| !is_same(item));
            continue;
        }
        path.push("*".into());
        match merged.iter().position(is_same) {
            Some(at) => {
                let item = match merged[at].take() {
                    Value::Object(item) => item,
                    _ => Map::new(),
                };
                merged[at] = Value::Object(merge_map(resource, item, fields, path)?);
            }
            None => merged.push(Value::Object(merge_map(resource, Map::new(), fields, path)?)),
        }
        path.pop();
    }
    if let Some(order) = order {
        reorder(&mut merged, order, key);
    }
    Ok(merged)
}

/// Two ports with the same number are apart if both name different protocols.
fn same_protocol(item: &Value, fields: &Map<String, Value>) -> bool {
    match (item.get("protocol"), fields.get("protocol")) {
        (Some(have), Some(want)) => have == want,
        _ => true,
    }
}

/// Puts the items that `order` names into that order; others stay behind them.
fn reorder(items: &mut [Value], order: &[Value], key: Option<&str>) {
    let position = |item: &Value| {
        order
            .iter()
            .position(|o| match key {
                Some(key) => o.get(key).is_some() && o.get(key) == item.get(key),
                None => o == item,
            })
            .unwrap_or(usize::MAX)
    };
    items.sort_by_key(position);
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().filter(|(name, _)| !name.starts_with('$')).map(|(n, v)| (n.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(plural: &str, current: Value, patch: Value) -> Value {
        let resource = crate::builtin::table().into_iter().find(|r| r.plural == plural).unwrap();
        apply(&resource, current, &patch).unwrap()
    }

    #[test]
    fn containers_are_merged_by_name() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}});

        let result = patched(
            "pods",
            pod,
            json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
                "containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "b", "$patch": "delete"}, {"name": "c", "image": "3"}]}}),
        );

        assert_eq!(
            result["spec"]["containers"],
            json!([{"name": "c", "image": "3"},
                   {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}])
        );
    }

    #[test]
    fn lists_of_a_policy_are_replaced() {
        let policy = json!({"spec": {"policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}]}]}});

        let result =
            patched("networkpolicies", policy, json!({"spec": {"ingress": [{"ports": [{"port": 81}]}]}}));

        assert_eq!(
            result,
            json!({"spec": {"policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 81}]}]}})
        );
    }

    #[test]
    fn directives_are_obeyed() {
        for (current, patch, result) in [
            (json!({"a": {"x": 1}}), json!({"a": {"$patch": "replace", "y": 2}}), json!({"a": {"y": 2}})),
            (json!({"a": {"x": 1}}), json!({"a": {"$patch": "delete"}}), json!({})),
            (
                json!({"a": {"x": 1, "y": 2}}),
                json!({"a": {"$retainKeys": ["y", "z"], "z": 3}}),
                json!({"a": {"y": 2, "z": 3}}),
            ),
            (
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
                json!({"metadata": {"finalizers": ["b"]}}),
            ),
            (
                json!({"metadata": {"finalizers": ["a"]}}),
                json!({"metadata": {"finalizers": ["b"]}}),
                json!({"metadata": {"finalizers": ["a", "b"]}}),
            ),
            (json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2})),
            (
                json!({"spec": {"containers": [{"name": "a"}]}}),
                json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}),
                json!({"spec": {"containers": [{"name": "z"}]}}),
            ),
        ] {
            assert_eq!(patched("pods", current, patch.clone()), result, "{patch}");
        }
    }

    #[test]
    fn ports_with_one_number_are_told_apart_by_protocol() {
        let ports = |list: Value| json!({"spec": {"ports": list}});
        let service = ports(
            json!([{"port": 53, "protocol": "TCP", "name": "t"}, {"port": 53, "protocol": "UDP", "name": "u"}]),
        );

        let result =
            patched("services", service, ports(json!([{"port": 53, "protocol": "UDP", "name": "v"}])));

        assert_eq!(result["spec"]["ports"][0]["name"], "t");
        assert_eq!(result["spec"]["ports"][1]["name"], "v");
    }
}
