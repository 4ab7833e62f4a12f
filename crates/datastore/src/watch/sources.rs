//! Where events of a kind come from: the API server, or octets that typha has passed on.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use model::NodeName;

use super::kinds::{Visitor, Watched, visit};
use super::tracker::{Event, Item, ObjectName};
use super::{Kind, Retry};
use crate::convert::Problems;
use crate::typha::Feed;

/// Events of one kind.
pub(super) type EventStream = Pin<Box<dyn Stream<Item = (Kind, Event)> + Send>>;

/// The same before anything is understood: what typha passes on.
pub type RawStream = Pin<Box<dyn Stream<Item = (Kind, fanout::Event)> + Send>>;

/// Makes of what typha passes on what a watch of the API server would have told.
pub(super) type Decoder = Box<dyn Fn(fanout::Event) -> Event + Send>;

/// Lists and watches one kind for ever, for who lives on `node`.
pub(super) fn watch(client: Client, kind: Kind, node: &NodeName) -> EventStream {
    visit(Understood(client), kind, node)
}

/// Lists and watches one kind for ever; objects are reduced to what anybody reads.
pub(crate) fn watch_raw(client: Client, kind: Kind) -> RawStream {
    visit(Raw(client), kind, &NodeName::from(""))
}

/// Reads what [`watch_raw`] wrote.
pub(super) fn decoder(kind: Kind) -> Decoder {
    visit(Decode, kind, &NodeName::from(""))
}

/// What a watch tells of objects that become no updates.
pub(crate) type ObjectStream<K> = Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<K>>> + Send>>;

/// Lists and watches all objects of `kind` for ever, with typha if there is one.
pub(crate) fn objects<K: Watched>(client: Client, typha: Option<&Feed>, kind: Kind) -> ObjectStream<K> {
    let Some(typha) = typha else {
        return watcher(Api::<K>::all(client), watcher::Config::default()).backoff(Retry::new()).boxed();
    };
    let state = (typha.subscribe(vec![kind]), false);
    let events = stream::unfold(state, |(mut raw, mut is_listing)| async move {
        loop {
            let (_, event) = raw.recv().await?;
            match &event {
                fanout::Event::ListBegins => is_listing = true,
                fanout::Event::Listed => is_listing = false,
                _ => {}
            }
            if let Some(event) = as_watched(event, is_listing) {
                return Some((Ok(event), (raw, is_listing)));
            }
        }
    });
    events.boxed()
}

/// What a watch would have said; nothing when the object cannot be read.
fn as_watched<K: Watched>(event: fanout::Event, is_listing: bool) -> Option<watcher::Event<K>> {
    match event {
        fanout::Event::ListBegins => Some(watcher::Event::Init),
        fanout::Event::Put(_, content) => {
            let object = serde_json::from_slice(&content).ok()?;
            Some(if is_listing { watcher::Event::InitApply(object) } else { watcher::Event::Apply(object) })
        }
        fanout::Event::Gone(name) => {
            let gone = serde_json::json!({"metadata": {"namespace": &*name.namespace, "name": &*name.name}});
            Some(watcher::Event::Delete(serde_json::from_value(gone).ok()?))
        }
        fanout::Event::Listed => Some(watcher::Event::InitDone),
        fanout::Event::Missing => None,
    }
}

struct Understood(Client);

impl Visitor for Understood {
    type Output = EventStream;

    fn visit<K: Watched>(
        self,
        kind: Kind,
        config: watcher::Config,
        convert: impl Fn(&K, &mut Problems) -> Option<Item> + Send + 'static,
    ) -> EventStream {
        let understand = move |seen| match seen {
            Seen::ListBegins => Event::ListBegins,
            Seen::Put(name, object) => put(kind, name, &object, &convert),
            Seen::Gone(name) => Event::Gone(name),
            Seen::Listed => Event::Listed,
            Seen::Missing => Event::Missing,
        };
        seen::<K>(self.0, kind, config).map(move |seen| (kind, understand(seen))).boxed()
    }
}

struct Raw(Client);

impl Visitor for Raw {
    type Output = RawStream;

    fn visit<K: Watched>(
        self,
        kind: Kind,
        config: watcher::Config,
        _: impl Fn(&K, &mut Problems) -> Option<Item> + Send + 'static,
    ) -> RawStream {
        let raw = |seen| match seen {
            Seen::ListBegins => fanout::Event::ListBegins,
            Seen::Put(name, object) => match encode(object) {
                Some(content) => fanout::Event::Put(name, content),
                None => fanout::Event::Gone(name),
            },
            Seen::Gone(name) => fanout::Event::Gone(name),
            Seen::Listed => fanout::Event::Listed,
            Seen::Missing => fanout::Event::Missing,
        };
        seen::<K>(self.0, kind, config).map(move |seen| (kind, raw(seen))).boxed()
    }
}

/// An object as JSON, without what changes though nothing does: a heartbeat is then no change.
fn encode<K: Watched>(mut object: K) -> Option<Bytes> {
    object.meta_mut().resource_version = None;
    let encoded = serde_json::to_vec(&object);
    encoded
        .inspect_err(|error| tracing::error!(%error, "an object cannot be written as JSON"))
        .ok()
        .map(Bytes::from)
}

struct Decode;

impl Visitor for Decode {
    type Output = Decoder;

    fn visit<K: Watched>(
        self,
        kind: Kind,
        _: watcher::Config,
        convert: impl Fn(&K, &mut Problems) -> Option<Item> + Send + 'static,
    ) -> Decoder {
        Box::new(move |event| match event {
            fanout::Event::ListBegins => Event::ListBegins,
            fanout::Event::Put(name, content) => match serde_json::from_slice::<K>(&content) {
                Ok(object) => put(kind, name, &object, &convert),
                Err(error) => {
                    tracing::warn!(?kind, object = %name, %error, "typha sent what cannot be read");
                    Event::Put(
                        name,
                        None,
                        Some(format!("typha sent what cannot be read: {}", short(&error.to_string())).into()),
                    )
                }
            },
            fanout::Event::Gone(name) => Event::Gone(name),
            fanout::Event::Listed => Event::Listed,
            fanout::Event::Missing => Event::Missing,
        })
    }
}

fn put<K>(
    kind: Kind,
    name: ObjectName,
    object: &K,
    convert: &impl Fn(&K, &mut Problems) -> Option<Item>,
) -> Event {
    let mut problems = Problems::default();
    let item = convert(object, &mut problems);
    for problem in &problems.0 {
        let (field, reason) = (&problem.field, &problem.reason);
        tracing::warn!(?kind, object = %name, field, reason, "not understood");
    }
    let reasons = reasons(&problems, item.is_none());
    Event::Put(name, item, reasons)
}

/// What makes no sense in an object, at most [`MAX_REASONS`] of it; `None` where all does.
fn reasons(problems: &Problems, is_gone: bool) -> Option<Arc<str>> {
    let wrong: Vec<_> = problems.0.iter().filter(|problem| !problem.is_warning).collect();
    if wrong.is_empty() {
        return None;
    }
    let told: Vec<String> =
        wrong.iter().take(MAX_REASONS).map(|problem| short(&problem.to_string())).collect();
    let more = if wrong.len() > MAX_REASONS { "; and more" } else { "" };
    let gone = if is_gone { "; it counts as gone" } else { "" };
    Some(format!("{}{more}{gone}", told.join("; ")).into())
}

/// The beginning of what may have any length, since users wrote it.
fn short(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// So many problems of one object are told beyond the log.
const MAX_REASONS: usize = 4;

/// What a watch says of objects of one type.
enum Seen<K> {
    ListBegins,
    Put(ObjectName, K),
    Gone(ObjectName),
    Listed,
    Missing,
}

/// Lists and watches for ever.
fn seen<K: Watched>(
    client: Client,
    kind: Kind,
    config: watcher::Config,
) -> impl Stream<Item = Seen<K>> + Send + 'static {
    let config = config.page_size(PAGE);
    let mut begins = false;
    let mut failures = 0_u32;
    let retry = Retry::new();
    let absent = retry.absent.clone();
    // The watcher says `Init` before every attempt, also one that fails: it is held back until something came
    // of it, or every failure would look like a success to the back-off.
    watcher(Api::<K>::all(client), config)
        .filter_map(move |result| {
            std::future::ready(match result {
                Ok(watcher::Event::Init) => {
                    begins = true;
                    None
                }
                Ok(event) => Some(Ok((std::mem::take(&mut begins), event))),
                Err(error) => {
                    absent.store(kind.is_optional() && is_missing(kind, &error), Ordering::Relaxed);
                    Some(Err(error))
                }
            })
        })
        .backoff(retry)
        .flat_map(move |result| {
            let (first, second) = match result {
                Ok((begins, event)) => {
                    failures = 0;
                    (begins.then_some(Seen::ListBegins), translate(event))
                }
                Err(error) => {
                    failures += 1;
                    (None, report(kind, failures, &error).then_some(Seen::Missing))
                }
            };
            stream::iter([first, second].into_iter().flatten())
        })
}

/// Objects a page: a list is never whole in memory.
const PAGE: u32 = 250;

fn translate<K: Watched>(event: watcher::Event<K>) -> Option<Seen<K>> {
    match event {
        watcher::Event::Init => None,
        watcher::Event::InitDone => Some(Seen::Listed),
        watcher::Event::Delete(object) => Some(Seen::Gone(name_of(&object)?)),
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
            Some(Seen::Put(name_of(&object)?, object))
        }
    }
}

fn name_of<K: Resource>(object: &K) -> Option<ObjectName> {
    let meta = object.meta();
    Some(ObjectName {
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        name: meta.name.as_deref()?.into(),
    })
}

/// Logs a failure, the first of a row and then every now and then. Gives back whether the kind counts as empty.
///
/// One that the API server does not know, three times in a row, does; one that not every cluster has does at once.
fn report(kind: Kind, failures: u32, error: &watcher::Error) -> bool {
    let missing = is_missing(kind, error);
    if missing && kind.is_optional() {
        return true;
    }
    if failures == 1 || failures.is_multiple_of(20) {
        tracing::warn!(?kind, %error, failures, "watch interrupted, it is retried");
    }
    missing && failures >= 3
}

/// A kind that not every cluster has need not be ours to read, either.
fn is_missing(kind: Kind, error: &watcher::Error) -> bool {
    let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error else { return false };
    status.code == 404 || (status.code == 403 && kind.is_optional())
}
