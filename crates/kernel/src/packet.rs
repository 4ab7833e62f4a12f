//! What the head of a packet says: addresses, protocol, ports. Owns the formats of IPv4, IPv6 and what follows them,
//! as far as a policy looks. What is cut off or malformed is left out, never guessed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::Protocol;

/// IPv6 extension headers that are walked over before giving up.
const MAX_EXTENSIONS: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// The head of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketHead {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The protocol behind the IP headers.
    pub protocol: Protocol,
    /// What that protocol's header says.
    pub transport: Transport,
}

/// What a policy can see of the protocol's own header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP, UDP, UDP-Lite, SCTP.
    Ports { source: u16, destination: u16 },
    /// ICMP and ICMPv6.
    Icmp { kind: u8, code: u8 },
    /// Another protocol, a later fragment, or a packet that is cut off before its ports.
    Unknown,
}

/// A packet that a rule has logged (NFLOG, nftables' `log group`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedPacket {
    /// What the rule was told to write in front: it names the rule.
    pub prefix: String,
    /// Indexes of the links that it came in by and would go out by; `None` for what is this node's own.
    pub in_link: Option<u32>,
    pub out_link: Option<u32>,
    /// `None` when it is no IP packet.
    pub head: Option<PacketHead>,
}

impl Transport {
    /// The port that is asked for, where the protocol has ports.
    pub fn destination_port(self) -> Option<u16> {
        match self {
            Transport::Ports { destination, .. } => Some(destination),
            _ => None,
        }
    }
}

impl PacketHead {
    /// Reads the head of an IPv4 or IPv6 packet; `None` when these are not the first bytes of one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    /// RFC 791 §3.1.
    fn parse_v4(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<20>()?;
        let length = usize::from(head[0] & 0xf) * 4;
        let is_later_fragment = u16::from_be_bytes([head[6], head[7]]) & 0x1fff != 0;
        let protocol = Protocol(head[9]);
        let payload = bytes.get(length..).filter(|_| length >= 20 && !is_later_fragment);
        Some(Self {
            source: Ipv4Addr::new(head[12], head[13], head[14], head[15]).into(),
            destination: Ipv4Addr::new(head[16], head[17], head[18], head[19]).into(),
            protocol,
            transport: transport(protocol, payload.unwrap_or_default()),
        })
    }

    /// RFC 8200 §3 and §4.
    fn parse_v6(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<40>()?;
        let address = |at: usize| {
            let octets: [u8; 16] = head[at..at + 16].try_into().expect("the slice has 16 bytes");
            IpAddr::from(Ipv6Addr::from(octets))
        };
        let (protocol, payload) = skip_extensions(head[6], &bytes[40..]);
        Some(Self {
            source: address(8),
            destination: address(24),
            protocol,
            transport: transport(protocol, payload),
        })
    }
}

/// The protocol behind the extension headers, and its bytes as far as they are there.
fn skip_extensions(mut next: u8, mut bytes: &[u8]) -> (Protocol, &[u8]) {
    for _ in 0..MAX_EXTENSIONS {
        let length = match (next, bytes) {
            (HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS, [_, units, ..]) => (usize::from(*units) + 1) * 8,
            (AUTHENTICATION, [_, units, ..]) => (usize::from(*units) + 2) * 4,
            (FRAGMENT, [_, _, high, low, ..]) => {
                if u16::from_be_bytes([*high, *low]) & 0xfff8 != 0 {
                    return (Protocol(bytes[0]), &[]);
                }
                8
            }
            _ => return (Protocol(next), bytes),
        };
        next = bytes[0];
        bytes = bytes.get(length..).unwrap_or_default();
    }
    (Protocol(next), &[])
}

fn transport(protocol: Protocol, bytes: &[u8]) -> Transport {
    match (protocol, bytes) {
        (Protocol::ICMP | Protocol::ICMPV6, [kind, code, ..]) => Transport::Icmp { kind: *kind, code: *code },
        (Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::UDPLITE, [a, b, c, d, ..]) => {
            Transport::Ports {
                source: u16::from_be_bytes([*a, *b]),
                destination: u16::from_be_bytes([*c, *d]),
            }
        }
        _ => Transport::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCP from 10.65.0.1 port 4660 to 10.65.0.2 port 80, with four bytes of options.
    const V4: [u8; 28] = [
        0x46, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 65, 0, 1, 10, 65, 0, 2, 1, 1, 1, 0, 0x12, 0x34, 0, 80,
    ];

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        bytes.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn ports_stand_behind_options_and_extensions() {
        let v4 = PacketHead::parse(&V4).unwrap();
        assert_eq!((v4.source, v4.destination), ("10.65.0.1".parse().unwrap(), "10.65.0.2".parse().unwrap()));
        assert_eq!(
            (v4.protocol, v4.transport),
            (Protocol::TCP, Transport::Ports { source: 0x1234, destination: 80 })
        );

        let extended = v6(HOP_BY_HOP, &[17, 0, 0, 0, 0, 0, 0, 0, 0, 53, 0x14, 0xe9, 0, 0]);
        let v6 = PacketHead::parse(&extended).unwrap();
        assert_eq!(v6.destination, "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!((v6.protocol, v6.transport.destination_port()), (Protocol::UDP, Some(5353)));
    }

    #[test]
    fn icmp_has_a_type_and_a_code() {
        let head = PacketHead::parse(&v6(58, &[128, 0, 1, 2])).unwrap();

        assert_eq!(
            (head.protocol, head.transport),
            (Protocol::ICMPV6, Transport::Icmp { kind: 128, code: 0 })
        );
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut v4 = V4;
        v4[7] = 9;
        let second = v6(FRAGMENT, &[6, 0, 0, 8, 0, 0, 0, 1, 0, 1, 0, 2]);

        for bytes in [&v4[..], &second] {
            let head = PacketHead::parse(bytes).unwrap();
            assert_eq!((head.protocol, head.transport), (Protocol::TCP, Transport::Unknown));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let whole =
            v6(HOP_BY_HOP, &[AUTHENTICATION, 1, 0, 0, 0, 0, 0, 0, 44, 9, 0, 0, 0, 0, 0, 0, 6, 0, 0, 1]);
        for sample in [&V4[..], &whole] {
            for at in 0..sample.len() {
                for value in [0, 1, 0x0f, 0x45, 0x60, 0x7f, 0xff] {
                    let mut bytes = sample.to_vec();
                    bytes[at] = value;
                    for end in [at, bytes.len()] {
                        let _ = PacketHead::parse(&bytes[..end]);
                    }
                }
            }
        }
        assert_eq!(PacketHead::parse(&[]), None);
        assert_eq!(PacketHead::parse(&[0x45; 19]), None);
    }
}
