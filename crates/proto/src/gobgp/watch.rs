//! Events of GoBGP's API.

use prost::{Enumeration, Message, Oneof};

use super::{Path, Peer};

#[derive(Clone, PartialEq, Message)]
pub struct WatchEventRequest {
    /// States of sessions, when it is there.
    #[prost(message, optional, tag = "1")]
    pub peer: Option<WatchPeer>,
    #[prost(message, optional, tag = "2")]
    pub table: Option<WatchTable>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WatchPeer {}

#[derive(Clone, PartialEq, Message)]
pub struct WatchTable {
    #[prost(message, repeated, tag = "1")]
    pub filters: Vec<WatchFilter>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WatchFilter {
    #[prost(enumeration = "WatchFilterType", tag = "1")]
    pub r#type: i32,
    /// What there is comes first.
    #[prost(bool, tag = "2")]
    pub init: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum WatchFilterType {
    Best = 0,
    AdjIn = 1,
    PostPolicy = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchEventResponse {
    #[prost(oneof = "WatchedEvent", tags = "2, 3")]
    pub event: Option<WatchedEvent>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum WatchedEvent {
    #[prost(message, tag = "2")]
    Peer(Box<PeerEvent>),
    #[prost(message, tag = "3")]
    Table(TableEvent),
}

#[derive(Clone, PartialEq, Message)]
pub struct PeerEvent {
    #[prost(enumeration = "PeerEventType", tag = "1")]
    pub r#type: i32,
    #[prost(message, optional, tag = "2")]
    pub peer: Option<Peer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum PeerEventType {
    Unknown = 0,
    /// A peer as it is when the watch begins.
    Init = 1,
    /// All peers were told.
    EndOfInit = 2,
    /// A session came into another state.
    State = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct TableEvent {
    #[prost(message, repeated, tag = "2")]
    pub paths: Vec<Path>,
}
