//! Kubernetes' protobuf bodies (`k8s\0` and a `runtime.Unknown`) of the kinds that `kubectl create` sends so, as
//! values. The field numbers are those of the published `generated.proto` files.

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::status::ApiError;

/// How a field is encoded; empty text and a zero count as absent.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Int,
    Message(&'static [Field]),
    Texts,
    Messages(&'static [Field]),
    TextMap,
    BytesMap,
    /// `IntOrString`.
    IntOrText,
    /// `Time`, seconds since the epoch.
    Time,
}

type Field = (u64, &'static str, Kind);

const METADATA: &[Field] = &[
    (1, "name", Kind::Text),
    (2, "generateName", Kind::Text),
    (3, "namespace", Kind::Text),
    (5, "uid", Kind::Text),
    (6, "resourceVersion", Kind::Text),
    (8, "creationTimestamp", Kind::Time),
    (11, "labels", Kind::TextMap),
    (12, "annotations", Kind::TextMap),
    (14, "finalizers", Kind::Texts),
];

const REFERENCE: &[Field] = &[(1, "kind", Kind::Text), (2, "namespace", Kind::Text), (3, "name", Kind::Text)];

const SERVICE_PORT: &[Field] = &[
    (1, "name", Kind::Text),
    (2, "protocol", Kind::Text),
    (3, "port", Kind::Int),
    (4, "targetPort", Kind::IntOrText),
    (5, "nodePort", Kind::Int),
    (6, "appProtocol", Kind::Text),
];

const SERVICE_SPEC: &[Field] = &[
    (1, "ports", Kind::Messages(SERVICE_PORT)),
    (2, "selector", Kind::TextMap),
    (3, "clusterIP", Kind::Text),
    (4, "type", Kind::Text),
    (5, "externalIPs", Kind::Texts),
    (7, "sessionAffinity", Kind::Text),
    (8, "loadBalancerIP", Kind::Text),
    (10, "externalName", Kind::Text),
    (11, "externalTrafficPolicy", Kind::Text),
    (18, "clusterIPs", Kind::Texts),
];

const RESOURCE_ATTRIBUTES: &[Field] = &[
    (1, "namespace", Kind::Text),
    (2, "verb", Kind::Text),
    (3, "group", Kind::Text),
    (4, "version", Kind::Text),
    (5, "resource", Kind::Text),
    (6, "subresource", Kind::Text),
    (7, "name", Kind::Text),
];

const REVIEW_SPEC: &[Field] = &[
    (1, "resourceAttributes", Kind::Message(RESOURCE_ATTRIBUTES)),
    (2, "nonResourceAttributes", Kind::Message(&[(1, "path", Kind::Text), (2, "verb", Kind::Text)])),
];

const KINDS: &[(&str, &str, &[Field])] = &[
    ("v1", "Namespace", &[(1, "metadata", Kind::Message(METADATA))]),
    (
        "v1",
        "ConfigMap",
        &[
            (1, "metadata", Kind::Message(METADATA)),
            (2, "data", Kind::TextMap),
            (3, "binaryData", Kind::BytesMap),
            (4, "immutable", Kind::Bool),
        ],
    ),
    (
        "v1",
        "Secret",
        &[
            (1, "metadata", Kind::Message(METADATA)),
            (2, "data", Kind::BytesMap),
            (3, "type", Kind::Text),
            (4, "stringData", Kind::TextMap),
            (5, "immutable", Kind::Bool),
        ],
    ),
    (
        "v1",
        "ServiceAccount",
        &[
            (1, "metadata", Kind::Message(METADATA)),
            (2, "secrets", Kind::Messages(REFERENCE)),
            (3, "imagePullSecrets", Kind::Messages(&[(1, "name", Kind::Text)])),
            (4, "automountServiceAccountToken", Kind::Bool),
        ],
    ),
    ("v1", "Service", &[(1, "metadata", Kind::Message(METADATA)), (2, "spec", Kind::Message(SERVICE_SPEC))]),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        &[(1, "metadata", Kind::Message(METADATA)), (2, "spec", Kind::Message(REVIEW_SPEC))],
    ),
    (
        "v1",
        "DeleteOptions",
        &[
            (1, "gracePeriodSeconds", Kind::Int),
            (
                2,
                "preconditions",
                Kind::Message(&[(1, "uid", Kind::Text), (2, "resourceVersion", Kind::Text)]),
            ),
            (4, "propagationPolicy", Kind::Text),
            (5, "dryRun", Kind::Texts),
        ],
    ),
];

/// Decodes a body.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let malformed = || ApiError::bad_request("the protobuf body is malformed");
    let rest = body.strip_prefix(b"k8s\0").ok_or_else(malformed)?;
    let mut api_version = String::new();
    let mut kind = String::new();
    let mut raw: &[u8] = &[];
    for (number, field) in fields(rest).ok_or_else(malformed)? {
        match (number, field) {
            (1, Wire::Bytes(meta)) => {
                for (number, field) in fields(meta).ok_or_else(malformed)? {
                    match (number, field) {
                        (1, Wire::Bytes(text)) => api_version = lossy(text),
                        (2, Wire::Bytes(text)) => kind = lossy(text),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some((_, _, table)) = KINDS.iter().find(|(v, k, _)| *v == api_version && *k == kind) else {
        return Err(ApiError::unsupported_media_type(format!(
            "{kind} of {api_version} is not accepted as protobuf here; send application/json, for example with kubectl \
             create -f"
        )));
    };
    let mut value = message(raw, table).ok_or_else(malformed)?;
    crate::object::set_type(&mut value, &api_version, &kind);
    Ok(value)
}

fn message(bytes: &[u8], table: &[Field]) -> Option<Value> {
    let mut map = Map::new();
    for (number, wire) in fields(bytes)? {
        let Some((_, name, kind)) = table.iter().find(|(n, _, _)| *n == number) else { continue };
        match (kind, wire) {
            (Kind::Text, Wire::Bytes(text)) if !text.is_empty() => {
                map.insert((*name).into(), json!(lossy(text)));
            }
            (Kind::Bool, Wire::Number(n)) => {
                map.insert((*name).into(), json!(n != 0));
            }
            (Kind::Int, Wire::Number(n)) if n != 0 || *name == "gracePeriodSeconds" => {
                map.insert((*name).into(), json!(n.cast_signed()));
            }
            (Kind::Message(inner), Wire::Bytes(data)) => {
                let value = message(data, inner)?;
                map.insert((*name).into(), value);
            }
            (Kind::Texts, Wire::Bytes(text)) => push(&mut map, name, json!(lossy(text))),
            (Kind::Messages(inner), Wire::Bytes(data)) => push(&mut map, name, message(data, inner)?),
            (Kind::TextMap, Wire::Bytes(entry)) => {
                let (key, value) = pair(entry)?;
                insert(&mut map, name, key, json!(lossy(value)));
            }
            (Kind::BytesMap, Wire::Bytes(entry)) => {
                let (key, value) = pair(entry)?;
                insert(&mut map, name, key, base64(value));
            }
            (Kind::IntOrText, Wire::Bytes(data)) => {
                map.extend(int_or_text(data)?.map(|v| ((*name).to_owned(), v)));
            }
            (Kind::Time, Wire::Bytes(data)) => {
                for (number, wire) in fields(data)? {
                    if let (1, Wire::Number(seconds)) = (number, wire) {
                        let time = crate::clock::format_time(seconds.cast_signed());
                        map.insert((*name).into(), json!(time));
                    }
                }
            }
            _ => {}
        }
    }
    Some(Value::Object(map))
}

fn int_or_text(bytes: &[u8]) -> Option<Option<Value>> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for (field, wire) in fields(bytes)? {
        match (field, wire) {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number = n.cast_signed(),
            (3, Wire::Bytes(t)) => text = lossy(t),
            _ => {}
        }
    }
    Some(match (is_text, number) {
        (true, _) => Some(json!(text)),
        (false, 0) => None,
        (false, n) => Some(json!(n)),
    })
}

fn push(map: &mut Map<String, Value>, name: &str, value: Value) {
    if let Some(list) = map.entry(name).or_insert_with(|| json!([])).as_array_mut() {
        list.push(value);
    }
}

fn insert(map: &mut Map<String, Value>, name: &str, key: String, value: Value) {
    if let Some(inner) = map.entry(name).or_insert_with(|| json!({})).as_object_mut() {
        inner.insert(key, value);
    }
}

fn pair(entry: &[u8]) -> Option<(String, &[u8])> {
    let (mut key, mut value) = (String::new(), &[][..]);
    for (number, wire) in fields(entry)? {
        match (number, wire) {
            (1, Wire::Bytes(k)) => key = lossy(k),
            (2, Wire::Bytes(v)) => value = v,
            _ => {}
        }
    }
    Some((key, value))
}

fn base64(data: &[u8]) -> Value {
    json!(base64::engine::general_purpose::STANDARD.encode(data))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Splits a message into its fields; `None` if it is cut off or has an unknown wire type.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Wire<'_>)>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            1 => Wire::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Wire::Bytes(take(&mut bytes, length)?)
            }
            5 => Wire::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        out.push((tag >> 3, wire));
    }
    Some(out)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One length-delimited field.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn unknown(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &type_meta), field(2, raw)].concat()
    }

    #[test]
    fn objects_are_decoded() {
        let entry = [field(1, b"a"), field(2, b"b")].concat();
        let raw = [field(1, &field(1, b"n")), field(2, &entry)].concat();

        let config_map = decode(&unknown("v1", "ConfigMap", &raw)).unwrap();
        let secret = decode(&unknown("v1", "Secret", &raw)).unwrap();

        assert_eq!(
            config_map,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}, "data": {"a": "b"}})
        );
        assert_eq!(secret["data"]["a"], "Yg==");
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(decode(b"xx").unwrap_err().code, 400);
        assert_eq!(decode(b"k8s\0\x0a\xff").unwrap_err().code, 400);
        assert_eq!(decode(&unknown("v1", "ConfigMap", &[0x0a, 0x7f])).unwrap_err().code, 400);
        assert_eq!(decode(&unknown("batch/v1", "Job", &[])).unwrap_err().code, 415);
    }
}
