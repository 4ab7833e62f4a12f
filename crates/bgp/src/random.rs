//! Jitter. Owns a small generator that is seeded from outside, so that a run can be repeated.

use std::time::Duration;

/// SplitMix64: enough for jitter, nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration between three quarters of `whole` and all of it (RFC 4271 §10).
    pub(crate) fn jitter(&mut self, whole: Duration) -> Duration {
        let quarter = u64::try_from(whole.as_micros() / 4).unwrap_or(u64::MAX / 4);
        let cut = if quarter == 0 { 0 } else { self.next() % quarter };
        whole - Duration::from_micros(cut)
    }
}
