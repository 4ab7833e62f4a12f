//! What an operator configures. Owns the settings and which of them need a new session.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bgp_packet::{Family, Prefix};

use crate::{BfdConfig, PeerKey, Policy};

/// Settings of one speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        }
    }
}

/// How a speaker begins its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, PartialEq, Eq)]
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

/// Settings of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// What an operator knows the peer by.
    pub description: String,
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
    /// Proposed hold time in seconds: 0, or at least 3.
    pub hold_time: u16,
    /// Graceful restart time that we announce in seconds; 0 switches graceful restart off.
    pub restart_time: u16,
    /// Watches the path by BFD while a session is up.
    pub bfd: Option<BfdConfig>,
    /// Generalised TTL security: how many hops away the peer may be (RFC 5082).
    pub ttl_security: Option<u8>,
    /// TCP MD5 password (RFC 2385).
    pub password: Option<Password>,
    /// A password is wanted but could not be had.
    pub password_missing: bool,
    /// Switched off.
    pub admin_down: bool,
    /// The peer is a client of ours (RFC 4456).
    pub reflector_client: bool,
    /// Next hop of what we send.
    pub next_hop: NextHopMode,
    /// How many paths to a prefix the peer gets, where ADD-PATH was negotiated (RFC 7911).
    pub add_path_send_max: usize,
    /// How often our own AS may be in a received path.
    pub allow_own_as: u32,
    /// What is taken from the peer.
    pub import: Arc<Policy>,
    /// What is sent to the peer.
    pub export: Arc<Policy>,
}

impl PeerConfig {
    /// A peer of `asn` on port 179, IPv4 and IPv6 unicast, graceful restart on, everything accepted.
    pub fn new(asn: u32) -> Self {
        Self {
            description: String::new(),
            asn: Some(asn),
            local_asn: None,
            port: 179,
            local_address: None,
            passive: false,
            families: Family::ALL.to_vec(),
            hold_time: 90,
            restart_time: 120,
            bfd: None,
            ttl_security: None,
            password: None,
            password_missing: false,
            admin_down: false,
            reflector_client: false,
            next_hop: NextHopMode::Auto,
            add_path_send_max: 8,
            allow_own_as: 0,
            import: Arc::new(Policy::accept()),
            export: Arc::new(Policy::accept()),
        }
    }

    /// Whether going over to `new` needs a new session: its transport, AS or capabilities differ.
    pub fn needs_reset(&self, new: &Self) -> bool {
        let transport = (self.port, self.local_address, self.ttl_security, &self.password)
            != (new.port, new.local_address, new.ttl_security, &new.password);
        let identity = (self.asn, self.local_asn) != (new.asn, new.local_asn);
        let capabilities = self.families != new.families
            || (self.restart_time == 0) != (new.restart_time == 0)
            || self.hold_time != new.hold_time;
        transport || identity || capabilities
    }

    /// Whether the peer may have a session at all.
    pub(crate) fn is_enabled(&self) -> bool {
        !self.admin_down && !self.password_missing
    }
}
