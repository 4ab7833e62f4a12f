//! Socket options. Owns the ones that the standard library has no call for.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use bgp::Password;
use bgp_packet::Prefix;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Value of `TCP_MD5SIG` (linux/tcp.h).
const TCP_MD5SIG: libc::c_int = 14;
/// Value of `TCP_MD5SIG_EXT`: the same with flags (linux/tcp.h).
const TCP_MD5SIG_EXT: libc::c_int = 32;
/// Value of `TCP_MD5SIG_FLAG_PREFIX`: `prefix_len` is valid (linux/tcp.h).
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
const MAX_KEY: usize = 80;
/// DSCP CS6, the class of routing protocols (RFC 4594 §3.1), as a TOS byte.
pub(crate) const NETWORK_CONTROL: u8 = 0xc0;

/// `struct tcp_md5sig` (linux/tcp.h).
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: libc::c_int,
    key: [u8; MAX_KEY],
}

/// Sets or removes the MD5 key that segments of `peers` must carry (RFC 2385). The key of a longer prefix wins.
pub(crate) fn set_md5(socket: impl AsFd, peers: Prefix, password: Option<&Password>) -> io::Result<()> {
    let key = password.map_or(&[][..], Password::bytes);
    if key.len() > MAX_KEY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "TCP MD5 password is longer than 80 bytes"));
    }
    let (option, flags) =
        if peers.is_host() { (TCP_MD5SIG, 0) } else { (TCP_MD5SIG_EXT, TCP_MD5SIG_FLAG_PREFIX) };
    let mut value = TcpMd5Sig {
        address: sockaddr(peers.address()),
        flags,
        prefix_len: if peers.is_host() { 0 } else { peers.len() },
        key_len: key.len() as u16,
        ifindex: 0,
        key: [0; MAX_KEY],
    };
    value.key[..key.len()].copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, option, &value)
}

/// Demands that segments come from at most `hops` routers away (RFC 5082); `None` takes them from anywhere.
pub(crate) fn set_ttl_security(socket: impl AsFd, peer: IpAddr, hops: Option<u8>) -> io::Result<()> {
    let least = hops.map_or(0, |hops| libc::c_int::from(255 - hops.saturating_sub(1)));
    match peer {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &least),
    }
}

/// A stream socket that does not block.
pub(crate) fn new_socket(address: IpAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// What every socket gets, listening ones included: no delay, network control class, and the highest TTL, so
/// that a peer may demand it whether we do or not (RFC 5082 §3).
pub(crate) fn set_common(socket: impl AsFd, address: IpAddr) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    match address {
        IpAddr::V4(_) => {
            sockopt::set_ip_tos(&socket, NETWORK_CONTROL)?;
            sockopt::set_ip_ttl(&socket, 255)?;
        }
        IpAddr::V6(_) => {
            sockopt::set_ipv6_tclass(&socket, NETWORK_CONTROL.into())?;
            sockopt::set_ipv6_unicast_hops(&socket, Some(255))?;
        }
    }
    Ok(())
}

/// Ends a connection when sent data stays unanswered a little longer than the hold time.
pub(crate) fn set_user_timeout(socket: impl AsFd, hold_time: u16) -> io::Result<()> {
    if hold_time > 0 {
        let timeout = Duration::from_secs(u64::from(hold_time) + 5);
        sockopt::set_tcp_user_timeout(&socket, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Lets the kernel choose the port of a bound socket when it connects, so that many connections from one
/// address do not use ports up.
pub(crate) fn set_late_port(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &on)
}

fn sockaddr(address: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    match address {
        IpAddr::V4(a) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than sockaddr_in and aligned for it.
            unsafe { std::ptr::write((&raw mut storage).cast(), value) };
        }
        IpAddr::V6(a) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: a.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: sockaddr_storage is larger than sockaddr_in6 and aligned for it.
            unsafe { std::ptr::write((&raw mut storage).cast(), value) };
        }
    }
    storage
}

/// Sets one option to a plain value.
pub(crate) fn set<T>(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let len = libc::socklen_t::try_from(size_of::<T>()).expect("socket options are small");
    // SAFETY: `value` points at `len` readable bytes for the whole call, and `fd` is open.
    let result = unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a socket of `a` can hear from `b`.
pub(crate) fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
