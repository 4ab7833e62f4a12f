//! BGP settings and peers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::{BgpConfiguration, BgpPeer, NextHopMode, PeerSelection};

use super::duration::duration;
use super::{Problems, selector};
use crate::crd;

/// Settings of one node: those named `default`, with what `node.<name>` says instead.
pub fn bgp_configuration(
    default: Option<&crd::BGPConfigurationSpec>,
    node: Option<&crd::BGPConfigurationSpec>,
    problems: &mut Problems,
) -> BgpConfiguration {
    let built_in = BgpConfiguration::default();
    let port = node.and_then(|spec| spec.listen_port).or(default.and_then(|spec| spec.listen_port));
    let as_number = default.and_then(|spec| spec.as_number);
    BgpConfiguration {
        node_to_node_mesh: default
            .and_then(|spec| spec.node_to_node_mesh_enabled)
            .unwrap_or(built_in.node_to_node_mesh),
        as_number: as_number
            .and_then(|number| problems.take("spec.asNumber", as_number_of(number)))
            .unwrap_or(built_in.as_number),
        listen_port: port
            .and_then(|port| problems.take("spec.listenPort", port_of(port)))
            .unwrap_or(built_in.listen_port),
    }
}

/// A BGPPeer; `None` when it cannot be told who peers with whom.
pub fn bgp_peer(name: &str, spec: &crd::BGPPeerSpec, problems: &mut Problems) -> Option<BgpPeer> {
    let node_selector = selector(problems, "spec.nodeSelector", spec.node_selector.as_deref()).ok()?;
    let node = spec.node.as_deref().filter(|node| !node.is_empty());
    let nodes = match (node, node_selector) {
        (Some(_), Some(_)) => {
            problems.add("spec.node", "node and nodeSelector exclude each other");
            return None;
        }
        (Some(node), None) => PeerSelection::Node(node.into()),
        (None, Some(nodes)) => PeerSelection::Selector(nodes),
        (None, None) => PeerSelection::AllNodes,
    };
    let peer_selector = selector(problems, "spec.peerSelector", spec.peer_selector.as_deref()).ok()?;
    let peer = match spec.peer_ip.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => Some(problems.take("spec.peerIP", peer_address(text))?),
        None => None,
    };
    let as_number = match spec.as_number {
        Some(number) => Some(problems.take("spec.asNumber", as_number_of(number))?),
        None => None,
    };
    match (&peer, &peer_selector, as_number) {
        (Some(_), None, Some(_)) | (None, Some(_), None) => {}
        (Some(_), None, None) => {
            problems.add("spec.asNumber", "is needed with peerIP");
            return None;
        }
        _ => {
            problems.add("spec.peerIP", "give peerIP with asNumber, or peerSelector alone");
            return None;
        }
    }
    if spec.password.is_some() {
        // An open session where a password was asked for would be worse than none.
        problems.add("spec.password", "is not acted upon by this release: the peer is not used");
        return None;
    }
    let local_as_number = match spec.local_as_number {
        Some(number) => Some(problems.take("spec.localASNumber", as_number_of(number))?),
        None => None,
    };
    Some(BgpPeer {
        name: name.to_owned(),
        nodes,
        peer,
        peer_selector,
        as_number,
        local_as_number,
        next_hop_mode: next_hop_mode(spec),
        keepalive_time: time(problems, "spec.keepaliveTime", spec.keepalive_time.as_deref()),
        max_restart_time: time(problems, "spec.maxRestartTime", spec.max_restart_time.as_deref()),
        source_address_is_node_ip: spec.source_address != Some(crd::SourceAddress::None),
    })
}

fn next_hop_mode(spec: &crd::BGPPeerSpec) -> NextHopMode {
    match (spec.next_hop_mode, spec.keep_original_next_hop) {
        (Some(crd::NextHopMode::SelfAddress), _) => NextHopMode::SelfAddress,
        (Some(crd::NextHopMode::Keep), _) | (None, Some(true)) => NextHopMode::Keep,
        _ => NextHopMode::Auto,
    }
}

fn time(problems: &mut Problems, field: &str, text: Option<&str>) -> Option<Duration> {
    text.and_then(|text| problems.take(field, duration(text)))
}

fn as_number_of(number: i64) -> Result<u32, String> {
    u32::try_from(number)
        .ok()
        .filter(|number| *number != 0)
        .ok_or_else(|| format!("{number} is not an AS number (1 to 4294967295)"))
}

fn port_of(port: i32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| format!("{port} is not a port"))
}

/// An address, with a port unless it is 179.
fn peer_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, 179));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(Ok(address)) = bare.map(str::parse::<IpAddr>) {
        return Ok(SocketAddr::new(address, 179));
    }
    text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0).ok_or_else(|| {
        format!("{text:?} is not an address such as 192.0.2.1, 192.0.2.1:1790 or [2001:db8::1]:1790")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn peer(spec: Value) -> Result<BgpPeer, String> {
        let mut problems = Problems::default();
        let peer = bgp_peer("p", &serde_json::from_value(spec).unwrap(), &mut problems);
        peer.ok_or_else(|| problems.0[0].field.clone())
    }

    #[test]
    fn peers_have_addresses_with_or_without_port() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:179"),
            ("192.0.2.1:1790", "192.0.2.1:1790"),
            ("2001:db8::1", "[2001:db8::1]:179"),
            ("[2001:db8::1]:1790", "[2001:db8::1]:1790"),
            ("[2001:db8::1]", "[2001:db8::1]:179"),
        ] {
            let peer = peer(json!({"peerIP": text, "asNumber": 4294967295u32})).unwrap();

            assert_eq!(peer.peer, Some(expected.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn peers_that_cannot_be_used_are_named() {
        for (spec, field) in [
            (json!({"peerIP": "1.2.3.4:70000", "asNumber": 1}), "spec.peerIP"),
            (json!({"peerIP": "1.2.3.4", "asNumber": 4294967296i64}), "spec.asNumber"),
            (json!({"peerIP": "1.2.3.4"}), "spec.asNumber"),
            (json!({"peerIP": "1.2.3.4", "asNumber": 1, "peerSelector": "all()"}), "spec.peerIP"),
            (json!({}), "spec.peerIP"),
            (json!({"node": "a", "nodeSelector": "all()", "peerSelector": "all()"}), "spec.node"),
            (json!({"peerSelector": "(a == 'b'"}), "spec.peerSelector"),
            (json!({"peerIP": "1.2.3.4", "asNumber": 1, "password": {}}), "spec.password"),
        ] {
            assert_eq!(peer(spec), Err(field.to_owned()));
        }
    }

    #[test]
    fn the_old_way_to_keep_the_next_hop_counts() {
        let spec =
            json!({"peerIP": "1.2.3.4", "asNumber": 1, "keepOriginalNextHop": true, "keepaliveTime": "20s"});

        let peer = peer(spec).unwrap();

        assert_eq!(peer.next_hop_mode, NextHopMode::Keep);
        assert_eq!(peer.keepalive_time, Some(Duration::from_secs(20)));
        assert!(peer.source_address_is_node_ip);
    }

    #[test]
    fn a_node_has_its_own_port_but_not_its_own_mesh() {
        let spec = |value: Value| serde_json::from_value::<crd::BGPConfigurationSpec>(value).unwrap();
        let default = spec(json!({"asNumber": 65000, "nodeToNodeMeshEnabled": false, "listenPort": 1790}));
        let node = spec(json!({"listenPort": 1791, "asNumber": 1}));

        let found = bgp_configuration(Some(&default), Some(&node), &mut Problems::default());

        assert_eq!(found, BgpConfiguration { node_to_node_mesh: false, as_number: 65000, listen_port: 1791 });
        assert_eq!(bgp_configuration(None, None, &mut Problems::default()), BgpConfiguration::default());
    }
}
