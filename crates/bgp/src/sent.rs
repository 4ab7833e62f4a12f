//! Attributes as peers have them from us. Owns each as the octets that messages carry, once; equal ones are one.
//!
//! Nobody counts references, as with received attributes: the owner of the table marks what is in use.

use std::net::Ipv4Addr;

use bgp_packet::WireAttributes;
use hashbrown::HashTable;

use crate::hash::{Seed, short, spread};
use crate::intern::Marks;

/// Names octets; equal names are equal octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SentId(u32);

impl From<SentId> for usize {
    fn from(id: SentId) -> Self {
        id.0 as Self
    }
}

/// No octets: the place is free.
#[derive(Debug, Default)]
struct Sent {
    octets: Box<[u8]>,
    /// Enough of the hash to find the place in the index again.
    hash: u32,
    /// ORIGINATOR_ID, or 0, which no speaker has (RFC 6286 §2.1).
    originator: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct SentTable {
    sets: Vec<Sent>,
    index: HashTable<SentId>,
    free: Vec<SentId>,
    seed: Seed,
    /// Octets that came since the last sweep, and that it left.
    new_octets: usize,
    kept_octets: usize,
}

/// New ones may take this much, however little is in use.
const SLACK: usize = 128 * 1024;
/// What one costs beside its octets.
const OVERHEAD: usize = size_of::<Sent>() + 24;

impl SentTable {
    pub(crate) fn new(seed: Seed) -> Self {
        Self { seed, ..Self::default() }
    }

    /// The name of attributes.
    pub(crate) fn intern(&mut self, wire: WireAttributes<'_>, originator: Option<Ipv4Addr>) -> SentId {
        let octets = wire.octets();
        let hash = short(self.seed.octets(octets));
        let sets = &self.sets;
        if let Some(id) = self.index.find(spread(hash), |id| *sets[id.0 as usize].octets == *octets) {
            return *id;
        }
        let next =
            SentId(u32::try_from(sets.len()).expect("memory is full before four thousand million sets"));
        let id = self.free.pop().unwrap_or(next);
        self.index.insert_unique(spread(hash), id, |id| spread(sets[id.0 as usize].hash));
        self.new_octets += octets.len() + OVERHEAD;
        let set = Sent { octets: octets.into(), hash, originator: originator.map_or(0, Ipv4Addr::to_bits) };
        match self.sets.get_mut(id.0 as usize) {
            Some(place) => *place = set,
            None => self.sets.push(set),
        }
        id
    }

    /// The octets of a name that is in use.
    pub(crate) fn wire(&self, id: SentId) -> WireAttributes<'_> {
        WireAttributes::of(&self.sets[id.0 as usize].octets)
    }

    /// ORIGINATOR_ID.
    pub(crate) fn originator(&self, id: SentId) -> Option<Ipv4Addr> {
        Some(self.sets[id.0 as usize].originator).filter(|o| *o != 0).map(Ipv4Addr::from_bits)
    }

    /// Whether enough has come that a sweep, which costs a walk over `users`, is worth it.
    pub(crate) fn wants_sweep(&self, users: usize) -> bool {
        self.new_octets > SLACK.max(self.kept_octets).max(users * 16)
    }

    /// An empty list of marks.
    pub(crate) fn marks(&self) -> Marks {
        Marks::new(self.sets.len())
    }

    /// Drops what is not marked.
    pub(crate) fn sweep(&mut self, marks: &Marks) {
        let mut kept = 0;
        for (at, set) in (0..).zip(&mut self.sets).filter(|(_, set)| !set.octets.is_empty()) {
            if marks.has(at as usize) {
                kept += set.octets.len() + OVERHEAD;
                continue;
            }
            if let Ok(entry) = self.index.find_entry(spread(set.hash), |other| other.0 == at) {
                entry.remove();
            }
            *set = Sent::default();
            self.free.push(SentId(at));
        }
        (self.new_octets, self.kept_octets) = (0, kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_octets_have_one_name_and_what_is_not_in_use_goes() {
        let mut table = SentTable::new(Seed::new(1));
        let mut intern = |octets: &[u8]| table.intern(WireAttributes::of(octets), None);
        let (a, b) = (intern(&[0, 1]), intern(&[0, 2]));
        assert_eq!((intern(&[0, 1]), a == b), (a, false));

        let mut marks = table.marks();
        marks.mark(b.into());
        table.sweep(&marks);

        assert_eq!(table.wire(b).octets(), [0, 2]);
        let again = table.intern(WireAttributes::of(&[0, 3]), Some([192, 0, 2, 1].into()));
        assert_eq!(
            (again, table.originator(again)),
            (a, Some([192, 0, 2, 1].into())),
            "a free name is used again"
        );
        assert_eq!(table.originator(b), None);
    }
}
