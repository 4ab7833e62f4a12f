//! Routers on the node's links. Owns hearing their router advertisements and sending ours, so that peers without a
//! configured address find one another by their link-local ones; never sets a route or an address.
//!
//! This is how FRR and others find unnumbered peers. Our advertisements say that we are no default router.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::options::set;
use crate::udp::receive;

/// How often we advertise ourselves.
const INTERVAL: Duration = Duration::from_secs(10);
/// The first advertisements come quicker (RFC 4861 §6.2.4).
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const FIRST: u32 = 5;
/// A router that was not heard for so long may be replaced by another one on its link.
const SILENCE: Duration = Duration::from_secs(35);
/// Types of ICMPv6.
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Code, checksum (the kernel's work), hop limit, flags, lifetime of a default router, two timers: all nothing.
const OWN: [u8; 16] = [ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// RFC 4861 §6.1.2: not forwarded, and long enough.
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// ICMPV6_FILTER, of `linux/icmpv6.h`.
const ICMPV6_FILTER: libc::c_int = 1;

/// Hears routers on some links.
#[derive(Debug)]
pub struct RouterDiscovery {
    socket: AsyncFd<OwnedFd>,
    links: BTreeMap<u32, Link>,
}

#[derive(Debug)]
struct Link {
    router: Option<(Ipv6Addr, Instant)>,
    send_at: Instant,
    sent: u32,
}

impl RouterDiscovery {
    /// Listens on no link yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no raw socket: CAP_NET_RAW is needed.
    pub fn new() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let protocol = Some(ipproto::ICMPV6);
        let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::RAW, flags, protocol)?;
        // A bit that is set keeps a type out.
        let mut filter = [u32::MAX; 8];
        for kind in [SOLICITATION, ADVERTISEMENT] {
            filter[usize::from(kind) / 32] &= !(1 << (kind % 32));
        }
        set(&socket, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &filter)?;
        let on: libc::c_int = 1;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &on)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on)?;
        sockopt::set_ipv6_multicast_hops(&socket, u32::from(HOP_LIMIT))?;
        sockopt::set_ipv6_multicast_loop(&socket, false)?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, and neither replaced nor closed before it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self { socket, links: BTreeMap::new() })
    }

    /// Listens on exactly these links, by their indexes.
    pub fn set_links(&mut self, links: impl IntoIterator<Item = u32>, now: Instant) {
        let mut old = std::mem::take(&mut self.links);
        let fresh = || Link { router: None, send_at: now, sent: 0 };
        self.links = links.into_iter().map(|i| (i, old.remove(&i).unwrap_or_else(fresh))).collect();
    }

    /// The router of each link that has one.
    pub fn routers(&self) -> BTreeMap<u32, Ipv6Addr> {
        self.links.iter().filter_map(|(index, link)| Some((*index, link.router?.0))).collect()
    }

    /// Waits until a link has a router, or another one. May be dropped at any time without loss.
    pub async fn changed(&mut self) {
        loop {
            self.send_due(now());
            let Some(next) = self.links.values().map(|link| link.send_at).min() else {
                return std::future::pending().await;
            };
            let readable = tokio::select! {
                guard = self.socket.readable() => guard,
                () = tokio::time::sleep_until(next.into()) => continue,
            };
            let Ok(mut guard) = readable else { return std::future::pending().await };
            match receive(guard.get_inner()) {
                Ok(packet) => {
                    let kind = packet.bytes[..packet.len.min(packet.bytes.len())].first().copied();
                    if packet.ttl == HOP_LIMIT && self.heard(packet.interface, packet.remote, kind, now()) {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => tracing::debug!(%error, "router advertisements"),
            }
        }
    }

    /// Takes a packet; gives back whether the link's router is another one now.
    fn heard(&mut self, interface: u32, from: IpAddr, kind: Option<u8>, now: Instant) -> bool {
        let (Some(link), IpAddr::V6(from)) = (self.links.get_mut(&interface), from) else { return false };
        if kind == Some(SOLICITATION) {
            link.send_at = link.send_at.min(now + FIRST_INTERVAL);
            return false;
        }
        if kind != Some(ADVERTISEMENT) || !from.is_unicast_link_local() {
            return false;
        }
        match link.router {
            Some((known, heard)) if known != from && now.duration_since(heard) < SILENCE => false,
            router => {
                link.router = Some((from, now));
                if router.is_none() {
                    // It may have come up just now, and not have heard us.
                    link.send_at = now;
                }
                router.map(|(known, _)| known) != Some(from)
            }
        }
    }

    fn send_due(&mut self, now: Instant) {
        for (index, link) in self.links.iter_mut().filter(|(_, link)| link.send_at <= now) {
            let everybody = SocketAddrV6::new(ALL_NODES, 0, 0, *index);
            // A link that is down is tried again.
            if let Err(error) =
                rustix::net::sendto(self.socket.get_ref(), &OWN, SendFlags::empty(), &everybody)
            {
                tracing::debug!(%error, index, "cannot advertise");
            }
            link.sent = link.sent.saturating_add(1);
            link.send_at = now + if link.sent < FIRST { FIRST_INTERVAL } else { INTERVAL };
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a door reads the clock")]
fn now() -> Instant {
    Instant::now()
}
