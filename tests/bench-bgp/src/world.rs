//! All sessions of the load in one thread. Owns the epoll loop, the pace of connecting, and the keepalives.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::session::{Goal, Role, Session, Stage};
use crate::wire;

/// Hold time that the sessions offer, in seconds.
const HOLD_TIME: u16 = 90;
/// A session that has sent nothing for so long sends a KEEPALIVE.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// Connections that are not established yet, at most.
const CONNECTING: usize = 128;
/// A connection that was refused or closed before it was established is tried again after this.
const RETRY: Duration = Duration::from_millis(50);

/// The sessions, and where they connect to.
pub(crate) struct World {
    pub(crate) sessions: Vec<Session>,
    to: SocketAddrV4,
    epoll: OwnedFd,
    buffer: Vec<u8>,
    keepalive: Rc<[u8]>,
    /// Sessions that may connect, the next one last.
    queue: Vec<usize>,
    /// Time between two connections.
    pace: Duration,
    connect_at: Instant,
    keepalive_at: Instant,
    connecting: usize,
    established: usize,
    unhappy: usize,
    /// Connections that had to be tried again.
    pub(crate) retries: usize,
}

impl World {
    pub(crate) fn new(to: SocketAddrV4) -> anyhow::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            sessions: Vec::new(),
            to,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?,
            buffer: vec![0; 256 * 1024],
            keepalive: wire::keepalive().into(),
            queue: Vec::new(),
            pace: Duration::ZERO,
            connect_at: now,
            keepalive_at: now + KEEPALIVE,
            connecting: 0,
            established: 0,
            unhappy: 0,
            retries: 0,
        })
    }

    /// Adds a session that can be told `prefixes` prefixes.
    pub(crate) fn add(&mut self, role: Role, prefixes: u32) -> usize {
        self.sessions.push(Session::new(role, prefixes, Instant::now()));
        self.sessions.len() - 1
    }

    /// Lets all sessions connect that do not yet, `pace` apart.
    pub(crate) fn connect(&mut self, pace: Duration) {
        let idle = (0..self.sessions.len()).filter(|i| self.sessions[*i].stage == Stage::Idle);
        self.queue = idle.rev().collect();
        self.pace = pace;
        self.connect_at = Instant::now();
    }

    /// Says what a session waits for.
    pub(crate) fn expect(&mut self, i: usize, goal: Goal) {
        let was = self.sessions[i].is_content();
        self.sessions[i].goal = goal;
        self.content(i, was);
    }

    /// Sends bytes from one session.
    pub(crate) fn send(&mut self, i: usize, bytes: Rc<[u8]>) -> anyhow::Result<()> {
        self.sessions[i].push(bytes);
        self.write(i)
    }

    /// Whether everybody is established and knows what it should.
    pub(crate) fn is_done(&self) -> bool {
        self.established == self.sessions.len() && self.unhappy == 0
    }

    /// Runs until everybody is content; `false` when the limit passed before.
    pub(crate) fn run(&mut self, limit: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + limit;
        while !self.is_done() {
            if Instant::now() >= end {
                return Ok(false);
            }
            self.turn(end)?;
        }
        Ok(true)
    }

    /// Runs for a while, whatever happens.
    pub(crate) fn idle(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(end)?;
        }
        Ok(())
    }

    /// What is missing, for a message.
    pub(crate) fn missing(&self) -> String {
        let least = self.sessions.iter().filter(|s| !s.is_content()).map(Session::count).min();
        format!(
            "{} of {} established, {} wait for prefixes{}",
            self.established,
            self.sessions.len(),
            self.unhappy,
            least.map_or(String::new(), |n| format!(" (one knows {n})"))
        )
    }

    fn turn(&mut self, end: Instant) -> anyhow::Result<()> {
        let now = Instant::now();
        self.connect_due(now)?;
        if now >= self.keepalive_at {
            self.send_keepalives(now)?;
        }
        let mut next = end.min(self.keepalive_at);
        if !self.queue.is_empty() && self.connecting < CONNECTING {
            next = next.min(self.connect_at);
        }
        let wait = next.saturating_duration_since(now);
        let timeout = rustix::event::Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 256];
        let ready = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error).context("epoll"),
        };
        for event in ready.iter() {
            let (i, flags) = (event.data.u64() as usize, event.flags);
            if flags.intersects(EventFlags::OUT) {
                self.writable(i)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.read(i)?;
            }
        }
        Ok(())
    }

    fn connect_due(&mut self, now: Instant) -> anyhow::Result<()> {
        while self.connecting < CONNECTING && self.connect_at <= now {
            let Some(i) = self.queue.pop() else { break };
            self.sessions[i].connect(self.to, HOLD_TIME).context("connect")?;
            self.connecting += 1;
            self.register(i, true)?;
            self.connect_at = self.connect_at.max(now - self.pace) + self.pace;
        }
        Ok(())
    }

    fn register(&mut self, i: usize, new: bool) -> anyhow::Result<()> {
        let session = &self.sessions[i];
        let Some(socket) = &session.socket else { return Ok(()) };
        let flags = if session.blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        let data = EventData::new_u64(i as u64);
        let done = match new {
            true => epoll::add(&self.epoll, socket, data, flags),
            false => epoll::modify(&self.epoll, socket, data, flags),
        };
        done.context("epoll")
    }

    fn writable(&mut self, i: usize) -> anyhow::Result<()> {
        if self.sessions[i].stage == Stage::Connecting {
            let Some(socket) = &self.sessions[i].socket else { return Ok(()) };
            match rustix::net::sockopt::socket_error(socket).context("connect")? {
                Ok(()) => self.sessions[i].stage = Stage::Opening,
                Err(error) => return self.lost(i, &error.into()),
            }
        }
        self.write(i)
    }

    fn write(&mut self, i: usize) -> anyhow::Result<()> {
        let was = self.sessions[i].blocked;
        if let Err(error) = self.sessions[i].write(Instant::now()) {
            return self.lost(i, &error);
        }
        if was == self.sessions[i].blocked { Ok(()) } else { self.register(i, false) }
    }

    fn read(&mut self, i: usize) -> anyhow::Result<()> {
        let session = &mut self.sessions[i];
        let (content, stage, blocked) = (session.is_content(), session.stage, session.blocked);
        let result = session.read(&mut self.buffer, Instant::now());
        let session = &self.sessions[i];
        let became = stage != Stage::Established && session.stage == Stage::Established;
        if session.blocked != blocked && result.is_ok() {
            self.register(i, false)?;
        }
        if became {
            self.connecting -= 1;
            self.established += 1;
        }
        self.content(i, content);
        result.or_else(|error| self.lost(i, &error))
    }

    fn content(&mut self, i: usize, was: bool) {
        match (was, self.sessions[i].is_content()) {
            (true, false) => self.unhappy += 1,
            (false, true) => self.unhappy -= 1,
            _ => {}
        }
    }

    fn lost(&mut self, i: usize, error: &io::Error) -> anyhow::Result<()> {
        let address = self.sessions[i].role.address;
        if self.sessions[i].stage == Stage::Established {
            bail!("session of {address} lost: {error}");
        }
        self.retries += 1;
        if self.retries > 20 * self.sessions.len() {
            bail!("session of {address} does not come up: {error}");
        }
        self.sessions[i].disconnect();
        self.connecting -= 1;
        self.queue.insert(0, i);
        self.connect_at = self.connect_at.max(Instant::now() + RETRY);
        Ok(())
    }

    fn send_keepalives(&mut self, now: Instant) -> anyhow::Result<()> {
        self.keepalive_at = now + KEEPALIVE / 10;
        for i in 0..self.sessions.len() {
            let session = &self.sessions[i];
            if session.stage == Stage::Established && session.sent_at + KEEPALIVE <= now && !session.blocked {
                let keepalive = self.keepalive.clone();
                self.send(i, keepalive)?;
            }
        }
        Ok(())
    }
}
