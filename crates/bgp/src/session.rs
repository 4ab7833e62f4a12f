//! What two OPENs make together (RFC 4271 §4.2, RFC 5492). Owns the negotiation and the data of an Established
//! session; the rules of each capability are where it is used.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bgp_packet::{
    AddPathMode, AfiSafi, Capability, EncodeOptions, Family, GracefulRestart, Open, Role, UpdateContext,
};

use crate::{ConnId, PeerConfig};

/// The shortest send hold time (RFC 9687 §3.3).
const LEAST_SEND_HOLD: Duration = Duration::from_secs(480);
/// AFI of IPv6, as the capability of RFC 8950 wants it.
const AFI_IPV6: u16 = 2;

/// What was negotiated on the established connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    pub(crate) since: Instant,
    pub(crate) asn: u32,
    pub(crate) internal: bool,
    pub(crate) context: UpdateContext,
    pub(crate) options: EncodeOptions,
    pub(crate) families: Vec<Family>,
    /// Families that are taken no more after an error (RFC 7606 §2), by [`Family::index`].
    pub(crate) disabled: [bool; 2],
    pub(crate) hold_time: u16,
    /// Time between KEEPALIVEs; zero sends none.
    pub(crate) keepalive: Duration,
    pub(crate) send_hold: Duration,
    /// Since when octets wait and the peer takes none.
    pub(crate) blocked_since: Option<Instant>,
    pub(crate) local: IpAddr,
    /// The peer takes ROUTE-REFRESH (RFC 2918).
    pub(crate) route_refresh: bool,
    /// Both sides bracket the answers to ROUTE-REFRESH (RFC 7313).
    pub(crate) enhanced_refresh: bool,
    /// Until when a bracketed answer of the peer may take, by family.
    pub(crate) refreshing: [Option<Instant>; 2],
    /// Our role towards the peer, on an external session whose roles fit or whose peer has none (RFC 9234).
    pub(crate) role: Option<Role>,
    /// The peer's graceful restart capability, when both sides have it.
    pub(crate) restart: Option<GracefulRestart>,
    /// The peer takes part in long-lived graceful restart (RFC 9494).
    pub(crate) long_lived: bool,
    /// By family: the F bit of long-lived graceful restart, and how long stale routes may live then.
    pub(crate) long_lived_stale: [Option<(bool, Duration)>; 2],
    /// A warning about too many routes was given, by family.
    pub(crate) max_prefix_warned: [bool; 2],
    /// Families whose End-of-RIB came from the peer.
    pub(crate) end_of_rib_seen: Vec<Family>,
    /// Octets handed to the transport and not yet taken by the kernel.
    pub(crate) in_flight: usize,
}

/// What of a speaker's state goes into its OPEN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnState {
    /// The AS that the peer sees.
    pub(crate) asn: u32,
    /// The speaker has restarted and waits for its peers: the R bit (RFC 4724 §3).
    pub(crate) restarting: bool,
    /// Forwarding state was kept: the F bit.
    pub(crate) forwarding: bool,
}

/// The capabilities that we announce to a peer.
pub(crate) fn capabilities(config: &PeerConfig, own: OwnState) -> Vec<Capability> {
    let families: Vec<Family> = Family::ALL.into_iter().filter(|f| config.families.contains(f)).collect();
    let each = || families.iter().map(|f| AfiSafi::from(*f));
    let mut list: Vec<Capability> = each().map(Capability::Multiprotocol).collect();
    list.push(Capability::RouteRefresh);
    list.push(Capability::EnhancedRouteRefresh);
    list.push(Capability::FourOctetAs(own.asn));
    if config.extended_messages {
        list.push(Capability::ExtendedMessage);
    }
    if config.extended_next_hop && families.contains(&Family::Ipv4) {
        list.push(Capability::ExtendedNextHop(vec![(Family::Ipv4.into(), AFI_IPV6)]));
    }
    if let Some(role) = config.role.filter(|_| config.asn != Some(own.asn)) {
        list.push(Capability::Role(role));
    }
    let add_path = match (config.add_path_receive, config.add_path_send_max.is_some()) {
        (true, true) => Some(AddPathMode::Both),
        (true, false) => Some(AddPathMode::Receive),
        (false, true) => Some(AddPathMode::Send),
        (false, false) => None,
    };
    if let Some(mode) = add_path {
        list.push(Capability::AddPath(each().map(|f| (f, mode)).collect()));
    }
    if config.restart_time > 0 {
        list.push(Capability::GracefulRestart(GracefulRestart {
            restarting: own.restarting,
            notification: true,
            restart_time: config.restart_time.min(4095),
            families: each().map(|f| (f, own.forwarding)).collect(),
        }));
        // It means something only beside graceful restart (RFC 9494 §4.1).
        if let Some(seconds) = config.long_lived_stale_time {
            let families = each().map(|f| (f, own.forwarding, seconds)).collect();
            list.push(Capability::LongLivedGracefulRestart(families));
        }
    }
    list
}

impl Session {
    /// The peer has sent all it has, of every family.
    pub(crate) fn is_heard(&self) -> bool {
        self.families.iter().all(|family| self.end_of_rib_seen.contains(family))
    }

    /// What our settings and the peer's OPEN make together. `local` is our own address on the connection.
    pub(crate) fn negotiate(
        conn: ConnId,
        config: &PeerConfig,
        own_asn: u32,
        open: &Open,
        local: IpAddr,
        now: Instant,
    ) -> Self {
        let internal = open.asn == own_asn;
        let hold_time = config.hold_time().min(open.hold_time);
        let families: Vec<Family> =
            Family::ALL.into_iter().filter(|f| config.families.contains(f) && open.speaks(*f)).collect();
        let mode = |family: Family| open.add_path(family).filter(|_| families.contains(&family));
        let receive = |f| config.add_path_receive && mode(f).is_some_and(AddPathMode::sends);
        let sends = config.add_path_send_max.is_some();
        let send = |f| sends && mode(f).is_some_and(AddPathMode::receives);
        let extended_next_hop = config.extended_next_hop && open.takes_v4_over_v6();
        let restart = open.graceful_restart().filter(|_| config.restart_time > 0).cloned();
        let announced = Family::ALL.map(|f| open.long_lived(f));
        let long_lived = restart.is_some() && config.long_lived_stale_time.is_some() && {
            open.capabilities.iter().any(|c| matches!(c, Capability::LongLivedGracefulRestart(_)))
        };
        let stale = |a: Option<(bool, u32)>| a.map(|(f, s)| (f, Duration::from_secs(u64::from(s))));
        let as4 = open.is_as4();
        Self {
            conn,
            since: now,
            asn: open.asn,
            internal,
            context: UpdateContext {
                as4,
                internal,
                add_path: Family::ALL.map(receive),
                v4_over_v6: extended_next_hop,
            },
            options: EncodeOptions {
                as4,
                extended: config.extended_messages && open.has(&Capability::ExtendedMessage),
                add_path: Family::ALL.map(send),
            },
            families,
            disabled: [false; 2],
            hold_time,
            keepalive: keepalive(hold_time, config.keepalive_interval),
            send_hold: send_hold(hold_time, config.send_hold_time),
            blocked_since: None,
            local,
            route_refresh: open.has(&Capability::RouteRefresh),
            enhanced_refresh: open.has(&Capability::EnhancedRouteRefresh),
            refreshing: [None; 2],
            role: config.role.filter(|_| !internal),
            restart,
            long_lived,
            long_lived_stale: announced.map(|a| stale(a.filter(|_| long_lived))),
            max_prefix_warned: [false; 2],
            end_of_rib_seen: Vec::new(),
            in_flight: 0,
        }
    }

    /// Takes over settings of the peer that need no new OPEN.
    pub(crate) fn update(&mut self, config: &PeerConfig) {
        self.keepalive = keepalive(self.hold_time, config.keepalive_interval);
        self.send_hold = send_hold(self.hold_time, config.send_hold_time);
    }

    /// When the peer must have taken something of what waits (RFC 9687 §3.2).
    pub(crate) fn send_deadline(&self) -> Option<Instant> {
        self.blocked_since.map(|since| since + self.send_hold)
    }
}

/// Time between KEEPALIVEs: the wanted one, but at most a third of the hold time (RFC 4271 §4.4).
fn keepalive(hold_time: u16, wanted: Option<u16>) -> Duration {
    let third = Duration::from_secs(u64::from(hold_time)) / 3;
    wanted.map_or(third, |seconds| third.min(Duration::from_secs(u64::from(seconds.max(1)))))
}

/// How long the peer may take nothing: the wanted time, or the one of RFC 9687 §3.3.
fn send_hold(hold_time: u16, wanted: Option<Duration>) -> Duration {
    wanted.unwrap_or_else(|| LEAST_SEND_HOLD.max(Duration::from_secs(2 * u64::from(hold_time))))
}
