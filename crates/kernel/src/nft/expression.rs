//! The expressions of nf_tables that our rules are made of, as the kernel evaluates them: values come into
//! registers, are compared there, and the first comparison that fails ends the rule.

use std::fmt;
use std::sync::Arc;

use model::{Cidr, Family};

/// One of the sixteen words of four octets that a rule works in. Longer values take the words behind it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Word(pub u8);

impl Word {
    pub const FIRST: Word = Word(0);
}

/// Up to 16 octets, in the order in which they stand in the packet (or, for a mark, in memory).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Data {
    bytes: [u8; 16],
    length: u8,
}

impl Data {
    /// Takes the first 16 octets of `value`.
    pub fn new(value: &[u8]) -> Self {
        let length = value.len().min(16);
        let mut bytes = [0; 16];
        bytes[..length].copy_from_slice(&value[..length]);
        Self { bytes, length: length as u8 }
    }

    /// A number of the host, as a mark.
    pub fn host(value: u32) -> Self {
        Self::new(&value.to_ne_bytes())
    }

    /// A port, as it stands in a header.
    pub fn port(value: u16) -> Self {
        Self::new(&value.to_be_bytes())
    }

    /// An address, as it stands in a header.
    pub fn address(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(v4) => Self::new(&v4.octets()),
            std::net::IpAddr::V6(v6) => Self::new(&v6.octets()),
        }
    }

    /// The first and the last address of a prefix.
    pub fn range(cidr: Cidr) -> (Self, Self) {
        let first = Self::address(cidr.address());
        let mut last = first;
        for bit in usize::from(cidr.length())..usize::from(cidr.family().bits()) {
            last.bytes[bit / 8] |= 0x80 >> (bit % 8);
        }
        (first, last)
    }

    /// As many ones as the prefix is long.
    pub fn netmask(family: Family, length: u8) -> Self {
        let mut mask = Self { bytes: [0; 16], length: family.bits() / 8 };
        for bit in 0..usize::from(length.min(family.bits())) {
            mask.bytes[bit / 8] |= 0x80 >> (bit % 8);
        }
        mask
    }

    /// The value that follows this one as a number; `None` behind the last.
    pub fn next(mut self) -> Option<Self> {
        for byte in self.bytes[..usize::from(self.length)].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(self);
            }
        }
        None
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A fact about a packet that stands in no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaKey {
    /// Four octets, host order.
    Mark,
    /// Sixteen octets, filled up with NUL.
    InInterface,
    /// Sixteen octets, filled up with NUL.
    OutInterface,
    /// One octet: the last header's protocol, also behind IPv6's extension headers.
    Protocol,
}

/// From where an offset counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    Network,
    Transport,
}

/// What conntrack knows of a packet; four octets, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConntrackKey {
    /// One bit a state: [`state`].
    State,
    /// Bits of `IPS_*`: [`state::DESTINATION_NAT`].
    Status,
}

/// Bits of [`ConntrackKey`].
pub mod state {
    pub const INVALID: u32 = 1;
    pub const ESTABLISHED: u32 = 2;
    pub const RELATED: u32 = 4;
    pub const NEW: u32 = 8;
    pub const UNTRACKED: u32 = 0x40;
    /// Of the status: the source is translated.
    pub const SOURCE_NAT: u32 = 0x10;
    /// Of the status: the destination is translated.
    pub const DESTINATION_NAT: u32 = 0x20;
}

/// What the routing tables say of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fib {
    /// Four octets: 1 where the route to the source leads out of the interface by which the packet came, looked
    /// up with the packet's mark; 0 otherwise.
    ReversePath,
    /// Four octets, the route type ([`Fib::LOCAL`]) of the source or destination, where asked for with regard to
    /// the interface by which the packet leaves alone.
    AddressType { source: bool, out_interface: bool },
}

impl Fib {
    /// RTN_LOCAL: an address of this host.
    pub const LOCAL: u32 = 2;
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// ICMP port unreachable, in the table's family.
    PortUnreachable,
    TcpReset,
}

/// Where evaluation goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NftVerdict {
    Accept,
    Drop,
    Return,
    /// Comes back to the next rule.
    Jump(Arc<str>),
    /// Comes back behind the last jump.
    Goto(Arc<str>),
}

impl NftVerdict {
    /// The chain that it leads to.
    pub fn target(&self) -> Option<&Arc<str>> {
        match self {
            NftVerdict::Jump(chain) | NftVerdict::Goto(chain) => Some(chain),
            NftVerdict::Accept | NftVerdict::Drop | NftVerdict::Return => None,
        }
    }
}

/// The set that a lookup asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SetReference {
    /// A set of the table.
    Named(Arc<str>),
    /// The set of the rule itself, by its place in [`super::NftRule::sets`].
    Anonymous(usize),
}

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    Second,
    Minute,
    Hour,
    Day,
}

impl Per {
    pub fn seconds(self) -> u64 {
        match self {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 3600,
            Per::Day => 86_400,
        }
    }
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    Meta {
        key: MetaKey,
        to: Word,
    },
    /// Makes the word the packet's mark.
    SetMark {
        from: Word,
    },
    /// Ends the rule where the packet is too short for it.
    Payload {
        header: Header,
        offset: u8,
        length: u8,
        to: Word,
    },
    Conntrack {
        key: ConntrackKey,
        to: Word,
    },
    Fib {
        fib: Fib,
        to: Word,
    },
    /// Puts what begins at the word into the network header, whose checksum is put right.
    WriteNetworkHeader {
        from: Word,
        offset: u8,
        length: u8,
    },
    /// Two octets, host order: the largest TCP segment that fits through the routes to the packet's destination and
    /// back. Not before routing.
    RouteMss {
        to: Word,
    },
    /// Two octets of the host's order become the network's.
    ToNetworkOrder {
        word: Word,
    },
    /// Writes the TCP option of the largest segment where it is there and larger.
    LowerMss {
        from: Word,
    },
    /// `to = (from & mask) ^ xor`
    Bitwise {
        from: Word,
        to: Word,
        mask: Data,
        xor: Data,
    },
    /// Goes on where the word is `value` (or, negated, is not).
    Compare {
        from: Word,
        value: Data,
        negated: bool,
    },
    /// Goes on where the word is between the two, both included (or, negated, is not).
    Range {
        from: Word,
        first: Data,
        last: Data,
        negated: bool,
    },
    /// Goes on where the set holds what begins at the word (or, negated, does not).
    Lookup {
        from: Word,
        set: SetReference,
        negated: bool,
    },
    /// Does what the map says of what begins at the word; goes on where it says nothing.
    VerdictMap {
        from: Word,
        map: Arc<str>,
    },
    /// Goes on for `rate` packets a unit of time.
    Limit {
        rate: u64,
        per: Per,
        burst: u32,
    },
    /// Goes on where more connections than this have passed here and still live.
    ConnectionsAbove(u32),
    /// Writes to the kernel's log, with priority `notice`.
    Log {
        prefix: Arc<str>,
    },
    /// Sends the packet's beginning to whoever listens to the group.
    Nflog {
        group: u16,
        prefix: Arc<str>,
        size: Option<u32>,
    },
    /// Loads a constant.
    Immediate {
        to: Word,
        value: Data,
    },
    Verdict(NftVerdict),
    Reject(Reject),
    NoTrack,
    /// Source address of the outgoing interface; source ports between the two words' values.
    Masquerade {
        ports: Option<(Word, Word)>,
        random_fully: bool,
    },
    SourceNat {
        family: Family,
        address: Word,
        ports: Option<(Word, Word)>,
        random_fully: bool,
    },
    DestinationNat {
        family: Family,
        address: Word,
        port: Option<Word>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_prefixes_end_where_the_next_begins() {
        let range = |text: &str| {
            let (first, last) = Data::range(text.parse().unwrap());
            (format!("{first:?}"), format!("{last:?}"), last.next().map(|next| format!("{next:?}")))
        };
        let owned = |a: &str, b: &str, c: Option<&str>| (a.to_owned(), b.to_owned(), c.map(str::to_owned));

        assert_eq!(range("10.0.0.0/25"), owned("0a000000", "0a00007f", Some("0a000080")));
        assert_eq!(range("10.0.255.0/24"), owned("0a00ff00", "0a00ffff", Some("0a010000")));
        assert_eq!(range("128.0.0.0/1"), owned("80000000", "ffffffff", None));
        let v6 = "20010db8";
        assert_eq!(
            range("2001:db8::/32"),
            owned(
                &format!("{v6}{}", "0".repeat(24)),
                &format!("{v6}{}", "f".repeat(24)),
                Some(&format!("20010db9{}", "0".repeat(24)))
            )
        );
    }

    #[test]
    fn masks_have_the_length_of_the_address() {
        assert_eq!(format!("{:?}", Data::netmask(Family::V4, 20)), "fffff000");
        assert_eq!(format!("{:?}", Data::netmask(Family::V6, 3)), format!("e0{}", "0".repeat(30)));
    }
}
