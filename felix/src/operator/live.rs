//! What the node would do with a packet: its rules, connections, routes and neighbours, as they are now.

use std::io;
use std::net::IpAddr;

use kernel::interpret::{Packet, Verdict};
use kernel::{Driver as _, wireguard_link_name};
use kernel_linux::{Conntrack, FibKind, Rtnl, TrackedConnection, WireguardPeerDriver};
use model::{Family, Protocol};
use proto::felix as api;
use proto::felix::request;

use super::{Operator, PATIENCE};
use crate::drop_log::TierOf;
use crate::worker::look::{Look, Walked};

/// Connections that are told of.
const MOST_CONNECTIONS: usize = 16;

impl Operator {
    /// # Errors
    /// What makes no sense about the question, or that the agent is too busy.
    pub(super) async fn explain(&self, question: request::Explain) -> Result<api::Explained, String> {
        let asked = Asked::parse(&question)?;
        let kernel = tokio::task::spawn_blocking(move || KernelView::of(&asked));
        let kernel = kernel.await.map_err(|error| error.to_string())?;
        let links = kernel.links.clone();
        let look = move |worker: &mut dyn Look| judge(worker, &asked, &links);
        let mut told = self.dataplane.look(PATIENCE, look).await.map_err(|error| error.to_string())?;
        told.node = self.node.to_string();
        told.connections = kernel.connections;
        told.route = kernel.route;
        told.from_mtu = kernel.from_mtu;
        told.problems.extend(kernel.problems);
        if let Some(by) = &mut told.decided_by {
            by.node = self.node.to_string();
        }
        Ok(told)
    }
}

/// A question that makes sense.
#[derive(Clone, Copy)]
struct Asked {
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    source_port: u16,
    destination_port: u16,
    icmp: (u8, u8),
}

impl Asked {
    fn parse(question: &request::Explain) -> Result<Self, String> {
        let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("{text:?} is no address"));
        let port = |port: u32| u16::try_from(port).map_err(|_| format!("{port} is no port"));
        let octet = |value: u32| u8::try_from(value).map_err(|_| format!("{value} is more than 255"));
        let (source, destination) = (address(&question.source)?, address(&question.destination)?);
        if Family::of(source) != Family::of(destination) {
            return Err(format!("{source} and {destination} are of different families"));
        }
        Ok(Self {
            source,
            destination,
            protocol: Protocol(octet(question.protocol)?),
            source_port: port(question.source_port)?,
            destination_port: port(question.destination_port)?,
            icmp: (octet(question.icmp_type)?, octet(question.icmp_code)?),
        })
    }
}

/// Which links the routes of the two ends lead through; `None` for this node itself.
#[derive(Clone, Default)]
struct Links {
    from: Option<String>,
    to: Option<String>,
}

/// Walks the packet over the rules, from and to where it is on this node.
fn judge(worker: &mut dyn Look, asked: &Asked, links: &Links) -> api::Explained {
    let own = worker.own_addresses();
    let end = |address: IpAddr, link: &Option<String>| {
        if own.contains(&address) { None } else { worker.pod_interface(address).or_else(|| link.clone()) }
    };
    let (from, to) = (end(asked.source, &links.from), end(asked.destination, &links.to));
    let mut packet = Packet::new(asked.source, asked.destination, asked.protocol, asked.destination_port);
    if asked.source_port != 0 {
        packet.source_port = asked.source_port;
    }
    packet.icmp = asked.icmp;
    let Walked { verdict, rules, reason, met } = worker.walk(&packet.via(from.as_deref(), to.as_deref()));
    let decided_by = reason.map(|reason| {
        let interface = if reason.direction == "egress" { &from } else { &to };
        let interface = interface.clone().unwrap_or_default();
        let place = TierOf { interface, tier: reason.tier, direction: reason.direction };
        let policies = worker.tier_policies(&place);
        api::Drop {
            direction: place.direction,
            interface: place.interface,
            cause: reason.cause,
            policy: reason.policy,
            tier: place.tier,
            rule: reason.rule,
            policies,
            ..api::Drop::default()
        }
    });
    let verdict = match verdict {
        Verdict::Accept => "allowed",
        Verdict::Drop | Verdict::Reject(_) => "denied",
        Verdict::Undecided => "undecided",
    };
    // What the packet meets is compared with the kernel in the same turn: nothing is written in between.
    let audit = worker.audit();
    let differences = audit.differences.into_iter().filter(|entry| met.concerns(&entry.kind, &entry.entry));
    api::Explained {
        differences: differences.collect(),
        problems: audit.problems,
        from_interface: from.unwrap_or_default(),
        to_interface: to.unwrap_or_default(),
        verdict: verdict.to_owned(),
        decided_by,
        rules,
        ..api::Explained::default()
    }
}

/// What the kernel itself says.
#[derive(Default)]
struct KernelView {
    links: Links,
    from_mtu: u32,
    connections: Vec<api::Connection>,
    route: Option<api::Route>,
    problems: Vec<String>,
}

impl KernelView {
    fn of(asked: &Asked) -> Self {
        let mut view = Self::default();
        if let Err(error) = view.look_at_routes(asked) {
            view.problems.push(error.to_string());
        }
        match connections(asked) {
            Ok(found) => view.connections = found,
            Err(error) => view.problems.push(error.to_string()),
        }
        view
    }

    fn look_at_routes(&mut self, asked: &Asked) -> io::Result<()> {
        let mut rtnl = Rtnl::open()?;
        let link = |rtnl: &mut Rtnl, address| -> io::Result<Option<String>> {
            Ok(rtnl.lookup(address)?.filter(|way| !way.is_local).map(|way| way.interface))
        };
        self.links = Links { from: link(&mut rtnl, asked.source)?, to: link(&mut rtnl, asked.destination)? };
        if let Some(from) = &self.links.from {
            self.from_mtu = rtnl.link_by_name(from)?.map_or(0, |link| link.mtu);
        }
        self.route = Some(route(&mut rtnl, asked.destination)?);
        Ok(())
    }
}

fn route(rtnl: &mut Rtnl, destination: IpAddr) -> io::Result<api::Route> {
    let mut route = api::Route { kind: "unreachable".to_owned(), ..api::Route::default() };
    if let Some(entry) = rtnl.fib_match(destination)? {
        route.prefix = entry.prefix.to_string();
        route.protocol = protocol_name(entry.protocol);
        route.kind = match entry.kind {
            FibKind::Unicast => "unicast",
            FibKind::Local => "local",
            FibKind::Blackhole => "blackhole",
            FibKind::Unreachable => "unreachable",
        }
        .to_owned();
    }
    let Some(way) = rtnl.lookup(destination)? else { return Ok(route) };
    route.gateway = way.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    let encapsulation = match way.interface.as_str() {
        name if name.starts_with("tunl") => "IPIP",
        name if name.starts_with("vxlan") => "VXLAN",
        name if Family::ALL.map(wireguard_link_name).contains(&name) => "WireGuard",
        _ => "none",
    };
    if let Some(link) = rtnl.link_by_name(&way.interface)? {
        route.mtu = link.mtu;
        let next = way.gateway.unwrap_or(destination);
        if !way.is_local && !["IPIP", "WireGuard"].contains(&encapsulation) {
            route.neighbour = rtnl.neighbour_state(link.index, next)?.unwrap_or_default().to_owned();
        }
        let remote = match encapsulation {
            "IPIP" => way.gateway,
            "VXLAN" => rtnl.vxlan_remote(link.index, next)?,
            "WireGuard" => wireguard_remote(&way.interface, destination)?,
            _ => None,
        };
        if let Some(remote) = remote {
            look_outside(rtnl, remote, &mut route)?;
        }
    }
    route.encapsulation = encapsulation.to_owned();
    route.interface = way.interface;
    Ok(route)
}

/// Where the node is that this address is behind, by the longest range.
fn wireguard_remote(interface: &str, destination: IpAddr) -> io::Result<Option<IpAddr>> {
    let peers = WireguardPeerDriver::new()?.list()?;
    let on_link = peers.iter().filter(|(key, _)| key.interface == interface);
    let ranges = on_link.flat_map(|(_, peer)| peer.allowed.iter().map(move |range| (range, peer.endpoint)));
    let around = ranges.filter(|(range, _)| range.contains(destination));
    Ok(around.max_by_key(|(range, _)| range.length()).map(|(_, endpoint)| endpoint.ip()))
}

/// How the packet goes on inside another one.
fn look_outside(rtnl: &mut Rtnl, remote: IpAddr, route: &mut api::Route) -> io::Result<()> {
    route.outer_destination = remote.to_string();
    let Some(way) = rtnl.lookup(remote)? else { return Ok(()) };
    route.outer_source = way.source.map(|source| source.to_string()).unwrap_or_default();
    route.outer_mtu = rtnl.link_by_name(&way.interface)?.map_or(0, |link| link.mtu);
    route.outer_interface = way.interface;
    Ok(())
}

/// In `ip route`'s words.
fn protocol_name(protocol: u8) -> String {
    match protocol {
        2 => "kernel".to_owned(),
        kernel::PROTO_BOOT => "boot".to_owned(),
        4 => "static".to_owned(),
        kernel::PROTO_BIRD => "bird".to_owned(),
        kernel::PROTO_FELIX => "felix".to_owned(),
        number => number.to_string(),
    }
}

fn connections(asked: &Asked) -> io::Result<Vec<api::Connection>> {
    let wanted = |connection: &TrackedConnection| {
        let (original, reply) = (&connection.original, &connection.reply);
        let ports = |port: u16| !asked.protocol.has_ports() || port == asked.destination_port;
        original.source == asked.source
            && original.protocol == asked.protocol
            && (asked.source_port == 0 || original.source_port == asked.source_port)
            && ((reply.source == asked.destination && ports(reply.source_port))
                || (original.destination == asked.destination && ports(original.destination_port)))
    };
    let found = Conntrack::open()?.list(Family::of(asked.source), MOST_CONNECTIONS, wanted)?;
    let state = |connection: &TrackedConnection| match connection {
        TrackedConnection { assured: true, .. } => "assured",
        TrackedConnection { replied: true, .. } => "replied",
        _ => "unreplied",
    };
    let told = found.into_iter().map(|connection| api::Connection {
        source: connection.original.source.to_string(),
        destination: connection.original.destination.to_string(),
        source_port: connection.original.source_port.into(),
        destination_port: connection.original.destination_port.into(),
        answered_by: connection.reply.source.to_string(),
        state: state(&connection).to_owned(),
    });
    Ok(told.collect())
}
