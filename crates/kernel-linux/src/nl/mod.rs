//! Netlink: messages written into one buffer, sent in batches, answers walked in place.
//!
//! Knows framing, acknowledgements and errors; never what a message means.

mod error;
mod read;
mod socket;
mod write;

pub use error::{Error, errno, named};
pub(crate) use read::address;
pub use read::{Attribute, Attributes, Message, messages};
pub use socket::{Protocol, Socket};
pub use write::{Batch, Writer};

/// Headers and attributes begin at multiples of 4 bytes.
pub(crate) fn align(length: usize) -> usize {
    (length + 3) & !3
}
