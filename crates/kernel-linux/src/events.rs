//! Changes of links, addresses, routes and neighbours, whoever makes them.
//!
//! A plain thread that calls back: it needs no runtime, and a callback feeds a tokio channel as well as a plain
//! one.

use std::collections::HashSet;
use std::io;
use std::thread::{self, JoinHandle};

use kernel::LinkEvent;

use crate::link::parse_link;
use crate::nl::{Message, Protocol, Socket, messages, named};

/// Datagrams that are put together before events are delivered, so that a burst counts once.
const BURST: usize = 1024;
/// RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// A socket that hears of changes in the network namespace in which it was opened.
pub struct Events {
    socket: Socket,
    /// Ports whose routes and neighbours are not told of.
    own: Vec<u32>,
}

impl Events {
    /// Events are kept from here on, until `receive` takes them.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(Protocol::Route).map_err(|e| named("open event socket", e))?;
        socket.set_timeout(0)?;
        for group in GROUPS {
            socket.join(group).map_err(|e| named("subscribe to kernel events", e))?;
        }
        Ok(Self { socket, own: Vec::new() })
    }

    /// Does not tell of routes and neighbours that sockets with these ports wrote: their owner knows of them.
    #[must_use]
    pub fn without(mut self, ports: impl IntoIterator<Item = u32>) -> Self {
        self.own.extend(ports);
        self
    }

    /// Waits for changes. Equal events of one burst are delivered once; lost events become `Overrun`.
    pub fn receive(&mut self) -> io::Result<Vec<LinkEvent>> {
        let mut burst = Burst::default();
        let mut next = self.socket.receive().map(Some);
        for _ in 0..BURST {
            match next {
                Ok(Some(length)) => messages(self.socket.received(length))
                    .filter(|message| !is_known(message, &self.own))
                    .for_each(|message| burst.add(&message)),
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => burst.push(LinkEvent::Overrun),
                Err(error) => return Err(named("receive kernel events", error)),
            }
            next = self.socket.try_receive();
        }
        Ok(burst.events)
    }

    /// Delivers events from a thread of its own, until `deliver` returns `false` or the socket fails.
    ///
    /// After a failure of the socket the last event is `Overrun`, and the thread returns the error.
    pub fn spawn(
        mut self,
        mut deliver: impl FnMut(LinkEvent) -> bool + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        thread::Builder::new().name("kernel-events".to_owned()).spawn(move || {
            loop {
                let events = self.receive().inspect_err(|_| {
                    deliver(LinkEvent::Overrun);
                })?;
                if !events.into_iter().all(&mut deliver) {
                    return Ok(());
                }
            }
        })
    }
}

/// Events in their order; an equal one is dropped, unless something happened to links in between.
#[derive(Default)]
struct Burst {
    seen: HashSet<LinkEvent>,
    events: Vec<LinkEvent>,
}

impl Burst {
    fn add(&mut self, message: &Message<'_>) {
        if let Some(event) = parse(message) {
            self.push(event);
        }
    }

    fn push(&mut self, event: LinkEvent) {
        if matches!(event, LinkEvent::LinkGone { .. }) {
            // One of the same name may come back and then needs everything anew.
            self.seen.clear();
        }
        if self.seen.insert(event.clone()) {
            self.events.push(event);
        }
    }
}

/// Nothing has to be done about it: we wrote it, or the kernel dropped neighbours with their link (which comes back
/// with an event of its own) or changed what it learned itself.
fn is_known(message: &Message<'_>, own: &[u32]) -> bool {
    match message.kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => own.contains(&message.port),
        // Of forwarding entries the kernel never says who wrote them.
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH if is_forwarding(message) => false,
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => message.port == 0 || own.contains(&message.port),
        _ => false,
    }
}

fn is_forwarding(message: &Message<'_>) -> bool {
    message.body.first() == Some(&(libc::AF_BRIDGE as u8))
}

fn parse(message: &Message<'_>) -> Option<LinkEvent> {
    let index = |at: usize| Some(u32::from_ne_bytes(message.body.get(at..at + 4)?.try_into().ok()?));
    match message.kind {
        libc::RTM_NEWLINK => {
            let link = parse_link(message)?;
            Some(LinkEvent::Link { index: link.index, name: link.name })
        }
        libc::RTM_DELLINK => {
            let link = parse_link(message)?;
            // A bridge port that leaves its bridge is told of in the same words, with a family.
            let is_whole = *message.body.first()? == libc::AF_UNSPEC as u8;
            is_whole.then_some(LinkEvent::LinkGone { index: link.index, name: link.name })
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(LinkEvent::Address { index: index(4)? }),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let is_main = *message.body.get(4)? == libc::RT_TABLE_MAIN;
            is_main.then_some(LinkEvent::Route { protocol: *message.body.get(5)? })
        }
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH if is_forwarding(message) => {
            Some(LinkEvent::Forwarding { index: index(4)? })
        }
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => Some(LinkEvent::Neighbour { index: index(4)? }),
        _ => None,
    }
}
