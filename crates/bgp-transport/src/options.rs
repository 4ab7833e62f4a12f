//! Socket options. Owns the ones that the standard library has no call for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use bgp::{ConnectFailure, Password};
use rustix::net::sockopt;

/// Value of `TCP_MD5SIG` (linux/tcp.h).
const TCP_MD5SIG: libc::c_int = 14;
const MAX_KEY: usize = 80;

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

/// Sets or removes the MD5 key that segments of `peer` must carry (RFC 2385).
pub(crate) fn set_md5(socket: impl AsFd, peer: IpAddr, password: Option<&Password>) -> io::Result<()> {
    let key = password.map_or(&[][..], Password::bytes);
    if key.len() > MAX_KEY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "TCP MD5 password is longer than 80 bytes"));
    }
    let mut value = TcpMd5Sig {
        address: sockaddr(peer),
        flags: 0,
        prefix_len: 0,
        key_len: key.len() as u16,
        ifindex: 0,
        key: [0; MAX_KEY],
    };
    value.key[..key.len()].copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, TCP_MD5SIG, &value)
}

/// Demands that segments come from at most `hops` routers away (RFC 5082).
pub(crate) fn set_ttl_security(socket: impl AsFd, peer: IpAddr, hops: u8) -> io::Result<()> {
    let least = libc::c_int::from(255 - hops.saturating_sub(1));
    match peer {
        IpAddr::V4(_) => {
            sockopt::set_ip_ttl(&socket, 255)?;
            set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least)
        }
        IpAddr::V6(_) => {
            sockopt::set_ipv6_unicast_hops(&socket, Some(255))?;
            set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &least)
        }
    }
}

/// What every session's socket gets: no delay, and an end when sent data stays unanswered a little longer
/// than the hold time.
pub(crate) fn set_session(socket: impl AsFd, hold_time: u16) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    if hold_time > 0 {
        let timeout = Duration::from_secs(u64::from(hold_time) + 5);
        sockopt::set_tcp_user_timeout(&socket, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
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

fn set<T>(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let len = libc::socklen_t::try_from(size_of::<T>()).expect("socket options are small");
    // SAFETY: `value` points at `len` readable bytes for the whole call, and `fd` is open.
    let result = unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Names why a connect failed.
pub(crate) fn connect_failure(error: &io::Error) -> ConnectFailure {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => ConnectFailure::Refused,
        Some(libc::ETIMEDOUT) => ConnectFailure::TimedOut,
        Some(libc::EHOSTUNREACH) => ConnectFailure::HostUnreachable,
        Some(libc::ENETUNREACH) => ConnectFailure::NoRoute,
        Some(libc::EADDRNOTAVAIL) => ConnectFailure::SourceAddress,
        _ => ConnectFailure::Other(error.to_string()),
    }
}

/// Whether two addresses are of one family, so that a socket of one can be bound to the other.
pub(crate) fn same_family(a: SocketAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
