//! Watches: newline-delimited events for as long as the client stays.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::Context;
use super::body::{Response, response};
use super::request::{Query, Route};
use crate::api::ListOptions;
use crate::object::Object;
use crate::registry::Resource;
use crate::status::{ApiError, Cause};
use crate::store::{Event, EventKind, Watch};
use crate::table::{self, Shape};

/// How long a watch lasts if the client names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// Starts a watch. What goes wrong once the options are read is told inside a stream with code 200, because
/// clients restart on such an event and not on an HTTP error.
pub(super) fn start(
    context: &Arc<Context>,
    route: &Route,
    query: &Query,
    shape: Shape,
) -> Result<Response, ApiError> {
    check_initial_options(query)?;
    let options = query.list_options(route)?;
    let wants_initial = query.is_set("sendInitialEvents");
    let timeout =
        query.number("timeoutSeconds")?.filter(|t| *t > 0).map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let mut stream = Stream {
        resource: route.resource.clone(),
        options,
        shape,
        prefix: route.resource.prefix(),
        has_sent_heads: false,
        pending: VecDeque::new(),
        watch: None,
        ends_at: Instant::now() + timeout,
        wants_bookmarks: query.is_set("allowWatchBookmarks"),
        bookmark_at: Instant::now() + context.bookmark_interval,
        bookmark_interval: context.bookmark_interval,
    };
    if let Err(error) = stream.begin(context, query, wants_initial) {
        stream.fail(&error);
    }
    let frames = stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), stream))
    });
    Ok(response(StatusCode::OK, "application/json", StreamBody::new(frames).boxed_unsync()))
}

fn check_initial_options(query: &Query) -> Result<(), ApiError> {
    let forbidden = |why: &str| {
        let cause = Cause::forbidden("resourceVersionMatch", why);
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", vec![cause]))
    };
    let revision_match = query.get("resourceVersionMatch");
    if query.has("sendInitialEvents") && revision_match != "NotOlderThan" {
        return forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !query.has("sendInitialEvents") && !revision_match.is_empty() {
        return forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    }
    Ok(())
}

struct Stream {
    resource: Arc<Resource>,
    options: ListOptions,
    shape: Shape,
    prefix: String,
    has_sent_heads: bool,
    pending: VecDeque<Bytes>,
    watch: Option<Watch>,
    ends_at: Instant,
    wants_bookmarks: bool,
    bookmark_at: Instant,
    bookmark_interval: Duration,
}

impl Stream {
    fn begin(&mut self, context: &Context, query: &Query, wants_initial: bool) -> Result<(), ApiError> {
        let asked = self.options.revision.unwrap_or(0);
        context.api.refuse_future(Some(asked))?;
        if asked > 0 && !wants_initial {
            self.watch = Some(context.api.watch(&self.resource, asked)?);
            return Ok(());
        }
        let skips_initial = query.has("sendInitialEvents") && !wants_initial;
        let all = ListOptions {
            namespace: self.options.namespace.clone(),
            labels: self.options.labels.clone(),
            fields: self.options.fields.clone(),
            ..ListOptions::default()
        };
        let listing = context.api.list(&self.resource, &all)?;
        self.watch = Some(context.api.watch(&self.resource, listing.revision)?);
        if skips_initial {
            return Ok(());
        }
        for object in &listing.objects {
            let frame = self.frame(EventKind::Added, object);
            self.pending.push_back(frame);
        }
        if wants_initial && self.wants_bookmarks {
            self.push_bookmark(listing.revision, true);
        }
        Ok(())
    }

    /// The next bytes; `None` at the end of the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(first) = self.pending.pop_front() {
                return Some(self.joined(first));
            }
            let watch = self.watch.as_mut()?;
            let events = tokio::select! {
                biased;
                events = watch.next() => events,
                () = sleep_until(self.ends_at) => return None,
                () = sleep_until(self.bookmark_at), if self.wants_bookmarks => {
                    self.bookmark();
                    continue;
                }
            };
            match events {
                Ok(events) => {
                    for event in events {
                        self.push_event(&event);
                    }
                }
                Err(error) => self.fail(&ApiError::expired(error.to_string())),
            }
        }
    }

    /// Small pieces that wait together go out together; a single one is passed on without a copy.
    fn joined(&mut self, first: Bytes) -> Bytes {
        const CHUNK: usize = 32 << 10;
        if self.pending.is_empty() || first.len() >= CHUNK {
            return first;
        }
        let mut out = BytesMut::from(first.as_ref());
        while let Some(next) = self.pending.front() {
            if out.len() + next.len() > CHUNK {
                break;
            }
            out.put_slice(next);
            self.pending.pop_front();
        }
        out.freeze()
    }

    fn selects(&self, object: &Object) -> bool {
        self.options.namespace.as_ref().is_none_or(|n| *n == object.key.namespace)
            && self.options.labels.matches(object.labels())
            && self.options.fields.matches(object.value())
    }

    /// An object that enters or leaves the selection is added or deleted for this watcher.
    fn push_event(&mut self, event: &Arc<Event>) {
        let is_in = event.kind != EventKind::Deleted && self.selects(&event.object);
        let was_in = event.previous.as_ref().is_some_and(|p| self.selects(p));
        let kind = match (was_in, is_in) {
            (false, false) => return,
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
        };
        let is_table = matches!(self.shape, Shape::Table(_));
        let frame = if is_table && !self.has_sent_heads {
            self.frame(kind, &event.object)
        } else {
            let name = format!("{}/{}/{}", self.shape.name(), self.resource.version, kind.as_str());
            event.frame(&name, || self.make(kind, &event.object, false))
        };
        self.pending.push_back(frame);
    }

    fn frame(&mut self, kind: EventKind, object: &Object) -> Bytes {
        let with_heads = !self.has_sent_heads;
        self.has_sent_heads = true;
        self.make(kind, object, with_heads)
    }

    fn make(&self, kind: EventKind, object: &Object, with_heads: bool) -> Bytes {
        let body = match self.shape {
            Shape::Full => table::full(&self.prefix, object),
            shape => table::one(&self.resource, object, shape, with_heads),
        };
        wrap(kind.as_str(), &body)
    }

    fn bookmark(&mut self) {
        self.bookmark_at = Instant::now() + self.bookmark_interval;
        let Some(watch) = self.watch.as_mut() else { return };
        match watch.ready() {
            Ok((events, revision)) => {
                for event in events {
                    self.push_event(&event);
                }
                self.push_bookmark(revision, false);
            }
            Err(error) => self.fail(&ApiError::expired(error.to_string())),
        }
    }

    fn push_bookmark(&mut self, revision: u64, ends_initial: bool) {
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if ends_initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let body: Value = match self.shape {
            Shape::Full => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": meta})
            }
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta})
            }
            Shape::Table(_) => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}});
                let meta = json!({"resourceVersion": revision.to_string()});
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": null, "rows": [row]})
            }
        };
        self.pending.push_back(wrap("BOOKMARK", body.to_string().as_bytes()));
    }

    fn fail(&mut self, error: &ApiError) {
        self.watch = None;
        self.pending.push_back(wrap("ERROR", error.to_status().to_string().as_bytes()));
    }
}

fn wrap(kind: &str, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(body);
    out.put_slice(b"}\n");
    out.freeze()
}
