//! Changes of the main table, route by route, so that nobody need read the table again to know it.
//!
//! Owns the names of links, which routes carry as numbers. Tells nothing of what chosen sockets did: their
//! owner knows that already.

use std::collections::HashMap;
use std::io;

use kernel::{NexthopId, NexthopObject, Route, RouteKey};

use crate::link::parse_link;
use crate::nl::{Message, Protocol, Socket, messages, named};
use crate::rtnl::{IFF_UP, RTM_DELNEXTHOP, RTM_NEWNEXTHOP, Rtnl};
use crate::{nexthop, route};

/// Datagrams that are taken together.
const BURST: usize = 1024;
/// RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// RTNLGRP_NEXTHOP, which older kernels do not have.
const NEXTHOPS: u32 = 32;

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteEvent {
    /// A route was made.
    Put {
        key: RouteKey,
        route: Route,
        /// It took the place of what had the same key; otherwise it stands beside that.
        replaces: bool,
    },
    /// A route was deleted.
    Gone { key: RouteKey, route: Route },
    /// Somebody made or changed a nexthop object with a number of our range, or deleted it: then the kernel has dropped
    /// its routes, those of IPv4 without a word.
    Nexthop {
        id: NexthopId,
        /// `RTPROT_*`: whose it is.
        protocol: u8,
        /// `None` when it is gone.
        object: Option<NexthopObject>,
    },
    /// A link came, changed or went. The kernel drops routes with a link that goes down, some without a word.
    Link { name: String, up: bool },
    /// An address came or went on a link, and perhaps routes with it.
    Address { name: String },
    /// Events were lost: only reading everything helps.
    Overrun,
}

/// A socket that hears of changes in the network namespace in which it was opened.
pub struct RouteEvents {
    socket: Socket,
    names: HashMap<u32, String>,
    ignored: Vec<u32>,
}

impl RouteEvents {
    /// Events are kept from here on, but for what the sockets with the ports `ignored` do.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(ignored: Vec<u32>) -> io::Result<Self> {
        let socket = Socket::open(Protocol::Route).map_err(|e| named("open event socket", e))?;
        socket.set_timeout(0)?;
        for group in GROUPS {
            socket.join(group).map_err(|e| named("subscribe to kernel events", e))?;
        }
        let _ = socket.join(NEXTHOPS);
        let links = Rtnl::open()?.bare_links()?;
        let names = links.into_iter().map(|(index, link)| (index, link.name)).collect();
        Ok(Self { socket, names, ignored })
    }

    /// Waits for changes, and gives them back in their order.
    ///
    /// # Errors
    /// What the system says.
    pub fn receive(&mut self) -> io::Result<Vec<RouteEvent>> {
        let mut events = Vec::new();
        let mut next = self.socket.receive().map(Some);
        for _ in 0..BURST {
            match next {
                Ok(Some(length)) => {
                    for message in messages(self.socket.received(length)) {
                        events.extend(event(&message, &mut self.names, &self.ignored));
                    }
                }
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(RouteEvent::Overrun);
                    // A name may have been lost as well.
                    let links = Rtnl::open()?.bare_links()?;
                    self.names = links.into_iter().map(|(index, link)| (index, link.name)).collect();
                }
                Err(error) => return Err(named("receive kernel events", error)),
            }
            next = self.socket.try_receive();
        }
        Ok(events)
    }
}

fn event(message: &Message<'_>, names: &mut HashMap<u32, String>, ignored: &[u32]) -> Option<RouteEvent> {
    match message.kind {
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
            let name = |index: u32| names.get(&index).map(String::as_str);
            let told = nexthop::parse(message, &name).filter(|_| !ignored.contains(&message.port))?;
            let (id, protocol) = (NexthopId::ours(told.id)?, told.protocol);
            let object = (message.kind == RTM_NEWNEXTHOP).then_some(told.object);
            Some(RouteEvent::Nexthop { id, protocol, object })
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            if ignored.contains(&message.port) {
                return None;
            }
            let name = |index: u32| names.get(&index).map(String::as_str);
            let (key, route) = route::parse(message, &name)?;
            if message.kind == libc::RTM_DELROUTE {
                return Some(RouteEvent::Gone { key, route });
            }
            let replaces = message.flags & libc::NLM_F_REPLACE as u16 != 0;
            Some(RouteEvent::Put { key, route, replaces })
        }
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            let link = parse_link(message)?;
            // A bridge port that leaves its bridge is told of in the same words, with a family.
            let is_whole = *message.body.first()? == libc::AF_UNSPEC as u8;
            if message.kind == libc::RTM_NEWLINK {
                let flags = u32::from_ne_bytes(message.body.get(8..12)?.try_into().ok()?);
                names.insert(link.index, link.name.clone());
                return Some(RouteEvent::Link { name: link.name, up: flags & IFF_UP != 0 });
            }
            is_whole.then(|| {
                names.remove(&link.index);
                RouteEvent::Link { name: link.name, up: false }
            })
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            let index = u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?);
            Some(RouteEvent::Address { name: names.get(&index).cloned().unwrap_or_default() })
        }
        _ => None,
    }
}
