//! Capabilities of an OPEN (RFC 5492). Owns the ones that are spoken; keeps the others unread.

use crate::reader::Reader;
use crate::{AfiSafi, Family};

/// One capability that a speaker announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Multiprotocol extensions for a family (RFC 4760).
    Multiprotocol(AfiSafi),
    /// Route refresh (RFC 2918).
    RouteRefresh,
    /// Enhanced route refresh (RFC 7313).
    EnhancedRouteRefresh,
    /// Messages longer than 4096 octets (RFC 8654).
    ExtendedMessage,
    /// Graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// Four-octet AS number: the speaker's own (RFC 6793).
    FourOctetAs(u32),
    /// Anything else.
    Unknown {
        /// Capability code.
        code: u8,
        /// Value.
        value: Vec<u8>,
    },
}

/// Value of the graceful restart capability (RFC 4724 §3, RFC 8538 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R bit: the speaker has restarted.
    pub restarting: bool,
    /// N bit: routes survive NOTIFICATIONs and an expired hold timer (RFC 8538).
    pub notification: bool,
    /// How long the speaker thinks a restart takes, in seconds, up to 4095.
    pub restart_time: u16,
    /// The families, each with the F bit: forwarding state was kept.
    pub families: Vec<(AfiSafi, bool)>,
}

impl GracefulRestart {
    /// The F bit of a family; `None` when the family is not listed.
    pub fn forwarding(&self, family: Family) -> Option<bool> {
        self.families.iter().find(|(f, _)| *f == family.into()).map(|(_, forwarding)| *forwarding)
    }
}

impl Capability {
    /// Reads one capability's value. One of a wrong length is kept as unknown (RFC 5492 §3 has no error).
    pub(crate) fn parse(code: u8, value: &[u8]) -> Self {
        Self::parse_known(code, value).unwrap_or_else(|| Self::Unknown { code, value: value.to_vec() })
    }

    fn parse_known(code: u8, value: &[u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let parsed = match code {
            1 => {
                let afi = reader.u16()?;
                reader.u8()?;
                Self::Multiprotocol(AfiSafi { afi, safi: reader.u8()? })
            }
            2 => Self::RouteRefresh,
            6 => Self::ExtendedMessage,
            64 => {
                let head = reader.u16()?;
                let mut families = Vec::with_capacity(reader.0.len() / 4);
                while !reader.is_empty() {
                    let family = AfiSafi { afi: reader.u16()?, safi: reader.u8()? };
                    families.push((family, reader.u8()? & 0x80 != 0));
                }
                Self::GracefulRestart(GracefulRestart {
                    restarting: head & 0x8000 != 0,
                    notification: head & 0x4000 != 0,
                    restart_time: head & 0x0fff,
                    families,
                })
            }
            65 => Self::FourOctetAs(reader.u32()?),
            70 => Self::EnhancedRouteRefresh,
            _ => return None,
        };
        reader.is_empty().then_some(parsed)
    }

    /// Appends code, length and value.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Multiprotocol(f) => {
                let [a, b] = f.afi.to_be_bytes();
                out.extend_from_slice(&[1, 4, a, b, 0, f.safi]);
            }
            Self::RouteRefresh => out.extend_from_slice(&[2, 0]),
            Self::ExtendedMessage => out.extend_from_slice(&[6, 0]),
            Self::GracefulRestart(gr) => {
                let head = u16::from(gr.restarting) << 15
                    | u16::from(gr.notification) << 14
                    | gr.restart_time.min(0x0fff);
                let families = &gr.families[..gr.families.len().min(63)];
                out.extend_from_slice(&[64, (2 + 4 * families.len()) as u8]);
                out.extend_from_slice(&head.to_be_bytes());
                for (family, forwarding) in families {
                    let [a, b] = family.afi.to_be_bytes();
                    out.extend_from_slice(&[a, b, family.safi, if *forwarding { 0x80 } else { 0 }]);
                }
            }
            Self::FourOctetAs(asn) => {
                out.extend_from_slice(&[65, 4]);
                out.extend_from_slice(&asn.to_be_bytes());
            }
            Self::EnhancedRouteRefresh => out.extend_from_slice(&[70, 0]),
            Self::Unknown { code, value } => {
                let value = &value[..value.len().min(255)];
                out.extend_from_slice(&[*code, value.len() as u8]);
                out.extend_from_slice(value);
            }
        }
    }
}
