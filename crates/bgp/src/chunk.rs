//! Encoded routes that several peers share. Owns the bytes, and which part of them is for whom.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;

use bgp_packet::{EncodeOptions, Family, Prefix, Route, encode_reach_wire, encode_unreach};
use bytes::Bytes;

use crate::path::{PeerIndex, Source};
use crate::sent::{SentId, SentTable};
use crate::update_group::PIECE;

/// A path identifier (0 without ADD-PATH) and a prefix.
pub(crate) type PathRoute = (u32, Prefix);

/// Whom a route does not go to, and who loses it when others get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// Where it came from.
    Source(PeerIndex),
    /// Who originated it (RFC 4456 §8).
    Originator(Ipv4Addr),
}

/// UPDATEs for the members of a group.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The position in the log after this.
    pub(crate) next: u32,
    bytes: Bytes,
    /// This much is for all but some; what follows is for single members.
    common: usize,
    except: Vec<(Owner, Range<u32>)>,
    only: Vec<(Owner, Range<u32>)>,
}

impl Chunk {
    /// The parts for one member, in order.
    pub(crate) fn parts(&self, member: PeerIndex, router_id: Ipv4Addr) -> Vec<Bytes> {
        let roles = [Owner::Source(member), Owner::Originator(router_id)];
        let mut left_out: Vec<Range<u32>> = roles.iter().flat_map(|who| of(&self.except, *who)).collect();
        left_out.sort_unstable_by_key(|range| range.start);
        let mut parts = Vec::with_capacity(left_out.len() + 1);
        let mut push = |range: Range<usize>| {
            if !range.is_empty() {
                parts.push(self.bytes.slice(range));
            }
        };
        let mut at = 0;
        for range in left_out {
            push(at..(range.start as usize).max(at));
            at = at.max(range.end as usize);
        }
        push(at..self.common.max(at));
        let own = roles.iter().flat_map(|who| of(&self.only, *who));
        own.for_each(|range| push(range.start as usize..range.end as usize));
        parts
    }

    fn octets(&self) -> usize {
        self.bytes.len() + 64
    }
}

/// The parts of an owner in a sorted list.
fn of(list: &[(Owner, Range<u32>)], who: Owner) -> impl Iterator<Item = Range<u32>> + '_ {
    let start = list.partition_point(|(other, _)| *other < who);
    list[start..].iter().take_while(move |(other, _)| *other == who).map(|(_, range)| range.clone())
}

/// So many withdrawn routes of one source are worth messages of their own, which the source does not get.
const MANY: usize = if cfg!(test) { 2 } else { 64 };

/// A route that goes out.
#[derive(Debug)]
struct Reach {
    attributes: SentId,
    source: Source,
    route: PathRoute,
}

/// A withdrawn route, and somebody who is a special case.
#[derive(Debug)]
struct Unreach<W> {
    who: W,
    route: PathRoute,
}

impl Route for Reach {
    fn path_id(&self) -> u32 {
        self.route.0
    }

    fn prefix(&self) -> &Prefix {
        &self.route.1
    }
}

impl<W> Route for Unreach<W> {
    fn path_id(&self) -> u32 {
        self.route.0
    }

    fn prefix(&self) -> &Prefix {
        &self.route.1
    }
}

/// Gathers routes, and makes a [`Chunk`] of them.
#[derive(Debug, Default)]
pub(crate) struct ChunkBuilder {
    reach: Vec<Reach>,
    unreach: [Vec<PathRoute>; 2],
    unreach_but: Vec<Unreach<PeerIndex>>,
    unreach_at: Vec<Unreach<Owner>>,
    bytes: Vec<u8>,
    common: usize,
    except: Vec<(Owner, Range<u32>)>,
    only: Vec<(Owner, Range<u32>)>,
}

impl ChunkBuilder {
    /// All but the source get the route.
    pub(crate) fn reach(&mut self, attributes: SentId, source: Source, route: PathRoute) {
        self.reach.push(Reach { attributes, source, route });
    }

    /// All lose the route; `source` never had it from us and need not be told.
    pub(crate) fn unreach(&mut self, source: Option<PeerIndex>, route: PathRoute) {
        match source {
            Some(who) => self.unreach_but.push(Unreach { who, route }),
            None => self.unreach[route.1.family().index()].push(route),
        }
    }

    /// Who owns the route now loses what it had.
    pub(crate) fn unreach_at(&mut self, source: Source, originator: Option<Ipv4Addr>, route: PathRoute) {
        let owners = [source.as_peer().map(Owner::Source), originator.map(Owner::Originator)];
        self.unreach_at.extend(owners.into_iter().flatten().map(|who| Unreach { who, route }));
    }

    /// Makes the messages: withdrawals first, then as many routes of one source and attributes as a message
    /// takes.
    pub(crate) fn encode(&mut self, sent: &SentTable, options: EncodeOptions, internal: bool) {
        self.encode_unreach(options);
        let Self { reach, unreach_at, bytes, except, only, common, .. } = self;
        reach.sort_by_key(|r| (r.attributes, r.source, r.route.1.family()));
        let key = |r: &Reach| (r.attributes, r.source, r.route.1.family());
        for run in reach.chunk_by(|a, b| key(a) == key(b)) {
            let Reach { attributes, source, .. } = run[0];
            let start = bytes.len() as u32;
            encode_reach_wire(bytes, sent.wire(attributes), run, options);
            let range = start..bytes.len() as u32;
            if let Some(originator) = sent.originator(attributes).filter(|_| internal) {
                except.push((Owner::Originator(originator), range.clone()));
            }
            if let Some(source) = source.as_peer() {
                except.push((Owner::Source(source), range));
            }
        }
        *common = bytes.len();
        unreach_at.sort_by_key(|u| (u.who, u.route.1.family()));
        for run in unreach_at.chunk_by(|a, b| (a.who, a.route.1.family()) == (b.who, b.route.1.family())) {
            let start = bytes.len() as u32;
            encode_unreach(bytes, run, options);
            only.push((run[0].who, start..bytes.len() as u32));
        }
        except.sort_by_key(|(who, range)| (*who, range.start));
    }

    fn encode_unreach(&mut self, options: EncodeOptions) {
        let Self { unreach, unreach_but, bytes, except, .. } = self;
        unreach_but.sort_by_key(|u| (u.who, u.route.1.family()));
        for run in unreach_but.chunk_by(|a, b| (a.who, a.route.1.family()) == (b.who, b.route.1.family())) {
            if run.len() < MANY {
                unreach[run[0].route.1.family().index()].extend(run.iter().map(|u| u.route));
                continue;
            }
            let start = bytes.len() as u32;
            encode_unreach(bytes, run, options);
            except.push((Owner::Source(run[0].who), start..bytes.len() as u32));
        }
        unreach.iter().for_each(|routes| encode_unreach(bytes, routes, options));
    }

    pub(crate) fn finish(self, next: u32) -> Chunk {
        let Self { bytes, common, except, only, .. } = self;
        Chunk { next, bytes: bytes.into(), common, except, only }
    }
}

/// Which piece of a log, and which families of it.
type Piece = (u32, [bool; 2]);

/// Chunks that another member may need soon.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    kept: BTreeMap<Piece, Arc<Chunk>>,
    /// Those that reach to the end of the log: not valid any more once it grows.
    at_end: Vec<Piece>,
    octets: usize,
    /// Nothing is kept of the piece that begins here.
    nothing_at: Option<u32>,
}

/// More than this is not kept.
const LIMIT: usize = 4 << 20;

impl Chunks {
    pub(crate) fn get(&self, position: u32, families: [bool; 2]) -> Option<Arc<Chunk>> {
        self.kept.get(&(position, families)).cloned()
    }

    pub(crate) fn keep(&mut self, position: u32, families: [bool; 2], whole: bool, chunk: Arc<Chunk>) {
        if self.octets > LIMIT {
            self.clear();
        }
        self.octets += chunk.octets();
        self.nothing_at = None;
        if !whole {
            self.at_end.push((position, families));
        }
        self.kept.insert((position, families), chunk);
    }

    /// The log has grown.
    pub(crate) fn end_has_moved(&mut self) {
        for piece in std::mem::take(&mut self.at_end) {
            self.drop(piece);
        }
    }

    /// The entry at a position of the log is superseded.
    pub(crate) fn forget(&mut self, position: u32) {
        if self.kept.is_empty() {
            return;
        }
        let start = position / PIECE * PIECE;
        if self.nothing_at == Some(start) {
            return;
        }
        let pieces = self.kept.range((start, [false; 2])..=(start + PIECE - 1, [true; 2]));
        let (mut hit, mut any) = (Vec::new(), false);
        for (piece, chunk) in pieces {
            any = true;
            if (piece.0..chunk.next).contains(&position) {
                hit.push(*piece);
            }
        }
        self.nothing_at = (!any).then_some(start);
        hit.into_iter().for_each(|piece| self.drop(piece));
    }

    fn drop(&mut self, piece: Piece) {
        if let Some(chunk) = self.kept.remove(&piece) {
            self.octets -= chunk.octets();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Which family alone, or both.
    pub(crate) fn families(family: Option<Family>) -> [bool; 2] {
        family.map_or([true; 2], |f| [f == Family::Ipv4, f == Family::Ipv6])
    }
}
