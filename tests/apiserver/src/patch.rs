//! The patches that a client may send, as pure functions on values.

mod json;
mod merge;
mod strategic;

use serde_json::Value;

use crate::registry::Resource;
use crate::status::ApiError;

/// Kind of a patch, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Strategic merge patch of the built-in kinds.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// The kind that a content type names.
    pub(crate) fn from_content_type(content_type: &str) -> Option<Self> {
        match content_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Applies any patch but a server-side apply.
pub(crate) fn apply(
    kind: PatchKind,
    resource: &Resource,
    current: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    match kind {
        PatchKind::Json => json::apply(current, patch),
        PatchKind::Merge => {
            if !patch.is_object() {
                return Err(ApiError::bad_request("a merge patch must be a JSON object"));
            }
            Ok(merge::apply(current.clone(), patch))
        }
        PatchKind::Strategic => strategic::apply(resource, current.clone(), patch),
        PatchKind::Apply => Err(ApiError::internal("server-side apply is no patch of a value")),
    }
}
