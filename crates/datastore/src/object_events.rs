//! Events about objects that controllers speak of. Owns how such an Event is spelled and that one which says the same
//! is counted up instead of made again; what is said, and how often, is the caller's.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use model::NodeName;
use serde_json::{Value, json};

use crate::client::Datastore;
use crate::convert::Problems;
use crate::report::{EVENT_NAMESPACE, NodeEvent};
use crate::watch::Kind;
use crate::watch::kinds::{Visitor, Watched, visit};
use crate::watch::tracker::{Item, from_full_name};
use crate::{Error, Result};

/// Bytes of an object's name that its Events' names begin with: names end at 253.
const NAME: usize = 200;
/// Bytes of a message; `events.k8s.io` takes no more than 1024.
const MESSAGE: usize = 1000;

impl Datastore {
    /// Makes an Event about the object that a [`model::Update::NotUnderstood`] names. One that says the same is
    /// counted up instead. Of an object that is gone nothing is said. `now` is an RFC 3339 time.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses.
    pub async fn publish_about_object(&self, object: &str, event: &NodeEvent, now: &str) -> Result<()> {
        let Some((kind, namespace, name)) = from_full_name(object) else { return Ok(()) };
        let resource = visit(ResourceOf, kind, &NodeName::from(""));
        let api: Api<DynamicObject> = match namespace {
            "" => Api::all_with(self.client(), &resource),
            namespace => Api::namespaced_with(self.client(), namespace, &resource),
        };
        // `kubectl describe` finds Events by the UID. A list of one needs no right that a watch does not.
        let this = ListParams::default().fields(&format!("metadata.name={name}")).limit(1);
        let found = self.bounded(|| object.to_owned(), api.list_metadata(&this)).await?.items.pop();
        let Some(uid) = found.and_then(|found| found.metadata.uid) else { return Ok(()) };
        let mut about = json!({
            "apiVersion": resource.api_version, "kind": resource.kind, "name": name, "uid": uid,
        });
        if !namespace.is_empty() {
            about["namespace"] = namespace.into();
        }
        let message = &event.message[..event.message.floor_char_boundary(MESSAGE)];
        let body = json!({
            "involvedObject": about,
            "type": if event.is_warning { "Warning" } else { "Normal" },
            "reason": event.reason, "message": message,
            "source": { "component": "ocicat-controllers" },
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        let namespace = if namespace.is_empty() { EVENT_NAMESPACE } else { namespace };
        self.make_or_count(namespace, &event_name(name, &body), body, now).await
    }

    async fn make_or_count(&self, namespace: &str, name: &str, mut body: Value, now: &str) -> Result<()> {
        let api: Api<core::Event> = Api::namespaced(self.client(), namespace);
        let what = || format!("Event {namespace}/{name}");
        body["metadata"] = json!({ "name": name, "namespace": namespace });
        let object: core::Event =
            serde_json::from_value(body).map_err(|error| Error::of(what, kube::Error::SerdeError(error)))?;
        match self.bounded(what, api.create(&PostParams::default(), &object)).await {
            Err(Error::AlreadyExists { .. }) => {}
            made => return made.map(drop),
        }
        let Some(there) = self.bounded(what, api.get_opt(name)).await? else { return Ok(()) };
        let count = there.count.unwrap_or(1).saturating_add(1);
        let patch = json!({ "count": count, "lastTimestamp": now });
        self.bounded(what, api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
    }
}

/// One name for Events of one object that say the same.
fn event_name(object: &str, body: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    for part in ["/involvedObject/kind", "/involvedObject/uid", "/reason", "/message"] {
        body.pointer(part).and_then(Value::as_str).hash(&mut hasher);
    }
    let begin = object[..object.floor_char_boundary(NAME)].trim_end_matches(['.', '-']);
    format!("{begin}.{:016x}", hasher.finish())
}

/// How the API names the type of a kind.
struct ResourceOf;

impl Visitor for ResourceOf {
    type Output = ApiResource;

    fn visit<K: Watched>(
        self,
        _: Kind,
        _: watcher::Config,
        _: impl Fn(&K, &mut Problems) -> Option<Item> + Send + 'static,
    ) -> ApiResource {
        ApiResource {
            group: K::group(&()).into_owned(),
            version: K::version(&()).into_owned(),
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_one_name_for_what_says_the_same() {
        let body = |message: &str| json!({"involvedObject": {"uid": "u"}, "reason": "r", "message": message});
        let long = "a-".repeat(150);

        assert_eq!(event_name("p", &body("x")), event_name("p", &body("x")));
        assert_ne!(event_name("p", &body("x")), event_name("p", &body("y")));
        assert!(event_name(&long, &body("x")).len() <= 253);
        assert!(!event_name(&long, &body("x")).contains("-."), "a label does not end with a dash");
    }
}
