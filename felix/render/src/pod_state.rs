//! Kernel state of single pods beside their chains: routes, neighbours, sysctls (`spec/felix.md` §3.1, §3.4).

use std::net::IpAddr;
use std::sync::Arc;

use felix_calc::ActiveEndpoint;
use kernel::{NextHop, Route, RouteKey, RouteKind};
use model::{Cidr, Family, FelixConfiguration, PodRoutes};

use crate::Sysctl;

/// How the configuration wants the route to an address.
pub(crate) fn route_form(configuration: &FelixConfiguration, address: IpAddr) -> PodRoutes {
    if address.is_ipv4() { configuration.ipv4_routes } else { configuration.ipv6_routes }
}

/// The route to one address of a local pod.
pub(crate) fn route(
    configuration: &FelixConfiguration,
    address: IpAddr,
    interface: &str,
) -> (RouteKey, Route) {
    let PodRoutes { priority, source } = route_form(configuration, address);
    let next_hop = NextHop { gateway: None, interface: Some(interface.to_owned()), onlink: false };
    let kind = RouteKind::Unicast(vec![next_hop]);
    let route = Route { kind, protocol: configuration.route_protocol, source, mtu: None };
    (RouteKey::new(Cidr::host(address), priority), route)
}

/// What the host's side of a pod's interface needs so that the node answers for the pod's gateway.
pub(crate) fn sysctls(interface: &str, ipv6: bool, rp_filter: &'static str) -> Arc<[Sysctl]> {
    let v4 = [
        ("ipv4/conf", "route_localnet", "1", true),
        ("ipv4/neigh", "proxy_delay", "0", false),
        ("ipv4/conf", "proxy_arp", "1", true),
        ("ipv4/conf", "forwarding", "1", true),
        ("ipv4/conf", "rp_filter", rp_filter, true),
    ];
    let v6 = [
        ("ipv6/conf", "accept_ra", "0", false),
        ("ipv6/conf", "proxy_ndp", "1", true),
        ("ipv6/conf", "forwarding", "1", true),
    ];
    let sysctl = |(directory, name, value, required): (&str, &str, &'static str, bool)| Sysctl {
        path: format!("net/{directory}/{interface}/{name}"),
        value,
        required,
    };
    v4.into_iter().chain(v6.into_iter().filter(|_| ipv6)).map(sysctl).collect()
}

/// The addresses of an endpoint that are programmed.
pub(crate) fn addresses(endpoint: &ActiveEndpoint, ipv6: bool) -> impl Iterator<Item = IpAddr> {
    endpoint.local.addresses.iter().copied().filter(move |address| ipv6 || Family::of(*address) == Family::V4)
}

/// Can it be the name of an interface, and stand in a rule and a path as it is?
pub(crate) fn is_interface_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (1..=15).contains(&name.len())
        && name.chars().all(is_plain)
        && !matches!(name, "." | ".." | "all" | "default")
}
