//! Path attributes in a received UPDATE. Owns their checks (RFC 4271 §6.3, RFC 7606 §7); borrows everything.

use std::net::Ipv4Addr;

use crate::attribute_code::{self as ac, EXTENDED, OPTIONAL, PARTIAL, TRANSITIVE};
use crate::reader::{Reader, u32s};
use crate::revised_errors::{self, UNKNOWN};
use crate::update::is_host;
use crate::{
    AS_TRANS, Aggregator, AsPath, AttributeProblem, Community, DecodeError, Disposition, Fault,
    LargeCommunity, NextHop, Origin, Partial, PathAttributes, RawAttribute, UpdateContext, code,
};

/// The attributes of one UPDATE, checked but not copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// ORIGIN.
    pub origin: Option<Origin>,
    /// NEXT_HOP of the IPv4 routes in the message's own field.
    pub next_hop: Option<Ipv4Addr>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// ORIGINATOR_ID.
    pub originator_id: Option<Ipv4Addr>,
    /// ONLY_TO_CUSTOMER.
    pub only_to_customer: Option<u32>,
    as4: bool,
    partial: Partial,
    unknown: bool,
    has_as_path: bool,
    as4_aggregator: Option<Aggregator>,
    as_path: Span,
    as4_path: Span,
    communities: Span,
    extended_communities: Span,
    large_communities: Span,
    cluster_list: Span,
    /// The attributes MP_REACH_NLRI and MP_UNREACH_NLRI with their headers.
    mp: [Span; 2],
    all: &'a [u8],
}

/// A part of the attribute list, which is never longer than 65535 octets. Half as large as a slice, and an UPDATE
/// is moved about.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u16,
    end: u16,
}

impl Span {
    fn of(self, all: &[u8]) -> &[u8] {
        all.get(usize::from(self.start)..usize::from(self.end)).unwrap_or_default()
    }

    fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// One attribute as it stands in the list.
#[derive(Clone, Copy)]
struct Attribute<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// Where the value stands.
    span: Span,
}

/// What parsing the list found beside the attributes themselves.
#[derive(Default)]
pub(crate) struct Found<'a> {
    pub(crate) mp_reach: Option<&'a [u8]>,
    pub(crate) mp_unreach: Option<&'a [u8]>,
    /// There is more than MP_UNREACH_NLRI (RFC 7606 §5.2).
    pub(crate) announces: bool,
    pub(crate) problem: Option<AttributeProblem>,
}

impl Found<'_> {
    /// Remembers the first of the worst problems.
    #[cold]
    pub(crate) fn note(&mut self, code: u8, fault: Fault, detail: &'static str) {
        let disposition = revised_errors::disposition(code, fault);
        if self.problem.is_none_or(|p| p.disposition < disposition) {
            self.problem = Some(AttributeProblem { code, fault, disposition, detail });
        }
    }

    /// Passes on a well-sized value, or notes the problem.
    fn sized<const N: usize>(&mut self, attribute: &Attribute<'_>) -> Option<[u8; N]> {
        let value = attribute.value.try_into().ok();
        if value.is_none() {
            self.note(attribute.code, Fault::Length, "wrong length");
        }
        value
    }

    /// Passes on a list whose length is a positive multiple of `n`, or notes the problem.
    fn list(&mut self, attribute: &Attribute<'_>, n: usize) -> Span {
        if attribute.value.is_empty() || !attribute.value.len().is_multiple_of(n) {
            self.note(attribute.code, Fault::Length, "length is no positive multiple of an entry");
            return Span::default();
        }
        attribute.span
    }
}

impl<'a> Attributes<'a> {
    /// Reads the attribute list of an UPDATE.
    pub(crate) fn read(
        &mut self,
        bytes: &'a [u8],
        context: UpdateContext,
        found: &mut Found<'a>,
    ) -> Result<(), DecodeError> {
        (self.all, self.as4) = (bytes, context.as4);
        let mut seen = [0_u64; 4];
        let mut at = 0;
        while at < bytes.len() {
            let Some(attribute) = attribute_at(bytes, at) else {
                found.announces = true;
                found.note(0, Fault::Length, "the list is cut off inside an attribute");
                break;
            };
            let start = at;
            at = usize::from(attribute.span.end);
            let (word, bit) = (usize::from(attribute.code / 64), 1 << (attribute.code % 64));
            if seen[word] & bit != 0 {
                repeated(attribute.code, found)?;
                continue;
            }
            seen[word] |= bit;
            let expected = revised_errors::expected_flags(attribute.code);
            if expected != attribute.flags & (OPTIONAL | TRANSITIVE) && expected != UNKNOWN {
                found.note(attribute.code, Fault::Flags, "flags conflict with the attribute");
                // The routes of MP_REACH_NLRI must still be found, to be withdrawn.
                if attribute.code != ac::MP_REACH_NLRI && attribute.code != ac::MP_UNREACH_NLRI {
                    found.announces = true;
                    continue;
                }
            }
            self.read_one(&attribute, start, context, found)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn read_one(
        &mut self,
        attribute: &Attribute<'a>,
        start: usize,
        context: UpdateContext,
        found: &mut Found<'a>,
    ) -> Result<(), DecodeError> {
        let value = attribute.value;
        found.announces |= attribute.code != ac::MP_UNREACH_NLRI;
        match attribute.code {
            ac::ORIGIN => match value {
                [0] => self.origin = Some(Origin::Igp),
                [1] => self.origin = Some(Origin::Egp),
                [2] => self.origin = Some(Origin::Incomplete),
                [_] => found.note(ac::ORIGIN, Fault::Value, "undefined value"),
                _ => found.note(ac::ORIGIN, Fault::Length, "wrong length"),
            },
            ac::AS_PATH => match AsPath::check(value, context.as4) {
                Ok(()) => (self.as_path, self.has_as_path) = (attribute.span, true),
                Err((fault, detail)) => found.note(ac::AS_PATH, fault, detail),
            },
            ac::NEXT_HOP => self.next_hop = next_hop(attribute, found),
            ac::MULTI_EXIT_DISC => self.med = found.sized(attribute).map(u32::from_be_bytes),
            ac::LOCAL_PREF if context.internal => {
                self.local_pref = found.sized(attribute).map(u32::from_be_bytes);
            }
            ac::COMMUNITIES => self.communities = found.list(attribute, 4),
            ac::MP_REACH_NLRI => {
                (found.mp_reach, self.mp[0]) = (Some(value), attribute.span.from(start));
            }
            ac::MP_UNREACH_NLRI => {
                (found.mp_unreach, self.mp[1]) = (Some(value), attribute.span.from(start));
            }
            ac::ORIGINATOR_ID if context.internal => {
                self.originator_id = found.sized::<4>(attribute).map(Ipv4Addr::from);
            }
            ac::CLUSTER_LIST if context.internal => self.cluster_list = found.list(attribute, 4),
            ac::LOCAL_PREF | ac::ORIGINATOR_ID | ac::CLUSTER_LIST => {
                found.note(attribute.code, Fault::External, "not allowed from an external peer");
            }
            _ => return self.read_rare(attribute, context, found),
        }
        if attribute.flags & PARTIAL != 0 {
            self.partial.insert(attribute.code);
        }
        Ok(())
    }

    /// Reads the attributes that few routes have.
    fn read_rare(
        &mut self,
        attribute: &Attribute<'a>,
        context: UpdateContext,
        found: &mut Found<'a>,
    ) -> Result<(), DecodeError> {
        let (code, value) = (attribute.code, attribute.value);
        match code {
            ac::ATOMIC_AGGREGATE if value.is_empty() => self.atomic_aggregate = true,
            ac::ATOMIC_AGGREGATE => found.note(code, Fault::Length, "wrong length"),
            ac::AGGREGATOR => self.aggregator = aggregator(attribute, context.as4, found),
            ac::EXTENDED_COMMUNITIES => self.extended_communities = found.list(attribute, 8),
            ac::LARGE_COMMUNITY => self.large_communities = found.list(attribute, 12),
            ac::ONLY_TO_CUSTOMER => {
                self.only_to_customer = found.sized(attribute).map(u32::from_be_bytes);
            }
            ac::AS4_PATH | ac::AS4_AGGREGATOR if context.as4 => {
                found.note(code, Fault::FourOctet, "sent by a speaker of four-octet AS numbers");
            }
            ac::AS4_PATH => match AsPath::check_as4(value) {
                Ok(()) => self.as4_path = attribute.span,
                Err((fault, detail)) => found.note(code, fault, detail),
            },
            ac::AS4_AGGREGATOR => self.as4_aggregator = aggregator(attribute, true, found),
            ac::IPV6_EXTENDED_COMMUNITIES => self.unknown |= !found.list(attribute, 20).is_empty(),
            _ if attribute.flags & OPTIONAL == 0 => return Err(unrecognised(attribute)),
            // Type 0 is reserved and nothing that anybody should get from us.
            _ => self.unknown |= attribute.flags & TRANSITIVE != 0 && code != 0,
        }
        let discarded = code == ac::AGGREGATOR && self.aggregator.is_none();
        if attribute.flags & PARTIAL != 0 && !discarded {
            self.partial.insert(code);
        }
        Ok(())
    }

    /// Whether the list has no attribute at all.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether MP_UNREACH_NLRI is the only attribute.
    pub(crate) fn is_only_mp_unreach(&self) -> bool {
        let span = self.mp[1];
        !span.is_empty() && span.of(self.all).len() == self.all.len()
    }

    /// The attribute list as it was received, MP_REACH_NLRI and MP_UNREACH_NLRI included.
    pub fn bytes(&self) -> &'a [u8] {
        self.all
    }

    /// What identifies the attributes of routes with `next_hop`: where keys are equal, and so are `as4` and
    /// `internal` of the [`UpdateContext`]s, [`Self::to_path`] gives equal attributes. The routes of MP_REACH_NLRI
    /// and MP_UNREACH_NLRI are not in the key. It is the received list itself where that is possible, and is put
    /// together in `scratch` otherwise.
    pub fn key<'k>(&self, next_hop: NextHop, scratch: &'k mut Vec<u8>) -> &'k [u8]
    where
        'a: 'k,
    {
        let classic = matches!(next_hop, NextHop::V4(a) if self.next_hop == Some(a));
        if classic && self.mp.iter().all(|span| span.is_empty()) {
            return self.all;
        }
        scratch.clear();
        // One that is not there stands at the end.
        let len = self.all.len() as u16;
        let place = |span: Span| if span.is_empty() { Span { start: len, end: len } } else { span };
        let (mut first, mut second) = (place(self.mp[0]), place(self.mp[1]));
        if first.start > second.start {
            (first, second) = (second, first);
        }
        for (start, end) in [(0, first.start), (first.end, second.start), (second.end, len)] {
            scratch.extend_from_slice(Span { start, end }.of(self.all));
        }
        // In the shape of an attribute, so that no list can be taken for another one.
        scratch.extend_from_slice(&[OPTIONAL, ac::MP_REACH_NLRI]);
        match next_hop {
            NextHop::V4(a) => {
                scratch.push(4);
                scratch.extend_from_slice(&a.octets());
            }
            NextHop::V6(a, link_local) => {
                scratch.push(if link_local.is_some() { 32 } else { 16 });
                scratch.extend_from_slice(&a.octets());
                link_local.iter().for_each(|a| scratch.extend_from_slice(&a.octets()));
            }
        }
        scratch
    }

    /// Whether AS_PATH was there and well formed.
    pub fn has_as_path(&self) -> bool {
        self.has_as_path
    }

    /// The path, with a two-octet speaker's AS4_PATH joined in (RFC 6793 §4.2.3).
    pub fn as_path(&self) -> AsPath {
        let path = AsPath::from_checked(self.as_path.of(self.all), self.as4);
        if self.as4_path.is_empty() || self.ignores_as4() {
            return path;
        }
        path.merged(&AsPath::from_checked_as4(self.as4_path.of(self.all)))
    }

    /// A two-octet speaker aggregated after the AS4 attributes were made: they are of no more use.
    fn ignores_as4(&self) -> bool {
        self.as4_aggregator.is_some() && self.aggregator.is_some_and(|a| a.asn != AS_TRANS)
    }

    /// Copies the attributes for routes with `next_hop`.
    pub fn to_path(&self, next_hop: NextHop) -> PathAttributes {
        let aggregator = match (self.aggregator, self.as4_aggregator) {
            (Some(old), Some(new)) if old.asn == AS_TRANS => Some(new),
            (aggregator, _) => aggregator,
        };
        let large = self.large_communities.of(self.all);
        PathAttributes {
            origin: self.origin.unwrap_or_default(),
            as_path: self.as_path(),
            next_hop,
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator,
            communities: u32s(self.communities.of(self.all)).map(Community).collect(),
            extended_communities: self.extended_communities.of(self.all).as_chunks::<8>().0.to_vec(),
            large_communities: LargeCommunity::list(large.as_chunks::<12>().0),
            originator_id: self.originator_id,
            cluster_list: u32s(self.cluster_list.of(self.all)).map(Ipv4Addr::from).collect(),
            only_to_customer: self.only_to_customer,
            partial: self.partial,
            unknown: self.unknown_attributes(),
        }
    }

    /// Unknown transitive attributes, marked Partial as they leave here (RFC 4271 §5).
    fn unknown_attributes(&self) -> Vec<RawAttribute> {
        let mut unknown: Vec<RawAttribute> = Vec::new();
        let mut seen = [false; 256];
        let mut at = if self.unknown { 0 } else { self.all.len() };
        while let Some(attribute) = attribute_at(self.all, at) {
            at = usize::from(attribute.span.end);
            let both = OPTIONAL | TRANSITIVE;
            let Attribute { code, value, flags, .. } = attribute;
            let first = !std::mem::replace(&mut seen[usize::from(code)], true);
            if first && is_unread(code) && flags & both == both {
                unknown.push(RawAttribute { flags: both | PARTIAL, code, value: value.into() });
            }
        }
        unknown.sort_by_key(|a| a.code);
        unknown
    }
}

/// Whether attributes of a code are passed on unread. Type 0 is reserved.
pub(crate) fn is_unread(code: u8) -> bool {
    code == ac::IPV6_EXTENDED_COMMUNITIES || (code != 0 && revised_errors::expected_flags(code) == UNKNOWN)
}

impl Span {
    fn from(self, start: usize) -> Self {
        Self { start: start as u16, end: self.end }
    }
}

/// The attribute that begins at `at`; `None` when it does not end inside the list, or nothing begins there.
#[inline(always)]
fn attribute_at(bytes: &[u8], at: usize) -> Option<Attribute<'_>> {
    let [flags, code, len, rest @ ..] = bytes.get(at..)? else { return None };
    let (flags, code, mut len, mut rest, mut start) = (*flags, *code, usize::from(*len), rest, at + 3);
    if flags & EXTENDED != 0 {
        let (low, tail) = rest.split_first()?;
        (len, rest, start) = (len << 8 | usize::from(*low), tail, at + 4);
    }
    let value = rest.get(..len)?;
    // The length of the list has 16 bits.
    let span = Span { start: start as u16, end: (start + len) as u16 };
    Some(Attribute { flags, code, value, span })
}

/// A second attribute of one type: all but the first are discarded (RFC 7606 §3 g).
#[cold]
fn repeated(code: u8, found: &mut Found<'_>) -> Result<(), DecodeError> {
    if revised_errors::disposition(code, Fault::Repeated) == Disposition::SessionReset {
        let subcode = revised_errors::subcode(code, Fault::Repeated);
        return Err(DecodeError::new(code::UPDATE, subcode, "MP_REACH_NLRI or MP_UNREACH_NLRI twice"));
    }
    found.note(code, Fault::Repeated, "attribute appears twice");
    Ok(())
}

/// An attribute that claims to be known to all, and is not (RFC 4271 §6.3).
#[cold]
fn unrecognised(attribute: &Attribute<'_>) -> DecodeError {
    let error = DecodeError::new(code::UPDATE, 2, "unrecognised well-known attribute");
    error.with_data(&raw(attribute.flags, attribute.code, attribute.value))
}

/// An attribute as a NOTIFICATION quotes it: type, length, value.
pub(crate) fn raw(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut raw = vec![flags, code];
    match u8::try_from(value.len()) {
        Ok(len) if flags & EXTENDED == 0 => raw.push(len),
        _ => {
            raw[0] |= EXTENDED;
            raw.extend_from_slice(&(value.len() as u16).to_be_bytes());
        }
    }
    raw.extend_from_slice(value);
    raw
}

/// An address that a packet can be sent to (RFC 4271 §6.3): neither nobody's nor many hosts'.
fn next_hop(attribute: &Attribute<'_>, found: &mut Found<'_>) -> Option<Ipv4Addr> {
    let address = found.sized::<4>(attribute).map(Ipv4Addr::from)?;
    if !is_host(address.into()) {
        found.note(ac::NEXT_HOP, Fault::Value, "not the address of a host");
        return None;
    }
    Some(address)
}

fn aggregator(attribute: &Attribute<'_>, as4: bool, found: &mut Found<'_>) -> Option<Aggregator> {
    let mut reader = Reader(attribute.value);
    let parsed = (|| {
        let asn = if as4 { reader.u32()? } else { u32::from(reader.u16()?) };
        let address = Ipv4Addr::from(reader.u32()?);
        reader.is_empty().then_some(Aggregator { asn, address })
    })();
    match parsed {
        None => found.note(attribute.code, Fault::Length, "wrong length"),
        Some(Aggregator { asn: 0, .. }) => found.note(attribute.code, Fault::Value, "AS 0"),
        Some(_) => {}
    }
    parsed.filter(|a| a.asn != 0)
}
