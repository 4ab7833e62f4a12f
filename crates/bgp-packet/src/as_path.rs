//! AS_PATH (RFC 4271 §4.3, RFC 6793). Owns the four-octet form that paths are kept in and its reading.

use std::fmt;

use crate::reader::{Reader, u32s};

/// The AS that stands for one which a two-octet speaker cannot name (RFC 6793).
pub const AS_TRANS: u32 = 23456;

const SET: u8 = 1;
const SEQUENCE: u8 = 2;

/// An AS path, kept in its four-octet wire form so that it is compared, hashed and sent without work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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

    /// Checks and takes over the value of an AS_PATH attribute; `as4` says how wide an AS is in it.
    ///
    /// # Errors
    /// What RFC 7606 §7.2 and RFC 7607 call malformed, in words.
    pub(crate) fn check(value: &[u8], as4: bool) -> Result<(), &'static str> {
        let mut reader = Reader(value);
        while !reader.is_empty() {
            let kind = reader.u8().ok_or("segment is cut off")?;
            let count = reader.u8().ok_or("segment is cut off")?;
            if !matches!(kind, SET | SEQUENCE) {
                return Err("segment of an unknown or confederation type");
            }
            if count == 0 {
                return Err("segment without an AS");
            }
            let width = if as4 { 4 } else { 2 };
            let asns = reader.take(usize::from(count) * width).ok_or("segment is longer than the path")?;
            if asns.chunks_exact(width).any(|asn| asn.iter().all(|b| *b == 0)) {
                return Err("AS 0 in the path");
            }
        }
        Ok(())
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

    /// Joins AS_PATH and AS4_PATH of a two-octet speaker (RFC 6793 §4.2.3).
    pub(crate) fn merged(self, as4_path: Self) -> Self {
        let (whole, tail) = (self.hops(), as4_path.hops());
        if tail == 0 || whole < tail {
            return self;
        }
        let mut keep = whole - tail;
        let mut bytes = Vec::with_capacity(self.0.len());
        for segment in self.segments() {
            let asns: Vec<u32> = segment.asns().collect();
            let taken = match segment.kind {
                SegmentKind::Set if keep > 0 => &asns[..],
                SegmentKind::Set => &[],
                SegmentKind::Sequence => &asns[..asns.len().min(keep)],
            };
            keep -= if segment.kind == SegmentKind::Set { keep.min(1) } else { taken.len() };
            if !taken.is_empty() {
                push_segment(&mut bytes, segment.kind, taken);
            }
        }
        bytes.extend_from_slice(&as4_path.0);
        Self(bytes.into())
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

    /// The two-octet form, and whether an AS had to be replaced by [`AS_TRANS`].
    pub(crate) fn narrow(&self) -> (Vec<u8>, bool) {
        let (mut bytes, mut replaced) = (Vec::with_capacity(self.0.len() / 2 + 2), false);
        for segment in self.segments() {
            let kind = if segment.kind == SegmentKind::Set { SET } else { SEQUENCE };
            bytes.extend_from_slice(&[kind, (segment.asns.len() / 4) as u8]);
            for asn in segment.asns() {
                let short = u16::try_from(asn).unwrap_or_else(|_| {
                    replaced = true;
                    AS_TRANS as u16
                });
                bytes.extend_from_slice(&short.to_be_bytes());
            }
        }
        (bytes, replaced)
    }
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
        let merged = old.clone().merged(AsPath::sequence(&[70000, 80000]));
        assert_eq!(merged.to_string(), "10 70000 80000");
        assert_eq!(old.clone().merged(AsPath::sequence(&[1, 2, 3, 4])), old);
    }

    #[test]
    fn narrows_with_as_trans() {
        assert_eq!(AsPath::sequence(&[1, 70000]).narrow(), (vec![2, 2, 0, 1, 0x5b, 0xa0], true));
    }

    #[test]
    fn malformed_paths_are_named() {
        for bad in [&[2u8][..], &[2, 0], &[3, 1, 0, 0, 0, 1], &[2, 2, 0, 0, 0, 1], &[2, 1, 0, 0, 0, 0]] {
            assert!(AsPath::check(bad, true).is_err(), "{bad:?}");
        }
        assert!(AsPath::check(&[], true).is_ok());
    }
}
