//! The MTU of pods and of `tunl0` (`spec/felix.md` §4.8).
//!
//! Pure: links, pools and settings come in.

use std::net::IpAddr;

use kernel::Link;
use model::{EncapMode, FelixConfiguration, IpPool};
use regex::Regex;

/// What IPIP puts in front of a packet, bytes (RFC 2003).
pub const IPIP_OVERHEAD: u32 = 20;

/// Which links count as uplinks unless `mtuIfacePattern` says otherwise.
const UPLINKS: &str = "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)";
/// Taken when no uplink is known; Calico's value, that of the tightest well-known cloud.
const UNKNOWN_UPLINK: u32 = 1460;

/// The smallest MTU of the links that carry traffic out of the node: those that match the pattern and those
/// that have one of the node's own addresses; links that are down do not count.
pub fn uplink_mtu(links: &[Link], pattern: Option<&str>, node_addresses: &[IpAddr]) -> u32 {
    let pattern = pattern.and_then(|text| Regex::new(text).ok());
    let pattern = pattern.unwrap_or_else(|| Regex::new(UPLINKS).expect("the pattern is a constant"));
    let is_uplink = |link: &&Link| {
        let has_node_address = link.addresses.iter().any(|(address, _)| node_addresses.contains(address));
        link.up && (has_node_address || pattern.is_match(&link.name))
    };
    links.iter().filter(is_uplink).map(|link| link.mtu).min().unwrap_or(UNKNOWN_UPLINK)
}

/// Does any pool send packets through `tunl0`?
pub fn uses_ipip<'a>(pools: impl IntoIterator<Item = &'a IpPool>) -> bool {
    pools.into_iter().any(|pool| pool.ipip_mode != EncapMode::Never)
}

/// The MTU of pods and of `tunl0`.
pub fn pod_mtu(configuration: &FelixConfiguration, uplink: u32, ipip: bool) -> u32 {
    let automatic = uplink.saturating_sub(if ipip { IPIP_OVERHEAD } else { 0 });
    configuration.mtu.unwrap_or(automatic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_uplink_that_is_up_counts() {
        let links = [
            link("eth0", true, 1500, &[]),
            link("eth1", false, 1300, &[]),
            link("lan", true, 1450, &["10.0.0.1"]),
            link("docker0", true, 1280, &[]),
        ];

        assert_eq!(uplink_mtu(&links, None, &["10.0.0.1".parse().unwrap()]), 1450);
        assert_eq!(uplink_mtu(&links, None, &[]), 1500);
        assert_eq!(uplink_mtu(&links, Some("^docker"), &[]), 1280);
        assert_eq!(uplink_mtu(&[], None, &[]), 1460);
    }

    #[test]
    fn ipip_takes_its_header_off_unless_the_mtu_is_given() {
        let automatic = FelixConfiguration::default();
        let given = FelixConfiguration { mtu: Some(1380), ..FelixConfiguration::default() };

        assert_eq!(pod_mtu(&automatic, 1500, false), 1500);
        assert_eq!(pod_mtu(&automatic, 1500, true), 1480);
        assert_eq!(pod_mtu(&given, 1500, true), 1380);
    }

    fn link(name: &str, up: bool, mtu: u32, addresses: &[&str]) -> Link {
        let addresses = addresses.iter().map(|address| (address.parse().unwrap(), 24)).collect();
        Link { index: 1, name: name.to_owned(), up, mtu, mac: None, alias: None, addresses }
    }
}
