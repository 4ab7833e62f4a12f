//! Errors as the CNI specification wants them: a code, a message, details, printed as JSON on stdout.

use std::fmt;
use std::io;

use serde_json::json;

use crate::version::CniVersion;

/// Why a verb failed. Codes below 100 are the specification's, from 100 on they are ours (`docs/cni.md`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    pub code: u32,
    /// What failed, naming the key, variable or object.
    pub msg: String,
    /// The cause below, or what to do; may be empty.
    pub details: String,
}

/// Codes of `CniError`.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNSUPPORTED_FIELD: u32 = 2;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: cannot serve ADD (specification 1.1.0).
    pub const UNAVAILABLE: u32 = 50;
    /// The agent refuses, and asking again will not help.
    pub const REFUSED: u32 = 100;
    /// The kernel refused a link, address, route, neighbour or sysctl.
    pub const KERNEL: u32 = 101;
    /// A delegated IPAM plugin could not be found, started or understood.
    pub const DELEGATE: u32 = 102;
    /// CHECK found something that is not as ADD left it.
    pub const CHECK: u32 = 103;
}

impl CniError {
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    pub fn incompatible_version(msg: impl Into<String>) -> Self {
        Self::new(code::INCOMPATIBLE_VERSION, msg)
    }

    /// A variable of the environment is missing or wrong; `msg` must name it.
    pub fn environment(msg: impl Into<String>) -> Self {
        Self::new(code::INVALID_ENVIRONMENT, msg)
    }

    /// A key of the network configuration is missing or wrong; `msg` must name it.
    pub fn config(msg: impl Into<String>) -> Self {
        Self::new(code::INVALID_CONFIG, msg)
    }

    pub fn io(msg: impl Into<String>, error: &io::Error) -> Self {
        Self::new(code::IO, msg).details(error.to_string())
    }

    pub fn kernel(msg: impl Into<String>, error: impl fmt::Display) -> Self {
        Self::new(code::KERNEL, msg).details(error.to_string())
    }

    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// What goes to stdout (specification, "Error").
    pub fn to_json(&self, version: CniVersion) -> String {
        let mut object = json!({ "cniVersion": version.as_str(), "code": self.code, "msg": self.msg });
        if !self.details.is_empty() {
            object["details"] = json!(self.details);
        }
        object.to_string()
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.msg)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_specifications_json() {
        let error = CniError::config("mtu: expected a number").details("found \"big\"");

        assert_eq!(
            error.to_json(CniVersion::V1_0_0),
            r#"{"cniVersion":"1.0.0","code":7,"details":"found \"big\"","msg":"mtu: expected a number"}"#
        );
    }

    #[test]
    fn details_are_left_out_when_there_are_none() {
        assert_eq!(
            CniError::new(code::TRY_AGAIN, "later").to_json(CniVersion::V0_3_1),
            r#"{"cniVersion":"0.3.1","code":11,"msg":"later"}"#
        );
    }
}
