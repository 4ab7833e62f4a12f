//! Messages of a connection (RFC 4271 §8). Owns framing and which message is expected in which state; what a
//! message does is in `open`, `lifecycle`, `refresh` and `import`.

use std::time::Instant;

use bgp_packet::{
    DecodeError, MAX_EXTENDED_LEN, MAX_LEN, Message, MessageType, Notification, UpdateContext, code, frame,
};

use crate::peer::Phase;
use crate::record::{Entry, hex};
use crate::rib::PeerIndex;
use crate::{Cause, ConnId, Speaker};

/// How the next message of a connection is to be read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    phase: Phase,
    max_len: usize,
    context: UpdateContext,
}

impl Speaker {
    /// Bytes came in. Gives back how many were used up; the rest is the beginning of a message.
    pub fn handle_data(&mut self, conn: ConnId, bytes: &[u8], now: Instant) -> usize {
        self.note(Some(now), |_| Entry::Data { conn: conn.0, hex: hex(bytes) });
        let mut used = 0;
        let mut last = None;
        while let Some(index) = self.by_conn.get(&conn).copied() {
            last = Some(index);
            let Some(reading) = self.reading(index, conn) else { break };
            match frame(&bytes[used..], reading.max_len) {
                Ok(None) => break,
                Ok(Some(found)) => {
                    used += found.len;
                    if !is_expected(reading.phase, found.kind) {
                        self.unexpected(index, conn, reading.phase, now);
                        continue;
                    }
                    match found.parse(reading.context) {
                        Ok(message) => self.handle_message(index, conn, message, now),
                        Err(error) => self.protocol_error(index, conn, &error, now),
                    }
                }
                Err(error) => self.protocol_error(index, conn, &error, now),
            }
        }
        if let Some(index) = last {
            self.settle(index, now);
        }
        if self.by_conn.contains_key(&conn) { used } else { bytes.len() }
    }

    fn reading(&self, index: PeerIndex, conn: ConnId) -> Option<Reading> {
        let peer = self.peer(index)?;
        let phase = peer.connections.iter().find(|c| c.id == conn)?.phase;
        let session = peer.session.as_ref().filter(|s| s.conn == conn);
        // OPEN and KEEPALIVE never exceed the old limit (RFC 8654 §4).
        let extended = session.is_some() && peer.config.extended_messages;
        Some(Reading {
            phase,
            max_len: if extended { MAX_EXTENDED_LEN } else { MAX_LEN },
            context: session.map_or_else(UpdateContext::default, |s| s.context),
        })
    }

    fn handle_message(&mut self, index: PeerIndex, conn: ConnId, message: Message<'_>, now: Instant) {
        let Some(peer) = self.peer_mut(index) else { return };
        peer.history.received.note(&message);
        let Some(phase) = peer.connection(conn).map(|c| c.phase) else { return };
        if phase == Phase::Established {
            self.refresh_hold(index, conn, now);
        }
        match message {
            Message::Notification(n) => {
                self.end(index, conn, Cause::NotificationReceived(n), None, now);
            }
            Message::Open(open) => self.handle_open(index, conn, open, now),
            Message::Keepalive if phase == Phase::OpenConfirm => self.establish(index, conn, now),
            Message::Keepalive => {}
            Message::Update(update) => {
                if self.disable_families(index, &update, now) {
                    self.handle_update(index, &update, now);
                }
                self.check_max_prefix(index, now);
            }
            Message::RouteRefresh(refresh) => self.handle_route_refresh(index, refresh, now),
        }
    }

    /// A message came that has no place in the state (RFC 4271 §6.6, RFC 6608).
    fn unexpected(&mut self, index: PeerIndex, conn: ConnId, phase: Phase, now: Instant) {
        let subcode = match phase {
            Phase::Connecting | Phase::DelayOpen => 0,
            Phase::OpenSent => 1,
            Phase::OpenConfirm => 2,
            Phase::Established => 3,
        };
        let notification = Notification::new(code::FSM, subcode);
        let cause = Cause::NotificationSent(notification.clone(), String::new());
        self.end(index, conn, cause, Some(notification), now);
    }

    fn protocol_error(&mut self, index: PeerIndex, conn: ConnId, error: &DecodeError, now: Instant) {
        let cause = Cause::NotificationSent(error.notification.clone(), error.detail.to_owned());
        self.end(index, conn, cause, Some(error.notification.clone()), now);
    }
}

/// Whether a message has a place in the state; a NOTIFICATION has in every one (RFC 4271 §8.2.2).
fn is_expected(phase: Phase, kind: MessageType) -> bool {
    match kind {
        MessageType::Notification => true,
        MessageType::Open => matches!(phase, Phase::DelayOpen | Phase::OpenSent),
        MessageType::Keepalive => matches!(phase, Phase::OpenConfirm | Phase::Established),
        MessageType::Update | MessageType::RouteRefresh => phase == Phase::Established,
    }
}
