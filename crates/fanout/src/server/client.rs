//! One client: a position in the log of each kind that it wants, and little else.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proto::typha::{Hello, ListBegins, Listed, Missing, Ping, from_server};

use super::{Counters, Limits};
use crate::chunk::encode;
use crate::log::{Log, State};

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) hello: Option<Hello>,
    positions: BTreeMap<Arc<str>, Position>,
    /// The kind whose turn it was.
    turn: Option<Arc<str>>,
    /// What goes out before anything else: never more than a few messages.
    pub(super) queue: VecDeque<Bytes>,
    connected_at: Instant,
    pub(super) heard_at: Instant,
    pinged_at: Instant,
    /// Number of the last ping, and of the last one that was answered.
    ping: u64,
    pong: u64,
    /// Since when it has always had something to read.
    pub(super) behind_since: Option<Instant>,
    pub(super) is_over: bool,
}

/// How far a client has read one log.
#[derive(Debug, Default)]
struct Position {
    /// The list was begun, or is not needed.
    begun: bool,
    told_missing: bool,
    read: u64,
    /// The log's horizon when the list began.
    floor: u64,
    /// A list ends here.
    list_until: Option<u64>,
}

impl Client {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            hello: None,
            positions: BTreeMap::new(),
            turn: None,
            queue: VecDeque::new(),
            connected_at: now,
            heard_at: now,
            pinged_at: now,
            ping: 0,
            pong: 0,
            behind_since: None,
            is_over: false,
        }
    }

    pub(super) fn wants(&self, kind: &str) -> bool {
        self.positions.contains_key(kind)
    }

    pub(super) fn kinds(&self) -> usize {
        self.positions.len()
    }

    /// Begins to read a log after `read`, or with a list when that is 0.
    pub(super) fn subscribe(&mut self, kind: Arc<str>, read: u64) {
        self.positions.insert(kind, Position { begun: read > 0, read, ..Position::default() });
    }

    /// Nobody here knows this kind.
    pub(super) fn missing(&mut self, kind: &str) {
        self.queue.push_back(encode(from_server::Message::Missing(Missing { kind: kind.to_owned() })));
    }

    pub(super) fn note_news(&mut self, now: Instant) {
        self.behind_since.get_or_insert(now);
    }

    /// There is nothing that it has not been sent.
    pub(super) fn is_current(&mut self) {
        self.behind_since = None;
    }

    pub(super) fn pong(&mut self, number: u64) {
        self.pong = self.pong.max(number.min(self.ping));
    }

    /// Asks whether it still listens, when it is time. One question at a time.
    pub(super) fn ping(&mut self, limits: &Limits, now: Instant) -> bool {
        if self.is_over || self.hello.is_none() || self.pong < self.ping || now < self.pinged_at + limits.ping
        {
            return false;
        }
        self.ping += 1;
        self.pinged_at = now;
        self.queue.push_back(encode(from_server::Message::Ping(Ping { number: self.ping })));
        true
    }

    /// Why it is to be dropped.
    pub(super) fn lateness(&self, limits: &Limits, now: Instant) -> Option<&'static str> {
        if self.is_over {
            return None;
        }
        if self.hello.is_none() {
            return (now >= self.connected_at + limits.hello).then_some("no Hello came in time");
        }
        if self.pong < self.ping && now >= self.pinged_at.max(self.heard_at) + limits.silence {
            return Some("a ping was not answered");
        }
        let is_behind = self.behind_since.is_some_and(|since| now >= since + limits.behind);
        is_behind.then_some("too slow: never caught up for the longest time allowed")
    }

    /// The next message. Kinds take turns, so that a large list keeps no small one waiting.
    pub(super) fn poll(
        &mut self,
        logs: &mut BTreeMap<Arc<str>, Log>,
        counters: &mut Counters,
    ) -> Option<Bytes> {
        if let Some(frame) = self.queue.pop_front() {
            return Some(frame);
        }
        if self.is_over {
            return None;
        }
        // Those after the last turn, then those up to it; at first all of them, then none.
        let turn = self.turn.take();
        let turn = turn.as_deref();
        let orders =
            [(turn.map_or(Unbounded, Excluded), Unbounded), (Unbounded, turn.map_or(Excluded(""), Included))];
        for order in orders {
            for (kind, position) in self.positions.range_mut::<str, _>(order) {
                let Some(log) = logs.get_mut(kind) else { continue };
                if let Some((first, second)) = position.step(kind, log, counters) {
                    self.queue.extend(second);
                    self.turn = Some(kind.clone());
                    return Some(first);
                }
            }
        }
        None
    }
}

impl Position {
    /// The next message of one kind, and what must follow it at once.
    fn step(&mut self, kind: &str, log: &mut Log, counters: &mut Counters) -> Option<(Bytes, Option<Bytes>)> {
        let kind = || kind.to_owned();
        match log.state() {
            State::Unlisted => return None,
            State::Missing => {
                let is_news = !std::mem::replace(&mut self.told_missing, true);
                return is_news
                    .then(|| (encode(from_server::Message::Missing(Missing { kind: kind() })), None));
            }
            State::Listed => {}
        }
        let is_lost = self.begun && log.horizon() > self.read.max(self.floor);
        if !self.begun || is_lost {
            counters.lists += 1;
            counters.lists_again += u64::from(is_lost);
            *self =
                Self { begun: true, floor: log.horizon(), list_until: Some(log.last()), ..Self::default() };
            return Some((encode(from_server::Message::ListBegins(ListBegins { kind: kind() })), None));
        }
        let list_until = self.list_until;
        let next = log.next_after(self.read);
        match (next, list_until) {
            (Some((last, chunk)), until) if until.is_none_or(|until| chunk.first <= until) => {
                self.read = last;
                counters.chunks += 1;
                Some(match chunk.frames() {
                    (Some(skip), frame) => (skip, Some(frame)),
                    (None, frame) => (frame, None),
                })
            }
            (_, Some(_)) => {
                self.list_until = None;
                Some((encode(from_server::Message::Listed(Listed { kind: kind() })), None))
            }
            _ => None,
        }
    }
}
