//! Routes in small portions. Owns the walk over a table of any size: the speaker is asked for a page at a
//! time, so that peers and timers have their turn between pages and memory holds one page only.

use std::net::IpAddr;
use std::sync::Arc;

use bgp::{AdvertisedRoute, PeerKey, Reason, Rejection, RouteSource, RouteStatus, Speaker};
use bgp_packet::{Family, PathAttributes, Prefix};

use crate::Console;

/// Prefixes that are looked at in one turn of the speaker.
const PAGE: usize = 512;

/// Which table is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Every path of every peer.
    Global,
    /// What a peer sent.
    AdjIn(PeerKey),
    /// What a peer has from us.
    AdjOut(PeerKey),
}

/// Which prefixes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All(Option<Family>),
    Exact(Prefix),
    /// The prefix and those inside it.
    Longer(Prefix),
    /// The prefix and those around it.
    Shorter(Prefix),
    /// The longest that holds the address.
    Holding(IpAddr),
}

/// One path that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) prefix: Prefix,
    /// `None` for what is in an Adj-RIB-Out.
    pub(crate) source: Option<RouteSource>,
    pub(crate) attributes: Arc<PathAttributes>,
    pub(crate) best: Option<Reason>,
    /// Why it is not used, in words.
    pub(crate) rejected: Option<String>,
    pub(crate) stale: bool,
    pub(crate) path_id: u32,
}

/// Why routes cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WalkError {
    NoPeer(PeerKey),
    NotRunning,
    Gone,
}

impl std::fmt::Display for WalkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoPeer(peer) => write!(f, "no peer has the address {peer}"),
            Self::NotRunning => f.write_str("the speaker has no settings yet"),
            Self::Gone => f.write_str("the speaker is stopping"),
        }
    }
}

enum Rest {
    Prefixes(std::vec::IntoIter<Prefix>),
    Sent(std::vec::IntoIter<AdvertisedRoute>),
}

/// A walk that has begun.
pub(crate) struct Walk {
    console: Console,
    table: Table,
    rest: Rest,
}

impl Wanted {
    fn takes(&self, prefix: &Prefix) -> bool {
        match self {
            Self::All(family) => family.is_none_or(|f| f == prefix.family()),
            Self::Exact(wanted) => wanted == prefix,
            Self::Longer(wanted) => wanted.contains(prefix),
            Self::Shorter(wanted) => prefix.contains(wanted),
            Self::Holding(address) => prefix.contains_address(*address),
        }
    }
}

impl Walk {
    /// Begins; prefixes come in their order.
    pub(crate) async fn begin(console: &Console, table: Table, wanted: Wanted) -> Result<Self, WalkError> {
        let rest = console.ask(move |subject| {
            let speaker = subject.speaker.as_deref().ok_or(WalkError::NotRunning)?;
            if let Table::AdjIn(peer) | Table::AdjOut(peer) = table
                && speaker.peer_at(peer).is_none()
            {
                return Err(WalkError::NoPeer(peer));
            }
            Ok(match table {
                Table::AdjOut(peer) => {
                    let sent = speaker.advertised(peer).into_iter();
                    let mut sent: Vec<_> = sent.filter(|route| wanted.takes(&route.prefix)).collect();
                    keep_longest(&mut sent, wanted, |route| route.prefix.len());
                    Rest::Sent(sent.into_iter())
                }
                Table::Global | Table::AdjIn(_) => Rest::Prefixes(prefixes(speaker, wanted).into_iter()),
            })
        });
        let rest = rest.await.map_err(|_| WalkError::Gone)??;
        Ok(Self { console: console.clone(), table, rest })
    }

    /// The next paths, those of one prefix always together; `None` at the end.
    pub(crate) async fn page(&mut self) -> Option<Vec<Found>> {
        loop {
            let found = match &mut self.rest {
                Rest::Sent(sent) => {
                    let page: Vec<_> = sent.by_ref().take(PAGE).map(Found::sent).collect();
                    return (!page.is_empty()).then_some(page);
                }
                Rest::Prefixes(prefixes) => {
                    let page: Vec<Prefix> = prefixes.by_ref().take(PAGE).collect();
                    if page.is_empty() {
                        return None;
                    }
                    let from = match self.table {
                        Table::AdjIn(peer) => Some(RouteSource::Peer(peer)),
                        Table::Global | Table::AdjOut(_) => None,
                    };
                    let found = self.console.ask(move |subject| {
                        let speaker = subject.speaker.as_deref()?;
                        let paths = page.iter().flat_map(|prefix| speaker.routes_to(prefix));
                        let paths = paths.filter(|path| from.is_none_or(|from| from == path.source));
                        Some(paths.map(|path| Found::path(path, from.is_some())).collect::<Vec<_>>())
                    });
                    found.await.ok().flatten()?
                }
            };
            if !found.is_empty() {
                return Some(found);
            }
        }
    }
}

fn prefixes(speaker: &Speaker, wanted: Wanted) -> Vec<Prefix> {
    if let Wanted::Exact(prefix) = wanted {
        return vec![prefix];
    }
    let mut prefixes: Vec<Prefix> = speaker.prefixes().filter(|prefix| wanted.takes(prefix)).collect();
    prefixes.sort_unstable();
    keep_longest(&mut prefixes, wanted, Prefix::len);
    prefixes
}

fn keep_longest<T>(found: &mut Vec<T>, wanted: Wanted, len: impl Fn(&T) -> u8) {
    if matches!(wanted, Wanted::Holding(_)) {
        let longest = found.iter().map(&len).max();
        found.retain(|one| Some(len(one)) == longest);
    }
}

impl Found {
    fn sent(route: AdvertisedRoute) -> Self {
        let AdvertisedRoute { prefix, path_id, attributes } = route;
        Self { prefix, source: None, attributes, best: None, rejected: None, stale: false, path_id }
    }

    /// An Adj-RIB-In holds what was received, the table what policy made of it.
    pub(crate) fn path(status: RouteStatus, as_received: bool) -> Self {
        let rejected_by = status.rejected_by;
        Self {
            prefix: status.prefix,
            source: Some(status.source),
            attributes: if as_received { status.received } else { status.attributes },
            best: status.best,
            rejected: status.rejection.map(|rejection| rejection_text(rejection, rejected_by)),
            stale: status.stale,
            path_id: status.path_id,
        }
    }
}

fn rejection_text(rejection: Rejection, rule: Option<String>) -> String {
    match rejection {
        Rejection::Policy(_) => format!("import policy: {}", rule.unwrap_or_else(|| "default".to_owned())),
        Rejection::AsLoop => "own AS is in the AS path".to_owned(),
        Rejection::OwnOriginator => "originated by this speaker".to_owned(),
        Rejection::ClusterLoop => "own cluster is in the cluster list".to_owned(),
        Rejection::NextHop => "the next hop is ourselves or no usable address".to_owned(),
        Rejection::NoPolicy => "the external peer has no import policy (RFC 8212)".to_owned(),
        Rejection::RouteLeak => "route leak: it must not come from this peer (RFC 9234)".to_owned(),
        Rejection::NextHopUnreachable => "no route leads to the next hop".to_owned(),
    }
}
