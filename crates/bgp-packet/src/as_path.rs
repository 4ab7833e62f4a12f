//! AS_PATH (RFC 4271 §4.3, RFC 6793). Owns the four-octet form that paths are kept in and its reading.

use std::fmt;

use crate::Fault;
use crate::reader::{Reader, u32s};

/// The AS that stands for one which a two-octet speaker cannot name (RFC 6793).
pub const AS_TRANS: u32 = 23456;

const SET: u8 = 1;
const SEQUENCE: u8 = 2;
/// The last of the two types of a confederation (RFC 5065).
const CONFED_SET: u8 = 4;

/// An AS path, kept in its four-octet wire form so that it is compared, hashed and sent without work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct AsPath(Box<[u8]>);

/// Kind of a path segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// AS_SET: unordered, counts as one.
    Set,
    /// AS_SEQUENCE: ordered.
    Sequence,
}

/// One segment of a path.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Set or sequence.
    pub kind: SegmentKind,
    asns: &'a [u8],
}

impl<'a> Segment<'a> {
    /// The AS numbers in their order.
    pub fn asns(&self) -> impl Iterator<Item = u32> + use<'a> {
        u32s(self.asns)
    }
}

impl AsPath {
    /// A path of one sequence; empty when there is no AS.
    pub fn sequence(asns: &[u32]) -> Self {
        let mut bytes = Vec::with_capacity(asns.len() * 4 + 2);
        for chunk in asns.chunks(255) {
            bytes.extend_from_slice(&[SEQUENCE, chunk.len() as u8]);
            chunk.iter().for_each(|asn| bytes.extend_from_slice(&asn.to_be_bytes()));
        }
        Self(bytes.into())
    }

    /// Checks the value of an AS_PATH attribute; `as4` says how wide an AS is in it.
    ///
    /// # Errors
    /// What RFC 7606 §7.2 and RFC 7607 call malformed, in words. Members of a confederation are refused too: a
    /// speaker that is in none must not get them (RFC 5065 §5).
    pub(crate) fn check(value: &[u8], as4: bool) -> Result<(), (Fault, &'static str)> {
        check_segments(value, if as4 { 4 } else { 2 }, SEQUENCE)
    }

    /// Checks the value of an AS4_PATH attribute (RFC 6793 §6), where members of a confederation are passed over.
    pub(crate) fn check_as4(value: &[u8]) -> Result<(), (Fault, &'static str)> {
        if value.len() < 6 {
            return Err((Fault::Length, "too short for an AS"));
        }
        check_segments(value, 4, CONFED_SET)
    }

    /// Converts a checked value; two-octet AS numbers are widened.
    pub(crate) fn from_checked(value: &[u8], as4: bool) -> Self {
        if as4 {
            return Self(value.into());
        }
        let mut bytes = Vec::with_capacity(value.len() * 2);
        let mut reader = Reader(value);
        while let (Some(kind), Some(count)) = (reader.u8(), reader.u8()) {
            bytes.extend_from_slice(&[kind, count]);
            for _ in 0..count {
                let asn = u32::from(reader.u16().unwrap_or(0));
                bytes.extend_from_slice(&asn.to_be_bytes());
            }
        }
        Self(bytes.into())
    }

    /// Converts a checked AS4_PATH, without the members of a confederation (RFC 6793 §6).
    pub(crate) fn from_checked_as4(value: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(value.len());
        let mut reader = Reader(value);
        while let (Some(kind), Some(count)) = (reader.u8(), reader.u8()) {
            let Some(asns) = reader.take(usize::from(count) * 4) else { break };
            if matches!(kind, SET | SEQUENCE) {
                bytes.extend_from_slice(&[kind, count]);
                bytes.extend_from_slice(asns);
            }
        }
        Self(bytes.into())
    }

    /// Joins AS_PATH and AS4_PATH of a two-octet speaker (RFC 6793 §4.2.3).
    pub(crate) fn merged(self, as4_path: &Self) -> Self {
        let (whole, tail) = (self.hops(), as4_path.hops());
        if tail == 0 || whole < tail {
            return self;
        }
        let mut keep = whole - tail;
        let mut joined = Joined { bytes: Vec::with_capacity(self.0.len()), sequence: None };
        for segment in self.segments() {
            let asns: Vec<u32> = segment.asns().collect();
            let taken = match segment.kind {
                SegmentKind::Set if keep > 0 => &asns[..],
                SegmentKind::Set => &[],
                SegmentKind::Sequence => &asns[..asns.len().min(keep)],
            };
            keep -= if segment.kind == SegmentKind::Set { keep.min(1) } else { taken.len() };
            if !taken.is_empty() {
                joined.push(segment.kind, taken);
            }
        }
        for segment in as4_path.segments() {
            joined.push(segment.kind, &segment.asns().collect::<Vec<_>>());
        }
        Self(joined.bytes.into())
    }

    /// The segments in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut reader = Reader(&self.0);
        std::iter::from_fn(move || {
            let kind = if reader.u8()? == SET { SegmentKind::Set } else { SegmentKind::Sequence };
            let count = usize::from(reader.u8()?);
            Some(Segment { kind, asns: reader.take(count * 4)? })
        })
    }

    /// All AS numbers in order, members of sets included.
    pub fn asns(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments().flat_map(|s| s.asns())
    }

    /// Length for the decision process: a set counts as one (RFC 4271 §9.1.2.2 a).
    pub fn hops(&self) -> usize {
        self.segments()
            .map(|s| match s.kind {
                SegmentKind::Set => 1,
                SegmentKind::Sequence => s.asns.len() / 4,
            })
            .sum()
    }

    /// The neighbouring AS that the route came from, when the path begins with a sequence.
    pub fn first(&self) -> Option<u32> {
        let segment = self.segments().next()?;
        (segment.kind == SegmentKind::Sequence).then(|| segment.asns().next()).flatten()
    }

    /// Whether no AS is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How often `asn` is in the path.
    pub fn count(&self, asn: u32) -> usize {
        self.asns().filter(|a| *a == asn).count()
    }

    /// A copy with `asn` in front (RFC 4271 §5.1.2 b).
    pub fn prepended(&self, asn: u32) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 6);
        match self.0.split_first_chunk::<2>() {
            Some(([SEQUENCE, count], rest)) if *count < 255 => {
                bytes.extend_from_slice(&[SEQUENCE, count + 1]);
                bytes.extend_from_slice(&asn.to_be_bytes());
                bytes.extend_from_slice(rest);
            }
            _ => {
                push_segment(&mut bytes, SegmentKind::Sequence, &[asn]);
                bytes.extend_from_slice(&self.0);
            }
        }
        Self(bytes.into())
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Octets of the two-octet form.
    pub(crate) fn narrow_len(&self) -> usize {
        self.segments().map(|s| 2 + s.asns.len() / 2).sum()
    }

    /// Appends the two-octet form; gives back whether an AS had to be replaced by [`AS_TRANS`].
    pub(crate) fn encode_narrow(&self, out: &mut Vec<u8>) -> bool {
        let mut replaced = false;
        for segment in self.segments() {
            let kind = if segment.kind == SegmentKind::Set { SET } else { SEQUENCE };
            out.extend_from_slice(&[kind, (segment.asns.len() / 4) as u8]);
            for asn in segment.asns() {
                let short = u16::try_from(asn).unwrap_or_else(|_| {
                    replaced = true;
                    AS_TRANS as u16
                });
                out.extend_from_slice(&short.to_be_bytes());
            }
        }
        replaced
    }
}

/// Segments in which neighbouring sequences become one, so that a path has one form.
struct Joined {
    bytes: Vec<u8>,
    /// Where the last segment begins, when it is a sequence.
    sequence: Option<usize>,
}

impl Joined {
    fn push(&mut self, kind: SegmentKind, asns: &[u32]) {
        let count = |at: usize| usize::from(self.bytes[at + 1]) + asns.len();
        match self.sequence.filter(|at| kind == SegmentKind::Sequence && count(*at) <= 255) {
            Some(at) => {
                self.bytes[at + 1] += asns.len() as u8;
                asns.iter().for_each(|asn| self.bytes.extend_from_slice(&asn.to_be_bytes()));
            }
            None => {
                self.sequence = (kind == SegmentKind::Sequence).then_some(self.bytes.len());
                push_segment(&mut self.bytes, kind, asns);
            }
        }
    }
}

/// Checks segments with AS numbers of `width` octets and types up to `last`.
#[inline(always)]
fn check_segments(value: &[u8], width: usize, last: u8) -> Result<(), (Fault, &'static str)> {
    let mut rest = value;
    while let Some((&kind, tail)) = rest.split_first() {
        let Some((&count, tail)) = tail.split_first() else {
            return Err((Fault::Length, "segment is cut off"));
        };
        if !(SET..=last).contains(&kind) {
            return Err((Fault::Value, "segment of an unknown or confederation type"));
        }
        if count == 0 {
            return Err((Fault::Length, "segment without an AS"));
        }
        let Some((asns, tail)) = tail.split_at_checked(usize::from(count) * width) else {
            return Err((Fault::Length, "segment is longer than the path"));
        };
        let zero = match width {
            4 => asns.as_chunks::<4>().0.contains(&[0; 4]),
            _ => asns.as_chunks::<2>().0.contains(&[0; 2]),
        };
        if zero {
            return Err((Fault::Value, "AS 0 in the path"));
        }
        rest = tail;
    }
    Ok(())
}

fn push_segment(bytes: &mut Vec<u8>, kind: SegmentKind, asns: &[u32]) {
    let kind = if kind == SegmentKind::Set { SET } else { SEQUENCE };
    bytes.extend_from_slice(&[kind, asns.len() as u8]);
    asns.iter().for_each(|asn| bytes.extend_from_slice(&asn.to_be_bytes()));
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for segment in self.segments() {
            let (open, close) = if segment.kind == SegmentKind::Set { ("{", "}") } else { ("", "") };
            write!(f, "{separator}{open}")?;
            for (i, asn) in segment.asns().enumerate() {
                write!(f, "{}{asn}", if i == 0 { "" } else { " " })?;
            }
            write!(f, "{close}")?;
            separator = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepends_into_the_leading_sequence() {
        let path = AsPath::sequence(&[2, 3]).prepended(1);
        assert_eq!(path, AsPath::sequence(&[1, 2, 3]));
        assert_eq!(AsPath::default().prepended(7).to_string(), "7");
        assert_eq!(AsPath::sequence(&[9; 255]).prepended(1).segments().count(), 2);
    }

    #[test]
    fn a_set_counts_as_one_hop() {
        let path = AsPath::from_checked(&[2, 1, 0, 5, 1, 2, 0, 6, 0, 7], false);
        assert_eq!((path.hops(), path.to_string().as_str()), (2, "5 {6 7}"));
    }

    #[test]
    fn merges_the_path_of_a_two_octet_speaker() {
        let old = AsPath::sequence(&[10, AS_TRANS, AS_TRANS]);
        let merged = old.clone().merged(&AsPath::sequence(&[70000, 80000]));
        assert_eq!(merged.to_string(), "10 70000 80000");
        assert_eq!(old.clone().merged(&AsPath::sequence(&[1, 2, 3, 4])), old);
    }

    #[test]
    fn narrows_with_as_trans() {
        let (path, mut bytes) = (AsPath::sequence(&[1, 70000]), Vec::new());
        assert!(path.encode_narrow(&mut bytes));
        assert_eq!((bytes.len(), bytes.as_slice()), (path.narrow_len(), &[2, 2, 0, 1, 0x5b, 0xa0][..]));
    }

    #[test]
    fn malformed_paths_are_named() {
        for bad in [&[2u8][..], &[2, 0], &[3, 1, 0, 0, 0, 1], &[2, 2, 0, 0, 0, 1], &[2, 1, 0, 0, 0, 0]] {
            assert!(AsPath::check(bad, true).is_err(), "{bad:?}");
        }
        assert!(AsPath::check(&[], true).is_ok());
    }
}
