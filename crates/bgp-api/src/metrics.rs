//! Figures for Prometheus. Owns their names and how many series there may be: peers of the mesh and clients
//! of a reflector are counted by state, and only external peers and those that are not Established have
//! series of their own, up to [`MAX_PEER_SERIES`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bgp::{MessageCounts, PeerState, PeerStatus, Speaker};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::{Owner, Subject, cause_name};

/// Most peers that have series of their own; the others are only counted.
pub const MAX_PEER_SERIES: usize = 200;

type Labels = Vec<(&'static str, String)>;
type Level = Gauge<i64>;
type Count = Counter<u64, AtomicU64>;

/// What is not read off the speaker but collected over time.
#[derive(Clone, Debug)]
pub struct Metrics {
    update_to_kernel: Arc<Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Info {
    node: String,
    version: String,
    asn: u32,
    router_id: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { update_to_kernel: Arc::new(Histogram::new(exponential_buckets(0.000_25, 2.0, 16))) }
    }
}

impl Metrics {
    /// Notes how long it took from a change of the table to the kernel.
    pub fn observe_update_to_kernel(&self, took: Duration) {
        self.update_to_kernel.observe(took.as_secs_f64());
    }

    /// All figures as they are now, in Prometheus' text format.
    pub fn render(&self, subject: &Subject<'_>) -> String {
        let mut registry = Registry::default();
        owner(&mut registry, &subject.owner);
        if subject.owner.kernel.is_some() {
            let help = "From a change of the table to the kernel";
            registry.register("bgp_update_to_kernel_seconds", help, (*self.update_to_kernel).clone());
        }
        if let Some(speaker) = subject.speaker.as_deref() {
            let peers = speaker.peers();
            whole(&mut registry, speaker, &subject.owner);
            totals(&mut registry, &peers);
            each(&mut registry, &peers);
        }
        let mut text = String::new();
        // A String takes whatever is written.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn level(registry: &mut Registry, name: &str, help: &str, value: usize) {
    let gauge = Level::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn owner(registry: &mut Registry, owner: &Owner) {
    level(registry, "bgp_problems", "What keeps the speaker as a whole from working", owner.problems.len());
    if let Some(kernel) = &owner.kernel {
        level(registry, "bgp_kernel_routes", "Routes of the speaker in the kernel", kernel.written);
        let help = "Routes that should be in the kernel and are not";
        level(registry, "bgp_kernel_routes_pending", help, kernel.pending.len());
    }
}

fn whole(registry: &mut Registry, speaker: &Speaker, owner: &Owner) {
    let info = Family::<Info, Level>::default();
    let config = speaker.config();
    let labels = Info {
        node: owner.node.clone(),
        version: owner.version.to_owned(),
        asn: config.asn,
        router_id: config.router_id.to_string(),
    };
    info.get_or_create(&labels).set(1);
    registry.register("bgp_speaker_info", "Constant 1 with what the speaker is", info);
    level(registry, "bgp_routes", "Prefixes in the table that have a path", speaker.routes_count());
    let help = "1 while a graceful restart of the speaker is under way";
    level(registry, "bgp_restarting", help, usize::from(speaker.is_restarting()));
}

/// What is summed up over peers, by kind of peer.
fn totals(registry: &mut Registry, peers: &[PeerStatus]) {
    let states = Family::<Labels, Level>::default();
    let prefixes = Family::<Labels, Level>::default();
    let messages = Family::<Labels, Count>::default();
    let flaps = Family::<Labels, Count>::default();
    for peer in peers {
        let kind = ("kind", kind(peer).to_owned());
        states.get_or_create(&vec![kind.clone(), ("state", format!("{:?}", peer.state))]).inc();
        for (direction, count) in directions(peer) {
            let labels = vec![kind.clone(), ("direction", direction.to_owned())];
            prefixes.get_or_create(&labels).inc_by(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (direction, counts) in [("received", &peer.messages_received), ("sent", &peer.messages_sent)] {
            for (name, count) in by_type(counts) {
                let labels = vec![("direction", direction.to_owned()), ("type", name.to_owned())];
                messages.get_or_create(&labels).inc_by(count);
            }
        }
        flaps.get_or_create(&vec![kind]).inc_by(peer.flaps);
    }
    registry.register("bgp_peers", "Peers by kind and state (RFC 4271 §8.2.2)", states);
    registry.register("bgp_prefixes", "Prefixes by kind of peer and direction", prefixes);
    registry.register("bgp_messages", "Messages of the peers there are, by direction and type", messages);
    registry.register("bgp_session_flaps", "Established sessions that ended, by kind of peer", flaps);
}

/// Series of single peers: only those that an operator looks at one by one.
fn each(registry: &mut Registry, peers: &[PeerStatus]) {
    let up = Family::<Labels, Level>::default();
    let down = Family::<Labels, Level>::default();
    let flaps = Family::<Labels, Count>::default();
    let prefixes = Family::<Labels, Level>::default();
    let single = |p: &&PeerStatus| !p.internal || p.state != PeerState::Established;
    // External peers come first: they are few, and a broken mesh must not hide them.
    let mut shown: Vec<&PeerStatus> = peers.iter().filter(single).collect();
    shown.sort_by_key(|p| p.internal);
    let omitted = shown.len().saturating_sub(MAX_PEER_SERIES);
    for peer in shown.into_iter().take(MAX_PEER_SERIES) {
        let address = ("peer", peer.peer.to_string());
        let is_up = peer.state == PeerState::Established;
        up.get_or_create(&vec![address.clone(), ("kind", kind(peer).to_owned())]).set(i64::from(is_up));
        if !is_up {
            let reason = ("reason", cause_name(&peer.cause).to_owned());
            down.get_or_create(&vec![address.clone(), reason]).set(1);
        }
        flaps.get_or_create(&vec![address.clone()]).inc_by(peer.flaps);
        for (direction, count) in directions(peer).into_iter().filter(|_| !peer.internal) {
            let labels = vec![address.clone(), ("direction", direction.to_owned())];
            prefixes.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    registry.register("bgp_session_up", "1 when Established; external peers and those that are down", up);
    registry.register("bgp_session_down_info", "Constant 1 with why a peer is not Established", down);
    registry.register("bgp_peer_flaps", "Sessions of this peer that ended", flaps);
    registry.register("bgp_peer_prefixes", "Prefixes of an external peer by direction", prefixes);
    level(registry, "bgp_peer_series_omitted", "Peers without series of their own for their number", omitted);
}

fn directions(peer: &PeerStatus) -> BTreeMap<&'static str, usize> {
    let counts = [
        ("received", peer.received),
        ("accepted", peer.accepted),
        ("advertised", peer.advertised),
        ("stale", peer.stale),
    ];
    counts.into()
}

fn by_type(counts: &MessageCounts) -> [(&'static str, u64); 5] {
    [
        ("open", counts.open),
        ("update", counts.update),
        ("notification", counts.notification),
        ("keepalive", counts.keepalive),
        ("route-refresh", counts.route_refresh),
    ]
}

/// Kinds of peers are few, so they may be labels.
fn kind(peer: &PeerStatus) -> &'static str {
    match peer {
        p if !p.internal => "external",
        p if p.reflector_client => "client",
        p if p.dynamic => "dynamic",
        _ => "internal",
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use bgp::{Config, PeerConfig, PeerKey, Start};

    use super::*;

    fn render(internal: u8, external: u8) -> String {
        let now = Instant::now();
        let mut config = Config::new(64512, Ipv4Addr::new(192, 0, 2, 1));
        for n in 0..internal {
            let peer = PeerKey::from(std::net::IpAddr::from([10, 0, 0, n]));
            config.peers.insert(peer, PeerConfig::new(64512));
        }
        for n in 0..external {
            let peer = PeerKey::from(std::net::IpAddr::from([10, 0, 1, n]));
            config.peers.insert(peer, PeerConfig::new(65000));
        }
        let start = Start { seed: 1, forwarding_kept: false, report_routes: false, ..Start::default() };
        let mut speaker = Speaker::new(config, start, now);
        let owner = Owner { node: "node-1".to_owned(), version: "1", ..Owner::default() };
        Metrics::default().render(&Subject { speaker: Some(&mut speaker), owner, now })
    }

    #[test]
    fn a_large_mesh_that_is_down_has_bounded_series_and_hides_no_external_peer() {
        let text = render(250, 2);

        let series = text.lines().filter(|line| line.starts_with("bgp_session_up{")).count();
        assert_eq!(series, MAX_PEER_SERIES);
        assert!(text.contains("bgp_session_up{peer=\"10.0.1.1\",kind=\"external\"} 0"), "{text}");
        assert!(text.contains("bgp_peer_series_omitted 52"), "{text}");
        assert!(text.contains("bgp_peers{kind=\"internal\",state=\"Active\"} 250"), "{text}");
    }

    #[test]
    fn a_peer_that_is_down_says_why_by_a_short_name() {
        let text = render(0, 1);

        assert!(text.contains("bgp_session_down_info{peer=\"10.0.1.0\",reason=\"Starting\"} 1"), "{text}");
        assert!(text.contains("bgp_speaker_info{node=\"node-1\",version=\"1\",asn=\"64512\""), "{text}");
    }

    #[test]
    fn a_speaker_that_has_no_settings_yet_has_figures_all_the_same() {
        let owner = Owner { problems: vec!["no Node".to_owned()], ..Owner::default() };

        let text = Metrics::default().render(&Subject { speaker: None, owner, now: Instant::now() });

        assert!(text.contains("bgp_problems 1"), "{text}");
    }
}
