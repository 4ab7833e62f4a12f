//! Get and list, with selectors, pages and the rules about revisions.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Api;
use crate::object::{Key, Object};
use crate::registry::Resource;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::ApiError;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Namespace, or `None` for all.
    pub namespace: Option<String>,
    /// Labels.
    pub labels: LabelSelector,
    /// Fields.
    pub fields: FieldSelector,
    /// Size of a page, 0 for everything.
    pub limit: usize,
    /// Where the page before ended.
    pub continue_token: String,
    /// `resourceVersion` of the query.
    pub revision: Option<u64>,
    /// `resourceVersionMatch` of the query.
    pub revision_match: String,
}

/// One page.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The objects in order of namespace and name.
    pub objects: Vec<Arc<Object>>,
    /// Revision at which the list is true.
    pub revision: u64,
    /// Token for the next page.
    pub continue_token: Option<String>,
    /// How many there are after this page; unknown with selectors.
    pub remaining: Option<usize>,
}

impl Listing {
    /// `metadata` of the list.
    pub(crate) fn metadata(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = json!(token);
        }
        if let Some(count) = self.remaining {
            meta["remainingItemCount"] = json!(count);
        }
        meta
    }
}

impl Api {
    /// One object.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
        self.store
            .get(&resource.collection(), &Key::new(namespace, name))
            .ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, name))
    }

    /// Revision of the last write.
    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// Objects of a resource.
    ///
    /// # Errors
    /// 400 for a bad token, 410 for a revision that is gone, 504 for one that is still to come.
    pub fn list(&self, resource: &Resource, options: &ListOptions) -> Result<Listing, ApiError> {
        let namespace = options.namespace.as_deref();
        let collection = resource.collection();
        let start = Token::decode(&options.continue_token)?;
        let exact = match (&start, options.revision_match.as_str()) {
            (Some(token), _) => (token.revision > 0).then_some(token.revision),
            (None, "Exact") => options.revision,
            _ => None,
        };
        self.refuse_future(exact.or(options.revision))?;
        let (all, revision) = match exact {
            None => self.store.list(&collection, namespace),
            Some(revision) => match self.store.list_at(&collection, namespace, revision) {
                Ok(objects) => (objects, revision),
                Err(_) => return Err(self.expired_list(start.as_ref())),
            },
        };
        let after = start.map(|t| t.last);
        let has_selector = !options.labels.is_empty() || !options.fields.is_empty();
        let mut chosen: Vec<Arc<Object>> = all
            .into_iter()
            .filter(|o| after.as_ref().is_none_or(|last| o.key > *last))
            .filter(|o| options.labels.matches(o.labels()) && options.fields.matches(o.value()))
            .collect();
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        if chosen.len() <= limit {
            return Ok(Listing { objects: chosen, revision, continue_token: None, remaining: None });
        }
        let rest = chosen.len() - limit;
        chosen.truncate(limit);
        let last = chosen.last().map_or_else(|| Key::new("", ""), |o| o.key.clone());
        let token = Token { revision, last }.encode();
        let remaining = (!has_selector).then_some(rest);
        Ok(Listing { objects: chosen, revision, continue_token: Some(token), remaining })
    }

    /// Refuses a revision that has not been written yet.
    pub(crate) fn refuse_future(&self, revision: Option<u64>) -> Result<(), ApiError> {
        let current = self.revision();
        match revision {
            Some(asked) if asked > current => Err(ApiError::future_revision(asked, current)),
            _ => Ok(()),
        }
    }

    /// 410, for a continued list with a token to go on at the present revision.
    fn expired_list(&self, start: Option<&Token>) -> ApiError {
        let Some(start) = start else {
            return ApiError::expired("The resourceVersion for the provided list is too old.");
        };
        let mut error = ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to retrieve the remainder of \
             the results. Continuing with the provided token results in an inconsistent list - objects that were \
             created, modified, or deleted between the time the first chunk was returned and now may show up in the \
             list.",
        );
        error.continue_token = Some(Token { revision: 0, last: start.last.clone() }.encode());
        error
    }
}

/// Where a page ended, and at which revision the list stands (0: whatever is current).
struct Token {
    revision: u64,
    last: Key,
}

impl Token {
    fn encode(&self) -> String {
        let start = format!("{}\0{}", self.last.namespace, self.last.name);
        let text = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": start}).to_string();
        URL_SAFE_NO_PAD.encode(text)
    }

    fn decode(text: &str) -> Result<Option<Self>, ApiError> {
        if text.is_empty() {
            return Ok(None);
        }
        let bad = |why: &str| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        let (Some(revision), Some(start)) = (value["rv"].as_u64(), value["start"].as_str()) else {
            return Err(bad("rv or start is missing"));
        };
        let (namespace, name) = start.split_once('\0').ok_or_else(|| bad("start has no name"))?;
        Ok(Some(Self { revision, last: Key::new(namespace, name) }))
    }
}
