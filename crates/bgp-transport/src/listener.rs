//! Listening sockets. Owns how they are made, why one cannot be, and the keys of those who may connect.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{SocketFlags, sockopt};

use crate::options::{new_socket, set_common};
use crate::{PortOwner, port_owner};

/// Waiting connections that the kernel keeps until they are accepted: a whole cluster may connect at once.
const BACKLOG: i32 = 16 * 1024;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has it.
    #[error("cannot listen on {address}: {}", describe_owner(.owner.as_ref()))]
    InUse {
        /// Address and port.
        address: SocketAddr,
        /// The process, if it can be seen.
        owner: Option<PortOwner>,
    },
    /// The address is on no interface of this host.
    #[error("cannot listen on {address}: the address is not on this host")]
    NoAddress {
        /// Address and port.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// Address and port.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address, owner: port_owner(address.port()) },
            io::ErrorKind::AddrNotAvailable => Self::NoAddress { address },
            _ => Self::Other { address, source },
        }
    }
}

fn describe_owner(owner: Option<&PortOwner>) -> String {
    match owner {
        Some(owner) => format!("the port is held by {owner}; stop it or set another listen port"),
        None => "the port is held by another process; stop it or set another listen port".to_owned(),
    }
}

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Where it listens, with the port that the system chose when none was asked for.
    pub(crate) address: SocketAddr,
    pub(crate) socket: OwnedFd,
    /// What it is watched with.
    pub(crate) token: u64,
}

impl Listener {
    /// Listens on an address.
    pub(crate) fn bind(address: SocketAddr, token: u64) -> Result<Self, ListenError> {
        let bound = bind(address).map_err(|source| ListenError::new(address, source));
        bound.map(|(socket, address)| Self { address, socket, token })
    }

    /// The next connection that waits; `WouldBlock` when none does.
    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, remote) = rustix::net::acceptfrom_with(&self.socket, flags)?;
        let remote = remote.and_then(|r| SocketAddr::try_from(r).ok());
        Ok((socket, remote.ok_or(io::ErrorKind::ConnectionAborted)?))
    }
}

fn bind(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = new_socket(address.ip())?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Accepted connections inherit these; the SYN-ACK must have them already.
    set_common(&socket, address.ip())?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let address = match SocketAddr::try_from(rustix::net::getsockname(&socket)?) {
        Ok(bound) if address.port() == 0 => bound,
        _ => address,
    };
    Ok((socket, address))
}
