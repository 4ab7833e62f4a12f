//! Who this node peers with. Owns the mesh, the meaning of BGPPeer, and who is whose reflector client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{AddrParseError, IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use bgp::{BfdConfig, Config, NextHopMode, PeerConfig, PeerKey, PeerKind, Policy};
use bgp_packet::{Family, Role};
use model::{BgpPeer, BgpRole, Labels, Node, NodeName, PeerSelection, PeerTarget, Pod, SecretKey, Selector};
use sha2::{Digest, Sha256};

use crate::cluster::{Cluster, pod_interface};
use crate::export::{export_policy, import_policy};
use crate::origin::normal_preference;
use crate::passwords::password;

/// Well-known port of BGP.
const PORT: u16 = 179;
/// Longest restart time that an OPEN can carry, in seconds (RFC 4724 §3).
const LONGEST_RESTART: u64 = 4095;

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

/// Where a node's BGP Identifier comes from (`CALICO_ROUTER_ID`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterId {
    /// Its IPv4 address; one derived from its name when it has none.
    #[default]
    Address,
    /// `hash`: derived from its name.
    Hash,
    /// This one.
    Fixed(Ipv4Addr),
}

impl FromStr for RouterId {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text {
            "" => Ok(Self::Address),
            "hash" => Ok(Self::Hash),
            text => text.parse().map(Self::Fixed),
        }
    }
}

/// Makes plans. Owns policies that are shared by many sessions, also from one plan to the next.
#[derive(Debug, Default)]
pub struct Planner {
    router_id: RouterId,
    policies: BTreeMap<PolicyKey, Policies>,
}

/// Filters in order, and whether the session is internal.
type PolicyKey = (Vec<String>, bool);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Policies {
    import: Arc<Policy>,
    export: Arc<Policy>,
}

impl Planner {
    /// A planner whose node takes its identifier from `router_id`.
    pub fn new(router_id: RouterId) -> Self {
        Self { router_id, ..Self::default() }
    }

    /// The plan for a cluster; `None` while this node or its address is not known.
    pub fn plan(&mut self, cluster: &Cluster) -> Option<Plan> {
        let node = cluster.node()?;
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
        let mut builder = Builder {
            cluster,
            node,
            known: &mut self.policies,
            policies: BTreeMap::new(),
            by_address: by_address(cluster),
            peers: BTreeMap::new(),
            secrets: BTreeSet::new(),
            gateways: BTreeMap::new(),
            links: BTreeSet::new(),
            pod_links: BTreeSet::new(),
            problems: Vec::new(),
        };
        builder.add_peers();
        // A node that is still there keeps its session until its routes come another way.
        config.retire = builder.other_addresses().map(PeerKey::from).collect();
        let Builder { policies, peers, secrets, gateways, links, pod_links, problems, .. } = builder;
        config.peers = peers.into_iter().map(|(key, found)| (key, found.config)).collect();
        self.policies = policies;
        Some(Plan { config, secrets, gateways, links, pod_links, problems })
    }
}

impl RouterId {
    /// The BGP Identifier of a node.
    pub fn of(self, node: &Node) -> Ipv4Addr {
        match (self, address(node, Family::Ipv4)) {
            (Self::Fixed(id), _) => id,
            (Self::Address, Some(IpAddr::V4(address))) => address,
            _ => {
                let hash = Sha256::digest(node.name.as_str().as_bytes());
                let first = if hash[0] > 223 { hash[0] - 32 } else { hash[0] };
                Ipv4Addr::new(first, hash[1], hash[2], hash[3])
            }
        }
    }
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

/// Which node has an address.
fn by_address(cluster: &Cluster) -> BTreeMap<IpAddr, &NodeName> {
    let nodes = cluster.nodes.values();
    nodes
        .flat_map(|node| Family::ALL.into_iter().filter_map(|f| Some((address(node, f)?, &node.name))))
        .collect()
}

/// A session that was asked for, and by whom.
struct Found {
    config: PeerConfig,
    /// Name of the BGPPeer; `None` is the mesh.
    by: Option<String>,
}

/// What a session has beside its address.
struct Wanted<'a> {
    remote: PeerKey,
    asn: u32,
    port: u16,
    /// The node at the other end.
    other: Option<&'a Node>,
    /// `None` is the mesh.
    peer: Option<&'a BgpPeer>,
    /// The other half of a peering that a node at the other end was chosen for.
    reverse: bool,
}

struct Builder<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    /// Policies of the plan before.
    known: &'a mut BTreeMap<PolicyKey, Policies>,
    policies: BTreeMap<PolicyKey, Policies>,
    by_address: BTreeMap<IpAddr, &'a NodeName>,
    peers: BTreeMap<PeerKey, Found>,
    secrets: BTreeSet<String>,
    gateways: BTreeMap<IpAddr, IpAddr>,
    links: BTreeSet<String>,
    pod_links: BTreeSet<String>,
    problems: Vec<String>,
}

impl<'a> Builder<'a> {
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

    fn others(&self) -> impl Iterator<Item = &'a Node> + use<'a> {
        let own = &self.node.name;
        self.cluster.nodes.values().filter(move |n| n.name != *own)
    }

    fn other_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let own = &self.node.name;
        self.by_address.iter().filter(move |(_, name)| **name != own).map(|(address, _)| *address)
    }

    fn add_mesh(&mut self) {
        let mesh = self.cluster.configuration.node_to_node_mesh;
        if !mesh || self.node.route_reflector_cluster_id.is_some() {
            return;
        }
        for other in self.others().filter(|n| n.route_reflector_cluster_id.is_none()) {
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
                for other in self.others().filter(|n| selector.matches(&n.labels)) {
                    self.add_node(other, Some(peer), false);
                }
            }
            PeerTarget::Address(remote, port) => {
                let other = self.by_address.get(remote).and_then(|name| self.cluster.nodes.get(name));
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
            PeerTarget::Address(remote, _) => self.by_address.get(remote) == Some(&&self.node.name),
            PeerTarget::LocalWorkloads(_) | PeerTarget::Interface(_) => false,
        };
        if !chosen {
            return;
        }
        for other in self.others().filter(|n| selects(&peer.nodes, n)) {
            self.add_node(other, Some(peer), true);
        }
    }

    /// Adds a session, unless one with that address is there.
    fn add(&mut self, wanted: Wanted<'a>) {
        let key = wanted.remote;
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

    fn config(&mut self, wanted: &Wanted<'_>) -> PeerConfig {
        let mut config = PeerConfig::new(wanted.asn);
        config.port = wanted.port;
        config.description = description(wanted);
        config.kind = match wanted.peer {
            None => PeerKind::Mesh,
            Some(peer) if peer.nodes == PeerSelection::AllNodes => PeerKind::Global,
            Some(_) => PeerKind::Node,
        };
        let family = Family::of(wanted.remote.address());
        config.families = match wanted.other.filter(|_| !matches!(wanted.peer, Some(p) if is_address(p))) {
            // Nodes have a session for each family.
            Some(_) => vec![family],
            None => {
                Family::ALL.into_iter().filter(|f| *f == family || address(self.node, *f).is_some()).collect()
            }
        };
        config.local_address = address(self.node, family);
        let mesh = &self.cluster.configuration;
        let (secret, restart) = match wanted.peer {
            None => (mesh.mesh_password.as_ref(), mesh.mesh_max_restart_time),
            Some(peer) => (peer.password.as_ref(), peer.max_restart_time),
        };
        if let Some(time) = restart {
            config.restart_time = u16::try_from(time.as_secs().min(LONGEST_RESTART)).unwrap_or_default();
        }
        if let Some(peer) = wanted.peer {
            tune(&mut config, peer, wanted.reverse);
            suit(&mut config, &peer.target, family);
        }
        let own_asn = config.local_asn.unwrap_or(asn(self.cluster, self.node));
        let internal = config.asn == Some(own_asn);
        config.reflector_client = internal && self.reflects_to(wanted.other);
        self.set_password(&mut config, secret);
        self.set_policies(&mut config, wanted.peer, internal);
        config
    }

    /// A reflector's clients are the internal peers that are not reflectors of the same cluster.
    fn reflects_to(&self, other: Option<&Node>) -> bool {
        let Some(own) = self.node.route_reflector_cluster_id else { return false };
        other.and_then(|n| n.route_reflector_cluster_id) != Some(own)
    }

    fn set_password(&mut self, config: &mut PeerConfig, wanted: Option<&SecretKey>) {
        let Some(wanted) = wanted else { return };
        if !wanted.name.is_empty() {
            self.secrets.insert(wanted.name.clone());
        }
        match password(self.cluster, wanted) {
            Ok(password) => config.password = Some(password),
            Err(why) => config.password_missing = Some(why.into()),
        }
    }

    /// Sessions with the same filters share their policies. A filter that does not exist is named, and the
    /// others count.
    fn set_policies(&mut self, config: &mut PeerConfig, peer: Option<&BgpPeer>, internal: bool) {
        let names = peer.map(|peer| peer.filters.as_slice()).unwrap_or_default();
        let exists = |name: &&String| self.cluster.filters.contains_key(*name);
        let (found, missing): (Vec<_>, Vec<_>) = names.iter().partition(exists);
        for name in missing {
            let problem = format!("BGPFilter {name} does not exist");
            config.description.push_str(&format!(" ({problem})"));
            let peer = peer.map_or("", |peer| &peer.name);
            let problem = format!("BGPPeer {peer}: {problem}, its rules are not applied");
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
        let key = (found.into_iter().cloned().collect(), internal);
        let policies = self.policies(key);
        (config.import, config.export) = (policies.import, policies.export);
    }

    /// Policies that are as they were stay the same objects, so that comparing them costs nothing.
    fn policies(&mut self, key: PolicyKey) -> Policies {
        if let Some(policies) = self.policies.get(&key) {
            return policies.clone();
        }
        let filters: Vec<_> = key.0.iter().filter_map(|name| self.cluster.filters.get(name)).collect();
        let new = Policies {
            import: Arc::new(import_policy(&filters, key.1)),
            export: Arc::new(export_policy(self.cluster, &filters, key.1)),
        };
        let known = self.known.remove(&key);
        let keep = |old: Option<&Arc<Policy>>, new: Arc<Policy>| match old {
            Some(old) if **old == *new => old.clone(),
            _ => new,
        };
        let policies = Policies {
            import: keep(known.as_ref().map(|k| &k.import), new.import),
            export: keep(known.as_ref().map(|k| &k.export), new.export),
        };
        self.policies.insert(key, policies.clone());
        policies
    }
}

fn selects(selection: &PeerSelection, node: &Node) -> bool {
    match selection {
        PeerSelection::AllNodes => true,
        PeerSelection::Node(name) => *name == node.name,
        PeerSelection::Selector(selector) => selector.matches(&node.labels),
    }
}

fn is_address(peer: &BgpPeer) -> bool {
    matches!(peer.target, PeerTarget::Address(..))
}

fn description(wanted: &Wanted<'_>) -> String {
    match (wanted.peer, wanted.other) {
        (Some(peer), _) if wanted.reverse => format!("BGPPeer {} (reverse)", peer.name),
        (Some(peer), _) => format!("BGPPeer {}", peer.name),
        (None, Some(other)) => format!("mesh {}", other.name),
        (None, None) => String::new(),
    }
}

fn role(role: BgpRole) -> Role {
    match role {
        BgpRole::Provider => Role::Provider,
        BgpRole::RouteServer => Role::RouteServer,
        BgpRole::RouteServerClient => Role::RouteServerClient,
        BgpRole::Customer => Role::Customer,
        BgpRole::Peer => Role::Peer,
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

/// What peers of a kind need, whatever the BGPPeer says.
fn suit(config: &mut PeerConfig, target: &PeerTarget, family: Family) {
    match target {
        // They connect to the address that they are told to. What they announce is behind this node.
        PeerTarget::LocalWorkloads(_) => {
            config.local_address = None;
            config.passive = true;
            config.only_here = true;
            config.families = vec![family];
        }
        // Both ends have an address on the link only, and IPv4 goes by way of it, too.
        PeerTarget::Interface(_) => {
            config.local_address = None;
            config.extended_next_hop = true;
            config.families = Family::ALL.to_vec();
        }
        PeerTarget::Address(..) | PeerTarget::Nodes(_) => {}
    }
}

/// Takes over what a BGPPeer says; the AS to show is for the side that it is written for.
fn tune(config: &mut PeerConfig, peer: &BgpPeer, reverse: bool) {
    if !reverse {
        config.local_asn = peer.local_as_number;
    }
    if !peer.source_address_is_node_ip {
        config.local_address = None;
    }
    if let Some(interval) = peer.keepalive_time {
        // Three of them leave within the hold time.
        let seconds = u16::try_from(interval.as_secs()).unwrap_or(u16::MAX / 3).clamp(1, u16::MAX / 3);
        config.keepalive_interval = Some(seconds);
        config.hold_time = config.hold_time.max(seconds * 3);
    }
    config.next_hop = match peer.next_hop_mode {
        model::NextHopMode::Auto => NextHopMode::Auto,
        model::NextHopMode::SelfAddress => NextHopMode::SelfAddress,
        model::NextHopMode::Keep => NextHopMode::Keep,
    };
    config.allow_own_as = peer.allowed_local_as_numbers;
    config.ttl_security = peer.ttl_security;
    (config.role, config.strict_role) = (peer.role.map(role), peer.strict_role);
    config.bfd = peer.bfd.map(|bfd| BfdConfig {
        min_tx: bfd.min_tx,
        min_rx: bfd.min_rx,
        detect_multiplier: bfd.detect_multiplier,
        multihop: bfd.multihop,
    });
    config.add_path_receive = peer.add_path.receive;
    config.add_path_send_max = Some(peer.add_path.send).filter(|paths| *paths > 0);
}
