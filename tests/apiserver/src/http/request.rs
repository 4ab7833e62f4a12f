//! What a URL says: the resource, the object, the options.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{FieldValidation, ListOptions, WriteOptions};
use crate::registry::{Index, Resource};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::ApiError;

/// What a path under `/api/v1` or `/apis/G/V` names.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) resource: Arc<Resource>,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Route {
    /// Finds what the segments after the version name.
    pub(super) fn find(index: &Index, group: &str, version: &str, rest: &[&str]) -> Result<Self, ApiError> {
        let find = |plural: &str| index.find(group, version, plural);
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, more @ ..]
                if !(more.is_empty() && matches!(*plural, "status" | "finalize"))
                    || find("namespaces").is_none() =>
            {
                (Some((*namespace).to_owned()), [&[*plural], more].concat())
            }
            other => (None, other.to_vec()),
        };
        let [plural, more @ ..] = rest.as_slice() else { return Err(ApiError::no_such_path()) };
        let resource = find(plural).ok_or_else(ApiError::no_such_path)?;
        if namespace.is_some() && !resource.is_namespaced() || more.len() > 2 {
            return Err(ApiError::no_such_path());
        }
        let name = more.first().map(|n| (*n).to_owned());
        if resource.is_namespaced() && namespace.is_none() && name.is_some() {
            return Err(ApiError::no_such_path());
        }
        let subresource = more.get(1).map(|s| (*s).to_owned());
        Ok(Self { resource, namespace, name, subresource })
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }
}

/// The query of a request.
#[derive(Debug, Default)]
pub(super) struct Query {
    values: BTreeMap<String, String>,
}

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(&name.replace('+', " ")), percent_decode(&value.replace('+', " ")))
        });
        Self { values: pairs.collect() }
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1")
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("invalid value {text:?} of {name}: must be a number"))
            }),
        }
    }

    /// Selectors, limit and revision.
    pub(super) fn list_options(&self, route: &Route) -> Result<ListOptions, ApiError> {
        let revision_match = self.get("resourceVersionMatch").to_owned();
        if !matches!(revision_match.as_str(), "" | "Exact" | "NotOlderThan") {
            return Err(ApiError::bad_request(format!("unknown resourceVersionMatch {revision_match:?}")));
        }
        let limit = self.number("limit")?.and_then(|l| usize::try_from(l).ok()).unwrap_or(0);
        let mut fields = self.get("fieldSelector").to_owned();
        if let Some(name) = &route.name {
            fields = format!("metadata.name={name}");
        }
        Ok(ListOptions {
            namespace: route.namespace.clone(),
            labels: LabelSelector::parse(self.get("labelSelector"))?,
            fields: FieldSelector::parse(&fields, &route.resource.fields)?,
            limit,
            continue_token: self.get("continue").to_owned(),
            revision: self.number("resourceVersion")?,
            revision_match,
        })
    }

    /// Manager, dry run and strictness; `user_agent` names the manager if the query does not.
    pub(super) fn write_options(&self, user_agent: &str, is_apply: bool) -> Result<WriteOptions, ApiError> {
        let field_validation = match self.get("fieldValidation") {
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            other => return Err(ApiError::bad_request(format!("unknown fieldValidation {other:?}"))),
        };
        let dry_run = match self.get("dryRun") {
            "" => false,
            "All" => true,
            other => return Err(ApiError::bad_request(format!("unknown dryRun {other:?}"))),
        };
        let field_manager = match self.get("fieldManager") {
            "" if is_apply => String::new(),
            "" => crate::apply::default_manager(user_agent),
            given => given.to_owned(),
        };
        Ok(WriteOptions { dry_run, field_manager, field_validation, force: self.is_set("force") })
    }
}

/// Undoes percent encoding; what is no encoding stays.
pub(super) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (String, Option<String>, Option<String>, Option<String>);

    fn route(group: &str, rest: &[&str]) -> Option<Parts> {
        let index = crate::registry::Registry::new().index();
        let r = Route::find(&index, group, "v1", rest).ok()?;
        Some((r.resource.plural.clone(), r.namespace, r.name, r.subresource))
    }

    #[test]
    fn paths_name_resources() {
        let s = |t: &str| Some(t.to_owned());
        for (group, path, expected) in [
            ("", &["pods"][..], Some(("pods".to_owned(), None, None, None))),
            ("", &["namespaces"], Some(("namespaces".into(), None, None, None))),
            ("", &["namespaces", "a"], Some(("namespaces".into(), None, s("a"), None))),
            ("", &["namespaces", "a", "status"], Some(("namespaces".into(), None, s("a"), s("status")))),
            ("", &["namespaces", "a", "pods"], Some(("pods".into(), s("a"), None, None))),
            (
                "",
                &["namespaces", "a", "pods", "p", "status"],
                Some(("pods".into(), s("a"), s("p"), s("status"))),
            ),
            ("", &["nodes", "n"], Some(("nodes".into(), None, s("n"), None))),
            ("", &["pods", "p"], None),
            ("", &["namespaces", "a", "nodes"], None),
            ("", &["nothing"], None),
            ("", &[], None),
            (
                "networking.k8s.io",
                &["namespaces", "a", "networkpolicies", "x"],
                Some(("networkpolicies".into(), s("a"), s("x"), None)),
            ),
        ] {
            assert_eq!(route(group, path), expected, "{path:?}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a+in+%28b%2Cc%29&watch=1&limit=x&bad=%zz");

        assert_eq!(query.get("labelSelector"), "a in (b,c)");
        assert!(query.is_set("watch"));
        assert_eq!(query.number("limit").unwrap_err().code, 400);
        assert_eq!(query.get("bad"), "%zz");
    }
}
