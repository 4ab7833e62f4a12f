//! One session of the load. Owns its socket, what is still to be written, and which prefixes it was told.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::wire;

/// What a session waits to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    Nothing,
    /// Knows at least so many prefixes of others.
    Knows(usize),
    /// Knows at most so many.
    Forgets(usize),
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Idle,
    Connecting,
    Opening,
    Established,
}

/// Who a session plays.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) address: Ipv4Addr,
    pub(crate) asn: u32,
    /// Prefixes that it announces itself: what it is told about these does not count.
    pub(crate) own: Range<u32>,
    /// What it sends as soon as it is established.
    pub(crate) first: Option<Rc<[u8]>>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) role: Role,
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) stage: Stage,
    pub(crate) goal: Goal,
    pub(crate) sent_at: Instant,
    /// Waits for room in the socket.
    pub(crate) blocked: bool,
    out: VecDeque<(Rc<[u8]>, usize)>,
    partial: Vec<u8>,
    told: Vec<u64>,
    count: usize,
}

impl Session {
    pub(crate) fn new(role: Role, prefixes: u32, now: Instant) -> Self {
        Self {
            role,
            socket: None,
            stage: Stage::Idle,
            goal: Goal::Nothing,
            sent_at: now,
            blocked: false,
            out: VecDeque::new(),
            partial: Vec::new(),
            told: vec![0; prefixes.div_ceil(64) as usize],
            count: 0,
        }
    }

    /// Begins to connect.
    pub(crate) fn connect(&mut self, to: SocketAddrV4, hold_time: u16) -> io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddr::from((self.role.address, 0)))?;
        match rustix::net::connect(&socket, &SocketAddr::from(to)) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.socket = Some(socket);
        self.stage = Stage::Connecting;
        self.blocked = true;
        self.out.push_back((wire::open(self.role.asn, self.role.address, hold_time).into(), 0));
        Ok(())
    }

    /// Forgets the connection, to try again.
    pub(crate) fn disconnect(&mut self) {
        self.socket = None;
        self.stage = Stage::Idle;
        self.out.clear();
        self.partial.clear();
    }

    /// Prefixes of others that it knows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether it was told what it waits for.
    pub(crate) fn is_content(&self) -> bool {
        match self.goal {
            Goal::Nothing => true,
            Goal::Knows(n) => self.stage == Stage::Established && self.count >= n,
            Goal::Forgets(n) => self.count <= n,
        }
    }

    pub(crate) fn push(&mut self, bytes: Rc<[u8]>) {
        self.out.push_back((bytes, 0));
    }

    /// Writes until the socket is full or nothing is left.
    pub(crate) fn write(&mut self, now: Instant) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        self.blocked = false;
        while let Some((bytes, at)) = self.out.front_mut() {
            match rustix::net::send(socket, &bytes[*at..], rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => *at += n,
                Err(rustix::io::Errno::AGAIN) => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            self.sent_at = now;
            if *at == bytes.len() {
                self.out.pop_front();
            }
        }
        Ok(())
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self, buffer: &mut [u8], now: Instant) -> io::Result<()> {
        loop {
            let Some(socket) = &self.socket else { return Ok(()) };
            let n = match rustix::io::read(socket, &mut *buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if self.partial.is_empty() {
                let used = self.messages(&buffer[..n])?;
                self.partial.extend_from_slice(&buffer[used..n]);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(&buffer[..n]);
                let used = self.messages(&whole)?;
                whole.drain(..used);
                self.partial = whole;
            }
            if self.stage == Stage::Opening || !self.out.is_empty() {
                self.write(now)?;
            }
            if n < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Takes in whole messages; gives back how many bytes these were.
    fn messages(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut used = 0;
        while let Some((kind, length)) = wire::header(&bytes[used..]) {
            let Some(body) = bytes.get(used + wire::HEADER..used + length) else { break };
            used += length;
            match kind {
                wire::UPDATE => {
                    let (own, told, count) = (&self.role.own, &mut self.told, &mut self.count);
                    wire::walk(body, |i, announced| note(own, told, count, i, announced))
                        .ok_or_else(|| io::Error::other("an UPDATE that nobody asked for"))?;
                }
                wire::OPEN => self.push(wire::keepalive().into()),
                wire::KEEPALIVE if self.stage == Stage::Opening => {
                    self.stage = Stage::Established;
                    self.out.extend(self.role.first.clone().map(|bytes| (bytes, 0)));
                }
                wire::NOTIFICATION => {
                    let code = (body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0));
                    return Err(io::Error::other(format!("NOTIFICATION {}/{}", code.0, code.1)));
                }
                _ => {}
            }
        }
        Ok(used)
    }
}

fn note(own: &Range<u32>, told: &mut [u64], count: &mut usize, i: u32, announced: bool) {
    if own.contains(&i) {
        return;
    }
    let Some(word) = told.get_mut(i as usize / 64) else { return };
    let bit = 1 << (i % 64);
    match (*word & bit != 0, announced) {
        (false, true) => *count += 1,
        (true, false) => *count -= 1,
        _ => return,
    }
    *word ^= bit;
}
