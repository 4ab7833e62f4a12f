//! The table of routes. Owns all paths of all peers (Adj-RIB-In and Loc-RIB in one), what is best, and the
//! order of changes that consumers follow. Never decides what a peer may send or get.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp_packet::{Family, PathAttributes, Prefix};

use crate::decision::{self, Candidate};
use crate::{PeerKey, Reason};

/// Index of a peer in the speaker.
pub(crate) type PeerIndex = u32;

/// Who a path came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Local,
    Peer(PeerIndex),
}

/// Why a path is kept but not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Import policy; the index of the rule, or the default.
    Policy(Option<u16>),
    /// Our own AS is in the AS_PATH (RFC 4271 §9.1.2).
    AsLoop,
    /// Our own identifier is the ORIGINATOR_ID (RFC 4456 §8).
    OwnOriginator,
    /// Our own cluster is in the CLUSTER_LIST (RFC 4456 §8).
    ClusterLoop,
    /// The next hop is ourselves or no usable address (RFC 4271 §5.1.3).
    NextHop,
}

/// One path to a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) source: Source,
    pub(crate) attributes: Arc<PathAttributes>,
    pub(crate) rejection: Option<Rejection>,
    /// Kept from before the peer restarted (RFC 4724 §4.2).
    pub(crate) stale: bool,
}

/// What the table knows of a peer, for decision and counting.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo {
    pub(crate) key: PeerKey,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) external: bool,
    pub(crate) client: bool,
    pub(crate) received: [usize; 2],
    pub(crate) accepted: [usize; 2],
    pub(crate) stale: usize,
}

/// Index of the best path, and the step that decided.
pub(crate) type Best = Option<(usize, Reason)>;

#[derive(Debug, Default)]
struct Entry {
    paths: Vec<Path>,
    best: Best,
    changed: u64,
}

/// Where a route came from, as an owner of the speaker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSource {
    /// Originated here.
    Local,
    /// Learned from this peer.
    Peer(PeerKey),
}

/// A route of the Loc-RIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the best path came from.
    pub source: RouteSource,
    /// Attributes of the best path.
    pub attributes: Arc<PathAttributes>,
    /// Next hops of all paths that are equally good; only the best one's unless `multipath` is on.
    pub next_hops: Vec<IpAddr>,
    /// The best path was learned from a peer of another AS.
    pub external: bool,
    /// The best path is kept from before its peer went away (RFC 4724).
    pub stale: bool,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Rib {
    entries: HashMap<Prefix, Entry>,
    peers: Vec<Option<PeerInfo>>,
    /// Changes in order; an entry whose `changed` is another number is superseded.
    log: Vec<(u64, Prefix)>,
    clock: u64,
    gone: VecDeque<(u64, Prefix)>,
    attributes: HashSet<Arc<PathAttributes>>,
    attributes_limit: usize,
    pub(crate) multipath: bool,
}

fn slot(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl Rib {
    pub(crate) fn set_peer(&mut self, index: PeerIndex, info: PeerInfo) {
        let index = index as usize;
        if self.peers.len() <= index {
            self.peers.resize(index + 1, None);
        }
        let old = self.peers[index].take();
        let (received, accepted, stale) =
            old.map_or(([0; 2], [0; 2], 0), |old| (old.received, old.accepted, old.stale));
        self.peers[index] = Some(PeerInfo { received, accepted, stale, ..info });
    }

    pub(crate) fn forget_peer(&mut self, index: PeerIndex) {
        if let Some(slot) = self.peers.get_mut(index as usize) {
            *slot = None;
        }
    }

    pub(crate) fn peer(&self, index: PeerIndex) -> Option<&PeerInfo> {
        self.peers.get(index as usize)?.as_ref()
    }

    /// Shares equal attributes.
    pub(crate) fn intern(&mut self, attributes: PathAttributes) -> Arc<PathAttributes> {
        if let Some(known) = self.attributes.get(&attributes) {
            return known.clone();
        }
        if self.attributes.len() >= self.attributes_limit {
            self.attributes.retain(|a| Arc::strong_count(a) > 1);
            self.attributes_limit = (self.attributes.len() * 2).max(1024);
        }
        let shared = Arc::new(attributes);
        self.attributes.insert(shared.clone());
        shared
    }

    /// Adds a path, in place of an older one from the same source.
    pub(crate) fn insert(&mut self, prefix: Prefix, path: Path) {
        let entry = self.entries.entry(prefix).or_default();
        let before = entry.identity();
        let source = path.source;
        let at = entry.paths.iter().position(|p| p.source == source);
        let old = match at {
            Some(at) => Some(std::mem::replace(&mut entry.paths[at], path.clone())),
            None => {
                entry.paths.push(path.clone());
                None
            }
        };
        let unchanged = old.as_ref().is_some_and(|old| {
            Arc::ptr_eq(&old.attributes, &path.attributes) && old.rejection == path.rejection
        });
        count(&mut self.peers, prefix, old.as_ref(), Some(&path));
        if !unchanged {
            self.select(prefix, before);
        }
    }

    /// Removes the path of a source.
    pub(crate) fn remove(&mut self, prefix: Prefix, source: Source) {
        let Some(entry) = self.entries.get_mut(&prefix) else { return };
        let before = entry.identity();
        let Some(at) = entry.paths.iter().position(|p| p.source == source) else { return };
        let old = entry.paths.remove(at);
        count(&mut self.peers, prefix, Some(&old), None);
        self.select(prefix, before);
    }

    /// Decides anew about a prefix and logs a change.
    fn select(&mut self, prefix: Prefix, before: Option<(Source, Arc<PathAttributes>)>) {
        let Some(entry) = self.entries.get_mut(&prefix) else { return };
        entry.best = decision::best(candidates(&entry.paths, &self.peers));
        let after = entry.identity();
        let same = match (&before, &after) {
            (Some((s1, a1)), Some((s2, a2))) => s1 == s2 && Arc::ptr_eq(a1, a2),
            (None, None) => true,
            _ => false,
        };
        let multipath_changed = self.multipath && entry.paths.len() > 1;
        if same && !multipath_changed && !(entry.paths.is_empty() && entry.changed == 0) {
            if entry.paths.is_empty() {
                self.gone.push_back((entry.changed, prefix));
            }
            return;
        }
        self.clock += 1;
        entry.changed = self.clock;
        if entry.paths.is_empty() {
            self.gone.push_back((self.clock, prefix));
        }
        self.log.push((self.clock, prefix));
        if self.log.len() > 2 * self.entries.len() + 1024 {
            let entries = &self.entries;
            self.log.retain(|(seq, prefix)| entries.get(prefix).is_some_and(|e| e.changed == *seq));
        }
    }

    /// Number of the newest change.
    pub(crate) fn now(&self) -> u64 {
        self.clock
    }

    /// Up to `limit` log entries after `cursor`, and where the cursor stands then.
    pub(crate) fn changes(&self, cursor: u64, limit: usize) -> (Vec<Prefix>, u64) {
        let start = self.log.partition_point(|(seq, _)| *seq <= cursor);
        let part = &self.log[start..self.log.len().min(start + limit)];
        let current = |(seq, prefix): &(u64, Prefix)| {
            self.entries.get(prefix).filter(|e| e.changed == *seq).map(|_| *prefix)
        };
        let end = part.last().map_or(self.clock, |(seq, _)| *seq);
        (part.iter().filter_map(current).collect(), end)
    }

    /// Drops what no consumer needs any more: empty entries whose change everybody has seen.
    pub(crate) fn collect(&mut self, seen_by_all: u64) {
        while let Some((seq, prefix)) = self.gone.front().copied() {
            if seq > seen_by_all {
                return;
            }
            self.gone.pop_front();
            if self.entries.get(&prefix).is_some_and(|e| e.paths.is_empty() && e.changed <= seq) {
                self.entries.remove(&prefix);
            }
        }
    }

    /// The best path of a prefix.
    pub(crate) fn best(&self, prefix: &Prefix) -> Option<&Path> {
        let entry = self.entries.get(prefix)?;
        entry.best.map(|(index, _)| &entry.paths[index])
    }

    /// All paths of a prefix, with the index of the best and why.
    pub(crate) fn paths(&self, prefix: &Prefix) -> Option<(&[Path], Best)> {
        self.entries.get(prefix).filter(|e| !e.paths.is_empty()).map(|e| (&e.paths[..], e.best))
    }

    /// All prefixes with a path.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &Prefix> {
        self.entries.iter().filter(|(_, e)| !e.paths.is_empty()).map(|(p, _)| p)
    }

    /// The Loc-RIB's route of a prefix.
    pub(crate) fn route(&self, prefix: &Prefix) -> Option<Route> {
        let entry = self.entries.get(prefix)?;
        let best = &entry.paths[entry.best?.0];
        let next_hops = if self.multipath {
            let equal = decision::equal(candidates(&entry.paths, &self.peers));
            let mut hops: Vec<IpAddr> =
                equal.iter().map(|i| entry.paths[*i].attributes.next_hop.address()).collect();
            hops.sort();
            hops.dedup();
            hops
        } else {
            vec![best.attributes.next_hop.address()]
        };
        let (source, external) = match best.source {
            Source::Local => (RouteSource::Local, false),
            Source::Peer(index) => {
                let peer = self.peer(index)?;
                (RouteSource::Peer(peer.key), peer.external)
            }
        };
        let attributes = best.attributes.clone();
        Some(Route { source, attributes, next_hops, external, stale: best.stale })
    }

    /// Walks over all paths of a peer; `visit` says what becomes of each.
    pub(crate) fn visit_peer(&mut self, peer: PeerIndex, mut visit: impl FnMut(&Prefix, &mut Path) -> Keep) {
        if self.peer(peer).is_none_or(|p| p.received == [0, 0]) {
            return;
        }
        let source = Source::Peer(peer);
        let mut touched = Vec::new();
        for (prefix, entry) in &mut self.entries {
            let Some(at) = entry.paths.iter().position(|p| p.source == source) else { continue };
            let before = entry.identity();
            let old = entry.paths[at].clone();
            let new = match visit(prefix, &mut entry.paths[at]) {
                Keep::Drop => {
                    entry.paths.remove(at);
                    None
                }
                Keep::Keep => Some(entry.paths[at].clone()),
            };
            count(&mut self.peers, *prefix, Some(&old), new.as_ref());
            touched.push((*prefix, before));
        }
        touched.into_iter().for_each(|(prefix, before)| self.select(prefix, before));
    }
}

/// What becomes of a path that was visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Keep,
    Drop,
}

impl Entry {
    fn identity(&self) -> Option<(Source, Arc<PathAttributes>)> {
        let (index, _) = self.best?;
        self.paths.get(index).map(|p| (p.source, p.attributes.clone()))
    }
}

fn candidates<'a>(paths: &'a [Path], peers: &[Option<PeerInfo>]) -> Vec<Candidate<'a>> {
    let usable = paths.iter().enumerate().filter(|(_, p)| p.rejection.is_none());
    usable
        .map(|(index, path)| {
            let info = match path.source {
                Source::Local => None,
                Source::Peer(peer) => peers.get(peer as usize).and_then(Option::as_ref),
            };
            Candidate {
                index,
                attributes: &path.attributes,
                local: path.source == Source::Local,
                external: info.is_some_and(|p| p.external),
                router_id: info.map_or(Ipv4Addr::UNSPECIFIED, |p| p.router_id),
                address: info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |p| p.key.address()),
            }
        })
        .collect()
}

/// Keeps the counters of the source's peer.
fn count(peers: &mut [Option<PeerInfo>], prefix: Prefix, old: Option<&Path>, new: Option<&Path>) {
    let Some(Source::Peer(index)) = old.or(new).map(|p| p.source) else { return };
    let Some(Some(info)) = peers.get_mut(index as usize) else { return };
    let slot = slot(prefix.family());
    let one = |path: Option<&Path>, test: fn(&Path) -> bool| usize::from(path.is_some_and(test));
    let accepted: fn(&Path) -> bool = |p| p.rejection.is_none();
    info.received[slot] = info.received[slot] + one(new, |_| true) - one(old, |_| true);
    info.accepted[slot] = info.accepted[slot] + one(new, accepted) - one(old, accepted);
    info.stale = info.stale + one(new, |p| p.stale) - one(old, |p| p.stale);
}
