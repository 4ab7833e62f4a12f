//! Path attributes as a speaker keeps them. Owns the decoded form; never the wire.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{AsPath, Community, LargeCommunity, attribute_code as ac};

/// ORIGIN (RFC 4271 §5.1.1); the better is less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[derive(serde::Serialize, serde::Deserialize)]
pub enum Origin {
    /// Interior to the originating AS.
    #[default]
    Igp = 0,
    /// Learned by EGP.
    Egp = 1,
    /// Learned some other way.
    Incomplete = 2,
}

/// AGGREGATOR (RFC 4271 §5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Aggregator {
    /// AS of the speaker that aggregated.
    pub asn: u32,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Where packets go: NEXT_HOP, or the next hop of MP_REACH_NLRI (RFC 4760 §3, RFC 2545 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, and the link-local one when the peer sent both.
    V6(Ipv6Addr, Option<Ipv6Addr>),
}

impl NextHop {
    /// The address to forward to: the global one.
    pub fn address(&self) -> IpAddr {
        match self {
            Self::V4(a) => IpAddr::V4(*a),
            Self::V6(a, _) => IpAddr::V6(*a),
        }
    }

    /// Whether no address is set yet: the speaker puts in its own when it sends the route.
    pub fn is_unspecified(&self) -> bool {
        self.address().is_unspecified()
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::V4(a),
            IpAddr::V6(a) => Self::V6(a, None),
        }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

/// An attribute that is not known here and is passed on unread (RFC 4271 §5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct RawAttribute {
    /// Flags as they will be sent: optional, transitive, partial.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// Value.
    pub value: Box<[u8]>,
}

/// Which of the known optional transitive attributes came with the Partial bit: it stays on what is passed on
/// (RFC 4271 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Partial(u8);

impl Partial {
    /// Whether the attribute came with the bit.
    pub fn contains(self, code: u8) -> bool {
        self.0 & Self::bit(code) != 0
    }

    /// Notes that the attribute came with the bit. One that is not passed on as it came has none.
    pub fn insert(&mut self, code: u8) {
        self.0 |= Self::bit(code);
    }

    fn bit(code: u8) -> u8 {
        match code {
            ac::AGGREGATOR => 1,
            ac::COMMUNITIES => 2,
            ac::EXTENDED_COMMUNITIES => 4,
            ac::LARGE_COMMUNITY => 8,
            ac::ONLY_TO_CUSTOMER => 16,
            _ => 0,
        }
    }
}

/// The attributes that routes share; two routes with equal attributes go into one UPDATE.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PathAttributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH.
    pub as_path: AsPath,
    /// NEXT_HOP of the routes' family.
    pub next_hop: NextHop,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; only inside an AS.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Vec<Community>,
    /// EXTENDED COMMUNITIES (RFC 4360), unread.
    pub extended_communities: Vec<[u8; 8]>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456), nearest reflector first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// ONLY_TO_CUSTOMER: the AS that let the route out to a customer, peer or route-server client (RFC 9234).
    pub only_to_customer: Option<u32>,
    /// Which of the above came with the Partial bit.
    pub partial: Partial,
    /// Unknown transitive attributes, in ascending order of code.
    pub unknown: Vec<RawAttribute>,
}

impl PathAttributes {
    /// Attributes with only what is mandatory: ORIGIN IGP, an empty path and `next_hop`.
    pub fn new(next_hop: NextHop) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            only_to_customer: None,
            partial: Partial::default(),
            unknown: Vec::new(),
        }
    }
}
