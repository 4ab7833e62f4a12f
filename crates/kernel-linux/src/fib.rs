//! What the kernel would do with one destination: the entry of the routing table that matches, and the neighbour
//! behind it. For explanations, never for writing.

use std::io;
use std::net::IpAddr;

use kernel::RouteKind;
use model::{Cidr, Family};

use crate::nl::{Message, Writer, errno, named};
use crate::rtnl::*;

/// Tells the matching entry in place of the destination alone (Linux 4.13).
const RTM_F_FIB_MATCH: u32 = 0x2000;

/// The entry of a routing table that a destination matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibMatch {
    pub prefix: Cidr,
    pub kind: FibKind,
    /// `RTPROT_*`: who wrote it.
    pub protocol: u8,
}

/// What an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibKind {
    Unicast,
    /// An address of this node.
    Local,
    Blackhole,
    /// Anything else that lets no packet through.
    Unreachable,
}

impl Rtnl {
    /// The entry that `address` matches; `None` when there is none.
    ///
    /// # Errors
    /// What the kernel says other than that it has no way.
    pub fn fib_match(&mut self, address: IpAddr) -> io::Result<Option<FibMatch>> {
        let family = Family::of(address);
        let mut header = rtmsg(family_number(family), family.bits(), 0, 0, 0, 0);
        header[8..12].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
        let mut found = None;
        let result = self.socket.request(
            libc::RTM_GETROUTE,
            0,
            |w| {
                w.bytes(&header);
                w.address(RTA_DST, address);
            },
            |message| found = parse_match(message, family).or(found.take()),
        );
        match result {
            Ok(()) => Ok(found),
            // A blackhole is told as an error: look for it in the table.
            Err(error) if errno(&error).is_some_and(|code| NO_WAY.contains(&code)) => self.blackhole(address),
            Err(error) => Err(named(format!("look up the route to {address}"), error)),
        }
    }

    fn blackhole(&mut self, address: IpAddr) -> io::Result<Option<FibMatch>> {
        let routes = self.all_routes()?.into_iter();
        let best = routes.filter(|(key, _)| key.destination.contains(address));
        let best = best.max_by_key(|(key, _)| key.destination.length());
        Ok(best.map(|(key, route)| FibMatch {
            prefix: key.destination,
            kind: match route.kind {
                RouteKind::Blackhole => FibKind::Blackhole,
                RouteKind::Unicast(_) | RouteKind::Nexthop(..) => FibKind::Unreachable,
            },
            protocol: route.protocol,
        }))
    }

    /// The state of a neighbour entry in `ip neighbour`'s words; `None` when there is no entry.
    ///
    /// # Errors
    /// What the kernel says other than that there is none.
    pub fn neighbour_state(&mut self, link: u32, address: IpAddr) -> io::Result<Option<&'static str>> {
        let header = ndmsg(family_number(Family::of(address)), link, 0);
        let mut state = None;
        let result = self.socket.request(
            libc::RTM_GETNEIGH,
            0,
            |w| {
                w.bytes(&header);
                w.address(NDA_DST, address);
            },
            |message| state = parse_state(message).or(state.take()),
        );
        match result {
            Ok(()) => Ok(state),
            Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
            Err(error) => Err(named(format!("look up neighbour {address}"), error)),
        }
    }

    /// To which node a VXLAN link sends what goes to a next hop behind it; `None` when an entry is missing on the way.
    ///
    /// # Errors
    /// What the kernel says other than that there is none.
    pub fn vxlan_remote(&mut self, link: u32, next_hop: IpAddr) -> io::Result<Option<IpAddr>> {
        let neighbour = ndmsg(family_number(Family::of(next_hop)), link, 0);
        let mac = self.neighbour_attribute(&neighbour, NDA_LLADDR, |w| w.address(NDA_DST, next_hop))?;
        let Some(mac) = mac else { return Ok(None) };
        let mut entry = ndmsg(libc::AF_BRIDGE as u8, link, 0);
        entry[10] = NTF_SELF;
        let remote = self.neighbour_attribute(&entry, NDA_DST, |w| w.attribute(NDA_LLADDR, &mac))?;
        Ok(remote.and_then(|octets| match octets.len() {
            4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        }))
    }

    /// One attribute of one entry of a neighbour table.
    fn neighbour_attribute(
        &mut self,
        header: &[u8],
        wanted: u16,
        key: impl FnOnce(&mut Writer<'_>),
    ) -> io::Result<Option<Vec<u8>>> {
        let mut found = None;
        let result = self.socket.request(
            libc::RTM_GETNEIGH,
            0,
            |w| {
                w.bytes(header);
                key(w);
            },
            |message| {
                let attribute = message.attributes(NDMSG).find(|attribute| attribute.kind == wanted);
                found = attribute.map(|attribute| attribute.payload.to_vec());
            },
        );
        match result {
            Ok(()) => Ok(found),
            Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
            Err(error) => Err(named("look up a neighbour", error)),
        }
    }
}

/// `NTF_SELF`: the link's own table, not that of a bridge above it.
const NTF_SELF: u8 = 2;

pub(crate) fn parse_match(message: &Message<'_>, family: Family) -> Option<FibMatch> {
    if message.kind != libc::RTM_NEWROUTE {
        return None;
    }
    let header = message.body.get(..RTMSG)?;
    let any = match family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    let destination = message.attributes(RTMSG).find(|attribute| attribute.kind == RTA_DST);
    let address = destination.and_then(|attribute| attribute.address()).unwrap_or(any);
    let kind = match header[7] {
        libc::RTN_UNICAST => FibKind::Unicast,
        libc::RTN_LOCAL => FibKind::Local,
        libc::RTN_BLACKHOLE => FibKind::Blackhole,
        _ => FibKind::Unreachable,
    };
    Some(FibMatch { prefix: Cidr::truncated(address, header[1])?, kind, protocol: header[5] })
}

fn parse_state(message: &Message<'_>) -> Option<&'static str> {
    if message.kind != libc::RTM_NEWNEIGH {
        return None;
    }
    let state = u16::from_ne_bytes(message.body.get(8..10)?.try_into().ok()?);
    let names = [
        (0x80, "permanent"),
        (0x40, "noarp"),
        (0x02, "reachable"),
        (0x04, "stale"),
        (0x08, "delay"),
        (0x10, "probe"),
        (0x20, "failed"),
        (0x01, "incomplete"),
    ];
    Some(names.iter().find(|(bit, _)| state & bit != 0).map_or("none", |(_, name)| name))
}

/// What the kernel answers when it would drop.
const NO_WAY: [i32; 5] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::EACCES, libc::ESRCH];
