//! Connections that the speaker has closed. Owns writing what is left, saying goodbye, and hearing the peer out,
//! so that a last NOTIFICATION is not lost to a reset. All of it is bounded in time and number.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::time::{Duration, Instant};

use crate::connection::Connection;

/// How long a farewell may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many there may be at a time; the oldest goes when there are more.
const MAX: usize = 8192;
/// Bytes that are read and thrown away at a time.
const READ: usize = 4096;

#[derive(Debug)]
struct Farewell {
    connection: Connection,
    shut_down: bool,
}

/// Connections on their way out, by the token that they are watched with.
#[derive(Debug, Default)]
pub(crate) struct Farewells {
    open: HashMap<u64, Farewell>,
    /// All have the same patience, so they end in order.
    deadlines: VecDeque<(Instant, u64)>,
}

impl Farewells {
    /// Takes over a connection. Gives back whether it is still open and to be watched.
    pub(crate) fn begin(&mut self, token: u64, connection: Connection, now: Instant) -> bool {
        if self.open.len() >= MAX
            && let Some((_, oldest)) = self.deadlines.pop_front()
        {
            self.open.remove(&oldest);
        }
        self.open.insert(token, Farewell { connection, shut_down: false });
        self.deadlines.push_back((now + PATIENCE, token));
        self.handle_ready(token)
    }

    /// The connection with `token`, to change what it waits for.
    pub(crate) fn connection(&self, token: u64) -> Option<&Connection> {
        self.open.get(&token).map(|f| &f.connection)
    }

    /// Carries one farewell on. Gives back whether it still waits for the peer.
    pub(crate) fn handle_ready(&mut self, token: u64) -> bool {
        let Some(farewell) = self.open.get_mut(&token) else { return false };
        let goes_on = farewell.carry_on();
        if !goes_on {
            self.open.remove(&token);
        }
        goes_on
    }

    /// Ends those that took too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, token)) = self.deadlines.pop_front_if(|(at, _)| *at <= now) {
            self.open.remove(&token);
        }
    }

    /// When `handle_timeout` is due.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        while let Some((_, token)) = self.deadlines.front() {
            if self.open.contains_key(token) {
                break;
            }
            self.deadlines.pop_front();
        }
        self.deadlines.front().map(|(at, _)| *at)
    }
}

impl Farewell {
    fn carry_on(&mut self) -> bool {
        self.connection.blocked = false;
        if self.connection.write(usize::MAX).is_err() {
            return false;
        }
        if !self.connection.has_output() && !self.shut_down {
            self.shut_down = true;
            if self.connection.shut_down().is_err() {
                return false;
            }
        }
        let mut rest = [0; READ];
        match self.connection.stream().read(&mut rest) {
            Ok(n) => n > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}
