//! VXLAN links between nodes, and which node stands behind which Ethernet address.

use std::net::IpAddr;

use model::Family;

/// Name of the node's VXLAN link of one family.
pub fn vxlan_link_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "vxlan.calico",
        Family::V6 => "vxlan-v6.calico",
    }
}

/// A VXLAN link that is up, learns nothing, and sends only where its forwarding entries say. The key is its name, as
/// `vxlan.calico`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanLink {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP port that it listens on and sends to.
    pub port: u16,
    /// The node's own address in the outer header. Its family is that of the link's address, too.
    pub local: IpAddr,
    /// The link that has the address `local`.
    pub parent: String,
    pub mac: [u8; 6],
    /// `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// Its only address of this family, alone in its subnet. Link-local ones are the kernel's.
    pub address: Option<IpAddr>,
    /// The link does not leave checksums to the hardware: some kernels get those of packets inside others wrong.
    pub no_checksum_offload: bool,
}

impl VxlanLink {
    /// Is `actual` as good as this?
    pub fn is_realised_by(&self, actual: &VxlanLink) -> bool {
        let mtu = self.mtu.or(actual.mtu);
        // What the kernel does better than asked is left.
        let no_checksum_offload = self.no_checksum_offload || actual.no_checksum_offload;
        Self { mtu, no_checksum_offload, ..self.clone() } == *actual
    }

    /// Can a link that is `actual` become this one without being made anew?
    pub fn can_be_made_of(&self, actual: &VxlanLink) -> bool {
        let fixed = |link: &VxlanLink| (link.vni, link.port, link.local, link.parent.clone());
        fixed(self) == fixed(actual)
    }
}

/// One Ethernet address behind a VXLAN link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbKey {
    pub interface: String,
    pub mac: [u8; 6],
}

/// Which node stands behind it; permanent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The node's address in the outer header.
    pub destination: IpAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> VxlanLink {
        VxlanLink {
            vni: 4096,
            port: 4789,
            local: "192.0.2.1".parse().unwrap(),
            parent: "eth0".to_owned(),
            mac: [0x66, 1, 2, 3, 4, 5],
            mtu: None,
            address: "10.65.0.1".parse().ok(),
            no_checksum_offload: false,
        }
    }

    #[test]
    fn what_is_left_to_the_kernel_may_differ() {
        let actual = VxlanLink { mtu: Some(1450), no_checksum_offload: true, ..link() };

        assert!(link().is_realised_by(&actual));
        assert!(!VxlanLink { mtu: Some(1400), ..link() }.is_realised_by(&actual));
        assert!(!VxlanLink { no_checksum_offload: true, ..link() }.is_realised_by(&link()));
        assert!(!VxlanLink { address: None, ..link() }.is_realised_by(&actual));
    }

    #[test]
    fn what_stands_in_the_outer_header_needs_another_link() {
        let other = VxlanLink { mac: [2; 6], mtu: Some(1400), address: None, ..link() };
        assert!(link().can_be_made_of(&other));
        for other in [
            VxlanLink { vni: 7, ..link() },
            VxlanLink { port: 8472, ..link() },
            VxlanLink { parent: "eth1".to_owned(), ..link() },
        ] {
            assert!(!link().can_be_made_of(&other), "{other:?}");
        }
    }
}
