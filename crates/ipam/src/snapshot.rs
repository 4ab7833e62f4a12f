//! What is known of the datastore, and the steps that change it.

use std::collections::{BTreeMap, BTreeSet};

use model::{Block, BlockAffinity, Cidr, Handle, NodeName};

use crate::Settings;
use crate::names::reserve_handle;

/// The datastore's mark of one state of one object; a write names the state that it replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// An object as it was read or written last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    pub value: T,
    pub version: Version,
    /// Read or written for the present request; otherwise it may be older than what the datastore has.
    pub is_fresh: bool,
}

/// What is known of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Known<T> {
    #[default]
    Unknown,
    Absent,
    Present(Stored<T>),
}

impl<T> Known<T> {
    pub fn present(&self) -> Option<&Stored<T>> {
        match self {
            Known::Present(stored) => Some(stored),
            _ => None,
        }
    }
}

/// Name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Block(Cidr),
    Affinity(NodeName, Cidr),
    Handle(String),
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Block(Block),
    Affinity(BlockAffinity),
    Handle(Handle),
}

impl Object {
    pub fn key(&self) -> Key {
        match self {
            Object::Block(block) => Key::Block(block.cidr),
            Object::Affinity(affinity) => Key::Affinity(affinity.node.clone(), affinity.cidr),
            Object::Handle(handle) => Key::Handle(handle.id.clone()),
        }
    }
}

/// One write, which either happens whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Fails when the object exists.
    Create(Object),
    /// Fails unless the object is in this state.
    Update(Object, Version),
    /// Fails unless the object is in this state.
    Delete(Key, Version),
}

impl Write {
    pub fn key(&self) -> Key {
        match self {
            Write::Create(object) | Write::Update(object, _) => object.key(),
            Write::Delete(key, _) => key.clone(),
        }
    }
}

/// Something to look up before the next decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    One(Key),
    /// All blocks and all affinities.
    All,
}

/// What to do next. Whoever executes it tells the snapshot what came of it and asks again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T, E> {
    Read(Read),
    Write(Write),
    Done(T),
    Failed(E),
}

/// What one node knows of the datastore.
///
/// It may be old: every write names the state that it replaces, so that an old view costs a repetition and
/// never an address.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub node: NodeName,
    pub settings: Settings,
    blocks: BTreeMap<Cidr, Known<Block>>,
    affinities: BTreeMap<(NodeName, Cidr), Known<BlockAffinity>>,
    /// Handles that the present request looked at, by ID.
    handles: BTreeMap<String, Known<Handle>>,
    /// They did not exist before the present request.
    new_handles: BTreeSet<String>,
    /// Were all blocks and affinities read for the present request?
    has_all: bool,
}

impl Snapshot {
    /// Nothing known yet.
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            settings: Settings::default(),
            blocks: BTreeMap::new(),
            affinities: BTreeMap::new(),
            handles: BTreeMap::new(),
            new_handles: BTreeSet::new(),
            has_all: false,
        }
    }

    /// Before a new request: what is known is no longer fresh, and the handles are others.
    pub fn begin(&mut self) {
        // That of the node's reserve goes from one request to the next.
        let reserve = reserve_handle(&self.node);
        self.handles.retain(|id, known| *id == reserve && known.present().is_some());
        self.new_handles.clear();
        self.has_all = false;
        let node = &self.node;
        self.affinities.retain(|(owner, _), known| owner == node && known.present().is_some());
        let own = &self.affinities;
        self.blocks
            .retain(|cidr, known| known.present().is_some() && own.contains_key(&(node.clone(), *cidr)));
        for known in self.blocks.values_mut() {
            if let Known::Present(stored) = known {
                stored.is_fresh = false;
            }
        }
        for known in self.affinities.values_mut() {
            if let Known::Present(stored) = known {
                stored.is_fresh = false;
            }
        }
    }

    /// One object was read; `None`: it does not exist.
    pub fn observed(&mut self, key: Key, found: Option<(Object, Version)>) {
        match (key, found) {
            (Key::Block(cidr), Some((Object::Block(block), version))) => {
                self.blocks.insert(cidr, present(block, version));
            }
            (Key::Affinity(node, cidr), Some((Object::Affinity(affinity), version))) => {
                self.affinities.insert((node, cidr), present(affinity, version));
            }
            (Key::Handle(id), Some((Object::Handle(handle), version))) => {
                self.new_handles.remove(&id);
                self.handles.insert(id, present(handle, version));
            }
            (Key::Block(cidr), _) => {
                self.blocks.insert(cidr, Known::Absent);
            }
            (Key::Affinity(node, cidr), _) => {
                self.affinities.insert((node, cidr), Known::Absent);
            }
            (Key::Handle(id), _) => {
                self.handles.insert(id, Known::Absent);
            }
        }
    }

    /// All blocks and affinities were read; what is not among them does not exist.
    pub fn observed_all(&mut self, objects: impl IntoIterator<Item = (Object, Version)>) {
        self.blocks.clear();
        self.affinities.clear();
        for (object, version) in objects {
            self.observed(object.key(), Some((object, version)));
        }
        self.has_all = true;
    }

    /// A write succeeded; `version` is what the object has now (`None` after a deletion).
    pub fn written(&mut self, write: &Write, version: Option<Version>) {
        let object = match write {
            Write::Create(object) | Write::Update(object, _) => Some(object.clone()),
            Write::Delete(..) => None,
        };
        let key = write.key();
        let new_handle = match (&key, write) {
            (Key::Handle(id), Write::Create(_)) => Some(id.clone()),
            (Key::Handle(id), Write::Update(..)) if self.new_handles.contains(id) => Some(id.clone()),
            _ => None,
        };
        // A claim that came to nothing: many claim at once, and the view is older than their claims.
        let lost_claim = matches!((&key, write), (Key::Affinity(..), Write::Delete(..)));
        self.observed(key, object.zip(version));
        self.new_handles.extend(new_handle);
        self.has_all &= !lost_claim;
    }

    /// What is known of a block. When all were read, one that is not among them is absent.
    pub fn block(&self, cidr: Cidr) -> &Known<Block> {
        const UNKNOWN: &Known<Block> = &Known::Unknown;
        const ABSENT: &Known<Block> = &Known::Absent;
        self.blocks.get(&cidr).unwrap_or(if self.has_all { ABSENT } else { UNKNOWN })
    }

    /// Blocks that are known to exist, in order.
    pub fn blocks(&self) -> impl Iterator<Item = &Stored<Block>> {
        self.blocks.values().filter_map(Known::present)
    }

    /// Does a block exist that shares an address with `cidr`?
    pub(crate) fn is_taken(&self, cidr: Cidr) -> bool {
        let exists = |found: Option<(&Cidr, &Known<Block>)>| {
            found.is_some_and(|(other, known)| known.present().is_some() && other.overlaps(cidr))
        };
        // Blocks do not overlap one another: what overlaps stands next to the place of `cidr`.
        exists(self.blocks.range(..=cidr).next_back()) || exists(self.blocks.range(cidr..).next())
    }

    /// What is known of this node's claim on a block.
    pub fn own_affinity(&self, cidr: Cidr) -> Option<&Stored<BlockAffinity>> {
        self.affinities.get(&(self.node.clone(), cidr)).and_then(Known::present)
    }

    /// This node's claims, in order of their blocks.
    pub fn own_affinities(&self) -> impl Iterator<Item = &Stored<BlockAffinity>> {
        let own = |node: &NodeName| *node == self.node;
        self.affinities
            .iter()
            .filter(move |((node, _), _)| own(node))
            .filter_map(|(_, known)| known.present())
    }

    /// Another node's claim on a block.
    pub(crate) fn affinity(&self, node: &NodeName, cidr: Cidr) -> Option<&Stored<BlockAffinity>> {
        self.affinities.get(&(node.clone(), cidr)).and_then(Known::present)
    }

    /// Claims of other nodes on a block.
    pub(crate) fn claims_of_others(&self, cidr: Cidr) -> impl Iterator<Item = &Stored<BlockAffinity>> {
        let is_other = move |(node, of): &(NodeName, Cidr)| *of == cidr && *node != self.node;
        self.affinities.iter().filter(move |(key, _)| is_other(key)).filter_map(|(_, known)| known.present())
    }

    /// Was this node's claim looked up, or is it known?
    pub(crate) fn knows_own_affinity(&self, cidr: Cidr) -> bool {
        self.has_all || self.affinities.contains_key(&(self.node.clone(), cidr))
    }

    /// What is known of a handle.
    pub fn handle(&self, id: &str) -> &Known<Handle> {
        const UNKNOWN: &Known<Handle> = &Known::Unknown;
        self.handles.get(id).unwrap_or(UNKNOWN)
    }

    /// Was the handle created by the present request?
    pub fn handle_is_new(&self, id: &str) -> bool {
        self.new_handles.contains(id)
    }

    /// Were all blocks and affinities read for the present request?
    pub fn has_all(&self) -> bool {
        self.has_all
    }
}

fn present<T>(value: T, version: Version) -> Known<T> {
    Known::Present(Stored { value, version, is_fresh: true })
}
