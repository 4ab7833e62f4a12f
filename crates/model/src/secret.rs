//! Passwords that stand in Secrets. Owns that they are never shown.

use std::collections::BTreeMap;
use std::fmt;

/// One entry of a Secret in the speaker's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// Key inside.
    pub key: String,
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {} key {}", self.name, self.key)
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Takes a password.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The password itself, for those who must have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What is known of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// Its entries that are text.
    Present(BTreeMap<String, Password>),
    /// It does not exist.
    Absent,
    /// It cannot be read, in the API server's words.
    Unreadable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let secret = Secret::Present([("bgp".to_owned(), Password::new("opensesame".to_owned()))].into());

        assert_eq!(format!("{secret:?}"), r#"Present({"bgp": ***})"#);
    }
}
