//! How this node reaches next hops by itself. Owns a copy of the routes that are not ours, and its lookup.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use kernel::{NextHop, PROTO_BIRD, Route, RouteKey};
use model::{Cidr, Family};

/// The node's own routes: connected ones, default gateways, what an administrator set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fib {
    v4: Lengths,
    v6: Lengths,
    /// Peers that are reached through a gateway whatever the routes say.
    gateways: BTreeMap<IpAddr, IpAddr>,
    /// Names of links that are up, by index.
    links: BTreeMap<u32, String>,
}

/// Destinations by their length.
type Lengths = BTreeMap<u8, HashMap<Cidr, Ways>>;

/// Routes to one destination by metric. IPv6 allows several of one metric. A blackhole has no next hop.
type Ways = BTreeMap<u32, Vec<Vec<NextHop>>>;

/// How a next hop is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The gateway to put into routes: the next hop itself when it is on-link.
    pub gateway: IpAddr,
    pub interface: String,
    /// The next hop is on a link of this node.
    pub on_link: bool,
    /// Metric of the route that leads there.
    pub metric: u32,
}

impl Resolved {
    /// What the way costs inside our network, as the decision process compares it (RFC 4271 §9.1.2.2 e): nothing
    /// on a link of ours, otherwise the metric of the route.
    pub fn cost(&self) -> u32 {
        if self.on_link { 0 } else { self.metric.max(1) }
    }
}

/// The copy cannot follow from one event: the routes must be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclear;

impl Fib {
    /// Takes all routes of the main table; those of `proto bird` are left out, as they depend on the others.
    pub fn new(routes: impl IntoIterator<Item = (RouteKey, Route)>) -> Self {
        let mut fib = Self::default();
        let own = routes.into_iter().filter(|(_, route)| route.protocol != PROTO_BIRD);
        for (key, route) in own.filter(|(key, _)| !is_link_local(*key)) {
            let ways = fib.lengths(key.destination.family()).entry(key.destination.length()).or_default();
            let routes = ways.entry(key.destination).or_default().entry(key.metric).or_default();
            routes.push(route.hops().to_vec());
        }
        fib
    }

    /// Sets through which gateway some peers are reached. Gives back whether that has changed.
    pub fn set_gateways(&mut self, gateways: BTreeMap<IpAddr, IpAddr>) -> bool {
        std::mem::replace(&mut self.gateways, gateways.clone()) != gateways
    }

    /// Takes the gateways out, for another copy.
    pub fn take_gateways(&mut self) -> BTreeMap<IpAddr, IpAddr> {
        std::mem::take(&mut self.gateways)
    }

    /// Is any peer reached through a gateway of its own?
    pub fn has_gateways(&self) -> bool {
        !self.gateways.is_empty()
    }

    /// Sets which links are up, by index.
    pub fn set_links(&mut self, links: BTreeMap<u32, String>) {
        self.links = links;
    }

    /// Takes the links out, for another copy.
    pub fn take_links(&mut self) -> BTreeMap<u32, String> {
        std::mem::take(&mut self.links)
    }

    /// Indexes of links by their names.
    pub fn link_indexes(&self) -> impl Iterator<Item = (&str, u32)> {
        self.links.iter().map(|(index, name)| (name.as_str(), *index))
    }

    /// The link of an index, when it is up.
    pub fn link(&self, index: u32) -> Option<&str> {
        self.links.get(&index).map(String::as_str)
    }

    /// Somebody made a route. Gives back whether the copy has changed.
    ///
    /// # Errors
    /// Which of two routes with one key counts, an event does not say, nor always where a nexthop object leads.
    pub fn put(&mut self, key: RouteKey, route: Route, replaces: bool) -> Result<bool, Unclear> {
        if is_link_local(key) {
            return Ok(false);
        }
        let lengths = self.lengths(key.destination.family());
        let ways = lengths.entry(key.destination.length()).or_default().entry(key.destination).or_default();
        let routes = ways.entry(key.metric).or_default();
        if route.nexthop().is_some() && route.hops().is_empty() {
            // The ways of its object must be asked for.
            return Err(Unclear);
        }
        let hops = route.hops().to_vec();
        match routes.as_slice() {
            [] => routes.push(hops),
            [old] if *old == hops => return Ok(false),
            [_] if replaces => routes[0] = hops,
            _ => return Err(Unclear),
        }
        Ok(true)
    }

    /// Somebody deleted a route. Gives back whether the copy has changed.
    ///
    /// # Errors
    /// Of several routes or next hops, an event may tell of one.
    pub fn remove(&mut self, key: RouteKey) -> Result<bool, Unclear> {
        let lengths = self.lengths(key.destination.family());
        let Some(destinations) = lengths.get_mut(&key.destination.length()) else { return Ok(false) };
        let Some(ways) = destinations.get_mut(&key.destination) else { return Ok(false) };
        match ways.get(&key.metric).map(Vec::as_slice) {
            None => return Ok(false),
            Some([hops]) if hops.len() < 2 => ways.remove(&key.metric),
            Some(_) => return Err(Unclear),
        };
        if ways.is_empty() {
            destinations.remove(&key.destination);
        }
        if destinations.is_empty() {
            lengths.remove(&key.destination.length());
        }
        Ok(true)
    }

    /// A link is gone, and with it what led through it. Gives back the destinations that this concerns.
    pub fn remove_through(&mut self, interface: &str) -> Vec<Cidr> {
        let through = |hop: &NextHop| hop.interface.as_deref() == Some(interface);
        let mut gone = Vec::new();
        for lengths in [&mut self.v4, &mut self.v6] {
            lengths.retain(|_, destinations| {
                destinations.retain(|destination, ways| {
                    let before: usize = ways.values().map(Vec::len).sum();
                    ways.values_mut().for_each(|routes| routes.retain(|hops| !hops.iter().any(through)));
                    ways.retain(|_, routes| !routes.is_empty());
                    if ways.values().map(Vec::len).sum::<usize>() < before {
                        gone.push(*destination);
                    }
                    !ways.is_empty()
                });
                !destinations.is_empty()
            });
        }
        gone
    }

    /// Has somebody else a route that leads somewhere to just this destination?
    pub fn has_way_to(&self, destination: Cidr) -> bool {
        let lengths = match destination.family() {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let ways = lengths.get(&destination.length()).and_then(|of_length| of_length.get(&destination));
        ways.is_some_and(|ways| ways.values().flatten().any(|hops| !hops.is_empty()))
    }

    /// Resolves a next hop through its gateway, or the best route to it: the longest prefix, then the lowest
    /// metric.
    pub fn resolve(&self, next_hop: IpAddr) -> Option<Resolved> {
        match self.gateways.get(&next_hop) {
            Some(gateway) => Some(Resolved { on_link: false, ..self.by_route(*gateway)? }),
            None => self.by_route(next_hop),
        }
    }

    fn by_route(&self, next_hop: IpAddr) -> Option<Resolved> {
        let lengths = if next_hop.is_ipv4() { &self.v4 } else { &self.v6 };
        let found = lengths.iter().rev().find_map(|(length, destinations)| {
            destinations.get(&Cidr::truncated(next_hop, *length)?)?.first_key_value()
        });
        let (metric, routes) = found?;
        let hop = routes.first()?.first()?;
        let (interface, on_link) = (hop.interface.clone()?, hop.gateway.is_none());
        Some(Resolved { gateway: hop.gateway.unwrap_or(next_hop), interface, on_link, metric: *metric })
    }

    fn lengths(&mut self, family: Family) -> &mut Lengths {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// Every link has the same route to these: they lead nowhere without the link's name.
fn is_link_local(key: RouteKey) -> bool {
    matches!(key.destination.address(), IpAddr::V6(address) if address.is_unicast_link_local())
}
