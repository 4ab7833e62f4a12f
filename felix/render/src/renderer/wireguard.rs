//! What leads to pods on other nodes through WireGuard: links, who stands behind them, and what is there. Whether a
//! route takes that way is the dataplane's: the other side must have come to terms with us first.

use std::collections::BTreeMap;

use felix_calc::{WireguardEnd, WireguardPeer};
use kernel::{RouteKey, WireguardLink, WireguardPeerKey, wireguard_link_name};
use model::{Cidr, Family, NodeName};

use super::Renderer;
use super::cluster::cluster_route_key;
use crate::output::WireguardOutput;
use crate::tracked::Tracked;

/// What is wished for, and what it is made of.
#[derive(Default)]
pub(super) struct WireguardWishes {
    ends: BTreeMap<Family, WireguardEnd>,
    nodes: BTreeMap<(Family, NodeName), WireguardPeer>,
    /// Whose a destination is: one that moves may be told of its new node first.
    owners: BTreeMap<Cidr, NodeName>,
    links: Tracked<String, WireguardLink>,
    peers: Tracked<WireguardPeerKey, kernel::WireguardPeer>,
    ways: Tracked<RouteKey, WireguardPeerKey>,
}

impl Renderer {
    /// The port that other nodes send to, where this one takes WireGuard of a family.
    pub(super) fn wireguard_port(&self, family: Family) -> Option<u16> {
        self.wireguard.ends.get(&family).map(|end| end.port)
    }

    /// Has this node's end an address of its own?
    pub(super) fn has_wireguard_address(&self, family: Family) -> bool {
        self.wireguard.ends.get(&family).is_some_and(|end| end.address.is_some())
    }

    pub(super) fn set_wireguard_end(&mut self, family: Family, end: Option<WireguardEnd>) {
        let name = wireguard_link_name(family).to_owned();
        self.static_dirty = true;
        match end {
            Some(end) => {
                self.wireguard.ends.insert(family, end);
                let link = WireguardLink { port: end.port, mtu: None, address: end.address };
                self.wireguard.links.put(name, link);
            }
            None => {
                self.wireguard.ends.remove(&family);
                self.wireguard.links.remove(&name);
            }
        }
    }

    pub(super) fn set_wireguard_peer(&mut self, family: Family, node: NodeName, new: Option<WireguardPeer>) {
        let wishes = &mut self.wireguard;
        let key = (family, node.clone());
        let old = match new.clone() {
            Some(peer) => wishes.nodes.insert(key, peer),
            None => wishes.nodes.remove(&key),
        };
        for destination in old.iter().flat_map(|old| old.destinations.iter()) {
            let stays = new.as_ref().is_some_and(|new| new.destinations.contains(destination));
            if !stays && wishes.owners.get(destination) == Some(&node) {
                wishes.owners.remove(destination);
                wishes.ways.remove(&cluster_route_key(*destination));
            }
        }
        let peer_key = |key| WireguardPeerKey { interface: wireguard_link_name(family).to_owned(), key };
        if let Some(old) = old.filter(|old| new.as_ref().is_none_or(|new| new.key != old.key)) {
            wishes.peers.remove(&peer_key(old.key));
        }
        let Some(new) = new else { return };
        for destination in new.destinations.iter() {
            wishes.owners.insert(*destination, node.clone());
            wishes.ways.put(cluster_route_key(*destination), peer_key(new.key));
        }
        self.render_wireguard_peer(family, &new);
    }

    /// The configuration has changed.
    pub(super) fn render_wireguard_peers(&mut self) {
        for ((family, _), peer) in self.wireguard.nodes.clone() {
            self.render_wireguard_peer(family, &peer);
        }
    }

    fn render_wireguard_peer(&mut self, family: Family, peer: &WireguardPeer) {
        let keep_alive = self.configuration.wireguard.keep_alive.as_secs();
        // What the node itself sends to our pods, too, be it from its own address.
        let allowed = peer.destinations.iter().copied().chain([Cidr::host(peer.endpoint.ip())]).collect();
        let key = WireguardPeerKey { interface: wireguard_link_name(family).to_owned(), key: peer.key };
        let keep_alive = u16::try_from(keep_alive).unwrap_or(u16::MAX);
        let peer = kernel::WireguardPeer { endpoint: peer.endpoint, allowed, keep_alive };
        self.wireguard.peers.put(key, peer);
    }

    /// What differs since the last flush.
    pub(super) fn flush_wireguard(&mut self) -> WireguardOutput {
        let WireguardWishes { links, peers, ways, .. } = &mut self.wireguard;
        WireguardOutput { links: links.take(), peers: peers.take(), ways: ways.take() }
    }
}
