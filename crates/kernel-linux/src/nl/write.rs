//! Writing messages.

use std::net::IpAddr;

use super::align;

const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;

/// Messages that go out in one send, in order.
#[derive(Default)]
pub struct Batch {
    pub(super) data: Vec<u8>,
    pub(super) starts: Vec<usize>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    pub fn clear(&mut self) {
        self.data.clear();
        self.starts.clear();
    }

    /// Adds a message of type `kind`; NLM_F_REQUEST and the acknowledgement are set by the socket.
    ///
    /// Returns its index, by which errors are reported.
    pub fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer<'_>)) -> usize {
        let start = self.data.len();
        self.starts.push(start);
        self.data.extend_from_slice(&[0; HEADER]);
        self.data[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
        let flags = flags | libc::NLM_F_REQUEST as u16;
        self.data[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        body(&mut Writer { data: &mut self.data });
        let length = (self.data.len() - start) as u32;
        self.data[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        pad(&mut self.data);
        self.starts.len() - 1
    }

    /// The bytes of one message with its padding.
    pub fn message(&self, index: usize) -> &[u8] {
        &self.data[self.range(index)]
    }

    pub(super) fn range(&self, index: usize) -> std::ops::Range<usize> {
        let end = self.starts.get(index + 1).copied().unwrap_or(self.data.len());
        self.starts[index]..end
    }
}

fn pad(data: &mut Vec<u8>) {
    data.resize(align(data.len()), 0);
}

/// Appends the body of one message.
pub struct Writer<'a> {
    data: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// Appends raw bytes, as the fixed header of a message family.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        pad(self.data);
    }

    /// Appends an attribute. Its payload must be shorter than 64 KiB.
    pub fn attribute(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 4).expect("callers bound their attributes");
        self.data.extend_from_slice(&length.to_ne_bytes());
        self.data.extend_from_slice(&kind.to_ne_bytes());
        self.bytes(payload);
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.attribute(kind, &[value]);
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// An address of 4 or 16 bytes.
    pub fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    /// A string with the NUL that the kernel wants.
    pub fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// An attribute that contains attributes, with NLA_F_NESTED.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Writer<'_>)) {
        self.group(kind | NLA_F_NESTED, body);
    }

    /// An attribute that contains others, without the flag (link info and route metrics are read either way).
    pub fn group(&mut self, kind: u16, body: impl FnOnce(&mut Writer<'_>)) {
        let start = self.data.len();
        self.data.extend_from_slice(&[0, 0]);
        self.data.extend_from_slice(&kind.to_ne_bytes());
        body(&mut Writer { data: self.data });
        let length = u16::try_from(self.data.len() - start).expect("callers bound their attributes");
        self.data[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// A `struct rtnexthop` and the attributes behind it (RTA_MULTIPATH).
    pub fn next_hop(&mut self, flags: u8, interface: u32, body: impl FnOnce(&mut Writer<'_>)) {
        let start = self.data.len();
        self.data.extend_from_slice(&[0, 0, flags, 0]);
        self.data.extend_from_slice(&interface.to_ne_bytes());
        body(&mut Writer { data: self.data });
        let length = u16::try_from(self.data.len() - start).expect("a next hop is a few dozen bytes");
        self.data[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}
