//! Connections that are tracked, and how those of an address are forgotten.
//!
//! Not for the path of an apply: it reads the whole table of connections.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use model::Family;

use crate::nl::{Attribute, Batch, Message, Protocol, Socket, errno, named};
use crate::rtnl::family_number;

/// Deletions that go out in one send.
const BATCH: usize = 256;

/// A socket for ctnetlink.
pub struct Conntrack {
    pub(crate) socket: Socket,
}

impl Conntrack {
    /// Opens in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(Protocol::Netfilter).map_err(|e| named("open ctnetlink", e))?;
        Ok(Self { socket })
    }

    /// Forgets every connection that one of `addresses` opened or answers (after translation), so that a pod that
    /// gets the address next inherits none. Returns how many there were.
    pub fn flush(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<usize> {
        let mut forgotten = 0;
        for family in Family::ALL {
            let mine: BTreeSet<_> =
                addresses.iter().copied().filter(|address| Family::of(*address) == family).collect();
            if !mine.is_empty() {
                forgotten += self.flush_family(family, &mine)?;
            }
        }
        Ok(forgotten)
    }

    fn flush_family(&mut self, family: Family, addresses: &BTreeSet<IpAddr>) -> io::Result<usize> {
        let header = [family_number(family), 0, 0, 0];
        let dumped = self.socket.dump(
            CTNETLINK | GET,
            |w| w.bytes(&header),
            |found: &mut Vec<Connection>, message| {
                found.extend(parse(message).filter(|connection| connection.concerns(addresses)));
            },
        );
        let found = match dumped {
            Ok(found) => found,
            // Nothing is tracked without the module.
            Err(e) if matches!(errno(&e), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)) => {
                return Ok(0);
            }
            Err(error) => return Err(named("list connections", error)),
        };
        let mut forgotten = found.len();
        for chunk in found.chunks(BATCH) {
            let mut batch = Batch::new();
            for connection in chunk {
                batch.push(CTNETLINK | DELETE, 0, |w| {
                    w.bytes(&header);
                    for (kind, payload) in &connection.identity {
                        w.attribute(*kind, payload);
                    }
                });
            }
            for (_, error) in self.socket.execute(&mut batch)? {
                // It ended by itself in the meantime.
                if error.errno != libc::ENOENT {
                    return Err(named("forget a connection", error));
                }
                forgotten -= 1;
            }
        }
        Ok(forgotten)
    }
}

/// What matters of one connection.
struct Connection {
    /// Sources of the original and of the reply direction.
    sources: [Option<IpAddr>; 2],
    /// Attributes by which the kernel finds it again: original tuple, zone, ID.
    identity: Vec<(u16, Vec<u8>)>,
}

impl Connection {
    fn concerns(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        self.sources.iter().flatten().any(|source| addresses.contains(source))
    }
}

fn parse(message: &Message<'_>) -> Option<Connection> {
    if message.kind != CTNETLINK | NEW {
        return None;
    }
    let mut connection = Connection { sources: [None; 2], identity: Vec::new() };
    for attribute in message.attributes(4) {
        match attribute.kind {
            TUPLE_ORIGINAL => connection.sources[0] = source(&attribute),
            TUPLE_REPLY => connection.sources[1] = source(&attribute),
            _ => {}
        }
        if matches!(attribute.kind, TUPLE_ORIGINAL | ZONE | ID) {
            let nested = if attribute.kind == TUPLE_ORIGINAL { NESTED } else { 0 };
            connection.identity.push((attribute.kind | nested, attribute.payload.to_vec()));
        }
    }
    Some(connection)
}

fn source(tuple: &Attribute<'_>) -> Option<IpAddr> {
    let addresses = tuple.nested().find(|attribute| attribute.kind == TUPLE_IP)?;
    let mut attributes = addresses.nested();
    attributes.find(|attribute| matches!(attribute.kind, IP_V4_SOURCE | IP_V6_SOURCE))?.address()
}

const CTNETLINK: u16 = 1 << 8;
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;
const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const IP_V4_SOURCE: u16 = 1;
const IP_V6_SOURCE: u16 = 3;
