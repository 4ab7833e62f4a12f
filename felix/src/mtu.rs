//! The MTU of pods and of tunnels (`spec/felix.md` §4.8).
//!
//! Pure: links, pools and settings come in.

use std::collections::BTreeSet;
use std::net::IpAddr;

use felix_calc::Pools;
use kernel::Link;
use model::{Family, FelixConfiguration};
use regex::Regex;

/// What puts another header around packets of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encapsulation {
    /// RFC 2003
    Ipip,
    /// RFC 7348 between IPv4 addresses.
    Vxlan,
    /// RFC 7348 between IPv6 addresses.
    VxlanV6,
    /// WireGuard between IPv4 addresses.
    Wireguard,
    /// WireGuard between IPv6 addresses.
    WireguardV6,
}

impl Encapsulation {
    /// What these pools may use, whether or not a packet takes it now.
    pub fn of_pools(pools: &Pools) -> BTreeSet<Self> {
        let vxlan = pools.vxlan.iter().map(|family| match family {
            Family::V4 => Self::Vxlan,
            Family::V6 => Self::VxlanV6,
        });
        let wireguard = pools.wireguard.iter().map(|family| Self::wireguard(*family));
        vxlan.chain(wireguard).chain(pools.ipip.then_some(Self::Ipip)).collect()
    }

    /// WireGuard of pods of this family: their nodes talk by addresses of the same.
    pub fn wireguard(family: Family) -> Self {
        match family {
            Family::V4 => Self::Wireguard,
            Family::V6 => Self::WireguardV6,
        }
    }

    /// As operators call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Vxlan | Self::VxlanV6 => "vxlan",
            Self::Wireguard | Self::WireguardV6 => "wireguard",
        }
    }

    /// What it puts in front of an IP packet, bytes.
    pub fn overhead(self) -> u32 {
        match self {
            Self::Ipip => 20,
            // The outer IP and UDP headers, VXLAN's eight bytes, and the inner Ethernet header.
            Self::Vxlan => 20 + 8 + 8 + 14,
            Self::VxlanV6 => 40 + 8 + 8 + 14,
            // The outer IP and UDP headers, WireGuard's sixteen bytes, and its seal.
            Self::Wireguard => 20 + 8 + 16 + 16,
            Self::WireguardV6 => 40 + 8 + 16 + 16,
        }
    }

    /// The MTU of its link, bytes: as given, or what the uplinks leave.
    pub fn mtu(self, configuration: &FelixConfiguration, uplink: u32) -> u32 {
        let given = match self {
            Self::Ipip => configuration.tunnel_mtus.ipip,
            Self::Vxlan => configuration.tunnel_mtus.vxlan,
            Self::VxlanV6 => configuration.tunnel_mtus.vxlan_v6,
            Self::Wireguard => configuration.tunnel_mtus.wireguard,
            Self::WireguardV6 => configuration.tunnel_mtus.wireguard_v6,
        };
        given.unwrap_or_else(|| uplink.saturating_sub(self.overhead()))
    }
}

/// Which links count as uplinks unless `mtuIfacePattern` says otherwise.
const UPLINKS: &str = "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)";
/// Taken when no uplink is known; Calico's value, that of the tightest well-known cloud.
const UNKNOWN_UPLINK: u32 = 1460;
/// May have the node's address where BGP reaches it over several links; packets do not leave through it.
const LOOPBACK: &str = "lo";

/// The smallest MTU of the links that carry traffic out of the node: those that match the pattern and those
/// that have one of the node's own addresses; links that are down do not count.
pub fn uplink_mtu(links: &[Link], pattern: Option<&str>, node_addresses: &[IpAddr]) -> u32 {
    let pattern = pattern.and_then(|text| Regex::new(text).ok());
    let pattern = pattern.unwrap_or_else(|| Regex::new(UPLINKS).expect("the pattern is a constant"));
    let is_uplink = |link: &&Link| {
        let has_node_address = link.addresses.iter().any(|(address, _)| node_addresses.contains(address));
        link.up && link.name != LOOPBACK && (has_node_address || pattern.is_match(&link.name))
    };
    links.iter().filter(is_uplink).map(|link| link.mtu).min().unwrap_or(UNKNOWN_UPLINK)
}

/// The MTU of pods, bytes: as given, or what fits through the uplinks and every tunnel that may be used.
pub fn pod_mtu(configuration: &FelixConfiguration, uplink: u32, used: &BTreeSet<Encapsulation>) -> u32 {
    let tunnels = used.iter().map(|encapsulation| encapsulation.mtu(configuration, uplink));
    configuration.mtu.unwrap_or_else(|| tunnels.min().unwrap_or(uplink))
}

#[cfg(test)]
mod tests {
    use model::TunnelMtus;

    use super::*;

    #[test]
    fn the_smallest_uplink_that_is_up_counts() {
        let links = [
            link("eth0", true, 1500, &[]),
            link("eth1", false, 1300, &[]),
            link("lan", true, 1450, &["10.0.0.1"]),
            link("docker0", true, 1280, &[]),
            link("lo", true, 65536, &["10.0.0.3"]),
        ];

        assert_eq!(uplink_mtu(&links, None, &["10.0.0.1".parse().unwrap()]), 1450);
        assert_eq!(uplink_mtu(&links, None, &[]), 1500);
        assert_eq!(uplink_mtu(&links, Some("^docker"), &[]), 1280);
        assert_eq!(uplink_mtu(&links, Some("^none"), &["10.0.0.3".parse().unwrap()]), 1460);
        assert_eq!(uplink_mtu(&[], None, &[]), 1460);
    }

    #[test]
    fn the_largest_header_that_pools_may_use_is_taken_off_unless_the_mtu_is_given() {
        use Encapsulation::{Ipip, Vxlan, VxlanV6, Wireguard, WireguardV6};
        let automatic = FelixConfiguration::default();
        let given = FelixConfiguration { mtu: Some(1380), ..FelixConfiguration::default() };
        let tunnel = TunnelMtus { ipip: Some(1400), ..TunnelMtus::default() };
        let of_tunnel = FelixConfiguration { tunnel_mtus: tunnel, ..FelixConfiguration::default() };

        for (configuration, used, expected) in [
            (&automatic, &[] as &[_], 1500),
            (&automatic, &[Ipip], 1480),
            (&automatic, &[Ipip, Vxlan], 1450),
            (&automatic, &[Ipip, Vxlan, VxlanV6], 1430),
            (&automatic, &[Vxlan, Wireguard], 1440),
            (&automatic, &[Wireguard, WireguardV6], 1420),
            (&given, &[Ipip], 1380),
            (&given, &[], 1380),
            (&of_tunnel, &[], 1500),
            (&of_tunnel, &[Ipip], 1400),
            (&of_tunnel, &[Vxlan], 1450),
        ] {
            let used = used.iter().copied().collect();
            assert_eq!(pod_mtu(configuration, 1500, &used), expected, "{used:?}");
        }
    }

    fn link(name: &str, up: bool, mtu: u32, addresses: &[&str]) -> Link {
        let addresses = addresses.iter().map(|address| (address.parse().unwrap(), 24)).collect();
        Link { index: 1, name: name.to_owned(), up, mtu, mac: None, alias: None, addresses }
    }
}
