//! Shared attributes. Owns every attribute set that a path refers to; equal ones are one.
//!
//! Nobody counts references: when enough new sets have come, the table's owner marks what is in use, and the
//! rest is dropped. So taking over and replacing a path costs nothing but four bytes.

use std::num::NonZeroU32;
use std::sync::Arc;

use bgp_packet::PathAttributes;
use hashbrown::HashTable;

use crate::hash::{Seed, short, spread};

/// Names a set of attributes; equal names are equal attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttrId(NonZeroU32);

impl AttrId {
    fn new(at: usize) -> Self {
        let number = u32::try_from(at + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("memory is full long before four thousand million sets of attributes"))
    }

    pub(crate) fn at(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Debug)]
struct Set {
    attributes: Arc<PathAttributes>,
    /// Enough of the hash to find the place in the index again.
    hash: u32,
    /// The tracked next hop, 0 when none is.
    hop: u32,
}

/// Some places of a table, such as those in use.
#[derive(Debug)]
pub(crate) struct Marks(Vec<u64>);

impl Marks {
    /// None of `count` is marked.
    pub(crate) fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    pub(crate) fn mark(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    pub(crate) fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }
}

/// The sets.
#[derive(Debug, Default)]
pub(crate) struct AttributeTable {
    sets: Vec<Option<Set>>,
    index: HashTable<AttrId>,
    free: Vec<AttrId>,
    seed: Seed,
    /// Octets, roughly, that came since the last sweep, and that it left.
    new_octets: usize,
    kept_octets: usize,
}

/// New sets may take this much, however little is in use.
const SLACK: usize = 256 * 1024;

impl AttributeTable {
    pub(crate) fn new(seed: Seed) -> Self {
        Self { seed, ..Self::default() }
    }

    /// The name of a set.
    pub(crate) fn intern(&mut self, attributes: PathAttributes) -> AttrId {
        let hash = short(self.seed.of(&attributes));
        let sets = &self.sets;
        let of = |id: &AttrId| sets[id.at()].as_ref().map(|set| &*set.attributes);
        if let Some(id) = self.index.find(spread(hash), |id| of(id) == Some(&attributes)) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| AttrId::new(self.sets.len()));
        self.index.insert_unique(spread(hash), id, |id| sets[id.at()].as_ref().map_or(0, |s| spread(s.hash)));
        self.new_octets += octets(&attributes);
        let set = Some(Set { attributes: Arc::new(attributes), hash, hop: 0 });
        match self.sets.get_mut(id.at()) {
            Some(place) => *place = set,
            None => self.sets.push(set),
        }
        id
    }

    /// The attributes of a name that is in use.
    pub(crate) fn get(&self, id: AttrId) -> &Arc<PathAttributes> {
        &self.set(id).attributes
    }

    pub(crate) fn hop(&self, id: AttrId) -> u32 {
        self.set(id).hop
    }

    pub(crate) fn set_hop(&mut self, id: AttrId, hop: u32) {
        if let Some(Some(set)) = self.sets.get_mut(id.at()) {
            set.hop = hop;
        }
    }

    fn set(&self, id: AttrId) -> &Set {
        self.sets[id.at()].as_ref().expect("whoever has a name marks it as in use")
    }

    /// Whether enough has come that a sweep, which costs a walk over `users`, is worth it.
    pub(crate) fn wants_sweep(&self, users: usize) -> bool {
        self.new_octets > SLACK.max(self.kept_octets).max(users * 16)
    }

    /// An empty list of marks.
    pub(crate) fn marks(&self) -> Marks {
        Marks::new(self.sets.len())
    }

    /// Drops what is not marked. Gives back the next hops of what stays.
    pub(crate) fn sweep(&mut self, marks: &Marks) -> Vec<u32> {
        let (mut hops, mut kept) = (Vec::new(), 0);
        for (at, place) in self.sets.iter_mut().enumerate() {
            let Some(set) = place else { continue };
            if marks.has(at) {
                kept += octets(&set.attributes);
                hops.extend(Some(set.hop).filter(|hop| *hop != 0));
                continue;
            }
            let id = AttrId::new(at);
            if let Ok(entry) = self.index.find_entry(spread(set.hash), |other| *other == id) {
                entry.remove();
            }
            *place = None;
            self.free.push(id);
        }
        self.new_octets = 0;
        self.kept_octets = kept;
        hops
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

/// Memory of a set, roughly.
fn octets(a: &PathAttributes) -> usize {
    let unknown: usize = a.unknown.iter().map(|raw| raw.value.len() + 32).sum();
    size_of::<PathAttributes>()
        + a.as_path.hops() * 4
        + a.communities.len() * 4
        + a.extended_communities.len() * 8
        + a.large_communities.len() * 12
        + a.cluster_list.len() * 4
        + unknown
}

#[cfg(test)]
mod tests {
    use bgp_packet::NextHop;

    use super::*;

    fn attributes(med: u32) -> PathAttributes {
        PathAttributes { med: Some(med), ..PathAttributes::new(NextHop::V4([192, 0, 2, 1].into())) }
    }

    #[test]
    fn equal_attributes_have_one_name_and_what_is_not_in_use_goes() {
        let mut table = AttributeTable::new(Seed::new(1));
        let (a, b) = (table.intern(attributes(1)), table.intern(attributes(2)));
        assert_eq!((table.intern(attributes(1)), a == b), (a, false));

        let mut marks = table.marks();
        marks.mark(b.at());
        table.sweep(&marks);

        assert_eq!((table.len(), table.get(b).med), (1, Some(2)));
        assert_eq!(table.intern(attributes(2)), b);
        let c = table.intern(attributes(3));
        assert_eq!((c, table.get(c).med), (a, Some(3)), "a name that is free is used again");
    }

    #[test]
    fn a_flood_of_new_attributes_asks_for_a_sweep() {
        let mut table = AttributeTable::new(Seed::new(1));
        let mut count = 0;
        while !table.wants_sweep(0) {
            table.intern(attributes(count));
            count += 1;
        }
        assert!(count < 4096, "{count} sets before a sweep");
    }
}
