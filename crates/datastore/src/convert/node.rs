//! Nodes.

use std::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{
    Family, InvalidWireguardKey, Mac, Node, NodeAddress, NodeInterface, TunnelKind, Tunnels, WireguardKey,
};
use serde::{Deserialize, Serialize};

use super::bgp::as_number;
use super::{Problems, net};
use crate::objects::NodeObject;

/// A Node; annotations that cannot be read count as absent.
pub fn node(object: &NodeObject, problems: &mut Problems) -> Option<Node> {
    let meta = &object.metadata;
    let internal_ips: Vec<IpAddr> = object
        .status
        .addresses
        .iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| problems.take("status.addresses", address.address.parse()))
        .collect();
    let address = |problems: &mut Problems, annotation: &str, family: Family| {
        read(meta, annotation, problems, |text| node_address(text, family)).or_else(|| {
            let address = *internal_ips.iter().find(|address| Family::of(**address) == family)?;
            Some(NodeAddress { address, length: family.bits() })
        })
    };
    Some(Node {
        name: meta.name.as_deref()?.into(),
        uid: meta.uid.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        ipv4: address(problems, IPV4_ADDRESS, Family::V4),
        ipv6: address(problems, IPV6_ADDRESS, Family::V6),
        as_number: read(meta, "projectcalico.org/ASNumber", problems, as_number),
        route_reflector_cluster_id: read(
            meta,
            "projectcalico.org/RouteReflectorClusterID",
            problems,
            |text| text.parse().map_err(|_| format!("{text:?} is not an IPv4 address such as 244.0.0.1")),
        ),
        tunnels: tunnels(meta, problems),
        interfaces: read(meta, INTERFACES, problems, interfaces).unwrap_or_default(),
        pod_cidrs: (object.spec.pod_cidrs.iter().flatten())
            .filter_map(|text| problems.take("spec.podCIDRs", net(text)))
            .collect(),
        internal_ips,
    })
}

/// Address of the node with the length of its subnet.
pub const IPV4_ADDRESS: &str = "projectcalico.org/IPv4Address";
/// See [`IPV4_ADDRESS`].
pub const IPV6_ADDRESS: &str = "projectcalico.org/IPv6Address";
/// The node's interfaces with their addresses, as [`interfaces_annotation`] writes them.
pub const INTERFACES: &str = "projectcalico.org/Interfaces";
/// Public key of WireGuard over IPv4.
pub const WIREGUARD_PUBLIC_KEY: &str = "projectcalico.org/WireguardPublicKey";
/// See [`WIREGUARD_PUBLIC_KEY`].
pub const WIREGUARD_PUBLIC_KEY_V6: &str = "projectcalico.org/WireguardPublicKeyV6";
/// Address of `tunl0`.
pub const IPIP_TUNNEL_ADDRESS: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
/// Ethernet address of `vxlan.calico`.
pub const VXLAN_TUNNEL_MAC: &str = "projectcalico.org/VXLANTunnelMACAddr";
/// Ethernet address of `vxlan-v6.calico`.
pub const VXLAN_TUNNEL_MAC_V6: &str = "projectcalico.org/VXLANTunnelMACAddrV6";

/// Under which annotation a node tells the address of a tunnel.
pub fn tunnel_address_annotation(kind: TunnelKind) -> &'static str {
    match kind {
        TunnelKind::Ipip => IPIP_TUNNEL_ADDRESS,
        TunnelKind::Vxlan => "projectcalico.org/IPv4VXLANTunnelAddr",
        TunnelKind::VxlanV6 => "projectcalico.org/IPv6VXLANTunnelAddr",
        TunnelKind::Wireguard => "projectcalico.org/IPv4WireguardInterfaceAddr",
        TunnelKind::WireguardV6 => "projectcalico.org/IPv6WireguardInterfaceAddr",
    }
}

fn tunnels(meta: &ObjectMeta, problems: &mut Problems) -> Tunnels {
    Tunnels {
        ipip: tunnel_address(meta, TunnelKind::Ipip, problems),
        vxlan: tunnel_address(meta, TunnelKind::Vxlan, problems),
        vxlan_v6: tunnel_address(meta, TunnelKind::VxlanV6, problems),
        vxlan_mac: read(meta, VXLAN_TUNNEL_MAC, problems, mac),
        vxlan_mac_v6: read(meta, VXLAN_TUNNEL_MAC_V6, problems, mac),
        wireguard: tunnel_address(meta, TunnelKind::Wireguard, problems),
        wireguard_v6: tunnel_address(meta, TunnelKind::WireguardV6, problems),
        wireguard_key: read(meta, WIREGUARD_PUBLIC_KEY, problems, wireguard_key),
        wireguard_key_v6: read(meta, WIREGUARD_PUBLIC_KEY_V6, problems, wireguard_key),
    }
}

fn tunnel_address<T: FromStr>(meta: &ObjectMeta, kind: TunnelKind, problems: &mut Problems) -> Option<T> {
    read(meta, tunnel_address_annotation(kind), problems, |text| {
        text.parse().map_err(|_| format!("{text:?} is not an {} address", kind.family()))
    })
}

/// How [`INTERFACES`] tells of interfaces.
pub fn interfaces_annotation(interfaces: &[NodeInterface]) -> String {
    let told = interfaces.iter().map(|NodeInterface { name, addresses }| InterfaceText {
        name: name.clone(),
        addresses: addresses.clone(),
    });
    serde_json::to_string(&told.collect::<Vec<_>>()).expect("names and addresses are text")
}

fn interfaces(text: &str) -> Result<Vec<NodeInterface>, String> {
    let told: Vec<InterfaceText> =
        serde_json::from_str(text).map_err(|error| format!("not a list of interfaces: {error}"))?;
    // A name that no kernel gives is none.
    let known = told.into_iter().filter(|told| (1..=15).contains(&told.name.len())).take(NodeInterface::MOST);
    Ok(known.map(|InterfaceText { name, addresses }| NodeInterface { name, addresses }).collect())
}

#[derive(Deserialize, Serialize)]
struct InterfaceText {
    name: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

fn wireguard_key(text: &str) -> Result<WireguardKey, String> {
    text.parse().map_err(|error: InvalidWireguardKey| error.to_string())
}

fn mac(text: &str) -> Result<Mac, String> {
    // `+5` is a number, and no octet.
    let is_octet = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let octet = |part| u8::from_str_radix(part, 16).ok().filter(|_| is_octet(part));
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(|| format!("{text:?} is not an Ethernet address such as 66:01:02:03:04:05"))
}

fn read<T>(
    meta: &ObjectMeta,
    annotation: &str,
    problems: &mut Problems,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let text = meta.annotations.as_ref()?.get(annotation)?;
    if text.is_empty() {
        return None;
    }
    problems.take(&format!("metadata.annotations[{annotation}]"), parse(text))
}

fn node_address(text: &str, family: Family) -> Result<NodeAddress, String> {
    let invalid = || format!("{text:?} is not an {family} address with the length of its subnet");
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, length.parse().map_err(|_| invalid())?),
        None => (text, family.bits()),
    };
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    if Family::of(address) != family || length > family.bits() {
        return Err(invalid());
    }
    Ok(NodeAddress { address, length })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn convert(annotations: serde_json::Value, addresses: serde_json::Value) -> (Node, Problems) {
        let object = json!({
            "metadata": {"name": "n1", "uid": "u", "labels": {"zone": "a"}, "annotations": annotations},
            "status": {"addresses": addresses, "nodeInfo": {}},
        });
        let mut problems = Problems::default();
        let node = node(&serde_json::from_value(object).unwrap(), &mut problems).unwrap();
        (node, problems)
    }

    #[test]
    fn annotations_say_where_peers_reach_the_node() {
        let (node, problems) = convert(
            json!({
                IPV4_ADDRESS: "192.0.2.11/24", IPV6_ADDRESS: "2001:db8::1/64", IPIP_TUNNEL_ADDRESS: "10.65.0.1",
                VXLAN_TUNNEL_MAC: "66:01:02:03:04:ff", "projectcalico.org/IPv6VXLANTunnelAddr": "fd00::1",
                WIREGUARD_PUBLIC_KEY: WireguardKey([1; 32]).to_string(),
                INTERFACES: "[{\"name\": \"eth0\", \"addresses\": [\"192.0.2.11\"]}, {\"name\": \"eth1\"}]",
                "projectcalico.org/ASNumber": "1.10", "projectcalico.org/RouteReflectorClusterID": "244.0.0.1",
            }),
            json!([{"type": "InternalIP", "address": "198.51.100.1"}, {"type": "Hostname", "address": "n1"}]),
        );

        assert_eq!(problems, Problems::default());
        let v4 = NodeAddress { address: "192.0.2.11".parse().unwrap(), length: 24 };
        assert_eq!(node.ipv4, Some(v4));
        assert_eq!(node.ipv6.unwrap().subnet().to_string(), "2001:db8::/64");
        assert_eq!(node.as_number, Some(65546));
        assert_eq!(node.route_reflector_cluster_id, Some("244.0.0.1".parse().unwrap()));
        assert_eq!(node.tunnels.ipip, Some("10.65.0.1".parse().unwrap()));
        assert_eq!(node.tunnels.vxlan_mac, Some([0x66, 1, 2, 3, 4, 0xff]));
        assert_eq!(node.tunnels.vxlan_v6, Some("fd00::1".parse().unwrap()));
        assert_eq!(node.tunnels.wireguard_key, Some(WireguardKey([1; 32])));
        assert_eq!(node.internal_ips, ["198.51.100.1".parse::<IpAddr>().unwrap()]);
        let eth0 = NodeInterface { name: "eth0".to_owned(), addresses: vec!["192.0.2.11".parse().unwrap()] };
        let eth1 = NodeInterface { name: "eth1".to_owned(), addresses: Vec::new() };
        assert_eq!(node.interfaces, [eth0, eth1]);
        assert_eq!(interfaces(&interfaces_annotation(&node.interfaces)), Ok(node.interfaces));
    }

    #[test]
    fn without_annotation_the_internal_address_counts() {
        let (node, _) = convert(json!({}), json!([{"type": "InternalIP", "address": "198.51.100.1"}]));

        assert_eq!(node.ipv4, Some(NodeAddress { address: "198.51.100.1".parse().unwrap(), length: 32 }));
        assert_eq!(node.ipv6, None);
    }

    #[test]
    fn an_annotation_that_cannot_be_read_is_named_and_ignored() {
        for (annotation, text) in [
            (IPV4_ADDRESS, "2001:db8::1/64"),
            (IPV4_ADDRESS, "192.0.2.1/33"),
            (IPIP_TUNNEL_ADDRESS, "x"),
            (IPIP_TUNNEL_ADDRESS, "fd00::1"),
            (VXLAN_TUNNEL_MAC, "66:01:02:03:04"),
            (VXLAN_TUNNEL_MAC_V6, "66:01:02:03:04:+5"),
            (WIREGUARD_PUBLIC_KEY, "AQEB"),
            (INTERFACES, "eth0"),
            (INTERFACES, "[{\"name\": \"eth0\", \"addresses\": [\"x\"]}]"),
            ("projectcalico.org/ASNumber", "4294967296"),
            ("projectcalico.org/ASNumber", "1.65536"),
        ] {
            let (_, problems) = convert(json!({annotation: text}), json!([]));

            assert_eq!(problems.0.len(), 1, "{annotation}={text}");
            assert_eq!(problems.0[0].field, format!("metadata.annotations[{annotation}]"));
        }
    }
}
