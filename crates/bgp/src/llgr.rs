//! Long-lived graceful restart (RFC 9494). Owns what becomes of stale routes when the restart time is over, and who
//! may get them; that they are the last choice is a step of the decision.

use std::time::Instant;

use bgp_packet::{Community, Family, PathAttributes};

use crate::restart::{Retained, Stage};
use crate::rib::{Keep, PeerIndex};
use crate::{Speaker, Withheld};

impl Speaker {
    /// The restart time of a peer is over: its routes become the last choice until `until`, but for those that must
    /// not be kept so long (RFC 9494 §4.2).
    pub(crate) fn begin_long_lived(&mut self, index: PeerIndex, family: Family, until: Instant) {
        let mut any = false;
        self.rib.visit_peer(index, |prefix, path, table| {
            if !path.stale || prefix.family() != family {
                return Keep::Keep;
            }
            if table.get(path.received).communities.contains(&Community::NO_LLGR) {
                return Keep::Drop;
            }
            path.long_stale = true;
            any = true;
            Keep::Keep
        });
        if let Some(peer) = self.peer_mut(index) {
            peer.retained[family.index()] = any.then_some(Retained { until, stage: Stage::LongLived });
        }
    }
}

/// Marks a route that is kept so long; only peers that know what that means get it (RFC 9494 §4.3).
///
/// # Errors
/// When these peers do not.
pub(crate) fn on_export(
    long_lived: bool,
    long_stale: bool,
    attributes: &mut PathAttributes,
) -> Result<(), Withheld> {
    let marked = attributes.communities.contains(&Community::LLGR_STALE);
    if !marked && !long_stale {
        return Ok(());
    }
    if !long_lived {
        return Err(Withheld::LongLivedStale);
    }
    if !marked {
        attributes.communities.push(Community::LLGR_STALE);
        attributes.communities.sort_unstable();
    }
    Ok(())
}
