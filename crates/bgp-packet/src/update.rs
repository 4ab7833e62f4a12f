//! UPDATE and ROUTE-REFRESH messages. Owns their layout and which error is of which class (RFC 7606 §3, §5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attribute_code::{self as ac, OPTIONAL};
use crate::attributes::{self, Attributes, Found};
use crate::reader::Reader;
use crate::{
    AfiSafi, AttributeProblem, DecodeError, Disposition, Family, Fault, NextHop, Nlri, code, revised_errors,
};

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
    /// The worst that was wrong with the attributes, if anything was; never a session reset.
    pub problem: Option<AttributeProblem>,
    /// Families whose routes could not be told: all that the peer sent of them must go, and what comes until the
    /// session ends must be ignored (AFI/SAFI disable, RFC 4760 §7). Given by [`Family::index`].
    pub disabled: [bool; 2],
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
    /// [`Self::REQUEST`], [`Self::BEGIN`] or [`Self::END`]; a message with another one is to be ignored.
    pub subtype: u8,
}

impl RouteRefresh {
    /// Asks for all routes of the family.
    pub const REQUEST: u8 = 0;
    /// Begins an answer: what is not repeated until its end is gone (BoRR, RFC 7313).
    pub const BEGIN: u8 = 1;
    /// Ends an answer (EoRR, RFC 7313).
    pub const END: u8 = 2;
}

impl<'a> Update<'a> {
    /// Reads the body of an UPDATE (without the header).
    ///
    /// # Errors
    /// Only what RFC 7606 leaves as a session reset.
    #[inline]
    pub fn parse(body: &'a [u8], context: UpdateContext) -> Result<Self, DecodeError> {
        // Filled where it stands: moving it would take as long as reading a small message.
        let mut update = Self {
            withdrawn: Nlri::empty(Family::Ipv4),
            nlri: Nlri::empty(Family::Ipv4),
            mp_reach: None,
            mp_unreach: None,
            attributes: Attributes::default(),
            problem: None,
            disabled: [false; 2],
        };
        update.read(body, context)?;
        Ok(update)
    }

    fn read(&mut self, body: &'a [u8], context: UpdateContext) -> Result<(), DecodeError> {
        let malformed = || DecodeError::new(code::UPDATE, 1, "lengths of the UPDATE do not fit");
        let bad_field = || DecodeError::new(code::UPDATE, 10, "prefix list is malformed");
        let mut reader = Reader(body);
        let withdrawn = reader.u16().and_then(|n| reader.take(usize::from(n))).ok_or_else(malformed)?;
        let attributes = reader.u16().and_then(|n| reader.take(usize::from(n))).ok_or_else(malformed)?;
        self.withdrawn = Nlri::parse(Family::Ipv4, withdrawn, context.add_path[0]).ok_or_else(bad_field)?;
        self.nlri = Nlri::parse(Family::Ipv4, reader.0, context.add_path[0]).ok_or_else(bad_field)?;
        let mut found = Found::default();
        self.attributes.read(attributes, context, &mut found)?;
        let mut announces = !self.nlri.is_empty();
        if let Some(value) = found.mp_reach {
            announces |= self.read_mp_reach(value, context, &mut found)?;
        }
        if let Some(value) = found.mp_unreach {
            self.read_mp_unreach(value, context, &mut found)?;
        }
        if !self.has_mandatory(context) {
            self.note_missing(context, &mut found);
        }
        self.problem = found.problem;
        match found.problem {
            Some(problem) if found.announces && !announces => refuse_routeless(problem),
            _ => Ok(()),
        }
    }

    /// Takes the routes of MP_REACH_NLRI. Gives back whether it announces any, of whatever family.
    fn read_mp_reach(
        &mut self,
        value: &'a [u8],
        context: UpdateContext,
        found: &mut Found<'a>,
    ) -> Result<bool, DecodeError> {
        let code = ac::MP_REACH_NLRI;
        let Some((head, rest)) = value.split_first_chunk::<3>() else { return Err(unlocatable(code, value)) };
        let Some(family) = family(head) else { return Ok(true) };
        let mut reader = Reader(rest);
        let next_hop = reader.u8().and_then(|n| reader.take(usize::from(n)));
        let next_hop = next_hop.and_then(|bytes| parse_next_hop(family, bytes, context));
        // The octet between next hop and routes is reserved, and ignored whatever it is (RFC 4760 §3).
        let nlri = reader.u8().and_then(|_| Nlri::parse(family, reader.0, context.add_path[family.index()]));
        let (Some(next_hop), Some(nlri)) = (next_hop, nlri) else {
            self.disabled[family.index()] = true;
            found.note(code, Fault::Length, "next hop or routes do not fit");
            return Ok(true);
        };
        if !is_host(next_hop.address()) {
            found.note(code, Fault::Value, "next hop is not the address of a host");
        }
        self.mp_reach = Some(MpReach { next_hop, nlri });
        Ok(!nlri.is_empty())
    }

    fn read_mp_unreach(
        &mut self,
        value: &'a [u8],
        context: UpdateContext,
        found: &mut Found<'a>,
    ) -> Result<(), DecodeError> {
        let code = ac::MP_UNREACH_NLRI;
        let Some((head, rest)) = value.split_first_chunk::<3>() else { return Err(unlocatable(code, value)) };
        let Some(family) = family(head) else { return Ok(()) };
        self.mp_unreach = Nlri::parse(family, rest, context.add_path[family.index()]);
        if self.mp_unreach.is_none() {
            self.disabled[family.index()] = true;
            found.note(code, Fault::Length, "routes do not fit");
        }
        Ok(())
    }

    /// Whether routes have the attributes that they need.
    fn has_mandatory(&self, context: UpdateContext) -> bool {
        let a = &self.attributes;
        let all = a.origin.is_some() & a.has_as_path() & (a.local_pref.is_some() | !context.internal);
        match (self.nlri.is_empty(), &self.mp_reach) {
            (true, None) => true,
            (true, Some(_)) => all,
            (false, _) => all & a.next_hop.is_some(),
        }
    }

    /// Notes what routes need and do not have (RFC 7606 §3 d).
    #[cold]
    fn note_missing(&self, context: UpdateContext, found: &mut Found<'_>) {
        let a = &self.attributes;
        let missing = [
            (a.origin.is_none(), ac::ORIGIN),
            (!a.has_as_path(), ac::AS_PATH),
            (!self.nlri.is_empty() && a.next_hop.is_none(), ac::NEXT_HOP),
            (context.internal && a.local_pref.is_none(), ac::LOCAL_PREF),
        ];
        for (_, code) in missing.into_iter().filter(|(is_missing, _)| *is_missing) {
            found.note(code, Fault::Missing, "is missing");
        }
    }

    /// Whether the routes of this message are to be taken as withdrawn.
    pub fn is_treat_as_withdraw(&self) -> bool {
        self.problem.is_some_and(|p| p.disposition >= Disposition::TreatAsWithdraw)
    }

    /// The family whose End-of-RIB marker this is (RFC 4724 §2), if it is one.
    pub fn end_of_rib(&self) -> Option<Family> {
        if !self.withdrawn.is_empty() || !self.nlri.is_empty() || self.mp_reach.is_some() {
            return None;
        }
        match self.mp_unreach {
            Some(nlri) if nlri.is_empty() && self.attributes.is_only_mp_unreach() => Some(nlri.family()),
            None if self.attributes.is_empty() => Some(Family::Ipv4),
            _ => None,
        }
    }
}

/// The family of an MP attribute; `None` for one that is not spoken here.
fn family(head: &[u8; 3]) -> Option<Family> {
    Family::from_afi_safi(AfiSafi { afi: u16::from_be_bytes([head[0], head[1]]), safi: head[2] })
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
    let global = Ipv6Addr::from(*global);
    let link_local = match rest {
        [] => return Some(NextHop::V6(global, None)),
        rest => Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?),
    };
    // A speaker that has no global address sends none, or its link-local one twice.
    Some(match global.is_unspecified() {
        true => NextHop::V6(link_local, None),
        false => NextHop::V6(global, Some(link_local).filter(|a| !a.is_unspecified() && *a != global)),
    })
}

/// Whether packets can be sent to the address: it is neither nobody's nor many hosts'.
pub(crate) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_unspecified() && !a.is_multicast() && !a.is_broadcast(),
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast(),
    }
}

/// An MP attribute that does not even name its family.
#[cold]
fn unlocatable(code: u8, value: &[u8]) -> DecodeError {
    let subcode = revised_errors::subcode(code, Fault::Unlocatable);
    let error = DecodeError::new(code::UPDATE, subcode, "MP attribute is too short for a family");
    error.with_data(&attributes::raw(OPTIONAL, code, value))
}

/// Refuses a message that has more attributes than MP_UNREACH_NLRI but announces nothing, when more is wrong than
/// what is discarded: nobody can tell which routes were meant (RFC 7606 §5.2).
#[cold]
fn refuse_routeless(problem: AttributeProblem) -> Result<(), DecodeError> {
    if problem.disposition == Disposition::AttributeDiscard {
        return Ok(());
    }
    let subcode = revised_errors::subcode(problem.code, problem.fault);
    Err(DecodeError::new(code::UPDATE, subcode, problem.detail))
}
