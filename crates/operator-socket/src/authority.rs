//! What the `gobgp` client needs before HTTP/2 can be spoken with it.
//!
//! Over a unix socket it sends the socket's path as `:authority`, which is none (RFC 9113 §8.3.1), and which
//! the HTTP/2 library refuses for every program that uses it. Nothing here asks for the authority, so it is
//! replaced by one letter on the way in. Owns just that: other octets pass as they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Octets that a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Longest frame without a setting that allows more (RFC 9113 §4.2).
const MAX_FRAME: usize = 16_384;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Passes octets on; frames with headers only as a whole.
#[derive(Debug)]
struct Mender {
    /// Octets that pass unread: the preface, or the rest of a frame.
    pass: usize,
    waiting: Vec<u8>,
}

impl Mender {
    fn new() -> Self {
        Self { pass: PREFACE, waiting: Vec::new() }
    }

    /// Takes what came in and appends what may go on.
    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        self.waiting.extend_from_slice(input);
        loop {
            let pass = self.pass.min(self.waiting.len());
            out.extend(self.waiting.drain(..pass));
            self.pass -= pass;
            let Some(head) = self.waiting.first_chunk::<HEAD>().filter(|_| self.pass == 0) else { return };
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if head[3] != HEADERS || length > MAX_FRAME {
                // What is too long is refused behind this.
                self.pass = HEAD + length;
                continue;
            }
            if self.waiting.len() < HEAD + length {
                return;
            }
            let frame: Vec<u8> = self.waiting.drain(..HEAD + length).collect();
            out.extend(mend(&frame).unwrap_or(frame));
        }
    }
}

/// A frame of headers with another authority; `None` when there is nothing to mend.
fn mend(frame: &[u8]) -> Option<Vec<u8>> {
    let (head, payload) = frame.split_first_chunk::<HEAD>()?;
    let flags = head[4];
    if flags & END_HEADERS == 0 {
        return None;
    }
    let padding = if flags & PADDED != 0 { usize::from(*payload.first()?) } else { 0 };
    let start = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let block = payload.get(start..payload.len().checked_sub(padding)?)?;
    let value = authority(block)?;
    let mut mended = payload[..start + value.start].to_vec();
    // A string of one plain octet: never longer than what stood there, so that whatever the sender counts on
    // being in the table of headers is there.
    mended.extend_from_slice(&[1, b'x']);
    mended.extend_from_slice(&payload[start + value.end..]);
    let mut out = u32::try_from(mended.len()).ok()?.to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&head[3..]);
    out.extend(mended);
    Some(out)
}

/// Where the value of `:authority` stands in a block of headers (RFC 7541 §6), its length included.
fn authority(block: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    while let Some(first) = block.get(at).copied() {
        let bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(block, &mut at, bits)?;
        if bits == 7 || bits == 5 {
            continue;
        }
        if index == 0 {
            skip_string(block, &mut at)?;
        }
        let start = at;
        skip_string(block, &mut at)?;
        // Entry 1 of the static table is `:authority` (RFC 7541 appendix A).
        if index == 1 && at - start > 2 {
            return Some(start..at);
        }
    }
    None
}

/// RFC 7541 §5.1, up to what can be a length here.
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let max = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & max;
    *at += 1;
    if value < max {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let octet = *block.get(*at)?;
        *at += 1;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// RFC 7541 §5.2.
fn skip_string(block: &[u8], at: &mut usize) -> Option<()> {
    let length = integer(block, at, 7)?;
    *at = at.checked_add(length).filter(|end| *end <= block.len())?;
    Some(())
}

/// The incoming side of a stream, mended.
#[derive(Debug)]
pub(crate) struct Mended<R> {
    reader: R,
    mender: Mender,
    ready: Vec<u8>,
}

impl<R> Mended<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, mender: Mender::new(), ready: Vec::new() }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Mended<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.ready.is_empty() {
            let mut part = [0; 4096];
            let mut part = ReadBuf::new(&mut part);
            ready!(Pin::new(&mut self.reader).poll_read(context, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let this = &mut *self;
            this.mender.feed(part.filled(), &mut this.ready);
        }
        let n = self.ready.len().min(buffer.remaining());
        buffer.put_slice(&self.ready[..n]);
        self.ready.drain(..n);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A preface, a SETTINGS frame, and headers: `:method POST`, `:authority /run/x`, a literal behind it.
    fn stream() -> Vec<u8> {
        let block = b"\x83\x41\x06/run/x\x40\x01a\x02bc";
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend_from_slice(b"\0\0\0\x04\0\0\0\0\0");
        bytes.extend_from_slice(&[0, 0, block.len() as u8, HEADERS, END_HEADERS, 0, 0, 0, 1]);
        bytes.extend_from_slice(block);
        bytes.extend_from_slice(b"\0\0\x03\0\x01\0\0\0\x01abc");
        bytes
    }

    #[test]
    fn only_the_authority_is_replaced_however_the_octets_come() {
        let block = b"\x83\x41\x01x\x40\x01a\x02bc";
        let mut expected = stream();
        let at = PREFACE + HEAD;
        expected[at + 2] = block.len() as u8;
        expected.splice(at + HEAD..at + HEAD + 15, block.iter().copied());

        for size in [1, 2, 7, 1000] {
            let (mut mender, mut out) = (Mender::new(), Vec::new());
            stream().chunks(size).for_each(|part| mender.feed(part, &mut out));
            assert_eq!(out, expected, "in parts of {size}");
        }
    }

    #[test]
    fn garbage_passes_as_it_is() {
        for seed in 0..2000_u32 {
            let mut bytes = stream();
            for (i, byte) in bytes.iter_mut().enumerate().skip(PREFACE + HEAD + HEAD) {
                *byte = (seed.wrapping_mul(2_654_435_761).rotate_left(i as u32 % 32) >> 7) as u8;
            }
            let (mut mender, mut out) = (Mender::new(), Vec::new());
            mender.feed(&bytes, &mut out);
            assert!(out.len() + mender.waiting.len() <= bytes.len(), "nothing is made up");
        }
    }
}
