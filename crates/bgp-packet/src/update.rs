//! UPDATE and ROUTE-REFRESH messages. Owns their layout and which error is of which class (RFC 7606 §3, §5).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::attributes::Attributes;
use crate::reader::Reader;
use crate::{AfiSafi, AttributeProblem, DecodeError, Disposition, Family, NextHop, Nlri, code};

/// What of the session changes the meaning of an UPDATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UpdateContext {
    /// Both sides announced four-octet AS numbers (RFC 6793).
    pub as4: bool,
    /// The peer is in our own AS.
    pub internal: bool,
    /// Routes of the family (by [`Family::index`]) come with a path identifier (RFC 7911).
    pub add_path: [bool; 2],
    /// IPv4 routes may come with an IPv6 next hop (RFC 8950).
    pub v4_over_v6: bool,
}

/// A received UPDATE, borrowing from the receive buffer.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// Withdrawn IPv4 routes.
    pub withdrawn: Nlri<'a>,
    /// Announced IPv4 routes.
    pub nlri: Nlri<'a>,
    /// MP_REACH_NLRI of a known family.
    pub mp_reach: Option<MpReach<'a>>,
    /// MP_UNREACH_NLRI of a known family.
    pub mp_unreach: Option<Nlri<'a>>,
    /// The path attributes.
    pub attributes: Attributes<'a>,
    /// The worst that was wrong with the attributes, if anything was.
    pub problem: Option<AttributeProblem>,
}

/// Routes of MP_REACH_NLRI with their next hop (RFC 4760 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MpReach<'a> {
    /// Next hop of all the routes.
    pub next_hop: NextHop,
    /// The routes.
    pub nlri: Nlri<'a>,
}

/// ROUTE-REFRESH (RFC 2918), with the subtype of RFC 7313.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The family to send again.
    pub family: AfiSafi,
    /// 0 is a request, 1 begins and 2 ends a bracketed answer.
    pub subtype: u8,
}

impl<'a> Update<'a> {
    /// Reads the body of an UPDATE (without the header).
    ///
    /// # Errors
    /// Only what RFC 7606 leaves as a session reset.
    pub fn parse(body: &'a [u8], context: UpdateContext) -> Result<Self, DecodeError> {
        let malformed = || DecodeError::new(code::UPDATE, 1, "lengths of the UPDATE do not fit");
        let bad_field = || DecodeError::new(code::UPDATE, 10, "prefix list is malformed");
        let mut reader = Reader(body);
        let withdrawn = reader.u16().and_then(|n| reader.take(usize::from(n))).ok_or_else(malformed)?;
        let attributes = reader.u16().and_then(|n| reader.take(usize::from(n))).ok_or_else(malformed)?;
        let withdrawn = Nlri::parse(Family::Ipv4, withdrawn, context.add_path[0]).ok_or_else(bad_field)?;
        let nlri = Nlri::parse(Family::Ipv4, reader.0, context.add_path[0]).ok_or_else(bad_field)?;
        let (attributes, found) = Attributes::parse(attributes, context)?;
        let mut update = Self {
            withdrawn,
            nlri,
            mp_reach: found.mp_reach.map(|value| MpReach::parse(value, context)).transpose()?.flatten(),
            mp_unreach: found.mp_unreach.map(|value| parse_mp_unreach(value, context)).transpose()?.flatten(),
            attributes,
            problem: found.problem,
        };
        update.check_mandatory(context);
        Ok(update)
    }

    /// Notes treat-as-withdraw when routes come without what they need (RFC 7606 §3 d).
    fn check_mandatory(&mut self, context: UpdateContext) {
        if self.nlri.is_empty() && self.mp_reach.is_none() {
            return;
        }
        let a = &self.attributes;
        let missing = [
            (a.origin.is_none(), 1, "ORIGIN is missing"),
            (!a.has_as_path(), 2, "AS_PATH is missing"),
            (!self.nlri.is_empty() && a.next_hop.is_none(), 3, "NEXT_HOP is missing"),
            (context.internal && a.local_pref.is_none(), 5, "LOCAL_PREF is missing"),
        ];
        let Some((_, code, detail)) = missing.into_iter().find(|(is_missing, ..)| *is_missing) else {
            return;
        };
        if self.problem.is_none_or(|p| p.disposition < Disposition::TreatAsWithdraw) {
            self.problem = Some(AttributeProblem { code, disposition: Disposition::TreatAsWithdraw, detail });
        }
    }

    /// Whether the routes of this message are to be taken as withdrawn.
    pub fn is_treat_as_withdraw(&self) -> bool {
        self.problem.is_some_and(|p| p.disposition == Disposition::TreatAsWithdraw)
    }

    /// The family whose End-of-RIB marker this is (RFC 4724 §2), if it is one.
    pub fn end_of_rib(&self) -> Option<Family> {
        if !self.withdrawn.is_empty() || !self.nlri.is_empty() || self.mp_reach.is_some() {
            return None;
        }
        match self.mp_unreach {
            Some(nlri) if nlri.is_empty() => Some(nlri.family()),
            None if self.attributes.is_empty() => Some(Family::Ipv4),
            _ => None,
        }
    }
}

impl<'a> MpReach<'a> {
    /// Reads the attribute's value; `None` when the family is not spoken here.
    fn parse(value: &'a [u8], context: UpdateContext) -> Result<Option<Self>, DecodeError> {
        let malformed = || DecodeError::new(code::UPDATE, 9, "MP_REACH_NLRI is malformed");
        let mut reader = Reader(value);
        let afi = reader.u16().ok_or_else(malformed)?;
        let safi = reader.u8().ok_or_else(malformed)?;
        let next_hop = reader.u8().and_then(|n| reader.take(usize::from(n))).ok_or_else(malformed)?;
        reader.u8().ok_or_else(malformed)?;
        let Some(family) = Family::from_afi_safi(AfiSafi { afi, safi }) else { return Ok(None) };
        let next_hop = parse_next_hop(family, next_hop, context).ok_or_else(malformed)?;
        let nlri = Nlri::parse(family, reader.0, context.add_path[family.index()]).ok_or_else(malformed)?;
        Ok(Some(Self { next_hop, nlri }))
    }
}

/// The next hop of a family; IPv4 routes may have an IPv6 one where that was negotiated (RFC 8950).
fn parse_next_hop(family: Family, bytes: &[u8], context: UpdateContext) -> Option<NextHop> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return (family == Family::Ipv4).then(|| NextHop::V4(Ipv4Addr::from(v4)));
    }
    if family == Family::Ipv4 && !context.v4_over_v6 {
        return None;
    }
    let (global, rest) = bytes.split_first_chunk::<16>()?;
    let link_local = match rest {
        [] => None,
        rest => Some(Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?)),
    };
    Some(NextHop::V6(Ipv6Addr::from(*global), link_local.filter(|a| !a.is_unspecified())))
}

fn parse_mp_unreach(value: &[u8], context: UpdateContext) -> Result<Option<Nlri<'_>>, DecodeError> {
    let malformed = || DecodeError::new(code::UPDATE, 9, "MP_UNREACH_NLRI is malformed");
    let mut reader = Reader(value);
    let afi = reader.u16().ok_or_else(malformed)?;
    let safi = reader.u8().ok_or_else(malformed)?;
    let Some(family) = Family::from_afi_safi(AfiSafi { afi, safi }) else { return Ok(None) };
    Nlri::parse(family, reader.0, context.add_path[family.index()]).map(Some).ok_or_else(malformed)
}
