//! UPDATE messages out of routes. Owns packing: as many prefixes of one attribute set as a message takes.

use std::ops::RangeInclusive;

use crate::attribute_code::{self as ac, EXTENDED, OPTIONAL, PARTIAL, TRANSITIVE};
use crate::attributes::is_unread;
use crate::{
    AS_TRANS, AfiSafi, Aggregator, Family, HEADER_LEN, MAX_EXTENDED_LEN, MAX_LEN, MessageType, NextHop,
    PathAttributes, Prefix, Update, UpdateContext,
};

/// What of the session changes how an UPDATE is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EncodeOptions {
    /// The peer takes four-octet AS numbers.
    pub as4: bool,
    /// The peer takes messages up to 65535 octets.
    pub extended: bool,
    /// Routes of the family (by [`Family::index`]) go with a path identifier (RFC 7911).
    pub add_path: [bool; 2],
}

/// A route to be written: a prefix, or a path identifier and a prefix. The identifier is written only where the
/// session has ADD-PATH for the family, and there it is 0 for a bare prefix.
pub trait Route {
    /// Path identifier (RFC 7911 §3).
    fn path_id(&self) -> u32;
    /// Destination.
    fn prefix(&self) -> &Prefix;
}

impl Route for Prefix {
    fn path_id(&self) -> u32 {
        0
    }

    fn prefix(&self) -> &Prefix {
        self
    }
}

impl Route for (u32, Prefix) {
    fn path_id(&self) -> u32 {
        self.0
    }

    fn prefix(&self) -> &Prefix {
        &self.1
    }
}

/// The attributes leave no room for a prefix in a message that the peer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attributes of {0} octets leave no room for a route in a message")]
pub struct TooLong(pub usize);

impl EncodeOptions {
    fn max_len(self) -> usize {
        if self.extended { MAX_EXTENDED_LEN } else { MAX_LEN }
    }
}

/// Longest encoded route: path identifier, length, address.
const MAX_ROUTE: usize = 21;

/// Octets of a message before its attributes: header and two lengths.
const LEAD: usize = HEADER_LEN + 4;

/// Appends UPDATEs that announce `routes` (all of one family) with `attributes`.
///
/// # Errors
/// When the attributes alone fill a message; nothing is appended then.
pub fn encode_reach<R: Route>(
    out: &mut Vec<u8>,
    attributes: &PathAttributes,
    routes: &[R],
    options: EncodeOptions,
) -> Result<(), TooLong> {
    let Some(family) = routes.first().map(|r| r.prefix().family()) else { return Ok(()) };
    // Routes stand at the end of the message, or inside MP_REACH_NLRI, which comes first (RFC 7606 §5.1).
    let classic = is_classic(family, attributes.next_hop);
    let start = out.len();
    begin(out);
    if !classic {
        begin_mp_reach(out, family, attributes.next_hop);
    }
    let attributes_at = out.len();
    encode_attributes(out, attributes, classic, options);
    let (used, head) = (out.len() - start, out.len() - attributes_at);
    let Some(room) = room(used, options) else {
        out.truncate(start);
        return Err(TooLong(head));
    };
    if classic {
        pack_classic(out, start, routes, room, options);
        return Ok(());
    }
    out.truncate(attributes_at);
    let tail = |out: &mut Vec<u8>| encode_attributes(out, attributes, classic, options);
    pack_mp(out, start, routes, room, options, tail);
    Ok(())
}

/// Attributes as the messages of a session carry them: encoded once, sent with whatever routes have them.
///
/// An octet that says how long the beginning of MP_REACH_NLRI is, that beginning (none for IPv4 routes with an IPv4
/// next hop), all other attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireAttributes<'a>(&'a [u8]);

impl<'a> WireAttributes<'a> {
    /// Writes `attributes` for routes of a family into `out`, in place of what is there.
    ///
    /// # Errors
    /// When they leave no room for a route in a message.
    pub fn write(
        out: &'a mut Vec<u8>,
        attributes: &PathAttributes,
        family: Family,
        options: EncodeOptions,
    ) -> Result<Self, TooLong> {
        let classic = is_classic(family, attributes.next_hop);
        out.clear();
        out.push(0);
        if !classic {
            begin_mp_reach(out, family, attributes.next_hop);
            out[0] = (out.len() - 1) as u8;
        }
        let head = out.len();
        encode_attributes(out, attributes, classic, options);
        match room(LEAD + out.len() - 1, options) {
            Some(_) => Ok(Self(out)),
            None => Err(TooLong(out.len() - head)),
        }
    }

    /// Takes octets that [`Self::write`] made.
    pub fn of(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// All octets: attributes with equal ones are equal.
    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    /// The beginning of MP_REACH_NLRI, and the other attributes.
    fn parts(self) -> (&'a [u8], &'a [u8]) {
        let (len, rest) = self.0.split_first().unwrap_or((&0, &[]));
        rest.split_at_checked(usize::from(*len)).unwrap_or_default()
    }

    /// Reads them again, as who gets them would. `None` when the octets are of something else.
    pub fn to_path(self, options: EncodeOptions, internal: bool) -> Option<PathAttributes> {
        let (mp, attributes) = self.parts();
        let mut body = vec![0, 0, 0, 0];
        body.extend_from_slice(mp);
        if let Some(len) = mp.len().checked_sub(4) {
            body[6..8].copy_from_slice(&(len as u16).to_be_bytes());
        }
        body.extend_from_slice(attributes);
        let len = body.len() - 4;
        patch_u16(&mut body, 2, len);
        let context =
            UpdateContext { as4: options.as4, internal, v4_over_v6: true, ..UpdateContext::default() };
        let update = Update::parse(&body, context).ok()?;
        let next_hop = update.mp_reach.map(|mp| mp.next_hop);
        let next_hop = next_hop.or(update.attributes.next_hop.map(NextHop::V4))?;
        Some(update.attributes.to_path(next_hop))
    }
}

/// Appends UPDATEs that announce `routes` (all of one family) with attributes that were written for that family and
/// these options.
pub fn encode_reach_wire<R: Route>(
    out: &mut Vec<u8>,
    attributes: WireAttributes<'_>,
    routes: &[R],
    options: EncodeOptions,
) {
    let (mp, others) = attributes.parts();
    let Some(room) = room(LEAD + mp.len() + others.len(), options).filter(|_| !routes.is_empty()) else {
        return;
    };
    let start = out.len();
    begin(out);
    if mp.is_empty() {
        out.extend_from_slice(others);
        return pack_classic(out, start, routes, room, options);
    }
    out.extend_from_slice(mp);
    pack_mp(out, start, routes, room, options, |out| out.extend_from_slice(others));
}

/// Whether routes stand at the end of the message, and not inside MP_REACH_NLRI.
fn is_classic(family: Family, next_hop: NextHop) -> bool {
    family == Family::Ipv4 && matches!(next_hop, NextHop::V4(_))
}

/// Octets for routes in a message, when there is room for the longest one.
fn room(used: usize, options: EncodeOptions) -> Option<usize> {
    options.max_len().checked_sub(used).filter(|room| *room >= MAX_ROUTE)
}

/// Appends routes to the head of a message that begins at `start`, and messages with the same head for the others.
fn pack_classic<R: Route>(
    out: &mut Vec<u8>,
    start: usize,
    routes: &[R],
    room: usize,
    options: EncodeOptions,
) {
    let add_path = options.add_path[routes[0].prefix().family().index()];
    let lead = start..out.len();
    patch_u16(out, start + LEAD - 2, lead.len() - LEAD);
    let mut rest = push_routes(out, routes, room, add_path);
    finish(out, start);
    while !rest.is_empty() {
        let at = out.len();
        out.extend_from_within(lead.clone());
        rest = push_routes(out, rest, room, add_path);
        finish(out, at);
    }
}

/// Appends routes to the MP_REACH_NLRI of a message that begins at `start`, and the attributes after it; and
/// messages with the same attributes for the other routes.
fn pack_mp<R: Route>(
    out: &mut Vec<u8>,
    start: usize,
    routes: &[R],
    room: usize,
    options: EncodeOptions,
    mut tail: impl FnMut(&mut Vec<u8>),
) {
    let add_path = options.add_path[routes[0].prefix().family().index()];
    let lead = start..out.len();
    let mut rest = push_routes(out, routes, room, add_path);
    let tail_at = out.len();
    tail(out);
    let tail = tail_at..out.len();
    finish_mp(out, start, tail.len());
    while !rest.is_empty() {
        let at = out.len();
        out.extend_from_within(lead.clone());
        rest = push_routes(out, rest, room, add_path);
        out.extend_from_within(tail.clone());
        finish_mp(out, at, tail.len());
    }
}

/// Appends UPDATEs that withdraw `routes` (all of one family).
pub fn encode_unreach<R: Route>(out: &mut Vec<u8>, routes: &[R], options: EncodeOptions) {
    let Some(family) = routes.first().map(|r| r.prefix().family()) else { return };
    let add_path = options.add_path[family.index()];
    let mut rest = routes;
    while !rest.is_empty() {
        let start = out.len();
        if family == Family::Ipv4 {
            begin(out);
            out.truncate(start + HEADER_LEN + 2);
            rest = push_routes(out, rest, options.max_len() - LEAD, add_path);
            let length = out.len() - start - HEADER_LEN - 2;
            patch_u16(out, start + HEADER_LEN, length);
            out.extend_from_slice(&[0, 0]);
            finish(out, start);
        } else {
            begin(out);
            begin_mp_unreach(out, family);
            rest = push_routes(out, rest, options.max_len() - LEAD - 7, add_path);
            finish_mp(out, start, 0);
        }
    }
}

/// Appends the End-of-RIB marker of a family (RFC 4724 §2).
pub fn encode_end_of_rib(out: &mut Vec<u8>, family: Family) {
    let start = out.len();
    begin(out);
    if family == Family::Ipv6 {
        let AfiSafi { afi, safi } = family.into();
        let [a, b] = afi.to_be_bytes();
        out.extend_from_slice(&[OPTIONAL, ac::MP_UNREACH_NLRI, 3, a, b, safi]);
        patch_u16(out, start + LEAD - 2, 6);
    }
    finish(out, start);
}

/// Appends the header of an UPDATE and its two lengths, which are to be filled in.
fn begin(out: &mut Vec<u8>) {
    let mut lead = [0; LEAD];
    lead[..16].fill(0xff);
    lead[18] = MessageType::Update as u8;
    out.extend_from_slice(&lead);
}

/// Fills in the length of the message that begins at `start`.
fn finish(out: &mut [u8], start: usize) {
    patch_u16(out, start + 16, out.len() - start);
}

/// Fills in the lengths of a message whose MP attribute comes first and is followed by `tail` octets.
fn finish_mp(out: &mut [u8], start: usize, tail: usize) {
    patch_u16(out, start + LEAD - 2, out.len() - start - LEAD);
    patch_u16(out, start + LEAD + 2, out.len() - start - LEAD - 4 - tail);
    finish(out, start);
}

/// Writes a length, which the limit of a message keeps within 16 bits.
fn patch_u16(out: &mut [u8], at: usize, len: usize) {
    out[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
}

/// Appends as many routes as fit into `room` octets, at least one; gives back the others.
fn push_routes<'r, R: Route>(out: &mut Vec<u8>, routes: &'r [R], room: usize, add_path: bool) -> &'r [R] {
    debug_assert!(routes.windows(2).all(|w| w[0].prefix().family() == w[1].prefix().family()));
    let start = out.len();
    // Addresses are written whole and overlap: what the next one does not cover is cut off at the end.
    let reserved = room.min(routes.len().saturating_mul(MAX_ROUTE)) + MAX_ROUTE;
    out.resize(start + reserved, 0);
    let buffer = &mut out[start..];
    let (mut at, mut taken) = (0, 0);
    for route in routes {
        let prefix = route.prefix();
        let size = prefix.wire_len() + if add_path { 4 } else { 0 };
        let Some(slot) = buffer.get_mut(at..at + MAX_ROUTE).filter(|_| at + size <= room) else { break };
        match add_path {
            true => {
                slot[..4].copy_from_slice(&route.path_id().to_be_bytes());
                slot[4..].copy_from_slice(&prefix.wire());
            }
            false => slot[..17].copy_from_slice(&prefix.wire()),
        }
        at += size;
        taken += 1;
    }
    out.truncate(start + at);
    &routes[taken..]
}

/// Appends MP_REACH_NLRI up to its routes; the length is to be filled in.
fn begin_mp_reach(out: &mut Vec<u8>, family: Family, next_hop: NextHop) {
    let AfiSafi { afi, safi } = family.into();
    let [a, b] = afi.to_be_bytes();
    out.extend_from_slice(&[OPTIONAL | EXTENDED, ac::MP_REACH_NLRI, 0, 0, a, b, safi]);
    let (next_hop, link_local) = match next_hop {
        NextHop::V4(a) => (a.to_ipv6_mapped(), None),
        NextHop::V6(a, link_local) => (a, link_local),
    };
    out.push(if link_local.is_some() { 32 } else { 16 });
    out.extend_from_slice(&next_hop.octets());
    link_local.iter().for_each(|a| out.extend_from_slice(&a.octets()));
    out.push(0);
}

/// Appends MP_UNREACH_NLRI up to its routes; the length is to be filled in.
fn begin_mp_unreach(out: &mut Vec<u8>, family: Family) {
    let AfiSafi { afi, safi } = family.into();
    let [a, b] = afi.to_be_bytes();
    out.extend_from_slice(&[OPTIONAL | EXTENDED, ac::MP_UNREACH_NLRI, 0, 0, a, b, safi]);
}

/// Appends the header of an attribute; the length takes two octets only when it must. One that is longer than a
/// message can be is written all the same: the message is refused then.
fn header(out: &mut Vec<u8>, flags: u8, code: u8, len: usize) {
    match u8::try_from(len) {
        Ok(len) => out.extend_from_slice(&[flags, code, len]),
        Err(_) => {
            let [a, b] = (len as u16).to_be_bytes();
            out.extend_from_slice(&[flags | EXTENDED, code, a, b]);
        }
    }
}

/// Appends one attribute.
fn attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    header(out, flags, code, value.len());
    out.extend_from_slice(value);
}

/// Appends all attributes but MP_REACH_NLRI in ascending order of code.
fn encode_attributes(out: &mut Vec<u8>, a: &PathAttributes, classic: bool, options: EncodeOptions) {
    out.extend_from_slice(&[TRANSITIVE, ac::ORIGIN, 1, a.origin as u8]);
    let mut replaced = false;
    if options.as4 {
        attribute(out, TRANSITIVE, ac::AS_PATH, a.as_path.wire());
    } else {
        header(out, TRANSITIVE, ac::AS_PATH, a.as_path.narrow_len());
        replaced = a.as_path.encode_narrow(out);
    }
    if let (true, NextHop::V4(next_hop)) = (classic, a.next_hop) {
        attribute(out, TRANSITIVE, ac::NEXT_HOP, &next_hop.octets());
    }
    if let Some(med) = a.med {
        attribute(out, OPTIONAL, ac::MULTI_EXIT_DISC, &med.to_be_bytes());
    }
    if let Some(local_pref) = a.local_pref {
        attribute(out, TRANSITIVE, ac::LOCAL_PREF, &local_pref.to_be_bytes());
    }
    if a.atomic_aggregate {
        attribute(out, TRANSITIVE, ac::ATOMIC_AGGREGATE, &[]);
    }
    let aggregator_as4 = a.aggregator.and_then(|aggregator| encode_aggregator(out, aggregator, a, options));
    list(out, flags(a, ac::COMMUNITIES), ac::COMMUNITIES, &a.communities, |c| c.0.to_be_bytes());
    if let Some(originator) = a.originator_id {
        attribute(out, OPTIONAL, ac::ORIGINATOR_ID, &originator.octets());
    }
    list(out, OPTIONAL, ac::CLUSTER_LIST, &a.cluster_list, |c| c.octets());
    let code = ac::EXTENDED_COMMUNITIES;
    list(out, flags(a, code), code, &a.extended_communities, |c| *c);
    if replaced {
        attribute(out, OPTIONAL | TRANSITIVE, ac::AS4_PATH, a.as_path.wire());
    }
    if let Some(value) = aggregator_as4 {
        attribute(out, OPTIONAL | TRANSITIVE, ac::AS4_AGGREGATOR, &value);
    }
    encode_unknown(out, a, 0..=ac::LARGE_COMMUNITY);
    list(out, flags(a, ac::LARGE_COMMUNITY), ac::LARGE_COMMUNITY, &a.large_communities, |c| c.to_wire());
    encode_unknown(out, a, ac::LARGE_COMMUNITY + 1..=ac::ONLY_TO_CUSTOMER);
    if let Some(asn) = a.only_to_customer {
        attribute(out, flags(a, ac::ONLY_TO_CUSTOMER), ac::ONLY_TO_CUSTOMER, &asn.to_be_bytes());
    }
    encode_unknown(out, a, ac::ONLY_TO_CUSTOMER + 1..=u8::MAX);
}

/// The flags of a known optional transitive attribute: the Partial bit stays (RFC 4271 §5).
fn flags(a: &PathAttributes, code: u8) -> u8 {
    OPTIONAL | TRANSITIVE | if a.partial.contains(code) { PARTIAL } else { 0 }
}

/// Appends the unknown attributes of a range of codes. Whatever was put among them, nothing that has a field of its
/// own goes out a second time.
fn encode_unknown(out: &mut Vec<u8>, a: &PathAttributes, codes: RangeInclusive<u8>) {
    for raw in a.unknown.iter().filter(|raw| codes.contains(&raw.code) && is_unread(raw.code)) {
        attribute(out, OPTIONAL | TRANSITIVE | raw.flags & PARTIAL, raw.code, &raw.value);
    }
}

fn list<T, const N: usize>(out: &mut Vec<u8>, flags: u8, code: u8, items: &[T], one: impl Fn(&T) -> [u8; N]) {
    if !items.is_empty() {
        header(out, flags, code, items.len() * N);
        items.iter().for_each(|item| out.extend_from_slice(&one(item)));
    }
}

/// Appends AGGREGATOR; gives back the value of AS4_AGGREGATOR when the peer needs it (RFC 6793 §4.2.2).
fn encode_aggregator(
    out: &mut Vec<u8>,
    aggregator: Aggregator,
    a: &PathAttributes,
    options: EncodeOptions,
) -> Option<[u8; 8]> {
    let mut long = [0; 8];
    long[..4].copy_from_slice(&aggregator.asn.to_be_bytes());
    long[4..].copy_from_slice(&aggregator.address.octets());
    let flags = flags(a, ac::AGGREGATOR);
    if options.as4 {
        attribute(out, flags, ac::AGGREGATOR, &long);
        return None;
    }
    let short_as = u16::try_from(aggregator.asn);
    let mut short = [0; 6];
    short[..2].copy_from_slice(&short_as.unwrap_or(AS_TRANS as u16).to_be_bytes());
    short[2..].copy_from_slice(&aggregator.address.octets());
    attribute(out, flags, ac::AGGREGATOR, &short);
    short_as.is_err().then_some(long)
}
