//! What can go wrong with the datastore.

use std::error::Error as _;

/// Result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request failed. `what` names kind and object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable kubeconfig.
    #[error("cannot connect to the API server: {0}")]
    Configuration(String),
    /// Somebody else changed the object since it was read.
    #[error("{what} was changed by somebody else: read it again")]
    Conflict { what: String },
    #[error("{what} exists already")]
    AlreadyExists { what: String },
    #[error("{what} does not exist")]
    NotFound { what: String },
    /// The API server cannot be reached or does not answer; trying again may help.
    #[error("API server is unavailable ({what}): {reason}")]
    Unavailable { what: String, reason: String },
    /// The API server refused the request; trying again does not help.
    #[error("API server refused {what}: {reason}")]
    Refused { what: String, reason: String },
}

impl Error {
    /// May the same request succeed later?
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Conflict { .. } | Error::Unavailable { .. })
    }

    pub(crate) fn of(what: impl FnOnce() -> String, error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            return Error::Unavailable { what: what(), reason: causes(&error) };
        };
        let (what, reason) = (what(), status.message.clone());
        match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => Error::AlreadyExists { what },
            (409, _) => Error::Conflict { what },
            (404 | 410, _) => Error::NotFound { what },
            (401 | 408 | 429 | 500..=599, _) => Error::Unavailable { what, reason },
            _ => Error::Refused { what, reason },
        }
    }
}

/// An error and what caused it, on one line.
fn causes(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
