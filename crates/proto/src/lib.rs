//! The messages that processes of a node exchange over unix sockets, and how they are framed.
//! ([`gobgp`] has the messages of another project, which are framed by gRPC.)
//!
//! Every message is protobuf (prost) behind a four-byte big-endian length: the CNI plugin then needs no HTTP/2
//! stack and starts within a millisecond. Owns contracts only, never what happens behind them.

pub mod felix;
mod frame;
pub mod gobgp;
pub mod node;
pub mod speaker;
pub mod typha;

pub use frame::{FrameError, MAX_FRAME, decode_frame, encode_frame, read_frame, write_frame};
