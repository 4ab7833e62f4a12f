//! A small blocking rtnetlink client for what the lab itself builds: bridges, veth pairs, addresses, routes.
//! Requests go out one by one and wait for their acknowledgement; the pods' links are the CNI plugin's business.
//! It works in the network namespace of the thread that opened it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const IFA_F_NODAD: u8 = 0x02;
/// `RTPROT_STATIC`: what an administrator set.
pub const PROTO_STATIC: u8 = 4;
/// `RTPROT_BGP`: learned by BGP.
pub const PROTO_BGP: u8 = 186;

/// A route as the lab installs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination network; the unspecified address with length 0 is the default route.
    pub destination: (IpAddr, u8),
    /// Next hop.
    pub gateway: IpAddr,
    /// Who made it: [`PROTO_STATIC`] or [`PROTO_BGP`].
    pub protocol: u8,
}

/// One netlink socket.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        // SAFETY: socket takes integers only; the result is checked before it is owned.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nothing else owns.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) }, sequence: 0 })
    }

    /// Brings a link up or down.
    pub fn set_up(&mut self, link: u32, up: bool) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_NEWLINK, 0);
        m.link_header(link, if up { libc::IFF_UP as u32 } else { 0 }, libc::IFF_UP as u32);
        self.ask(m)
    }

    /// Makes a bridge without spanning tree.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        m.link_header(0, 0, 0);
        m.text(IFLA_IFNAME, name);
        m.nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "bridge"));
        self.ask(m)
    }

    /// Makes a veth pair: `name` here, `peer` in the namespace `peer_ns`, which is told apart by `peer_mac`.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_ns: BorrowedFd<'_>,
        peer_mac: [u8; 6],
    ) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        m.link_header(0, 0, 0);
        m.text(IFLA_IFNAME, name);
        m.nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "veth");
            m.nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.link_header(0, 0, 0);
                    m.text(IFLA_IFNAME, peer);
                    m.attribute(IFLA_ADDRESS, &peer_mac);
                    m.attribute(IFLA_NET_NS_FD, &peer_ns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.ask(m)
    }

    /// Tries to make a link of a kind without parameters, such as `ipip`.
    pub fn add_plain_link(&mut self, name: &str, kind: &str) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        m.link_header(0, 0, 0);
        m.text(IFLA_IFNAME, name);
        m.nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, kind));
        self.ask(m)
    }

    /// Puts a link into a bridge.
    pub fn set_master(&mut self, link: u32, bridge: u32) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_NEWLINK, 0);
        m.link_header(link, 0, 0);
        m.attribute(IFLA_MASTER, &bridge.to_ne_bytes());
        self.ask(m)
    }

    /// Deletes a link.
    pub fn delete_link(&mut self, link: u32) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_DELLINK, 0);
        m.link_header(link, 0, 0);
        self.ask(m)
    }

    /// Gives a link an address; IPv6 addresses are usable at once (no duplicate detection).
    pub fn add_address(&mut self, link: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
        let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
        m.bytes.extend_from_slice(&[family(address), prefix, flags, 0]);
        m.bytes.extend_from_slice(&link.to_ne_bytes());
        let octets = octets(address);
        m.attribute(IFA_LOCAL, &octets);
        m.attribute(IFA_ADDRESS, &octets);
        self.ask(m)
    }

    /// Adds or replaces a unicast route of the main table.
    pub fn replace_route(&mut self, route: &Route) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
        m.route(route);
        self.ask(m)
    }

    /// Deletes a route of the main table; one that is not there counts as deleted.
    pub fn delete_route(&mut self, route: &Route) -> io::Result<()> {
        let mut m = Message::new(libc::RTM_DELROUTE, 0);
        m.route(route);
        match self.ask(m) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    fn ask(&mut self, mut message: Message) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(message.bytes.len()).expect("a request is a few hundred bytes");
        message.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        message.bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        rustix::net::send(self.socket.as_fd(), &message.bytes, rustix::net::SendFlags::empty())?;
        let mut buffer = [0_u8; 8192];
        loop {
            let (got, _) =
                rustix::net::recv(self.socket.as_fd(), &mut buffer[..], rustix::net::RecvFlags::empty())?;
            let Some(error) = acknowledgement(&buffer[..got], self.sequence) else { continue };
            return if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) };
        }
    }
}

/// The result in an NLMSG_ERROR message for `sequence`; `None` when this is another message.
fn acknowledgement(bytes: &[u8], sequence: u32) -> Option<i32> {
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let seq = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let error = i32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR && seq == sequence).then_some(error)
}

/// A request under construction.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        Self { bytes }
    }

    /// `struct ifinfomsg`.
    fn link_header(&mut self, index: u32, flags: u32, change: u32) {
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&index.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&change.to_ne_bytes());
    }

    /// `struct rtmsg` and the attributes of a route.
    fn route(&mut self, route: &Route) {
        let (destination, length) = route.destination;
        let table = libc::RT_TABLE_MAIN;
        self.bytes.extend_from_slice(&[family(destination), length, 0, 0, table, route.protocol, 0, 1]);
        self.bytes.extend_from_slice(&[0; 4]);
        if length > 0 {
            self.attribute(RTA_DST, &octets(destination));
        }
        self.attribute(RTA_GATEWAY, &octets(route.gateway));
        if destination.is_ipv6() {
            self.attribute(RTA_PRIORITY, &1024_u32.to_ne_bytes());
        }
    }

    fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes here are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("attributes here are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

fn family(address: IpAddr) -> u8 {
    u8::try_from(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })
        .expect("families are below 256")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nests_carry_their_length() {
        let mut m = Message::new(libc::RTM_NEWLINK, 0);
        m.nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "veth"));
        // nest header 4, inner header 4, "veth\0" 5, padding 3
        assert_eq!(m.bytes.len(), 16 + 16);
        assert_eq!(u16::from_ne_bytes([m.bytes[16], m.bytes[17]]), 16);
        assert_eq!(u16::from_ne_bytes([m.bytes[20], m.bytes[21]]), 9);
    }

    #[test]
    fn only_the_acknowledgement_of_the_request_counts() {
        let mut ack = vec![0_u8; 36];
        ack[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        ack[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        ack[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        assert_eq!(acknowledgement(&ack, 7), Some(-17));
        assert_eq!(acknowledgement(&ack, 8), None);
        assert_eq!(acknowledgement(&ack[..10], 7), None);
    }
}
