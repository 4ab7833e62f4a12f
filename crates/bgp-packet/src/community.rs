//! Communities (RFC 1997) and large communities (RFC 8092). Owns their text form.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A community, written `65000:100` (RFC 1997).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Community(pub u32);

impl Community {
    /// Not to be sent to an external peer.
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// Not to be sent to any peer.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Not to be sent to an external peer, members of a confederation included.
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
    /// The route is about to go away and is to be least preferred (RFC 8326 §5).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// A stale route kept by long-lived graceful restart, least preferred (RFC 9494 §3.1).
    pub const LLGR_STALE: Self = Self(0xffff_0006);
    /// Not to be kept by long-lived graceful restart (RFC 9494 §3.2).
    pub const NO_LLGR: Self = Self(0xffff_0007);
}

/// A large community, written `4200000000:1:2` (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct LargeCommunity {
    /// AS number that gives the other two a meaning.
    pub global: u32,
    /// First local part.
    pub local1: u32,
    /// Second local part.
    pub local2: u32,
}

impl LargeCommunity {
    /// The communities of an attribute, each once: a receiver drops repetitions (RFC 8092 §3).
    pub(crate) fn list(wire: &[[u8; 12]]) -> Vec<Self> {
        let mut list = Vec::with_capacity(wire.len());
        let mut seen = BTreeSet::new();
        for community in wire.iter().map(Self::from_wire) {
            // Mostly there are few, and then a set would cost more than a look.
            let is_new = match wire.len() {
                0..=8 => !list.contains(&community),
                _ => seen.insert(community),
            };
            if is_new {
                list.push(community);
            }
        }
        list
    }

    fn from_wire(bytes: &[u8; 12]) -> Self {
        let part = |i: usize| u32::from_be_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Self { global: part(0), local1: part(4), local2: part(8) }
    }

    pub(crate) fn to_wire(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (chunk, part) in bytes.chunks_exact_mut(4).zip([self.global, self.local1, self.local2]) {
            chunk.copy_from_slice(&part.to_be_bytes());
        }
        bytes
    }
}

/// Text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no community: expected aa:nn (16 bits each) or aa:nn:mm (32 bits each)")]
pub struct InvalidCommunity(String);

impl FromStr for Community {
    type Err = InvalidCommunity;

    fn from_str(s: &str) -> Result<Self, InvalidCommunity> {
        let parsed = s.split_once(':').and_then(|(a, b)| {
            let (a, b): (u16, u16) = (a.parse().ok()?, b.parse().ok()?);
            Some(Self(u32::from(a) << 16 | u32::from(b)))
        });
        parsed.ok_or_else(|| InvalidCommunity(s.to_owned()))
    }
}

impl FromStr for LargeCommunity {
    type Err = InvalidCommunity;

    fn from_str(s: &str) -> Result<Self, InvalidCommunity> {
        let parsed = s.split_once(':').and_then(|(a, rest)| {
            let (b, c) = rest.split_once(':')?;
            Some(Self { global: a.parse().ok()?, local1: b.parse().ok()?, local2: c.parse().ok()? })
        });
        parsed.ok_or_else(|| InvalidCommunity(s.to_owned()))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}
