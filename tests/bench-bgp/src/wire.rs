//! The few BGP messages that the load needs, written and read by hand: no code of the speaker that is measured
//! takes part in judging it. IPv4 unicast, four-octet AS numbers, nothing else.

use std::net::Ipv4Addr;
use std::ops::Range;

/// Length of a message header (RFC 4271 §4.1).
pub(crate) const HEADER: usize = 19;
/// Longest message without RFC 8654.
const MAX: usize = 4096;
/// All prefixes have the length of a block of addresses: five bytes each on the wire.
const PREFIX_LENGTH: u8 = 26;
/// Bytes of a prefix on the wire.
const PREFIX_BYTES: usize = 5;
/// The first prefix; number `i` lies `i` blocks above.
const FIRST: u32 = 0x1400_0000;

/// Message types (RFC 4271 §4.1).
pub(crate) const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
pub(crate) const NOTIFICATION: u8 = 3;
pub(crate) const KEEPALIVE: u8 = 4;

fn message(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&((HEADER + body.len()) as u16).to_be_bytes());
    out.push(kind);
    out.extend_from_slice(body);
}

/// A KEEPALIVE.
pub(crate) fn keepalive() -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, KEEPALIVE, &[]);
    out
}

/// An OPEN with IPv4 unicast, route refresh and four-octet AS numbers.
pub(crate) fn open(asn: u32, id: Ipv4Addr, hold_time: u16) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4];
    capabilities.extend_from_slice(&asn.to_be_bytes());
    let short = u16::try_from(asn).unwrap_or(23456);
    let mut body = vec![4];
    body.extend_from_slice(&short.to_be_bytes());
    body.extend_from_slice(&hold_time.to_be_bytes());
    body.extend_from_slice(&id.octets());
    body.extend_from_slice(&[capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
    body.extend_from_slice(&capabilities);
    let mut out = Vec::new();
    message(&mut out, OPEN, &body);
    out
}

/// What the attributes of an announcement say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) next_hop: Ipv4Addr,
    /// Written into the AS path and a community, so that equal numbers mean equal attributes.
    pub(crate) mark: u32,
}

impl Attributes {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0x40, 1, 1, 0, 0x40, 2, 10, 2, 2];
        out.extend_from_slice(&65010_u32.to_be_bytes());
        out.extend_from_slice(&(100_000 + self.mark).to_be_bytes());
        out.extend_from_slice(&[0x40, 3, 4]);
        out.extend_from_slice(&self.next_hop.octets());
        out.extend_from_slice(&[0x40, 5, 4]);
        out.extend_from_slice(&100_u32.to_be_bytes());
        out.extend_from_slice(&[0xc0, 8, 4]);
        out.extend_from_slice(&(65010_u32 << 16 | self.mark & 0xffff).to_be_bytes());
        out
    }
}

/// UPDATEs that announce the prefixes of `range`, `per_message` in each (or as many as fit). With `differ` every
/// message has attributes of its own.
pub(crate) fn announce(range: Range<u32>, per_message: usize, next_hop: Ipv4Addr, differ: bool) -> Vec<u8> {
    let (mut out, mut mark, mut at) = (Vec::new(), 0, range.start);
    while at < range.end {
        let attributes = Attributes { next_hop, mark }.encode();
        let room = (MAX - HEADER - 4 - attributes.len()) / PREFIX_BYTES;
        let count = per_message.min(room).min((range.end - at) as usize) as u32;
        let mut body = vec![0, 0];
        body.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
        body.extend_from_slice(&attributes);
        prefixes(&mut body, at..at + count);
        message(&mut out, UPDATE, &body);
        at += count;
        mark += u32::from(differ);
    }
    out
}

/// UPDATEs that withdraw the prefixes of `range`.
pub(crate) fn withdraw(range: Range<u32>) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), range.start);
    while at < range.end {
        let count = ((MAX - HEADER - 4) / PREFIX_BYTES).min((range.end - at) as usize) as u32;
        let mut body = ((count as usize * PREFIX_BYTES) as u16).to_be_bytes().to_vec();
        prefixes(&mut body, at..at + count);
        body.extend_from_slice(&[0, 0]);
        message(&mut out, UPDATE, &body);
        at += count;
    }
    out
}

fn prefixes(out: &mut Vec<u8>, range: Range<u32>) {
    for i in range {
        out.push(PREFIX_LENGTH);
        out.extend_from_slice(&(FIRST + (i << (32 - PREFIX_LENGTH))).to_be_bytes());
    }
}

/// The type and the length of the message at the front, once its header is there. `None` asks for more bytes.
pub(crate) fn header(bytes: &[u8]) -> Option<(u8, usize)> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    Some((*bytes.get(18)?, length.max(HEADER)))
}

/// Calls `each` with the number of every prefix of an UPDATE's body, and whether it is announced.
/// `None` when the body is no UPDATE of ours.
pub(crate) fn walk(body: &[u8], mut each: impl FnMut(u32, bool)) -> Option<()> {
    let (withdrawn, rest) = section(body)?;
    let (_, announced) = section(rest)?;
    for (part, is_announced) in [(withdrawn, false), (announced, true)] {
        let (chunks, rest) = part.as_chunks::<PREFIX_BYTES>();
        for [length, a, b, c, d] in chunks {
            if *length != PREFIX_LENGTH {
                return None;
            }
            let address = u32::from_be_bytes([*a, *b, *c, *d]);
            each(address.wrapping_sub(FIRST) >> (32 - PREFIX_LENGTH), is_announced);
        }
        if !rest.is_empty() {
            return None;
        }
    }
    Some(())
}

fn section(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(bytes: &[u8]) -> Vec<(u32, bool)> {
        let (mut rest, mut found) = (bytes, Vec::new());
        while let Some((kind, length)) = header(rest) {
            assert_eq!(kind, UPDATE);
            assert!(length <= MAX);
            walk(&rest[HEADER..length], |i, announced| found.push((i, announced))).unwrap();
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        found
    }

    #[test]
    fn what_is_announced_is_counted() {
        let next_hop = Ipv4Addr::new(10, 200, 0, 2);

        for per_message in [1, 5, 10_000] {
            let found = seen(&announce(7..2007, per_message, next_hop, true));

            assert_eq!(found, (7..2007).map(|i| (i, true)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_withdrawn_is_counted() {
        assert_eq!(seen(&withdraw(0..3000)), (0..3000).map(|i| (i, false)).collect::<Vec<_>>());
    }

    #[test]
    fn a_body_that_is_cut_is_refused() {
        let whole = announce(0..1, 1, Ipv4Addr::LOCALHOST, false);

        for end in HEADER..whole.len() {
            assert!(walk(&whole[HEADER..end], |_, _| {}).is_none() || end == whole.len() - PREFIX_BYTES);
        }
    }
}
