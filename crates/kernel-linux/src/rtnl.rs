//! rtnetlink's fixed headers, attribute numbers and the open handle that the other modules add methods to.

use std::io;

use model::Family;

use crate::netns::Netns;
use crate::nl::{Batch, Error, Protocol, Socket, Writer, named};

/// An open rtnetlink socket in one network namespace.
///
/// Blocking; every call is one or two round trips to the kernel.
pub struct Rtnl {
    pub(crate) socket: Socket,
}

impl Rtnl {
    /// Opens in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(Protocol::Route).map_err(|e| named("open rtnetlink socket", e))?;
        Ok(Self { socket })
    }

    /// Opens in another network namespace; the handle may then be used from anywhere.
    pub fn open_in(netns: &Netns) -> io::Result<Self> {
        netns.visit(Self::open)
    }

    /// Sends one request and waits until it is done.
    pub(crate) fn one(
        &mut self,
        kind: u16,
        flags: i32,
        body: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        batch.push(kind, flags as u16, body);
        match self.socket.execute(&mut batch)?.remove(&0) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Sends a batch; an error names the request by `labels`. The first one counts.
    pub(crate) fn all(&mut self, batch: &mut Batch, labels: &[String]) -> io::Result<()> {
        match self.socket.execute(batch)?.into_iter().next() {
            Some((index, error)) => Err(named(labels[index].clone(), error)),
            None => Ok(()),
        }
    }
}

/// Is this the answer for something that is not there?
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error.errno, libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
}

pub(crate) fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

pub(crate) const IFINFO: usize = 16;
pub(crate) const IFADDR: usize = 8;
pub(crate) const RTMSG: usize = 12;
pub(crate) const NDMSG: usize = 12;
pub(crate) const NHMSG: usize = 8;

/// `struct ifinfomsg`; `flags` and `change` as IFF_*.
pub(crate) fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO] {
    let mut header = [0; IFINFO];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`.
pub(crate) fn ifaddr(family: u8, prefix: u8, scope: u8, index: u32) -> [u8; IFADDR] {
    let mut header = [family, prefix, 0, scope, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct ndmsg`.
pub(crate) fn ndmsg(family: u8, index: u32, state: u16) -> [u8; NDMSG] {
    let mut header = [0; NDMSG];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header
}

/// `struct rtmsg` without type of service and flags.
pub(crate) fn rtmsg(family: u8, length: u8, table: u8, protocol: u8, scope: u8, kind: u8) -> [u8; RTMSG] {
    [family, length, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0]
}

pub(crate) const IFF_UP: u32 = 1;
pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const IFLA_IFALIAS: u16 = 20;
pub(crate) const IFLA_GROUP: u16 = 27;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const IFLA_EXT_MASK: u16 = 29;
pub(crate) const IFLA_NUM_TX_QUEUES: u16 = 31;
pub(crate) const IFLA_NUM_RX_QUEUES: u16 = 32;
pub(crate) const IFLA_TARGET_NETNSID: u16 = 46;
pub(crate) const RTEXT_FILTER_SKIP_STATS: u32 = 8;
pub(crate) const VETH_INFO_PEER: u16 = 1;
pub(crate) const IFA_ADDRESS: u16 = 1;
pub(crate) const IFA_LOCAL: u16 = 2;
pub(crate) const IFA_FLAGS: u16 = 8;
pub(crate) const IFA_F_NODAD: u32 = 2;
pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_OIF: u16 = 4;
pub(crate) const RTA_GATEWAY: u16 = 5;
pub(crate) const RTA_PRIORITY: u16 = 6;
pub(crate) const RTA_PREFSRC: u16 = 7;
pub(crate) const RTA_METRICS: u16 = 8;
pub(crate) const RTA_MULTIPATH: u16 = 9;
pub(crate) const RTA_TABLE: u16 = 15;
pub(crate) const RTA_VIA: u16 = 18;
pub(crate) const RTA_NH_ID: u16 = 30;
pub(crate) const RTAX_MTU: u16 = 2;
pub(crate) const RTNH_F_ONLINK: u8 = 4;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
pub(crate) const RTM_GETNEXTHOP: u16 = 106;
pub(crate) const NHA_ID: u16 = 1;
pub(crate) const NHA_GROUP: u16 = 2;
pub(crate) const NHA_BLACKHOLE: u16 = 4;
pub(crate) const NHA_OIF: u16 = 5;
pub(crate) const NHA_GATEWAY: u16 = 6;
pub(crate) const NHA_FDB: u16 = 11;
pub(crate) const NDA_DST: u16 = 1;
pub(crate) const NDA_LLADDR: u16 = 2;
pub(crate) const NUD_NOARP: u16 = 0x40;
pub(crate) const NUD_PERMANENT: u16 = 0x80;
