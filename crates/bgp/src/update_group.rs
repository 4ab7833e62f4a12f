//! What peers with equal export policy have from us (Adj-RIB-Out). Owns, for each route, the attributes that
//! such peers get, and the order in which these changed; never touches a session.
//!
//! A group keeps one number of attributes for each route, not one for each peer, and a log of what changed.
//! Each member is a position in that log: whoever stands at its end has everything, a new member begins at
//! its beginning, a slow one is somewhere between, and none of them costs memory by the route.
//!
//! A route is never sent back to where it came from (RFC 4271 §9.2, RFC 4456 §8), although its peer is a member
//! too: each message has one source, and the source leaves it out.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp_packet::{EncodeOptions, Family, Prefix, Role};

use crate::chunk::{Chunk, ChunkBuilder, Chunks};
use crate::export::{Exporter, Memo};
use crate::intern::Marks;
use crate::lanes::{LaneKey, Lanes};
use crate::path::{Path, PeerIndex, Source};
use crate::rib::Rib;
use crate::sent::SentId;
use crate::table::Slot;
use crate::{Config, NextHopMode, Policy};

/// Stands for a route in a group: the slot of its prefix, or with ADD-PATH the slot and a path identifier.
pub(crate) type Lane = u32;

/// What members of one group have in common, and all that an export depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub(crate) internal: bool,
    pub(crate) client: bool,
    pub(crate) local_asn: u32,
    pub(crate) local: IpAddr,
    pub(crate) next_hop: NextHopMode,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub(crate) v4_over_v6: bool,
    /// Our role towards the peers (RFC 9234).
    pub(crate) role: Option<Role>,
    /// The peers take part in long-lived graceful restart (RFC 9494).
    pub(crate) long_lived: bool,
    /// The sessions are about to be shut down (RFC 8326).
    pub(crate) graceful_shutdown: bool,
    pub(crate) families: [bool; 2],
    pub(crate) options: EncodeOptions,
    /// How many paths to a prefix go out where ADD-PATH was negotiated.
    pub(crate) add_path_max: usize,
    pub(crate) policy: Arc<Policy>,
}

/// What members have of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advert {
    /// `None` when they have none; then `source` is that of the last one.
    pub(crate) attributes: Option<SentId>,
    pub(crate) source: Source,
}

/// Members have nothing.
const NOTHING: Advert = Advert { attributes: None, source: Source::LOCAL };

/// Where a lane stands in the log, and what became of it so far.
#[derive(Clone, Copy, Debug)]
struct Place(u32);

const EVER: u32 = 1 << 31;
const SHIFTED: u32 = 1 << 30;
const NOWHERE: u32 = SHIFTED - 1;
/// A log entry that was superseded.
const DEAD: Lane = Lane::MAX;

impl Place {
    const NEW: Self = Self(NOWHERE);

    fn position(self) -> Option<u32> {
        Some(self.0 & NOWHERE).filter(|at| *at != NOWHERE)
    }

    fn at(self, position: u32) -> Self {
        Self(self.0 & !NOWHERE | position)
    }

    /// Somebody may have, or have had, the route.
    fn ever(self) -> bool {
        self.0 & EVER != 0
    }

    /// It came from different sources, so the one that it comes from now may have had that of another.
    fn shifted(self) -> bool {
        self.0 & SHIFTED != 0
    }
}

/// A piece of the log ends where the position is a multiple of this, so that members that go over the same
/// piece share its bytes.
pub(crate) const PIECE: u32 = if cfg!(test) { 8 } else { 2048 };
/// So many superseded entries are never worth closing up a log.
const FEW: usize = if cfg!(test) { 4 } else { 1024 };

/// One group.
#[derive(Debug)]
pub(crate) struct UpdateGroup {
    pub(crate) key: GroupKey,
    pub(crate) members: Vec<PeerIndex>,
    adverts: Vec<Advert>,
    places: Vec<Place>,
    log: Vec<Lane>,
    dead: usize,
    lanes: Option<Lanes>,
    memo: Memo,
    chunks: Chunks,
    /// Routes that members have, and how many of them came from each peer.
    count: usize,
    by_source: Vec<u32>,
    /// Everything must be looked at, not only what has changed.
    pub(crate) look_at_all: bool,
}

impl UpdateGroup {
    pub(crate) fn new(key: GroupKey) -> Self {
        let add_path = key.options.add_path.contains(&true);
        Self {
            key,
            members: Vec::new(),
            adverts: Vec::new(),
            places: Vec::new(),
            log: Vec::new(),
            dead: 0,
            lanes: add_path.then(Lanes::default),
            memo: Memo::default(),
            chunks: Chunks::default(),
            count: 0,
            by_source: Vec::new(),
            look_at_all: true,
        }
    }

    /// The position of whoever has everything.
    pub(crate) fn end(&self) -> u32 {
        self.log.len() as u32
    }

    /// Takes over what has changed in the table. Gives back whether members have something to get.
    pub(crate) fn evaluate(
        &mut self,
        rib: &mut Rib,
        config: &Config,
        changed: &[Slot],
        deferring: bool,
    ) -> bool {
        let before = self.log.len();
        self.memo.forget();
        if std::mem::take(&mut self.look_at_all) {
            (0..rib.slots()).for_each(|slot| self.look(rib, config, slot, deferring));
        } else {
            changed.iter().for_each(|slot| self.look(rib, config, *slot, deferring));
        }
        let grown = self.log.len() != before;
        if grown {
            self.chunks.end_has_moved();
        }
        grown
    }

    fn look(&mut self, rib: &mut Rib, config: &Config, slot: Slot, deferring: bool) {
        let family = rib.family(slot);
        if !self.key.families[family.index()] {
            return;
        }
        let usable = |path: &Path| !deferring || path.source == Source::LOCAL;
        if self.key.options.add_path[family.index()] {
            return self.look_at_paths(rib, config, slot, deferring);
        }
        let best = rib.best(slot).copied().filter(usable);
        let advert = best.and_then(|path| self.export(rib, config, slot, &path));
        match &mut self.lanes {
            None => self.set(rib, slot, advert),
            Some(lanes) => {
                if let Some(lane) = lanes.lane(LaneKey { slot, path_id: 0 }, advert.is_some()) {
                    self.set(rib, lane, advert);
                }
            }
        }
    }

    /// With ADD-PATH, every path that may go out is a lane of its own; only those that differ move.
    fn look_at_paths(&mut self, rib: &mut Rib, config: &Config, slot: Slot, deferring: bool) {
        let paths: Vec<Path> = rib.preferred(slot, self.key.add_path_max).into_iter().copied().collect();
        let mut wanted = Vec::new();
        for path in paths.iter().filter(|p| !deferring || p.source == Source::LOCAL) {
            if let (Some(advert), Some(lanes)) = (self.export(rib, config, slot, path), &mut self.lanes) {
                let path_id = lanes.path_id(path.source, path.id);
                wanted.push((LaneKey { slot, path_id }, advert));
            }
        }
        let Some(lanes) = &mut self.lanes else { return };
        let mut gone = lanes.of_slot(slot);
        let mut changes = Vec::new();
        for (key, advert) in wanted {
            if let Some(lane) = lanes.lane(key, true) {
                gone.retain(|other| *other != lane);
                changes.push((lane, Some(advert)));
            }
        }
        changes.extend(gone.into_iter().map(|lane| (lane, None)));
        changes.into_iter().for_each(|(lane, advert)| self.set(rib, lane, advert));
    }

    fn export(&mut self, rib: &mut Rib, config: &Config, slot: Slot, path: &Path) -> Option<Advert> {
        let exporter = Exporter { config, key: &self.key };
        let attributes = exporter.exported(rib, &mut self.memo, slot, path)?;
        Some(Advert { attributes: Some(attributes), source: path.source })
    }

    /// Notes what members are to have of a route, and logs it when that is something else than before.
    fn set(&mut self, rib: &Rib, lane: Lane, advert: Option<Advert>) {
        let at = lane as usize;
        if at >= self.adverts.len() {
            if advert.is_none() {
                return;
            }
            self.adverts.resize(at + 1, NOTHING);
            self.places.resize(at + 1, Place::NEW);
        }
        let (old, mut place) = (self.adverts[at], self.places[at]);
        let new = advert.unwrap_or(Advert { attributes: None, source: old.source });
        if new == old {
            return;
        }
        self.count(old, false);
        self.count(new, true);
        if place.ever() && !self.left_out_alike(rib, old, new) {
            place.0 |= SHIFTED;
        }
        place.0 |= EVER;
        self.adverts[at] = new;
        self.bury(place);
        self.places[at] = place.at(self.end());
        self.log.push(lane);
    }

    /// Whether a route leaves out the same members as the one before, so that none of them has that one.
    fn left_out_alike(&self, rib: &Rib, old: Advert, new: Advert) -> bool {
        let originator = |a: Advert| a.attributes.map(|id| rib.sent.originator(id));
        let alike = match (originator(old), originator(new)) {
            (_, None) => true,
            (None, Some(new)) => new.is_none(),
            (Some(old), Some(new)) => old == new,
        };
        old.source == new.source && (alike || !self.key.internal)
    }

    fn count(&mut self, advert: Advert, add: bool) {
        if advert.attributes.is_none() {
            return;
        }
        let one = |n: usize| if add { n + 1 } else { n - 1 };
        self.count = one(self.count);
        if let Some(peer) = advert.source.as_peer() {
            let peer = peer as usize;
            if peer >= self.by_source.len() {
                self.by_source.resize(peer + 1, 0);
            }
            self.by_source[peer] = one(self.by_source[peer] as usize) as u32;
        }
    }

    /// Takes an entry out of the log, and the bytes that were made of it.
    fn bury(&mut self, place: Place) {
        if let Some(position) = place.position() {
            self.log[position as usize] = DEAD;
            self.dead += 1;
            self.chunks.forget(position);
        }
    }

    /// Forgets a withdrawn route that every member has been told of: all are at `seen` or further.
    /// Gives back whether that is so.
    pub(crate) fn forget(&mut self, slot: Slot, seen: u32) -> bool {
        let Some(lanes) = &mut self.lanes else { return self.forget_lane(slot, seen) };
        let mut of_slot = lanes.of_slot(slot);
        of_slot.retain(|lane| !self.forget_lane(*lane, seen));
        let all = of_slot.is_empty();
        if let Some(lanes) = self.lanes.as_mut().filter(|_| all) {
            lanes.forget(slot);
        }
        all
    }

    fn forget_lane(&mut self, lane: Lane, seen: u32) -> bool {
        let (place, advert) = self.state(lane);
        if advert.attributes.is_some() || place.position().is_some_and(|at| at >= seen) {
            return false;
        }
        self.bury(place);
        if let Some(place) = self.places.get_mut(lane as usize) {
            *place = Place::NEW;
            self.adverts[lane as usize] = NOTHING;
        }
        true
    }

    /// Closes up the log when more than half of it is dead. Gives back where each position went.
    pub(crate) fn compact(&mut self) -> Option<Vec<u32>> {
        if self.dead <= self.log.len() / 2 + FEW {
            return None;
        }
        let mut moved = Vec::with_capacity(self.log.len() + 1);
        let mut live = 0;
        for lane in &self.log {
            moved.push(live);
            if *lane != DEAD {
                self.places[*lane as usize] = self.places[*lane as usize].at(live);
                live += 1;
            }
        }
        moved.push(live);
        self.log.retain(|lane| *lane != DEAD);
        self.log.shrink_to(self.log.len() * 2);
        self.dead = 0;
        self.chunks.clear();
        Some(moved)
    }

    /// The next piece of the log from `position` on, as bytes for the routes of `families`.
    pub(crate) fn chunk(&mut self, rib: &Rib, position: u32, families: [bool; 2]) -> Arc<Chunk> {
        if let Some(chunk) = self.chunks.get(position, families) {
            return chunk;
        }
        let end = ((position / PIECE + 1) * PIECE).min(self.end());
        let lanes = &self.log[position as usize..end as usize];
        let lanes = lanes.iter().copied().filter(|lane| *lane != DEAD);
        let chunk = Arc::new(self.encode(rib, lanes, families, false).finish(end));
        let whole = end.is_multiple_of(PIECE);
        if self.members.len() > 1 {
            self.chunks.keep(position, families, whole, chunk.clone());
        }
        chunk
    }

    /// Bytes for a member that came from another group, for which these routes differ.
    pub(crate) fn chunk_of(&self, rib: &Rib, lanes: &[Lane]) -> Chunk {
        self.encode(rib, lanes.iter().copied(), [true; 2], true).finish(0)
    }

    /// Bytes of the past are of use only while a member has not had them.
    pub(crate) fn drop_chunks_unless(&mut self, anybody_is_behind: impl FnOnce(&[PeerIndex]) -> bool) {
        if !self.chunks.is_empty() && !anybody_is_behind(&self.members) {
            self.chunks.clear();
        }
    }

    fn encode(
        &self,
        rib: &Rib,
        lanes: impl Iterator<Item = Lane>,
        families: [bool; 2],
        moved: bool,
    ) -> ChunkBuilder {
        let mut builder = ChunkBuilder::default();
        for lane in lanes {
            let (slot, path_id) = self.route(lane);
            if !families[rib.family(slot).index()] {
                continue;
            }
            let (place, advert) = self.state(lane);
            let route = (path_id, rib.prefix(slot));
            match advert.attributes {
                Some(attributes) => {
                    builder.reach(attributes, advert.source, route);
                    if moved || place.shifted() {
                        let originator = rib.sent.originator(attributes);
                        builder.unreach_at(advert.source, originator.filter(|_| self.key.internal), route);
                    }
                }
                None => {
                    let source = advert.source.as_peer().filter(|_| !moved && !place.shifted());
                    builder.unreach(source, route);
                }
            }
        }
        builder.encode(&rib.sent, self.key.options, self.key.internal);
        builder
    }

    fn state(&self, lane: Lane) -> (Place, Advert) {
        let at = lane as usize;
        let place = self.places.get(at).copied().unwrap_or(Place::NEW);
        (place, self.adverts.get(at).copied().unwrap_or(NOTHING))
    }

    /// Prefix and path identifier of a lane.
    fn route(&self, lane: Lane) -> (Slot, u32) {
        match &self.lanes {
            None => (lane, 0),
            Some(lanes) => {
                let key = lanes.key(lane);
                (key.slot, key.path_id)
            }
        }
    }

    /// What is to be sent to a member of `old` that stands at `position` there, when it becomes one of this.
    pub(crate) fn difference(&mut self, old: &Self, position: u32) -> Vec<Lane> {
        let mut different = Vec::new();
        for lane in 0..old.adverts.len() as Lane {
            let was = old.adverts[lane as usize];
            let place = old.places[lane as usize];
            let unknown = place.position().is_some_and(|at| at >= position);
            if was.attributes.is_none() && !unknown {
                continue;
            }
            if let Some(own) = self.same_route(old, lane).filter(|own| unknown || self.state(*own).1 != was) {
                different.push(own);
            }
        }
        for lane in 0..self.adverts.len() as Lane {
            let (slot, path_id) = self.route(lane);
            let theirs = match &old.lanes {
                None => Some(slot),
                Some(lanes) => lanes.find(LaneKey { slot, path_id }),
            };
            let had = theirs.is_some_and(|theirs| old.state(theirs).1.attributes.is_some());
            if self.adverts[lane as usize].attributes.is_some() && !had {
                different.push(lane);
            }
        }
        different.sort_unstable();
        different.dedup();
        different
    }

    /// The lane of the route that `lane` is in another group.
    pub(crate) fn same_route(&mut self, other: &Self, lane: Lane) -> Option<Lane> {
        let (slot, path_id) = other.route(lane);
        match &mut self.lanes {
            None => (path_id == 0).then_some(slot),
            Some(lanes) => lanes.lane(LaneKey { slot, path_id }, true),
        }
    }

    /// Marks the attributes that members have.
    pub(crate) fn mark(&mut self, marks: &mut Marks) {
        self.memo.forget();
        self.adverts.iter().filter_map(|a| a.attributes).for_each(|id| marks.mark(id.into()));
    }

    /// How many routes a member has, once it has everything.
    pub(crate) fn advertised_to(&self, member: PeerIndex) -> usize {
        self.count - self.by_source.get(member as usize).map_or(0, |own| *own as usize)
    }

    /// What a member has, once it has everything.
    pub(crate) fn adverts_for<'a>(
        &'a self,
        rib: &'a Rib,
        member: PeerIndex,
        router_id: Ipv4Addr,
    ) -> impl Iterator<Item = (Prefix, u32, SentId)> + 'a {
        let adverts = (0..).zip(&self.adverts);
        adverts.filter_map(move |(lane, advert)| {
            let attributes = advert.attributes?;
            let originator = rib.sent.originator(attributes).filter(|_| self.key.internal);
            if advert.source == Source::peer(member) || originator == Some(router_id) {
                return None;
            }
            let (slot, path_id) = self.route(lane);
            Some((rib.prefix(slot), path_id, attributes))
        })
    }

    /// Whether routes of a family go to the members.
    pub(crate) fn speaks(&self, family: Family) -> bool {
        self.key.families[family.index()]
    }
}
