//! The table of routes. Owns all paths of all peers (Adj-RIB-In and Loc-RIB in one), what is best, and which
//! entries have changed since consumers looked. Never decides what a peer may send or get.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp_packet::{Family, PathAttributes, Prefix};

use crate::decision::{self, Candidate};
use crate::hash::Seed;
use crate::intern::{AttrId, AttributeTable, Marks};
use crate::next_hops::NextHops;
pub(crate) use crate::path::PeerIndex;
use crate::path::{Path, Paths, Rejection, Source};
use crate::sent::SentTable;
use crate::table::{NO_BEST, Node, Slot, Table};
use crate::{PeerKey, Reason, Start};

/// What the decision must know of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerInfo {
    pub(crate) key: PeerKey,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) external: bool,
    pub(crate) client: bool,
    /// Others cannot reach it: its next hops mean something on this host only.
    pub(crate) only_here: bool,
}

/// How many paths of a peer are kept, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) received: [usize; 2],
    pub(crate) accepted: [usize; 2],
    pub(crate) stale: usize,
}

/// A peer that has, or had, a session.
#[derive(Clone, Debug)]
struct Known {
    info: PeerInfo,
    tally: Tally,
    /// Where its paths are: at least all slots that have one. `None` when it has so many that a walk over
    /// the whole table is no dearer.
    slots: Option<Vec<Slot>>,
}

/// Fewer entries without a path are left alone unless they are most of the table.
const FEW_GONE: usize = 1024;

/// A list of slots is kept for a peer with fewer paths than this, or less than a quarter of the table.
const LISTED: usize = 4096;

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
    /// Next hops of all paths that are equally good, up to `Config::max_paths`; link-local ones with the link that
    /// they are behind.
    pub next_hops: Vec<PeerKey>,
    /// The best path was learned from a peer of another AS.
    pub external: bool,
    /// The best path is kept from before its peer went away (RFC 4724).
    pub stale: bool,
}

/// What consumers see of the best path.
type Identity = Option<(Source, u32, AttrId, bool, bool)>;

/// The table.
#[derive(Debug)]
pub(crate) struct Rib {
    pub(crate) attributes: AttributeTable,
    /// What peers have from us.
    pub(crate) sent: SentTable,
    pub(crate) hops: NextHops,
    /// How many equally good paths a route may have.
    pub(crate) max_paths: usize,
    /// Interfaces of routes that are originated here, where they are known.
    pub(crate) interfaces: HashMap<Prefix, Arc<str>>,
    table: Table,
    peers: Vec<Option<Known>>,
    changed: Vec<Slot>,
    /// Prefixes with another best path, while somebody watches.
    pub(crate) watched: Option<BTreeSet<Prefix>>,
    /// For the owner, when there is one that takes changes.
    reported: Option<VecDeque<Slot>>,
    /// Entries without a path, which consumers may still have to hear of.
    pub(crate) gone: Vec<Slot>,
}

/// What becomes of a path that was visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Keep,
    Drop,
}

impl Rib {
    pub(crate) fn new(start: Start) -> Self {
        let seed = Seed::new(start.seed);
        Self {
            attributes: AttributeTable::new(seed),
            sent: SentTable::new(seed),
            hops: NextHops::new(start.track_next_hops),
            max_paths: 1,
            interfaces: HashMap::new(),
            table: Table::new(seed),
            peers: Vec::new(),
            changed: Vec::new(),
            watched: None,
            reported: start.report_routes.then(VecDeque::new),
            gone: Vec::new(),
        }
    }

    pub(crate) fn set_peer(&mut self, index: PeerIndex, info: PeerInfo) {
        let index = index as usize;
        if self.peers.len() <= index {
            self.peers.resize_with(index + 1, || None);
        }
        match &mut self.peers[index] {
            Some(known) => known.info = info,
            place => *place = Some(Known { info, tally: Tally::default(), slots: Some(Vec::new()) }),
        }
    }

    pub(crate) fn forget_peer(&mut self, index: PeerIndex) {
        if let Some(place) = self.peers.get_mut(index as usize) {
            *place = None;
        }
    }

    pub(crate) fn peer(&self, index: PeerIndex) -> Option<&PeerInfo> {
        Some(&self.peers.get(index as usize)?.as_ref()?.info)
    }

    /// How many paths of a peer are kept.
    pub(crate) fn tally(&self, index: PeerIndex) -> Tally {
        self.peers.get(index as usize).and_then(Option::as_ref).map_or(Tally::default(), |k| k.tally)
    }

    /// The peer that a path came from; `None` when it was originated here.
    pub(crate) fn source(&self, source: Source) -> Option<&PeerInfo> {
        self.peer(source.as_peer()?)
    }

    /// Adds a path, in place of an older one of the same source and identifier.
    pub(crate) fn insert(&mut self, prefix: &Prefix, path: Path) {
        if self.hops.is_tracked() && path.source != Source::LOCAL {
            self.track(path.attributes);
        }
        let slot = self.table.find_or_insert(prefix);
        let node = self.table.node_mut(slot);
        let Some(at) = node.paths.find(path.source, path.id) else {
            let before = identity(node);
            let listed = !node.paths.has(path.source);
            node.paths.push(path);
            self.count(slot, None, Some(&path), listed);
            return self.select(slot, before);
        };
        let old = node.paths.as_slice()[at];
        if old == path {
            return;
        }
        let before = identity(node);
        node.paths.as_mut_slice()[at] = path;
        self.count(slot, Some(&old), Some(&path), false);
        self.select(slot, before);
    }

    /// Removes the path of a source.
    pub(crate) fn remove(&mut self, prefix: &Prefix, source: Source, id: u32) {
        let Some(slot) = self.table.find_next(prefix) else { return };
        let node = self.table.node_mut(slot);
        let Some(at) = node.paths.find(source, id) else { return };
        let before = identity(node);
        let old = node.paths.as_slice()[at];
        node.paths.remove(at);
        self.count(slot, Some(&old), None, false);
        self.select(slot, before);
    }

    /// Keeps the counters and the list of the source's peer.
    fn count(&mut self, slot: Slot, old: Option<&Path>, new: Option<&Path>, listed: bool) {
        let Some(index) = old.or(new).and_then(|p| p.source.as_peer()) else { return };
        let Some(Some(known)) = self.peers.get_mut(index as usize) else { return };
        let family = self.table.family(slot).index();
        let one = |path: Option<&Path>, test: fn(&Path) -> bool| usize::from(path.is_some_and(test));
        let accepted: fn(&Path) -> bool = |p| p.rejection.is_none();
        let tally = &mut known.tally;
        tally.received[family] = tally.received[family] + one(new, |_| true) - one(old, |_| true);
        tally.accepted[family] = tally.accepted[family] + one(new, accepted) - one(old, accepted);
        tally.stale = tally.stale + one(new, |p| p.stale) - one(old, |p| p.stale);
        let kept: usize = tally.received.iter().sum();
        if kept == 0 {
            known.slots = Some(Vec::new());
        } else if let Some(slots) = known.slots.as_mut().filter(|_| listed) {
            slots.push(slot);
            if slots.len() > 2 * kept + 64 {
                let (table, source) = (&self.table, Source::peer(index));
                slots.sort_unstable();
                slots.dedup();
                slots.retain(|slot| table.node(*slot).paths.has(source));
            }
            if slots.len() > LISTED && slots.len() * 4 > self.table.len() {
                known.slots = None;
            }
        }
    }

    /// Decides anew about a prefix, and tells consumers when something is different.
    fn select(&mut self, slot: Slot, before: Identity) {
        let node = self.table.node(slot);
        let best = decide(&self.attributes, &self.hops, &self.peers, &node.paths);
        let empty = node.paths.is_empty();
        let several = self.max_paths > 1 && node.paths.as_slice().len() > 1;
        let node = self.table.node_mut(slot);
        (node.best, node.reason) = best.unwrap_or((NO_BEST, Reason::OnlyRoute));
        let another = identity(node) != before;
        if another && let Some(watched) = &mut self.watched {
            watched.insert(self.table.prefix(slot));
        }
        let node = self.table.node_mut(slot);
        let different = another || several;
        if !std::mem::replace(&mut node.waits.changed, true) {
            self.changed.push(slot);
        }
        if different
            && let Some(reported) = &mut self.reported
            && !std::mem::replace(&mut node.waits.owner, true)
        {
            reported.push_back(slot);
        }
        if empty && !std::mem::replace(&mut node.waits.gone, true) {
            self.gone.push(slot);
        }
    }

    /// Tells the owner of every route anew.
    pub(crate) fn report_all(&mut self) {
        let Some(reported) = &mut self.reported else { return };
        for slot in 0..self.table.slots() {
            let node = self.table.node_mut(slot);
            if !node.paths.is_empty() && !std::mem::replace(&mut node.waits.owner, true) {
                reported.push_back(slot);
            }
        }
    }

    /// The entries that have changed since this was asked last.
    pub(crate) fn take_changed(&mut self) -> Vec<Slot> {
        if self.hops.take_changed() {
            self.decide_again();
        }
        let changed = std::mem::take(&mut self.changed);
        for slot in &changed {
            self.table.node_mut(*slot).waits.changed = false;
        }
        changed
    }

    /// Whether consumers have anything to look at.
    pub(crate) fn has_changed(&mut self) -> bool {
        if self.hops.take_changed() {
            self.decide_again();
        }
        !self.changed.is_empty()
    }

    /// Decides anew about everything, after the ways to next hops have changed.
    pub(crate) fn decide_again(&mut self) {
        for slot in 0..self.table.slots() {
            let node = self.table.node(slot);
            let before = identity(node);
            let best = decide(&self.attributes, &self.hops, &self.peers, &node.paths);
            let several = self.max_paths > 1 && node.paths.as_slice().len() > 1;
            let different = best != Some((node.best, node.reason)) && (best.is_some() || before.is_some());
            if different || several {
                self.select(slot, before);
            }
        }
    }

    /// The next prefix whose route may have changed, for the owner.
    pub(crate) fn poll_reported(&mut self) -> Option<Prefix> {
        if self.hops.take_changed() {
            self.decide_again();
        }
        let slot = self.reported.as_mut()?.pop_front()?;
        let node = self.table.node_mut(slot);
        node.waits.owner = false;
        Some(self.table.prefix(slot))
    }

    /// Whether entries without a path are so many that it is worth dropping them. Until then they keep their places,
    /// and a route that comes back finds its own; most of the table may be gone, but new entries take their places.
    pub(crate) fn wants_collection(&self) -> bool {
        let (gone, all) = (self.gone.len(), self.table.len());
        gone * 4 >= all * 3 || (gone >= FEW_GONE && self.table.is_full())
    }

    /// Takes out the entries without a path that nobody waits for; `seen` says of each whether all sessions
    /// have been told.
    pub(crate) fn collect(&mut self, mut seen: impl FnMut(Slot) -> bool) {
        let (table, mut gone) = (&mut self.table, std::mem::take(&mut self.gone));
        let mut released = Vec::new();
        gone.retain(|slot| {
            let node = table.node_mut(*slot);
            if !node.paths.is_empty() {
                node.waits.gone = false;
                return false;
            }
            if node.waits.changed || node.waits.owner || !seen(*slot) {
                return true;
            }
            released.push(*slot);
            false
        });
        table.release(&released);
        self.gone = gone;
    }

    /// Asks the owner about the next hop of an attribute set.
    fn track(&mut self, id: AttrId) {
        if self.attributes.hop(id) == 0 {
            let name = self.hops.watch(self.attributes.get(id).next_hop.address());
            self.attributes.set_hop(id, name);
        }
    }

    /// Drops attributes that neither a path nor a peer has, when it is time.
    /// `sent` marks what peers have. Gives back whether names were dropped.
    pub(crate) fn sweep(&mut self, sent: impl FnOnce(&mut Marks)) -> bool {
        let users = self.table.len();
        let wanted = self.attributes.wants_sweep(users) || self.sent.wants_sweep(users);
        if wanted {
            self.sweep_now(sent);
        }
        wanted
    }

    pub(crate) fn sweep_now(&mut self, sent: impl FnOnce(&mut Marks)) {
        let mut marks = self.attributes.marks();
        for (_, node) in self.table.nodes() {
            for path in node.paths.as_slice() {
                marks.mark(path.received.at());
                marks.mark(path.attributes.at());
            }
        }
        let mut used = self.sent.marks();
        sent(&mut used);
        self.sent.sweep(&used);
        let hops = self.attributes.sweep(&marks);
        self.hops.retain(&hops);
    }

    pub(crate) fn slots(&self) -> u32 {
        self.table.slots()
    }

    pub(crate) fn slot(&self, prefix: &Prefix) -> Option<Slot> {
        self.table.find(prefix)
    }

    pub(crate) fn prefix(&self, slot: Slot) -> Prefix {
        self.table.prefix(slot)
    }

    pub(crate) fn family(&self, slot: Slot) -> Family {
        self.table.family(slot)
    }

    /// The best path of a prefix.
    pub(crate) fn best(&self, slot: Slot) -> Option<&Path> {
        let node = self.table.node(slot);
        node.paths.as_slice().get(node.best as usize)
    }

    /// The `limit` best paths of a prefix, best first.
    pub(crate) fn preferred(&self, slot: Slot, limit: usize) -> Vec<&Path> {
        let node = self.table.node(slot);
        let mut left = candidates(&self.attributes, &self.hops, &self.peers, &node.paths);
        let mut preferred = Vec::new();
        while preferred.len() < limit
            && let Some((index, _)) = decision::best(left.clone())
        {
            preferred.push(&node.paths.as_slice()[index]);
            left.retain(|c| c.index != index);
        }
        preferred
    }

    /// All paths of a prefix, with the index of the best and why.
    pub(crate) fn paths(&self, slot: Slot) -> (&[Path], Option<(usize, Reason)>) {
        let node = self.table.node(slot);
        (node.paths.as_slice(), (node.best != NO_BEST).then_some((node.best as usize, node.reason)))
    }

    /// Why a path is not used: what was found when it came, or that its next hop cannot be reached.
    pub(crate) fn rejection(&self, path: &Path) -> Option<Rejection> {
        let hop = self.attributes.hop(path.attributes);
        let unreachable = self.hops.cost(hop).is_none().then_some(Rejection::NextHopUnreachable);
        path.rejection.or(unreachable)
    }

    /// All slots with a path.
    pub(crate) fn used_slots(&self) -> impl Iterator<Item = Slot> {
        self.table.nodes().filter(|(_, node)| !node.paths.is_empty()).map(|(slot, _)| slot)
    }

    /// The Loc-RIB's route of a prefix.
    pub(crate) fn route(&self, prefix: &Prefix) -> Option<Route> {
        let slot = self.table.find(prefix)?;
        let best = self.best(slot)?;
        let hop = |path: &Path| {
            let link = self.source(path.source).map_or(0, |peer| peer.key.scope());
            PeerKey::new(self.attributes.get(path.attributes).next_hop.address(), link)
        };
        let mut next_hops = vec![hop(best)];
        if self.max_paths > 1 {
            let node = self.table.node(slot);
            let equal = decision::equal(candidates(&self.attributes, &self.hops, &self.peers, &node.paths));
            let mut others: Vec<PeerKey> = equal.iter().map(|i| hop(&node.paths.as_slice()[*i])).collect();
            others.sort();
            others.dedup();
            others.retain(|other| *other != next_hops[0]);
            next_hops.extend(others.into_iter().take(self.max_paths - 1));
            next_hops.sort();
        }
        let (source, external) = match best.source.as_peer() {
            None => (RouteSource::Local, false),
            Some(index) => {
                let peer = self.peer(index)?;
                (RouteSource::Peer(peer.key), peer.external)
            }
        };
        let attributes = self.attributes.get(best.attributes).clone();
        Some(Route { source, attributes, next_hops, external, stale: best.stale })
    }

    /// Walks over all paths of a peer; `visit` says what becomes of each, and may change all but whose it is.
    pub(crate) fn visit_peer(
        &mut self,
        peer: PeerIndex,
        mut visit: impl FnMut(&Prefix, &mut Path, &mut AttributeTable) -> Keep,
    ) {
        let Some(Some(known)) = self.peers.get(peer as usize) else { return };
        if known.tally.received == [0, 0] {
            return;
        }
        let source = Source::peer(peer);
        let listed = known.slots.clone();
        let slots = match listed {
            Some(mut slots) => {
                slots.sort_unstable();
                slots.dedup();
                slots
            }
            None => self.table.nodes().filter(|(_, n)| n.paths.has(source)).map(|(slot, _)| slot).collect(),
        };
        for slot in slots {
            let prefix = self.table.prefix(slot);
            let before = identity(self.table.node(slot));
            let mut different = false;
            let mut at = 0;
            while let Some(old) = self.table.node(slot).paths.as_slice().get(at).copied() {
                if old.source != source {
                    at += 1;
                    continue;
                }
                let mut new = old;
                let keep = visit(&prefix, &mut new, &mut self.attributes) == Keep::Keep;
                different |= !keep || new != old;
                if keep && self.hops.is_tracked() {
                    self.track(new.attributes);
                }
                let paths = &mut self.table.node_mut(slot).paths;
                if keep {
                    paths.as_mut_slice()[at] = new;
                    at += 1;
                } else {
                    paths.remove(at);
                }
                self.count(slot, Some(&old), keep.then_some(&new), false);
            }
            if different {
                self.select(slot, before);
            }
        }
    }
}

fn identity(node: &Node) -> Identity {
    let path = node.paths.as_slice().get(node.best as usize)?;
    Some((path.source, path.id, path.attributes, path.stale, path.long_stale))
}

/// The index of the best path and why; most prefixes have one or two, and these cost no allocation.
fn decide(
    attributes: &AttributeTable,
    hops: &NextHops,
    peers: &[Option<Known>],
    paths: &Paths,
) -> Option<(u32, Reason)> {
    let of = |index| candidate(attributes, hops, peers, paths.as_slice(), index);
    match paths.as_slice() {
        [] => None,
        [only] if !hops.is_tracked() => only.rejection.is_none().then_some((0, Reason::OnlyRoute)),
        [_] => of(0).map(|_| (0, Reason::OnlyRoute)),
        [_, _] => match (of(0), of(1)) {
            (Some(a), Some(b)) => {
                let (better, reason) = decision::better(a, b);
                Some((better.index as u32, reason))
            }
            (Some(_), None) => Some((0, Reason::OnlyRoute)),
            (None, Some(_)) => Some((1, Reason::OnlyRoute)),
            (None, None) => None,
        },
        _ => decision::best(candidates(attributes, hops, peers, paths)).map(|(i, r)| (i as u32, r)),
    }
}

fn candidates<'a>(
    attributes: &'a AttributeTable,
    hops: &NextHops,
    peers: &[Option<Known>],
    paths: &Paths,
) -> Vec<Candidate<'a>> {
    let paths = paths.as_slice();
    (0..paths.len()).filter_map(|index| candidate(attributes, hops, peers, paths, index)).collect()
}

/// A path as the decision sees it; `None` when it cannot be used.
fn candidate<'a>(
    attributes: &'a AttributeTable,
    hops: &NextHops,
    peers: &[Option<Known>],
    paths: &[Path],
    index: usize,
) -> Option<Candidate<'a>> {
    let path = &paths[index];
    if path.rejection.is_some() {
        return None;
    }
    let cost = hops.cost(attributes.hop(path.attributes))?;
    let known = path.source.as_peer().and_then(|peer| peers.get(peer as usize)?.as_ref());
    let info = known.map(|k| &k.info);
    Some(Candidate {
        index,
        attributes: attributes.get(path.attributes),
        local: path.source == Source::LOCAL,
        external: info.is_some_and(|p| p.external),
        long_stale: path.long_stale,
        cost,
        router_id: info.map_or(Ipv4Addr::UNSPECIFIED, |p| p.router_id),
        address: info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |p| p.key.address()),
        path_id: path.id,
    })
}
