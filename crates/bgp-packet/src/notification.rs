//! NOTIFICATION messages. Owns codes and their RFC names, and the shutdown text (RFC 8203, RFC 9003).

use std::fmt;

use crate::AfiSafi;

/// Error codes of RFC 4271 §4.5 and RFC 7313.
pub mod code {
    /// Message Header Error.
    pub const HEADER: u8 = 1;
    /// OPEN Message Error.
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error.
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite State Machine Error (RFC 6608 names the subcodes).
    pub const FSM: u8 = 5;
    /// Cease (RFC 4486 names the subcodes).
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error (RFC 7313).
    pub const ROUTE_REFRESH: u8 = 7;
    /// Send Hold Timer Expired (RFC 9687).
    pub const SEND_HOLD_TIMER: u8 = 8;
}

/// Subcodes of Cease (RFC 4486, RFC 8538, RFC 9384).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cease {
    /// Maximum Number of Prefixes Reached.
    MaxPrefixes = 1,
    /// Administrative Shutdown.
    AdministrativeShutdown = 2,
    /// Peer De-configured.
    PeerDeconfigured = 3,
    /// Administrative Reset.
    AdministrativeReset = 4,
    /// Connection Rejected.
    ConnectionRejected = 5,
    /// Other Configuration Change.
    OtherConfigurationChange = 6,
    /// Connection Collision Resolution.
    CollisionResolution = 7,
    /// Out of Resources.
    OutOfResources = 8,
    /// Hard Reset (RFC 8538): ends the session and graceful restart with it.
    HardReset = 9,
    /// BFD Down (RFC 9384).
    BfdDown = 10,
}

/// Why a session ends (RFC 4271 §4.5). Displays with the RFC's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode; 0 means unspecific.
    pub subcode: u8,
    /// Data, as the code defines it.
    pub data: Vec<u8>,
}

impl Notification {
    /// A NOTIFICATION without data.
    pub fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    /// A Cease without text.
    pub fn cease(cease: Cease) -> Self {
        Self::new(code::CEASE, cease as u8)
    }

    /// A Cease that carries a text for the operator, cut to the 255 bytes of RFC 9003.
    pub fn cease_with_text(cease: Cease, text: &str) -> Self {
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut data = vec![end as u8];
        data.extend_from_slice(&text.as_bytes()[..end]);
        Self { code: code::CEASE, subcode: cease as u8, data }
    }

    /// A Cease because the peer announced more than `limit` prefixes of a family (RFC 4486 §4).
    pub fn max_prefixes(family: AfiSafi, limit: u32) -> Self {
        let [a, b] = family.afi.to_be_bytes();
        let mut data = vec![a, b, family.safi];
        data.extend_from_slice(&limit.to_be_bytes());
        Self { code: code::CEASE, subcode: Cease::MaxPrefixes as u8, data }
    }

    /// Wraps a NOTIFICATION into a Hard Reset (RFC 8538 §3.1).
    pub fn hard_reset(self) -> Self {
        let mut data = vec![self.code, self.subcode];
        data.extend(self.data);
        Self { code: code::CEASE, subcode: Cease::HardReset as u8, data }
    }

    /// Whether this is a Hard Reset (RFC 8538).
    pub fn is_hard_reset(&self) -> bool {
        self.code == code::CEASE && self.subcode == Cease::HardReset as u8
    }

    /// What a Hard Reset wraps, if it is one and says (RFC 8538 §3.1).
    pub fn hard_reset_cause(&self) -> Option<Self> {
        self.is_hard_reset().then(|| Self::parse(&self.data)).flatten()
    }

    /// The operator's text of a shutdown or reset (RFC 9003), when it is valid UTF-8.
    pub fn text(&self) -> Option<&str> {
        if self.code != code::CEASE || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (&len, rest) = self.data.split_first()?;
        std::str::from_utf8(rest.get(..usize::from(len))?).ok().filter(|t| !t.is_empty())
    }

    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let [code, subcode, data @ ..] = body else { return None };
        Some(Self { code: *code, subcode: *subcode, data: data.to_vec() })
    }

    /// Appends the message with its header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let data = &self.data[..self.data.len().min(crate::MAX_LEN - crate::HEADER_LEN - 2)];
        crate::message::encode_message(out, crate::MessageType::Notification, |out| {
            out.extend_from_slice(&[self.code, self.subcode]);
            out.extend_from_slice(data);
        });
    }

    fn names(&self) -> (&'static str, &'static str) {
        let subcodes: &[&'static str] = match self.code {
            code::HEADER => &["Connection Not Synchronized", "Bad Message Length", "Bad Message Type"],
            code::OPEN => &[
                "Unsupported Version Number",
                "Bad Peer AS",
                "Bad BGP Identifier",
                "Unsupported Optional Parameter",
                "Authentication Failure",
                "Unacceptable Hold Time",
                "Unsupported Capability",
                "",
                "",
                "",
                "Role Mismatch",
            ],
            code::UPDATE => &[
                "Malformed Attribute List",
                "Unrecognized Well-known Attribute",
                "Missing Well-known Attribute",
                "Attribute Flags Error",
                "Attribute Length Error",
                "Invalid ORIGIN Attribute",
                "AS Routing Loop",
                "Invalid NEXT_HOP Attribute",
                "Optional Attribute Error",
                "Invalid Network Field",
                "Malformed AS_PATH",
            ],
            code::FSM => &[
                "Unexpected Message in OpenSent State",
                "Unexpected Message in OpenConfirm State",
                "Unexpected Message in Established State",
            ],
            code::CEASE => &[
                "Maximum Number of Prefixes Reached",
                "Administrative Shutdown",
                "Peer De-configured",
                "Administrative Reset",
                "Connection Rejected",
                "Other Configuration Change",
                "Connection Collision Resolution",
                "Out of Resources",
                "Hard Reset",
                "BFD Down",
            ],
            code::ROUTE_REFRESH => &["Invalid Message Length"],
            _ => &[],
        };
        let code = match self.code {
            code::HEADER => "Message Header Error",
            code::OPEN => "OPEN Message Error",
            code::UPDATE => "UPDATE Message Error",
            code::HOLD_TIMER => "Hold Timer Expired",
            code::FSM => "Finite State Machine Error",
            code::CEASE => "Cease",
            code::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
            code::SEND_HOLD_TIMER => "Send Hold Timer Expired",
            _ => "Unknown Error",
        };
        let subcode = usize::from(self.subcode).checked_sub(1).and_then(|i| subcodes.get(i));
        (code, subcode.copied().unwrap_or(""))
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.names();
        write!(f, "{code}")?;
        if !subcode.is_empty() {
            write!(f, ": {subcode}")?;
        }
        write!(f, " [{}/{}]", self.code, self.subcode)?;
        // A wrapped Hard Reset is not unwrapped again: nobody may choose how deep we go.
        if let Some(cause) = self.hard_reset_cause().filter(|cause| !cause.is_hard_reset()) {
            write!(f, " because of {cause}")?;
        }
        match self.text() {
            Some(text) => write!(f, " \"{}\"", text.escape_debug()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_names_and_text() {
        let n = Notification::cease_with_text(Cease::AdministrativeShutdown, "going\nhome");
        assert_eq!(n.to_string(), "Cease: Administrative Shutdown [6/2] \"going\\nhome\"");
        assert_eq!(Notification::new(4, 0).to_string(), "Hold Timer Expired [4/0]");
        assert_eq!(Notification::new(99, 7).to_string(), "Unknown Error [99/7]");
    }

    #[test]
    fn text_is_cut_at_a_character_and_a_lying_length_gives_none() {
        let long = Notification::cease_with_text(Cease::AdministrativeReset, &"é".repeat(200));
        assert_eq!(long.text().unwrap().len(), 254);
        let lying = Notification { code: 6, subcode: 2, data: vec![200, b'x'] };
        assert_eq!(lying.text(), None);
    }

    #[test]
    fn hard_reset_wraps_the_cause() {
        let n = Notification::cease(Cease::PeerDeconfigured).hard_reset();
        assert!(n.is_hard_reset());
        assert_eq!(n.data, [6, 3]);
        assert_eq!(n.hard_reset_cause(), Some(Notification::cease(Cease::PeerDeconfigured)));
        assert_eq!(n.to_string(), "Cease: Hard Reset [6/9] because of Cease: Peer De-configured [6/3]");
        assert_eq!(Notification::cease(Cease::HardReset).hard_reset_cause(), None);
    }

    #[test]
    fn a_limit_of_prefixes_is_named() {
        let n = Notification::max_prefixes(crate::Family::Ipv6.into(), 1000);
        assert_eq!((n.code, n.subcode, &n.data[..]), (6, 1, &[0, 2, 1, 0, 0, 3, 0xe8][..]));
    }
}
