//! Objects as they stand, for who shows them: nothing is converted and nothing left out.

use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use serde_json::Value;

use crate::client::REQUEST_TIMEOUT;
use crate::{Datastore, Error, Result};

/// A kind of object as the API server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectKind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
}

/// Objects that are asked for at a time.
const PAGE: u32 = 500;
/// How long a whole list may take.
const LIST: Duration = Duration::from_secs(60);

impl Datastore {
    /// The namespace that the kubeconfig's context names; else `default`.
    pub fn default_namespace(&self) -> String {
        self.client().default_namespace().to_owned()
    }

    /// All objects of a kind in one namespace, or in all.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the API server does not have the kind.
    pub async fn objects(&self, kind: ObjectKind, namespace: Option<&str>) -> Result<Vec<Value>> {
        let api = self.api_of(kind, namespace);
        let what = || format!("list {}", kind.plural);
        let list = async {
            let mut objects = Vec::new();
            let mut page = ListParams::default().limit(PAGE);
            loop {
                let listed = api.list(&page).await.map_err(|error| Error::of(what, error))?;
                objects.extend(listed.items.into_iter().map(|object| value(kind, object)));
                match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => return Ok(objects),
                }
            }
        };
        tokio::time::timeout(LIST, list).await.unwrap_or_else(|_| Err(late(what(), LIST)))
    }

    /// One object.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of this name, or no such kind.
    pub async fn object(&self, kind: ObjectKind, namespace: Option<&str>, name: &str) -> Result<Value> {
        let what = || match namespace {
            Some(namespace) => format!("{} {namespace}/{name}", kind.kind),
            None => format!("{} {name}", kind.kind),
        };
        let api = self.api_of(kind, namespace);
        let asked = tokio::time::timeout(REQUEST_TIMEOUT, api.get(name)).await;
        let found = asked.map_err(|_| late(what(), REQUEST_TIMEOUT))?;
        found.map(|object| value(kind, object)).map_err(|error| Error::of(what, error))
    }

    fn api_of(&self, kind: ObjectKind, namespace: Option<&str>) -> Api<DynamicObject> {
        let api_version = match kind.group {
            "" => kind.version.to_owned(),
            group => format!("{group}/{}", kind.version),
        };
        let resource = ApiResource {
            group: kind.group.to_owned(),
            version: kind.version.to_owned(),
            api_version,
            kind: kind.kind.to_owned(),
            plural: kind.plural.to_owned(),
        };
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, &resource),
            None => Api::all_with(self.client(), &resource),
        }
    }
}

fn late(what: String, limit: Duration) -> Error {
    Error::Unavailable { what, reason: format!("no answer within {} s", limit.as_secs()) }
}

/// With version and kind, which lists leave out, and without who manages which field.
fn value(kind: ObjectKind, mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Value::Object(members) = &mut value {
        let version = match kind.group {
            "" => kind.version.to_owned(),
            group => format!("{group}/{}", kind.version),
        };
        members.entry("apiVersion").or_insert(version.into());
        members.entry("kind").or_insert(kind.kind.into());
    }
    value
}
