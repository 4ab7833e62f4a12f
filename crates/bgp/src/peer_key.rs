//! What names a peer. Owns the address with its scope, and their text form.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// Names a peer: its address, and for an IPv6 link-local one the interface that it is behind, since such an
/// address means something on its link only (RFC 4007 §6). Written `192.0.2.1` or `fe80::1%3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerKey {
    address: IpAddr,
    scope: u32,
}

/// Text that names no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no peer: expected an address, a link-local one with its interface's index (fe80::1%3)")]
pub struct InvalidPeerKey(String);

impl PeerKey {
    /// A peer behind the interface of index `scope`; the scope counts for link-local addresses only.
    /// An IPv4 address that is mapped into IPv6 becomes the IPv4 one.
    pub fn new(address: IpAddr, scope: u32) -> Self {
        let address = address.to_canonical();
        Self { address, scope: if is_link_local(address) { scope } else { 0 } }
    }

    /// The address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Index of the interface that a link-local address is behind; 0 when it is not one or not known.
    pub fn scope(self) -> u32 {
        self.scope
    }

    /// The address with a port, ready to connect to.
    pub fn socket(self, port: u16) -> SocketAddr {
        match self.address {
            IpAddr::V4(_) => SocketAddr::new(self.address, port),
            IpAddr::V6(a) => SocketAddr::V6(SocketAddrV6::new(a, port, 0, self.scope)),
        }
    }

    /// Whether the address means something on its link only.
    pub fn is_link_local(self) -> bool {
        is_link_local(self.address)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

impl From<PeerKey> for String {
    fn from(key: PeerKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PeerKey {
    type Error = InvalidPeerKey;

    fn try_from(text: String) -> Result<Self, InvalidPeerKey> {
        text.parse()
    }
}

impl From<IpAddr> for PeerKey {
    fn from(address: IpAddr) -> Self {
        Self::new(address, 0)
    }
}

impl From<SocketAddr> for PeerKey {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(a) => Self::new(IpAddr::V4(*a.ip()), 0),
            SocketAddr::V6(a) => Self::new(IpAddr::V6(*a.ip()), a.scope_id()),
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            0 => self.address.fmt(f),
            scope => write!(f, "{}%{scope}", self.address),
        }
    }
}

impl FromStr for PeerKey {
    type Err = InvalidPeerKey;

    fn from_str(s: &str) -> Result<Self, InvalidPeerKey> {
        let invalid = || InvalidPeerKey(s.to_owned());
        let Some((address, scope)) = s.split_once('%') else {
            return s.parse::<IpAddr>().map(Self::from).map_err(|_| invalid());
        };
        let address: Ipv6Addr = address.parse().map_err(|_| invalid())?;
        let scope: u32 = scope.parse().map_err(|_| invalid())?;
        if !address.is_unicast_link_local() || scope == 0 {
            return Err(invalid());
        }
        Ok(Self::new(IpAddr::V6(address), scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back() {
        for text in ["192.0.2.1", "2001:db8::1", "fe80::1", "fe80::1%3"] {
            assert_eq!(text.parse::<PeerKey>().unwrap().to_string(), text);
        }
        for text in ["", "192.0.2.1%3", "2001:db8::1%3", "fe80::1%", "fe80::1%0", "fe80::1%eth0"] {
            assert!(text.parse::<PeerKey>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn a_scope_counts_on_a_link_only_and_mapped_addresses_are_ipv4() {
        let link: PeerKey = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 179, 7, 3)).into();
        assert_eq!((link.scope(), link.socket(179).to_string()), (3, "[fe80::1%3]:179".to_owned()));
        assert_eq!(PeerKey::new("2001:db8::1".parse().unwrap(), 3).scope(), 0);
        assert_eq!(PeerKey::from("::ffff:192.0.2.1".parse::<IpAddr>().unwrap()).to_string(), "192.0.2.1");
    }
}
