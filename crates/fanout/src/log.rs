//! The objects of one kind in the order of their last change.
//!
//! The log is a row of [`Chunk`]s. A change makes the object's old entry dead and is in the newest chunk; now and
//! then chunks with many dead entries are written anew, together. So the log is never much longer than what there
//! is, whoever reads it from the start gets a list, and whoever has read some of it needs a number to go on:
//! what changed twice meanwhile comes once. Nobody is waited for and nothing is kept for anybody.
//!
//! That an object is gone is an entry too, until there are too many of those. Who has not read as far as the
//! [`horizon`](Log::horizon) by then needs a list.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use crate::chunk::{CHUNK, Chunk, cost};
use crate::{Event, Name};

/// See the module.
#[derive(Debug)]
pub(crate) struct Log {
    kind: Arc<str>,
    state: State,
    objects: BTreeMap<Arc<Name>, Entry>,
    /// By the position of who has read them.
    chunks: BTreeMap<u64, Chunk>,
    /// Changes that are in no chunk yet.
    pending: BTreeMap<Name, Option<Bytes>>,
    pending_size: usize,
    /// Position of the newest chunk.
    last: u64,
    horizon: u64,
    /// Number of the list that is being taken in, or was last.
    list: u32,
    is_listing: bool,
    gone: usize,
    dead: usize,
    /// Chunks written since the log was tidied.
    unsettled: usize,
    /// So many entries about gone objects are kept at least.
    keep_gone: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not every object is known.
    Unlisted,
    /// The API server does not know the kind, and never did.
    Missing,
    Listed,
}

#[derive(Debug)]
struct Entry {
    chunk: u64,
    index: u32,
    /// `None`: gone.
    fingerprint: Option<u64>,
    /// The last list that had it.
    list: u32,
}

impl Log {
    /// An empty one; `keep_gone` as in the field.
    pub(crate) fn new(kind: Arc<str>, keep_gone: usize) -> Self {
        Self {
            kind,
            state: State::Unlisted,
            objects: BTreeMap::new(),
            chunks: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_size: 0,
            last: 0,
            horizon: 0,
            list: 0,
            is_listing: false,
            gone: 0,
            dead: 0,
            unsettled: 0,
            keep_gone,
        }
    }

    /// Takes in what the API server says.
    pub(crate) fn handle(&mut self, event: Event) {
        match event {
            Event::ListBegins => {
                self.flush();
                self.list = self.list.wrapping_add(1);
                self.is_listing = true;
            }
            Event::Put(name, content) => self.put(name, content),
            Event::Gone(name) => self.note_gone(name),
            Event::Listed => self.listed(),
            // Once known, a kind stays as it was: it may be back in a moment, when an API server restarts.
            Event::Missing if self.state == State::Unlisted => self.state = State::Missing,
            Event::Missing => {}
        }
    }

    fn put(&mut self, name: Name, content: Bytes) {
        if let Some(entry) = self.objects.get_mut(&name) {
            entry.list = self.list;
            if entry.fingerprint == Some(fingerprint(&content)) {
                // Also when something else was pending: that was never told.
                self.unpend(&name);
                return;
            }
        }
        self.pend(name, Some(content));
    }

    fn note_gone(&mut self, name: Name) {
        match self.objects.get(&name) {
            Some(entry) if entry.fingerprint.is_some() => self.pend(name, None),
            _ => self.unpend(&name),
        }
    }

    fn pend(&mut self, name: Name, content: Option<Bytes>) {
        self.unpend(&name);
        self.pending_size += cost(&name, content.as_ref());
        self.pending.insert(name, content);
        if self.pending_size >= CHUNK {
            self.flush();
        }
    }

    fn unpend(&mut self, name: &Name) {
        if let Some(content) = self.pending.remove(name) {
            self.pending_size -= cost(name, content.as_ref());
        }
    }

    fn listed(&mut self) {
        if !mem::take(&mut self.is_listing) {
            return;
        }
        let is_vanished = |entry: &Entry| entry.list != self.list && entry.fingerprint.is_some();
        let vanished = self.objects.iter().filter(|(_, entry)| is_vanished(entry));
        let vanished: Vec<Name> = vanished.map(|(name, _)| Name::clone(name)).collect();
        for name in vanished {
            self.pend(name, None);
        }
        self.flush();
        self.state = State::Listed;
    }

    /// Is there something for [`Log::flush`]?
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what is pending as a chunk.
    pub(crate) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.pending_size = 0;
        let last = self.last + 1;
        let mut objects = Vec::with_capacity(self.pending.len());
        for (index, (name, content)) in mem::take(&mut self.pending).into_iter().enumerate() {
            let known = self.objects.get_key_value(&name).map(|(name, _)| name.clone());
            let name = known.unwrap_or_else(|| Arc::new(name));
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let fingerprint = content.as_ref().map(|content| fingerprint(content));
            let entry = Entry { chunk: last, index, fingerprint, list: self.list };
            self.gone += usize::from(fingerprint.is_none());
            if let Some(old) = self.objects.insert(name.clone(), entry) {
                self.gone -= usize::from(old.fingerprint.is_none());
                self.bury(old.chunk, old.index);
            }
            objects.push((name, content));
        }
        self.chunks.insert(last, Chunk::new(&self.kind, last, last, objects));
        self.last = last;
        self.unsettled += 1;
        if self.unsettled > self.chunks.len().max(UNSETTLED) / 2
            || self.dead > self.objects.len() / 2 + CHUNK_ENTRIES
        {
            self.tidy();
        }
    }

    fn bury(&mut self, chunk: u64, index: u32) {
        if let Some(chunk) = self.chunks.get_mut(&chunk) {
            chunk.bury(index);
            self.dead += 1;
        }
    }

    /// Writes small chunks and those with many dead entries anew, neighbours together.
    fn tidy(&mut self) {
        self.unsettled = 0;
        self.forget_gone();
        let mut group: Vec<u64> = Vec::new();
        let mut size = 0;
        let all: Vec<(u64, usize, bool)> =
            self.chunks.iter().map(|(last, c)| (*last, c.live_size(), is_good(c))).collect();
        for (last, live_size, is_good) in all {
            if is_good || size + live_size > CHUNK {
                self.merge(&mem::take(&mut group));
                size = 0;
            }
            if !is_good {
                group.push(last);
                size += live_size;
            }
        }
        self.merge(&group);
    }

    /// Writes neighbouring chunks as one.
    fn merge(&mut self, group: &[u64]) {
        let (Some(&first), Some(&last)) = (group.first(), group.last()) else { return };
        if group.len() == 1 && self.chunks.get(&last).is_none_or(|chunk| chunk.dead_count() == 0) {
            return;
        }
        let mut objects = Vec::new();
        let first = self.chunks.get(&first).map_or(first, |chunk| chunk.first);
        for last in group {
            if let Some(chunk) = self.chunks.remove(last) {
                self.dead -= chunk.dead_count();
                objects.extend(chunk.live());
            }
        }
        if objects.is_empty() {
            return;
        }
        for (index, (name, _)) in objects.iter().enumerate() {
            if let Some(entry) = self.objects.get_mut(name) {
                (entry.chunk, entry.index) = (last, u32::try_from(index).unwrap_or(u32::MAX));
            }
        }
        self.chunks.insert(last, Chunk::new(&self.kind, first, last, objects));
    }

    /// Forgets the oldest half of what is gone when that is more than what there is.
    fn forget_gone(&mut self) {
        let there = self.objects.len() - self.gone;
        if self.gone <= there.max(self.keep_gone) {
            return;
        }
        let target = there.max(self.keep_gone) / 2;
        for (last, chunk) in &mut self.chunks {
            if self.gone <= target {
                break;
            }
            for (index, name) in chunk.names().to_vec().into_iter().enumerate() {
                let is_gone = |entry: &Entry| entry.fingerprint.is_none();
                if !chunk.is_dead(index) && self.objects.get(&name).is_some_and(is_gone) {
                    self.objects.remove(&name);
                    self.gone -= 1;
                    chunk.bury(u32::try_from(index).unwrap_or(u32::MAX));
                    self.dead += 1;
                    self.horizon = *last;
                }
            }
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Position of who has read all.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Who has read less than this may not have heard of objects that are gone.
    pub(crate) fn horizon(&self) -> u64 {
        self.horizon
    }

    /// The next chunk for who has read as far as `position`.
    pub(crate) fn next_after(&mut self, position: u64) -> Option<(u64, &mut Chunk)> {
        let next = self.chunks.range_mut(position + 1..).find(|(_, chunk)| chunk.live_count() > 0);
        next.map(|(last, chunk)| (*last, chunk))
    }

    /// Objects that there are.
    pub(crate) fn len(&self) -> usize {
        self.objects.len() - self.gone
    }

    /// Octets of all chunks on the wire.
    pub(crate) fn size(&self) -> usize {
        self.chunks.values().map(Chunk::size).sum()
    }

    /// Entries of all chunks, dead ones too.
    pub(crate) fn entries(&self) -> usize {
        self.objects.len() + self.dead
    }
}

/// The log is tidied after so many chunks at least.
const UNSETTLED: usize = 128;
/// Dead entries that are always tolerated.
const CHUNK_ENTRIES: usize = 512;

/// Is it worth being left alone?
fn is_good(chunk: &Chunk) -> bool {
    chunk.live_size() >= CHUNK / 2 && chunk.dead_count() * 4 <= chunk.live_count()
}

fn fingerprint(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
