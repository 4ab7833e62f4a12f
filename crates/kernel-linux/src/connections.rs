//! The connections that are tracked between two addresses. For explanations: it reads the whole table.

use std::io;
use std::net::IpAddr;

use model::{Family, Protocol};

use crate::Conntrack;
use crate::nl::{Attribute, Message, errno, named};
use crate::rtnl::family_number;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    /// 0 where the protocol has none.
    pub source_port: u16,
    pub destination_port: u16,
    /// Type and code; 0 unless it is ICMP.
    pub icmp: (u8, u8),
}

/// A connection as conntrack knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedConnection {
    /// As it was asked for.
    pub original: ConnectionTuple,
    /// As it is answered, after every translation.
    pub reply: ConnectionTuple,
    /// Packets went both ways.
    pub replied: bool,
    /// It will not be forgotten early.
    pub assured: bool,
}

impl Conntrack {
    /// The connections that `is_wanted`, `most` at the most.
    ///
    /// # Errors
    /// What the kernel says; without connection tracking there are none.
    pub fn list(
        &mut self,
        family: Family,
        most: usize,
        is_wanted: impl Fn(&TrackedConnection) -> bool,
    ) -> io::Result<Vec<TrackedConnection>> {
        let header = [family_number(family), 0, 0, 0];
        let dumped = self.socket.dump(
            CTNETLINK | GET,
            |w| w.bytes(&header),
            |found: &mut Vec<TrackedConnection>, message| {
                let wanted = parse(message).filter(|connection| is_wanted(connection));
                found.extend(wanted.filter(|_| found.len() < most));
            },
        );
        match dumped {
            Ok(found) => Ok(found),
            Err(e) if matches!(errno(&e), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)) => {
                Ok(Vec::new())
            }
            Err(error) => Err(named("list connections", error)),
        }
    }
}

pub(crate) fn parse(message: &Message<'_>) -> Option<TrackedConnection> {
    if message.kind != CTNETLINK | NEW {
        return None;
    }
    let (mut original, mut reply, mut status) = (None, None, 0);
    for attribute in message.attributes(4) {
        match attribute.kind {
            TUPLE_ORIGINAL => original = tuple(&attribute),
            TUPLE_REPLY => reply = tuple(&attribute),
            STATUS => status = attribute.u32().map_or(0, u32::from_be),
            _ => {}
        }
    }
    Some(TrackedConnection {
        original: original?,
        reply: reply?,
        replied: status & SEEN_REPLY != 0,
        assured: status & ASSURED != 0,
    })
}

fn tuple(attribute: &Attribute<'_>) -> Option<ConnectionTuple> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port, mut icmp) = (0, 0, (0, 0));
    for part in attribute.nested() {
        for inner in part.nested() {
            match (part.kind, inner.kind) {
                (TUPLE_IP, 1 | 3) => source = inner.address(),
                (TUPLE_IP, 2 | 4) => destination = inner.address(),
                (TUPLE_PROTO, 1) => protocol = inner.u8(),
                (TUPLE_PROTO, 2) => source_port = inner.be16().unwrap_or(0),
                (TUPLE_PROTO, 3) => destination_port = inner.be16().unwrap_or(0),
                (TUPLE_PROTO, 5 | 8) => icmp.0 = inner.u8().unwrap_or(0),
                (TUPLE_PROTO, 6 | 9) => icmp.1 = inner.u8().unwrap_or(0),
                _ => {}
            }
        }
    }
    Some(ConnectionTuple {
        source: source?,
        destination: destination?,
        protocol: Protocol(protocol?),
        source_port,
        destination_port,
        icmp,
    })
}

const CTNETLINK: u16 = 1 << 8;
const NEW: u16 = 0;
const GET: u16 = 1;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const SEEN_REPLY: u32 = 2;
const ASSURED: u32 = 4;
