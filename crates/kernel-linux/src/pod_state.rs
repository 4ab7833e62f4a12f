//! What a pod's namespace holds now, to compare it with what `configure_pod` made.

use std::io;
use std::net::IpAddr;

use kernel::Link;

use crate::link::parse_address;
use crate::netns::Netns;
use crate::nl::named;
use crate::rtnl::*;

/// The pod's side of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// With its addresses.
    pub link: Link,
    /// Next hops of the default routes through the link.
    pub gateways: Vec<IpAddr>,
    /// Permanent neighbour entries on the link.
    pub neighbours: Vec<(IpAddr, [u8; 6])>,
}

/// Reads the link `name` inside `netns` and what hangs on it; `None` when there is no such link.
pub fn pod_state(netns: &Netns, name: &str) -> io::Result<Option<PodState>> {
    let mut rtnl = Rtnl::open_in(netns)?;
    let Some(mut link) = rtnl.link_by_name(name)? else { return Ok(None) };
    let index = link.index;
    let addresses = rtnl.socket.dump(
        libc::RTM_GETADDR,
        |w| w.bytes(&ifaddr(0, 0, 0, 0)),
        |found: &mut Vec<_>, message| found.extend(parse_address(message)),
    )?;
    let own = addresses.into_iter().filter(|(on, ..)| *on == index);
    link.addresses = own.map(|(_, address, length)| (address, length)).collect();
    let gateways = default_gateways(&mut rtnl, index).map_err(|e| named("list routes in the pod", e))?;
    let neighbours = permanent(&mut rtnl, index).map_err(|e| named("list neighbours in the pod", e))?;
    Ok(Some(PodState { link, gateways, neighbours }))
}

/// Name of the link inside `netns` whose other end is the host's link `host_index`.
pub fn peer_name(netns: &Netns, host_index: u32) -> io::Result<Option<String>> {
    Rtnl::open_in(netns)?
        .socket
        .dump(
            libc::RTM_GETLINK,
            |w| w.bytes(&ifinfo(0, 0, 0)),
            |found: &mut Option<String>, message| {
                let mut attributes = message.attributes(IFINFO);
                // Beside IFLA_LINK_NETNSID: an index of another namespace, never of this one.
                let is_far = attributes.clone().any(|a| a.kind == libc::IFLA_LINK_NETNSID);
                let is_peer =
                    attributes.clone().any(|a| a.kind == libc::IFLA_LINK && a.u32() == Some(host_index));
                if message.kind == libc::RTM_NEWLINK && is_far && is_peer {
                    *found = attributes.find(|a| a.kind == IFLA_IFNAME).map(|a| a.string());
                }
            },
        )
        .map_err(|e| named("list links in the pod", e))
}

fn default_gateways(rtnl: &mut Rtnl, index: u32) -> io::Result<Vec<IpAddr>> {
    rtnl.socket.dump(
        libc::RTM_GETROUTE,
        |w| w.bytes(&rtmsg(0, 0, 0, 0, 0, 0)),
        |gateways: &mut Vec<IpAddr>, message| {
            let is_default =
                message.body.get(1) == Some(&0) && message.body.get(7) == Some(&libc::RTN_UNICAST);
            if message.kind != libc::RTM_NEWROUTE || !is_default {
                return;
            }
            let mut attributes = message.attributes(RTMSG);
            let on_link = attributes.clone().any(|a| a.kind == RTA_OIF && a.u32() == Some(index));
            let gateway = attributes.find(|a| a.kind == RTA_GATEWAY).and_then(|a| a.address());
            gateways.extend(gateway.filter(|_| on_link));
        },
    )
}

fn permanent(rtnl: &mut Rtnl, index: u32) -> io::Result<Vec<(IpAddr, [u8; 6])>> {
    rtnl.socket.dump(
        libc::RTM_GETNEIGH,
        |w| w.bytes(&ndmsg(0, 0, 0)),
        |neighbours: &mut Vec<_>, message| {
            let word = |at: usize| message.body.get(at..at + 4).and_then(|b| b.try_into().ok());
            let on_link = word(4).map(u32::from_ne_bytes) == Some(index);
            let state = message.body.get(8..10).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
            if message.kind != libc::RTM_NEWNEIGH || !on_link || state != Some(NUD_PERMANENT) {
                return;
            }
            let mut attributes = message.attributes(NDMSG);
            let address = attributes.clone().find(|a| a.kind == NDA_DST).and_then(|a| a.address());
            let mac = attributes.find(|a| a.kind == NDA_LLADDR).and_then(|a| a.payload.try_into().ok());
            neighbours.extend(address.zip(mac));
        },
    )
}
