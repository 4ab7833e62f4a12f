//! Some objects of one kind as they go over the wire: encoded, compressed and framed once, whoever gets them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::encode_frame;
use proto::typha::{Chunk as Wire, FromServer, Object, Objects, Skip, from_server};

use crate::Name;

/// Octets of objects that one chunk holds before it is closed; a single object may be larger.
pub(crate) const CHUNK: usize = 256 << 10;
/// Octets that a chunk may have when expanded, on the side that receives it.
pub(crate) const MAX_CHUNK: usize = 16 << 20;
/// What an object costs besides its names and its content, about.
const OBJECT_OVERHEAD: usize = 12;

/// See the module. What it says about an object may be out of date: then the entry is dead.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The smallest position whose changes may be in here.
    pub(crate) first: u64,
    frame: Bytes,
    names: Vec<Arc<Name>>,
    /// Octets of the objects before compression.
    raw: usize,
    dead: BTreeSet<u32>,
    /// The frame that says which entries are dead, while nothing more has died.
    skip: Option<Bytes>,
}

/// What an object costs in a chunk, octets.
pub(crate) fn cost(name: &Name, content: Option<&Bytes>) -> usize {
    name.namespace.len() + name.name.len() + content.map_or(0, Bytes::len) + OBJECT_OVERHEAD
}

impl Chunk {
    /// Encodes objects for positions `first` to `last`.
    pub(crate) fn new(
        kind: &str,
        first: u64,
        last: u64,
        objects: impl IntoIterator<Item = (Arc<Name>, Option<Bytes>)>,
    ) -> Self {
        let (names, objects): (Vec<_>, Vec<_>) = objects
            .into_iter()
            .map(|(name, content)| {
                let (namespace, plain) = (name.namespace.to_string(), name.name.to_string());
                (name, Object { namespace, name: plain, content })
            })
            .unzip();
        let raw = Objects { objects }.encode_to_vec();
        let wire = Wire {
            kind: kind.to_owned(),
            position: last,
            size: u32::try_from(raw.len()).unwrap_or(u32::MAX),
            objects: lz4_flex::block::compress(&raw).into(),
        };
        let frame = encode(from_server::Message::Chunk(wire));
        Self { first, frame, names, raw: raw.len(), dead: BTreeSet::new(), skip: None }
    }

    /// The frames that tell all that is alive in here.
    pub(crate) fn frames(&mut self) -> (Option<Bytes>, Bytes) {
        if self.skip.is_none() && !self.dead.is_empty() {
            let indexes = self.dead.iter().copied().collect();
            self.skip = Some(encode(from_server::Message::Skip(Skip { indexes })));
        }
        (self.skip.clone(), self.frame.clone())
    }

    /// The entry is out of date.
    pub(crate) fn bury(&mut self, index: u32) {
        self.dead.insert(index);
        self.skip = None;
    }

    pub(crate) fn names(&self) -> &[Arc<Name>] {
        &self.names
    }

    /// The entries that count, with their contents.
    pub(crate) fn live(&self) -> Vec<(Arc<Name>, Option<Bytes>)> {
        let objects = self.expand();
        let entries = self.names.iter().zip(objects).enumerate();
        let live = entries.filter(|(index, _)| !self.is_dead(*index));
        live.map(|(_, (name, object))| (name.clone(), object.content)).collect()
    }

    fn expand(&self) -> Vec<Object> {
        // What was compressed here can be expanded here; the length stands before the message.
        let Ok(FromServer { message: Some(from_server::Message::Chunk(wire)) }) =
            FromServer::decode(self.frame.slice(4..))
        else {
            return Vec::new();
        };
        expand(&wire).unwrap_or_default()
    }

    pub(crate) fn is_dead(&self, index: usize) -> bool {
        u32::try_from(index).is_ok_and(|index| self.dead.contains(&index))
    }

    pub(crate) fn live_count(&self) -> usize {
        self.names.len() - self.dead.len()
    }

    pub(crate) fn dead_count(&self) -> usize {
        self.dead.len()
    }

    /// Octets that what is alive would cost before compression, about.
    pub(crate) fn live_size(&self) -> usize {
        self.raw * self.live_count() / self.names.len().max(1)
    }

    /// Octets on the wire.
    pub(crate) fn size(&self) -> usize {
        self.frame.len()
    }
}

/// The framed message.
pub(crate) fn encode(message: from_server::Message) -> Bytes {
    encode_frame(&FromServer { message: Some(message) }).into()
}

/// The objects of a chunk that came over the wire; `None` when it is not well-formed.
pub(crate) fn expand(wire: &Wire) -> Option<Vec<Object>> {
    let size = usize::try_from(wire.size).ok().filter(|size| *size <= MAX_CHUNK)?;
    let raw = lz4_flex::block::decompress(&wire.objects, size).ok()?;
    Some(Objects::decode(Bytes::from(raw)).ok()?.objects)
}
