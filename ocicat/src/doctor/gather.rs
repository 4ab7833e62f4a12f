//! Gathers the facts of the node in whose network namespace the calling thread is. Asks no API server, changes nothing,
//! and goes on when something cannot be looked at: that is a fact, too.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use doctor::{Candidate, Chosen, Facts, Link, Route, Sysctls};
use kernel::Driver;
use kernel_linux::{FdbDriver, Rtnl, is_clock_synchronised, sysctl};
use model::Family;

use super::{agents, cni, host, paths, rules};
use crate::reach::PLACE;

/// Most routes of the speaker that are kept: they only show by which links nodes are reached.
const MOST_ROUTES: usize = 1000;
/// Most other nodes that are probed.
const MOST_PATHS: usize = 64;

/// What is looked at.
#[derive(Clone, Debug)]
pub(super) enum Part {
    All,
    /// The runtime's configurations.
    Cni,
    /// The paths to these addresses.
    Paths(Vec<IpAddr>),
}

/// What is said where the runtime's configurations cannot be seen.
pub(super) const CNI: &str = "configurations of the container runtime";

/// Where to look.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Name of the node, where it is known; else the agents say.
    pub(super) node: Option<String>,
    /// Directory of the agents' sockets.
    pub(super) sockets: PathBuf,
    /// Directory of the runtime's CNI configurations; `None`: not looked at.
    pub(super) cni: Option<PathBuf>,
    /// Other nodes are probed.
    pub(super) probes: bool,
    pub(super) part: Part,
}

impl Places {
    /// Those of this machine.
    pub(super) fn own(cni: Option<PathBuf>) -> Self {
        let cni = Some(cni.unwrap_or_else(cni_directory));
        Self { node: None, sockets: PLACE.into(), cni, probes: true, part: Part::All }
    }
}

/// In a container the node's own files are below /host.
fn cni_directory() -> PathBuf {
    let inside = Path::new("/host/etc/cni/net.d");
    if inside.is_dir() { inside.to_owned() } else { "/etc/cni/net.d".into() }
}

/// Everything that can be seen, in less than two seconds.
pub(super) fn gather(places: &Places) -> Facts {
    let start = Instant::now();
    match &places.part {
        Part::All => {}
        Part::Cni => {
            let mut facts = Facts::default();
            read_cni(places, &mut facts);
            return facts;
        }
        Part::Paths(to) => return of_paths(to),
    }
    let mut facts = Facts { kernel: host::kernel_release(), ..Facts::default() };
    let told = agents::ask(&places.sockets, &mut facts);
    read_network(&mut facts);
    choose_addresses(&told, &mut facts);
    facts.node = places.node.clone().or(told.node).unwrap_or_else(host::name);
    if places.probes {
        let ends = tunnel_ends(&mut facts);
        let targets = targets(&told.peers, &ends, &facts);
        match paths::probe(&targets, &facts.links) {
            Ok(found) => facts.paths = found,
            Err(error) => facts.unseen.push(format!("paths to other nodes: {error}")),
        }
    }
    facts.sysctls = sysctls(&facts.links);
    match rules::read() {
        Ok(rules) => facts.rules = Some(rules),
        Err(error) => facts.unseen.push(format!("rules of packets: {error}")),
    }
    read_cni(places, &mut facts);
    host::read(&mut facts);
    facts.clock_synchronised = is_clock_synchronised();
    facts.took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    facts.time_ms = now_ms();
    facts
}

/// Only how far packets get towards these addresses; those without a route are not among the paths.
fn of_paths(to: &[IpAddr]) -> Facts {
    let mut seen = Facts::default();
    read_network(&mut seen);
    let targets: Vec<_> = to.iter().take(MOST_PATHS).map(|address| (*address, String::new())).collect();
    let mut facts = Facts::default();
    match paths::probe(&targets, &seen.links) {
        Ok(found) => facts.paths = found,
        Err(error) => facts.unseen.push(format!("paths: {error}")),
    }
    facts
}

fn read_cni(places: &Places, facts: &mut Facts) {
    let Some(directory) = &places.cni else { return };
    match cni::read(directory) {
        Ok(found) => facts.cni = Some(found),
        Err(error) => facts.unseen.push(format!("{CNI} in {}: {error}", directory.display())),
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn read_network(facts: &mut Facts) {
    let read = Rtnl::open().and_then(|mut rtnl| Ok((rtnl.links()?, rtnl.all_routes()?)));
    let (links, routes) = match read {
        Ok(read) => read,
        Err(error) => return facts.unseen.push(format!("links and routes: {error}")),
    };
    facts.links = links
        .into_iter()
        .map(|link| Link { name: link.name, up: link.up, mtu: link.mtu, addresses: link.addresses })
        .collect();
    let mut learned = 0;
    for (key, route) in routes {
        let hop = route.hops().first();
        let interface = hop.and_then(|hop| hop.interface.clone()).unwrap_or_default();
        let is_learned = route.protocol == kernel::PROTO_BIRD
            || (route.protocol == kernel::PROTO_FELIX && !interface.starts_with("cali"));
        learned += usize::from(is_learned);
        if interface.starts_with("cali") || (is_learned && learned <= MOST_ROUTES) {
            let gateway = hop.and_then(|hop| hop.gateway);
            let destination = key.destination.to_string();
            facts.routes.push(Route { destination, interface, gateway, protocol: route.protocol });
        }
    }
}

fn is_candidate(link: &str, address: IpAddr) -> bool {
    let is_own = link == "lo" || link == "tunl0" || link.starts_with("cali");
    let is_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    };
    !is_own && !is_local
}

/// The address that sessions come from is the one that was chosen; else the one that the agent says it cannot find.
fn choose_addresses(told: &agents::Told, facts: &mut Facts) {
    for family in Family::ALL {
        let candidates: Vec<Candidate> = facts
            .links
            .iter()
            .flat_map(|link| link.addresses.iter().map(move |(address, length)| (link, *address, *length)))
            .filter(|(link, address, _)| Family::of(*address) == family && is_candidate(&link.name, *address))
            .map(|(link, address, length)| Candidate { link: link.name.clone(), address, length })
            .collect();
        let is_on_link = |address: &IpAddr| candidates.iter().any(|candidate| candidate.address == *address);
        let own = told.own_addresses.iter().find(|address| Family::of(**address) == family).copied();
        let address = own.or(told.router_id.filter(|id| Family::of(*id) == family && is_on_link(id)));
        let is_missing = facts
            .felix
            .complaints
            .iter()
            .any(|why| why.contains(&format!("cannot determine the node's {family}")));
        if address.is_some() || is_missing {
            facts.addresses.push(Chosen { address, method: host::address_method(family), candidates });
        }
    }
}

/// Nodes behind the VXLAN links, by the forwarding entries there: in a cluster without BGP nobody else knows of them.
fn tunnel_ends(facts: &mut Facts) -> Vec<IpAddr> {
    let names = Family::ALL.map(kernel::vxlan_link_name);
    match FdbDriver::new(&names).and_then(|mut driver| driver.list()) {
        Ok(entries) => entries.into_values().map(|entry| entry.destination).collect(),
        Err(error) => {
            facts.unseen.push(format!("nodes behind VXLAN links: {error}"));
            Vec::new()
        }
    }
}

/// Other nodes: peers, the next hops of what peers taught, and the ends of VXLAN tunnels.
fn targets(peers: &[(IpAddr, String)], ends: &[IpAddr], facts: &Facts) -> Vec<(IpAddr, String)> {
    let own = |address: &IpAddr| {
        facts.links.iter().any(|link| link.addresses.iter().any(|(own, _)| own == address))
    };
    let hops = facts
        .routes
        .iter()
        .filter(|route| route.protocol == kernel::PROTO_BIRD)
        .filter_map(|route| route.gateway);
    let mut all: Vec<(IpAddr, String)> = Vec::new();
    let nameless = hops.chain(ends.iter().copied()).map(|address| (address, String::new()));
    for (address, name) in peers.iter().cloned().chain(nameless) {
        let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !is_link_local && !own(&address) && !all.iter().any(|(known, _)| *known == address) {
            all.push((address, name));
        }
    }
    all.truncate(MOST_PATHS);
    all
}

fn sysctls(links: &[Link]) -> Sysctls {
    let filter = |name: &str| {
        let value = sysctl::read(&format!("net/ipv4/conf/{name}/rp_filter")).ok()?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    let names = links.iter().map(|link| link.name.as_str()).filter(|name| !name.contains('/'));
    Sysctls {
        ip_forward: sysctl::read("net/ipv4/ip_forward").ok(),
        ipv6_forwarding: sysctl::read("net/ipv6/conf/all/forwarding").ok(),
        rp_filter: std::iter::once("all").chain(names).filter_map(filter).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_node_is_probed_once() {
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let own = (address(1), 24);
        let link = Link { name: "eth0".to_owned(), up: true, mtu: 1500, addresses: vec![own] };
        let learned = Route {
            destination: "10.0.0.0/26".to_owned(),
            interface: "eth0".to_owned(),
            gateway: Some(address(3)),
            protocol: kernel::PROTO_BIRD,
        };
        let facts = Facts { links: vec![link], routes: vec![learned], ..Facts::default() };
        let peers = [(address(2), "n2".to_owned())];

        let found = targets(&peers, &[address(1), address(2), address(3), address(4)], &facts);

        let nameless = |last| (address(last), String::new());
        assert_eq!(found, [(address(2), "n2".to_owned()), nameless(3), nameless(4)]);
    }
}
