//! Values under small numbers, and maps and sets by such numbers.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Keeps values under numbers that are dense: one that was given back is given out again.
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(id) = self.free.pop() {
            self.entries[id as usize] = Some(value);
            return id;
        }
        self.entries.push(Some(value));
        u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 objects fit into memory")
    }

    pub(crate) fn get(&self, id: u32) -> &T {
        self.entries[id as usize].as_ref().expect("an ID is forgotten before its value goes")
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> &mut T {
        self.entries[id as usize].as_mut().expect("an ID is forgotten before its value goes")
    }

    pub(crate) fn remove(&mut self, id: u32) -> T {
        self.free.push(id);
        self.entries[id as usize].take().expect("an ID is forgotten before its value goes")
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.entries.get(id as usize).is_some_and(Option::is_some)
    }

    /// Every number in use.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().zip(0..).filter(|(entry, _)| entry.is_some()).map(|(_, id)| id)
    }
}

/// For keys that are numbers which we gave out ourselves: nobody can choose them so that they collide.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(u64::from(number));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl IdHasher {
    /// Multiplies by 2^64 over the golden ratio; the fold brings the good bits to both ends.
    fn mix(&mut self, number: u64) {
        let product = u128::from(self.0.rotate_left(5) ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;
pub(crate) type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_out_again() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));

        assert_eq!(slab.remove(a), 'a');
        assert_eq!(slab.ids().collect::<Vec<_>>(), [b]);
        assert_eq!(slab.insert('c'), a);
        assert_eq!((*slab.get(a), *slab.get(b)), ('c', 'b'));
    }
}
