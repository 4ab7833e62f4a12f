//! UPDATE messages out of routes. Owns packing: as many prefixes of one attribute set as a message takes.

use crate::attributes::{EXTENDED, OPTIONAL, PARTIAL, TRANSITIVE, attribute_code as ac};
use crate::message::encode_message;
use crate::{
    AS_TRANS, AfiSafi, Family, HEADER_LEN, MAX_EXTENDED_LEN, MAX_LEN, MessageType, NextHop, PathAttributes,
    Prefix,
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
    let add_path = options.add_path[family.index()];
    let classic = family == Family::Ipv4 && matches!(attributes.next_hop, NextHop::V4(_));
    let mut head = Vec::with_capacity(128);
    encode_attributes(&mut head, attributes, classic, options);
    // Header, two length fields; MP_REACH_NLRI: attribute header 4, AFI, SAFI, next hop with length, reserved.
    let mp_head = if classic { 0 } else { 4 + 3 + 33 + 1 };
    let used = HEADER_LEN + 4 + head.len() + mp_head;
    let room = options.max_len().checked_sub(used).filter(|room| *room >= MAX_ROUTE);
    let room = room.ok_or(TooLong(head.len()))?;
    let mut rest = routes;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(fitting(rest, room, add_path));
        rest = tail;
        encode_message(out, MessageType::Update, |out| {
            out.extend_from_slice(&[0, 0]);
            if classic {
                out.extend_from_slice(&(head.len() as u16).to_be_bytes());
                out.extend_from_slice(&head);
                encode_routes(out, chunk, add_path);
            } else {
                let length_at = out.len();
                out.extend_from_slice(&[0, 0]);
                encode_mp_reach(out, family, attributes.next_hop, chunk, add_path);
                out.extend_from_slice(&head);
                patch_u16(out, length_at);
            }
        });
    }
    Ok(())
}

/// Appends UPDATEs that withdraw `routes` (all of one family).
pub fn encode_unreach<R: Route>(out: &mut Vec<u8>, routes: &[R], options: EncodeOptions) {
    let Some(family) = routes.first().map(|r| r.prefix().family()) else { return };
    let add_path = options.add_path[family.index()];
    let room = options.max_len() - HEADER_LEN - 4 - 7;
    let mut rest = routes;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(fitting(rest, room, add_path));
        rest = tail;
        encode_message(out, MessageType::Update, |out| {
            let length_at = out.len();
            out.extend_from_slice(&[0, 0]);
            if family == Family::Ipv4 {
                encode_routes(out, chunk, add_path);
                patch_u16(out, length_at);
                out.extend_from_slice(&[0, 0]);
            } else {
                let attributes_at = out.len();
                out.extend_from_slice(&[0, 0]);
                encode_mp_unreach(out, family, chunk, add_path);
                patch_u16(out, attributes_at);
            }
        });
    }
}

/// Appends the End-of-RIB marker of a family (RFC 4724 §2).
pub fn encode_end_of_rib(out: &mut Vec<u8>, family: Family) {
    encode_message(out, MessageType::Update, |out| match family {
        Family::Ipv4 => out.extend_from_slice(&[0, 0, 0, 0]),
        Family::Ipv6 => {
            out.extend_from_slice(&[0, 0]);
            let length_at = out.len();
            out.extend_from_slice(&[0, 0]);
            encode_mp_unreach::<Prefix>(out, family, &[], false);
            patch_u16(out, length_at);
        }
    });
}

fn encode_routes<R: Route>(out: &mut Vec<u8>, routes: &[R], add_path: bool) {
    for route in routes {
        if add_path {
            out.extend_from_slice(&route.path_id().to_be_bytes());
        }
        route.prefix().encode(out);
    }
}

/// How many of the routes fit into `room` octets: at least one.
fn fitting<R: Route>(routes: &[R], room: usize, add_path: bool) -> usize {
    let mut used = 0;
    let fitting = routes.iter().take_while(|r| {
        used += r.prefix().wire_len() + if add_path { 4 } else { 0 };
        used <= room
    });
    fitting.count().max(1)
}

/// Writes how many octets follow the 16-bit field at `at`.
fn patch_u16(out: &mut [u8], at: usize) {
    let len = (out.len() - at - 2) as u16;
    out[at..at + 2].copy_from_slice(&len.to_be_bytes());
}

fn encode_mp_reach<R: Route>(
    out: &mut Vec<u8>,
    family: Family,
    next_hop: NextHop,
    routes: &[R],
    add_path: bool,
) {
    let AfiSafi { afi, safi } = family.into();
    out.extend_from_slice(&[OPTIONAL | EXTENDED, ac::MP_REACH_NLRI, 0, 0]);
    let length_at = out.len() - 2;
    out.extend_from_slice(&afi.to_be_bytes());
    out.push(safi);
    match next_hop {
        NextHop::V4(a) => {
            out.push(4);
            out.extend_from_slice(&a.octets());
        }
        NextHop::V6(a, link_local) => {
            out.push(if link_local.is_some() { 32 } else { 16 });
            out.extend_from_slice(&a.octets());
            link_local.iter().for_each(|a| out.extend_from_slice(&a.octets()));
        }
    }
    out.push(0);
    encode_routes(out, routes, add_path);
    patch_u16(out, length_at);
}

fn encode_mp_unreach<R: Route>(out: &mut Vec<u8>, family: Family, routes: &[R], add_path: bool) {
    let AfiSafi { afi, safi } = family.into();
    out.extend_from_slice(&[OPTIONAL | EXTENDED, ac::MP_UNREACH_NLRI, 0, 0]);
    let length_at = out.len() - 2;
    out.extend_from_slice(&afi.to_be_bytes());
    out.push(safi);
    encode_routes(out, routes, add_path);
    patch_u16(out, length_at);
}

/// Appends one attribute; the length takes two octets only when it must.
fn attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(len) => out.extend_from_slice(&[flags, code, len]),
        Err(_) => {
            out.extend_from_slice(&[flags | EXTENDED, code]);
            out.extend_from_slice(&(value.len().min(0xffff) as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&value[..value.len().min(0xffff)]);
}

/// Appends all attributes but MP_REACH_NLRI in ascending order of code.
fn encode_attributes(out: &mut Vec<u8>, a: &PathAttributes, classic: bool, options: EncodeOptions) {
    let both = OPTIONAL | TRANSITIVE;
    attribute(out, TRANSITIVE, ac::ORIGIN, &[a.origin as u8]);
    let (narrow, replaced) = if options.as4 { (Vec::new(), false) } else { a.as_path.narrow() };
    attribute(out, TRANSITIVE, ac::AS_PATH, if options.as4 { a.as_path.wire() } else { &narrow });
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
    let aggregator_as4 = encode_aggregator(out, a, options);
    list(out, both, ac::COMMUNITIES, &a.communities, |c| c.0.to_be_bytes());
    if let Some(originator) = a.originator_id {
        attribute(out, OPTIONAL, ac::ORIGINATOR_ID, &originator.octets());
    }
    list(out, OPTIONAL, ac::CLUSTER_LIST, &a.cluster_list, |c| c.octets());
    list(out, both, ac::EXTENDED_COMMUNITIES, &a.extended_communities, |c| *c);
    if replaced {
        attribute(out, both, ac::AS4_PATH, a.as_path.wire());
    }
    if let Some(value) = aggregator_as4 {
        attribute(out, both, ac::AS4_AGGREGATOR, &value);
    }
    let raw = |out: &mut Vec<u8>, codes: std::ops::RangeInclusive<u8>| {
        for raw in a.unknown.iter().filter(|raw| codes.contains(&raw.code)) {
            attribute(out, raw.flags & (both | PARTIAL), raw.code, &raw.value);
        }
    };
    raw(out, 0..=ac::LARGE_COMMUNITY);
    encode_large(out, a);
    raw(out, ac::LARGE_COMMUNITY + 1..=ac::ONLY_TO_CUSTOMER);
    if let Some(asn) = a.only_to_customer {
        attribute(out, both, ac::ONLY_TO_CUSTOMER, &asn.to_be_bytes());
    }
    raw(out, ac::ONLY_TO_CUSTOMER + 1..=u8::MAX);
}

fn encode_large(out: &mut Vec<u8>, a: &PathAttributes) {
    list(out, OPTIONAL | TRANSITIVE, ac::LARGE_COMMUNITY, &a.large_communities, |c| {
        let mut bytes = [0; 12];
        for (chunk, part) in bytes.chunks_exact_mut(4).zip([c.global, c.local1, c.local2]) {
            chunk.copy_from_slice(&part.to_be_bytes());
        }
        bytes
    });
}

fn list<T, const N: usize>(out: &mut Vec<u8>, flags: u8, code: u8, items: &[T], one: impl Fn(&T) -> [u8; N]) {
    if !items.is_empty() {
        attribute(out, flags, code, &items.iter().flat_map(one).collect::<Vec<_>>());
    }
}

/// Appends AGGREGATOR; gives back the value of AS4_AGGREGATOR when the peer needs it (RFC 6793 §4.2.2).
fn encode_aggregator(out: &mut Vec<u8>, a: &PathAttributes, options: EncodeOptions) -> Option<[u8; 8]> {
    let aggregator = a.aggregator?;
    let mut long = [0; 8];
    long[..4].copy_from_slice(&aggregator.asn.to_be_bytes());
    long[4..].copy_from_slice(&aggregator.address.octets());
    let flags = OPTIONAL | TRANSITIVE;
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
