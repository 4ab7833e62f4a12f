//! Kernel routes out of the Loc-RIB. Owns which route is installed how, through which encapsulation, and why one
//! is not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::{PeerKey, RouteSource};
use bgp_packet::Prefix;
use kernel::{NextHop, PROTO_BIRD, Route, RouteKey, RouteKind};
use model::{Cidr, EncapMode, Encapsulation, IpPool};

use crate::cluster::Cluster;
use crate::convert::cidr;
use crate::fib::Fib;
use crate::origin::PREFERENCE_SUM;

/// Name of the IPIP device.
pub const TUNNEL: &str = "tunl0";

/// What is to become of one route of the Loc-RIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be in the kernel.
    Install(Vec<NextHop>),
    /// It is not for the kernel.
    Skip,
    /// The node agent is to route it: what stands of ours stays until the agent's route is there.
    HandOver,
    /// It ought to be in the kernel but cannot be yet.
    Pending(String),
}

impl Verdict {
    /// What the ways of a route's legs come to: those that can be had count.
    pub fn of<'a>(ways: impl IntoIterator<Item = &'a Way>) -> Self {
        let (mut hops, mut why) = (Vec::new(), None);
        for way in ways {
            match way {
                Way::Hop(hop) => hops.push(hop.clone()),
                Way::Foreign => return Self::Skip,
                Way::Agents => return Self::HandOver,
                Way::Missing(reason) => why = Some(reason),
            }
        }
        if hops.is_empty() {
            return Self::Pending(why.cloned().unwrap_or_default());
        }
        hops.sort();
        hops.dedup();
        Self::Install(hops)
    }
}

/// What a way depends on beside the context: all routes of one leg go the same way, and change it together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leg {
    /// Next hop of the BGP route.
    pub next_hop: PeerKey,
    /// The pool that the route's destination is in.
    pub pool: Option<Cidr>,
}

/// How the destinations of a leg are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    Hop(NextHop),
    /// Not ours to program.
    Foreign,
    /// The node agent routes it, in the same table as we do.
    Agents,
    /// There is none yet, and why.
    Missing(String),
}

/// What the installation of routes depends on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub cluster: &'a Cluster,
    pub fib: &'a Fib,
    /// `tunl0` exists, is up, and carries pods: the node agent has made their packets fit.
    pub tunnel_up: bool,
}

/// How routes of a pool travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Travel {
    Lan,
    Tunnel,
    /// Not ours to program.
    Foreign,
    /// The node agent routes it.
    Agents,
}

impl Context<'_> {
    /// Under which key a route is to be installed; `None` when it is not for the kernel.
    pub fn key(&self, prefix: Prefix, route: &bgp::Route) -> Option<RouteKey> {
        let destination = cidr(prefix);
        // Each node answers for the addresses of Services itself.
        let here = self.is_local(destination) || self.cluster.services.covers(destination);
        if route.source == RouteSource::Local || here {
            return None;
        }
        let normal = self.cluster.configuration.normal_priority(destination.family());
        Some(RouteKey::new(destination, metric(route, normal)))
    }

    /// The pool whose encapsulation a route has.
    pub fn pool(&self, prefix: Prefix) -> Option<Cidr> {
        self.cluster.pool_of(cidr(prefix)).map(|pool| pool.cidr)
    }

    /// How the destinations of a leg are reached now.
    pub fn way(&self, leg: Leg) -> Way {
        if leg.next_hop.is_link_local() {
            return self.way_on_link(leg.next_hop);
        }
        let next_hop = leg.next_hop.address();
        let pool = leg.pool.and_then(|cidr| self.cluster.pool_of(cidr));
        let travel = match pool {
            Some(_) if self.is_pod(next_hop) => Travel::Lan,
            Some(pool) => self.travel(pool, next_hop),
            None => Travel::Lan,
        };
        match travel {
            Travel::Foreign => Way::Foreign,
            Travel::Agents => Way::Agents,
            Travel::Tunnel if self.tunnel_up => Way::Hop(NextHop {
                gateway: Some(next_hop),
                interface: Some(TUNNEL.to_owned()),
                onlink: true,
            }),
            Travel::Tunnel => Way::Missing(format!(
                "pool {} needs IPIP, and {TUNNEL} is missing (load the kernel module ipip), down, or not yet said by felix \
                 to carry pods",
                pool.map_or("", |p| &p.name)
            )),
            Travel::Lan => match self.fib.resolve(next_hop) {
                Some(way) => {
                    let (gateway, interface) = (Some(way.gateway), Some(way.interface));
                    Way::Hop(NextHop { gateway, interface, onlink: false })
                }
                None => {
                    Way::Missing(format!("no route to next hop {next_hop}: check the node's routing table"))
                }
            },
        }
    }

    /// A neighbour by its link-local address: no route leads there, it is behind the link of its session.
    fn way_on_link(&self, next_hop: PeerKey) -> Way {
        match self.fib.link(next_hop.scope()) {
            Some(interface) => Way::Hop(NextHop {
                gateway: Some(next_hop.address()),
                interface: Some(interface.to_owned()),
                onlink: false,
            }),
            None => Way::Missing(format!("the link of next hop {next_hop} is down")),
        }
    }

    /// Is it a pod of this node, which announces what is behind it?
    fn is_pod(&self, next_hop: IpAddr) -> bool {
        self.cluster.own_address(next_hop).is_some()
    }

    /// How a route travels, by [`Encapsulation::of`] and by who programs it. What the agent sends through WireGuard has a
    /// route of ours too: the agent's comes first by its metric, and whenever it goes there is a way.
    fn travel(&self, pool: &IpPool, next_hop: IpAddr) -> Travel {
        if pool.is_routed_by_agent() {
            return Travel::Agents;
        }
        let programs = self.cluster.configuration.programs;
        let encapsulates = pool.ipip_mode != EncapMode::Never && next_hop.is_ipv4();
        let ours = if encapsulates { programs.ipip } else { programs.no_encapsulation };
        if !ours {
            return Travel::Foreign;
        }
        let node = self.cluster.node();
        let subnets = node.into_iter().flat_map(|n| [n.ipv4, n.ipv6]).flatten().map(|a| a.subnet());
        match Encapsulation::of(pool, subnets, next_hop) {
            Encapsulation::Ipip => Travel::Tunnel,
            _ => Travel::Lan,
        }
    }

    /// Whether the destination is an endpoint of this node or one of its blocks: what is here is never
    /// shadowed by what somebody announces.
    fn is_local(&self, destination: Cidr) -> bool {
        self.cluster.is_own_block(destination)
            || (destination.is_host() && self.cluster.gateways.contains_key(&destination.address()))
            || (destination.is_host() && self.cluster.own_address(destination.address()).is_some())
    }
}

/// The kernel metric mirrors a LOCAL_PREF of our convention, which lies in the upper half of the sum. Others,
/// such as the 100 that most speakers send, say nothing about metrics.
fn metric(route: &bgp::Route, normal: u32) -> u32 {
    let conventional = PREFERENCE_SUM / 2 + 1..=PREFERENCE_SUM;
    match route.attributes.local_pref.filter(|p| conventional.contains(p)) {
        Some(preference) => (PREFERENCE_SUM - preference).max(1),
        None => normal,
    }
}

/// A route of `proto bird`.
pub fn ours(kind: RouteKind) -> Route {
    Route { kind, protocol: PROTO_BIRD, source: None, mtu: None }
}

/// Routes that no peer told us: [`blackholes`], and the ways to peers through their gateways.
pub fn own_routes(context: Context<'_>) -> BTreeMap<RouteKey, Route> {
    let Context { cluster, fib, .. } = context;
    let mut routes = blackholes(cluster);
    for (peer, gateway) in &cluster.gateways {
        let destination = Cidr::host(*peer);
        let Some(way) = fib.resolve(*gateway).filter(|way| way.on_link) else { continue };
        let hop = NextHop { gateway: Some(*gateway), interface: Some(way.interface), onlink: false };
        let metric = cluster.configuration.normal_priority(destination.family());
        routes.insert(RouteKey::new(destination, metric), ours(RouteKind::Unicast(vec![hop])));
    }
    routes
}

/// Blackholes for own blocks, so that packets to addresses without an endpoint end here.
pub fn blackholes(cluster: &Cluster) -> BTreeMap<RouteKey, Route> {
    let blocks = cluster.own_blocks().filter(|block| !block.is_host());
    let metric = |block: Cidr| cluster.configuration.normal_priority(block.family());
    blocks.map(|block| (RouteKey::new(block, metric(block)), ours(RouteKind::Blackhole))).collect()
}
