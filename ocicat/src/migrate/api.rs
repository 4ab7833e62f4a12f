//! Requests to the API server about objects of any group, as plain JSON: what Calico keeps has no types here.

use std::time::Duration;

use datastore::Datastore;
use http::Request;
use serde_json::{Value, json};

use crate::client::CallError;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects that are listed at once.
const PAGE: usize = 500;

/// The API server.
pub(super) struct Api {
    datastore: Datastore,
}

/// Why a request did not do what it should.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Somebody else was faster: read again.
    Conflict,
    /// There is no such object, or no such kind.
    Absent,
    /// Everything else.
    Failed(CallError),
}

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Conflict => {
                CallError::Question { reason: "somebody else writes the same objects: try again".to_owned() }
            }
            Refusal::Absent => {
                CallError::Question { reason: "an object or its kind has gone: try again".to_owned() }
            }
            Refusal::Failed(error) => error,
        }
    }
}

impl Api {
    pub(super) fn new(datastore: Datastore) -> Self {
        Self { datastore }
    }

    /// One object, or what else a path names; `None` when there is none.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Value>, CallError> {
        match self.send("GET", path, None).await {
            Ok(value) => Ok(Some(value)),
            Err(Refusal::Absent) => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// All objects of a kind; `None` when there is no such kind.
    pub(super) async fn list(&self, path: &str) -> Result<Option<Vec<Value>>, CallError> {
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{mark}limit={PAGE}{token}");
            let Some(mut page) = self.get(&page).await? else { return Ok(None) };
            if let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) {
                all.append(items);
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => token = format!("&continue={next}"),
                _ => return Ok(Some(all)),
            }
        }
    }

    pub(super) async fn create(&self, path: &str, object: &Value) -> Result<Value, Refusal> {
        self.send("POST", path, Some(object)).await
    }

    /// Replaces an object; one that has changed since its resourceVersion was read is a conflict.
    pub(super) async fn replace(&self, path: &str, object: &Value) -> Result<Value, Refusal> {
        self.send("PUT", path, Some(object)).await
    }

    /// A merge patch (RFC 7396).
    pub(super) async fn patch(&self, path: &str, patch: &Value) -> Result<Value, Refusal> {
        self.send("PATCH", path, Some(patch)).await
    }

    /// Deletes an object as it was read.
    pub(super) async fn delete(&self, path: &str, object: &Value) -> Result<(), Refusal> {
        let version = object.pointer("/metadata/resourceVersion");
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": version},
        });
        match self.send("DELETE", path, Some(&options)).await {
            Ok(_) | Err(Refusal::Absent) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    async fn send(&self, verb: &str, path: &str, body: Option<&Value>) -> Result<Value, Refusal> {
        let failed = |reason: String| {
            Refusal::Failed(CallError::Cluster { reason: format!("{verb} {path}: {reason}") })
        };
        let kind = if verb == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder().method(verb).uri(path).header("Content-Type", kind).body(body);
        let request = request.map_err(|error| failed(error.to_string()))?;
        let answer = tokio::time::timeout(PATIENCE, self.datastore.client().request_text(request)).await;
        let answer = answer.map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?;
        match answer {
            Ok(text) => {
                serde_json::from_str(&text).map_err(|error| failed(format!("the answer is no JSON: {error}")))
            }
            Err(kube::Error::Api(status)) => Err(match status.code {
                404 => Refusal::Absent,
                409 => Refusal::Conflict,
                _ => Refusal::Failed(CallError::Question {
                    reason: format!("{verb} {path}: {}", status.message),
                }),
            }),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Where objects of a kind are in a group and version; `namespace` for those of one.
pub(super) fn path(group: &str, plural: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("/apis/{group}/namespaces/{namespace}/{plural}"),
        None => format!("/apis/{group}/{plural}"),
    }
}

/// The name of an object as it is stored.
pub(super) fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// The namespace of an object as it is stored.
pub(super) fn namespace(object: &Value) -> Option<&str> {
    object.pointer("/metadata/namespace").and_then(Value::as_str).filter(|name| !name.is_empty())
}
