//! The physical limit: a loop that keeps the bytes of all UPDATEs in one log and writes this log to everybody
//! but their sender. No table, no decision, no encoding.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

use crate::wire;

const LISTENER: u64 = u64::MAX;
/// A KEEPALIVE goes to everybody this often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A stretch of the log that one client sent.
struct Stretch {
    from: u64,
    end: usize,
}

struct Client {
    socket: OwnedFd,
    partial: Vec<u8>,
    /// What goes out before the log: OPEN and KEEPALIVE.
    greeting: Vec<u8>,
    /// How far in the log, and in which stretch.
    at: usize,
    stretch: usize,
    blocked: bool,
}

struct Floor {
    epoll: OwnedFd,
    clients: HashMap<u64, Client>,
    log: Vec<u8>,
    stretches: Vec<Stretch>,
    asn: u32,
    id: Ipv4Addr,
}

/// Listens and forwards until the process is ended.
pub(crate) fn run(address: Ipv4Addr, port: u16, asn: u32) -> anyhow::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    rustix::net::bind(&listener, &SocketAddr::from((address, port))).context("bind")?;
    rustix::net::listen(&listener, 4096)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut floor =
        Floor { epoll, clients: HashMap::new(), log: Vec::new(), stretches: Vec::new(), asn, id: address };
    let (mut buffer, mut next) = (vec![0; 256 * 1024], 0);
    let mut keepalive_at = Instant::now() + KEEPALIVE;
    loop {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 256];
        let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        let (ready, _) = epoll::wait(&floor.epoll, &mut events, Some(&timeout))?;
        let before = floor.log.len();
        for event in ready.iter() {
            match (event.data.u64(), event.flags) {
                (LISTENER, _) => floor.accept(listener.as_fd(), &mut next)?,
                (id, flags) => {
                    if flags.intersects(EventFlags::OUT) {
                        floor.write(id);
                    }
                    if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                        floor.read(id, &mut buffer);
                    }
                }
            }
        }
        let keepalive = keepalive_at <= Instant::now();
        if keepalive {
            keepalive_at = Instant::now() + KEEPALIVE;
            floor.clients.values_mut().for_each(|client| client.greeting.extend(wire::keepalive()));
        }
        if floor.log.len() != before || keepalive {
            let ids: Vec<u64> = floor.clients.keys().copied().collect();
            ids.into_iter().for_each(|id| floor.write(id));
        }
    }
}

impl Floor {
    fn accept(&mut self, listener: impl AsFd, next: &mut u64) -> anyhow::Result<()> {
        while let Ok(socket) =
            rustix::net::accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        {
            sockopt::set_tcp_nodelay(&socket, true)?;
            epoll::add(&self.epoll, &socket, EventData::new_u64(*next), EventFlags::IN)?;
            let greeting = wire::open(self.asn, self.id, 90);
            let client = Client { socket, partial: Vec::new(), greeting, at: 0, stretch: 0, blocked: false };
            self.clients.insert(*next, client);
            self.write(*next);
            *next += 1;
        }
        Ok(())
    }

    fn read(&mut self, id: u64, buffer: &mut [u8]) {
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            let n = match rustix::io::read(&client.socket, &mut *buffer) {
                Ok(0) => return drop(self.clients.remove(&id)),
                Ok(n) => n,
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => return drop(self.clients.remove(&id)),
            };
            client.partial.extend_from_slice(&buffer[..n]);
            let mut used = 0;
            while let Some((kind, length)) = wire::header(&client.partial[used..]) {
                let Some(message) = client.partial.get(used..used + length) else { break };
                match kind {
                    wire::UPDATE => self.log.extend_from_slice(message),
                    wire::OPEN => client.greeting.extend(wire::keepalive()),
                    _ => {}
                }
                used += length;
            }
            client.partial.drain(..used);
            match self.stretches.last_mut() {
                Some(last) if last.from == id => last.end = self.log.len(),
                _ => self.stretches.push(Stretch { from: id, end: self.log.len() }),
            }
            if !client.greeting.is_empty() {
                self.write(id);
            }
            if n < buffer.len() {
                return;
            }
        }
    }

    fn write(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let was = client.blocked;
        client.blocked = match client.write(id, &self.log, &self.stretches) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(_) => return drop(self.clients.remove(&id)),
        };
        if client.blocked != was {
            let flags = if client.blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let _ = epoll::modify(&self.epoll, &client.socket, EventData::new_u64(id), flags);
        }
    }
}

impl Client {
    fn write(&mut self, id: u64, log: &[u8], stretches: &[Stretch]) -> io::Result<()> {
        while !self.greeting.is_empty() {
            let n = rustix::net::send(&self.socket, &self.greeting, SendFlags::NOSIGNAL)?;
            self.greeting.drain(..n);
        }
        while let Some(stretch) = stretches.get(self.stretch) {
            if stretch.from == id {
                self.at = stretch.end;
            }
            while self.at < stretch.end {
                let mut end = stretch.end;
                // Neighbouring stretches of others go out in one call.
                let others = stretches[self.stretch + 1..].iter().take_while(|s| s.from != id);
                end = others.last().map_or(end, |last| last.end.max(end));
                self.at += rustix::net::send(&self.socket, &log[self.at..end], SendFlags::NOSIGNAL)?;
                while self.stretch + 1 < stretches.len() && stretches[self.stretch].end <= self.at {
                    self.stretch += 1;
                }
                if stretches[self.stretch].end != stretch.end {
                    break;
                }
            }
            if stretches[self.stretch].end > self.at {
                continue;
            }
            if self.stretch + 1 == stretches.len() {
                return Ok(());
            }
            self.stretch += 1;
        }
        Ok(())
    }
}
