//! Error classes of RFC 7606. Owns how bad a malformed message is; never what a speaker does then.

use std::fmt;

use crate::{Notification, attribute_code};

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

/// What is to be done about an error in an UPDATE (RFC 7606 §2); the stronger is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disposition {
    /// Use the routes without the attribute.
    AttributeDiscard,
    /// Take the routes of the message as withdrawn.
    TreatAsWithdraw,
    /// Drop the routes of one family and ignore that family for the rest of the session (RFC 4760 §7).
    AfiSafiDisable,
    /// Send a NOTIFICATION and end the session.
    SessionReset,
}

/// What may be wrong with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The Optional or Transitive bit is not as the attribute demands.
    Flags,
    /// The length is not one that the attribute can have, or does not agree with what stands inside.
    Length,
    /// The value is not defined or cannot be.
    Value,
    /// It is for peers of one's own AS, and came from outside.
    External,
    /// It is for speakers of two-octet AS numbers, and came from one of four.
    FourOctet,
    /// It is not there, and routes need it.
    Missing,
    /// It is there a second time.
    Repeated,
    /// Too short to tell the family of its routes.
    Unlocatable,
}

/// An error in the attributes of an UPDATE and how it is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeProblem {
    /// Attribute type code; 0 for the list as a whole.
    pub code: u8,
    /// What kind of error it is.
    pub fault: Fault,
    /// How the message is to be treated.
    pub disposition: Disposition,
    /// What was wrong, in words.
    pub detail: &'static str,
}

impl std::error::Error for AttributeProblem {}

impl fmt::Display for AttributeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, attribute_code::name(self.code)) {
            (0, _) => write!(f, "attributes")?,
            (code, "") => write!(f, "attribute {code}")?,
            (_, name) => write!(f, "{name}")?,
        }
        write!(f, ": {} ({})", self.detail, self.disposition)
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AttributeDiscard => "attribute discard",
            Self::TreatAsWithdraw => "treat-as-withdraw",
            Self::AfiSafiDisable => "AFI/SAFI disable",
            Self::SessionReset => "session reset",
        })
    }
}
