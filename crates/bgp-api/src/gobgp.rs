//! GoBGP's public gRPC API. Owns which calls are answered, how, and with which status a call is refused.
//!
//! Gives the `gobgp` client what it needs to look and to steer; settings come from the cluster or from a
//! file and are not changed here.

mod attributes;
mod calls;
mod paths;
mod peers;
mod watch;

use bgp::Speaker;
use operator_socket::grpc::Answers;
use proto::gobgp as api;
use tonic::Status;

use crate::console::Gone;
use crate::{Console, Subject};

pub(crate) use calls::answer;

/// The service: a way to the speaker, and what was added through it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    console: Console,
    added: paths::Added,
}

impl Service {
    pub(crate) fn new(console: Console) -> Self {
        Self { console, added: paths::Added::default() }
    }

    /// Lets `work` see the speaker in its turn.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Speaker, &Subject<'_>) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let answer = self.console.ask(|subject| {
            let Some(speaker) = subject.speaker.take() else {
                let why = subject.owner.problems.join("; ");
                return Err(Status::unavailable(format!("the speaker has no settings yet: {why}")));
            };
            work(speaker, subject)
        });
        answer.await.unwrap_or_else(|Gone| Err(Status::unavailable("the speaker is stopping")))
    }

    async fn get_bgp(self, _: api::GetBgpRequest) -> Result<api::GetBgpResponse, Status> {
        self.ask(|speaker, subject| {
            let config = speaker.config();
            let listening = &subject.owner.listening;
            let families = bgp_packet::Family::ALL.map(|family| {
                let family = bgp_packet::AfiSafi::from(family);
                u32::from(family.afi) << 16 | u32::from(family.safi)
            });
            let global = api::Global {
                asn: config.asn,
                router_id: config.router_id.to_string(),
                // GoBGP says -1 when it does not listen.
                listen_port: listening.first().map_or(-1, |address| i32::from(address.port())),
                listen_addresses: listening.iter().map(|address| address.ip().to_string()).collect(),
                families: families.to_vec(),
                use_multiple_paths: config.max_paths > 1,
                graceful_restart: Some(api::GracefulRestart {
                    enabled: true,
                    local_restarting: speaker.is_restarting(),
                    ..api::GracefulRestart::default()
                }),
            };
            Ok(api::GetBgpResponse { global: Some(global) })
        })
        .await
    }
}

fn family(family: bgp_packet::Family) -> api::Family {
    let pair = bgp_packet::AfiSafi::from(family);
    api::Family { afi: i32::from(pair.afi), safi: i32::from(pair.safi) }
}

/// The family of a request; only unicast is spoken.
fn parse_family(family: Option<&api::Family>) -> Result<Option<bgp_packet::Family>, Status> {
    let Some(family) = family.filter(|f| (f.afi, f.safi) != (0, 0)) else { return Ok(None) };
    match (family.afi, family.safi) {
        (1, 1) => Ok(Some(bgp_packet::Family::Ipv4)),
        (2, 1) => Ok(Some(bgp_packet::Family::Ipv6)),
        (afi, safi) => Err(Status::invalid_argument(format!(
            "AFI {afi} SAFI {safi}: this speaker has IPv4 and IPv6 unicast only"
        ))),
    }
}

fn parse_peer(text: &str) -> Result<bgp::PeerKey, Status> {
    crate::framed::peer_key(text).map_err(Status::invalid_argument)
}

fn timestamp(time: std::time::SystemTime) -> api::Timestamp {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    api::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
