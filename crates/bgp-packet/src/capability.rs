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
    /// Next hops of another address family: each family with the AFI of a next hop that the speaker takes (RFC 8950).
    ExtendedNextHop(Vec<(AfiSafi, u16)>),
    /// The speaker's role towards its peer (RFC 9234).
    Role(Role),
    /// Graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// Four-octet AS number: the speaker's own (RFC 6793).
    FourOctetAs(u32),
    /// Several paths for a prefix: what the speaker does for each family (RFC 7911).
    AddPath(Vec<(AfiSafi, AddPathMode)>),
    /// Long-lived graceful restart: each family with the F bit (forwarding state was kept) and how long stale
    /// routes may live, in seconds, up to 2^24 - 1 (RFC 9494).
    LongLivedGracefulRestart(Vec<(AfiSafi, bool, u32)>),
    /// Anything else.
    Unknown {
        /// Capability code.
        code: u8,
        /// Value.
        value: Vec<u8>,
    },
}

/// What a speaker does with several paths for a prefix (RFC 7911 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[derive(serde::Serialize, serde::Deserialize)]
pub enum AddPathMode {
    /// It can receive them.
    Receive = 1,
    /// It wants to send them.
    Send = 2,
    /// It does both.
    Both = 3,
}

impl AddPathMode {
    /// Whether several paths are received.
    pub fn receives(self) -> bool {
        self != Self::Send
    }

    /// Whether several paths are sent.
    pub fn sends(self) -> bool {
        self != Self::Receive
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Receive, Self::Send, Self::Both].into_iter().find(|mode| *mode as u8 == code)
    }
}

/// What a speaker is to the peer of an external session (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[derive(serde::Serialize, serde::Deserialize)]
pub enum Role {
    /// It gives the peer transit.
    Provider = 0,
    /// It is a route server that the peer is a client of.
    RouteServer = 1,
    /// It is a client of the peer's route server.
    RouteServerClient = 2,
    /// It gets transit from the peer.
    Customer = 3,
    /// Both exchange their own and their customers' routes.
    Peer = 4,
}

impl Role {
    /// The only role that the other side may have (RFC 9234 §4.2, table 2).
    pub fn counterpart(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::Customer => Self::Provider,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Peer => Self::Peer,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Provider, Self::RouteServer, Self::RouteServerClient, Self::Customer, Self::Peer];
        all.into_iter().find(|role| *role as u8 == code)
    }
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
            5 => {
                let mut families = Vec::with_capacity(reader.0.len() / 6);
                while !reader.is_empty() {
                    let (afi, safi, next_hop) = (reader.u16()?, reader.u16()?, reader.u16()?);
                    // The SAFI is 16 bits wide here alone; one above 255 is no SAFI.
                    if let Ok(safi) = u8::try_from(safi) {
                        families.push((AfiSafi { afi, safi }, next_hop));
                    }
                }
                Self::ExtendedNextHop(families)
            }
            6 => Self::ExtendedMessage,
            9 => Self::Role(Role::from_code(reader.u8()?)?),
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
            69 => {
                let mut families = Vec::with_capacity(reader.0.len() / 4);
                while !reader.is_empty() {
                    let family = AfiSafi { afi: reader.u16()?, safi: reader.u8()? };
                    families.push((family, AddPathMode::from_code(reader.u8()?)?));
                }
                Self::AddPath(families)
            }
            70 => Self::EnhancedRouteRefresh,
            71 => {
                let mut families = Vec::with_capacity(reader.0.len() / 7);
                while !reader.is_empty() {
                    let family = AfiSafi { afi: reader.u16()?, safi: reader.u8()? };
                    let word = reader.u32()?;
                    families.push((family, word & 0x8000_0000 != 0, word & 0x00ff_ffff));
                }
                Self::LongLivedGracefulRestart(families)
            }
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
            Self::ExtendedNextHop(families) => {
                let families = &families[..families.len().min(42)];
                out.extend_from_slice(&[5, (6 * families.len()) as u8]);
                for (family, next_hop) in families {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[0, family.safi]);
                    out.extend_from_slice(&next_hop.to_be_bytes());
                }
            }
            Self::ExtendedMessage => out.extend_from_slice(&[6, 0]),
            Self::Role(role) => out.extend_from_slice(&[9, 1, *role as u8]),
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
            Self::AddPath(families) => {
                let families = &families[..families.len().min(63)];
                out.extend_from_slice(&[69, (4 * families.len()) as u8]);
                for (family, mode) in families {
                    let [a, b] = family.afi.to_be_bytes();
                    out.extend_from_slice(&[a, b, family.safi, *mode as u8]);
                }
            }
            Self::EnhancedRouteRefresh => out.extend_from_slice(&[70, 0]),
            Self::LongLivedGracefulRestart(families) => {
                let families = &families[..families.len().min(36)];
                out.extend_from_slice(&[71, (7 * families.len()) as u8]);
                for (family, forwarding, seconds) in families {
                    let [a, b] = family.afi.to_be_bytes();
                    out.extend_from_slice(&[a, b, family.safi]);
                    let seconds = (*seconds).min(0x00ff_ffff) | u32::from(*forwarding) << 31;
                    out.extend_from_slice(&seconds.to_be_bytes());
                }
            }
            Self::Unknown { code, value } => {
                let value = &value[..value.len().min(255)];
                out.extend_from_slice(&[*code, value.len() as u8]);
                out.extend_from_slice(value);
            }
        }
    }
}
