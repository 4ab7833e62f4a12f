//! Settings of one session. Owns what BGPPeer and BGPConfiguration make of a peer; not who is one.

use bgp::{BfdConfig, NextHopMode, PeerConfig, PeerKind};
use bgp_packet::{Family, Role};
use model::{BgpPeer, BgpRole, Node, PeerSelection, PeerTarget, SecretKey};

use crate::passwords::password;
use crate::sessions::{Sessions, Wanted, address, asn};

/// Longest restart time that an OPEN can carry, in seconds (RFC 4724 §3).
const LONGEST_RESTART: u64 = 4095;

impl Sessions<'_> {
    /// The settings of a session.
    pub(crate) fn config(&mut self, wanted: &Wanted<'_>) -> PeerConfig {
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
        let policies = self.policies.get(self.cluster, key);
        (config.import, config.export) = (policies.import, policies.export);
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
