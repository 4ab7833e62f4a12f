//! Paths in GoBGP's words: lists of any length, counts, and paths that an operator originates.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use bgp::{PeerState, RouteSource};
use bgp_packet::{Family, Prefix};
use futures_util::{StreamExt, stream};
use proto::gobgp as api;
use tonic::Status;

use super::attributes::{encode, nlri, parse, parse_nlri};
use super::{Answers, Service, family, parse_family, parse_peer, timestamp};
use crate::routes::{Found, Table, Walk, WalkError, Wanted};

/// Most paths that may be added through the API.
const MAX_ADDED: usize = 10_000;

/// Prefixes that were added through the API: only these can be deleted through it.
#[derive(Clone, Debug, Default)]
pub(super) struct Added(Arc<Mutex<BTreeSet<Prefix>>>);

impl Added {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Prefix>> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

impl From<WalkError> for Status {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::NoPeer(_) => Self::not_found(error.to_string()),
            WalkError::NotRunning | WalkError::Gone => Self::unavailable(error.to_string()),
        }
    }
}

impl Service {
    pub(super) async fn list_path(
        self,
        request: api::ListPathRequest,
    ) -> Result<Answers<api::ListPathResponse>, Status> {
        let table = table(request.table_type, &request.name)?;
        let wanted = match request.prefixes.as_slice() {
            [] => Wanted::All(parse_family(request.family.as_ref())?),
            [one] => lookup(one)?,
            _ => return Err(Status::invalid_argument("one prefix at a time")),
        };
        let (origins, started) = self.origins().await?;
        let walk = Walk::begin(&self.console, table, wanted).await?;
        let pages =
            stream::unfold(walk, |mut walk| async move { walk.page().await.map(|page| (page, walk)) });
        let responses = pages.flat_map(move |page| {
            let destinations = destinations(page, &origins, started, matches!(table, Table::AdjOut(_)));
            let responses = destinations.into_iter();
            stream::iter(responses.map(|d| Ok(api::ListPathResponse { destination: Some(d) })))
        });
        Ok(Box::pin(responses))
    }

    /// What is told of the peers that paths came from, and since when the speaker is there.
    pub(super) async fn origins(&self) -> Result<(Vec<Origin>, api::Timestamp), Status> {
        self.ask(|speaker, subject| {
            let origin = |status: &bgp::PeerStatus| {
                let up = status.state == PeerState::Established;
                Origin::new(status, up.then(|| timestamp(subject.wall(status.since))))
            };
            let started = subject.owner.started.unwrap_or(subject.now);
            Ok((speaker.peers().iter().map(origin).collect(), timestamp(subject.wall(started))))
        })
        .await
    }

    pub(super) async fn get_table(
        self,
        request: api::GetTableRequest,
    ) -> Result<api::GetTableResponse, Status> {
        let table = table(request.table_type, &request.name)?;
        let wanted = Wanted::All(parse_family(request.family.as_ref())?);
        let mut walk = Walk::begin(&self.console, table, wanted).await?;
        let mut counts = api::GetTableResponse::default();
        while let Some(page) = walk.page().await {
            counts.num_path += page.len() as u64;
            counts.num_destination += page.chunk_by(|a, b| a.prefix == b.prefix).count() as u64;
            if matches!(table, Table::AdjIn(_)) {
                counts.num_accepted += page.iter().filter(|f| f.rejected.is_none()).count() as u64;
            }
        }
        Ok(counts)
    }

    pub(super) async fn add_path(self, request: api::AddPathRequest) -> Result<api::AddPathResponse, Status> {
        only_global(request.table_type)?;
        let path = request.path.ok_or_else(|| Status::invalid_argument("path is missing"))?;
        let prefix = parse_nlri(path.nlri.as_ref())?;
        let attributes = parse(&prefix, &path.pattrs)?;
        let added = self.added.clone();
        self.ask(move |speaker, _| {
            let mut added = added.lock();
            let local = speaker.routes_to(&prefix).iter().any(|r| r.source == RouteSource::Local);
            if local && !added.contains(&prefix) {
                let why = format!("{prefix} is originated by the speaker's own configuration");
                return Err(Status::already_exists(why));
            }
            if added.len() >= MAX_ADDED && !added.contains(&prefix) {
                return Err(Status::resource_exhausted(format!("{MAX_ADDED} paths were added already")));
            }
            speaker.originate(prefix, attributes);
            added.insert(prefix);
            tracing::info!(%prefix, "operator adds a path");
            Ok(api::AddPathResponse { uuid: prefix.to_string().into_bytes() })
        })
        .await
    }

    pub(super) async fn delete_path(self, request: api::DeletePathRequest) -> Result<api::Empty, Status> {
        only_global(request.table_type)?;
        let of = parse_family(request.family.as_ref())?;
        let prefix = match (&request.path, std::str::from_utf8(&request.uuid)) {
            (Some(path), _) => Some(parse_nlri(path.nlri.as_ref())?),
            (None, Ok("")) => None,
            (None, uuid) => {
                let prefix = uuid.ok().and_then(|text| text.parse().ok());
                Some(prefix.ok_or_else(|| Status::not_found("no path has this uuid"))?)
            }
        };
        let added = self.added.clone();
        self.ask(move |speaker, _| {
            let mut added = added.lock();
            let gone: Vec<Prefix> = match prefix {
                Some(prefix) if added.contains(&prefix) => vec![prefix],
                Some(prefix) => {
                    return Err(Status::not_found(format!("{prefix} was not added through this API")));
                }
                None => added.iter().filter(|p| of.is_none_or(|of| of == p.family())).copied().collect(),
            };
            for prefix in gone {
                speaker.withdraw(prefix);
                added.remove(&prefix);
                tracing::info!(%prefix, "operator deletes a path");
            }
            Ok(api::Empty {})
        })
        .await
    }
}

/// What is told of a path's peer.
pub(super) struct Origin {
    peer: bgp::PeerKey,
    asn: u32,
    id: String,
    external: bool,
    since: Option<api::Timestamp>,
}

impl Origin {
    /// `since` is when its session began.
    pub(super) fn new(status: &bgp::PeerStatus, since: Option<api::Timestamp>) -> Self {
        Self {
            peer: status.peer,
            asn: status.asn.unwrap_or(0),
            id: status.router_id.map(|id| id.to_string()).unwrap_or_default(),
            external: !status.internal,
            since,
        }
    }
}

fn table(kind: i32, name: &str) -> Result<Table, Status> {
    match api::TableType::try_from(kind) {
        Ok(api::TableType::Global) => Ok(Table::Global),
        Ok(api::TableType::AdjIn) => parse_peer(name).map(Table::AdjIn),
        Ok(api::TableType::AdjOut) => parse_peer(name).map(Table::AdjOut),
        Ok(api::TableType::Local) => {
            Err(Status::invalid_argument("peers have no table of their own: no route server runs here"))
        }
        Ok(api::TableType::Vrf) => Err(Status::invalid_argument("this speaker has no VRFs")),
        Err(_) => Err(Status::invalid_argument("there is no such table")),
    }
}

fn only_global(kind: i32) -> Result<(), Status> {
    if kind == i32::from(api::TableType::Global) {
        return Ok(());
    }
    Err(Status::invalid_argument("paths are added to the global table only"))
}

fn lookup(lookup: &api::TableLookupPrefix) -> Result<Wanted, Status> {
    let text = lookup.prefix.as_str();
    if let Ok(address) = text.parse() {
        return Ok(Wanted::Holding(address));
    }
    let prefix: Prefix =
        text.parse().map_err(|e: bgp_packet::InvalidPrefix| Status::invalid_argument(e.to_string()))?;
    match api::LookupType::try_from(lookup.r#type) {
        Ok(api::LookupType::Exact) => Ok(Wanted::Exact(prefix)),
        Ok(api::LookupType::Longer) => Ok(Wanted::Longer(prefix)),
        Ok(api::LookupType::Shorter) => Ok(Wanted::Shorter(prefix)),
        Err(_) => Err(Status::invalid_argument("the lookup is none of EXACT, LONGER, SHORTER")),
    }
}

/// Puts the paths of a page together by prefix, the best one first as GoBGP does.
fn destinations(
    page: Vec<Found>,
    origins: &[Origin],
    started: api::Timestamp,
    sent: bool,
) -> Vec<api::Destination> {
    let groups = page.chunk_by(|a, b| a.prefix == b.prefix);
    groups
        .map(|group| {
            let mut paths: Vec<api::Path> = group.iter().map(|f| path(f, origins, started, sent)).collect();
            paths.sort_by_key(|path| !path.best);
            api::Destination { prefix: group[0].prefix.to_string(), paths }
        })
        .collect()
}

pub(super) fn path(found: &Found, origins: &[Origin], started: api::Timestamp, sent: bool) -> api::Path {
    let of: Family = found.prefix.family();
    let mut path = api::Path {
        nlri: Some(nlri(&found.prefix)),
        pattrs: encode(&found.prefix, &found.attributes),
        age: Some(started),
        best: found.best.is_some(),
        family: Some(family(of)),
        filtered: found.rejected.is_some(),
        stale: found.stale,
        ..api::Path::default()
    };
    match sent {
        true => path.local_identifier = found.path_id,
        false => path.identifier = found.path_id,
    }
    if let Some(RouteSource::Peer(peer)) = found.source {
        path.neighbor_ip = peer.to_string();
        if let Some(origin) = origins.iter().find(|origin| origin.peer == peer) {
            path.source_asn = origin.asn;
            path.source_id = origin.id.clone();
            path.is_from_external = origin.external;
            path.age = origin.since.or(path.age);
        }
    }
    path
}
