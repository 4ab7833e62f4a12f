//! Routes of the main table (`spec/felix.md` §3, `spec/control.md` §5.5).

use std::net::IpAddr;

use model::{Cidr, Family};

use crate::nexthop::NexthopId;

/// `proto boot`: routes to local pods.
pub const PROTO_BOOT: u8 = 3;
/// `proto bird`: routes that the speaker learned, and blackholes of own blocks.
pub const PROTO_BIRD: u8 = 12;
/// The node agent's own protocol number.
pub const PROTO_FELIX: u8 = 80;

/// What the kernel tells routes apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    pub destination: Cidr,
    /// Priority; IPv6 turns 0 into 1024, so use `RouteKey::new`.
    pub metric: u32,
}

impl RouteKey {
    /// The key under which the kernel will report a route with this metric.
    pub fn new(destination: Cidr, metric: u32) -> Self {
        let is_default = metric == 0 && destination.family() == Family::V6;
        Self { destination, metric: if is_default { 1024 } else { metric } }
    }
}

/// One way out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// `None` for what is on the link itself.
    pub gateway: Option<IpAddr>,
    /// `None` lets the kernel find the link by the gateway.
    pub interface: Option<String>,
    /// The gateway counts as reachable on the interface whatever its subnets are.
    pub onlink: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// `scope link` to an interface when there is no gateway. More than one next hop is ECMP.
    Unicast(Vec<NextHop>),
    /// By a nexthop object. What ways it stands for now, the kernel tells of routes that it lists; nobody says that of
    /// routes to be written.
    Nexthop(NexthopId, Vec<NextHop>),
    /// Drops what is not more specifically routed.
    Blackhole,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub kind: RouteKind,
    /// `PROTO_*`: whose it is.
    pub protocol: u8,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    pub mtu: Option<u32>,
}

impl Route {
    /// The ways out; none of a blackhole, or of a nexthop object whose ways nobody told.
    pub fn hops(&self) -> &[NextHop] {
        match &self.kind {
            RouteKind::Unicast(hops) | RouteKind::Nexthop(_, hops) => hops,
            RouteKind::Blackhole => &[],
        }
    }

    /// The nexthop object that it refers to.
    pub fn nexthop(&self) -> Option<NexthopId> {
        match &self.kind {
            RouteKind::Nexthop(id, _) => Some(*id),
            RouteKind::Unicast(_) | RouteKind::Blackhole => None,
        }
    }

    /// Is `actual` what the kernel makes of this route? The link of a next hop that names none, and the order of
    /// next hops, are the kernel's choice.
    pub fn is_realised_by(&self, actual: &Route) -> bool {
        let same = (self.protocol, self.source, self.mtu) == (actual.protocol, actual.source, actual.mtu);
        let (wanted, has) = match (&self.kind, &actual.kind) {
            (RouteKind::Unicast(wanted), RouteKind::Unicast(has)) => (wanted, has),
            (RouteKind::Nexthop(wanted, _), RouteKind::Nexthop(has, _)) => return same && wanted == has,
            _ => return same && self.kind == actual.kind,
        };
        let mut rest: Vec<&NextHop> = has.iter().collect();
        same && wanted.len() == has.len()
            && wanted.iter().all(|hop| {
                let found = rest.iter().position(|other| hop.is_realised_by(other));
                found.map(|at| rest.swap_remove(at)).is_some()
            })
    }
}

impl NextHop {
    pub(crate) fn is_realised_by(&self, actual: &NextHop) -> bool {
        (self.gateway, self.onlink) == (actual.gateway, actual.onlink)
            && (self.interface.is_none() || self.interface == actual.interface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(gateway: &str, interface: Option<&str>) -> NextHop {
        NextHop { gateway: gateway.parse().ok(), interface: interface.map(str::to_owned), onlink: false }
    }

    fn route(hops: Vec<NextHop>) -> Route {
        Route { kind: RouteKind::Unicast(hops), protocol: PROTO_BIRD, source: None, mtu: None }
    }

    #[test]
    fn the_kernel_may_choose_link_and_order() {
        let wanted = route(vec![via("192.0.2.1", None), via("192.0.2.2", Some("eth1"))]);

        let eth = |a, b| route(vec![via("192.0.2.2", Some(a)), via("192.0.2.1", Some(b))]);
        assert!(wanted.is_realised_by(&eth("eth1", "eth0")));
        assert!(!wanted.is_realised_by(&eth("eth0", "eth0")));
        assert!(!wanted.is_realised_by(&route(vec![via("192.0.2.1", Some("eth0"))])));
        assert!(!wanted.is_realised_by(&Route { mtu: Some(1480), ..eth("eth1", "eth0") }));
        assert!(!wanted.is_realised_by(&Route { kind: RouteKind::Blackhole, ..wanted.clone() }));
    }

    #[test]
    fn a_route_by_an_object_is_not_one_by_the_same_ways() {
        let by = |id, hops| Route { kind: RouteKind::Nexthop(NexthopId::of(id), hops), ..route(vec![]) };
        let hops = vec![via("192.0.2.1", Some("eth0"))];

        assert!(by(7, vec![]).is_realised_by(&by(7, hops.clone())));
        assert!(!by(7, vec![]).is_realised_by(&by(8, hops.clone())));
        assert!(!by(7, vec![]).is_realised_by(&route(hops.clone())));
        assert!(!route(hops.clone()).is_realised_by(&by(7, hops)));
    }

    #[test]
    fn keys_are_the_kernels() {
        let key = |destination: &str, metric| RouteKey::new(destination.parse().unwrap(), metric).metric;

        assert_eq!([key("10.0.0.0/8", 0), key("fd00::/8", 0), key("fd00::/8", 512)], [0, 1024, 512]);
    }
}
