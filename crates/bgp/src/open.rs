//! OPEN messages (RFC 4271 §6.2). Owns when ours is sent and which of a peer's is refused.

use std::time::{Duration, Instant};

use bgp_packet::{AfiSafi, Family, Notification, Open, code, encode_keepalive};

use crate::peer::{Peer, Phase};
use crate::rib::PeerIndex;
use crate::session::{OwnState, capabilities};
use crate::{Cause, Config, ConnId, PeerConfig, Speaker};

/// How long a configured peer may take to send its OPEN.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a dynamic neighbour may: nobody knows yet who that is.
const DYNAMIC_OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the peer may take to confirm our OPEN when there is no hold time.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(20);

impl Speaker {
    /// TCP is there: sends our OPEN, or waits for the peer's when the configuration delays ours.
    pub(crate) fn begin_open(&mut self, index: PeerIndex, conn: ConnId, now: Instant) {
        let Some(delay) = self.peer(index).map(|p| p.config.delay_open) else { return };
        if delay.is_zero() {
            return self.send_open(index, conn, now);
        }
        if let Some(connection) = self.peer_mut(index).and_then(|p| p.connection(conn)) {
            connection.phase = Phase::DelayOpen;
            connection.deadline = Some(now + delay);
        }
    }

    /// Sends our OPEN, with the capabilities that the configuration and the state of a restart give.
    pub(crate) fn send_open(&mut self, index: PeerIndex, conn: ConnId, now: Instant) {
        let restarting = self.deferral.is_some();
        let kept = self.start.forwarding_kept;
        let (speaker_asn, router_id) = (self.config.asn, self.config.router_id);
        let Some(peer) = self.peer_mut(index) else { return };
        let first = peer.sessions == 0;
        let asn = peer.local_asn(speaker_asn);
        // Forwarding was kept over our restart, or since an earlier session of this run.
        let own = OwnState { asn, restarting: restarting && first, forwarding: kept || !first };
        let capabilities = capabilities(&peer.config, own);
        let open = Open { asn, hold_time: peer.config.hold_time(), router_id, capabilities };
        let timeout = if peer.dynamic { DYNAMIC_OPEN_TIMEOUT } else { OPEN_TIMEOUT };
        let mut bytes = Vec::with_capacity(96);
        open.encode(&mut bytes);
        if let Some(connection) = peer.connection(conn) {
            connection.phase = Phase::OpenSent;
            connection.deadline = Some(now + timeout);
            connection.offered = open.capabilities;
        }
        self.send(conn, bytes);
    }

    pub(crate) fn handle_open(&mut self, index: PeerIndex, conn: ConnId, open: Open, now: Instant) {
        let Some(phase) = self.peer_mut(index).and_then(|p| p.connection(conn)).map(|c| c.phase) else {
            return;
        };
        if phase == Phase::DelayOpen {
            self.send_open(index, conn, now);
        }
        let Some(peer) = self.peer(index) else { return };
        if let Some((cause, notification)) = refusal(&self.config, peer, &open) {
            return self.end(index, conn, cause, Some(notification), now);
        }
        if !self.resolve_collision(index, conn, &open, now) {
            return;
        }
        let Some(peer) = self.peer_mut(index) else { return };
        let hold = peer.config.hold_time().min(open.hold_time);
        let wait = if hold == 0 { CONFIRM_TIMEOUT } else { Duration::from_secs(hold.into()) };
        peer.router_id = Some(open.router_id);
        let Some(connection) = peer.connection(conn) else { return };
        connection.open = Some(open);
        connection.phase = Phase::OpenConfirm;
        connection.deadline = Some(now + wait);
        let mut bytes = Vec::new();
        encode_keepalive(&mut bytes);
        self.send(conn, bytes);
    }
}

/// Why a peer's OPEN is not taken, if it is not, and what is answered.
fn refusal(config: &Config, peer: &Peer, open: &Open) -> Option<(Cause, Notification)> {
    let own_asn = peer.local_asn(config.asn);
    if let Some(expected) = peer.config.asn.filter(|expected| *expected != open.asn) {
        return Some((Cause::WrongAs { expected, got: open.asn }, Notification::new(code::OPEN, 2)));
    }
    // Identifiers need to differ within an AS only (RFC 6286 §2.2).
    if open.router_id == config.router_id && open.asn == own_asn {
        return Some((Cause::SameIdentifier(open.router_id), Notification::new(code::OPEN, 3)));
    }
    if open.asn != own_asn
        && let Some(refused) = role_refusal(&peer.config, open)
    {
        return Some(refused);
    }
    if !peer.config.families.iter().any(|f| open.speaks(*f)) {
        let data = peer.config.families.iter().flat_map(|f| wanted(*f)).collect();
        let notification = Notification { data, ..Notification::new(code::OPEN, 7) };
        return Some((Cause::NoCommonFamily, notification));
    }
    None
}

/// The role rules of RFC 9234 §4.2.
fn role_refusal(config: &PeerConfig, open: &Open) -> Option<(Cause, Notification)> {
    let ours = config.role?;
    let mismatch = Notification::new(code::OPEN, 11);
    let theirs = match open.role() {
        Ok(theirs) => theirs,
        Err(error) => {
            let cause = Cause::NotificationSent(mismatch.clone(), error.detail.to_owned());
            return Some((cause, mismatch));
        }
    };
    let fits = theirs.map_or(!config.strict_role, |theirs| theirs == ours.counterpart());
    (!fits).then_some((Cause::RoleMismatch { ours, theirs }, mismatch))
}

/// The capability that we miss, as the data of an Unsupported Capability (RFC 5492 §5).
fn wanted(family: Family) -> [u8; 6] {
    let AfiSafi { afi, safi } = family.into();
    let [high, low] = afi.to_be_bytes();
    [1, 4, high, low, 0, safi]
}
