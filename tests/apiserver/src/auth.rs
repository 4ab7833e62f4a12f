//! Who asks: the administrator by token or certificate, a service account by a token that ends.
//!
//! Tokens of service accounts are in memory only: those who hold one get another after the process has ended.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::api::Api;
use crate::clock;
use crate::rbac::Audit;
use crate::status::ApiError;

/// The group that may do everything, whatever the roles say.
const MASTERS: &str = "system:masters";
/// Most tokens that are kept; beyond, those that have ended are forgotten first.
const MANY: usize = 10_000;

/// Somebody who is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    fn administrator() -> Self {
        Self { name: "kubernetes-admin".into(), groups: vec![MASTERS.into(), "system:authenticated".into()] }
    }

    fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".into(),
            ],
        }
    }

    /// Whether roles are not asked.
    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// Credentials that are known, and what was done with them.
#[derive(Debug)]
pub(crate) struct Auth {
    administrator: String,
    issued: Mutex<HashMap<String, Issued>>,
    pub(crate) audit: Mutex<Audit>,
}

#[derive(Debug)]
struct Issued {
    namespace: String,
    name: String,
    /// Seconds since the epoch.
    ends: i64,
}

/// A new token and when it ends, as RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What goes behind `Bearer`.
    pub token: String,
    /// Such as `2026-01-02T03:04:05Z`.
    pub ends: String,
}

impl Auth {
    pub(crate) fn new(administrator: String) -> Self {
        Self { administrator, issued: Mutex::default(), audit: Mutex::default() }
    }

    /// A token of a service account that exists.
    pub(crate) fn issue(
        &self,
        api: &Api,
        namespace: &str,
        name: &str,
        lifetime: Duration,
    ) -> Result<Token, ApiError> {
        find(api, namespace, name)?;
        let now = clock::unix_now();
        let ends = now.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        let token = clock::token();
        let mut issued = self.issued.lock();
        if issued.len() >= MANY {
            issued.retain(|_, token| token.ends > now);
        }
        issued.insert(token.clone(), Issued { namespace: namespace.to_owned(), name: name.to_owned(), ends });
        Ok(Token { token, ends: clock::format_time(ends) })
    }

    /// Whose request this is. A token of an account that is gone, or that has ended, is nobody's.
    pub(crate) fn user(&self, api: &Api, authorization: &str, has_certificate: bool) -> Option<User> {
        if has_certificate {
            return Some(User::administrator());
        }
        let given = authorization.strip_prefix("Bearer ").unwrap_or("").trim();
        if equal(given.as_bytes(), self.administrator.as_bytes()) {
            return Some(User::administrator());
        }
        let issued = self.issued.lock();
        let token = issued.get(given).filter(|token| token.ends > clock::unix_now())?;
        find(api, &token.namespace, &token.name).ok()?;
        Some(User::service_account(&token.namespace, &token.name))
    }
}

fn find(api: &Api, namespace: &str, name: &str) -> Result<(), ApiError> {
    let accounts = api
        .resource("v1", "ServiceAccount")
        .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
    api.get(&accounts, namespace, name).map(|_| ())
}

/// Comparison that takes the same time wherever the difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}
