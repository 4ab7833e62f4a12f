//! The way of a packet through one node, over the chains of a fake dataplane.

pub use kernel::interpret::Packet;
use kernel::interpret::{Verdict, walk};

use crate::dataplane::Dataplane;

/// May it pass a node, from one interface to another?
pub fn is_forwarded(dataplane: &Dataplane, packet: &Packet) -> bool {
    // FORWARD's own policy is taken for DROP: what is allowed must be accepted, not fall through.
    walk(dataplane, packet).verdict == Verdict::Accept
}

/// May it enter the node itself?
pub fn is_delivered_to_host(dataplane: &Dataplane, packet: &Packet) -> bool {
    walk(dataplane, packet).verdict == Verdict::Accept
}

/// May the node itself send it?
pub fn is_sent_by_host(dataplane: &Dataplane, packet: &Packet) -> bool {
    !walk(dataplane, packet).verdict.is_stopped()
}
