//! Error classes of RFC 7606. Owns how bad a malformed message is; never what a speaker does then.

use crate::Notification;

/// A message that leaves only a session reset: the NOTIFICATION to send and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({notification})")]
pub struct DecodeError {
    /// What RFC 4271 §6 says to answer.
    pub notification: Notification,
    /// What was wrong, in words.
    pub detail: &'static str,
}

impl DecodeError {
    pub(crate) fn new(code: u8, subcode: u8, detail: &'static str) -> Self {
        Self { notification: Notification::new(code, subcode), detail }
    }

    pub(crate) fn with_data(mut self, data: &[u8]) -> Self {
        self.notification.data = data.to_vec();
        self
    }
}

/// What RFC 7606 §2 demands for a malformed attribute that does not reset the session; the worse is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// Use the routes without the attribute.
    AttributeDiscard,
    /// Take the routes of the message as withdrawn.
    TreatAsWithdraw,
}

/// A malformed attribute and how it was treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attribute {code}: {detail}")]
pub struct AttributeProblem {
    /// Attribute type code; 0 for the list as a whole.
    pub code: u8,
    /// How the message is to be treated.
    pub disposition: Disposition,
    /// What was wrong, in words.
    pub detail: &'static str,
}
