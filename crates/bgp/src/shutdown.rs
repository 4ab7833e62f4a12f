//! Graceful shutdown (RFC 8326) and policy by default (RFC 8212). Owns what both do to routes on their way in and out.

use bgp_packet::{Community, PathAttributes};

use crate::peer::Peer;
use crate::{Config, Policy};

/// LOCAL_PREF of routes that are about to go (RFC 8326 §4).
const LAST_CHOICE: u32 = 0;

/// The LOCAL_PREF of a route of an external peer that is the last choice: the peer says so with the route, or we shut
/// the session down.
pub(crate) fn on_import(peer: &Peer, attributes: &PathAttributes) -> Option<u32> {
    let announced = attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN);
    (announced || peer.config.graceful_shutdown).then_some(LAST_CHOICE)
}

/// Marks a route on its way out as one that is about to go.
pub(crate) fn on_export(internal: bool, attributes: &mut PathAttributes) {
    if !attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN) {
        attributes.communities.push(Community::GRACEFUL_SHUTDOWN);
        attributes.communities.sort_unstable();
    }
    if internal {
        attributes.local_pref = Some(LAST_CHOICE);
    }
}

/// Whether routes of or to a peer are refused because nobody has said what is to become of them (RFC 8212 §2): the
/// policy is the default one, which has no rule and accepts.
pub(crate) fn lacks_policy(config: &Config, external: bool, policy: &Policy) -> bool {
    config.ebgp_requires_policy && external && *policy == Policy::accept()
}
