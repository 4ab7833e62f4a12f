//! Kernel routes out of the Loc-RIB. Owns which route is installed how, through which encapsulation, and why one
//! is not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::{PeerKey, RouteSource};
use bgp_packet::Prefix;
use kernel::{NextHop, PROTO_BIRD, Route, RouteKey, RouteKind};
use model::{Cidr, EncapMode, IpPool, Node};

use crate::cluster::Cluster;
use crate::convert::cidr;
use crate::fib::Fib;
use crate::origin::PREFERENCE_SUM;

/// Name of the IPIP device.
pub const TUNNEL: &str = "tunl0";

/// Name of the WireGuard device.
pub const WIREGUARD: &str = "wireguard.cali";

/// What is to become of one route of the Loc-RIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be in the kernel.
    Install(RouteKey, Route),
    /// It is not for the kernel.
    Skip,
    /// It ought to be in the kernel but cannot be yet.
    Pending(String),
}

/// What the installation of routes depends on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub cluster: &'a Cluster,
    pub fib: &'a Fib,
    /// `tunl0` exists and is up.
    pub tunnel_up: bool,
    /// `wireguard.cali` exists and is up: another agent sends what goes to nodes with a key through it.
    pub wireguard_up: bool,
}

/// Which way a route of a pool travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Lan,
    Tunnel,
    /// Not ours to program.
    Foreign,
}

impl Context<'_> {
    /// Decides about one route.
    pub fn verdict(&self, prefix: Prefix, route: &bgp::Route) -> Verdict {
        let destination = cidr(prefix);
        // Each node answers for the addresses of Services itself.
        let here = self.is_local(destination) || self.cluster.services.covers(destination);
        if route.source == RouteSource::Local || here {
            return Verdict::Skip;
        }
        let pool = self.cluster.pool_of(destination);
        let mut hops = Vec::new();
        let mut why = String::new();
        for next_hop in &route.next_hops {
            let hop = match next_hop.is_link_local() {
                true => self.hop_on_link(*next_hop).map(Some),
                false => self.hop(next_hop.address(), pool),
            };
            match hop {
                Ok(Some(hop)) => hops.push(hop),
                Ok(None) => return Verdict::Skip,
                Err(reason) => why = reason,
            }
        }
        if hops.is_empty() {
            return Verdict::Pending(why);
        }
        hops.sort();
        hops.dedup();
        let route_kind = RouteKind::Unicast(hops);
        let normal = self.cluster.configuration.normal_priority(destination.family());
        Verdict::Install(RouteKey::new(destination, metric(route, normal)), ours(route_kind))
    }

    /// A neighbour by its link-local address: no route leads there, it is behind the link of its session.
    fn hop_on_link(&self, next_hop: PeerKey) -> Result<NextHop, String> {
        let interface = self.fib.link(next_hop.scope()).map(str::to_owned);
        let interface = interface.ok_or_else(|| format!("the link of next hop {next_hop} is down"))?;
        Ok(NextHop { gateway: Some(next_hop.address()), interface: Some(interface), onlink: false })
    }

    /// One way out; `None` when the pool's routes are not ours to program.
    fn hop(&self, next_hop: IpAddr, pool: Option<&IpPool>) -> Result<Option<NextHop>, String> {
        let way = match pool {
            Some(_) if self.is_pod(next_hop) => Way::Lan,
            Some(pool) => self.way(pool, next_hop),
            None => Way::Lan,
        };
        match way {
            Way::Foreign => Ok(None),
            Way::Tunnel if self.tunnel_up => Ok(Some(NextHop {
                gateway: Some(next_hop),
                interface: Some(TUNNEL.to_owned()),
                onlink: true,
            })),
            Way::Tunnel => Err(format!(
                "{TUNNEL} is missing or down, and pool {} needs IPIP: load the kernel module ipip",
                pool.map_or("", |p| &p.name)
            )),
            Way::Lan => match self.fib.resolve(next_hop) {
                Some(way) => {
                    let (gateway, interface) = (Some(way.gateway), Some(way.interface));
                    Ok(Some(NextHop { gateway, interface, onlink: false }))
                }
                None => Err(format!("no route to next hop {next_hop}: check the node's routing table")),
            },
        }
    }

    /// Is it a pod of this node, which announces what is behind it?
    fn is_pod(&self, next_hop: IpAddr) -> bool {
        self.cluster.own_address(next_hop).is_some()
    }

    /// The encapsulation of a route: a function of the pool's mode, the own subnet and the next hop.
    fn way(&self, pool: &IpPool, next_hop: IpAddr) -> Way {
        if pool.vxlan_mode != EncapMode::Never {
            return Way::Foreign;
        }
        let programs = self.cluster.configuration.programs;
        let encapsulates = pool.ipip_mode != EncapMode::Never && next_hop.is_ipv4();
        let ours = if encapsulates { programs.ipip } else { programs.no_encapsulation };
        if !ours {
            return Way::Foreign;
        }
        let node = self.cluster.node();
        let subnets = node.into_iter().flat_map(|n| [n.ipv4, n.ipv6]).flatten().map(|a| a.subnet());
        let same_subnet = subnets.into_iter().any(|s| s.contains(next_hop));
        match (pool.ipip_mode, next_hop.is_ipv4()) {
            (EncapMode::Always, true) => Way::Tunnel,
            (EncapMode::CrossSubnet, true) if !same_subnet => Way::Tunnel,
            _ if !encapsulates && self.is_encrypted(next_hop) => Way::Foreign,
            _ => Way::Lan,
        }
    }

    /// Does what goes to this node travel through WireGuard?
    fn is_encrypted(&self, next_hop: IpAddr) -> bool {
        let has_address =
            |node: &Node| [node.ipv4, node.ipv6].into_iter().flatten().any(|own| own.address == next_hop);
        self.wireguard_up && self.cluster.nodes.values().any(|node| node.wireguard_key && has_address(node))
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

fn ours(kind: RouteKind) -> Route {
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
