//! Bytes to BGP messages and back.
//!
//! Owns the wire format: RFC 4271 messages, capabilities (RFC 5492), multiprotocol IPv4 and IPv6 unicast
//! (RFC 4760), four-octet AS numbers (RFC 6793), ADD-PATH (RFC 7911), and the error classes of RFC 7606, which the
//! types carry: `Err` means the session is reset, [`Update::disabled`] that a family is, and [`Update::problem`]
//! tells treat-as-withdraw from attribute discard. `revised_errors` is their table.
//! Decoding borrows from the receive buffer and never allocates by a length that the peer sent.
//! Never touches sockets, timers or policy.

#![forbid(unsafe_code)]

mod as_path;
pub mod attribute_code;
mod attributes;
mod capability;
mod community;
mod encode;
mod error;
mod family;
mod message;
mod notification;
mod open;
mod path;
mod prefix;
mod reader;
mod revised_errors;
mod update;

pub use as_path::{AS_TRANS, AsPath, Segment, SegmentKind};
pub use attributes::Attributes;
pub use capability::{AddPathMode, Capability, GracefulRestart, Role};
pub use community::{Community, InvalidCommunity, LargeCommunity};
pub use encode::{
    EncodeOptions, Route, TooLong, WireAttributes, encode_end_of_rib, encode_reach, encode_reach_wire,
    encode_unreach,
};
pub use error::{AttributeProblem, DecodeError, Disposition, Fault};
pub use family::{AfiSafi, Family};
pub use message::{
    Frame, HEADER_LEN, MAX_EXTENDED_LEN, MAX_LEN, Message, MessageType, encode_keepalive, frame,
};
pub use notification::{Cease, Notification, code};
pub use open::{InvalidOpen, Open};
pub use path::{Aggregator, NextHop, Origin, Partial, PathAttributes, RawAttribute};
pub use prefix::{InvalidPrefix, Nlri, NlriIter, NlriPaths, Prefix};
pub use revised_errors::disposition;
pub use update::{MpReach, RouteRefresh, Update, UpdateContext};
