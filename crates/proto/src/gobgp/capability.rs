//! Capabilities of GoBGP's API.

use prost::{Enumeration, Message};

use super::Family;

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MultiProtocolCapability {
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RouteRefreshCapability {}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct EnhancedRouteRefreshCapability {}

#[derive(Clone, PartialEq, Message)]
pub struct ExtendedNexthopCapability {
    #[prost(message, repeated, tag = "1")]
    pub tuples: Vec<ExtendedNexthopCapabilityTuple>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ExtendedNexthopCapabilityTuple {
    #[prost(message, optional, tag = "1")]
    pub nlri_family: Option<Family>,
    #[prost(message, optional, tag = "2")]
    pub nexthop_family: Option<Family>,
}

/// Flags: 8 has restarted, 4 also after a NOTIFICATION.
#[derive(Clone, PartialEq, Message)]
pub struct GracefulRestartCapability {
    #[prost(uint32, tag = "1")]
    pub flags: u32,
    #[prost(uint32, tag = "2")]
    pub time: u32,
    #[prost(message, repeated, tag = "3")]
    pub tuples: Vec<GracefulRestartCapabilityTuple>,
}

/// Flags: 128 forwarding was kept.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GracefulRestartCapabilityTuple {
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    #[prost(uint32, tag = "2")]
    pub flags: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FourOctetAsnCapability {
    #[prost(uint32, tag = "1")]
    pub asn: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct AddPathCapability {
    #[prost(message, repeated, tag = "1")]
    pub tuples: Vec<AddPathCapabilityTuple>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AddPathCapabilityTuple {
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    #[prost(enumeration = "AddPathCapabilityMode", tag = "2")]
    pub mode: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum AddPathCapabilityMode {
    None = 0,
    Receive = 1,
    Send = 2,
    Both = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct LongLivedGracefulRestartCapability {
    #[prost(message, repeated, tag = "1")]
    pub tuples: Vec<LongLivedGracefulRestartCapabilityTuple>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LongLivedGracefulRestartCapabilityTuple {
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    #[prost(uint32, tag = "2")]
    pub flags: u32,
    #[prost(uint32, tag = "3")]
    pub time: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnknownCapability {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}
