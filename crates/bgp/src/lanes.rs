//! Lanes of a group that sends several paths to a prefix (RFC 7911). Owns path identifiers: each source path
//! keeps its own, so that a change of one path touches no other.

use std::collections::HashMap;

use crate::path::Source;
use crate::table::Slot;
use crate::update_group::Lane;

/// What a lane stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneKey {
    pub(crate) slot: Slot,
    pub(crate) path_id: u32,
}

/// The lanes of one group.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    keys: Vec<LaneKey>,
    free: Vec<Lane>,
    by_slot: HashMap<Slot, Vec<Lane>>,
    path_ids: HashMap<(Source, u32), u32>,
}

impl Lanes {
    /// The identifier under which paths of a source are sent; the peer's own one is of no use to others,
    /// since two peers may choose the same.
    pub(crate) fn path_id(&mut self, source: Source, received: u32) -> u32 {
        let next = self.path_ids.len() as u32 + 1;
        *self.path_ids.entry((source, received)).or_insert(next)
    }

    pub(crate) fn key(&self, lane: Lane) -> LaneKey {
        self.keys[lane as usize]
    }

    pub(crate) fn find(&self, key: LaneKey) -> Option<Lane> {
        let lanes = self.by_slot.get(&key.slot)?;
        lanes.iter().copied().find(|lane| self.keys[*lane as usize] == key)
    }

    /// The lane of a route; a new one when there is none and `make` is set.
    pub(crate) fn lane(&mut self, key: LaneKey, make: bool) -> Option<Lane> {
        if let Some(lane) = self.find(key) {
            return Some(lane);
        }
        if !make {
            return None;
        }
        let lane = match self.free.pop() {
            Some(lane) => {
                self.keys[lane as usize] = key;
                lane
            }
            None => {
                self.keys.push(key);
                self.keys.len() as Lane - 1
            }
        };
        self.by_slot.entry(key.slot).or_default().push(lane);
        Some(lane)
    }

    /// All lanes of a prefix.
    pub(crate) fn of_slot(&self, slot: Slot) -> Vec<Lane> {
        self.by_slot.get(&slot).cloned().unwrap_or_default()
    }

    /// The prefix is gone, and its lanes with it.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.free.extend(self.by_slot.remove(&slot).unwrap_or_default());
    }
}
