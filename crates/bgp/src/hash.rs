//! Hashing for tables whose keys a peer chooses. Owns the function: a multiplication that is folded, as
//! quick as the tables need, with a seed so that nobody outside can plan collisions.

use std::hash::{Hash, Hasher};

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// What makes the hashes of one speaker differ from those of another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fold(seed ^ MULTIPLIER, 0xd6e8_feb8_6659_fd93))
    }

    /// Hash of two words.
    pub(crate) fn words(self, a: u64, b: u64) -> u64 {
        fold(fold(self.0 ^ a, MULTIPLIER) ^ b, MULTIPLIER)
    }

    /// Hash of octets.
    pub(crate) fn octets(self, octets: &[u8]) -> u64 {
        let mut state = State(self.0);
        state.write(octets);
        state.finish()
    }

    /// Hash of anything.
    pub(crate) fn of(self, value: &impl Hash) -> u64 {
        let mut state = State(self.0);
        value.hash(&mut state);
        state.finish()
    }
}

/// Half of a hash.
pub(crate) fn short(hash: u64) -> u32 {
    (hash >> 32) as u32 ^ hash as u32
}

/// A hash for an index, which looks at both ends of it.
pub(crate) fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

struct State(u64);

impl State {
    fn word(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, MULTIPLIER).wrapping_add(word.rotate_left(29));
    }
}

impl Hasher for State {
    fn finish(&self) -> u64 {
        fold(self.0, MULTIPLIER)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn write_u8(&mut self, n: u8) {
        self.word(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.word(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_prefixes_spread_over_a_table() {
        let seed = Seed::new(7);
        let mut buckets = [0_u32; 1024];
        for n in 0..16 * 1024_u64 {
            buckets[(seed.words((10 << 24) + n * 64, 26) >> 54) as usize] += 1;
        }
        let fullest = buckets.iter().max().unwrap();
        assert!(*fullest < 64, "16 are expected in a bucket, one has {fullest}");
        assert_ne!(seed.words(1, 2), Seed::new(8).words(1, 2));
    }
}
