//! What a speaker says of itself in a `CalicoNodeStatus`. Owns the meaning of its fields; changes nothing.

use bgp::{PeerKind, PeerState, PeerStatus, RouteSource, RouteStatus, Speaker};
use bgp_api::{Subject, utc};
use bgp_packet::Family;
use datastore::crd::{
    BirdStatus, CalicoNodeStatusStatus, LearnedFrom, NodeAgentStatus, NodeBgpStatus, NodeRouteStatus,
    NodeStatusClass, PeerStatusEntry, RouteStatusEntry,
};

/// Most routes of a family that fit into an object of the API server.
const MAX_ROUTES: usize = 2000;

/// The status with the wanted parts.
pub fn node_status(subject: &Subject<'_>, classes: &[NodeStatusClass]) -> CalicoNodeStatusStatus {
    let wants = |class| classes.contains(&class);
    let speaker = subject.speaker.as_deref();
    CalicoNodeStatusStatus {
        last_updated: Some(utc(subject.wall(subject.now))),
        agent: wants(NodeStatusClass::Agent).then(|| agent(subject, speaker)),
        bgp: speaker.filter(|_| wants(NodeStatusClass::Bgp)).map(|speaker| sessions(subject, speaker)),
        routes: speaker.filter(|_| wants(NodeStatusClass::Routes)).map(routes),
    }
}

/// Both of Calico's daemons are this one speaker.
fn agent(subject: &Subject<'_>, speaker: Option<&Speaker>) -> NodeAgentStatus {
    let owner = &subject.owner;
    let time = |at: Option<std::time::Instant>| at.map(|at| utc(subject.wall(at)));
    let is_ready = speaker.is_some() && owner.problems.is_empty();
    let status = BirdStatus {
        state: if is_ready { "Ready" } else { "NotReady" }.to_owned(),
        version: Some(format!("bird-lite {}", owner.version)),
        router_id: speaker.map(|speaker| speaker.config().router_id.to_string()),
        last_boot_time: time(owner.started),
        last_reconfiguration_time: time(owner.reconfigured.or(owner.started)),
    };
    NodeAgentStatus { bird_v4: Some(status.clone()), bird_v6: Some(status) }
}

fn sessions(subject: &Subject<'_>, speaker: &Speaker) -> NodeBgpStatus {
    let peers = speaker.peers();
    let of = |family: Family| -> Vec<PeerStatusEntry> {
        let peers = peers.iter().filter(|peer| Family::of(peer.peer.address()) == family);
        peers.map(|peer| session(subject, peer)).collect()
    };
    let (v4, v6) = (of(Family::Ipv4), of(Family::Ipv6));
    let count = |entries: &[PeerStatusEntry], up: bool| {
        let matching = entries.iter().filter(|entry| (entry.state == "Established") == up);
        i64::try_from(matching.count()).unwrap_or(i64::MAX)
    };
    NodeBgpStatus {
        number_established_v4: count(&v4, true),
        number_not_established_v4: count(&v4, false),
        number_established_v6: count(&v6, true),
        number_not_established_v6: count(&v6, false),
        peers_v4: Some(v4),
        peers_v6: Some(v6),
    }
}

fn session(subject: &Subject<'_>, peer: &PeerStatus) -> PeerStatusEntry {
    let kind = match peer.kind {
        PeerKind::Mesh => "NodeMesh",
        PeerKind::Global => "GlobalPeer",
        PeerKind::Node | PeerKind::Other => "NodePeer",
    };
    PeerStatusEntry {
        peer_ip: peer.peer.to_string(),
        kind: kind.to_owned(),
        state: format!("{:?}", peer.state),
        since: utc(subject.wall(peer.since)),
        reason: (peer.state != PeerState::Established).then(|| peer.cause.to_string()),
    }
}

fn routes(speaker: &Speaker) -> NodeRouteStatus {
    let peers = speaker.peers();
    let mut prefixes: Vec<_> = speaker.prefixes().collect();
    prefixes.sort_unstable();
    let of = |family: Family| -> Vec<RouteStatusEntry> {
        let prefixes = prefixes.iter().filter(|prefix| prefix.family() == family);
        let routes = prefixes.flat_map(|prefix| speaker.routes_to(prefix)).take(MAX_ROUTES);
        routes.map(|route| entry(&peers, &route)).collect()
    };
    NodeRouteStatus { routes_v4: Some(of(Family::Ipv4)), routes_v6: Some(of(Family::Ipv6)) }
}

fn entry(peers: &[PeerStatus], route: &RouteStatus) -> RouteStatusEntry {
    let gateway = route.attributes.next_hop.address();
    let learned_from = match route.source {
        RouteSource::Local => LearnedFrom { source_type: "Static".to_owned(), peer_ip: None },
        RouteSource::Peer(key) => {
            let is_mesh = peers.iter().any(|peer| peer.peer == key && peer.kind == PeerKind::Mesh);
            let source_type = if is_mesh { "NodeMesh" } else { "BGPPeer" };
            LearnedFrom { source_type: source_type.to_owned(), peer_ip: Some(key.to_string()) }
        }
    };
    RouteStatusEntry {
        kind: if route.best.is_some() { "FIB" } else { "RIB" }.to_owned(),
        destination: route.prefix.to_string(),
        gateway: (!gateway.is_unspecified()).then(|| gateway.to_string()),
        learned_from: Some(learned_from),
    }
}
