//! The way of a packet through one node, over the chains of a fake dataplane.

pub use kernel::interpret::Packet;
use kernel::interpret::{Verdict, walk};

use crate::node::Node;

/// May it pass a node, from one interface to another?
pub fn is_forwarded(node: &Node, packet: &Packet) -> bool {
    // FORWARD's own policy is taken for DROP: what is allowed must be accepted, not fall through.
    verdict(node, packet) == Verdict::Accept
}

/// May it enter the node itself?
pub fn is_delivered_to_host(node: &Node, packet: &Packet) -> bool {
    verdict(node, packet) == Verdict::Accept
}

/// May the node itself send it?
pub fn is_sent_by_host(node: &Node, packet: &Packet) -> bool {
    !verdict(node, packet).is_stopped()
}

/// What the rules of both dataplanes say.
fn verdict(node: &Node, packet: &Packet) -> Verdict {
    let verdict = walk(&node.dataplane, packet).verdict;
    assert_eq!(node.nftables.walk(packet).verdict, verdict, "nftables on {packet:?}");
    verdict
}
