//! Path attributes in a received UPDATE. Owns their checks (RFC 4271 §6.3, RFC 7606 §7); borrows everything.

use std::net::Ipv4Addr;

use crate::reader::{Reader, u32s};
use crate::{
    Aggregator, AsPath, AttributeProblem, Community, DecodeError, Disposition, LargeCommunity, NextHop,
    Origin, PathAttributes, RawAttribute, UpdateContext, code,
};

/// Attribute type codes.
pub mod attribute_code {
    #![allow(missing_docs)]
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const LARGE_COMMUNITY: u8 = 32;
    pub const ONLY_TO_CUSTOMER: u8 = 35;
}
use attribute_code as ac;

/// Flag bits of an attribute (RFC 4271 §4.3).
pub(crate) const OPTIONAL: u8 = 0x80;
pub(crate) const TRANSITIVE: u8 = 0x40;
pub(crate) const PARTIAL: u8 = 0x20;
pub(crate) const EXTENDED: u8 = 0x10;

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
    as_path: Option<&'a [u8]>,
    as4: bool,
    as4_path: Option<&'a [u8]>,
    as4_aggregator: Option<Aggregator>,
    communities: &'a [u8],
    extended_communities: &'a [u8],
    large_communities: &'a [u8],
    cluster_list: &'a [u8],
    all: &'a [u8],
    unknown: u16,
}

/// One attribute as it stands in the list.
#[derive(Clone, Copy)]
struct Attribute<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
}

/// What parsing the list found beside the attributes themselves.
#[derive(Default)]
pub(crate) struct Found<'a> {
    pub(crate) mp_reach: Option<&'a [u8]>,
    pub(crate) mp_unreach: Option<&'a [u8]>,
    pub(crate) problem: Option<AttributeProblem>,
}

impl<'a> Found<'a> {
    /// Remembers the first of the worst problems.
    fn note(&mut self, code: u8, disposition: Disposition, detail: &'static str) {
        if self.problem.is_none_or(|p| p.disposition < disposition) {
            self.problem = Some(AttributeProblem { code, disposition, detail });
        }
    }

    fn withdraw(&mut self, code: u8, detail: &'static str) {
        self.note(code, Disposition::TreatAsWithdraw, detail);
    }

    fn discard(&mut self, code: u8, detail: &'static str) {
        self.note(code, Disposition::AttributeDiscard, detail);
    }

    /// Passes on a well-sized value, or notes treat-as-withdraw.
    fn sized<const N: usize>(&mut self, attribute: Attribute<'a>) -> Option<[u8; N]> {
        let value = attribute.value.try_into().ok();
        if value.is_none() {
            self.withdraw(attribute.code, "wrong length");
        }
        value
    }

    /// Passes on a list whose length is a positive multiple of `N`, or notes treat-as-withdraw.
    fn list(&mut self, attribute: Attribute<'a>, n: usize) -> &'a [u8] {
        if attribute.value.is_empty() || !attribute.value.len().is_multiple_of(n) {
            self.withdraw(attribute.code, "length is no positive multiple of an entry");
            return &[];
        }
        attribute.value
    }
}

impl<'a> Attributes<'a> {
    /// Reads the attribute list of an UPDATE.
    pub(crate) fn parse(bytes: &'a [u8], context: UpdateContext) -> Result<(Self, Found<'a>), DecodeError> {
        let mut attributes = Self { all: bytes, as4: context.as4, ..Self::default() };
        let mut found = Found::default();
        let mut seen = [0_u64; 4];
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            let Some(attribute) = next_attribute(&mut reader) else {
                found.withdraw(0, "attribute list is cut off");
                break;
            };
            let (word, bit) = (usize::from(attribute.code / 64), 1 << (attribute.code % 64));
            if seen[word] & bit != 0 {
                if matches!(attribute.code, ac::MP_REACH_NLRI | ac::MP_UNREACH_NLRI) {
                    return Err(DecodeError::new(code::UPDATE, 1, "MP_REACH_NLRI or MP_UNREACH_NLRI twice"));
                }
                found.discard(attribute.code, "attribute appears twice");
                continue;
            }
            seen[word] |= bit;
            if flags_conflict(attribute) {
                if matches!(attribute.code, ac::MP_REACH_NLRI | ac::MP_UNREACH_NLRI) {
                    return Err(DecodeError::new(code::UPDATE, 4, "flags conflict with the attribute"));
                }
                found.withdraw(attribute.code, "flags conflict with the attribute");
                continue;
            }
            attributes.read(attribute, context, &mut found)?;
        }
        Ok((attributes, found))
    }

    fn read(
        &mut self,
        attribute: Attribute<'a>,
        context: UpdateContext,
        found: &mut Found<'a>,
    ) -> Result<(), DecodeError> {
        let value = attribute.value;
        match attribute.code {
            ac::ORIGIN => match value {
                [0] => self.origin = Some(Origin::Igp),
                [1] => self.origin = Some(Origin::Egp),
                [2] => self.origin = Some(Origin::Incomplete),
                _ => found.withdraw(ac::ORIGIN, "undefined ORIGIN"),
            },
            ac::AS_PATH => match AsPath::check(value, context.as4) {
                Ok(()) => self.as_path = Some(value),
                Err(detail) => found.withdraw(ac::AS_PATH, detail),
            },
            ac::NEXT_HOP => self.next_hop = found.sized::<4>(attribute).map(Ipv4Addr::from),
            ac::MULTI_EXIT_DISC => self.med = found.sized(attribute).map(u32::from_be_bytes),
            ac::ATOMIC_AGGREGATE if value.is_empty() => self.atomic_aggregate = true,
            ac::ATOMIC_AGGREGATE => found.discard(ac::ATOMIC_AGGREGATE, "wrong length"),
            ac::AGGREGATOR => match aggregator(value, context.as4) {
                Some(aggregator) => self.aggregator = Some(aggregator),
                None => found.discard(ac::AGGREGATOR, "wrong length or AS 0"),
            },
            ac::COMMUNITIES => self.communities = found.list(attribute, 4),
            ac::EXTENDED_COMMUNITIES => self.extended_communities = found.list(attribute, 8),
            ac::LARGE_COMMUNITY => self.large_communities = found.list(attribute, 12),
            ac::LOCAL_PREF | ac::ORIGINATOR_ID | ac::CLUSTER_LIST if !context.internal => {
                found.discard(attribute.code, "not allowed from an external peer");
            }
            ac::LOCAL_PREF => self.local_pref = found.sized(attribute).map(u32::from_be_bytes),
            ac::ORIGINATOR_ID => self.originator_id = found.sized::<4>(attribute).map(Ipv4Addr::from),
            ac::CLUSTER_LIST => self.cluster_list = found.list(attribute, 4),
            ac::ONLY_TO_CUSTOMER => self.only_to_customer = found.sized(attribute).map(u32::from_be_bytes),
            ac::MP_REACH_NLRI => found.mp_reach = Some(value),
            ac::MP_UNREACH_NLRI => found.mp_unreach = Some(value),
            ac::AS4_PATH | ac::AS4_AGGREGATOR if context.as4 => {
                found.discard(attribute.code, "sent by a four-octet speaker");
            }
            ac::AS4_PATH => match AsPath::check(value, true) {
                Ok(()) => self.as4_path = Some(value),
                Err(detail) => found.discard(ac::AS4_PATH, detail),
            },
            ac::AS4_AGGREGATOR => match aggregator(value, true) {
                Some(aggregator) => self.as4_aggregator = Some(aggregator),
                None => found.discard(ac::AS4_AGGREGATOR, "wrong length or AS 0"),
            },
            _ if attribute.flags & OPTIONAL == 0 => {
                return Err(DecodeError::new(code::UPDATE, 2, "unrecognised well-known attribute")
                    .with_data(value.get(..value.len().min(64)).unwrap_or_default()));
            }
            _ if attribute.flags & TRANSITIVE != 0 => self.unknown += 1,
            _ => {}
        }
        Ok(())
    }

    /// Whether AS_PATH was there and well formed.
    pub fn has_as_path(&self) -> bool {
        self.as_path.is_some()
    }

    /// The path, with a two-octet speaker's AS4_PATH joined in (RFC 6793 §4.2.3).
    pub fn as_path(&self) -> AsPath {
        let path = AsPath::from_checked(self.as_path.unwrap_or_default(), self.as4);
        let ignore_as4 = self.aggregator.is_some_and(|a| a.asn != crate::AS_TRANS);
        match self.as4_path {
            Some(as4_path) if !ignore_as4 => path.merged(AsPath::from_checked(as4_path, true)),
            _ => path,
        }
    }

    /// Copies the attributes for routes with `next_hop`.
    pub fn to_path(&self, next_hop: NextHop) -> PathAttributes {
        let aggregator = match (self.aggregator, self.as4_aggregator) {
            (Some(old), Some(new)) if old.asn == crate::AS_TRANS => Some(new),
            (aggregator, _) => aggregator,
        };
        PathAttributes {
            origin: self.origin.unwrap_or_default(),
            as_path: self.as_path(),
            next_hop,
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator,
            communities: u32s(self.communities).map(Community).collect(),
            extended_communities: self.extended_communities.as_chunks::<8>().0.to_vec(),
            large_communities: large_communities(self.large_communities).collect(),
            originator_id: self.originator_id,
            cluster_list: u32s(self.cluster_list).map(Ipv4Addr::from).collect(),
            only_to_customer: self.only_to_customer,
            unknown: self.unknown_attributes(),
        }
    }

    /// Unknown transitive attributes, marked Partial as they leave here (RFC 4271 §5).
    fn unknown_attributes(&self) -> Vec<RawAttribute> {
        if self.unknown == 0 {
            return Vec::new();
        }
        let mut reader = Reader(self.all);
        let mut found: Vec<RawAttribute> = Vec::new();
        while let Some(a) = next_attribute(&mut reader) {
            let passes = a.flags & (OPTIONAL | TRANSITIVE) == OPTIONAL | TRANSITIVE;
            if passes && expected_flags(a.code).is_none() && found.iter().all(|f| f.code != a.code) {
                let flags = OPTIONAL | TRANSITIVE | PARTIAL;
                found.push(RawAttribute { flags, code: a.code, value: a.value.into() });
            }
        }
        found.sort_by_key(|a| a.code);
        found
    }
}

fn large_communities(bytes: &[u8]) -> impl Iterator<Item = LargeCommunity> + '_ {
    bytes.as_chunks::<12>().0.iter().filter_map(|chunk| {
        let mut reader = Reader(chunk);
        Some(LargeCommunity { global: reader.u32()?, local1: reader.u32()?, local2: reader.u32()? })
    })
}

fn next_attribute<'a>(reader: &mut Reader<'a>) -> Option<Attribute<'a>> {
    let (flags, code) = (reader.u8()?, reader.u8()?);
    let len = if flags & EXTENDED != 0 { reader.u16()? } else { u16::from(reader.u8()?) };
    Some(Attribute { flags, code, value: reader.take(usize::from(len))? })
}

fn aggregator(value: &[u8], as4: bool) -> Option<Aggregator> {
    let mut reader = Reader(value);
    let asn = if as4 { reader.u32()? } else { u32::from(reader.u16()?) };
    let address = Ipv4Addr::from(reader.u32()?);
    (reader.is_empty() && asn != 0).then_some(Aggregator { asn, address })
}

/// Optional and transitive bits that a known attribute must have.
fn expected_flags(code: u8) -> Option<u8> {
    match code {
        ac::ORIGIN | ac::AS_PATH | ac::NEXT_HOP | ac::LOCAL_PREF | ac::ATOMIC_AGGREGATE => Some(TRANSITIVE),
        ac::MULTI_EXIT_DISC
        | ac::ORIGINATOR_ID
        | ac::CLUSTER_LIST
        | ac::MP_REACH_NLRI
        | ac::MP_UNREACH_NLRI => Some(OPTIONAL),
        ac::AGGREGATOR
        | ac::COMMUNITIES
        | ac::EXTENDED_COMMUNITIES
        | ac::AS4_PATH
        | ac::AS4_AGGREGATOR
        | ac::LARGE_COMMUNITY
        | ac::ONLY_TO_CUSTOMER => Some(OPTIONAL | TRANSITIVE),
        _ => None,
    }
}

fn flags_conflict(attribute: Attribute<'_>) -> bool {
    expected_flags(attribute.code).is_some_and(|f| f != attribute.flags & (OPTIONAL | TRANSITIVE))
}

impl Attributes<'_> {
    /// Whether the list has no attribute at all.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
