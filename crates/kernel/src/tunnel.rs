//! The IPIP tunnel link.

use std::net::Ipv4Addr;

/// A tunnel link that is up. The key is its name: `tunl0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Its only IPv4 address, as /32.
    pub address: Option<Ipv4Addr>,
    /// `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// What it sends leaves no checksum to the hardware; `false` leaves that as it is.
    pub no_checksum_offload: bool,
    /// Packets of pods may be sent through it, which are made small enough for that. The link's alias says so.
    pub carries_pods: bool,
}

/// The alias of a tunnel link through which packets of pods may be sent: the speaker goes by it.
pub const CARRIES_PODS: &str = "carries pods";

impl Tunnel {
    /// Is `actual` as good as this?
    pub fn is_realised_by(&self, actual: &Tunnel) -> bool {
        let no_checksum_offload = self.no_checksum_offload || actual.no_checksum_offload;
        Self { mtu: self.mtu.or(actual.mtu), no_checksum_offload, ..self.clone() } == *actual
    }
}
