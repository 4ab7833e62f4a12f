//! Peers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::{AddPath, BfdSettings, BgpPeer, BgpRole, Family, NextHopMode, PeerSelection, PeerTarget};

use super::bgp::{as_number, secret_key};
use super::{Problems, selector};
use crate::crd;

/// A BGPPeer; `None` when it cannot be told who peers with whom.
pub fn bgp_peer(name: &str, spec: &crd::BGPPeerSpec, problems: &mut Problems) -> Option<BgpPeer> {
    let nodes = nodes(spec, problems)?;
    let target = target(spec, problems)?;
    let number = |problems: &mut Problems, field: &str, value: &Option<crd::AsNumberValue>| match value {
        Some(value) => problems.take(field, as_number(&value.0)).map(Some),
        None => Some(None),
    };
    let as_number = number(problems, "spec.asNumber", &spec.as_number)?;
    match (&target, as_number) {
        (PeerTarget::Nodes(_), Some(_)) => {
            problems.add("spec.asNumber", "peerSelector takes the nodes' own AS numbers");
            return None;
        }
        (PeerTarget::Address(..) | PeerTarget::LocalWorkloads(_) | PeerTarget::Interface(_), None) => {
            problems.add("spec.asNumber", "is needed unless peerSelector chooses nodes");
            return None;
        }
        _ => {}
    }
    let local_as_number = number(problems, "spec.localASNumber", &spec.local_as_number)?;
    let reachable_by = match (spec.reachable_by.as_deref().filter(|text| !text.is_empty()), &target) {
        (Some(text), PeerTarget::Address(peer, _)) => problems.take("spec.reachableBy", gateway(text, *peer)),
        _ => None,
    };
    Some(BgpPeer {
        nodes,
        local_as_number,
        next_hop_mode: next_hop_mode(spec),
        keepalive_time: time(problems, "spec.keepaliveTime", spec.keepalive_time.as_deref()),
        max_restart_time: time(problems, "spec.maxRestartTime", spec.max_restart_time.as_deref()),
        source_address_is_node_ip: spec.source_address != Some(crd::SourceAddress::None),
        password: secret_key(spec.password.as_ref(), "spec.password", problems),
        allowed_local_as_numbers: spec
            .num_allowed_local_as_numbers
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or_default(),
        ttl_security: spec.ttl_security.and_then(|hops| u8::try_from(hops).ok()).filter(|hops| *hops != 0),
        reachable_by,
        filters: spec.filters.clone().unwrap_or_default(),
        reverse: spec.reverse_peering != Some(crd::ReversePeering::Manual)
            && !matches!(target, PeerTarget::LocalWorkloads(_)),
        role: spec.role.map(role),
        strict_role: spec.strict_role == Some(true),
        bfd: spec.bfd.map(bfd),
        add_path: spec.add_path.map_or(AddPath::default(), add_path),
        ..BgpPeer::new(name, target, as_number)
    })
}

fn nodes(spec: &crd::BGPPeerSpec, problems: &mut Problems) -> Option<PeerSelection> {
    let node_selector = selector(problems, "spec.nodeSelector", spec.node_selector.as_deref()).ok()?;
    let node = spec.node.as_deref().filter(|node| !node.is_empty());
    match (node, node_selector) {
        (Some(_), Some(_)) => {
            problems.add("spec.node", "node and nodeSelector exclude each other");
            None
        }
        (Some(node), None) => Some(PeerSelection::Node(node.into())),
        (None, Some(nodes)) => Some(PeerSelection::Selector(nodes)),
        (None, None) => Some(PeerSelection::AllNodes),
    }
}

fn target(spec: &crd::BGPPeerSpec, problems: &mut Problems) -> Option<PeerTarget> {
    let nodes = selector(problems, "spec.peerSelector", spec.peer_selector.as_deref()).ok()?;
    let field = "spec.localWorkloadSelector";
    let workloads = selector(problems, field, spec.local_workload_selector.as_deref()).ok()?;
    let address = match spec.peer_ip.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => Some(problems.take("spec.peerIP", peer_address(text))?),
        None => None,
    };
    let interface = spec.interface.clone().filter(|name| !name.is_empty());
    match (address, nodes, workloads, interface) {
        (Some((address, port)), None, None, None) => Some(PeerTarget::Address(address, port)),
        (None, Some(nodes), None, None) => Some(PeerTarget::Nodes(nodes)),
        (None, None, Some(workloads), None) => Some(PeerTarget::LocalWorkloads(workloads)),
        (None, None, None, Some(interface)) => Some(PeerTarget::Interface(interface)),
        _ => {
            problems.add(
                "spec.peerIP",
                "give one of peerSelector, and with asNumber peerIP, localWorkloadSelector and interface",
            );
            None
        }
    }
}

fn role(role: crd::Role) -> BgpRole {
    match role {
        crd::Role::Provider => BgpRole::Provider,
        crd::Role::RouteServer => BgpRole::RouteServer,
        crd::Role::RouteServerClient => BgpRole::RouteServerClient,
        crd::Role::Customer => BgpRole::Customer,
        crd::Role::Peer => BgpRole::Peer,
    }
}

fn bfd(spec: crd::Bfd) -> BfdSettings {
    let default = BfdSettings::default();
    let interval = |ms: Option<i32>, default| {
        ms.and_then(|ms| u32::try_from(ms).ok()).map_or(default, |ms| ms.clamp(10, 60_000))
    };
    let multiplier = spec.detect_multiplier.and_then(|n| u8::try_from(n).ok()).filter(|n| *n > 0);
    BfdSettings {
        min_tx: interval(spec.min_tx, default.min_tx),
        min_rx: interval(spec.min_rx, default.min_rx),
        detect_multiplier: multiplier.unwrap_or(default.detect_multiplier),
        multihop: spec.multihop == Some(true),
    }
}

fn add_path(spec: crd::AddPath) -> AddPath {
    let send = spec.send.and_then(|paths| u8::try_from(paths).ok()).unwrap_or_default();
    AddPath { receive: spec.receive == Some(true), send }
}

fn next_hop_mode(spec: &crd::BGPPeerSpec) -> NextHopMode {
    match (spec.next_hop_mode, spec.keep_original_next_hop) {
        (Some(crd::NextHopMode::SelfAddress), _) => NextHopMode::SelfAddress,
        (Some(crd::NextHopMode::Keep), _) | (None, Some(true)) => NextHopMode::Keep,
        _ => NextHopMode::Auto,
    }
}

fn time(problems: &mut Problems, field: &str, text: Option<&str>) -> Option<Duration> {
    text.and_then(|text| problems.take(field, model::parse_duration(text)))
}

fn gateway(text: &str, peer: IpAddr) -> Result<IpAddr, String> {
    let gateway: IpAddr = text.parse().map_err(|_| format!("{text:?} is not an address"))?;
    if Family::of(gateway) == Family::of(peer) {
        Ok(gateway)
    } else {
        Err(format!("{gateway} is not of the family of the peer {peer}"))
    }
}

/// An address, and a port when it is given.
fn peer_address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(Ok(address)) = bare.map(str::parse::<IpAddr>) {
        return Ok((address, None));
    }
    let with_port = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    with_port.map(|address| (address.ip(), Some(address.port()))).ok_or_else(|| {
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
        for (text, address, port) in [
            ("192.0.2.1", "192.0.2.1", None),
            ("192.0.2.1:1790", "192.0.2.1", Some(1790)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]:1790", "2001:db8::1", Some(1790)),
            ("[2001:db8::1]", "2001:db8::1", None),
        ] {
            let peer = peer(json!({"peerIP": text, "asNumber": 4294967295u32})).unwrap();

            assert_eq!(peer.target, PeerTarget::Address(address.parse().unwrap(), port), "{text}");
        }
    }

    #[test]
    fn peers_that_cannot_be_used_are_named() {
        for (spec, field) in [
            (json!({"peerIP": "1.2.3.4:70000", "asNumber": 1}), "spec.peerIP"),
            (json!({"peerIP": "1.2.3.4", "asNumber": 4294967296i64}), "spec.asNumber"),
            (json!({"peerIP": "1.2.3.4", "asNumber": "0.0"}), "spec.asNumber"),
            (json!({"peerIP": "1.2.3.4"}), "spec.asNumber"),
            (json!({"peerSelector": "all()", "asNumber": 1}), "spec.asNumber"),
            (json!({"peerIP": "1.2.3.4", "asNumber": 1, "peerSelector": "all()"}), "spec.peerIP"),
            (json!({"localWorkloadSelector": "all()"}), "spec.asNumber"),
            (json!({}), "spec.peerIP"),
            (json!({"interface": "eth1"}), "spec.asNumber"),
            (json!({"interface": "eth1", "peerIP": "1.2.3.4", "asNumber": 1}), "spec.peerIP"),
            (json!({"node": "a", "nodeSelector": "all()", "peerSelector": "all()"}), "spec.node"),
            (json!({"peerSelector": "(a == 'b'"}), "spec.peerSelector"),
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
        assert!(peer.source_address_is_node_ip && peer.reverse);
    }

    #[test]
    fn everything_else_reaches_the_model() {
        let spec = json!({
            "peerIP": "192.0.2.9", "asNumber": "1.0", "localASNumber": 65001, "ttlSecurity": 1,
            "numAllowedLocalASNumbers": 2, "reachableBy": "192.0.2.254", "filters": ["b", "a"],
            "reversePeering": "Manual", "password": {"secretKeyRef": {"name": "s", "key": "k"}},
            "sourceAddress": "None",
        });

        let peer = peer(spec).unwrap();

        assert_eq!((peer.as_number, peer.local_as_number), (Some(65536), Some(65001)));
        assert_eq!((peer.ttl_security, peer.allowed_local_as_numbers), (Some(1), 2));
        assert_eq!(peer.reachable_by, Some("192.0.2.254".parse().unwrap()));
        assert_eq!((peer.filters, peer.reverse), (vec!["b".to_owned(), "a".to_owned()], false));
        assert_eq!(peer.password.unwrap().to_string(), "Secret s key k");
        assert!(!peer.source_address_is_node_ip);
    }

    #[test]
    fn own_settings_reach_the_model_within_their_limits() {
        let spec = json!({
            "interface": "eth1", "asNumber": 65001, "role": "Customer", "strictRole": true,
            "bfd": {"minTx": 1, "detectMultiplier": 0, "multihop": true}, "addPath": {"send": 4},
        });

        let peer = peer(spec).unwrap();

        assert_eq!(peer.target, PeerTarget::Interface("eth1".to_owned()));
        assert_eq!((peer.role, peer.strict_role), (Some(BgpRole::Customer), true));
        let bfd = BfdSettings { min_tx: 10, min_rx: 300, detect_multiplier: 3, multihop: true };
        assert_eq!((peer.bfd, peer.add_path), (Some(bfd), AddPath { receive: false, send: 4 }));
    }

    #[test]
    fn a_password_that_is_nowhere_is_named_and_never_forgotten() {
        let spec = json!({"peerIP": "192.0.2.9", "asNumber": 1, "password": {}});
        let mut problems = Problems::default();

        let peer = bgp_peer("p", &serde_json::from_value(spec).unwrap(), &mut problems).unwrap();

        assert!(peer.password.is_some());
        assert_eq!(problems.0[0].field, "spec.password.secretKeyRef");
    }
}
