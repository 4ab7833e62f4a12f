//! NLRI and path attributes of GoBGP's API.

use prost::{Enumeration, Message};

use super::{Any, Family};

#[derive(Clone, PartialEq, Eq, Message)]
pub struct IpAddressPrefix {
    #[prost(uint32, tag = "1")]
    pub prefix_len: u32,
    #[prost(string, tag = "2")]
    pub prefix: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct OriginAttribute {
    #[prost(uint32, tag = "1")]
    pub origin: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct AsPathAttribute {
    #[prost(message, repeated, tag = "1")]
    pub segments: Vec<AsSegment>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AsSegment {
    #[prost(enumeration = "AsSegmentType", tag = "1")]
    pub r#type: i32,
    #[prost(uint32, repeated, tag = "2")]
    pub numbers: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum AsSegmentType {
    Unknown = 0,
    Set = 1,
    Sequence = 2,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct NextHopAttribute {
    #[prost(string, tag = "1")]
    pub next_hop: String,
}

/// The next hop of routes that are not in the UPDATE's own fields.
#[derive(Clone, PartialEq, Message)]
pub struct MpReachNlriAttribute {
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    #[prost(string, repeated, tag = "2")]
    pub next_hops: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub nlris: Vec<Any>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MultiExitDiscAttribute {
    #[prost(uint32, tag = "1")]
    pub med: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LocalPrefAttribute {
    #[prost(uint32, tag = "1")]
    pub local_pref: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AtomicAggregateAttribute {}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct AggregatorAttribute {
    #[prost(uint32, tag = "1")]
    pub asn: u32,
    #[prost(string, tag = "2")]
    pub address: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct CommunitiesAttribute {
    #[prost(uint32, repeated, tag = "1")]
    pub communities: Vec<u32>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct OriginatorIdAttribute {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClusterListAttribute {
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExtendedCommunitiesAttribute {
    #[prost(message, repeated, tag = "1")]
    pub communities: Vec<Any>,
}

/// An extended community by its type and the seven octets behind it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnknownExtended {
    #[prost(uint32, tag = "1")]
    pub r#type: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LargeCommunitiesAttribute {
    #[prost(message, repeated, tag = "1")]
    pub communities: Vec<LargeCommunity>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LargeCommunity {
    #[prost(uint32, tag = "1")]
    pub global_admin: u32,
    #[prost(uint32, tag = "2")]
    pub local_data1: u32,
    #[prost(uint32, tag = "3")]
    pub local_data2: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnknownAttribute {
    #[prost(uint32, tag = "1")]
    pub flags: u32,
    #[prost(uint32, tag = "2")]
    pub r#type: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub value: Vec<u8>,
}
