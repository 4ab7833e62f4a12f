//! How this node reaches next hops by itself. Owns a copy of the routes that are not ours, and its lookup.

use std::net::IpAddr;

use kernel::{NextHop, PROTO_BIRD, Route, RouteKey, RouteKind};
use model::Cidr;

/// The node's own routes: connected ones, default gateways, what an administrator set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fib {
    /// Longest prefix first, then lowest metric.
    routes: Vec<(Cidr, u32, Vec<NextHop>)>,
}

/// How a next hop is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The gateway to put into routes: the next hop itself when it is on-link.
    pub gateway: IpAddr,
    pub interface: String,
    /// The next hop is on a link of this node.
    pub on_link: bool,
}

impl Fib {
    /// Takes all routes of the main table; those of `proto bird` are left out, as they depend on the others.
    pub fn new(routes: impl IntoIterator<Item = (RouteKey, Route)>) -> Self {
        let own = routes.into_iter().filter(|(_, route)| route.protocol != PROTO_BIRD);
        let mut routes: Vec<_> = own
            .filter_map(|(key, route)| match route.kind {
                RouteKind::Unicast(hops) => Some((key.destination, key.metric, hops)),
                RouteKind::Blackhole => None,
            })
            .collect();
        routes.sort_by(|a, b| (b.0.length(), a.1, &a.0).cmp(&(a.0.length(), b.1, &b.0)));
        Self { routes }
    }

    /// Resolves a next hop through the best route to it.
    pub fn resolve(&self, next_hop: IpAddr) -> Option<Resolved> {
        let (_, _, hops) = self.routes.iter().find(|(destination, ..)| destination.contains(next_hop))?;
        let hop = hops.first()?;
        let interface = hop.interface.clone()?;
        Some(Resolved { gateway: hop.gateway.unwrap_or(next_hop), interface, on_link: hop.gateway.is_none() })
    }
}
