//! Who this node peers with. Owns the mesh, the meaning of BGPPeer, and who is whose reflector client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp::{PeerConfig, PeerKey};
use bgp_packet::Family;
use model::{BgpPeer, Labels, Node, NodeName, PeerSelection, PeerTarget, Pod, Selector};

use crate::cluster::{Cluster, pod_interface};
use crate::node_addresses::NodeAddresses;
use crate::policies::SharedPolicies;

/// Well-known port of BGP.
const PORT: u16 = 179;

/// The AS of a node.
pub(crate) fn asn(cluster: &Cluster, node: &Node) -> u32 {
    node.as_number.unwrap_or(cluster.configuration.as_number)
}

/// The address that a node has for BGP.
pub(crate) fn address(node: &Node, family: Family) -> Option<IpAddr> {
    match family {
        Family::Ipv4 => node.ipv4,
        Family::Ipv6 => node.ipv6,
    }
    .map(|a| a.address)
}

/// A session that was asked for, and by whom.
pub(crate) struct Found {
    pub(crate) config: PeerConfig,
    /// Name of the BGPPeer; `None` is the mesh.
    by: Option<String>,
}

/// What a session has beside its address.
pub(crate) struct Wanted<'a> {
    pub(crate) remote: PeerKey,
    pub(crate) asn: u32,
    pub(crate) port: u16,
    /// The node at the other end.
    pub(crate) other: Option<&'a Node>,
    /// `None` is the mesh.
    pub(crate) peer: Option<&'a BgpPeer>,
    /// The other half of a peering that a node at the other end was chosen for.
    pub(crate) reverse: bool,
}

/// The sessions of a node, while they are gathered.
pub(crate) struct Sessions<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) node: &'a Node,
    pub(crate) policies: &'a mut SharedPolicies,
    pub(crate) addresses: &'a NodeAddresses,
    /// Only sessions with these addresses are wanted.
    pub(crate) scope: Option<&'a BTreeSet<IpAddr>>,
    pub(crate) peers: BTreeMap<PeerKey, Found>,
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) gateways: BTreeMap<IpAddr, IpAddr>,
    pub(crate) links: BTreeSet<String>,
    pub(crate) pod_links: BTreeSet<String>,
    pub(crate) problems: Vec<String>,
}

impl<'a> Sessions<'a> {
    /// All sessions, or those with the addresses of `scope` alone.
    pub(crate) fn gather(
        cluster: &'a Cluster,
        node: &'a Node,
        policies: &'a mut SharedPolicies,
        addresses: &'a NodeAddresses,
        scope: Option<&'a BTreeSet<IpAddr>>,
    ) -> Self {
        let mut sessions = Self {
            cluster,
            node,
            policies,
            addresses,
            scope,
            peers: BTreeMap::new(),
            secrets: BTreeSet::new(),
            gateways: BTreeMap::new(),
            links: BTreeSet::new(),
            pod_links: BTreeSet::new(),
            problems: Vec::new(),
        };
        sessions.add_peers();
        sessions
    }

    /// Global peers come before those of this node, then what others' peerings imply, then the mesh; the first
    /// of an address wins.
    fn add_peers(&mut self) {
        let (global, own): (Vec<_>, Vec<_>) =
            self.cluster.peers.values().partition(|p| p.nodes == PeerSelection::AllNodes);
        for peer in global.into_iter().chain(own) {
            if selects(&peer.nodes, self.node) {
                self.add_explicit(peer);
            }
        }
        for peer in self.cluster.peers.values().filter(|peer| peer.reverse) {
            self.add_reverse(peer);
        }
        self.add_mesh();
    }

    /// Other nodes that may be at the end of a session that is wanted.
    fn others(&self) -> Vec<&'a Node> {
        let (cluster, own) = (self.cluster, &self.node.name);
        let Some(scope) = self.scope else {
            return cluster.nodes.values().filter(|n| n.name != *own).collect();
        };
        let names: BTreeSet<&NodeName> =
            scope.iter().flat_map(|address| self.addresses.claimants(*address)).collect();
        names.into_iter().filter(|name| *name != own).filter_map(|name| cluster.nodes.get(name)).collect()
    }

    fn add_mesh(&mut self) {
        let mesh = self.cluster.configuration.node_to_node_mesh;
        if !mesh || self.node.route_reflector_cluster_id.is_some() {
            return;
        }
        for other in self.others().into_iter().filter(|n| n.route_reflector_cluster_id.is_none()) {
            self.add_node(other, None, false);
        }
    }

    /// Peers with another node of the cluster: a session for each family that both have.
    fn add_node(&mut self, other: &'a Node, peer: Option<&'a BgpPeer>, reverse: bool) {
        for family in Family::ALL {
            let Some(remote) = address(other, family) else { continue };
            if address(self.node, family).is_none() {
                continue;
            }
            // What the other side shows to us is what it was told to show.
            let shown = peer.filter(|_| reverse).and_then(|peer| peer.local_as_number);
            let asn = shown.unwrap_or(asn(self.cluster, other));
            let port = self.cluster.configuration.listen_port_of(&other.name);
            self.add(Wanted { remote: remote.into(), asn, port, other: Some(other), peer, reverse });
        }
    }

    fn add_explicit(&mut self, peer: &'a BgpPeer) {
        match &peer.target {
            PeerTarget::Nodes(selector) => {
                for other in self.others().into_iter().filter(|n| selector.matches(&n.labels)) {
                    self.add_node(other, Some(peer), false);
                }
            }
            PeerTarget::Address(remote, port) => {
                let other = self.addresses.owner(*remote).and_then(|name| self.cluster.nodes.get(name));
                if other.is_some_and(|other| other.name == self.node.name) {
                    return;
                }
                let node_port = other.map(|n| self.cluster.configuration.listen_port_of(&n.name));
                let port = port.or(node_port).unwrap_or(PORT);
                let node_asn = other.map(|n| asn(self.cluster, n));
                let asn = peer.as_number.or(node_asn).unwrap_or(self.cluster.configuration.as_number);
                let remote = PeerKey::from(*remote);
                self.add(Wanted { remote, asn, port, other, peer: Some(peer), reverse: false });
            }
            PeerTarget::LocalWorkloads(selector) => self.add_pods(peer, selector),
            PeerTarget::Interface(link) => {
                self.links.insert(link.clone());
                if let Some(remote) = self.cluster.routers.get(link).copied() {
                    self.add_stranger(remote, peer);
                }
            }
        }
    }

    /// Peers with pods of this node, each at our peering address of the family.
    fn add_pods(&mut self, peer: &'a BgpPeer, selector: &Selector) {
        let cluster = self.cluster;
        if cluster.configuration.local_workload_peering().next().is_none() {
            self.problems.push(format!(
                "BGPPeer {}: BGPConfiguration has no localWorkloadPeeringIPV4 or V6 that pods could peer with",
                peer.name
            ));
        }
        for own in cluster.configuration.local_workload_peering() {
            for pod in cluster.pods.values().filter(|pod| selector.matches(&labels(pod))) {
                self.pod_links.insert(pod_interface(&pod.key));
                for remote in pod.addresses.iter().filter(|a| a.is_ipv4() == own.is_ipv4()) {
                    self.add_stranger(PeerKey::from(*remote), peer);
                }
            }
        }
    }

    /// Peers with who is no node and has no name of its own in the BGPPeer.
    fn add_stranger(&mut self, remote: PeerKey, peer: &'a BgpPeer) {
        let asn = peer.as_number.unwrap_or(self.cluster.configuration.as_number);
        self.add(Wanted { remote, asn, port: PORT, other: None, peer: Some(peer), reverse: false });
    }

    /// The other half of a peering that selects nodes on both sides: a selected peer has the session too.
    fn add_reverse(&mut self, peer: &'a BgpPeer) {
        let chosen = match &peer.target {
            PeerTarget::Nodes(selector) => selector.matches(&self.node.labels),
            PeerTarget::Address(remote, _) => self.addresses.owner(*remote) == Some(&self.node.name),
            PeerTarget::LocalWorkloads(_) | PeerTarget::Interface(_) => false,
        };
        if !chosen {
            return;
        }
        for other in self.others().into_iter().filter(|n| selects(&peer.nodes, n)) {
            self.add_node(other, Some(peer), true);
        }
    }

    /// Adds a session, unless one with that address is there.
    fn add(&mut self, wanted: Wanted<'a>) {
        let key = wanted.remote;
        if self.scope.is_some_and(|scope| !scope.contains(&key.address())) {
            return;
        }
        if let Some(found) = self.peers.get(&key) {
            let other_port = found.config.port != wanted.port;
            if let Some(peer) = wanted.peer.filter(|_| other_port && !wanted.reverse) {
                let by = found.by.as_deref().map_or("the mesh".to_owned(), |by| format!("BGPPeer {by}"));
                self.problems.push(format!(
                    "BGPPeer {} is not used on this node: {by} already peers with {} on port {}, and one \
                     address has one session",
                    peer.name, wanted.remote, found.config.port
                ));
            }
            return;
        }
        let config = self.config(&wanted);
        if let (Some(gateway), false) = (wanted.peer.and_then(|p| p.reachable_by), wanted.reverse) {
            self.gateways.insert(key.address(), gateway);
        }
        let by = wanted.peer.map(|peer| peer.name.clone());
        self.peers.insert(key, Found { config, by });
    }
}

fn selects(selection: &PeerSelection, node: &Node) -> bool {
    match selection {
        PeerSelection::AllNodes => true,
        PeerSelection::Node(name) => *name == node.name,
        PeerSelection::Selector(selector) => selector.matches(&node.labels),
    }
}

/// Labels of a pod as selectors of Calico see them.
fn labels(pod: &Pod) -> Labels {
    let mut labels = pod.labels.clone();
    let own = [
        ("projectcalico.org/namespace", Some(pod.key.namespace.to_string())),
        ("projectcalico.org/orchestrator", Some("k8s".to_owned())),
        ("projectcalico.org/serviceaccount", pod.service_account.clone()),
    ];
    labels.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    labels
}
