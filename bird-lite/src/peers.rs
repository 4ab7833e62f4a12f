//! Who this node peers with. Owns the mesh, the meaning of BGPPeer, and who is whose reflector client.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp::{Config, NextHopMode, PeerConfig, PeerKey};
use bgp_packet::Family;
use model::{BgpPeer, Node, PeerSelection};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::export::export_policy;
use crate::origin::{NORMAL_PRIORITY, PREFERENCE_SUM};

/// The speaker's configuration; `None` while this node or its address is not known.
pub fn config(cluster: &Cluster) -> Option<Config> {
    let node = cluster.node()?;
    let v4 = address(node, Family::Ipv4);
    let v6 = address(node, Family::Ipv6);
    v4.or(v6)?;
    let mut config = Config::new(asn(cluster, node), router_id(node));
    config.cluster_id = node.route_reflector_cluster_id;
    config.default_local_pref = PREFERENCE_SUM - NORMAL_PRIORITY;
    config.next_hop_v4 = v4.and_then(|a| if let IpAddr::V4(a) = a { Some(a) } else { None });
    config.next_hop_v6 = v6.and_then(|a| if let IpAddr::V6(a) = a { Some(a) } else { None });
    config.max_paths = 64;
    let builder = Builder { cluster, node, export: Arc::new(export_policy(cluster)) };
    config.peers = builder.peers();
    Some(config)
}

/// A BGP Identifier for a node: its IPv4 address, or one derived from its name.
pub fn router_id(node: &Node) -> Ipv4Addr {
    if let Some(IpAddr::V4(address)) = address(node, Family::Ipv4) {
        return address;
    }
    let hash = Sha256::digest(node.name.as_str().as_bytes());
    let first = if hash[0] > 223 { hash[0] - 32 } else { hash[0] };
    Ipv4Addr::new(first, hash[1], hash[2], hash[3])
}

fn asn(cluster: &Cluster, node: &Node) -> u32 {
    node.as_number.unwrap_or(cluster.configuration.as_number)
}

fn address(node: &Node, family: Family) -> Option<IpAddr> {
    match family {
        Family::Ipv4 => node.ipv4,
        Family::Ipv6 => node.ipv6,
    }
    .map(|a| a.address)
}

struct Builder<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    export: Arc<bgp::Policy>,
}

impl Builder<'_> {
    /// Global peers come before those of this node, and these before the mesh; the first of an address wins.
    fn peers(&self) -> BTreeMap<PeerKey, PeerConfig> {
        let mut peers = BTreeMap::new();
        let (global, own): (Vec<_>, Vec<_>) =
            self.cluster.peers.values().partition(|p| p.nodes == PeerSelection::AllNodes);
        for peer in global.into_iter().chain(own) {
            if self.selects(&peer.nodes, self.node) {
                self.add_explicit(peer, &mut peers);
            }
        }
        for peer in self.cluster.peers.values() {
            self.add_reverse(peer, &mut peers);
        }
        self.add_mesh(&mut peers);
        let own = Family::ALL.iter().filter_map(|f| address(self.node, *f));
        own.for_each(|a| drop(peers.remove(&a.into())));
        peers
    }

    fn others(&self) -> impl Iterator<Item = &Node> {
        self.cluster.nodes.values().filter(|n| n.name != self.node.name)
    }

    fn selects(&self, selection: &PeerSelection, node: &Node) -> bool {
        match selection {
            PeerSelection::AllNodes => true,
            PeerSelection::Node(name) => *name == node.name,
            PeerSelection::Selector(selector) => selector.matches(&node.labels),
        }
    }

    fn add_mesh(&self, peers: &mut BTreeMap<PeerKey, PeerConfig>) {
        if !self.cluster.configuration.node_to_node_mesh || self.node.route_reflector_cluster_id.is_some() {
            return;
        }
        for other in self.others().filter(|n| n.route_reflector_cluster_id.is_none()) {
            self.add_node(other, &format!("mesh {}", other.name), None, peers);
        }
    }

    /// Peers with another node of the cluster: a session for each family that both have.
    fn add_node(
        &self,
        other: &Node,
        description: &str,
        peer: Option<&BgpPeer>,
        peers: &mut BTreeMap<PeerKey, PeerConfig>,
    ) {
        for family in Family::ALL {
            let Some(remote) = address(other, family) else { continue };
            if address(self.node, family).is_none() || peers.contains_key(&remote.into()) {
                continue;
            }
            let mut config = self.peer(remote, asn(self.cluster, other), description, peer);
            config.port = self.cluster.configuration.listen_port;
            config.families = vec![family];
            config.reflector_client = self.is_client(&config, Some(other));
            peers.insert(remote.into(), config);
        }
    }

    fn add_explicit(&self, peer: &BgpPeer, peers: &mut BTreeMap<PeerKey, PeerConfig>) {
        let description = format!("BGPPeer {}", peer.name);
        if let Some(selector) = &peer.peer_selector {
            for other in self.others().filter(|n| selector.matches(&n.labels)) {
                self.add_node(other, &description, Some(peer), peers);
            }
            return;
        }
        let Some(remote) = peer.peer else { return };
        if peers.contains_key(&remote.into()) {
            return;
        }
        let other = self.others().find(|n| Family::ALL.iter().any(|f| address(n, *f) == Some(remote.ip())));
        let cluster_asn = self.cluster.configuration.as_number;
        let asn = peer.as_number.or(other.map(|n| asn(self.cluster, n))).unwrap_or(cluster_asn);
        let mut config = self.peer(remote.ip(), asn, &description, Some(peer));
        let default_port = remote.port() == 179 && other.is_some();
        config.port = if default_port { self.cluster.configuration.listen_port } else { remote.port() };
        config.reflector_client = self.is_client(&config, other);
        peers.insert(remote.into(), config);
    }

    /// The other half of a peering that selects nodes on both sides: a selected peer has the session too.
    fn add_reverse(&self, peer: &BgpPeer, peers: &mut BTreeMap<PeerKey, PeerConfig>) {
        let chosen = match (&peer.peer_selector, peer.peer) {
            (Some(selector), _) => selector.matches(&self.node.labels),
            (None, Some(remote)) => Family::ALL.iter().any(|f| address(self.node, *f) == Some(remote.ip())),
            (None, None) => false,
        };
        if !chosen {
            return;
        }
        for other in self.others().filter(|n| self.selects(&peer.nodes, n)) {
            self.add_node(other, &format!("BGPPeer {} (reverse)", peer.name), Some(peer), peers);
        }
    }

    fn peer(&self, remote: IpAddr, asn: u32, description: &str, peer: Option<&BgpPeer>) -> PeerConfig {
        let mut config = PeerConfig::new(asn);
        config.description = description.to_owned();
        config.export = self.export.clone();
        let family = Family::of(remote);
        config.families =
            Family::ALL.into_iter().filter(|f| *f == family || address(self.node, *f).is_some()).collect();
        config.local_address = address(self.node, family);
        let Some(peer) = peer else { return config };
        config.local_asn = peer.local_as_number;
        if !peer.source_address_is_node_ip {
            config.local_address = None;
        }
        if let Some(time) = peer.max_restart_time {
            config.restart_time = u16::try_from(time.as_secs()).unwrap_or(4095).min(4095);
        }
        config.next_hop = match peer.next_hop_mode {
            model::NextHopMode::Auto => NextHopMode::Auto,
            model::NextHopMode::SelfAddress => NextHopMode::SelfAddress,
            model::NextHopMode::Keep => NextHopMode::Keep,
        };
        config
    }

    /// A reflector's clients are the peers of its AS that are not reflectors of the same cluster.
    fn is_client(&self, config: &PeerConfig, other: Option<&Node>) -> bool {
        let Some(own) = self.node.route_reflector_cluster_id else { return false };
        let local = config.local_asn.unwrap_or(asn(self.cluster, self.node));
        config.asn == Some(local) && other.and_then(|n| n.route_reflector_cluster_id) != Some(own)
    }
}
