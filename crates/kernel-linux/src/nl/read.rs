//! Walking messages and attributes in place. Malformed input ends the walk; it never panics.

use std::net::IpAddr;

use super::align;

const TYPE_MASK: u16 = 0x3fff;

/// One message in a received buffer.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The socket whose request this answers or tells of; 0 for the kernel's own doing.
    pub port: u32,
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a fixed header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes(self.body.get(align(header)..).unwrap_or_default())
    }
}

/// The messages of one datagram.
pub fn messages(mut data: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(data, 0)? as usize;
        if length < 16 || length > data.len() {
            return None;
        }
        let message = Message {
            kind: u16_at(data, 4)?,
            flags: u16_at(data, 6)?,
            sequence: u32_at(data, 8)?,
            port: u32_at(data, 12)?,
            body: &data[16..length],
        };
        data = data.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes one after another.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let length = usize::from(u16_at(self.0, 0)?);
        if length < 4 || length > self.0.len() {
            return None;
        }
        let attribute = Attribute { kind: u16_at(self.0, 2)? & TYPE_MASK, payload: &self.0[4..length] };
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some(attribute)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// Without the flags for nesting and byte order.
    pub kind: u16,
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    pub fn u32(&self) -> Option<u32> {
        u32_at(self.payload, 0)
    }

    /// A number in network byte order.
    pub fn be16(&self) -> Option<u16> {
        Some(u16::from_be(u16_at(self.payload, 0)?))
    }

    /// An address of 4 or 16 bytes.
    pub fn address(&self) -> Option<IpAddr> {
        address(self.payload)
    }

    /// Text up to its NUL; what is no UTF-8 is replaced.
    pub fn string(&self) -> String {
        let end = self.payload.iter().position(|byte| *byte == 0).unwrap_or(self.payload.len());
        String::from_utf8_lossy(&self.payload[..end]).into_owned()
    }

    pub fn nested(&self) -> Attributes<'a> {
        Attributes(self.payload)
    }
}

pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nl::Batch;

    #[test]
    fn what_is_written_is_read_back() {
        let mut batch = Batch::new();
        batch.push(24, 0x400, |w| {
            w.bytes(&[1, 2, 3]);
            w.u32(4, 0xdead_beef);
            w.group(8, |w| w.string(2, "cali1"));
        });
        batch.push(25, 0, |_| {});

        let read: Vec<_> = messages(&batch.data).collect();

        assert_eq!((read[0].kind, read[0].flags, read[1].kind), (24, 0x401, 25));
        let attributes: Vec<_> = read[0].attributes(3).collect();
        assert_eq!((attributes[0].kind, attributes[0].u32()), (4, Some(0xdead_beef)));
        assert_eq!(attributes[1].nested().next().map(|a| a.string()), Some("cali1".to_owned()));
        assert_eq!((attributes.len(), read.len()), (2, 2));
    }

    #[test]
    fn any_bytes_end_the_walk_and_nothing_else() {
        let mut batch = Batch::new();
        batch.push(24, 0, |w| {
            w.bytes(&[0; 12]);
            w.nested(9, |w| w.next_hop(0, 1, |w| w.u32(5, 1)));
        });
        let whole = batch.data;
        for at in 0..whole.len() {
            for value in [0, 1, 3, 4, 0x7f, 0xff] {
                let mut data = whole.clone();
                data[at] = value;
                for end in [at, data.len()] {
                    for message in messages(&data[..end]) {
                        for attribute in message.attributes(12) {
                            attribute.nested().for_each(drop);
                            let _ = (attribute.u32(), attribute.be16(), attribute.address());
                            let _ = attribute.string();
                        }
                        let _ = crate::route::parse(&message, &|_| None);
                        let _ = crate::nexthop::parse(&Message { kind: 104, ..message }, &|_| None);
                        let _ = crate::link::parse_link(&message);
                        let _ = crate::link::parse_address(&message);
                        let _ = crate::nflog::parse(&message);
                        let _ = crate::connections::parse(&message);
                        let _ = crate::fib::parse_match(&message, model::Family::V4);
                    }
                }
            }
        }
    }
}
