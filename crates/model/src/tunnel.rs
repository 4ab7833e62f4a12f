//! The ends of a node's tunnels, and which pools make a node have one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::{AllowedUse, EncapMode, Family, IpPool, Node, NodeName};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A tunnel link that has an address of the pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelKind {
    /// `tunl0`.
    Ipip,
    /// `vxlan.calico`.
    Vxlan,
    /// `vxlan-v6.calico`.
    VxlanV6,
    /// `wireguard.cali`.
    Wireguard,
    /// `wg-v6.cali`.
    WireguardV6,
}

/// Whether a node's tunnel needs an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelNeed {
    /// Nothing travels through it.
    None,
    /// Names of the pools that the address may be from; with none of them, what the node has stays.
    From(Vec<String>),
}

impl TunnelKind {
    pub const ALL: [Self; 5] = [Self::Ipip, Self::Vxlan, Self::VxlanV6, Self::Wireguard, Self::WireguardV6];

    /// The VXLAN link that carries pods of this family.
    pub fn vxlan(family: Family) -> Self {
        match family {
            Family::V4 => Self::Vxlan,
            Family::V6 => Self::VxlanV6,
        }
    }

    /// The WireGuard link that carries pods of this family.
    pub fn wireguard(family: Family) -> Self {
        match family {
            Family::V4 => Self::Wireguard,
            Family::V6 => Self::WireguardV6,
        }
    }

    /// Of its address.
    pub fn family(self) -> Family {
        match self {
            Self::Ipip | Self::Vxlan | Self::Wireguard => Family::V4,
            Self::VxlanV6 | Self::WireguardV6 => Family::V6,
        }
    }

    /// Do packets of this pool travel through it?
    fn carries(self, pool: &IpPool) -> bool {
        let is_encapsulated = match self {
            Self::Ipip => pool.ipip_mode != EncapMode::Never,
            Self::Vxlan | Self::VxlanV6 => pool.vxlan_mode != EncapMode::Never,
            Self::Wireguard | Self::WireguardV6 => true,
        };
        is_encapsulated && pool.is_network() && pool.cidr.family() == self.family()
    }

    /// What `node` needs. A pool that is disabled makes no new addresses, and packets of its pods travel still.
    pub fn need<'a>(self, node: &Node, pools: impl IntoIterator<Item = &'a IpPool>) -> TunnelNeed {
        let has_end = match self {
            Self::Ipip | Self::Vxlan | Self::VxlanV6 => true,
            Self::Wireguard => node.tunnels.wireguard_key.is_some(),
            Self::WireguardV6 => node.tunnels.wireguard_key_v6.is_some(),
        };
        let mut carried = pools.into_iter().filter(|pool| has_end && self.carries(pool)).peekable();
        if carried.peek().is_none() {
            return TunnelNeed::None;
        }
        let gives = |pool: &&IpPool| {
            // A tunnel is in no namespace.
            !pool.disabled
                && !pool.deleting
                && pool.allowed_uses.contains(&AllowedUse::Tunnel)
                && pool.node_selector.matches(&node.labels)
                && pool.namespace_selector.is_all()
        };
        TunnelNeed::From(carried.filter(gives).map(|pool| pool.name.clone()).collect())
    }
}

/// The ends of a node's tunnels, as its annotations tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// `projectcalico.org/IPv4IPIPTunnelAddr`: address of `tunl0`.
    pub ipip: Option<Ipv4Addr>,
    /// `projectcalico.org/IPv4VXLANTunnelAddr`: address of `vxlan.calico`.
    pub vxlan: Option<Ipv4Addr>,
    /// `projectcalico.org/IPv6VXLANTunnelAddr`: address of `vxlan-v6.calico`.
    pub vxlan_v6: Option<Ipv6Addr>,
    /// `projectcalico.org/VXLANTunnelMACAddr`; see [`Node::vxlan_mac`].
    pub vxlan_mac: Option<Mac>,
    /// `projectcalico.org/VXLANTunnelMACAddrV6`.
    pub vxlan_mac_v6: Option<Mac>,
    /// `projectcalico.org/IPv4WireguardInterfaceAddr`: address of `wireguard.cali`.
    pub wireguard: Option<Ipv4Addr>,
    /// `projectcalico.org/IPv6WireguardInterfaceAddr`: address of `wg-v6.cali`.
    pub wireguard_v6: Option<Ipv6Addr>,
    /// `projectcalico.org/WireguardPublicKey`: the node takes WireGuard over IPv4.
    pub wireguard_key: Option<WireguardKey>,
    /// `projectcalico.org/WireguardPublicKeyV6`.
    pub wireguard_key_v6: Option<WireguardKey>,
}

impl Tunnels {
    /// The address of one tunnel's end.
    pub fn address(&self, kind: TunnelKind) -> Option<IpAddr> {
        match kind {
            TunnelKind::Ipip => self.ipip.map(IpAddr::V4),
            TunnelKind::Vxlan => self.vxlan.map(IpAddr::V4),
            TunnelKind::VxlanV6 => self.vxlan_v6.map(IpAddr::V6),
            TunnelKind::Wireguard => self.wireguard.map(IpAddr::V4),
            TunnelKind::WireguardV6 => self.wireguard_v6.map(IpAddr::V6),
        }
    }

    /// By which other nodes know the node's WireGuard of one family.
    pub fn wireguard_key(&self, family: Family) -> Option<WireguardKey> {
        match family {
            Family::V4 => self.wireguard_key,
            Family::V6 => self.wireguard_key_v6,
        }
    }

    /// The addresses of all its ends.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        TunnelKind::ALL.into_iter().filter_map(|kind| self.address(kind))
    }
}

impl Node {
    /// The Ethernet address of its VXLAN link of one family: the one that it tells, or else what every node works
    /// out from its name, as Calico's do.
    pub fn vxlan_mac(&self, family: Family) -> Mac {
        let told = match family {
            Family::V4 => self.tunnels.vxlan_mac,
            Family::V6 => self.tunnels.vxlan_mac_v6,
        };
        told.unwrap_or_else(|| vxlan_mac(&self.name, family))
    }
}

/// The Ethernet address that the VXLAN link of a node has unless it tells another.
pub fn vxlan_mac(node: &NodeName, family: Family) -> Mac {
    let suffix = match family {
        Family::V4 => "",
        Family::V6 => "-v6",
    };
    let hash = Sha1::digest(format!("{node}{suffix}"));
    // Locally administered, and no group's.
    [0x66, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

/// A public key of WireGuard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardKey(pub [u8; 32]);

/// It is not 32 octets in base64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WireGuard key: 32 octets in base64")]
pub struct InvalidWireguardKey(String);

impl FromStr for WireguardKey {
    type Err = InvalidWireguardKey;

    fn from_str(text: &str) -> Result<Self, InvalidWireguardKey> {
        let octets = STANDARD.decode(text).ok().and_then(|octets| octets.try_into().ok());
        octets.map(Self).ok_or_else(|| InvalidWireguardKey(text.to_owned()))
    }
}

impl fmt::Display for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AssignmentMode, Labels, Selector};

    fn node() -> Node {
        Node { labels: Labels::from([("zone".to_owned(), "a".to_owned())]), ..Node::named("n1") }
    }

    fn pool(name: &str, cidr: &str) -> IpPool {
        IpPool {
            name: name.to_owned(),
            cidr: cidr.parse().unwrap(),
            ipip_mode: EncapMode::Never,
            vxlan_mode: EncapMode::Never,
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            block_size: 26,
            node_selector: Selector::all(),
            namespace_selector: Selector::all(),
            allowed_uses: vec![AllowedUse::Workload, AllowedUse::Tunnel],
            assignment_mode: AssignmentMode::Automatic,
            deleting: false,
            created: 0,
        }
    }

    fn from(names: &[&str]) -> TunnelNeed {
        TunnelNeed::From(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_pool_makes_tunnels_of_its_own_mode_and_family_needed() {
        let always = EncapMode::Always;
        let ipip = IpPool { ipip_mode: always, ..pool("ipip", "10.1.0.0/16") };
        let vxlan = IpPool { vxlan_mode: EncapMode::CrossSubnet, ..pool("vxlan", "10.2.0.0/16") };
        let vxlan_v6 = IpPool { vxlan_mode: always, ..pool("vxlan6", "fd00::/48") };
        let direct = pool("direct", "10.3.0.0/16");
        let pools = [ipip, vxlan, vxlan_v6, direct.clone()];
        let need = |kind: TunnelKind| kind.need(&node(), &pools);

        assert_eq!(need(TunnelKind::Ipip), from(&["ipip"]));
        assert_eq!(need(TunnelKind::Vxlan), from(&["vxlan"]));
        assert_eq!(need(TunnelKind::VxlanV6), from(&["vxlan6"]));
        assert_eq!(need(TunnelKind::Wireguard), TunnelNeed::None);
        assert_eq!(TunnelKind::Ipip.need(&node(), &[direct]), TunnelNeed::None);
    }

    #[test]
    fn wireguard_is_for_nodes_with_a_key_and_takes_any_pool_of_its_family() {
        let mut node = node();
        node.tunnels.wireguard_key = Some(WireguardKey([7; 32]));
        let pools = [pool("a", "10.1.0.0/16"), pool("b", "fd00::/48")];

        assert_eq!(TunnelKind::Wireguard.need(&node, &pools), from(&["a"]));
        assert_eq!(TunnelKind::WireguardV6.need(&node, &pools), TunnelNeed::None);
    }

    #[test]
    fn a_pool_that_gives_tunnels_no_address_lets_them_keep_what_they_have() {
        let used = IpPool { ipip_mode: EncapMode::Always, ..pool("a", "10.1.0.0/16") };
        for pool in [
            IpPool { disabled: true, ..used.clone() },
            IpPool { deleting: true, ..used.clone() },
            IpPool { allowed_uses: vec![AllowedUse::Workload], ..used.clone() },
            IpPool { node_selector: "zone == 'b'".parse().unwrap(), ..used.clone() },
            IpPool { namespace_selector: "x == 'y'".parse().unwrap(), ..used.clone() },
        ] {
            assert_eq!(TunnelKind::Ipip.need(&node(), &[pool]), from(&[]));
        }
    }

    #[test]
    fn a_node_that_tells_no_ethernet_address_has_the_one_of_its_name() {
        let mut node = node();
        let [v4, v6] = [Family::V4, Family::V6].map(|family| node.vxlan_mac(family));
        assert_eq!((v4[0], v6[0]), (0x66, 0x66));
        assert_ne!(v4, v6);

        node.tunnels.vxlan_mac = Some([2, 0, 0, 0, 0, 1]);

        assert_eq!(node.vxlan_mac(Family::V4), [2, 0, 0, 0, 0, 1]);
        assert_eq!(node.vxlan_mac(Family::V6), v6);
        // SHA-1 of `node1` and of `node1-v6`.
        assert_eq!(vxlan_mac(&"node1".into(), Family::V4), [0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]);
        assert_eq!(vxlan_mac(&"node1".into(), Family::V6), [0x66, 0x0f, 0x35, 0xf2, 0x60, 0xdf]);
    }

    #[test]
    fn keys_are_base64_of_32_octets() {
        let text = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        assert_eq!(text.parse(), Ok(WireguardKey([1; 32])));
        assert_eq!(WireguardKey([1; 32]).to_string(), text);
        for text in ["", "AQEB", "not base64!"] {
            assert_eq!(text.parse::<WireguardKey>(), Err(InvalidWireguardKey(text.to_owned())));
        }
    }
}
