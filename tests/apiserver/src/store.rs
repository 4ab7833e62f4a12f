//! Objects in memory with one revision for all, and a bounded log of changes per collection. Writers are
//! serialised by the caller (`Api`); readers never wait for a disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;

use crate::object::{Key, Object};
use crate::persist::Disk;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It is new.
    Added,
    /// It was there and differs.
    Modified,
    /// It is gone; the event carries its last state with the revision of the deletion.
    Deleted,
}

impl EventKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change, shared by all watchers, with the bytes that were already made of it.
#[derive(Debug)]
pub struct Event {
    /// Revision of the write.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The object after the write, or as it was deleted.
    pub object: Arc<Object>,
    /// The object before the write.
    pub previous: Option<Arc<Object>>,
    frames: Mutex<Vec<(String, Bytes)>>,
}

impl Event {
    fn new(kind: EventKind, object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        Self { revision: object.revision, kind, object, previous, frames: Mutex::default() }
    }

    /// The bytes of one representation, made once and then shared.
    pub(crate) fn frame(&self, representation: &str, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut frames = self.frames.lock();
        if let Some((_, bytes)) = frames.iter().find(|(name, _)| name == representation) {
            return bytes.clone();
        }
        let bytes = make();
        frames.push((representation.to_owned(), bytes.clone()));
        bytes
    }
}

/// Why a watch cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The log no longer reaches back to the revision; list again.
    #[error("too old resource version: {asked} ({oldest})")]
    Gone {
        /// Revision that the watcher stands at.
        asked: u64,
        /// Oldest revision that a watch can start from.
        oldest: u64,
    },
    /// The store was dropped.
    #[error("the store is closed")]
    Closed,
}

#[derive(Debug)]
struct Collection {
    objects: BTreeMap<Key, Arc<Object>>,
    log: VecDeque<Arc<Event>>,
    /// Every event after this revision is in the log.
    floor: u64,
    wake: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    collections: BTreeMap<String, Collection>,
}

/// The store. Collections are named `group/plural` and come into being when first used.
#[derive(Debug)]
pub(crate) struct Store {
    state: RwLock<State>,
    disk: Option<Disk>,
    log_capacity: usize,
    loaded_at: u64,
}

impl Store {
    /// Opens the store with what `disk` holds. `log_capacity` is the number of events kept per collection.
    pub(crate) fn open(disk: Option<Disk>, log_capacity: usize) -> anyhow::Result<Self> {
        let mut state = State::default();
        if let Some(disk) = &disk {
            let revision = disk.revision()?;
            state.revision = revision;
            disk.load(|collection, value| {
                let own = crate::object::meta_str(&value, "resourceVersion").parse().unwrap_or(revision);
                let object = Arc::new(Object::new(value, own));
                let objects = &mut collection_mut(&mut state, collection, revision).objects;
                objects.insert(object.key.clone(), object);
            })?;
        }
        let loaded_at = state.revision;
        Ok(Self { state: RwLock::new(state), disk, log_capacity: log_capacity.max(1), loaded_at })
    }

    /// The revision of the last write.
    pub(crate) fn revision(&self) -> u64 {
        self.state.read().revision
    }

    /// One object.
    pub(crate) fn get(&self, collection: &str, key: &Key) -> Option<Arc<Object>> {
        self.state.read().collections.get(collection)?.objects.get(key).cloned()
    }

    /// All objects of a collection, or of one namespace of it, in order, and the revision they stand at.
    pub(crate) fn list(&self, collection: &str, namespace: Option<&str>) -> (Vec<Arc<Object>>, u64) {
        let state = self.state.read();
        let objects =
            state.collections.get(collection).map(|c| select(&c.objects, namespace)).unwrap_or_default();
        (objects, state.revision)
    }

    /// The same as it was at an earlier revision.
    pub(crate) fn list_at(
        &self,
        collection: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Vec<Arc<Object>>, WatchError> {
        let state = self.state.read();
        let Some(c) = state.collections.get(collection) else { return Ok(Vec::new()) };
        if revision < c.floor {
            return Err(WatchError::Gone { asked: revision, oldest: c.floor });
        }
        let newer = c.log.partition_point(|e| e.revision <= revision);
        if newer == c.log.len() {
            return Ok(select(&c.objects, namespace));
        }
        let mut objects = c.objects.clone();
        for event in c.log.range(newer..).rev() {
            match &event.previous {
                Some(previous) => objects.insert(previous.key.clone(), previous.clone()),
                None => objects.remove(&event.object.key),
            };
        }
        Ok(select(&objects, namespace))
    }

    /// Whether there is nothing in a namespace, over all collections but the one of namespaces.
    pub(crate) fn is_namespace_empty(&self, namespace: &str) -> bool {
        let state = self.state.read();
        state.collections.values().all(|c| select(&c.objects, Some(namespace)).is_empty())
    }

    /// Everything in a namespace, with the name of its collection.
    pub(crate) fn namespace_content(&self, namespace: &str) -> Vec<(String, Arc<Object>)> {
        let state = self.state.read();
        let all = state.collections.iter();
        all.flat_map(|(name, c)| {
            select(&c.objects, Some(namespace)).into_iter().map(move |o| (name.clone(), o))
        })
        .collect()
    }

    /// Creates or replaces an object under the next revision.
    pub(crate) fn put(&self, collection: &str, value: Value) -> anyhow::Result<Arc<Object>> {
        let revision = self.revision() + 1;
        let object = Arc::new(Object::new(value, revision));
        if let Some(disk) = &self.disk {
            disk.put(collection, &object)?;
        }
        let mut state = self.state.write();
        state.revision = revision;
        let floor = self.loaded_at;
        let c = collection_mut(&mut state, collection, floor);
        let previous = c.objects.insert(object.key.clone(), object.clone());
        let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
        c.record(Event::new(kind, object.clone(), previous), self.log_capacity);
        Ok(object)
    }

    /// Removes an object under the next revision and returns its last state; `None` if there is none.
    pub(crate) fn remove(&self, collection: &str, key: &Key) -> anyhow::Result<Option<Arc<Object>>> {
        let Some(last) = self.get(collection, key) else { return Ok(None) };
        let revision = self.revision() + 1;
        if let Some(disk) = &self.disk {
            disk.remove(collection, key, revision)?;
        }
        let object = Arc::new(Object::new(last.value().clone(), revision));
        let mut state = self.state.write();
        state.revision = revision;
        let c = collection_mut(&mut state, collection, self.loaded_at);
        c.objects.remove(key);
        c.record(Event::new(EventKind::Deleted, object.clone(), Some(last)), self.log_capacity);
        Ok(Some(object))
    }

    /// Starts to follow a collection after `revision`.
    pub(crate) fn watch(self: &Arc<Self>, collection: &str, revision: u64) -> Result<Watch, WatchError> {
        let mut state = self.state.write();
        let c = collection_mut(&mut state, collection, self.loaded_at);
        if revision < c.floor {
            return Err(WatchError::Gone { asked: revision, oldest: c.floor });
        }
        let wake = c.wake.subscribe();
        Ok(Watch { store: self.clone(), collection: collection.to_owned(), cursor: revision, wake })
    }
}

/// Follows one collection of the store.
#[derive(Debug)]
pub struct Watch {
    store: Arc<Store>,
    collection: String,
    cursor: u64,
    wake: watch::Receiver<u64>,
}

impl Watch {
    /// Waits for the next changes, all that there are.
    ///
    /// # Errors
    /// [`WatchError::Gone`] when the watcher was so slow that the log dropped what it has not seen.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, WatchError> {
        loop {
            self.wake.borrow_and_update();
            let (events, _) = self.ready()?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.wake.changed().await.map_err(|_| WatchError::Closed)?;
        }
    }

    /// The changes that are there already, and the revision up to which the watcher has now seen everything.
    ///
    /// # Errors
    /// See [`Watch::next`].
    pub fn ready(&mut self) -> Result<(Vec<Arc<Event>>, u64), WatchError> {
        let state = self.store.state.read();
        let Some(c) = state.collections.get(&self.collection) else { return Err(WatchError::Closed) };
        if self.cursor < c.floor {
            return Err(WatchError::Gone { asked: self.cursor, oldest: c.floor });
        }
        let start = c.log.partition_point(|e| e.revision <= self.cursor);
        let events: Vec<_> = c.log.range(start..).cloned().collect();
        self.cursor = self.cursor.max(state.revision);
        Ok((events, self.cursor))
    }
}

impl Collection {
    fn record(&mut self, event: Event, capacity: usize) {
        let revision = event.revision;
        self.log.push_back(Arc::new(event));
        while self.log.len() > capacity {
            if let Some(dropped) = self.log.pop_front() {
                self.floor = dropped.revision;
            }
        }
        self.wake.send_replace(revision);
    }
}

fn collection_mut<'a>(state: &'a mut State, name: &str, floor: u64) -> &'a mut Collection {
    if !state.collections.contains_key(name) {
        let fresh =
            Collection { objects: BTreeMap::new(), log: VecDeque::new(), floor, wake: watch::channel(0).0 };
        state.collections.insert(name.to_owned(), fresh);
    }
    state.collections.get_mut(name).expect("inserted above")
}

fn select(objects: &BTreeMap<Key, Arc<Object>>, namespace: Option<&str>) -> Vec<Arc<Object>> {
    match namespace {
        None => objects.values().cloned().collect(),
        Some(namespace) => objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn thing(name: &str, n: u64) -> Value {
        json!({"metadata": {"name": name, "namespace": "d"}, "n": n})
    }

    fn store(capacity: usize) -> Arc<Store> {
        Arc::new(Store::open(None, capacity).unwrap())
    }

    #[tokio::test]
    async fn watcher_sees_every_write_once_and_in_order() {
        let store = store(100);
        store.put("c", thing("a", 1)).unwrap();
        let mut watch = store.watch("c", 0).unwrap();
        store.put("other", thing("x", 1)).unwrap();
        store.put("c", thing("a", 2)).unwrap();
        store.remove("c", &Key::new("d", "a")).unwrap();

        let seen: Vec<_> = watch.next().await.unwrap().iter().map(|e| (e.revision, e.kind)).collect();

        assert_eq!(seen, [(1, EventKind::Added), (3, EventKind::Modified), (4, EventKind::Deleted)]);
        let waiting = tokio::spawn(async move { watch.next().await.unwrap()[0].revision });
        store.put("c", thing("b", 1)).unwrap();
        assert_eq!(waiting.await.unwrap(), 5);
    }

    #[test]
    fn watcher_that_is_too_old_is_told() {
        let store = store(2);
        let mut slow = store.watch("c", 0).unwrap();
        for n in 0..4 {
            store.put("c", thing("a", n)).unwrap();
        }

        assert_eq!(slow.ready().unwrap_err(), WatchError::Gone { asked: 0, oldest: 2 });
        assert_eq!(store.watch("c", 1).unwrap_err(), WatchError::Gone { asked: 1, oldest: 2 });
        assert!(store.watch("c", 2).is_ok());
    }

    #[test]
    fn past_is_rebuilt_from_the_log() {
        let store = store(100);
        store.put("c", thing("a", 1)).unwrap();
        store.put("c", thing("b", 1)).unwrap();
        store.put("c", thing("a", 2)).unwrap();
        store.remove("c", &Key::new("d", "b")).unwrap();

        let at = |revision| -> Vec<(String, u64)> {
            let objects = store.list_at("c", Some("d"), revision).unwrap();
            objects.iter().map(|o| (o.key.name.clone(), o.revision)).collect()
        };

        assert_eq!(at(0), []);
        assert_eq!(at(1), [("a".into(), 1)]);
        assert_eq!(at(2), [("a".into(), 1), ("b".into(), 2)]);
        assert_eq!(at(4), [("a".into(), 3)]);
    }

    #[test]
    fn bytes_of_an_event_are_made_once() {
        let event = Event::new(EventKind::Added, Arc::new(Object::new(thing("a", 1), 1)), None);

        let first = event.frame("json", || Bytes::from_static(b"x"));
        let second = event.frame("json", || unreachable!("already made"));

        assert_eq!(first.as_ptr(), second.as_ptr());
    }
}
