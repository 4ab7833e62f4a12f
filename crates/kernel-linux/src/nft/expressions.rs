//! Expressions as attributes.

use kernel::nft::{
    ConntrackKey, Data, Expression, Fib, Header, MetaKey, NftVerdict, Reject, SetReference, Word,
};
use model::Family;

use super::numbers::*;
use crate::nl::Writer;
use crate::rtnl::family_number;

/// NFT_REG32_00: the first of the words of four octets.
const FIRST_WORD: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

/// What an expression's rule says of it.
pub(super) struct Context<'a> {
    pub(super) family: Family,
    /// The numbers that the rule's own sets have in this transaction.
    pub(super) set_ids: &'a [u32],
}

/// Writes one expression as an element of a list.
pub(super) fn write(w: &mut Writer<'_>, expression: &Expression, context: &Context<'_>) {
    w.nested(LIST_ELEMENT, |w| {
        w.string(EXPRESSION_NAME, name(expression));
        w.nested(EXPRESSION_DATA, |w| body(w, expression, context));
    });
}

fn name(expression: &Expression) -> &'static str {
    match expression {
        Expression::Meta { .. } | Expression::SetMark { .. } => "meta",
        Expression::Payload { .. } | Expression::WriteNetworkHeader { .. } => "payload",
        Expression::Conntrack { .. } => "ct",
        Expression::Fib { .. } => "fib",
        Expression::RouteMss { .. } => "rt",
        Expression::ToNetworkOrder { .. } => "byteorder",
        Expression::LowerMss { .. } => "exthdr",
        Expression::Bitwise { .. } => "bitwise",
        Expression::Compare { .. } => "cmp",
        Expression::Range { .. } => "range",
        Expression::Lookup { .. } | Expression::VerdictMap { .. } => "lookup",
        Expression::Limit { .. } => "limit",
        Expression::ConnectionsAbove(_) => "connlimit",
        Expression::Log { .. } | Expression::Nflog { .. } => "log",
        Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
        Expression::Reject(_) => "reject",
        Expression::NoTrack => "notrack",
        Expression::Masquerade { .. } => "masq",
        Expression::SourceNat { .. } | Expression::DestinationNat { .. } => "nat",
    }
}

/// Numbers are in network order throughout.
fn number(w: &mut Writer<'_>, kind: u16, value: u32) {
    w.attribute(kind, &value.to_be_bytes());
}

fn word(w: &mut Writer<'_>, kind: u16, word: Word) {
    number(w, kind, FIRST_WORD + u32::from(word.0));
}

fn data(w: &mut Writer<'_>, kind: u16, data: &Data) {
    w.nested(kind, |w| w.attribute(DATA_VALUE, data.as_bytes()));
}

/// Writes a verdict as data.
pub(super) fn verdict(w: &mut Writer<'_>, kind: u16, verdict: &NftVerdict) {
    let code = match verdict {
        NftVerdict::Accept => CODE_ACCEPT,
        NftVerdict::Drop => CODE_DROP,
        NftVerdict::Return => CODE_RETURN,
        NftVerdict::Jump(_) => CODE_JUMP,
        NftVerdict::Goto(_) => CODE_GOTO,
    };
    w.nested(kind, |w| {
        w.nested(DATA_VERDICT_OF, |w| {
            w.attribute(VERDICT_CODE, &code.to_be_bytes());
            if let Some(chain) = verdict.target() {
                w.string(VERDICT_CHAIN, chain);
            }
        });
    });
}

fn body(w: &mut Writer<'_>, expression: &Expression, context: &Context<'_>) {
    match expression {
        Expression::SetMark { from } => {
            number(w, 2, META_MARK);
            word(w, 3, *from);
        }
        Expression::WriteNetworkHeader { from, offset, length } => {
            number(w, 2, 1);
            number(w, 3, (*offset).into());
            number(w, 4, (*length).into());
            word(w, 5, *from);
            // IPv6's header has no checksum.
            if context.family == Family::V4 {
                number(w, 6, 1);
                number(w, 7, IPV4_CHECKSUM);
            }
        }
        Expression::LowerMss { from } => {
            w.attribute(2, &[TCP_OPTION_MSS]);
            number(w, 3, 2);
            number(w, 4, 2);
            number(w, 6, OF_TCP_OPTIONS);
            word(w, 7, *from);
        }
        Expression::Compare { from, value, negated } => {
            word(w, 1, *from);
            number(w, 2, (*negated).into());
            data(w, 3, value);
        }
        Expression::Range { from, first, last, negated } => {
            word(w, 1, *from);
            number(w, 2, (*negated).into());
            data(w, 3, first);
            data(w, 4, last);
        }
        Expression::Lookup { from, set, negated } => {
            match set {
                SetReference::Named(name) => w.string(1, name),
                SetReference::Anonymous(index) => {
                    w.string(1, ANONYMOUS_NAME);
                    // A set that the rule does not have is refused by the kernel, as number 0.
                    number(w, 4, context.set_ids.get(*index).copied().unwrap_or(0));
                }
            }
            word(w, 2, *from);
            if *negated {
                number(w, 5, 1);
            }
        }
        Expression::VerdictMap { from, map } => {
            w.string(1, map);
            word(w, 2, *from);
            number(w, 3, VERDICT_REGISTER);
        }
        _ => load_body(w, expression, context),
    }
}

/// Those that fill a register.
fn load_body(w: &mut Writer<'_>, expression: &Expression, context: &Context<'_>) {
    match expression {
        Expression::Meta { key, to } => {
            word(w, 1, *to);
            let key = match key {
                MetaKey::Mark => META_MARK,
                MetaKey::InInterface => 6,
                MetaKey::OutInterface => 7,
                MetaKey::Protocol => 16,
            };
            number(w, 2, key);
        }
        Expression::Payload { header, offset, length, to } => {
            word(w, 1, *to);
            number(w, 2, if *header == Header::Network { 1 } else { 2 });
            number(w, 3, (*offset).into());
            number(w, 4, (*length).into());
        }
        Expression::Conntrack { key, to } => {
            word(w, 1, *to);
            number(w, 2, if *key == ConntrackKey::State { 0 } else { 2 });
        }
        Expression::Fib { fib, to } => fib_body(w, *fib, *to),
        Expression::RouteMss { to } => {
            word(w, 1, *to);
            number(w, 2, RT_TCPMSS);
        }
        Expression::ToNetworkOrder { word: at } => {
            word(w, 1, *at);
            word(w, 2, *at);
            number(w, 3, HOST_TO_NETWORK);
            number(w, 4, 2);
            number(w, 5, 2);
        }
        Expression::Bitwise { from, to, mask, xor } => {
            word(w, 1, *from);
            word(w, 2, *to);
            number(w, 3, mask.as_bytes().len() as u32);
            data(w, 4, mask);
            data(w, 5, xor);
        }
        _ => action_body(w, expression, context),
    }
}

fn fib_body(w: &mut Writer<'_>, fib: Fib, to: Word) {
    const SOURCE: u32 = 1;
    const DESTINATION: u32 = 2;
    const MARK: u32 = 4;
    const IN_INTERFACE: u32 = 8;
    const OUT_INTERFACE: u32 = 16;
    const PRESENT: u32 = 32;
    let (result, flags) = match fib {
        Fib::ReversePath => (1, SOURCE | MARK | IN_INTERFACE | PRESENT),
        Fib::AddressType { source, out_interface } => {
            let side = if source { SOURCE } else { DESTINATION };
            (3, side | if out_interface { OUT_INTERFACE } else { 0 })
        }
    };
    word(w, 1, to);
    number(w, 2, result);
    number(w, 3, flags);
}

fn action_body(w: &mut Writer<'_>, expression: &Expression, context: &Context<'_>) {
    match expression {
        Expression::Limit { rate, per, burst } => {
            w.attribute(1, &rate.to_be_bytes());
            w.attribute(2, &per.seconds().to_be_bytes());
            number(w, 3, *burst);
            number(w, 4, 0);
            number(w, 5, 0);
        }
        Expression::ConnectionsAbove(count) => {
            number(w, 1, *count);
            number(w, 2, 1);
        }
        Expression::Log { prefix } => {
            w.string(2, prefix);
            number(w, 5, 5);
        }
        Expression::Nflog { group, prefix, size } => {
            w.attribute(1, &group.to_be_bytes());
            w.string(2, prefix);
            if let Some(size) = size {
                number(w, 3, *size);
            }
        }
        Expression::Immediate { to, value } => {
            word(w, 1, *to);
            data(w, 2, value);
        }
        Expression::Verdict(code) => {
            number(w, 1, VERDICT_REGISTER);
            verdict(w, 2, code);
        }
        Expression::Reject(kind) => {
            let (kind, code) = match (kind, context.family) {
                (Reject::TcpReset, _) => (1, 0),
                (Reject::PortUnreachable, Family::V4) => (0, 3),
                (Reject::PortUnreachable, Family::V6) => (0, 4),
            };
            number(w, 1, kind);
            w.u8(2, code);
        }
        Expression::Masquerade { ports, random_fully } => {
            number(w, 1, nat_flags(ports.is_some(), *random_fully));
            if let Some((first, last)) = ports {
                word(w, 2, *first);
                word(w, 3, *last);
            }
        }
        Expression::SourceNat { family, address, ports, random_fully } => {
            number(w, 1, 0);
            number(w, 2, family_number(*family).into());
            word(w, 3, *address);
            if let Some((first, last)) = ports {
                word(w, 5, *first);
                word(w, 6, *last);
            }
            number(w, 7, nat_flags(ports.is_some(), *random_fully) | NAT_ADDRESS);
        }
        Expression::DestinationNat { family, address, port } => {
            number(w, 1, 1);
            number(w, 2, family_number(*family).into());
            word(w, 3, *address);
            if let Some(port) = port {
                word(w, 5, *port);
            }
            number(w, 7, nat_flags(port.is_some(), false) | NAT_ADDRESS);
        }
        // All others are written by `body`, or have no body.
        _ => {}
    }
}

/// NF_NAT_RANGE_*.
fn nat_flags(ports: bool, random_fully: bool) -> u32 {
    (if ports { 2 } else { 0 }) | (if random_fully { 16 } else { 0 })
}

/// Where it stands in the header.
const IPV4_CHECKSUM: u32 = 10;
/// `NFT_RT_TCPMSS`, `NFT_BYTEORDER_HTON`, `NFT_EXTHDR_OP_TCPOPT`, and the option's kind.
const RT_TCPMSS: u32 = 3;
const HOST_TO_NETWORK: u32 = 1;
const OF_TCP_OPTIONS: u32 = 1;
const TCP_OPTION_MSS: u8 = 2;
const NAT_ADDRESS: u32 = 1;
const META_MARK: u32 = 3;
/// The kernel puts a number in its place.
pub(super) const ANONYMOUS_NAME: &str = "__set%d";
