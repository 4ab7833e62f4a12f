//! What a BGP speaker tells about itself over its unix socket (`ocicat bgp …`), the same for bird-lite and the
//! route reflector. A client sends one [`Request`] and gets one [`Response`], as often as it likes; only routes
//! come in several, the last of which says that it is.

use prost::{Message, Oneof};

/// What a client asks.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(oneof = "request::Call", tags = "1, 2, 3, 4")]
    pub call: Option<request::Call>,
}

/// Calls of [`Request`].
pub mod request {
    use super::{Message, Oneof};

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Call {
        /// The speaker and its peers.
        #[prost(message, tag = "1")]
        Summary(Summary),
        /// Paths of the table.
        #[prost(message, tag = "2")]
        Routes(Routes),
        /// Does something to a peer's session.
        #[prost(message, tag = "3")]
        Steer(Steer),
        /// Begins or ends a recording of all that the speaker is told.
        #[prost(message, tag = "4")]
        Record(Record),
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Summary {
        /// Only this peer, with [`PeerDetail`](super::PeerDetail); empty means all, without.
        #[prost(string, tag = "1")]
        pub peer: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Routes {
        /// Only paths to this prefix; empty means all.
        #[prost(string, tag = "1")]
        pub prefix: String,
        /// Only what this peer has from us; empty means the table itself.
        #[prost(string, tag = "2")]
        pub advertised_to: String,
        /// Only what this peer sent.
        #[prost(string, tag = "3")]
        pub received_from: String,
        /// Only what is not used for a reason.
        #[prost(bool, tag = "4")]
        pub rejected: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Record {
        /// Absolute path of a file that is made new, where the speaker runs; empty ends the recording.
        #[prost(string, tag = "1")]
        pub file: String,
    }

    /// What is done to a session.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
    #[repr(i32)]
    pub enum Action {
        /// End it; a new one begins.
        Reset = 0,
        /// Ask the peer for its routes again, and send it ours again (RFC 2918).
        SoftReset = 1,
        /// Only ask.
        SoftResetIn = 2,
        /// Only send.
        SoftResetOut = 3,
        /// Let the peer have a session again.
        Enable = 4,
        /// End it and allow no other until enabled or restarted.
        Disable = 5,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Steer {
        /// Address of the peer.
        #[prost(string, tag = "1")]
        pub peer: String,
        #[prost(enumeration = "Action", tag = "2")]
        pub action: i32,
        /// Shown to the peer's operator (RFC 9003).
        #[prost(string, tag = "3")]
        pub text: String,
    }
}

/// What the speaker answers.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(oneof = "response::Answer", tags = "1, 2, 3, 15")]
    pub answer: Option<response::Answer>,
}

/// Answers of [`Response`].
pub mod response {
    use super::{Message, Oneof};

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Answer {
        #[prost(message, tag = "1")]
        Summary(super::Summary),
        #[prost(message, tag = "2")]
        Routes(super::Routes),
        #[prost(message, tag = "3")]
        Done(Done),
        /// Why the call failed, in words.
        #[prost(string, tag = "15")]
        Error(String),
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Done {}
}

/// A speaker and its peers.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// Node name; empty for a reflector outside the cluster.
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(uint32, tag = "2")]
    pub asn: u32,
    /// BGP Identifier; empty before the speaker runs.
    #[prost(string, tag = "3")]
    pub router_id: String,
    /// Addresses and ports that are listened on.
    #[prost(string, repeated, tag = "4")]
    pub listening: Vec<String>,
    /// A graceful restart is under way: peers are waited for.
    #[prost(bool, tag = "5")]
    pub restarting: bool,
    #[prost(message, repeated, tag = "6")]
    pub peers: Vec<Peer>,
    /// Prefixes in the table that have a usable route.
    #[prost(uint64, tag = "7")]
    pub routes: u64,
    /// Routes of ours in the kernel.
    #[prost(uint64, tag = "8")]
    pub kernel_routes: u64,
    /// Routes that should be in the kernel and are not.
    #[prost(message, repeated, tag = "9")]
    pub pending: Vec<PendingRoute>,
    /// What keeps the speaker as a whole from working, in words; empty when nothing does.
    #[prost(string, repeated, tag = "10")]
    pub problems: Vec<String>,
    /// File of the recording that runs; empty for none.
    #[prost(string, tag = "12")]
    pub recording: String,
    /// Set on a route reflector.
    #[prost(string, tag = "11")]
    pub cluster_id: String,
}

/// One peer.
#[derive(Clone, PartialEq, Message)]
pub struct Peer {
    #[prost(string, tag = "1")]
    pub address: String,
    /// What the configuration calls it: `mesh node-2`, `BGPPeer tor`.
    #[prost(string, tag = "2")]
    pub description: String,
    /// 0 while any AS is taken and none was seen.
    #[prost(uint32, tag = "3")]
    pub asn: u32,
    #[prost(string, tag = "4")]
    pub router_id: String,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm` or `Established` (RFC 4271 §8.2.2).
    #[prost(string, tag = "5")]
    pub state: String,
    /// Seconds since it became Established, or ceased to be.
    #[prost(uint64, tag = "6")]
    pub seconds: u64,
    /// Prefixes received, of these accepted, advertised, and kept over a restart of the peer.
    #[prost(uint64, tag = "7")]
    pub received: u64,
    #[prost(uint64, tag = "8")]
    pub accepted: u64,
    #[prost(uint64, tag = "9")]
    pub advertised: u64,
    #[prost(uint64, tag = "10")]
    pub stale: u64,
    /// Why it is not Established; or, when it is, why the session before ended. Empty when there is nothing to say.
    #[prost(string, tag = "11")]
    pub cause: String,
    /// Sessions so far.
    #[prost(uint64, tag = "12")]
    pub sessions: u64,
    /// Same AS as ours.
    #[prost(bool, tag = "13")]
    pub internal: bool,
    /// It is a client of this reflector.
    #[prost(bool, tag = "14")]
    pub reflector_client: bool,
    /// It is configured no more, and keeps its session until its routes come another way.
    #[prost(bool, tag = "24")]
    pub retiring: bool,
    /// It connected out of a range and is not configured by itself.
    #[prost(bool, tag = "15")]
    pub dynamic: bool,
    /// `ipv4-unicast`, `ipv6-unicast`: negotiated when Established, else configured.
    #[prost(string, repeated, tag = "16")]
    pub families: Vec<String>,
    /// Hold time in seconds.
    #[prost(uint32, tag = "17")]
    pub hold_time: u32,
    /// Graceful restart was negotiated.
    #[prost(bool, tag = "18")]
    pub graceful_restart: bool,
    /// Own address of the session.
    #[prost(string, tag = "19")]
    pub local_address: String,
    /// Malformed messages that did not end the session (RFC 7606), and the last one in words.
    #[prost(uint64, tag = "20")]
    pub malformed: u64,
    #[prost(string, tag = "21")]
    pub last_malformed: String,
    /// Established sessions that ended.
    #[prost(uint64, tag = "22")]
    pub flaps: u64,
    /// Only when one peer was asked for.
    #[prost(message, optional, tag = "23")]
    pub detail: Option<PeerDetail>,
}

/// What is told of a single peer only.
#[derive(Clone, PartialEq, Message)]
pub struct PeerDetail {
    #[prost(message, optional, tag = "1")]
    pub messages_received: Option<MessageCounts>,
    #[prost(message, optional, tag = "2")]
    pub messages_sent: Option<MessageCounts>,
    /// Capabilities in words, ours and the peer's.
    #[prost(string, repeated, tag = "3")]
    pub capabilities_sent: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub capabilities_received: Vec<String>,
    /// What is due, in milliseconds from now; absent when the timer does not run.
    #[prost(uint64, optional, tag = "5")]
    pub hold_timer_ms: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub keepalive_timer_ms: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub connect_retry_timer_ms: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub stale_timer_ms: Option<u64>,
    /// What the session went through, the newest first.
    #[prost(message, repeated, tag = "9")]
    pub history: Vec<Turn>,
    /// Octets that the kernel has not taken yet.
    #[prost(uint64, tag = "10")]
    pub queued: u64,
    /// We never connect, only the peer does.
    #[prost(bool, tag = "11")]
    pub passive: bool,
    /// A TCP MD5 password is in use.
    #[prost(bool, tag = "12")]
    pub password: bool,
    /// How many hops away the peer may be (RFC 5082); absent without that check.
    #[prost(uint32, optional, tag = "13")]
    pub ttl_security: Option<u32>,
}

/// Messages of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MessageCounts {
    #[prost(uint64, tag = "1")]
    pub open: u64,
    #[prost(uint64, tag = "2")]
    pub update: u64,
    #[prost(uint64, tag = "3")]
    pub notification: u64,
    #[prost(uint64, tag = "4")]
    pub keepalive: u64,
    #[prost(uint64, tag = "5")]
    pub route_refresh: u64,
}

/// One turn of a session.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Turn {
    #[prost(uint64, tag = "1")]
    pub seconds_ago: u64,
    /// Empty when the session came up; otherwise why it went down or could not come up.
    #[prost(string, tag = "2")]
    pub cause: String,
}

/// A route that should be in the kernel and is not.
#[derive(Clone, PartialEq, Message)]
pub struct PendingRoute {
    #[prost(string, tag = "1")]
    pub prefix: String,
    /// Why not, and what can be done.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Paths of the table, or of one peer's Adj-RIB-Out.
#[derive(Clone, PartialEq, Message)]
pub struct Routes {
    #[prost(message, repeated, tag = "1")]
    pub routes: Vec<Route>,
    /// Another [`Response`] with more follows.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// One path.
#[derive(Clone, PartialEq, Message)]
pub struct Route {
    #[prost(string, tag = "1")]
    pub prefix: String,
    #[prost(string, tag = "2")]
    pub next_hop: String,
    /// Address of the peer that it came from; `local` when originated here.
    #[prost(string, tag = "3")]
    pub source: String,
    #[prost(string, tag = "4")]
    pub as_path: String,
    #[prost(uint32, optional, tag = "5")]
    pub local_pref: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub med: Option<u32>,
    #[prost(bool, tag = "7")]
    pub best: bool,
    /// The step of the decision process that made it best.
    #[prost(string, tag = "8")]
    pub reason: String,
    /// Why it is not used at all; empty when it may be.
    #[prost(string, tag = "9")]
    pub rejected: String,
    /// Kept from before its peer went away.
    #[prost(bool, tag = "10")]
    pub stale: bool,
    #[prost(string, repeated, tag = "11")]
    pub communities: Vec<String>,
    /// Path identifier (RFC 7911); 0 without.
    #[prost(uint32, tag = "12")]
    pub path_id: u32,
}
