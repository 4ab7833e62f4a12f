//! The wires of a lab: the router namespace with one bridge a subnet, and each node's link into it.
//! It starts no process; addresses come from `names`.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use anyhow::Context;

use crate::names::{Family, LabName, Place, WORLD_V4, WORLD_V6, api_addresses, gateways, netns_path};
use crate::netlink::{Netlink, PROTO_STATIC, Route};
use crate::netns;

/// The router namespace's member name.
pub const ROUTER: &str = "tor";
/// The node's link to its subnet.
pub const UPLINK: &str = "eth0";

/// Makes a namespace of this lab, leaving a marker so that it is found again after a crash.
pub fn create_netns(lab: &LabName, name: &str) -> io::Result<()> {
    fs::create_dir_all(lab.marker_dir())?;
    File::create(lab.marker_dir().join(name))?;
    netns::create(name)?;
    netns::within(&netns_path(name), || {
        let lo = netns::link_index("lo")?;
        Netlink::open()?.set_up(lo, true)
    })
}

/// Removes a namespace of this lab and its marker.
pub fn remove_netns(lab: &LabName, name: &str) -> io::Result<()> {
    netns::remove(name)?;
    fs::remove_file(lab.marker_dir().join(name)).ok();
    Ok(())
}

/// Builds the router namespace: forwarding on, one bridge `subnet<s>` a subnet, the API server's addresses on `lo`.
pub fn build_router(lab: &LabName, subnets: u32, family: Family) -> anyhow::Result<()> {
    let name = lab.netns(ROUTER);
    create_netns(lab, &name).with_context(|| format!("make network namespace {name}"))?;
    netns::within(&netns_path(&name), || {
        enable_forwarding(family)?;
        let mut netlink = Netlink::open()?;
        let lo = netns::link_index("lo")?;
        for address in api_addresses(family).into_iter().chain(world_addresses(family)) {
            netlink.add_address(lo, address, host_length(address))?;
        }
        for subnet in 0..subnets {
            let bridge_name = bridge(subnet);
            netlink.add_bridge(&bridge_name)?;
            // Snooping without a querier would drop neighbour discovery between the nodes.
            fs::write(format!("/proc/sys/net/ipv6/conf/{bridge_name}/accept_dad"), "0").ok();
            let index = netns::link_index(&bridge_name)?;
            for address in gateways(subnet, family) {
                netlink.add_address(index, address, subnet_length(address))?;
            }
            netlink.set_up(index, true)?;
        }
        Ok(())
    })
    .with_context(|| format!("build the router in {name}"))
}

/// Makes a node's namespace and connects it to its subnet's bridge, with a default route to the router.
pub fn add_node(lab: &LabName, place: Place, family: Family) -> anyhow::Result<()> {
    let name = lab.netns(&place.name());
    create_netns(lab, &name).with_context(|| format!("make network namespace {name}"))?;
    connect_node(lab, &name, place, family)
        .with_context(|| format!("connect node {} to its subnet", place.name()))
}

fn connect_node(lab: &LabName, name: &str, place: Place, family: Family) -> io::Result<()> {
    let node = File::open(netns_path(name))?;
    let port = place.name();
    netns::within(&netns_path(&lab.netns(ROUTER)), || {
        let mut netlink = Netlink::open()?;
        netlink.add_veth(&port, UPLINK, node.as_fd(), uplink_mac(place))?;
        let index = netns::link_index(&port)?;
        netlink.set_master(index, netns::link_index(&bridge(place.subnet))?)?;
        netlink.set_up(index, true)
    })?;
    netns::within(&netns_path(name), || {
        enable_forwarding(family)?;
        let mut netlink = Netlink::open()?;
        let index = netns::link_index(UPLINK)?;
        for address in place.addresses(family) {
            netlink.add_address(index, address, subnet_length(address))?;
        }
        netlink.set_up(index, true)?;
        for gateway in gateways(place.subnet, family) {
            netlink.replace_route(&default_route(gateway))?;
        }
        Ok(())
    })
}

/// Removes a node's namespace and with it the link to the router.
pub fn remove_node(lab: &LabName, node: &str) -> io::Result<()> {
    let port = node.to_owned();
    // The namespace lives on while a process or socket holds it: take the link away first.
    let cut = netns::within(&netns_path(&lab.netns(ROUTER)), move || {
        let index = netns::link_index(&port)?;
        Netlink::open()?.delete_link(index)
    });
    if let Err(e) = cut
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(node, error = %e, "link to the router not removed");
    }
    remove_netns(lab, &lab.netns(node))
}

/// Pulls or plugs a node's cable at the router's end: the node sees the carrier go and come.
pub fn set_link(lab: &LabName, node: &str, up: bool) -> io::Result<()> {
    let port = node.to_owned();
    netns::within(&netns_path(&lab.netns(ROUTER)), move || {
        let index = netns::link_index(&port)?;
        Netlink::open()?.set_up(index, up)
    })
}

/// Whether this kernel can make `tunl0`; tried for real in a namespace that is thrown away.
pub fn kernel_has_ipip() -> bool {
    std::thread::spawn(|| {
        // SAFETY: only this short-lived thread leaves the process's namespace; no descriptor table is unshared.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
        match Netlink::open()?.add_plain_link("ocicat-probe", "ipip") {
            // tunl0 itself, made with the module, may be counted as the same tunnel.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })
    .join()
    .is_ok_and(|made: io::Result<()>| made.is_ok())
}

/// The default route through a gateway.
pub fn default_route(gateway: IpAddr) -> Route {
    let any = match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Route { destination: (any, 0), gateway, protocol: PROTO_STATIC }
}

/// A node forwards as every cluster's set-up guide asks; the router does by nature.
fn enable_forwarding(family: Family) -> io::Result<()> {
    netns::set_sysctl("net/ipv4/ip_forward", "1")?;
    if family.has_v6() {
        netns::set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // Addresses given by hand need no probing, and 2 s of it would delay every start.
        netns::set_sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        netns::set_sysctl("net/ipv6/conf/all/accept_dad", "0")?;
    }
    Ok(())
}

/// The router's addresses in the network that stands for the world outside.
fn world_addresses(family: Family) -> Vec<IpAddr> {
    let mut all = Vec::new();
    if family.has_v4() {
        all.push(IpAddr::V4(WORLD_V4.1));
    }
    if family.has_v6() {
        all.push(IpAddr::V6(WORLD_V6.1));
    }
    all
}

fn bridge(subnet: u32) -> String {
    format!("subnet{subnet}")
}

fn host_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn subnet_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 24 } else { 64 }
}

/// A locally administered address that tells the node's subnet and number.
fn uplink_mac(place: Place) -> [u8; 6] {
    let low = |n: u32| u8::try_from(n & 0xff).expect("masked to a byte");
    [0x02, 0x0c, 0xa7, low(place.subnet), low(place.index >> 8), low(place.index)]
}
