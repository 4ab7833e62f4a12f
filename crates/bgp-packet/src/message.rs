//! Message header and framing (RFC 4271 §4.1, RFC 8654). Owns where a message ends and its type.

use crate::{AfiSafi, DecodeError, Notification, Open, RouteRefresh, Update, UpdateContext, code};

/// Octets of the header.
pub const HEADER_LEN: usize = 19;
/// Longest message without RFC 8654.
pub const MAX_LEN: usize = 4096;
/// Longest message with RFC 8654.
pub const MAX_EXTENDED_LEN: usize = 65535;

/// Types of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    /// OPEN.
    Open = 1,
    /// UPDATE.
    Update = 2,
    /// NOTIFICATION.
    Notification = 3,
    /// KEEPALIVE.
    Keepalive = 4,
    /// ROUTE-REFRESH (RFC 2918).
    RouteRefresh = 5,
}

/// One whole message at the front of a receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type.
    pub kind: MessageType,
    /// What follows the header.
    pub body: &'a [u8],
    /// Octets of header and body together: to be consumed from the buffer.
    pub len: usize,
}

/// A received message.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "UPDATE is by far the most frequent and must not allocate")]
pub enum Message<'a> {
    /// OPEN.
    Open(Open),
    /// UPDATE.
    Update(Update<'a>),
    /// NOTIFICATION.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefresh),
}

/// Finds the first message in `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// With the subcode of RFC 4271 §6.1, as soon as the header shows it.
#[inline]
pub fn frame(buffer: &[u8], max_len: usize) -> Result<Option<Frame<'_>>, DecodeError> {
    let Some((header, _)) = buffer.split_first_chunk::<HEADER_LEN>() else {
        let marker = &buffer[..buffer.len().min(16)];
        return if marker.iter().all(|b| *b == 0xff) { Ok(None) } else { Err(bad_marker()) };
    };
    if header.first_chunk() != Some(&[0xff; 16]) {
        return Err(bad_marker());
    }
    let length = [header[16], header[17]];
    let len = usize::from(u16::from_be_bytes(length));
    let bad_length = || DecodeError::new(code::HEADER, 2, "bad message length").with_data(&length);
    let (kind, min, max) = match header[18] {
        1 => (MessageType::Open, 29, MAX_LEN),
        2 => (MessageType::Update, 23, max_len),
        3 => (MessageType::Notification, 21, max_len),
        4 => (MessageType::Keepalive, HEADER_LEN, HEADER_LEN),
        5 => (MessageType::RouteRefresh, HEADER_LEN, max_len),
        other => {
            return Err(DecodeError::new(code::HEADER, 3, "unknown message type").with_data(&[other]));
        }
    };
    if len < min || len > max {
        return Err(bad_length());
    }
    Ok(buffer.get(HEADER_LEN..len).map(|body| Frame { kind, body, len }))
}

#[cold]
fn bad_marker() -> DecodeError {
    DecodeError::new(code::HEADER, 1, "marker is not all ones")
}

impl<'a> Frame<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// What resets the session; see [`DecodeError`].
    #[inline]
    pub fn parse(&self, context: UpdateContext) -> Result<Message<'a>, DecodeError> {
        Ok(match self.kind {
            MessageType::Open => Message::Open(Open::parse(self.body)?),
            MessageType::Update => Message::Update(Update::parse(self.body, context)?),
            MessageType::Keepalive => Message::Keepalive,
            MessageType::Notification => Message::Notification(
                Notification::parse(self.body)
                    .ok_or_else(|| DecodeError::new(code::HEADER, 2, "NOTIFICATION is cut off"))?,
            ),
            MessageType::RouteRefresh => Message::RouteRefresh(RouteRefresh::parse(self.body)?),
        })
    }
}

impl RouteRefresh {
    /// Reads the body. One of a subtype that RFC 7313 does not define is read whatever its length, to be ignored.
    fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let error = || {
            let mut message = Vec::new();
            encode_message(&mut message, MessageType::RouteRefresh, |out| out.extend_from_slice(body));
            let error = DecodeError::new(code::ROUTE_REFRESH, 1, "ROUTE-REFRESH of a wrong length");
            error.with_data(&message)
        };
        let [a, b, subtype, safi, rest @ ..] = body else { return Err(error()) };
        if *subtype <= Self::END && !rest.is_empty() {
            return Err(error());
        }
        let family = AfiSafi { afi: u16::from_be_bytes([*a, *b]), safi: *safi };
        Ok(Self { family, subtype: *subtype })
    }

    /// Appends the message with its header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let [a, b] = self.family.afi.to_be_bytes();
        encode_message(out, MessageType::RouteRefresh, |out| {
            out.extend_from_slice(&[a, b, self.subtype, self.family.safi]);
        });
    }
}

/// Appends a KEEPALIVE.
pub fn encode_keepalive(out: &mut Vec<u8>) {
    encode_message(out, MessageType::Keepalive, |_| {});
}

/// Appends a header, lets `body` append, and fills in the length.
pub(crate) fn encode_message(out: &mut Vec<u8>, kind: MessageType, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, kind as u8]);
    body(out);
    let len = (out.len() - start) as u16;
    out[start + 16..start + 18].copy_from_slice(&len.to_be_bytes());
}
