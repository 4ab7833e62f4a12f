//! The one error type of the API and its wire form, a `Status` object (API conventions, "Response Status Kind").

use serde_json::{Value, json};

/// An error as the client sees it. Its parts are those of [`ErrorDetails`]; they are boxed, since results carry them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ApiError(Box<ErrorDetails>);

/// HTTP code, machine-readable reason, message and what an error is about.
#[derive(Debug, Clone)]
pub struct ErrorDetails {
    /// HTTP status code.
    pub code: u16,
    /// `reason` of the Status, such as `NotFound`.
    pub reason: &'static str,
    /// Text for people; names the object and the remedy.
    pub message: String,
    /// Group of the resource or kind in `details`.
    pub group: String,
    /// Kind (or plural) in `details`.
    pub kind: String,
    /// Object name in `details`.
    pub name: String,
    /// Every field that is wrong.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry may succeed.
    pub retry_after: Option<u32>,
    /// Token with which an expired list may go on, inconsistently.
    pub continue_token: Option<String>,
}

/// One wrong field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong, without the field.
    pub message: String,
    /// JSON path, such as `spec.containers[0].name`.
    pub field: String,
}

impl Cause {
    /// `field` has a value that is not acceptable.
    pub fn invalid(field: impl Into<String>, value: &Value, why: impl AsRef<str>) -> Self {
        let message = format!("Invalid value: {}: {}", shown(value), why.as_ref());
        Self { reason: "FieldValueInvalid", message, field: field.into() }
    }

    /// `field` is absent or empty and must not be.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", message, field: field.into() }
    }

    /// `field` must not be set, or not so.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", message: format!("Forbidden: {why}"), field: field.into() }
    }

    /// `field` is none of the values that it may have.
    pub fn unsupported(field: impl Into<String>, value: &Value, supported: &[String]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), list.join(", "));
        Self { reason: "FieldValueNotSupported", message, field: field.into() }
    }

    /// `field` repeats a value that must be unique.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {}", shown(value));
        Self { reason: "FieldValueDuplicate", message, field: field.into() }
    }

    /// `field` has the wrong JSON type.
    pub fn wrong_type(field: impl Into<String>, value: &Value, why: impl AsRef<str>) -> Self {
        let message = format!("Invalid value: {}: {}", shown(value), why.as_ref());
        Self { reason: "FieldValueTypeInvalid", message, field: field.into() }
    }
}

impl std::ops::Deref for ApiError {
    type Target = ErrorDetails;

    fn deref(&self) -> &ErrorDetails {
        &self.0
    }
}

impl std::ops::DerefMut for ApiError {
    fn deref_mut(&mut self) -> &mut ErrorDetails {
        &mut self.0
    }
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorDetails {
            code,
            reason,
            message: message.into(),
            group: String::new(),
            kind: String::new(),
            name: String::new(),
            causes: Vec::new(),
            retry_after: None,
            continue_token: None,
        }))
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.group = group.into();
        self.kind = kind.into();
        self.name = name.into();
        self
    }

    fn because(mut self, causes: Vec<Cause>) -> Self {
        self.causes = causes;
        self
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no or wrong credentials.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: refused whatever the credentials are.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", qualified(plural, group));
        Self::new(403, "Forbidden", message).about(group, plural, name)
    }

    /// 404 for an object.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(plural, group));
        Self::new(404, "NotFound", message).about(group, plural, name)
    }

    /// 404 for a path that nothing serves.
    pub fn no_such_path() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error.causes.push(Cause {
            reason: "UnexpectedServerResponse",
            message: "404 page not found".into(),
            field: String::new(),
        });
        error
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(plural, group));
        Self::new(409, "AlreadyExists", message).about(group, plural, name)
    }

    /// 409: somebody else was faster, or a precondition does not hold.
    pub fn conflict(group: &str, kind: &str, name: &str, why: impl std::fmt::Display) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(kind, group));
        Self::new(409, "Conflict", message).about(group, kind, name)
    }

    /// 409: the object changed since the revision that the client names.
    pub fn stale(group: &str, plural: &str, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    /// 409: fields of a server-side apply belong to other managers.
    pub fn apply_conflict(causes: Vec<Cause>) -> Self {
        let list: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.message, c.field)).collect();
        let message = match list.as_slice() {
            [one] => format!("Apply failed with 1 conflict: {one}"),
            many => format!("Apply failed with {} conflicts: {}", many.len(), many.join("\n")),
        };
        Self::new(409, "Conflict", message).because(causes)
    }

    /// 410: the log does not reach back to the revision asked for.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body or the patch is too long.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: the body has a content type that is not served.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object is understood and wrong.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let list: Vec<String> =
            causes
                .iter()
                .map(|c| {
                    if c.field.is_empty() { c.message.clone() } else { format!("{}: {}", c.field, c.message) }
                })
                .collect();
        let text = if list.len() == 1 { list[0].clone() } else { format!("[{}]", list.join(", ")) };
        let message = format!("{} \"{name}\" is invalid: {text}", qualified(kind, group));
        Self::new(422, "Invalid", message).about(group, kind, name).because(causes)
    }

    /// 422 of a patch that does not fit the object, such as a failed JSON patch `test`.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 504: the client asks for a revision that is still to come.
    pub fn future_revision(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(504, "Timeout", message);
        error.retry_after = Some(1);
        error.causes.push(Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        });
        error
    }

    /// 500: the server could not do its own work, such as writing to its store.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// The wire form.
    pub fn to_status(&self) -> Value {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !value.is_empty() {
                details.insert(key.into(), json!(value));
            }
        }
        if !self.causes.is_empty() {
            details.insert("causes".into(), self.causes.iter().map(cause_json).collect());
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".into(), json!(seconds));
        }
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = json!(token);
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

fn cause_json(cause: &Cause) -> Value {
    let mut out = json!({"reason": cause.reason, "message": cause.message});
    if !cause.field.is_empty() {
        out["field"] = json!(cause.field);
    }
    out
}

fn qualified(kind: &str, group: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}

/// Scalars as JSON, the rest by its type: a message shall not repeat a whole object.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "\"object\"".into(),
        Value::Array(_) => "\"array\"".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_names_every_field() {
        let error = ApiError::invalid(
            "example.org",
            "IPPool",
            "r",
            vec![Cause::required("spec.cidr", ""), Cause::invalid("spec.n", &json!(7), "too large")],
        );

        assert_eq!(
            error.message,
            "IPPool.example.org \"r\" is invalid: [spec.cidr: Required value, spec.n: Invalid value: 7: too large]"
        );
        let status = error.to_status();
        assert_eq!(status["details"]["causes"][0]["field"], "spec.cidr");
        assert_eq!(status["code"], 422);
    }
}
