//! The part of GoBGP's public gRPC API (`apipb.GobgpApi`, GoBGP 3.10) that a speaker answers, so that the
//! `gobgp` client works with it. Names and field numbers are GoBGP's; what is not here is not spoken.
//! Fields that a speaker never fills and clients do not need are left out: protobuf skips them.

mod attribute;
mod capability;
mod peer;
mod watch;

pub use attribute::*;
pub use capability::*;
pub use peer::*;
pub use watch::*;

use prost::{Enumeration, Message};

/// Path of the service in HTTP/2 requests, before the name of the call.
pub const SERVICE: &str = "/apipb.GobgpApi/";

/// `google.protobuf.Empty`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

/// `google.protobuf.Timestamp`: time since 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `google.protobuf.Any`: a message with its name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

impl Any {
    /// Wraps a message of package `apipb` under its name.
    pub fn pack(name: &str, message: &impl Message) -> Self {
        Self { type_url: format!("type.googleapis.com/apipb.{name}"), value: message.encode_to_vec() }
    }

    /// Name of the message without its package.
    pub fn name(&self) -> &str {
        self.type_url.rsplit('.').next().unwrap_or_default()
    }
}

/// AFI and SAFI as IANA numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Family {
    #[prost(int32, tag = "1")]
    pub afi: i32,
    #[prost(int32, tag = "2")]
    pub safi: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GetBgpRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct GetBgpResponse {
    #[prost(message, optional, tag = "1")]
    pub global: Option<Global>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Global {
    #[prost(uint32, tag = "1")]
    pub asn: u32,
    #[prost(string, tag = "2")]
    pub router_id: String,
    #[prost(int32, tag = "3")]
    pub listen_port: i32,
    #[prost(string, repeated, tag = "4")]
    pub listen_addresses: Vec<String>,
    #[prost(uint32, repeated, tag = "5")]
    pub families: Vec<u32>,
    #[prost(bool, tag = "6")]
    pub use_multiple_paths: bool,
    #[prost(message, optional, tag = "10")]
    pub graceful_restart: Option<GracefulRestart>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListPeerRequest {
    /// Empty means all.
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(bool, tag = "2")]
    pub enable_advertised: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListPeerResponse {
    #[prost(message, optional, tag = "1")]
    pub peer: Option<Peer>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResetPeerRequest {
    /// An address, or `all`.
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(string, tag = "2")]
    pub communication: String,
    #[prost(bool, tag = "3")]
    pub soft: bool,
    #[prost(enumeration = "SoftResetDirection", tag = "4")]
    pub direction: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum SoftResetDirection {
    In = 0,
    Out = 1,
    Both = 2,
}

/// Request of `ShutdownPeer`, `EnablePeer` and `DisablePeer`; the second has no text.
#[derive(Clone, PartialEq, Message)]
pub struct PeerRequest {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(string, tag = "2")]
    pub communication: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct AddPathRequest {
    #[prost(enumeration = "TableType", tag = "1")]
    pub table_type: i32,
    #[prost(string, tag = "2")]
    pub vrf_id: String,
    #[prost(message, optional, tag = "3")]
    pub path: Option<Path>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AddPathResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub uuid: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeletePathRequest {
    #[prost(enumeration = "TableType", tag = "1")]
    pub table_type: i32,
    #[prost(string, tag = "2")]
    pub vrf_id: String,
    #[prost(message, optional, tag = "3")]
    pub family: Option<Family>,
    /// Absent means all of the family.
    #[prost(message, optional, tag = "4")]
    pub path: Option<Path>,
    #[prost(bytes = "vec", tag = "5")]
    pub uuid: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum TableType {
    Global = 0,
    Local = 1,
    AdjIn = 2,
    AdjOut = 3,
    Vrf = 4,
}

#[derive(Clone, PartialEq, Message)]
pub struct TableLookupPrefix {
    /// A prefix, or an address, which finds the longest prefix that holds it.
    #[prost(string, tag = "1")]
    pub prefix: String,
    #[prost(enumeration = "LookupType", tag = "2")]
    pub r#type: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum LookupType {
    Exact = 0,
    Longer = 1,
    Shorter = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListPathRequest {
    #[prost(enumeration = "TableType", tag = "1")]
    pub table_type: i32,
    /// Address of the peer for `ADJ_IN` and `ADJ_OUT`.
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub family: Option<Family>,
    #[prost(message, repeated, tag = "4")]
    pub prefixes: Vec<TableLookupPrefix>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListPathResponse {
    #[prost(message, optional, tag = "1")]
    pub destination: Option<Destination>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Destination {
    #[prost(string, tag = "1")]
    pub prefix: String,
    #[prost(message, repeated, tag = "2")]
    pub paths: Vec<Path>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetTableRequest {
    #[prost(enumeration = "TableType", tag = "1")]
    pub table_type: i32,
    #[prost(message, optional, tag = "2")]
    pub family: Option<Family>,
    #[prost(string, tag = "3")]
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GetTableResponse {
    #[prost(uint64, tag = "1")]
    pub num_destination: u64,
    #[prost(uint64, tag = "2")]
    pub num_path: u64,
    /// Of an Adj-RIB-In only.
    #[prost(uint64, tag = "3")]
    pub num_accepted: u64,
}

/// One path to one prefix.
#[derive(Clone, PartialEq, Message)]
pub struct Path {
    /// An [`IpAddressPrefix`].
    #[prost(message, optional, tag = "1")]
    pub nlri: Option<Any>,
    /// The attributes, each packed under its name.
    #[prost(message, repeated, tag = "2")]
    pub pattrs: Vec<Any>,
    /// When it came.
    #[prost(message, optional, tag = "3")]
    pub age: Option<Timestamp>,
    #[prost(bool, tag = "4")]
    pub best: bool,
    /// The prefix has no path any more; then there are no attributes.
    #[prost(bool, tag = "5")]
    pub is_withdraw: bool,
    #[prost(message, optional, tag = "9")]
    pub family: Option<Family>,
    #[prost(uint32, tag = "10")]
    pub source_asn: u32,
    #[prost(string, tag = "11")]
    pub source_id: String,
    /// Not used: import policy or a loop.
    #[prost(bool, tag = "12")]
    pub filtered: bool,
    #[prost(bool, tag = "13")]
    pub stale: bool,
    #[prost(bool, tag = "14")]
    pub is_from_external: bool,
    #[prost(string, tag = "15")]
    pub neighbor_ip: String,
    /// Path identifiers of RFC 7911, as received and as sent.
    #[prost(uint32, tag = "18")]
    pub identifier: u32,
    #[prost(uint32, tag = "19")]
    pub local_identifier: u32,
}
