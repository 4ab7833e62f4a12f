//! The stream between typha, which watches the cluster once, and the programs of the nodes.
//!
//! Each side sends its own message type behind the four-byte length of [`encode_frame`](crate::encode_frame). Kinds
//! go by name and objects as JSON, so that either side may know more than the other. A client lists what it wants
//! ([`Hello`], [`Subscribe`]); for each kind it gets a list ([`ListBegins`], chunks, [`Listed`]) and then what
//! changes, for ever. A position is the number of the last [`Chunk`] that was taken in; who comes back to the same
//! instance with it gets only what changed since.

use prost::Message;

/// The language that this module defines. A side that speaks a later one speaks this one too.
pub const PROTOCOL: u32 = 1;

/// From a client.
#[derive(Clone, PartialEq, Message)]
pub struct FromClient {
    #[prost(oneof = "from_client::Message", tags = "1, 2, 3")]
    pub message: Option<from_client::Message>,
}

pub mod from_client {
    /// What a client may say.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Message {
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        #[prost(message, tag = "2")]
        Subscribe(super::Subscribe),
        #[prost(message, tag = "3")]
        Pong(super::Pong),
    }
}

/// The first message of a client.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// [`PROTOCOL`] of the client.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Revision of the fields of objects that the client reads; a server that forwards fewer is refused by it.
    #[prost(uint32, tag = "2")]
    pub fields: u32,
    /// Name of its node.
    #[prost(string, tag = "3")]
    pub node: String,
    /// `felix` or `bird-lite`.
    #[prost(string, tag = "4")]
    pub program: String,
    /// Of the program.
    #[prost(string, tag = "5")]
    pub version: String,
    /// The instance of the server that the positions are from; 0 for none.
    #[prost(fixed64, tag = "6")]
    pub instance: u64,
    #[prost(message, repeated, tag = "7")]
    pub wanted: Vec<Wanted>,
}

/// A kind that a client wants.
#[derive(Clone, PartialEq, Message)]
pub struct Wanted {
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The number of the last chunk that it took in after a whole list; 0 for a list.
    #[prost(uint64, tag = "2")]
    pub position: u64,
}

/// Asks for more kinds, or again for a list of one.
#[derive(Clone, PartialEq, Message)]
pub struct Subscribe {
    #[prost(message, repeated, tag = "1")]
    pub wanted: Vec<Wanted>,
}

/// Answers a [`Ping`], after everything that came before it was taken in.
#[derive(Clone, PartialEq, Message)]
pub struct Pong {
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// From the server.
#[derive(Clone, PartialEq, Message)]
pub struct FromServer {
    #[prost(oneof = "from_server::Message", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub message: Option<from_server::Message>,
}

pub mod from_server {
    /// What the server may say.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Message {
        #[prost(message, tag = "1")]
        Welcome(super::Welcome),
        #[prost(message, tag = "2")]
        Chunk(super::Chunk),
        #[prost(message, tag = "3")]
        ListBegins(super::ListBegins),
        #[prost(message, tag = "4")]
        Listed(super::Listed),
        #[prost(message, tag = "5")]
        Missing(super::Missing),
        #[prost(message, tag = "6")]
        Skip(super::Skip),
        #[prost(message, tag = "7")]
        Ping(super::Ping),
        #[prost(message, tag = "8")]
        Goodbye(super::Goodbye),
    }
}

/// The first message of the server.
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Revision of the fields of objects that the server forwards.
    #[prost(uint32, tag = "2")]
    pub fields: u32,
    #[prost(string, tag = "3")]
    pub version: String,
    /// Another number after each start; positions count within one.
    #[prost(fixed64, tag = "4")]
    pub instance: u64,
}

/// Objects of one kind that are there or gone, the same octets for every client.
#[derive(Clone, PartialEq, Message)]
pub struct Chunk {
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The client's position once it took this in.
    #[prost(uint64, tag = "2")]
    pub position: u64,
    /// Octets of `objects` when expanded.
    #[prost(uint32, tag = "3")]
    pub size: u32,
    /// [`Objects`], compressed as one LZ4 block.
    #[prost(bytes = "bytes", tag = "4")]
    pub objects: prost::bytes::Bytes,
}

/// The content of a [`Chunk`].
#[derive(Clone, PartialEq, Message)]
pub struct Objects {
    #[prost(message, repeated, tag = "1")]
    pub objects: Vec<Object>,
}

/// One object.
#[derive(Clone, PartialEq, Message)]
pub struct Object {
    /// Empty for cluster-wide ones.
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
    /// The object as JSON, as far as anybody reads it; absent: it is gone.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub content: Option<prost::bytes::Bytes>,
}

/// All objects of a kind follow; those that the client knows and that do not come until [`Listed`] are gone.
#[derive(Clone, PartialEq, Message)]
pub struct ListBegins {
    #[prost(string, tag = "1")]
    pub kind: String,
}

/// All objects of a kind have come.
#[derive(Clone, PartialEq, Message)]
pub struct Listed {
    #[prost(string, tag = "1")]
    pub kind: String,
}

/// The API server does not know this kind.
#[derive(Clone, PartialEq, Message)]
pub struct Missing {
    #[prost(string, tag = "1")]
    pub kind: String,
}

/// These entries of the next chunk are out of date and mean nothing; counted from 0.
#[derive(Clone, PartialEq, Message)]
pub struct Skip {
    #[prost(uint32, repeated, tag = "1")]
    pub indexes: Vec<u32>,
}

/// Asks for a [`Pong`].
#[derive(Clone, PartialEq, Message)]
pub struct Ping {
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// The connection ends, on purpose.
#[derive(Clone, PartialEq, Message)]
pub struct Goodbye {
    /// For people.
    #[prost(string, tag = "1")]
    pub reason: String,
}
