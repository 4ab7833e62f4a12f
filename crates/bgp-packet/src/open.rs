//! OPEN messages (RFC 4271 §4.2, RFC 9072). Owns their layout and the checks that need no configuration.

use std::net::Ipv4Addr;

use crate::reader::Reader;
use crate::{AS_TRANS, AddPathMode, Capability, DecodeError, Family, GracefulRestart, Role, code};

/// What a speaker says of itself when a connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// AS number; the four-octet one when the capability is there.
    pub asn: u32,
    /// Proposed hold time in seconds: 0, or at least 3.
    pub hold_time: u16,
    /// BGP Identifier; never 0.
    pub router_id: Ipv4Addr,
    /// Capabilities in the order of the message.
    pub capabilities: Vec<Capability>,
}

/// Kept for callers that build an OPEN from text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an OPEN needs a hold time of 0 or at least 3 seconds and a router id that is not 0.0.0.0")]
pub struct InvalidOpen;

impl Open {
    /// Whether the values may be sent at all.
    ///
    /// # Errors
    /// When the hold time is 1 or 2, or the identifier is 0.
    pub fn validate(&self) -> Result<(), InvalidOpen> {
        let fine = !matches!(self.hold_time, 1 | 2) && !self.router_id.is_unspecified();
        if fine { Ok(()) } else { Err(InvalidOpen) }
    }

    /// Reads the body of an OPEN.
    ///
    /// # Errors
    /// With the subcode of RFC 4271 §6.2 for what is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let cut = || DecodeError::new(code::OPEN, 0, "OPEN is cut off");
        let mut reader = Reader(body);
        if reader.u8().ok_or_else(cut)? != 4 {
            return Err(DecodeError::new(code::OPEN, 1, "version is not 4").with_data(&[0, 4]));
        }
        let short_as = reader.u16().ok_or_else(cut)?;
        let hold_time = reader.u16().ok_or_else(cut)?;
        let router_id = Ipv4Addr::from(reader.u32().ok_or_else(cut)?);
        let capabilities = parse_parameters(reader.0)?;
        let long_as = capabilities.iter().find_map(|c| match c {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        let asn = long_as.unwrap_or(u32::from(short_as));
        if matches!(hold_time, 1 | 2) {
            return Err(DecodeError::new(code::OPEN, 6, "hold time of 1 or 2 seconds"));
        }
        if router_id.is_unspecified() {
            return Err(DecodeError::new(code::OPEN, 3, "BGP Identifier is 0"));
        }
        if asn == 0 || asn == AS_TRANS {
            return Err(DecodeError::new(code::OPEN, 2, "AS number is 0 or AS_TRANS"));
        }
        Ok(Self { asn, hold_time, router_id, capabilities })
    }

    /// Appends the message with its header. Capabilities that no OPEN has room for are left out: it never takes
    /// more than 4096 octets (RFC 8654 §4).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            let len = capabilities.len();
            capability.encode(&mut capabilities);
            if capabilities.len() > MAX_CAPABILITIES {
                capabilities.truncate(len);
            }
        }
        let short_as = u16::try_from(self.asn).unwrap_or(AS_TRANS as u16);
        crate::message::encode_message(out, crate::MessageType::Open, |out| {
            out.push(4);
            out.extend_from_slice(&short_as.to_be_bytes());
            out.extend_from_slice(&self.hold_time.to_be_bytes());
            out.extend_from_slice(&self.router_id.octets());
            match u8::try_from(capabilities.len()) {
                Ok(0) => out.push(0),
                Ok(n) if n <= 253 => out.extend_from_slice(&[n + 2, 2, n]),
                _ => {
                    let n = capabilities.len() as u16;
                    out.extend_from_slice(&[255, 255]);
                    out.extend_from_slice(&(n + 3).to_be_bytes());
                    out.push(2);
                    out.extend_from_slice(&n.to_be_bytes());
                }
            }
            out.extend_from_slice(&capabilities);
        });
    }

    /// Whether the speaker announced four-octet AS numbers.
    pub fn is_as4(&self) -> bool {
        self.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_)))
    }

    /// Whether the speaker announced `capability`.
    pub fn has(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// Whether the speaker takes routes of a family: IPv4 also when it announced no family at all.
    pub fn speaks(&self, family: Family) -> bool {
        let mut announced = self.capabilities.iter().filter_map(|c| match c {
            Capability::Multiprotocol(f) => Some(*f),
            _ => None,
        });
        let mut none = true;
        let listed = announced.by_ref().inspect(|_| none = false).any(|f| f == family.into());
        listed || (none && family == Family::Ipv4)
    }

    /// The graceful restart capability, if announced; of several the last counts (RFC 4724 §3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|c| match c {
            Capability::GracefulRestart(gr) => Some(gr),
            _ => None,
        })
    }

    /// What the speaker does with several paths for a prefix of a family, if anything (RFC 7911).
    pub fn add_path(&self, family: Family) -> Option<AddPathMode> {
        let announced = self.capabilities.iter().filter_map(|c| match c {
            Capability::AddPath(families) => Some(families),
            _ => None,
        });
        announced.flatten().find(|(f, _)| *f == family.into()).map(|(_, mode)| *mode)
    }

    /// Whether the speaker takes IPv4 routes with an IPv6 next hop (RFC 8950).
    pub fn takes_v4_over_v6(&self) -> bool {
        let v4_over_v6 = (Family::Ipv4.into(), 2);
        self.capabilities
            .iter()
            .any(|c| matches!(c, Capability::ExtendedNextHop(families) if families.contains(&v4_over_v6)))
    }

    /// The long-lived graceful restart of a family: the F bit and how long stale routes may live, in seconds; of
    /// several the last counts (RFC 9494 §4.1).
    pub fn long_lived(&self, family: Family) -> Option<(bool, u32)> {
        let listed = self.capabilities.iter().rev().find_map(|c| match c {
            Capability::LongLivedGracefulRestart(families) => Some(families),
            _ => None,
        })?;
        listed
            .iter()
            .find(|(f, ..)| *f == family.into())
            .map(|(_, forwarding, seconds)| (*forwarding, *seconds))
    }

    /// The speaker's role, if announced (RFC 9234 §4.1).
    ///
    /// # Errors
    /// When it announced two roles, or one that does not exist: Role Mismatch (RFC 9234 §4.2).
    pub fn role(&self) -> Result<Option<Role>, DecodeError> {
        let mismatch = || DecodeError::new(code::OPEN, 11, "several roles, or one that does not exist");
        let mut role = None;
        for capability in &self.capabilities {
            match capability {
                Capability::Role(new) if role.is_none_or(|old| old == *new) => role = Some(*new),
                Capability::Role(_) | Capability::Unknown { code: 9, .. } => return Err(mismatch()),
                _ => {}
            }
        }
        Ok(role)
    }
}

/// Octets of capabilities that fit into an OPEN, in the extended form of RFC 9072.
const MAX_CAPABILITIES: usize = crate::MAX_LEN - crate::HEADER_LEN - 10 - 3 - 3;

/// Reads the optional parameters, in their short or extended form.
fn parse_parameters(bytes: &[u8]) -> Result<Vec<Capability>, DecodeError> {
    let bad = || DecodeError::new(code::OPEN, 0, "optional parameters are malformed");
    let mut reader = Reader(bytes);
    let len = usize::from(reader.u8().ok_or_else(bad)?);
    // A first parameter of type 255 marks the extended form, whatever length stands before it (RFC 9072 §2).
    let extended = len != 0 && reader.0.first() == Some(&255);
    let len = if extended {
        reader.u8();
        usize::from(reader.u16().ok_or_else(bad)?)
    } else {
        len
    };
    if reader.0.len() != len {
        return Err(bad());
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8().ok_or_else(bad)?;
        let len = if extended { reader.u16() } else { reader.u8().map(u16::from) };
        let value = len.and_then(|n| reader.take(usize::from(n))).ok_or_else(bad)?;
        if kind != 2 {
            return Err(DecodeError::new(code::OPEN, 4, "optional parameter is no capability"));
        }
        let mut inner = Reader(value);
        while !inner.is_empty() {
            let code = inner.u8().ok_or_else(bad)?;
            let value = inner.u8().and_then(|n| inner.take(usize::from(n))).ok_or_else(bad)?;
            capabilities.push(Capability::parse(code, value));
        }
    }
    Ok(capabilities)
}
