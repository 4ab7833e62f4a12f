//! Connections that are tracked, and how those of an address are forgotten.
//!
//! Not for the path of an apply: it reads the whole table of connections.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use model::Family;

use crate::connections::{self, TrackedConnection};
use crate::nl::{Batch, Message, Protocol, Socket, errno, named};
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
        let found = self.select(family, addresses)?;
        self.forget(&found)
    }

    /// The connections that one of `addresses` opened or answers (after translation).
    pub fn of(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
        let mut found = Vec::new();
        for family in Family::ALL {
            if addresses.iter().any(|address| Family::of(*address) == family) {
                found.extend(self.select(family, addresses)?);
            }
        }
        Ok(found)
    }

    fn select(&mut self, family: Family, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
        let header = [family_number(family), 0, 0, 0];
        let dumped = self.socket.dump(
            CTNETLINK | GET,
            |w| w.bytes(&header),
            |found: &mut Vec<Tracked>, message| {
                found.extend(parse(message).filter(|tracked| tracked.concerns(addresses)));
            },
        );
        match dumped {
            Ok(found) => Ok(found),
            // Nothing is tracked without the module.
            Err(e) if matches!(errno(&e), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)) => {
                Ok(Vec::new())
            }
            Err(error) => Err(named("list connections", error)),
        }
    }

    /// Forgets connections; returns how many were still there.
    pub fn forget(&mut self, connections: &[Tracked]) -> io::Result<usize> {
        let mut forgotten = connections.len();
        for chunk in connections.chunks(BATCH) {
            let mut batch = Batch::new();
            for tracked in chunk {
                batch.push(CTNETLINK | DELETE, 0, |w| {
                    w.bytes(&[family_number(Family::of(tracked.connection.original.source)), 0, 0, 0]);
                    for (kind, payload) in &tracked.identity {
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

/// A connection in the kernel's table.
#[derive(Clone, Debug)]
pub struct Tracked {
    pub connection: TrackedConnection,
    /// Attributes by which the kernel finds it again: original tuple, zone, ID.
    identity: Vec<(u16, Vec<u8>)>,
}

impl Tracked {
    fn concerns(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        let TrackedConnection { original, reply, .. } = &self.connection;
        addresses.contains(&original.source) || addresses.contains(&reply.source)
    }
}

fn parse(message: &Message<'_>) -> Option<Tracked> {
    let connection = connections::parse(message)?;
    let parts = message.attributes(4).filter(|part| matches!(part.kind, TUPLE_ORIGINAL | ZONE | ID));
    let identity = parts.map(|part| {
        let nested = if part.kind == TUPLE_ORIGINAL { NESTED } else { 0 };
        (part.kind | nested, part.payload.to_vec())
    });
    Some(Tracked { connection, identity: identity.collect() })
}

const CTNETLINK: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
