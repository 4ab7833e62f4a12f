//! One BGP speaker as a pure machine.
//!
//! Owns sessions and their states (RFC 4271 §8), Adj-RIB-In, Loc-RIB, the decision process, Adj-RIB-Out,
//! import and export policy, reflection (RFC 4456), graceful restart (RFC 4724, RFC 8538) and all their
//! timers. Bytes, connection events and time come in by `handle_*`; what is to be done comes out by `poll_*`.
//! Never touches a socket, a clock, a kernel or the cluster.

mod admission;
mod bfd;
mod cause;
mod chunk;
mod collision;
mod config;
mod connection;
mod decision;
mod disable;
mod dynamic;
mod export;
mod flush;
mod fsm;
mod hash;
mod history;
mod import;
mod intern;
mod lanes;
mod lifecycle;
mod llgr;
mod max_prefix;
mod members;
mod next_hops;
mod open;
mod operator;
mod path;
mod peer;
mod peer_key;
mod policy;
mod prefix_set;
mod random;
mod reconfigure;
mod record;
mod refresh;
mod restart;
mod retire;
mod rib;
mod roles;
mod route_status;
mod sent;
mod session;
mod shutdown;
mod speaker;
mod status;
mod table;
mod timers;
mod update_group;
mod watch;

pub use bfd::{BfdConfig, BfdFailure, BfdState, BfdWanted};
pub use cause::{Cause, Closed, ConnectFailure, Refused};
pub use config::{
    Config, DynamicNeighbours, MaxPrefix, MaxPrefixAction, NextHopMode, Password, PeerConfig, PeerKind, Start,
};
pub use decision::Reason;
pub use export::Withheld;
pub use history::{MessageCounts, Turn};
pub use next_hops::NextHopInterest;
pub use path::Rejection;
pub use peer_key::{InvalidPeerKey, PeerKey};
pub use policy::{
    Action, Condition, Edit, Facts, Glob, Operation, Policy, PrefixMatch, PrefixSet, Rule, SourceKind,
    Verdict,
};
pub use reconfigure::{Change, PeerChanges};
pub use record::{ReplayError, Replayed, Step, replay};
pub use rib::{Route, RouteSource};
pub use route_status::{AdvertisedRoute, RouteStatus};
pub use speaker::{ConnId, Event, Origin, Output, Speaker};
pub use status::{PeerState, PeerStatus, PeerTimers};
pub use watch::Watched;
