//! What a node's speaker is to do. Owns the plan, and what of it a change of some nodes touches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp::{Config, PeerChanges, PeerKey};
use bgp_packet::Family;
use model::{Node, NodeName};

use crate::cluster::Cluster;
use crate::node_addresses::NodeAddresses;
use crate::origin::normal_preference;
use crate::policies::SharedPolicies;
pub use crate::router_id::RouterId;
use crate::sessions::{Sessions, address, asn};

/// What the cluster asks of this node's speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The speaker's configuration.
    pub config: Config,
    /// Secrets that hold passwords of its sessions.
    pub secrets: BTreeSet<String>,
    /// Peers that are reached through a gateway.
    pub gateways: BTreeMap<IpAddr, IpAddr>,
    /// Links at whose other end a router is to be found.
    pub links: BTreeSet<String>,
    /// Host sides of the interfaces of pods that are peers: they have our peering addresses.
    pub pod_links: BTreeSet<String>,
    /// What an operator asked for and does not get, in words.
    pub problems: Vec<String>,
}

/// Makes plans. Owns what one plan needs of the one before.
#[derive(Debug, Default)]
pub struct Planner {
    router_id: RouterId,
    policies: SharedPolicies,
    addresses: NodeAddresses,
    /// What the last plan said beside its peers; `None` before there is one.
    last: Option<Aside>,
}

#[derive(Debug)]
struct Aside {
    secrets: BTreeSet<String>,
    /// It has nothing but peers and Secrets: then a peer's part of it is known by its address.
    is_plain: bool,
}

impl Planner {
    /// A planner whose node takes its identifier from `router_id`.
    pub fn new(router_id: RouterId) -> Self {
        Self { router_id, ..Self::default() }
    }

    /// The plan for a cluster; `None` while this node or its address is not known.
    pub fn plan(&mut self, cluster: &Cluster) -> Option<Plan> {
        self.last = None;
        let node = cluster.node()?;
        let mut config = self.without_peers(cluster, node)?;
        self.policies.renew();
        self.addresses = NodeAddresses::new(cluster.nodes.values());
        let sessions = Sessions::gather(cluster, node, &mut self.policies, &self.addresses, None);
        let Sessions { peers, secrets, gateways, links, pod_links, problems, .. } = sessions;
        config.peers = peers.into_iter().map(|(key, found)| (key, found.config)).collect();
        // A node that is still there keeps its session until its routes come another way.
        let others = self.addresses.iter().filter(|(_, name)| **name != node.name);
        config.retire = others.map(|(address, _)| PeerKey::from(address)).collect();
        let is_plain = gateways.is_empty() && problems.is_empty();
        self.last = Some(Aside { secrets: secrets.clone(), is_plain });
        Some(Plan { config, secrets, gateways, links, pod_links, problems })
    }

    fn without_peers(&self, cluster: &Cluster, node: &Node) -> Option<Config> {
        let v4 = address(node, Family::Ipv4);
        let v6 = address(node, Family::Ipv6);
        v4.or(v6)?;
        let mut config = Config::new(asn(cluster, node), self.router_id.of(node));
        config.cluster_id = node.route_reflector_cluster_id;
        config.default_local_pref = normal_preference(cluster, Family::Ipv4);
        config.next_hop_v4 = v4.and_then(|a| if let IpAddr::V4(a) = a { Some(a) } else { None });
        config.next_hop_v6 = v6.and_then(|a| if let IpAddr::V6(a) = a { Some(a) } else { None });
        config.max_paths = cluster.configuration.maximum_paths;
        config.ebgp_requires_policy = cluster.configuration.ebgp_requires_policy;
        Some(config)
    }

    /// What differs from the plan before when nothing but some other nodes came, went or changed, at the cost of
    /// these; `None` when only a whole plan can say.
    pub fn changes(&mut self, cluster: &Cluster, nodes: &BTreeSet<NodeName>) -> Option<PeerChanges> {
        let last = self.last.as_ref().filter(|last| last.is_plain)?;
        let node = cluster.node().filter(|node| !nodes.contains(&node.name))?;
        let touched: BTreeSet<IpAddr> =
            nodes.iter().flat_map(|name| self.addresses.set(name, cluster.nodes.get(name))).collect();
        let sessions = Sessions::gather(cluster, node, &mut self.policies, &self.addresses, Some(&touched));
        let is_plain = sessions.gateways.is_empty() && sessions.problems.is_empty();
        let mut found = sessions.peers;
        let peers: BTreeMap<_, _> = touched
            .iter()
            .map(|address| {
                (PeerKey::from(*address), found.remove(&PeerKey::from(*address)).map(|f| f.config))
            })
            .collect();
        // Whether a Secret is still needed without those that are gone, only all peers together say.
        let same_secrets = sessions.secrets.is_subset(&last.secrets)
            && (last.secrets.is_empty() || peers.values().all(Option::is_some));
        if !is_plain || !same_secrets {
            return None;
        }
        let is_other =
            |address: &IpAddr| self.addresses.owner(*address).is_some_and(|name| *name != node.name);
        let retire = touched.iter().map(|address| (PeerKey::from(*address), is_other(address))).collect();
        Some(PeerChanges { peers, retire })
    }
}
