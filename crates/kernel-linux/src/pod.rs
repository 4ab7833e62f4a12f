//! The veth of a pod: born with its peer inside the pod's namespace, and configured there in one send
//! (`spec/kernel.md` §2b gives the reasons: moving a link costs 19 ms, a first ARP 388 ms).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::Family;

use crate::link::{check_name, write_address};
use crate::netns::Netns;
use crate::nl::{Batch, Writer, named};
use crate::rtnl::*;
use crate::sysctl;

/// MAC of the host side of every pod's veth.
pub const HOST_MAC: [u8; 6] = [0xee; 6];
/// The next hop of every pod, on no interface: the host answers for it by its MAC.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Link-local address that follows from `HOST_MAC`.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// A veth pair to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Host side, as `cali0123456789a`; gets `HOST_MAC` and is up at once.
    pub host_name: String,
    /// Alias of the host side: the container ID. At most 255 bytes.
    pub alias: String,
    /// Pod side, as `eth0`.
    pub pod_name: String,
    /// MAC of the pod side; `None` lets the kernel choose.
    pub pod_mac: Option<[u8; 6]>,
    /// Of both sides.
    pub mtu: u32,
    /// Queues of each direction on each side; 1 leaves it to the kernel.
    pub queues: u32,
    /// Gives the host side `GATEWAY_V6`.
    pub ipv6: bool,
}

/// What `configure_pod` sets up inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// Pod side, as `eth0`.
    pub name: String,
    /// Each becomes a /32 or /128.
    pub addresses: Vec<IpAddr>,
    /// MAC behind the gateways: `HOST_MAC`.
    pub gateway_mac: [u8; 6],
    /// `net.ipv4.ip_forward` (and IPv6 forwarding) inside.
    pub forwarding: bool,
}

impl Rtnl {
    /// Makes the pair: host side here, peer inside `netns`.
    ///
    /// Fails with `AlreadyExists` when the host has a link of that name.
    pub fn create_pod_link(&mut self, link: &PodLink, netns: &Netns) -> io::Result<()> {
        check_name(&link.host_name)?;
        check_name(&link.pod_name)?;
        if link.alias.len() > 255 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a link alias has at most 255 bytes"));
        }
        let mut batch = Batch::new();
        let create = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        batch.push(libc::RTM_NEWLINK, create, |w| write_pair(w, link, netns));
        batch.push(libc::RTM_SETLINK, 0, |w| {
            w.bytes(&ifinfo(0, 0, 0));
            w.string(IFLA_IFNAME, &link.host_name);
            w.attribute(IFLA_IFALIAS, link.alias.as_bytes());
        });
        let labels = [
            format!("create veth {} with {} in {}", link.host_name, link.pod_name, netns.path().display()),
            format!("set alias of {}", link.host_name),
        ];
        self.all(&mut batch, &labels)?;
        if !link.ipv6 {
            return Ok(());
        }
        let made = self.link_by_name(&link.host_name)?.ok_or_else(|| {
            let text = format!("{} vanished after creation", link.host_name);
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        // A node may disable IPv6 on interfaces that nobody asks it for; then it refuses the address.
        sysctl::write(&format!("net/ipv6/conf/{}/disable_ipv6", link.host_name), "0")?;
        self.add_address(made.index, IpAddr::V6(GATEWAY_V6), 64)
    }
}

fn write_pair(w: &mut Writer<'_>, link: &PodLink, netns: &Netns) {
    w.bytes(&ifinfo(0, IFF_UP, IFF_UP));
    w.string(IFLA_IFNAME, &link.host_name);
    w.attribute(IFLA_ADDRESS, &HOST_MAC);
    w.u32(IFLA_MTU, link.mtu);
    write_queues(w, link.queues);
    w.group(IFLA_LINKINFO, |w| {
        w.string(IFLA_INFO_KIND, "veth");
        w.group(IFLA_INFO_DATA, |w| {
            w.group(VETH_INFO_PEER, |w| {
                w.bytes(&ifinfo(0, 0, 0));
                w.string(IFLA_IFNAME, &link.pod_name);
                if let Some(mac) = link.pod_mac {
                    w.attribute(IFLA_ADDRESS, &mac);
                }
                w.u32(IFLA_MTU, link.mtu);
                write_queues(w, link.queues);
                w.u32(IFLA_NET_NS_FD, netns.raw_fd() as u32);
            });
        });
    });
}

fn write_queues(w: &mut Writer<'_>, queues: u32) {
    if queues > 1 {
        w.u32(IFLA_NUM_TX_QUEUES, queues);
        w.u32(IFLA_NUM_RX_QUEUES, queues);
    }
}

/// Configures a pod's interface inside its namespace: links up, addresses, the link route to the gateway, the
/// default route, a permanent neighbour for the gateway. Repeating it is harmless. Returns the pod side's MAC.
pub fn configure_pod(netns: &Netns, pod: &PodInterface) -> io::Result<[u8; 6]> {
    check_name(&pod.name)?;
    netns.visit(|| configure_here(pod))
}

fn configure_here(pod: &PodInterface) -> io::Result<[u8; 6]> {
    let has = |family| pod.addresses.iter().any(|address| Family::of(*address) == family);
    let forwarding = if pod.forwarding { "1" } else { "0" };
    if has(Family::V4) {
        sysctl::write("net/ipv4/ip_forward", forwarding)?;
    }
    if has(Family::V6) {
        for interface in ["all", "default", "lo", &pod.name] {
            sysctl::write(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
        }
        sysctl::write(&format!("net/ipv6/conf/{}/accept_dad", pod.name), "0")?;
        sysctl::write("net/ipv6/conf/all/forwarding", forwarding)?;
    }
    let mut rtnl = Rtnl::open()?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the pod has no link {}", pod.name));
    let link = rtnl.link_by_name(&pod.name)?.ok_or_else(missing)?;
    let mut steps = Steps::default();
    steps.up(1, "lo");
    steps.up(link.index, &pod.name);
    for address in &pod.addresses {
        steps.address(link.index, *address, &pod.name);
    }
    for (family, gateway) in [(Family::V4, IpAddr::V4(GATEWAY_V4)), (Family::V6, IpAddr::V6(GATEWAY_V6))] {
        if has(family) {
            steps.neighbour(link.index, gateway, pod.gateway_mac);
            steps.default_route(link.index, gateway);
        }
    }
    rtnl.all(&mut steps.batch, &steps.labels)?;
    link.mac.ok_or_else(|| io::Error::other(format!("link {} in the pod has no MAC", pod.name)))
}

/// Requests with what to say when one fails.
#[derive(Default)]
struct Steps {
    batch: Batch,
    labels: Vec<String>,
}

impl Steps {
    fn push(&mut self, label: String, kind: u16, flags: i32, body: impl FnOnce(&mut Writer<'_>)) {
        self.batch.push(kind, flags as u16, body);
        self.labels.push(label);
    }

    fn up(&mut self, index: u32, name: &str) {
        let header = ifinfo(index, IFF_UP, IFF_UP);
        self.push(format!("set {name} up in the pod"), libc::RTM_SETLINK, 0, |w| w.bytes(&header));
    }

    fn address(&mut self, index: u32, address: IpAddr, name: &str) {
        let length = Family::of(address).bits();
        let label = format!("add {address}/{length} to {name} in the pod");
        self.push(label, libc::RTM_NEWADDR, REPLACE, |w| write_address(w, index, address, length));
    }

    fn neighbour(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) {
        let label = format!("add neighbour {address} in the pod");
        self.push(label, libc::RTM_NEWNEIGH, REPLACE, |w| {
            w.bytes(&ndmsg(family_number(Family::of(address)), index, NUD_PERMANENT));
            w.address(NDA_DST, address);
            w.attribute(NDA_LLADDR, &mac);
        });
    }

    /// The gateway of IPv4 is on no subnet and needs a route of its own; a link-local one is on every link.
    fn default_route(&mut self, index: u32, gateway: IpAddr) {
        let family = family_number(Family::of(gateway));
        let table = libc::RT_TABLE_MAIN;
        if gateway.is_ipv4() {
            let label = format!("add route to {gateway} in the pod");
            self.push(label, libc::RTM_NEWROUTE, REPLACE, |w| {
                let scope = libc::RT_SCOPE_LINK;
                w.bytes(&rtmsg(family, 32, table, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST));
                w.address(RTA_DST, gateway);
                w.u32(RTA_OIF, index);
            });
        }
        self.push(format!("add default route via {gateway} in the pod"), libc::RTM_NEWROUTE, REPLACE, |w| {
            let scope = libc::RT_SCOPE_UNIVERSE;
            w.bytes(&rtmsg(family, 0, table, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST));
            w.address(RTA_GATEWAY, gateway);
            w.u32(RTA_OIF, index);
        });
    }
}

const REPLACE: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// The MAC of the pod side, to give the host a permanent neighbour entry before the pod sends anything.
pub fn pod_mac(netns: &Netns, name: &str) -> io::Result<Option<[u8; 6]>> {
    let link = Rtnl::open_in(netns)?.link_by_name(name).map_err(|e| named("look into the pod", e))?;
    Ok(link.and_then(|link| link.mac))
}
