//! Peers in GoBGP's words, and what may be done to them.

use bgp::{Cause, MessageCounts, PeerConfig, PeerKey, PeerState, PeerStatus, Speaker};
use bgp_packet::{AfiSafi, Capability, Family, GracefulRestart};
use proto::gobgp::{self as api, Any};
use proto::speaker::request::Action;
use tonic::Status;

use super::{Answers, Service, family, parse_peer, timestamp};
use crate::Subject;
use crate::framed::act;

impl Service {
    pub(super) async fn list_peer(
        self,
        request: api::ListPeerRequest,
    ) -> Result<Answers<api::ListPeerResponse>, Status> {
        let wanted = match request.address.as_str() {
            "" => None,
            text => Some(parse_peer(text)?),
        };
        let answer = self.ask(move |speaker, subject| {
            let peers = match wanted {
                Some(key) => speaker.peer_at(key).into_iter().collect(),
                None => speaker.peers(),
            };
            let tell = |status: &PeerStatus| peer(speaker, subject, status, request.enable_advertised);
            Ok(peers.iter().map(tell).collect::<Vec<_>>())
        });
        let peers = answer.await?.into_iter();
        let responses = peers.map(|peer| Ok(api::ListPeerResponse { peer: Some(peer) }));
        Ok(Box::pin(futures_util::stream::iter(responses)))
    }

    pub(super) async fn reset_peer(self, request: api::ResetPeerRequest) -> Result<api::Empty, Status> {
        let direction = api::SoftResetDirection::try_from(request.direction);
        let action = match (request.soft, direction) {
            (false, _) => Action::Reset,
            (true, Ok(api::SoftResetDirection::In)) => Action::SoftResetIn,
            (true, Ok(api::SoftResetDirection::Out)) => Action::SoftResetOut,
            (true, Ok(api::SoftResetDirection::Both)) => Action::SoftReset,
            (true, Err(_)) => return Err(Status::invalid_argument("the direction is none of IN, OUT, BOTH")),
        };
        self.steer(request.address, action, request.communication).await
    }

    pub(super) async fn enable_peer(self, request: api::PeerRequest) -> Result<api::Empty, Status> {
        self.steer(request.address, Action::Enable, String::new()).await
    }

    pub(super) async fn disable_peer(self, request: api::PeerRequest) -> Result<api::Empty, Status> {
        self.steer(request.address, Action::Disable, request.communication).await
    }

    async fn steer(self, address: String, action: Action, text: String) -> Result<api::Empty, Status> {
        self.ask(move |speaker, subject| {
            let peers: Vec<PeerKey> = if matches!(address.as_str(), "" | "all") {
                speaker.peers().iter().map(|status| status.peer).collect()
            } else {
                vec![parse_peer(&address)?]
            };
            for peer in peers {
                let known = speaker.peer_at(peer).is_some() || speaker.switched_off().any(|off| off == peer);
                let outcome = act(speaker, peer, action, &text, subject.now);
                outcome.map_err(|why| match known {
                    true => Status::failed_precondition(why),
                    false => Status::not_found(why),
                })?;
                tracing::info!(%peer, ?action, "operator");
            }
            Ok(api::Empty {})
        })
        .await
    }
}

pub(super) fn peer(
    speaker: &Speaker,
    subject: &Subject<'_>,
    status: &PeerStatus,
    advertised: bool,
) -> api::Peer {
    let default = PeerConfig::new(0);
    let config = speaker.peer_config(status.peer).unwrap_or(&default);
    let kind = if status.internal { api::PeerType::Internal } else { api::PeerType::External };
    let address = status.peer.to_string();
    let local_asn = config.local_asn.unwrap_or(speaker.config().asn);
    let cluster = speaker.config().cluster_id.filter(|_| status.reflector_client);
    api::Peer {
        conf: Some(api::PeerConf {
            description: status.description.clone(),
            local_asn,
            neighbor_address: address.clone(),
            peer_asn: config.asn.unwrap_or(0),
            r#type: kind.into(),
            neighbor_interface: String::new(),
            allow_own_asn: config.allow_own_as,
            admin_down: config.admin_down,
        }),
        route_reflector: Some(api::RouteReflector {
            route_reflector_client: status.reflector_client,
            route_reflector_cluster_id: cluster.map(|id| id.to_string()).unwrap_or_default(),
        }),
        state: Some(state(status, local_asn, kind)),
        timers: Some(timers(subject, status, config)),
        transport: Some(api::Transport {
            local_address: status.local_address.map(|a| a.to_string()).unwrap_or_default(),
            passive_mode: config.passive,
            remote_address: address,
            remote_port: u32::from(config.port),
        }),
        route_server: Some(api::RouteServer { route_server_client: false }),
        graceful_restart: Some(graceful_restart(speaker, status, config)),
        afi_safis: status.families.iter().map(|f| afi_safi(speaker, status, *f, advertised)).collect(),
        ttl_security: config
            .ttl_security
            .map(|hops| api::TtlSecurity { enabled: true, ttl_min: 256 - u32::from(hops.max(1)) }),
    }
}

pub(super) fn session(state: PeerState) -> api::SessionState {
    match state {
        PeerState::Idle => api::SessionState::Idle,
        PeerState::Connect => api::SessionState::Connect,
        PeerState::Active => api::SessionState::Active,
        PeerState::OpenSent => api::SessionState::OpenSent,
        PeerState::OpenConfirm => api::SessionState::OpenConfirm,
        PeerState::Established => api::SessionState::Established,
    }
}

pub(super) fn state(status: &PeerStatus, local_asn: u32, kind: api::PeerType) -> api::PeerState {
    let session = session(status.state);
    let admin = match &status.cause {
        Cause::AdminDown | Cause::Disabled(_) if session != api::SessionState::Established => {
            api::AdminState::Down
        }
        Cause::MaxPrefix { .. } if session == api::SessionState::Idle => api::AdminState::PfxCt,
        _ => api::AdminState::Up,
    };
    // The client shows no other place for it.
    let cause = match status.state {
        PeerState::Established => status.description.clone(),
        _ => format!("{}: {}", status.description, status.cause),
    };
    api::PeerState {
        description: cause,
        local_asn,
        messages: Some(api::Messages {
            received: Some(counts(&status.messages_received)),
            sent: Some(counts(&status.messages_sent)),
        }),
        neighbor_address: status.peer.to_string(),
        peer_asn: status.asn.unwrap_or(0),
        r#type: kind.into(),
        queues: Some(api::Queues { input: 0, output: u32::try_from(status.in_flight).unwrap_or(u32::MAX) }),
        session_state: session.into(),
        admin_state: admin.into(),
        flops: u32::try_from(status.flaps).unwrap_or(u32::MAX),
        remote_cap: status.capabilities_received.iter().map(capability).collect(),
        local_cap: status.capabilities_sent.iter().map(capability).collect(),
        router_id: status.router_id.map(|id| id.to_string()).unwrap_or_default(),
    }
}

fn counts(counts: &MessageCounts) -> api::MessageCounts {
    api::MessageCounts {
        notification: counts.notification,
        update: counts.update,
        open: counts.open,
        keepalive: counts.keepalive,
        refresh: counts.route_refresh,
        discarded: 0,
        total: counts.total(),
    }
}

fn timers(subject: &Subject<'_>, status: &PeerStatus, config: &PeerConfig) -> api::Timers {
    let hold_time = u64::from(config.hold_time);
    let negotiated = if status.state == PeerState::Established { u64::from(status.hold_time) } else { 0 };
    let last = |up: bool| {
        let turn = status.history.iter().find(|turn| turn.cause.is_none() == up);
        turn.map(|turn| timestamp(subject.wall(turn.at)))
    };
    // GoBGP gives both times as soon as there was one session.
    let uptime =
        if status.sessions > 0 { last(true).or(Some(timestamp(subject.wall(status.since)))) } else { None };
    api::Timers {
        config: Some(api::TimersConfig { hold_time, keepalive_interval: hold_time / 3 }),
        state: Some(api::TimersState {
            hold_time,
            keepalive_interval: negotiated / 3,
            negotiated_hold_time: negotiated,
            uptime,
            downtime: last(false),
        }),
    }
}

fn graceful_restart(speaker: &Speaker, status: &PeerStatus, config: &PeerConfig) -> api::GracefulRestart {
    let theirs = status.capabilities_received.iter().find_map(|capability| match capability {
        Capability::GracefulRestart(gr) => Some(gr),
        _ => None,
    });
    api::GracefulRestart {
        enabled: config.restart_time > 0,
        restart_time: u32::from(config.restart_time),
        notification_enabled: theirs.is_some_and(|gr| gr.notification),
        peer_restart_time: theirs.map_or(0, |gr| u32::from(gr.restart_time)),
        peer_restarting: status.stale > 0,
        local_restarting: speaker.is_restarting(),
    }
}

fn afi_safi(speaker: &Speaker, status: &PeerStatus, of: Family, advertised: bool) -> api::AfiSafi {
    // Counting by family looks at every route, so it is done for a single peer only.
    let advertised = if advertised {
        speaker.advertised(status.peer).iter().filter(|route| route.prefix.family() == of).count()
    } else {
        0
    };
    api::AfiSafi {
        config: Some(api::AfiSafiConfig { family: Some(family(of)), enabled: true }),
        state: Some(api::AfiSafiState {
            family: Some(family(of)),
            enabled: true,
            received: status.received_by_family[of.index()] as u64,
            accepted: status.accepted_by_family[of.index()] as u64,
            advertised: advertised as u64,
        }),
    }
}

fn pair(family: AfiSafi) -> Option<api::Family> {
    Some(api::Family { afi: i32::from(family.afi), safi: i32::from(family.safi) })
}

fn capability(capability: &Capability) -> Any {
    match capability {
        Capability::Multiprotocol(family) => {
            let message = api::MultiProtocolCapability { family: pair(*family) };
            Any::pack("MultiProtocolCapability", &message)
        }
        Capability::RouteRefresh => Any::pack("RouteRefreshCapability", &api::RouteRefreshCapability {}),
        Capability::EnhancedRouteRefresh => {
            Any::pack("EnhancedRouteRefreshCapability", &api::EnhancedRouteRefreshCapability {})
        }
        Capability::FourOctetAs(asn) => {
            Any::pack("FourOctetASNCapability", &api::FourOctetAsnCapability { asn: *asn })
        }
        Capability::GracefulRestart(gr) => Any::pack("GracefulRestartCapability", &restart_capability(gr)),
        Capability::AddPath(families) => {
            let tuple = |(family, mode): &(AfiSafi, bgp_packet::AddPathMode)| api::AddPathCapabilityTuple {
                family: pair(*family),
                mode: *mode as i32,
            };
            let tuples = families.iter().map(tuple).collect();
            Any::pack("AddPathCapability", &api::AddPathCapability { tuples })
        }
        Capability::LongLivedGracefulRestart(families) => {
            let tuple = |(family, kept, time): &(AfiSafi, bool, u32)| {
                let flags = if *kept { 0x80 } else { 0 };
                api::LongLivedGracefulRestartCapabilityTuple { family: pair(*family), flags, time: *time }
            };
            let tuples = families.iter().map(tuple).collect();
            let message = api::LongLivedGracefulRestartCapability { tuples };
            Any::pack("LongLivedGracefulRestartCapability", &message)
        }
        Capability::ExtendedNextHop(families) => {
            let tuple = |(family, afi): &(AfiSafi, u16)| api::ExtendedNexthopCapabilityTuple {
                nlri_family: pair(*family),
                nexthop_family: pair(AfiSafi { afi: *afi, safi: family.safi }),
            };
            let tuples = families.iter().map(tuple).collect();
            Any::pack("ExtendedNexthopCapability", &api::ExtendedNexthopCapability { tuples })
        }
        // GoBGP 3.10 has no words for these.
        Capability::ExtendedMessage => unknown(6, Vec::new()),
        Capability::Role(role) => unknown(9, vec![*role as u8]),
        Capability::Unknown { code, value } => unknown(*code, value.clone()),
    }
}

fn unknown(code: u8, value: Vec<u8>) -> Any {
    Any::pack("UnknownCapability", &api::UnknownCapability { code: u32::from(code), value })
}

fn restart_capability(gr: &GracefulRestart) -> api::GracefulRestartCapability {
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    let tuple = |(family, kept): &(AfiSafi, bool)| api::GracefulRestartCapabilityTuple {
        family: pair(*family),
        flags: flag(*kept, 0x80),
    };
    api::GracefulRestartCapability {
        flags: flag(gr.restarting, 8) | flag(gr.notification, 4),
        time: u32::from(gr.restart_time),
        tuples: gr.families.iter().map(tuple).collect(),
    }
}
