//! Changes in GoBGP's words, as they happen: states of sessions, and best paths.

use std::time::SystemTime;

use bgp::PeerState;
use futures_util::{StreamExt, stream};
use proto::gobgp::{self as api, PeerEventType, WatchFilterType, WatchedEvent};
use tonic::Status;

use super::attributes::nlri;
use super::paths::{Origin, path};
use super::peers::{peer, session, state};
use super::{Answers, Service, family, timestamp};
use crate::routes::{Found, Table, Walk, Wanted};
use crate::watchers::{Change, End, Interest, ROOM, TooMany, Watch};

impl Service {
    pub(super) async fn watch_event(
        self,
        request: api::WatchEventRequest,
    ) -> Result<Answers<api::WatchEventResponse>, Status> {
        let (interest, current) = interest(&request)?;
        let watchers = self.console.observers.watchers.clone();
        let begun = self.ask(move |speaker, subject| {
            let watch = watchers.add(speaker, interest, ROOM).map_err(|TooMany| {
                Status::resource_exhausted("as many watch this speaker already as may at a time")
            })?;
            let mut peers = Vec::new();
            if interest.peers {
                let tell = |status| peer(speaker, subject, status, false);
                peers =
                    speaker.peers().iter().map(|s| about_peer(PeerEventType::Init, Some(tell(s)))).collect();
                peers.push(about_peer(PeerEventType::EndOfInit, None));
            }
            Ok((watch, peers))
        });
        let (watch, peers) = begun.await?;
        let first = stream::iter(peers.into_iter().map(Ok));
        let changes = changes(watch);
        if !current {
            return Ok(Box::pin(first.chain(changes)));
        }
        // The watch has begun already: what changes during the walk is told after it.
        let (origins, started) = self.origins().await?;
        let walk = Walk::begin(&self.console, Table::Global, Wanted::All(None)).await?;
        let pages =
            stream::unfold(walk, |mut walk| async move { walk.page().await.map(|page| (page, walk)) });
        let routes = pages.flat_map(move |page| {
            let best = page.iter().filter(|found| found.best.is_some());
            let told: Vec<_> = best.map(|found| about_path(path(found, &origins, started, false))).collect();
            stream::iter(told.into_iter().map(Ok))
        });
        Ok(Box::pin(first.chain(routes).chain(changes)))
    }
}

/// What is wanted, and whether the routes that there are come first.
fn interest(request: &api::WatchEventRequest) -> Result<(Interest, bool), Status> {
    let filters = request.table.as_ref().map_or(&[][..], |table| &table.filters);
    let best = i32::from(WatchFilterType::Best);
    if filters.iter().any(|filter| filter.r#type != best) {
        return Err(Status::unimplemented(
            "this speaker tells of best paths (gobgp monitor global rib) and of sessions (gobgp monitor neighbor) only",
        ));
    }
    let interest = Interest { peers: request.peer.is_some(), routes: !filters.is_empty() };
    if !interest.peers && !interest.routes {
        return Err(Status::invalid_argument("neither sessions nor a table are asked for"));
    }
    Ok((interest, filters.iter().any(|filter| filter.init)))
}

/// All changes, and at last why there are no more.
fn changes(watch: Watch) -> impl stream::Stream<Item = Result<api::WatchEventResponse, Status>> + Send {
    stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        match watch.next().await {
            Ok(change) => Some((Ok(tell(&change)), Some(watch))),
            Err(end) => Some((Err(why(end)), None)),
        }
    })
}

fn why(end: End) -> Status {
    match end {
        End::Slow => Status::resource_exhausted(format!(
            "more than {ROOM} changes waited to be read: this watch is too slow and was cut off; watch again"
        )),
        End::Gone => Status::unavailable("the speaker is stopping"),
    }
}

fn tell(change: &Change) -> api::WatchEventResponse {
    let now = timestamp(SystemTime::now());
    match change {
        Change::Peer { peer, state: at, local_asn, status } => {
            let address = peer.to_string();
            let mut told = match status {
                None => api::PeerState { neighbor_address: address.clone(), ..api::PeerState::default() },
                Some(status) => {
                    let kind =
                        if status.internal { api::PeerType::Internal } else { api::PeerType::External };
                    state(status, *local_asn, kind)
                }
            };
            // It may have gone on since then.
            told.session_state = session(*at).into();
            if *at == PeerState::Established {
                told.admin_state = api::AdminState::Up.into();
            }
            let conf = api::PeerConf {
                local_asn: *local_asn,
                neighbor_address: address,
                peer_asn: told.peer_asn,
                ..api::PeerConf::default()
            };
            let message = api::Peer { conf: Some(conf), state: Some(told), ..api::Peer::default() };
            about_peer(PeerEventType::State, Some(message))
        }
        Change::Route { prefix, best: None, .. } => about_path(api::Path {
            nlri: Some(nlri(prefix)),
            age: Some(now),
            is_withdraw: true,
            family: Some(family(prefix.family())),
            ..api::Path::default()
        }),
        Change::Route { best: Some(best), from, .. } => about_path(known(best, from.as_deref(), now)),
    }
}

/// A path that has just come; its age is that of the news.
fn known(best: &Found, from: Option<&bgp::PeerStatus>, now: api::Timestamp) -> api::Path {
    let origin = from.map(|status| Origin::new(status, None));
    path(best, origin.as_slice(), now, false)
}

fn about_peer(kind: PeerEventType, peer: Option<api::Peer>) -> api::WatchEventResponse {
    let event = api::PeerEvent { r#type: kind.into(), peer };
    api::WatchEventResponse { event: Some(WatchedEvent::Peer(Box::new(event))) }
}

fn about_path(path: api::Path) -> api::WatchEventResponse {
    let event = api::TableEvent { paths: vec![path] };
    api::WatchEventResponse { event: Some(WatchedEvent::Table(event)) }
}
