//! The entries of the table and how they are found. Owns slots: small numbers that stand for prefixes for as
//! long as anybody needs them.
//!
//! Entries lie side by side in one vector; beside it stands an index of slots for each family. So an IPv4
//! route with one path takes about 45 octets with all that belongs to it.

use std::net::IpAddr;

use bgp_packet::{Family, Prefix};
use hashbrown::HashTable;

use crate::Reason;
use crate::hash::Seed;
use crate::intern::Marks;
use crate::path::Paths;

/// Stands for a prefix.
pub(crate) type Slot = u32;

/// With more than one of so many entries gone, they are dropped together.
const MANY: usize = 4;

/// Length of a free entry: no prefix has it.
const FREE: u8 = u8::MAX;

/// No path is the best.
pub(crate) const NO_BEST: u32 = u32::MAX;

/// The entry of one prefix.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) paths: Paths,
    /// The address of an IPv4 prefix; for IPv6, where the address is.
    address: u32,
    /// Index of the best path.
    pub(crate) best: u32,
    len: u8,
    family: Family,
    /// What decided.
    pub(crate) reason: Reason,
    /// It waits among the changed ones, or in the queue of the owner, or of those that may be dropped.
    pub(crate) waits: Waits,
}

/// Queues that an entry is in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waits {
    pub(crate) changed: bool,
    pub(crate) owner: bool,
    pub(crate) gone: bool,
}

/// All entries.
#[derive(Debug, Default)]
pub(crate) struct Table {
    nodes: Vec<Node>,
    long: Vec<u128>,
    long_free: Vec<u32>,
    index: [HashTable<Slot>; 2],
    free: Vec<Slot>,
    /// The entry that was found last.
    last: Slot,
    seed: Seed,
}

impl Table {
    pub(crate) fn new(seed: Seed) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Number of slots, free ones included.
    pub(crate) fn slots(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.index.iter().map(HashTable::len).sum()
    }

    /// The next entry needs more memory.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.nodes.len() == self.nodes.capacity()
    }

    pub(crate) fn node(&self, slot: Slot) -> &Node {
        &self.nodes[slot as usize]
    }

    pub(crate) fn node_mut(&mut self, slot: Slot) -> &mut Node {
        &mut self.nodes[slot as usize]
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (Slot, &Node)> {
        (0..).zip(&self.nodes)
    }

    /// The prefix that a slot stands for.
    pub(crate) fn prefix(&self, slot: Slot) -> Prefix {
        let node = self.node(slot);
        match node.family {
            Family::Ipv4 => Prefix::v4(node.address, node.len),
            Family::Ipv6 => Prefix::v6(self.long[node.address as usize], node.len),
        }
    }

    pub(crate) fn family(&self, slot: Slot) -> Family {
        self.node(slot).family
    }

    pub(crate) fn find(&self, prefix: &Prefix) -> Option<Slot> {
        let hash = hash(self.seed, prefix);
        let index = &self.index[prefix.family().index()];
        index.find(hash, |slot| is(&self.nodes, &self.long, *slot, prefix)).copied()
    }

    /// The same, quicker for who asks about many: routes often go, and come again, in the order in which they came,
    /// so the entry behind the last one is looked at first.
    pub(crate) fn find_next(&mut self, prefix: &Prefix) -> Option<Slot> {
        let slot = self.guess(prefix).or_else(|| self.find(prefix))?;
        self.last = slot;
        Some(slot)
    }

    fn guess(&self, prefix: &Prefix) -> Option<Slot> {
        let next = self.last.wrapping_add(1);
        let node = self.nodes.get(next as usize)?;
        let same = node.family == prefix.family() && is(&self.nodes, &self.long, next, prefix);
        same.then_some(next)
    }

    /// The slot of a prefix; makes an empty entry when there is none.
    pub(crate) fn find_or_insert(&mut self, prefix: &Prefix) -> Slot {
        self.last = self.guess(prefix).unwrap_or_else(|| self.look_up_or_insert(prefix));
        self.last
    }

    fn look_up_or_insert(&mut self, prefix: &Prefix) -> Slot {
        let (nodes, long, seed) = (&self.nodes, &self.long, self.seed);
        let index = &mut self.index[prefix.family().index()];
        let hash = hash(seed, prefix);
        let rehash = |slot: &Slot| {
            let node = &nodes[*slot as usize];
            match node.family {
                Family::Ipv4 => hash_v4(seed, node.address, node.len),
                Family::Ipv6 => hash_v6(seed, long[node.address as usize], node.len),
            }
        };
        let entry = index.entry(hash, |slot| is(nodes, long, *slot, prefix), rehash);
        let vacant = match entry {
            hashbrown::hash_table::Entry::Occupied(found) => return *found.get(),
            hashbrown::hash_table::Entry::Vacant(vacant) => vacant,
        };
        let slot = self.free.pop().unwrap_or(nodes.len() as Slot);
        vacant.insert(slot);
        let address = match prefix.address() {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => self.keep_long(a.to_bits()),
        };
        let node = Node {
            paths: Paths::None,
            address,
            best: NO_BEST,
            len: prefix.len(),
            family: prefix.family(),
            reason: Reason::OnlyRoute,
            waits: Waits::default(),
        };
        match self.nodes.get_mut(slot as usize) {
            Some(place) => *place = node,
            None => self.nodes.push(node),
        }
        slot
    }

    fn keep_long(&mut self, address: u128) -> u32 {
        match self.long_free.pop() {
            Some(at) => {
                self.long[at as usize] = address;
                at
            }
            None => {
                self.long.push(address);
                self.long.len() as u32 - 1
            }
        }
    }

    /// Drops empty entries; their slots may stand for other prefixes from now on.
    pub(crate) fn release(&mut self, slots: &[Slot]) {
        if slots.len() * MANY < self.len() {
            return slots.iter().for_each(|slot| self.release_one(*slot));
        }
        // One walk over the index is cheaper than looking for each.
        let mut gone = Marks::new(self.nodes.len());
        slots.iter().for_each(|slot| gone.mark(*slot as usize));
        for index in &mut self.index {
            index.retain(|slot| !gone.has(*slot as usize));
        }
        for slot in slots {
            let node = &mut self.nodes[*slot as usize];
            node.len = FREE;
            if node.family == Family::Ipv6 {
                self.long_free.push(node.address);
            }
        }
        self.free.extend(slots.iter().rev());
    }

    fn release_one(&mut self, slot: Slot) {
        let node = &self.nodes[slot as usize];
        let (family, address) = (node.family, node.address);
        let hash = match family {
            Family::Ipv4 => hash_v4(self.seed, address, node.len),
            Family::Ipv6 => hash_v6(self.seed, self.long[address as usize], node.len),
        };
        if let Ok(entry) = self.index[family.index()].find_entry(hash, |other| *other == slot) {
            entry.remove();
            self.nodes[slot as usize].len = FREE;
            self.free.push(slot);
            if family == Family::Ipv6 {
                self.long_free.push(address);
            }
        }
    }
}

fn is(nodes: &[Node], long: &[u128], slot: Slot, prefix: &Prefix) -> bool {
    let node = &nodes[slot as usize];
    node.len == prefix.len()
        && match prefix.address() {
            IpAddr::V4(a) => node.address == a.to_bits(),
            IpAddr::V6(a) => long[node.address as usize] == a.to_bits(),
        }
}

fn hash(seed: Seed, prefix: &Prefix) -> u64 {
    match prefix.address() {
        IpAddr::V4(a) => hash_v4(seed, a.to_bits(), prefix.len()),
        IpAddr::V6(a) => hash_v6(seed, a.to_bits(), prefix.len()),
    }
}

/// Prefixes that follow one another lie side by side in the index, sixteen to a group: routes mostly come and go
/// in order, and then nearly every look-up finds its cache line warm.
fn hash_v4(seed: Seed, address: u32, len: u8) -> u64 {
    let number = address.checked_shr(32 - u32::from(len)).unwrap_or(0);
    beside(seed.words(u64::from(number >> 4), u64::from(len)), u64::from(number & 15))
}

fn hash_v6(seed: Seed, address: u128, len: u8) -> u64 {
    let number = address.checked_shr(128 - u32::from(len)).unwrap_or(0);
    let group = number >> 4;
    let high = (group >> 64) as u64 ^ u64::from(len).rotate_left(56);
    beside(seed.words(high, group as u64), (number & 15) as u64)
}

/// The low bits of a hash choose the place, the high ones tell neighbours apart.
fn beside(group: u64, place: u64) -> u64 {
    (group & !15 | place) ^ (place << 60)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Node>() <= 40, "{}", size_of::<Node>());
    }

    #[test]
    fn prefixes_of_both_families_are_found_until_they_are_released() {
        let mut table = Table::new(Seed::new(3));
        let prefixes: Vec<Prefix> = (0..300_u32)
            .map(|n| Ipv4Addr::from_bits(n << 8).into())
            .chain((0..300_u128).map(|n| Ipv6Addr::from_bits(n << 64).into()))
            .zip((20..28).cycle())
            .map(|(address, len)| Prefix::new(address, len).unwrap())
            .collect();
        let mut unique = prefixes.clone();
        unique.sort();
        unique.dedup();
        for prefix in &prefixes {
            let slot = table.find_or_insert(prefix);
            assert_eq!((table.prefix(slot), table.find(prefix)), (*prefix, Some(slot)));
        }
        assert_eq!(table.len(), unique.len());

        let slots = table.slots();
        for prefix in unique.iter().step_by(2) {
            let slot = table.find(prefix).unwrap();
            table.release(&[slot]);
        }

        for (n, prefix) in unique.iter().enumerate() {
            assert_eq!(table.find(prefix).is_some(), n % 2 == 1, "{prefix}");
            table.find_or_insert(prefix);
        }
        assert_eq!((table.slots(), table.len()), (slots, unique.len()), "slots are used again");

        for prefix in &unique {
            assert_eq!((table.find_next(prefix), table.find(prefix).is_some()), (table.find(prefix), true));
        }
        let all: Vec<Slot> = (0..slots).collect();
        table.release(&all);
        for prefix in &unique {
            assert_eq!(
                table.find_next(prefix),
                None,
                "{prefix} is gone, whatever stands behind the last one"
            );
        }
    }
}
