//! Two connections with one peer (RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §4.2). Owns which of them stays.

use std::time::{Duration, Instant};

use bgp_packet::{Cease, Notification, Open};

use crate::peer::Phase;
use crate::rib::PeerIndex;
use crate::{Cause, ConnId, Speaker};

/// A session younger than this may still collide with a connection that was begun beside it. A new connection
/// beside an older one means that the peer has restarted.
const YOUNG: Duration = Duration::from_secs(3);

impl Speaker {
    /// Decides which of two connections stays. Gives back whether `conn` does.
    pub(crate) fn resolve_collision(
        &mut self,
        index: PeerIndex,
        conn: ConnId,
        open: &Open,
        now: Instant,
    ) -> bool {
        let own = (u32::from(self.config.router_id), self.config.asn);
        let Some(peer) = self.peer_mut(index) else { return false };
        let theirs = (u32::from(open.router_id), open.asn);
        let Some((outgoing, after_established)) =
            peer.connection(conn).map(|c| (c.outgoing, c.after_established))
        else {
            return false;
        };
        // The connection of the side with the higher identifier stays; both sides see it so.
        let wins = (own > theirs) == outgoing;
        if let Some(session) = &peer.session {
            let old = session.conn;
            if now <= session.since + YOUNG {
                if wins {
                    let cease = Notification::cease(Cease::CollisionResolution);
                    let cause = Cause::NotificationSent(cease.clone(), String::new());
                    self.end(index, old, cause, Some(cease), now);
                } else {
                    self.close_collided(index, conn);
                }
                return wins;
            }
            let restarted = after_established && session.restart.is_some();
            if restarted {
                self.end(index, old, Cause::PeerRestarted, None, now);
            } else {
                self.close_collided(index, conn);
            }
            return restarted;
        }
        let rival = peer.connections.iter().find(|c| c.id != conn && c.phase == Phase::OpenConfirm);
        let Some(rival) = rival.map(|c| c.id) else { return true };
        self.close_collided(index, if wins { rival } else { conn });
        wins
    }

    fn close_collided(&mut self, index: PeerIndex, conn: ConnId) {
        let mut bytes = Vec::new();
        Notification::cease(Cease::CollisionResolution).encode(&mut bytes);
        self.send(conn, bytes);
        self.discard(index, conn);
    }
}
