//! What was found.

use serde::{Deserialize, Serialize};

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing has to be done.
    Info,
    /// Works, but may stop to, or works less well.
    Warning,
    /// Something does not work.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    /// Name of the check; stays the same from release to release.
    pub check: String,
    /// What is wrong, and what that does.
    pub what: String,
    /// What was seen.
    pub evidence: String,
    /// The command that mends it; empty for what only people can decide.
    pub mend: String,
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        check: &str,
        what: impl Into<String>,
        evidence: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            check: check.to_owned(),
            what: what.into(),
            evidence: evidence.into(),
            mend: mend.into(),
        }
    }
}
