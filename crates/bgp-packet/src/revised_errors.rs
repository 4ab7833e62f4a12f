//! RFC 7606 as one table: attribute × error → what is to be done. Owns the table and the subcode of a reset.
//!
//! Errors of the message around the attributes are not in it, and all reset the session: lengths that do not fit
//! (RFC 7606 §3 b), a malformed Withdrawn Routes or NLRI field (§3 i, j), an unrecognised well-known attribute
//! (RFC 4271 §6.3), and any error that is worse than attribute discard in a message which announces nothing
//! although it has more than MP_UNREACH_NLRI (RFC 7606 §5.2).

use crate::attribute_code::{self as ac, OPTIONAL, TRANSITIVE};
use crate::{Disposition, Fault};

/// One attribute: what it must look like, and what to do when it does not.
struct Row {
    code: u8,
    /// The Optional and Transitive bits that it must have.
    flags: u8,
    /// What to do about each [`Fault`], in their order; `None` where the fault cannot be.
    approach: [Option<Disposition>; 8],
}

const A: Option<Disposition> = Some(Disposition::AttributeDiscard);
const W: Option<Disposition> = Some(Disposition::TreatAsWithdraw);
const D: Option<Disposition> = Some(Disposition::AfiSafiDisable);
const R: Option<Disposition> = Some(Disposition::SessionReset);
const O: Option<Disposition> = None;

const WELL_KNOWN: u8 = TRANSITIVE;
const OPT: u8 = OPTIONAL;
const OPT_TRANS: u8 = OPTIONAL | TRANSITIVE;

/// A: attribute discard, W: treat-as-withdraw, D: AFI/SAFI disable, R: session reset, O: cannot be.
///
/// Flags are RFC 7606 §3 c, missing ones §3 d, repeated ones §3 g. MP_REACH_NLRI and MP_UNREACH_NLRI (§5.3,
/// §7.11, §7.12) leave a choice between disable and reset: disable, so that the other family lives on. AS 0 as a
/// value is RFC 7607; the two AS4 attributes are RFC 6793 §6.
#[rustfmt::skip]
const TABLE: [Row; 18] = [
    //                                              flags length value external four-octet missing repeated unlocatable
    row(ac::ORIGIN,                    WELL_KNOWN, [W,    W,     W,    O,       O,         W,      A,       O]), // §7.1
    row(ac::AS_PATH,                   WELL_KNOWN, [W,    W,     W,    O,       O,         W,      A,       O]), // §7.2
    row(ac::NEXT_HOP,                  WELL_KNOWN, [W,    W,     W,    O,       O,         W,      A,       O]), // §7.3
    row(ac::MULTI_EXIT_DISC,           OPT,        [W,    W,     O,    O,       O,         O,      A,       O]), // §7.4
    row(ac::LOCAL_PREF,                WELL_KNOWN, [W,    W,     O,    A,       O,         W,      A,       O]), // §7.5
    row(ac::ATOMIC_AGGREGATE,          WELL_KNOWN, [W,    A,     O,    O,       O,         O,      A,       O]), // §7.6
    row(ac::AGGREGATOR,                OPT_TRANS,  [W,    A,     A,    O,       O,         O,      A,       O]), // §7.7
    row(ac::COMMUNITIES,               OPT_TRANS,  [W,    W,     O,    O,       O,         O,      A,       O]), // §7.8
    row(ac::ORIGINATOR_ID,             OPT,        [W,    W,     O,    A,       O,         O,      A,       O]), // §7.9
    row(ac::CLUSTER_LIST,              OPT,        [W,    W,     O,    A,       O,         O,      A,       O]), // §7.10
    row(ac::MP_REACH_NLRI,             OPT,        [W,    D,     W,    O,       O,         O,      R,       R]), // §7.11
    row(ac::MP_UNREACH_NLRI,           OPT,        [W,    D,     O,    O,       O,         O,      R,       R]), // §7.12
    row(ac::EXTENDED_COMMUNITIES,      OPT_TRANS,  [W,    W,     O,    O,       O,         O,      A,       O]), // §7.14
    row(ac::AS4_PATH,                  OPT_TRANS,  [W,    A,     A,    O,       A,         O,      A,       O]), // RFC 6793
    row(ac::AS4_AGGREGATOR,            OPT_TRANS,  [W,    A,     A,    O,       A,         O,      A,       O]), // RFC 6793
    row(ac::IPV6_EXTENDED_COMMUNITIES, OPT_TRANS,  [W,    W,     O,    O,       O,         O,      A,       O]), // §7.15
    row(ac::LARGE_COMMUNITY,           OPT_TRANS,  [W,    W,     O,    O,       O,         O,      A,       O]), // RFC 8092
    row(ac::ONLY_TO_CUSTOMER,          OPT_TRANS,  [W,    W,     O,    O,       O,         O,      A,       O]), // RFC 9234
];

const fn row(code: u8, flags: u8, approach: [Option<Disposition>; 8]) -> Row {
    Row { code, flags, approach }
}

/// The flags column by code, for the way of every attribute; [`UNKNOWN`] where there is no row.
static FLAGS: [u8; 256] = {
    let mut flags = [UNKNOWN; 256];
    let mut i = 0;
    while i < TABLE.len() {
        flags[TABLE[i].code as usize] = TABLE[i].flags;
        i += 1;
    }
    flags
};

/// Stands for the flags of an attribute that is not in the table.
pub(crate) const UNKNOWN: u8 = 0xff;

/// The Optional and Transitive bits that an attribute must have; [`UNKNOWN`] for one that is not known.
pub(crate) fn expected_flags(code: u8) -> u8 {
    FLAGS[usize::from(code)]
}

/// What RFC 7606 wants done about a fault of an attribute. Of an unknown attribute only a repetition is a fault.
/// A cut-off list, code 0, is treat-as-withdraw (§4).
pub fn disposition(code: u8, fault: Fault) -> Disposition {
    let row = TABLE.iter().find(|row| row.code == code);
    let unknown = match (code, fault) {
        (0, _) => Disposition::TreatAsWithdraw,
        _ => Disposition::AttributeDiscard,
    };
    row.and_then(|row| row.approach[fault as usize]).unwrap_or(unknown)
}

/// The subcode of the UPDATE Message Error that a fault would be under RFC 4271 §6.3 and RFC 4760 §7.
pub(crate) fn subcode(code: u8, fault: Fault) -> u8 {
    match (code, fault) {
        (0, _) | (_, Fault::Repeated) => 1,
        (_, Fault::Missing) => 3,
        (_, Fault::Flags) => 4,
        (ac::MP_REACH_NLRI | ac::MP_UNREACH_NLRI, _) => 9,
        (ac::AS_PATH, _) => 11,
        (_, Fault::Length) => 5,
        (ac::ORIGIN, _) => 6,
        (ac::NEXT_HOP, _) => 8,
        _ => 9,
    }
}
