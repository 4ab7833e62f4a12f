//! Prefixes and their wire form (RFC 4271 §4.3). Owns [`Prefix`] and checked lists of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::Family;

/// An IPv4 or IPv6 prefix in 18 bytes; host bits are always zero. Ordered by family, address, length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    family: Family,
    bits: [u8; 16],
    len: u8,
}

/// Text or numbers that are no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no prefix: expected ADDRESS/LENGTH with a length within the family")]
pub struct InvalidPrefix(String);

impl Prefix {
    /// The prefix of `len` bits that `address` lies in; host bits are cleared.
    ///
    /// # Errors
    /// When `len` is longer than the address.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, InvalidPrefix> {
        let family = Family::of(address);
        if len > family.max_len() {
            return Err(InvalidPrefix(format!("{address}/{len}")));
        }
        let mut bits = [0; 16];
        match address {
            IpAddr::V4(a) => bits[..4].copy_from_slice(&a.octets()),
            IpAddr::V6(a) => bits = a.octets(),
        }
        Ok(Self { family, bits: masked(bits, len), len })
    }

    /// The IPv4 prefix of `len` bits (32 at most) that the address `bits` lies in.
    #[inline]
    pub fn v4(bits: u32, len: u8) -> Self {
        Self::read_v4(&bits.to_be_bytes(), len.min(32))
    }

    /// The IPv6 prefix of `len` bits (128 at most) that the address `bits` lies in.
    #[inline]
    pub fn v6(bits: u128, len: u8) -> Self {
        Self::read_v6(&bits.to_be_bytes(), len.min(128))
    }

    /// The single-address prefix of `address`.
    pub fn host(address: IpAddr) -> Self {
        let len = Family::of(address).max_len();
        Self::new(address, len).expect("the family's own length is valid")
    }

    /// First address.
    pub fn address(&self) -> IpAddr {
        match self.family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::new(self.bits[0], self.bits[1], self.bits[2], self.bits[3])),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(self.bits)),
        }
    }

    /// Length in bits.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Address family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether this is a single address (/32 or /128).
    pub fn is_host(&self) -> bool {
        self.len == self.family.max_len()
    }

    /// Whether `other` is this prefix or lies inside it.
    pub fn contains(&self, other: &Self) -> bool {
        self.family == other.family && other.len >= self.len && masked(other.bits, self.len) == self.bits
    }

    /// Whether `address` lies inside.
    pub fn contains_address(&self, address: IpAddr) -> bool {
        self.contains(&Self::host(address))
    }

    /// Bytes that the prefix takes on the wire.
    pub fn wire_len(&self) -> usize {
        1 + usize::from(self.len).div_ceil(8)
    }

    /// Appends the wire form: length in bits, then as many octets as needed.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.len);
        out.extend_from_slice(&self.bits[..usize::from(self.len).div_ceil(8)]);
    }

    /// Length in bits and all octets of the address: more than the wire form, which is cut after
    /// [`Self::wire_len`].
    #[inline(always)]
    pub(crate) fn wire(&self) -> [u8; 17] {
        let mut wire = [0; 17];
        wire[0] = self.len;
        wire[1..].copy_from_slice(&self.bits);
        wire
    }

    /// The IPv4 prefix of `len` bits whose octets begin `octets`.
    #[inline(always)]
    fn read_v4(octets: &[u8], len: u8) -> Self {
        let word = match octets.first_chunk::<4>() {
            Some(word) => u32::from_be_bytes(*word),
            None => front::<4>(octets).map_or(0, u32::from_be_bytes),
        };
        // Shifted by 32 the mask leaves the lower half: nothing.
        let mask = (u64::from(u32::MAX) << (32 - u32::from(len.min(32)))) as u32;
        let mut bits = [0; 16];
        bits[..4].copy_from_slice(&(word & mask).to_be_bytes());
        Self { family: Family::Ipv4, bits, len }
    }

    /// The IPv6 prefix of `len` bits whose octets begin `octets`.
    #[inline(always)]
    fn read_v6(octets: &[u8], len: u8) -> Self {
        let bits = match octets.first_chunk::<16>() {
            Some(bits) => *bits,
            None => front::<16>(octets).unwrap_or_default(),
        };
        Self { family: Family::Ipv6, bits: masked(bits, len), len }
    }
}

/// The beginning of an array, where the message ends before it does.
#[cold]
fn front<const N: usize>(octets: &[u8]) -> Option<[u8; N]> {
    let mut front = [0; N];
    front.get_mut(..octets.len())?.copy_from_slice(octets);
    Some(front)
}

fn masked(bits: [u8; 16], len: u8) -> [u8; 16] {
    let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
    (u128::from_be_bytes(bits) & mask).to_be_bytes()
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl TryFrom<String> for Prefix {
    type Error = InvalidPrefix;

    fn try_from(text: String) -> Result<Self, InvalidPrefix> {
        text.parse()
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(s: &str) -> Result<Self, InvalidPrefix> {
        let invalid = || InvalidPrefix(s.to_owned());
        let (address, len) = s.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        Self::new(address, len.parse().map_err(|_| invalid())?).map_err(|_| invalid())
    }
}

/// A list of prefixes in a received message, checked as a whole when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nlri<'a> {
    family: Family,
    add_path: bool,
    bytes: &'a [u8],
}

impl<'a> Nlri<'a> {
    /// Checks that `bytes` is a list of prefixes of `family`, each after a path identifier when `add_path` (RFC
    /// 7911 §3); `None` when one is too long or cut off.
    pub fn parse(family: Family, bytes: &'a [u8], add_path: bool) -> Option<Self> {
        let (mut at, head) = (0, if add_path { 4 } else { 0 });
        // Prefixes of one length stand together: a step that is guessed keeps the loop from waiting for the octet.
        let (mut last, mut step) = (0, head + 1);
        while at < bytes.len() {
            let len = *bytes.get(at + head)?;
            if len != last {
                if len > family.max_len() {
                    return None;
                }
                (last, step) = (len, head + 1 + usize::from(len).div_ceil(8));
            }
            at += step;
        }
        if at > bytes.len() {
            return None;
        }
        Some(Self { family, add_path, bytes })
    }

    /// An empty list.
    pub fn empty(family: Family) -> Self {
        Self { family, add_path: false, bytes: &[] }
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The family of all the prefixes.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The prefixes in the order of the message, without their path identifiers.
    pub fn iter(&self) -> NlriIter<'a> {
        NlriIter(self.paths())
    }

    /// The path identifiers and prefixes in the order of the message; an identifier is 0 without ADD-PATH.
    pub fn paths(&self) -> NlriPaths<'a> {
        NlriPaths(*self)
    }
}

impl<'a> IntoIterator for Nlri<'a> {
    type Item = Prefix;
    type IntoIter = NlriIter<'a>;

    fn into_iter(self) -> NlriIter<'a> {
        self.iter()
    }
}

/// Iterates over the prefixes of an [`Nlri`].
#[derive(Clone, Debug)]
pub struct NlriIter<'a>(NlriPaths<'a>);

impl Iterator for NlriIter<'_> {
    type Item = Prefix;

    #[inline]
    fn next(&mut self) -> Option<Prefix> {
        self.0.next().map(|(_, prefix)| prefix)
    }
}

/// Iterates over the path identifiers and prefixes of an [`Nlri`].
#[derive(Clone, Debug)]
pub struct NlriPaths<'a>(Nlri<'a>);

impl Iterator for NlriPaths<'_> {
    type Item = (u32, Prefix);

    #[inline]
    fn next(&mut self) -> Option<(u32, Prefix)> {
        let (mut id, mut bytes) = (0, self.0.bytes);
        if self.0.add_path {
            let (head, rest) = bytes.split_first_chunk::<4>()?;
            (id, bytes) = (u32::from_be_bytes(*head), rest);
        }
        let (&len, octets) = bytes.split_first()?;
        let prefix = match self.0.family {
            Family::Ipv4 => Prefix::read_v4(octets, len),
            Family::Ipv6 => Prefix::read_v6(octets, len),
        };
        self.0.bytes = octets.get(usize::from(len).div_ceil(8)..).unwrap_or_default();
        Some((id, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    #[test]
    fn clears_host_bits_and_prints() {
        assert_eq!(p("10.1.2.3/26").to_string(), "10.1.2.0/26");
        assert_eq!(p("2001:db8::5/64").to_string(), "2001:db8::/64");
        assert_eq!(p("0.0.0.0/0").to_string(), "0.0.0.0/0");
    }

    #[test]
    fn refuses_what_is_no_prefix() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "::/129"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn contains_only_its_own_family_and_more_specifics() {
        assert!(p("10.0.0.0/16").contains(&p("10.0.1.0/26")));
        assert!(p("10.0.0.0/16").contains(&p("10.0.0.0/16")));
        assert!(!p("10.0.0.0/26").contains(&p("10.0.0.0/16")));
        assert!(!p("0.0.0.0/0").contains(&p("::/0")));
    }

    #[test]
    fn wire_form_is_length_then_octets() {
        let mut out = Vec::new();
        p("10.1.2.192/26").encode(&mut out);
        p("0.0.0.0/0").encode(&mut out);
        assert_eq!(out, [26, 10, 1, 2, 192, 0]);
        let list = Nlri::parse(Family::Ipv4, &out, false).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [p("10.1.2.192/26"), p("0.0.0.0/0")]);
    }

    #[test]
    fn a_list_with_a_cut_or_overlong_prefix_is_refused() {
        assert_eq!(Nlri::parse(Family::Ipv4, &[24, 10, 1], false), None);
        assert_eq!(Nlri::parse(Family::Ipv4, &[33, 1, 2, 3, 4, 5], false), None);
        assert_eq!(Nlri::parse(Family::Ipv6, &[129], false), None);
    }
}
