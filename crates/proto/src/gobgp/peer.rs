//! Peers of GoBGP's API.

use prost::{Enumeration, Message};

use super::{Any, Family, Timestamp};

#[derive(Clone, PartialEq, Message)]
pub struct Peer {
    #[prost(message, optional, tag = "2")]
    pub conf: Option<PeerConf>,
    #[prost(message, optional, tag = "4")]
    pub route_reflector: Option<RouteReflector>,
    #[prost(message, optional, tag = "5")]
    pub state: Option<PeerState>,
    #[prost(message, optional, tag = "6")]
    pub timers: Option<Timers>,
    #[prost(message, optional, tag = "7")]
    pub transport: Option<Transport>,
    #[prost(message, optional, tag = "8")]
    pub route_server: Option<RouteServer>,
    #[prost(message, optional, tag = "9")]
    pub graceful_restart: Option<GracefulRestart>,
    #[prost(message, repeated, tag = "10")]
    pub afi_safis: Vec<AfiSafi>,
    #[prost(message, optional, tag = "11")]
    pub ttl_security: Option<TtlSecurity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum PeerType {
    Internal = 0,
    External = 1,
}

/// Settings of a peer. The password has a field in the API (1) that is never filled.
#[derive(Clone, PartialEq, Message)]
pub struct PeerConf {
    #[prost(string, tag = "2")]
    pub description: String,
    #[prost(uint32, tag = "3")]
    pub local_asn: u32,
    #[prost(string, tag = "4")]
    pub neighbor_address: String,
    #[prost(uint32, tag = "5")]
    pub peer_asn: u32,
    #[prost(enumeration = "PeerType", tag = "7")]
    pub r#type: i32,
    #[prost(string, tag = "11")]
    pub neighbor_interface: String,
    #[prost(uint32, tag = "13")]
    pub allow_own_asn: u32,
    #[prost(bool, tag = "15")]
    pub admin_down: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RouteReflector {
    #[prost(bool, tag = "1")]
    pub route_reflector_client: bool,
    #[prost(string, tag = "2")]
    pub route_reflector_cluster_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct PeerState {
    #[prost(string, tag = "2")]
    pub description: String,
    #[prost(uint32, tag = "3")]
    pub local_asn: u32,
    #[prost(message, optional, tag = "4")]
    pub messages: Option<Messages>,
    #[prost(string, tag = "5")]
    pub neighbor_address: String,
    #[prost(uint32, tag = "6")]
    pub peer_asn: u32,
    #[prost(enumeration = "PeerType", tag = "8")]
    pub r#type: i32,
    #[prost(message, optional, tag = "9")]
    pub queues: Option<Queues>,
    #[prost(enumeration = "SessionState", tag = "13")]
    pub session_state: i32,
    #[prost(enumeration = "AdminState", tag = "15")]
    pub admin_state: i32,
    /// Sessions that ended.
    #[prost(uint32, tag = "17")]
    pub flops: u32,
    #[prost(message, repeated, tag = "18")]
    pub remote_cap: Vec<Any>,
    #[prost(message, repeated, tag = "19")]
    pub local_cap: Vec<Any>,
    #[prost(string, tag = "20")]
    pub router_id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum SessionState {
    Unknown = 0,
    Idle = 1,
    Connect = 2,
    Active = 3,
    OpenSent = 4,
    OpenConfirm = 5,
    Established = 6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum AdminState {
    Up = 0,
    Down = 1,
    /// Down for its number of prefixes.
    PfxCt = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Messages {
    #[prost(message, optional, tag = "1")]
    pub received: Option<MessageCounts>,
    #[prost(message, optional, tag = "2")]
    pub sent: Option<MessageCounts>,
}

/// `apipb.Message`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MessageCounts {
    #[prost(uint64, tag = "1")]
    pub notification: u64,
    #[prost(uint64, tag = "2")]
    pub update: u64,
    #[prost(uint64, tag = "3")]
    pub open: u64,
    #[prost(uint64, tag = "4")]
    pub keepalive: u64,
    #[prost(uint64, tag = "5")]
    pub refresh: u64,
    #[prost(uint64, tag = "6")]
    pub discarded: u64,
    #[prost(uint64, tag = "7")]
    pub total: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Queues {
    #[prost(uint32, tag = "1")]
    pub input: u32,
    #[prost(uint32, tag = "2")]
    pub output: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Timers {
    #[prost(message, optional, tag = "1")]
    pub config: Option<TimersConfig>,
    #[prost(message, optional, tag = "2")]
    pub state: Option<TimersState>,
}

/// In seconds.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TimersConfig {
    #[prost(uint64, tag = "2")]
    pub hold_time: u64,
    #[prost(uint64, tag = "3")]
    pub keepalive_interval: u64,
}

/// In seconds; the times when the session came up and went down.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TimersState {
    #[prost(uint64, tag = "2")]
    pub hold_time: u64,
    #[prost(uint64, tag = "3")]
    pub keepalive_interval: u64,
    #[prost(uint64, tag = "5")]
    pub negotiated_hold_time: u64,
    #[prost(message, optional, tag = "6")]
    pub uptime: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub downtime: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Transport {
    #[prost(string, tag = "1")]
    pub local_address: String,
    #[prost(bool, tag = "4")]
    pub passive_mode: bool,
    #[prost(string, tag = "5")]
    pub remote_address: String,
    #[prost(uint32, tag = "6")]
    pub remote_port: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RouteServer {
    #[prost(bool, tag = "1")]
    pub route_server_client: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GracefulRestart {
    #[prost(bool, tag = "1")]
    pub enabled: bool,
    #[prost(uint32, tag = "2")]
    pub restart_time: u32,
    #[prost(bool, tag = "5")]
    pub notification_enabled: bool,
    #[prost(uint32, tag = "8")]
    pub peer_restart_time: u32,
    #[prost(bool, tag = "9")]
    pub peer_restarting: bool,
    #[prost(bool, tag = "10")]
    pub local_restarting: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AfiSafi {
    #[prost(message, optional, tag = "2")]
    pub config: Option<AfiSafiConfig>,
    #[prost(message, optional, tag = "3")]
    pub state: Option<AfiSafiState>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AfiSafiConfig {
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    #[prost(bool, tag = "2")]
    pub enabled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AfiSafiState {
    #[prost(message, optional, tag = "1")]
    pub family: Option<Family>,
    #[prost(bool, tag = "2")]
    pub enabled: bool,
    #[prost(uint64, tag = "3")]
    pub received: u64,
    #[prost(uint64, tag = "4")]
    pub accepted: u64,
    #[prost(uint64, tag = "5")]
    pub advertised: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TtlSecurity {
    #[prost(bool, tag = "1")]
    pub enabled: bool,
    #[prost(uint32, tag = "2")]
    pub ttl_min: u32,
}
