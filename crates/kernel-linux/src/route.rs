//! Routes of the main table.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;

use kernel::{Driver, Failures, NextHop, NexthopId, Route, RouteKey, RouteKind};
use model::{Cidr, Family};

use crate::neighbour::{fail_all, no_link};
use crate::nl::{Attributes, Batch, Message, Writer, errno, named};
use crate::rtnl::*;

/// Routes that go out in one send; more gain nothing (`spec/kernel.md` §2a).
const BATCH: usize = 512;
/// Up to this many links are looked up one by one, more by one dump.
const FEW_LINKS: usize = 16;
/// Routes that the kernel or router discovery made are nobody's to sweep.
const KERNELS_OWN: [u8; 3] = [libc::RTPROT_REDIRECT, libc::RTPROT_KERNEL, RTPROT_RA];
const RTPROT_RA: u8 = 9;
const RTM_F_CLONED: u32 = 0x200;

/// By what a route of the main table is known as ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteOwner {
    /// It carries this protocol number, as `PROTO_BIRD`.
    Protocol(u8),
    /// It carries this protocol number, and leaves through no link whose name begins with `prefix`.
    ProtocolElsewhere { protocol: u8, prefix: String },
    /// It leaves through a link whose name begins with `prefix`, and its protocol is none of `except`.
    Interface { prefix: String, except: Vec<u8> },
    /// It leaves through a link whose name begins with `prefix`, and its protocol is one of `protocols`.
    InterfaceProtocols { prefix: String, protocols: Vec<u8> },
}

impl RouteOwner {
    fn owns(&self, route: &Route) -> bool {
        match self {
            RouteOwner::Protocol(protocol) => route.protocol == *protocol,
            RouteOwner::ProtocolElsewhere { protocol, prefix } => {
                route.protocol == *protocol && !leaves_through(route, prefix)
            }
            RouteOwner::Interface { prefix, except } => {
                leaves_through(route, prefix) && !except.contains(&route.protocol)
            }
            RouteOwner::InterfaceProtocols { prefix, protocols } => {
                leaves_through(route, prefix) && protocols.contains(&route.protocol)
            }
        }
    }
}

fn leaves_through(route: &Route, prefix: &str) -> bool {
    let through = |hop: &NextHop| hop.interface.as_ref().is_some_and(|i| i.starts_with(prefix));
    route.hops().iter().any(through)
}

/// Writes routes of the main table, both families.
pub struct RouteDriver {
    rtnl: Rtnl,
    owners: Vec<RouteOwner>,
    /// The protocol of each of our routes, where they differ: the kernel deletes only what still carries it, and
    /// so never what somebody else has put in our place.
    protocols: BTreeMap<RouteKey, u8>,
}

impl RouteDriver {
    /// A route is ours when one of `owners` says so.
    pub fn new(owners: Vec<RouteOwner>) -> io::Result<Self> {
        Ok(Self { rtnl: Rtnl::open()?, owners, protocols: BTreeMap::new() })
    }

    /// From now on these say which routes are ours.
    pub fn set_owners(&mut self, owners: Vec<RouteOwner>) {
        self.owners = owners;
    }

    /// Destinations to which somebody else has a way.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of_others(&mut self) -> io::Result<BTreeSet<Cidr>> {
        let all = self.rtnl.all_routes()?.into_iter();
        let ways = all.filter(|(_, route)| !route.hops().is_empty());
        let others = ways.filter(|(_, route)| !self.owners.iter().any(|owner| owner.owns(route)));
        Ok(others.map(|(key, _)| key.destination).collect())
    }

    /// The port of its socket, by which [`crate::RouteEvents`] knows what it did.
    ///
    /// # Errors
    /// What the system says.
    pub fn port(&self) -> io::Result<u32> {
        self.rtnl.socket.port()
    }

    /// The only protocol of our routes, when they are known by that: then the kernel itself filters dumps.
    fn only_protocol(&self) -> u8 {
        match self.owners.as_slice() {
            [RouteOwner::Protocol(protocol) | RouteOwner::ProtocolElsewhere { protocol, .. }] => *protocol,
            _ => libc::RTPROT_UNSPEC,
        }
    }

    fn try_apply(
        &mut self,
        puts: &[(RouteKey, Route)],
        deletes: &[RouteKey],
    ) -> io::Result<Failures<RouteKey>> {
        let indexes = self.rtnl.indexes(puts.iter().flat_map(|(_, route)| interfaces(route)))?;
        let mut failures = Vec::new();
        for chunk in puts.chunks(BATCH) {
            let mut batch = Batch::new();
            let mut keys = Vec::with_capacity(chunk.len());
            for (key, route) in chunk {
                match check(key, route, &indexes) {
                    Ok(()) => {
                        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
                        batch.push(libc::RTM_NEWROUTE, flags as u16, |w| write_put(w, key, route, &indexes));
                        keys.push(key);
                    }
                    Err(error) => failures.push((*key, error)),
                }
            }
            for (index, error) in self.rtnl.socket.execute(&mut batch)? {
                failures.push((*keys[index], named(format!("route {}", describe(keys[index])), error)));
            }
        }
        let only = self.only_protocol();
        if only == libc::RTPROT_UNSPEC {
            self.protocols.extend(puts.iter().map(|(key, route)| (*key, route.protocol)));
        }
        for chunk in deletes.chunks(BATCH) {
            let mut batch = Batch::new();
            for key in chunk {
                let protocol = self.protocols.get(key).copied().unwrap_or(only);
                batch.push(libc::RTM_DELROUTE, 0, |w| write_delete(w, key, protocol));
            }
            let mut errors = self.rtnl.socket.execute(&mut batch)?;
            errors.retain(|_, error| !is_absent(error));
            for (index, key) in chunk.iter().enumerate() {
                match errors.remove(&index) {
                    Some(error) => {
                        failures.push((*key, named(format!("delete route {}", describe(key)), error)));
                    }
                    None => drop(self.protocols.remove(key)),
                }
            }
        }
        Ok(failures)
    }
}

impl Driver for RouteDriver {
    type Key = RouteKey;
    type Value = Route;

    fn list(&mut self) -> io::Result<BTreeMap<RouteKey, Route>> {
        let protocol = self.only_protocol();
        let mut routes = self.rtnl.routes(protocol)?;
        routes.retain(|(_, route)| {
            !KERNELS_OWN.contains(&route.protocol) && self.owners.iter().any(|owner| owner.owns(route))
        });
        if protocol == libc::RTPROT_UNSPEC {
            self.protocols = routes.iter().map(|(key, route)| (*key, route.protocol)).collect();
        }
        Ok(routes.into_iter().collect())
    }

    fn apply(&mut self, puts: &[(RouteKey, Route)], deletes: &[RouteKey]) -> Failures<RouteKey> {
        self.try_apply(puts, deletes)
            .unwrap_or_else(|error| fail_all(puts.iter().map(|(key, _)| key).chain(deletes), &error))
    }

    fn matches(desired: &Route, actual: &Route) -> bool {
        desired.is_realised_by(actual)
    }
}

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibLookup {
    /// `None` when the destination is on the link itself, or is one of our own addresses.
    pub gateway: Option<IpAddr>,
    pub interface: String,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
    /// The destination is an address of this node.
    pub is_local: bool,
}

impl Rtnl {
    /// All unicast and blackhole routes of the main table, whoever made them.
    ///
    /// Two routes of one destination and metric (IPv6 allows it) are both listed.
    pub fn all_routes(&mut self) -> io::Result<Vec<(RouteKey, Route)>> {
        self.routes(libc::RTPROT_UNSPEC)
    }

    fn routes(&mut self, protocol: u8) -> io::Result<Vec<(RouteKey, Route)>> {
        let links = self.bare_links()?;
        let name = |index: u32| links.get(&index).map(|link| link.name.as_str());
        let mut all = Vec::new();
        for family in Family::ALL {
            let table = libc::RT_TABLE_MAIN;
            let dumped = self.socket.dump(
                libc::RTM_GETROUTE,
                |w| w.bytes(&rtmsg(family_number(family), 0, table, protocol, 0, 0)),
                // A kernel without one family answers for all others instead.
                |routes: &mut Vec<_>, message| {
                    let route = (message.kind == libc::RTM_NEWROUTE).then(|| parse(message, &name)).flatten();
                    routes.extend(route.filter(|(key, _)| key.destination.family() == family));
                },
            );
            match dumped {
                Ok(routes) => all.extend(routes),
                // A kernel without IPv6; a table that had no route yet.
                Err(e) if matches!(errno(&e), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::ENOENT)) => {
                }
                Err(error) => return Err(named(format!("list {family} routes"), error)),
            }
        }
        // Without strict checking the kernel ignores the filter.
        all.retain(|(_, route)| protocol == libc::RTPROT_UNSPEC || route.protocol == protocol);
        self.tell_ways(&mut all)?;
        Ok(all)
    }

    /// With `net.ipv4.nexthop_compat_mode` off, routes name their nexthop object and do not say where it leads.
    fn tell_ways(&mut self, routes: &mut [(RouteKey, Route)]) -> io::Result<()> {
        let bare = |route: &Route| route.nexthop().is_some() && route.hops().is_empty();
        if !routes.iter().any(|(_, route)| bare(route)) {
            return Ok(());
        }
        let ways = self.nexthop_ways()?;
        for (_, route) in routes {
            if let RouteKind::Nexthop(id, hops) = &mut route.kind
                && hops.is_empty()
            {
                *hops = ways.get(&id.number()).cloned().unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Asks the kernel how it would reach `address`; `None` when it cannot.
    pub fn lookup(&mut self, address: IpAddr) -> io::Result<Option<FibLookup>> {
        let family = Family::of(address);
        let mut answer = None;
        let result = self.socket.request(
            libc::RTM_GETROUTE,
            0,
            |w| {
                w.bytes(&rtmsg(family_number(family), family.bits(), 0, 0, 0, 0));
                w.address(RTA_DST, address);
            },
            |message| answer = parse_lookup(message).or(answer.take()),
        );
        match result {
            Ok(()) => {}
            Err(error) if is_unreachable(&error) => return Ok(None),
            Err(error) => return Err(named(format!("look up the route to {address}"), error)),
        }
        let Some((kind, index, gateway, source)) = answer else { return Ok(None) };
        if kind != libc::RTN_UNICAST && kind != libc::RTN_LOCAL {
            return Ok(None);
        }
        let Some(link) = self.link_by_index(index)? else { return Ok(None) };
        let is_local = kind == libc::RTN_LOCAL;
        Ok(Some(FibLookup { gateway, interface: link.name, source, is_local }))
    }

    /// The indexes of these links; those that do not exist are left out.
    pub(crate) fn indexes<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
    ) -> io::Result<HashMap<String, u32>> {
        let names: HashSet<&str> = names.collect();
        if names.len() > FEW_LINKS {
            let links = self.bare_links()?.into_values();
            return Ok(links.map(|link| (link.name, link.index)).collect());
        }
        let mut indexes = HashMap::new();
        for name in names {
            // A name that cannot exist fails its own entries only.
            if crate::link::check_name(name).is_ok()
                && let Some(link) = self.link_by_name(name)?
            {
                indexes.insert(link.name, link.index);
            }
        }
        Ok(indexes)
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    let code = errno(error);
    let codes = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::EACCES, libc::ESRCH];
    code.is_some_and(|code| codes.contains(&code))
}

/// Links that must be named to write a route.
fn interfaces(route: &Route) -> impl Iterator<Item = &str> {
    let hops = match &route.kind {
        RouteKind::Unicast(hops) => hops.as_slice(),
        RouteKind::Nexthop(..) | RouteKind::Blackhole => &[],
    };
    hops.iter().filter_map(|hop| hop.interface.as_deref())
}

fn describe(key: &RouteKey) -> String {
    format!("{} metric {}", key.destination, key.metric)
}

/// Refuses what cannot be said to the kernel, before it says something less clear.
fn check(key: &RouteKey, route: &Route, indexes: &HashMap<String, u32>) -> io::Result<()> {
    if let Some(missing) = interfaces(route).find(|name| !indexes.contains_key(*name)) {
        return Err(named(format!("route {}", describe(key)), no_link(missing)));
    }
    let invalid = |text: &str| {
        let text = format!("route {}: {text}", describe(key));
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    match &route.kind {
        RouteKind::Unicast(hops) if hops.is_empty() => invalid("has no next hop"),
        RouteKind::Unicast(hops) if hops.len() > 256 => invalid("has more than 256 next hops"),
        RouteKind::Unicast(hops) if hops.iter().any(|h| h.gateway.is_none() && h.interface.is_none()) => {
            invalid("has a next hop without gateway and interface")
        }
        _ => Ok(()),
    }
}

fn write_put(w: &mut Writer<'_>, key: &RouteKey, route: &Route, indexes: &HashMap<String, u32>) {
    let family = key.destination.family();
    let (kind, hops) = match &route.kind {
        RouteKind::Unicast(hops) => (libc::RTN_UNICAST, hops.as_slice()),
        RouteKind::Nexthop(..) => (libc::RTN_UNICAST, &[][..]),
        RouteKind::Blackhole => (libc::RTN_BLACKHOLE, &[][..]),
    };
    let on_link = family == Family::V4 && !hops.is_empty() && hops.iter().all(|hop| hop.gateway.is_none());
    let scope = if on_link { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    let length = key.destination.length();
    let table = libc::RT_TABLE_MAIN;
    let mut header = rtmsg(family_number(family), length, table, route.protocol, scope, kind);
    if let [hop] = hops {
        header[8..12].copy_from_slice(&u32::from(hop_flags(hop)).to_ne_bytes());
    }
    w.bytes(&header);
    w.address(RTA_DST, key.destination.address());
    w.u32(RTA_PRIORITY, key.metric);
    if let Some(source) = route.source {
        w.address(RTA_PREFSRC, source);
    }
    if let Some(mtu) = route.mtu {
        w.group(RTA_METRICS, |w| w.u32(RTAX_MTU, mtu));
    }
    if let Some(id) = route.nexthop() {
        w.u32(RTA_NH_ID, id.number());
    }
    let index = |hop: &NextHop| hop.interface.as_ref().and_then(|name| indexes.get(name)).copied();
    match hops {
        [] => {}
        [hop] => {
            write_gateway(w, family, hop);
            if let Some(index) = index(hop) {
                w.u32(RTA_OIF, index);
            }
        }
        hops => w.group(RTA_MULTIPATH, |w| {
            for hop in hops {
                w.next_hop(hop_flags(hop), index(hop).unwrap_or(0), |w| write_gateway(w, family, hop));
            }
        }),
    }
}

fn hop_flags(hop: &NextHop) -> u8 {
    if hop.onlink { RTNH_F_ONLINK } else { 0 }
}

fn write_gateway(w: &mut Writer<'_>, family: Family, hop: &NextHop) {
    let Some(gateway) = hop.gateway else { return };
    if Family::of(gateway) == family {
        w.address(RTA_GATEWAY, gateway);
        return;
    }
    // RFC 8950: an IPv4 route through an IPv6 next hop.
    let mut via = u16::from(family_number(Family::of(gateway))).to_ne_bytes().to_vec();
    match gateway {
        IpAddr::V4(v4) => via.extend(v4.octets()),
        IpAddr::V6(v6) => via.extend(v6.octets()),
    }
    w.attribute(RTA_VIA, &via);
}

fn write_delete(w: &mut Writer<'_>, key: &RouteKey, protocol: u8) {
    let family = family_number(key.destination.family());
    let (length, scope) = (key.destination.length(), libc::RT_SCOPE_NOWHERE);
    w.bytes(&rtmsg(family, length, libc::RT_TABLE_MAIN, protocol, scope, libc::RTN_UNSPEC));
    w.address(RTA_DST, key.destination.address());
    w.u32(RTA_PRIORITY, key.metric);
}

/// A unicast or blackhole route of the main table, of a message that tells of one; anything else is `None`.
pub(crate) fn parse<'n>(
    message: &Message<'_>,
    name: &impl Fn(u32) -> Option<&'n str>,
) -> Option<(RouteKey, Route)> {
    let header = message.body.get(..RTMSG)?;
    let flags = u32::from_ne_bytes(header[8..12].try_into().ok()?);
    let kind = header[7];
    let known = kind == libc::RTN_UNICAST || kind == libc::RTN_BLACKHOLE;
    if !known || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let family = if header[0] == libc::AF_INET6 as u8 { Family::V6 } else { Family::V4 };
    let mut table = u32::from(header[4]);
    let mut destination = None;
    let (mut metric, mut source, mut mtu) = (0, None, None);
    let mut single = NextHop { gateway: None, interface: None, onlink: flags as u8 & RTNH_F_ONLINK != 0 };
    let (mut hops, mut nexthop) = (Vec::new(), None);
    for attribute in message.attributes(RTMSG) {
        match attribute.kind {
            RTA_DST => destination = attribute.address(),
            RTA_OIF => single.interface = name(attribute.u32()?).map(str::to_owned),
            RTA_GATEWAY => single.gateway = attribute.address(),
            RTA_VIA => single.gateway = attribute.payload.get(2..).and_then(crate::nl::address),
            RTA_PRIORITY => metric = attribute.u32()?,
            RTA_PREFSRC => source = attribute.address(),
            RTA_TABLE => table = attribute.u32()?,
            RTA_METRICS => mtu = attribute.nested().find(|a| a.kind == RTAX_MTU).and_then(|a| a.u32()),
            RTA_MULTIPATH => hops = parse_hops(attribute.payload, name),
            RTA_NH_ID => nexthop = attribute.u32().map(NexthopId::of),
            _ => {}
        }
    }
    if table != u32::from(libc::RT_TABLE_MAIN) {
        return None;
    }
    let any = match family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    let destination = Cidr::truncated(destination.unwrap_or(any), header[1])?;
    let is_told = single.gateway.is_some() || single.interface.is_some();
    if hops.is_empty() && (is_told || nexthop.is_none()) {
        hops.push(single);
    }
    let kind = match nexthop {
        _ if kind == libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        Some(id) => RouteKind::Nexthop(id, hops),
        None => RouteKind::Unicast(hops),
    };
    Some((RouteKey { destination, metric }, Route { kind, protocol: header[5], source, mtu }))
}

/// The list of `struct rtnexthop`, each with attributes.
fn parse_hops<'n>(mut data: &[u8], name: &impl Fn(u32) -> Option<&'n str>) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while data.len() >= 8 {
        let length = usize::from(u16::from_ne_bytes([data[0], data[1]]));
        if length < 8 || length > data.len() {
            break;
        }
        let index = u32::from_ne_bytes([data[4], data[5], data[6], data[7]]);
        let mut hop = NextHop {
            gateway: None,
            interface: name(index).map(str::to_owned),
            onlink: data[2] & RTNH_F_ONLINK != 0,
        };
        for attribute in Attributes(&data[8..length]) {
            match attribute.kind {
                RTA_GATEWAY => hop.gateway = attribute.address(),
                RTA_VIA => hop.gateway = attribute.payload.get(2..).and_then(crate::nl::address),
                _ => {}
            }
        }
        hops.push(hop);
        data = data.get(crate::nl::align(length)..).unwrap_or_default();
    }
    hops
}

type Answer = (u8, u32, Option<IpAddr>, Option<IpAddr>);

fn parse_lookup(message: &Message<'_>) -> Option<Answer> {
    if message.kind != libc::RTM_NEWROUTE {
        return None;
    }
    let kind = *message.body.get(7)?;
    let (mut index, mut gateway, mut source) = (None, None, None);
    for attribute in message.attributes(RTMSG) {
        match attribute.kind {
            RTA_OIF => index = attribute.u32(),
            RTA_GATEWAY => gateway = attribute.address(),
            RTA_VIA => gateway = attribute.payload.get(2..).and_then(crate::nl::address),
            RTA_PREFSRC => source = attribute.address(),
            _ => {}
        }
    }
    Some((kind, index?, gateway, source))
}
