//! One kind of objects, watched by itself by whoever writes them, apart from the stream of updates.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::Retry;

/// What became of one object of a kind that is followed.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed<T> {
    /// It is there, and says this.
    Put(String, T),
    /// It is gone.
    Gone(String),
    /// Everything that there is was said; comes after every list.
    Listed,
}

impl<T> Followed<T> {
    /// The same about something else.
    pub(crate) fn map<U>(self, as_other: impl FnOnce(T) -> U) -> Followed<U> {
        match self {
            Followed::Put(name, object) => Followed::Put(name, as_other(object)),
            Followed::Gone(name) => Followed::Gone(name),
            Followed::Listed => Followed::Listed,
        }
    }
}

/// Lists and watches objects, by name or by `namespace/name`, for ever: connection losses are dealt with inside. Ends when
/// the receiver is dropped.
pub(crate) fn follow<K, T>(
    api: Api<K>,
    config: watcher::Config,
    read: impl Fn(K) -> T + Send + 'static,
) -> mpsc::Receiver<Followed<T>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    T: Send + 'static,
{
    let (sender, changes) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut events = watcher(api, config).backoff(Retry::new()).boxed();
        let (mut known, mut listed) = (BTreeSet::<String>::new(), BTreeSet::new());
        while let Some(event) = events.next().await {
            let said = match event {
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed.insert(key(&object));
                    vec![Followed::Put(key(&object), object)]
                }
                Ok(watcher::Event::InitDone) => {
                    let gone = known.difference(&listed).cloned().map(Followed::Gone);
                    gone.chain([Followed::Listed]).collect()
                }
                Ok(watcher::Event::Apply(object)) => vec![Followed::Put(key(&object), object)],
                Ok(watcher::Event::Delete(object)) => vec![Followed::Gone(key(&object))],
                Err(error) => {
                    tracing::debug!(%error, "a watch was interrupted, it is retried");
                    continue;
                }
            };
            for change in said {
                match &change {
                    Followed::Put(name, _) => _ = known.insert(name.clone()),
                    Followed::Gone(name) => _ = known.remove(name),
                    Followed::Listed => {}
                }
                if sender.send(change.map(&read)).await.is_err() {
                    return;
                }
            }
        }
    });
    changes
}

/// The name by which an object is known here.
fn key(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}
