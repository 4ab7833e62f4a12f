//! What a peer has been through. Owns counters of messages and the last turns of its session with their
//! causes; bounded, whatever the peer does.

use std::collections::VecDeque;
use std::time::Instant;

use bgp_packet::{HEADER_LEN, Message};

use crate::Cause;

/// Turns that are kept of one peer.
const TURNS: usize = 16;

/// Messages of one direction, by type (RFC 4271 §4.1, RFC 2918).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// OPEN.
    pub open: u64,
    /// UPDATE.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub route_refresh: u64,
}

impl MessageCounts {
    /// Messages of all types.
    pub fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.route_refresh
    }

    /// Counts a message that came in.
    pub(crate) fn note(&mut self, message: &Message<'_>) {
        let counter = match message {
            Message::Open(_) => &mut self.open,
            Message::Update(_) => &mut self.update,
            Message::Notification(_) => &mut self.notification,
            Message::Keepalive => &mut self.keepalive,
            Message::RouteRefresh(_) => &mut self.route_refresh,
        };
        *counter += 1;
    }

    /// Counts whole messages that are sent, but for NOTIFICATIONs: these are counted where sessions end.
    pub(crate) fn note_sent(&mut self, mut bytes: &[u8]) {
        while let Some(header) = bytes.first_chunk::<HEADER_LEN>() {
            match header[18] {
                1 => self.open += 1,
                2 => self.update += 1,
                4 => self.keepalive += 1,
                5 => self.route_refresh += 1,
                _ => {}
            }
            let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
            bytes = bytes.get(length.max(HEADER_LEN)..).unwrap_or_default();
        }
    }
}

/// One turn of a session: it came up, or it went down or could not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When.
    pub at: Instant,
    /// `None` when the session came up; otherwise why it is not.
    pub cause: Option<Cause>,
}

/// Counters and turns of one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) received: MessageCounts,
    pub(crate) sent: MessageCounts,
    /// Established sessions that ended, other than by giving way to a second connection with the same peer.
    pub(crate) flaps: u64,
    turns: VecDeque<Turn>,
}

impl History {
    /// Notes a turn; the oldest is forgotten when there are too many.
    pub(crate) fn turn(&mut self, at: Instant, cause: Option<Cause>) {
        if self.turns.len() == TURNS {
            self.turns.pop_front();
        }
        self.turns.push_back(Turn { at, cause });
    }

    /// The turns, the newest first.
    pub(crate) fn turns(&self) -> Vec<Turn> {
        self.turns.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_messages_are_counted_by_type_also_when_several_go_together() {
        let mut bytes = Vec::new();
        bgp_packet::encode_keepalive(&mut bytes);
        bgp_packet::encode_end_of_rib(&mut bytes, bgp_packet::Family::Ipv4);
        bgp_packet::encode_keepalive(&mut bytes);
        let mut counts = MessageCounts::default();

        counts.note_sent(&bytes);

        assert_eq!(counts, MessageCounts { keepalive: 2, update: 1, ..MessageCounts::default() });
        assert_eq!(counts.total(), 3);
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn only_the_last_turns_are_kept_newest_first() {
        let now = Instant::now();
        let mut history = History::default();

        history.turn(now, None);
        (0..TURNS).for_each(|_| history.turn(now, Some(Cause::AdminDown)));

        assert_eq!(history.turns(), vec![Turn { at: now, cause: Some(Cause::AdminDown) }; TURNS]);
    }
}
