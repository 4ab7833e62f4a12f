//! UDP sockets of BFD. Owns their options, and reading a packet with its TTL and interface (RFC 5881 §4, §5).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::options::{NETWORK_CONTROL, set};

/// Ports that packets are sent from (RFC 5881 §4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Longest packet that is read; longer ones are cut, and are none of BFD's then.
const LONGEST: usize = 128;

/// A packet as it came in.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) remote: IpAddr,
    pub(crate) interface: u32,
    pub(crate) ttl: u8,
    pub(crate) bytes: [u8; LONGEST],
    pub(crate) len: usize,
}

/// A socket on a port of BFD, on all addresses of a family.
pub(crate) fn receiver(ipv6: bool, port: u16) -> io::Result<OwnedFd> {
    let on: libc::c_int = 1;
    let socket = new_socket(ipv6)?;
    if ipv6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &on)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on)?;
        rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    } else {
        set(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL, &on)?;
        set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &on)?;
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    }
    Ok(socket)
}

/// A socket that one session sends from: its port stays the same and is no other session's. `entropy` says which
/// port is tried first.
pub(crate) fn sender(local: IpAddr, interface: u32, entropy: u64) -> io::Result<OwnedFd> {
    let socket = new_socket(local.is_ipv6())?;
    if local.is_ipv6() {
        sockopt::set_ipv6_unicast_hops(&socket, Some(255))?;
        sockopt::set_ipv6_tclass(&socket, NETWORK_CONTROL.into())?;
    } else {
        sockopt::set_ip_ttl(&socket, 255)?;
        sockopt::set_ip_tos(&socket, NETWORK_CONTROL)?;
    }
    let count = u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
    for i in 0..count {
        let offset = (entropy.wrapping_add(i) % count) as u16;
        let address = with_scope(local, SOURCE_PORTS.start() + offset, interface);
        match rustix::net::bind(&socket, &address) {
            Err(rustix::io::Errno::ADDRINUSE) => {}
            result => return result.map(|()| socket).map_err(Into::into),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// An address on a link.
pub(crate) fn with_scope(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, port),
        IpAddr::V6(a) => SocketAddrV6::new(a, port, 0, interface).into(),
    }
}

fn new_socket(ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?)
}

/// Reads one packet; `WouldBlock` when there is none.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Datagram> {
    let mut bytes = [0; LONGEST];
    // Room for the TTL and the packet information of either family, aligned as control messages are.
    let mut control = [0_u64; 16];
    // SAFETY: all-zero bytes are a valid sockaddr_storage, and a valid msghdr.
    let (mut name, mut header): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer of `header` is to a local that outlives the call, with its true length.
    let n = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, 0) };
    let len = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let remote = source(&name).ok_or(io::ErrorKind::InvalidData)?;
    let (ttl, interface) = ancillary(&header);
    Ok(Datagram { remote, interface, ttl, bytes, len })
}

fn source(name: &libc::sockaddr_storage) -> Option<IpAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel says that it wrote a sockaddr_in, which is smaller than the storage.
            let address = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the kernel says that it wrote a sockaddr_in6, which is smaller than the storage.
            let address = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// TTL and interface of a packet; 0 where the kernel did not tell.
fn ancillary(header: &libc::msghdr) -> (u8, u32) {
    let (mut ttl, mut interface) = (0, 0);
    // SAFETY: `header` is as `recvmsg` left it, and its control buffer is alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: the kernel wrote whole control messages, and CMSG_NXTHDR stays inside of them.
    while let Some(message) = unsafe { next.as_ref() } {
        // SAFETY: the data of a message follows its header, and is as long as its kind says.
        unsafe {
            let data = libc::CMSG_DATA(message);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    ttl = u8::try_from(data.cast::<libc::c_int>().read_unaligned()).unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    interface = u32::try_from(info.ipi_ifindex).unwrap_or(0);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    interface = data.cast::<libc::in6_pktinfo>().read_unaligned().ipi6_ifindex;
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, message);
        }
    }
    (ttl, interface)
}
