//! What an operator configures. Owns the settings and which of them need a new session.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bgp_packet::{Family, Prefix, Role};

use crate::{BfdConfig, PeerKey, Policy};

/// Settings of one speaker.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Config {
    /// Own AS number.
    pub asn: u32,
    /// BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Makes the speaker a route reflector for the peers that are clients (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
    /// Routes of clients go to other clients; off when these are meshed among themselves (RFC 4456 §5).
    pub client_to_client: bool,
    /// LOCAL_PREF of routes that come without one and go to an internal peer.
    pub default_local_pref: u32,
    /// Own IPv4 next hop on sessions that run over IPv6.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Own IPv6 next hop on sessions that run over IPv4.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// How many equally good paths the route of a prefix may have (ECMP); 1 takes the best alone.
    pub max_paths: usize,
    /// Configured peers.
    pub peers: BTreeMap<PeerKey, PeerConfig>,
    /// Ranges of addresses that may connect without being configured one by one.
    pub dynamic: Vec<DynamicNeighbours>,
    /// How many peers may come from `dynamic` at a time.
    pub max_dynamic: usize,
    /// How many connections of dynamic neighbours may wait for their session at a time. One address has at
    /// most one.
    pub max_half_open: usize,
    /// External peers whose import or export policy is only the default of [`PeerConfig::new`] give or get
    /// nothing (RFC 8212).
    pub ebgp_requires_policy: bool,
    /// This speaker is about to be shut down: all routes go out as least preferred (RFC 8326).
    pub graceful_shutdown: bool,
    /// Peers that are configured no more but keep their session until their routes come another way.
    pub retire: BTreeSet<PeerKey>,
    /// How long a peer of `retire` may keep its session at most.
    pub retire_limit: Duration,
}

impl Config {
    /// A speaker without peers.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: None,
            client_to_client: true,
            default_local_pref: 100,
            next_hop_v4: None,
            next_hop_v6: None,
            max_paths: 1,
            peers: BTreeMap::new(),
            dynamic: Vec::new(),
            max_dynamic: 10_000,
            max_half_open: 8_192,
            ebgp_requires_policy: false,
            graceful_shutdown: false,
            retire: BTreeSet::new(),
            retire_limit: Duration::from_secs(120),
        }
    }
}

/// How a speaker begins its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Start {
    /// Seeds the jitter of timers.
    pub seed: u64,
    /// The caller kept forwarding while the speaker was away: peers are asked to keep our routes
    /// (RFC 4724 §4.1), and the caller sweeps its own after [`Event::RestartComplete`](crate::Event).
    pub forwarding_kept: bool,
    /// The owner takes Loc-RIB changes by [`Speaker::poll_route`](crate::Speaker::poll_route).
    pub report_routes: bool,
    /// A path counts only while the owner says that its next hop can be reached: asked by
    /// [`Speaker::poll_next_hop`](crate::Speaker::poll_next_hop).
    pub track_next_hops: bool,
}

/// Peers that connect from a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DynamicNeighbours {
    /// The range.
    pub prefix: Prefix,
    /// Index of the interface that link-local peers must come through; `None` takes any.
    pub interface: Option<u32>,
    /// Settings of each; always passive.
    pub template: PeerConfig,
}

impl DynamicNeighbours {
    /// All of a range, through any interface.
    pub fn new(prefix: Prefix, template: PeerConfig) -> Self {
        Self { prefix, interface: None, template }
    }

    /// Whether a peer may come from this range.
    pub(crate) fn covers(&self, peer: PeerKey) -> bool {
        let interface = !peer.is_link_local() || self.interface.is_none_or(|i| i == peer.scope());
        interface && self.prefix.contains_address(peer.address())
    }
}

/// Next hop of routes that are sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum NextHopMode {
    /// Own address towards external peers, unchanged towards internal ones (RFC 4271 §5.1.3).
    #[default]
    Auto,
    /// Always the own address.
    SelfAddress,
    /// Never changed.
    Keep,
}

/// A TCP MD5 password. Never shown.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Password(String);

impl Password {
    /// Takes a password.
    pub fn new(password: String) -> Self {
        Self(password)
    }

    /// The bytes for the kernel.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How many routes of a family a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MaxPrefix {
    /// More than this many ends the session (RFC 4486 §3).
    pub limit: usize,
    /// A warning comes at this many percent of `limit`.
    pub warning_percent: u8,
    /// What happens beyond the limit.
    pub action: MaxPrefixAction,
}

/// What happens when a peer sends too many routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum MaxPrefixAction {
    /// Only a warning.
    Warn,
    /// The session ends and is tried again after this long.
    Restart(Duration),
    /// The session ends until an operator enables or resets the peer.
    StayDown,
}

impl MaxPrefix {
    /// Warns at 75 % and takes the session down for good beyond the limit.
    pub fn new(limit: usize) -> Self {
        Self { limit, warning_percent: 75, action: MaxPrefixAction::StayDown }
    }
}

/// Where a peering comes from, for those who look: Calico and BIRD name sessions by it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum PeerKind {
    /// The node-to-node mesh.
    Mesh,
    /// A BGPPeer for all nodes.
    Global,
    /// A BGPPeer for some nodes.
    Node,
    /// Anything else.
    #[default]
    Other,
}

/// Settings of one peer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PeerConfig {
    /// What an operator knows the peer by.
    pub description: String,
    /// Where the peering comes from.
    pub kind: PeerKind,
    /// Its AS; `None` takes any.
    pub asn: Option<u32>,
    /// The AS that we show to it, when not the speaker's own.
    pub local_asn: Option<u32>,
    /// Its TCP port.
    pub port: u16,
    /// Own address of the session.
    pub local_address: Option<IpAddr>,
    /// Never connect, only listen.
    pub passive: bool,
    /// Families to announce.
    pub families: Vec<Family>,
    /// Proposed hold time in seconds: 0, or at least 3; 1 and 2 count as 3 (RFC 4271 §4.2).
    pub hold_time: u16,
    /// Seconds between KEEPALIVEs, at most a third of the negotiated hold time; `None` is that third.
    pub keepalive_interval: Option<u16>,
    /// How long the peer may take nothing of what is sent before the session ends (RFC 9687); `None` is eight
    /// minutes or twice the hold time, whichever is longer.
    pub send_hold_time: Option<Duration>,
    /// Wait for the peer's OPEN this long before sending ours (RFC 4271 §8.1.1); zero switches it off.
    pub delay_open: Duration,
    /// Longest wait between attempts while the peer cannot be reached; attempts begin fast and slow down.
    pub connect_retry: Duration,
    /// Longest wait after an error that trying again at once is unlikely to mend.
    pub idle_hold: Duration,
    /// Graceful restart time that we announce in seconds; 0 switches graceful restart off.
    pub restart_time: u16,
    /// How long a peer may keep our routes after `restart_time`, in seconds (RFC 9494); `None` does not announce
    /// long-lived graceful restart.
    pub long_lived_stale_time: Option<u32>,
    /// Messages up to 65 535 octets are taken, and sent to a peer that takes them (RFC 8654).
    pub extended_messages: bool,
    /// IPv4 routes with an IPv6 next hop are taken, and sent to a peer that takes them (RFC 8950).
    pub extended_next_hop: bool,
    /// Take several paths for a prefix (RFC 7911).
    pub add_path_receive: bool,
    /// Send up to so many paths for a prefix to a peer that takes them (RFC 7911).
    pub add_path_send_max: Option<u8>,
    /// What we are to the peer; for external peers (RFC 9234).
    pub role: Option<Role>,
    /// With `role`: a peer that names no role is refused (RFC 9234 §4.2).
    pub strict_role: bool,
    /// Watches the path by BFD while a session is up.
    pub bfd: Option<BfdConfig>,
    /// Generalised TTL security: how many hops away the peer may be (RFC 5082).
    pub ttl_security: Option<u8>,
    /// TCP MD5 password (RFC 2385).
    pub password: Option<Password>,
    /// A password is wanted but could not be had: which, and why. The session stays down.
    #[serde(with = "crate::record::text")]
    pub password_missing: Option<Arc<str>>,
    /// Switched off.
    pub admin_down: bool,
    /// The session is about to be shut down: routes to and from the peer become least preferred (RFC 8326).
    pub graceful_shutdown: bool,
    /// How many routes the peer may send, by family (see [`Family::index`]).
    pub max_prefix: [Option<MaxPrefix>; 2],
    /// The peer is a client of ours (RFC 4456).
    pub reflector_client: bool,
    /// Next hop of what we send.
    pub next_hop: NextHopMode,
    /// How often our own AS may be in a received path.
    pub allow_own_as: u32,
    /// The peer can be reached from this host alone, such as a pod of it: its routes go on with our own address as
    /// their next hop, also to internal peers.
    #[serde(default)]
    pub only_here: bool,
    /// What is taken from the peer.
    #[serde(with = "crate::record::shared")]
    pub import: Arc<Policy>,
    /// What is sent to the peer.
    #[serde(with = "crate::record::shared")]
    pub export: Arc<Policy>,
}

impl PeerConfig {
    /// A peer of `asn` on port 179, IPv4 and IPv6 unicast, graceful restart on, everything accepted.
    pub fn new(asn: u32) -> Self {
        Self {
            description: String::new(),
            kind: PeerKind::Other,
            asn: Some(asn),
            local_asn: None,
            port: 179,
            local_address: None,
            passive: false,
            families: Family::ALL.to_vec(),
            hold_time: 90,
            keepalive_interval: None,
            send_hold_time: None,
            delay_open: Duration::ZERO,
            connect_retry: Duration::from_secs(5),
            idle_hold: Duration::from_secs(30),
            restart_time: 120,
            long_lived_stale_time: None,
            extended_messages: true,
            extended_next_hop: false,
            add_path_receive: false,
            add_path_send_max: None,
            role: None,
            strict_role: false,
            bfd: None,
            ttl_security: None,
            password: None,
            password_missing: None,
            admin_down: false,
            graceful_shutdown: false,
            max_prefix: [None; 2],
            reflector_client: false,
            next_hop: NextHopMode::Auto,
            allow_own_as: 0,
            only_here: false,
            import: Arc::new(Policy::accept()),
            export: Arc::new(Policy::accept()),
        }
    }

    /// Whether going over to `new` needs a new session: its transport, AS or capabilities differ. Times of
    /// graceful restart count only when it is switched on or off; the next OPEN carries them.
    pub fn needs_reset(&self, new: &Self) -> bool {
        let transport = (self.port, self.local_address, self.ttl_security, &self.password, self.only_here)
            != (new.port, new.local_address, new.ttl_security, &new.password, new.only_here);
        let identity = (self.asn, self.local_asn, self.role, self.strict_role)
            != (new.asn, new.local_asn, new.role, new.strict_role);
        let speaks = |c: &Self| Family::ALL.map(|f| c.families.contains(&f));
        let capabilities = |c: &Self| {
            let restart = (c.restart_time > 0, c.long_lived_stale_time.is_some());
            let paths = (c.add_path_receive, c.add_path_send_max.is_some());
            (speaks(c), c.hold_time(), restart, c.extended_messages, c.extended_next_hop, paths)
        };
        transport || identity || capabilities(self) != capabilities(new)
    }

    /// The hold time that an OPEN proposes.
    pub(crate) fn hold_time(&self) -> u16 {
        if matches!(self.hold_time, 1 | 2) { 3 } else { self.hold_time }
    }

    /// Whether the configuration lets the peer have a session at all.
    pub(crate) fn is_enabled(&self) -> bool {
        !self.admin_down && self.password_missing.is_none()
    }
}
