//! Outgoing connections. Owns how one is begun, and why one failed.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};

use bgp::{ConnectFailure, Password};
use bgp_packet::Prefix;
use rustix::net::sockopt;

use crate::options::{new_socket, set_common, set_late_port, set_md5, set_ttl_security, set_user_timeout};

/// Where to and how.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) remote: SocketAddr,
    pub(crate) local: Option<IpAddr>,
    pub(crate) password: Option<Password>,
    pub(crate) ttl_security: Option<u8>,
    pub(crate) hold_time: u16,
}

impl Dial {
    /// Begins to connect; the socket is writable when it is known how that ended.
    pub(crate) fn begin(&self) -> Result<TcpStream, ConnectFailure> {
        let other = |error: io::Error| failure(&error, None);
        let peer = self.remote.ip();
        let socket = new_socket(peer).map_err(other)?;
        set_common(&socket, peer).and_then(|()| set_user_timeout(&socket, self.hold_time)).map_err(other)?;
        if let Some(local) = self.local {
            // A kernel without late ports chooses one now.
            let _ = set_late_port(&socket);
            let bound = rustix::net::bind(&socket, &self.source(local));
            bound.map_err(|error| failure(&error.into(), Some(local)))?;
        }
        if let Some(password) = &self.password {
            let set = set_md5(&socket, Prefix::host(peer), Some(password));
            set.map_err(|e| ConnectFailure::Other(format!("cannot set the TCP MD5 key: {e}")))?;
        }
        if self.ttl_security.is_some() {
            let set = set_ttl_security(&socket, peer, self.ttl_security);
            set.map_err(|e| ConnectFailure::Other(format!("cannot set TTL security: {e}")))?;
        }
        match rustix::net::connect(&socket, &self.remote) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
            Err(error) => Err(failure(&error.into(), self.local)),
        }
    }

    /// The own address; a link-local one is on the peer's link.
    fn source(&self, local: IpAddr) -> SocketAddr {
        match (local, self.remote) {
            (IpAddr::V6(local), SocketAddr::V6(remote)) => {
                SocketAddrV6::new(local, 0, 0, remote.scope_id()).into()
            }
            _ => SocketAddr::new(local, 0),
        }
    }
}

/// How a connect that was begun has ended; asked once the socket is writable.
pub(crate) fn outcome(stream: &TcpStream) -> Result<SocketAddr, ConnectFailure> {
    let result = sockopt::socket_error(stream).and_then(|r| r).map_err(io::Error::from);
    result.and_then(|()| stream.local_addr()).map_err(|error| failure(&error, None))
}

/// Names why a connect failed.
fn failure(error: &io::Error, local: Option<IpAddr>) -> ConnectFailure {
    match (error.raw_os_error(), local) {
        (Some(libc::ECONNREFUSED), _) => ConnectFailure::Refused,
        (Some(libc::ETIMEDOUT), _) => ConnectFailure::TimedOut,
        (Some(libc::EHOSTUNREACH), _) => ConnectFailure::HostUnreachable,
        (Some(libc::ENETUNREACH), _) => ConnectFailure::NoRoute,
        (Some(libc::EADDRNOTAVAIL), Some(local)) => ConnectFailure::SourceAddress(local),
        _ => ConnectFailure::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Listener;

    #[test]
    fn both_ends_of_a_connection_have_what_routing_protocols_use() {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 0).unwrap();
        let dial = Dial {
            remote: listener.address,
            local: Some(IpAddr::from([127, 0, 0, 9])),
            password: None,
            ttl_security: None,
            hold_time: 90,
        };

        let outgoing = dial.begin().unwrap();
        let (incoming, from) =
            std::iter::repeat_with(|| listener.accept()).take(1_000_000).find_map(Result::ok).unwrap();

        assert_eq!(from.ip(), IpAddr::from([127, 0, 0, 9]));
        assert_eq!(sockopt::tcp_user_timeout(&outgoing).unwrap(), 95_000);
        for socket in [outgoing.into(), incoming] {
            let socket: std::os::fd::OwnedFd = socket;
            assert!(sockopt::tcp_nodelay(&socket).unwrap());
            assert_eq!((sockopt::ip_tos(&socket).unwrap(), sockopt::ip_ttl(&socket).unwrap()), (0xc0, 255));
        }
    }

    #[test]
    fn a_source_address_that_is_not_here_is_named() {
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        let local = Some(IpAddr::from([198, 51, 100, 77]));
        let dial = Dial { remote, local, password: None, ttl_security: None, hold_time: 90 };

        let failure = dial.begin().unwrap_err();

        assert_eq!(failure, ConnectFailure::SourceAddress(IpAddr::from([198, 51, 100, 77])));
    }
}
