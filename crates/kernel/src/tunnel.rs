//! The IPIP tunnel link.

use std::net::Ipv4Addr;

/// A tunnel link that is up. The key is its name: `tunl0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Its only IPv4 address, as /32.
    pub address: Option<Ipv4Addr>,
    /// `None` leaves it as it is.
    pub mtu: Option<u32>,
}

impl Tunnel {
    /// Is `actual` as good as this?
    pub fn is_realised_by(&self, actual: &Tunnel) -> bool {
        self.address == actual.address && (self.mtu.is_none() || self.mtu == actual.mtu)
    }
}
