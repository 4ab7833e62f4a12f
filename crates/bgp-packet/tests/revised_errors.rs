//! RFC 7606, attribute by attribute: which damage has which consequence.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use bgp_packet::*;
use support::*;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Fine,
    Discard,
    Withdraw,
    Disable,
    /// With the subcode of the UPDATE Message Error.
    Reset(u8),
}
use Class::{Disable, Discard, Fine, Reset, Withdraw};

fn class(body: &[u8], context: UpdateContext) -> Class {
    match Update::parse(body, context) {
        Err(error) => {
            assert_eq!(error.notification.code, code::UPDATE);
            Reset(error.notification.subcode)
        }
        Ok(update) => {
            let class = match update.problem.map(|p| p.disposition) {
                None => Fine,
                Some(Disposition::AttributeDiscard) => Discard,
                Some(Disposition::TreatAsWithdraw) => Withdraw,
                Some(Disposition::AfiSafiDisable) => Disable,
                Some(Disposition::SessionReset) => panic!("a reset is an error"),
            };
            assert_eq!(class == Disable, update.disabled != [false; 2]);
            assert_eq!(matches!(class, Disable | Withdraw), update.is_treat_as_withdraw());
            class
        }
    }
}

const EXTERNAL: UpdateContext = UpdateContext { internal: false, ..CONTEXT };
const OLD: UpdateContext = UpdateContext { as4: false, ..CONTEXT };

/// A route whose attribute of the same type is replaced, or that has one more.
fn replaced(context: UpdateContext, new: &[u8]) -> Vec<u8> {
    let mut attributes = mandatory();
    if !context.as4 {
        attributes[1] = attribute(0x40, 2, &[2, 1, 0x5b, 0xa0]);
    }
    match attributes.iter_mut().find(|a| a[1] == new[1]) {
        Some(same) => *same = new.to_vec(),
        None => attributes.push(new.to_vec()),
    }
    update_body(&[], &attributes.concat(), NLRI)
}

/// Of every attribute: its flags, a good value, which lengths are good, and what a bad one is.
type Known = (u8, u8, &'static [u8], fn(usize) -> bool, Class);

const MP_REACH_V6: &[u8] =
    &[0, 2, 1, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 64, 0xfd, 0, 0, 1, 0, 0, 0, 0];

const KNOWN: [Known; 18] = [
    (1, 0x40, &[0], |n| n == 1, Withdraw),
    (2, 0x40, &[2, 1, 0, 0, 0xfc, 1], |n| n % 6 == 0, Withdraw),
    (3, 0x40, &[192, 0, 2, 1], |n| n == 4, Withdraw),
    (4, 0x80, &[0, 0, 0, 1], |n| n == 4, Withdraw),
    (5, 0x40, &[0, 0, 0, 1], |n| n == 4, Withdraw),
    (6, 0x40, &[], |n| n == 0, Discard),
    (7, 0xc0, &[0, 0, 0xfc, 1, 192, 0, 2, 1], |n| n == 8, Discard),
    (8, 0xc0, &[0, 1, 0, 2], |n| n > 0 && n % 4 == 0, Withdraw),
    (9, 0x80, &[192, 0, 2, 1], |n| n == 4, Withdraw),
    (10, 0x80, &[192, 0, 2, 1], |n| n > 0 && n % 4 == 0, Withdraw),
    (14, 0x80, MP_REACH_V6, |n| n == 30 || n == 21 || n > 30, Disable),
    (15, 0x80, &[0, 2, 1, 64, 0xfd, 0, 0, 1, 0, 0, 0, 0], |n| n == 3 || n >= 12, Disable),
    (16, 0xc0, &[0, 2, 0, 1, 0, 0, 0, 5], |n| n > 0 && n % 8 == 0, Withdraw),
    (17, 0xc0, &[2, 1, 0, 1, 0, 0], |n| n > 0 && n % 6 == 0, Discard),
    (18, 0xc0, &[0, 1, 0, 0, 192, 0, 2, 1], |n| n == 8, Discard),
    (
        25,
        0xc0,
        &[0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 5],
        |n| n > 0 && n % 20 == 0,
        Withdraw,
    ),
    (32, 0xc0, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3], |n| n > 0 && n % 12 == 0, Withdraw),
    (35, 0xc0, &[0, 0, 0xfc, 1], |n| n == 4, Withdraw),
];

/// AS4_PATH and AS4_AGGREGATOR come from speakers of two-octet AS numbers only.
fn context_of(code: u8) -> UpdateContext {
    if matches!(code, 17 | 18) { OLD } else { CONTEXT }
}

#[test]
fn every_attribute_is_taken_as_it_should_be() {
    for (code, flags, value, _, _) in KNOWN {
        for more in [0, 0x10, 0x20, 0x30, 0x0f] {
            let mut bytes = vec![flags | more, code];
            bytes.extend(if more & 0x10 != 0 { vec![0, value.len() as u8] } else { vec![value.len() as u8] });
            bytes.extend(value);
            let context = context_of(code);
            assert_eq!(class(&replaced(context, &bytes), context), Fine, "attribute {code}, flags {more:x}");
        }
    }
}

#[test]
fn wrong_flags_are_treat_as_withdraw() {
    for (code, flags, value, _, _) in KNOWN {
        for wrong in [0x00, 0x40, 0x80, 0xc0].into_iter().filter(|wrong| *wrong != flags) {
            let context = context_of(code);
            let body = replaced(context, &attribute(wrong, code, value));
            assert_eq!(class(&body, context), Withdraw, "attribute {code}, flags {wrong:x}");
        }
    }
}

#[test]
fn wrong_flags_of_mp_reach_still_let_its_routes_be_withdrawn() {
    let update = replaced(CONTEXT, &attribute(0xc0, 14, MP_REACH_V6));
    let update = Update::parse(&update, CONTEXT).unwrap();
    assert!(update.is_treat_as_withdraw());
    assert_eq!(update.mp_reach.unwrap().nlri.iter().collect::<Vec<_>>(), [p("fd00:1::/64")]);
}

#[test]
fn wrong_lengths_are_what_rfc_7606_section_7_says() {
    for (code, flags, value, is_good, bad) in KNOWN {
        for len in 0..=64 {
            let mut value = value.to_vec();
            // What is too much is made of default routes, or of more segments of the right length.
            value.resize(len, if matches!(code, 14 | 15) { 0 } else { 1 });
            let context = context_of(code);
            let expected = match (is_good(len), code) {
                (true, _) => Fine,
                (false, 14 | 15) if len < 3 => Reset(9),
                (false, _) => bad,
            };
            let body = replaced(context, &attribute(flags, code, &value));
            assert_eq!(class(&body, context), expected, "attribute {code}, {len} octets");
        }
    }
}

#[test]
fn of_repeated_attributes_the_first_counts() {
    for (code, flags, value, _, _) in KNOWN {
        let expected = if matches!(code, 14 | 15) { Reset(1) } else { Discard };
        let context = context_of(code);
        let first = attribute(flags, code, value);
        // The second one is broken, but nobody reads it.
        let body = replaced(context, &[first, attribute(0, code, &[9; 5])].concat());
        assert_eq!(class(&body, context), expected, "attribute {code}");
    }
    let unknown = [attribute(0xc0, 200, &[1]), attribute(0xc0, 200, &[2])].concat();
    let body = with(&unknown);
    let update = Update::parse(&body, CONTEXT).unwrap();
    assert_eq!(update.problem.unwrap().fault, Fault::Repeated);
    let path = update.attributes.to_path(NextHop::V4([192, 0, 2, 1].into()));
    assert_eq!(path.unknown, [RawAttribute { flags: 0xe0, code: 200, value: [1].into() }]);
}

#[test]
fn routes_without_a_mandatory_attribute_are_withdrawn() {
    for (missing, internal_only) in [(0, false), (1, false), (2, false), (3, true)] {
        let mut attributes = mandatory();
        attributes.remove(missing);
        let body = update_body(&[], &attributes.concat(), NLRI);
        assert_eq!(class(&body, CONTEXT), Withdraw);
        let expected = if internal_only { Fine } else { Withdraw };
        assert_eq!(class(&body, EXTERNAL), expected.max_discard(&body));
    }
    // NEXT_HOP is not for routes in MP_REACH_NLRI.
    let attributes = [ORIGIN, AS_PATH, LOCAL_PREF, &attribute(0x80, 14, MP_REACH_V6)].concat();
    assert_eq!(class(&update_body(&[], &attributes, &[]), CONTEXT), Fine);
    assert_eq!(class(&update_body(&[], &attributes, NLRI), CONTEXT), Withdraw);
}

impl Class {
    /// An external peer's LOCAL_PREF is discarded, which is more than nothing.
    fn max_discard(self, body: &[u8]) -> Self {
        let has_local_pref = body.windows(LOCAL_PREF.len()).any(|w| w == LOCAL_PREF);
        if self == Fine && has_local_pref { Discard } else { self }
    }
}

#[test]
fn values_that_cannot_be_are_treat_as_withdraw() {
    let path = |value: &[u8]| attribute(0x40, 2, value);
    let next_hop = |value: [u8; 4]| attribute(0x40, 3, &value);
    let cases = [
        ("ORIGIN 3", attribute(0x40, 1, &[3])),
        ("AS_PATH of an unknown segment type", path(&[5, 1, 0, 0, 0, 1])),
        ("AS_PATH with a confederation", path(&[3, 1, 0, 0, 0, 1])),
        ("AS_PATH with a set of a confederation", path(&[4, 1, 0, 0, 0, 1])),
        ("AS_PATH that overruns", path(&[2, 2, 0, 0, 0, 1])),
        ("AS_PATH that underruns", path(&[2, 1, 0, 0, 0, 1, 2])),
        ("AS_PATH with an empty segment", path(&[2, 0])),
        ("AS_PATH with AS 0 (RFC 7607)", path(&[2, 1, 0, 0, 0, 0])),
        ("NEXT_HOP 0.0.0.0", next_hop([0; 4])),
        ("NEXT_HOP multicast", next_hop([224, 0, 0, 5])),
        ("NEXT_HOP broadcast", next_hop([255; 4])),
    ];
    for (name, bytes) in cases {
        assert_eq!(class(&replaced(CONTEXT, &bytes), CONTEXT), Withdraw, "{name}");
    }
}

#[test]
fn what_is_for_internal_peers_is_discarded_from_external_ones() {
    for code in [5, 9, 10] {
        let (_, flags, value, _, _) = KNOWN.into_iter().find(|k| k.0 == code).unwrap();
        for value in [value, &[1, 2, 3]] {
            let body = replaced(EXTERNAL, &attribute(flags, code, value));
            let update = Update::parse(&body, EXTERNAL).unwrap();
            assert_eq!(update.problem.map(|p| p.disposition), Some(Disposition::AttributeDiscard), "{code}");
            let a = update.attributes;
            let path = a.to_path(NextHop::V4([192, 0, 2, 1].into()));
            assert_eq!((a.local_pref, a.originator_id, path.cluster_list), (None, None, vec![]));
        }
    }
}

#[test]
fn discarded_attributes_are_gone_and_the_routes_stay() {
    let cases = [
        (CONTEXT, attribute(0x40, 6, &[1])),
        (CONTEXT, attribute(0xc0, 7, &[0, 0, 0, 0, 192, 0, 2, 1])),
        (CONTEXT, attribute(0xc0, 7, &[0xfc, 1, 192, 0, 2, 1])),
        (CONTEXT, attribute(0xc0, 17, &[2, 1, 0, 1, 0, 0])),
        (CONTEXT, attribute(0xc0, 18, &[0, 1, 0, 0, 192, 0, 2, 1])),
        (OLD, attribute(0xc0, 17, &[2, 1, 0, 0, 0, 0])),
        (OLD, attribute(0xc0, 17, &[9, 1, 0, 0, 0, 1])),
        (OLD, attribute(0xc0, 17, &[])),
        (OLD, attribute(0xc0, 18, &[0, 0, 0, 0, 192, 0, 2, 1])),
    ];
    for (context, bytes) in cases {
        let body = replaced(context, &bytes);
        let update = Update::parse(&body, context).unwrap();
        assert_eq!(update.problem.map(|p| p.disposition), Some(Disposition::AttributeDiscard), "{bytes:?}");
        let path = update.attributes.to_path(NextHop::V4([192, 0, 2, 1].into()));
        assert_eq!((path.atomic_aggregate, path.aggregator), (false, None), "{bytes:?}");
        assert_eq!(path.as_path.hops(), 1, "{bytes:?}");
        assert_eq!(update.nlri.iter().count(), 1);
    }
}

#[test]
fn an_attribute_list_that_is_cut_off_is_treat_as_withdraw() {
    // RFC 7606 §4: overruns, and fewer octets than a header takes.
    for rest in [&[0x40][..], &[0x40, 99], &[0x50, 99, 0], &[0xc0, 8, 200, 1], &[0xd0, 8, 0xff, 0xff, 1]] {
        assert_eq!(class(&with(rest), CONTEXT), Withdraw, "{rest:?}");
    }
}

#[test]
fn errors_in_a_message_that_announces_nothing_reset() {
    // RFC 7606 §5.2: nobody can tell which routes were meant.
    let bad_origin = attribute(0x40, 1, &[9]);
    let bad_med = attribute(0x80, 4, &[9]);
    let withdrawn = NLRI;
    let unreach = attribute(0x80, 15, &[0, 2, 1, 64, 0xfd, 0, 0, 1, 0, 0, 0, 0]);
    let unknown_reach = attribute(0x80, 14, &[0, 25, 65, 0, 0, 1]);
    assert_eq!(class(&update_body(withdrawn, &bad_origin, &[]), CONTEXT), Reset(6));
    assert_eq!(
        class(&update_body(&[], &[unreach.clone(), bad_med.clone()].concat(), &[]), CONTEXT),
        Reset(5)
    );
    assert_eq!(class(&update_body(&[], &[unreach.clone(), vec![0x40]].concat(), &[]), CONTEXT), Reset(1));
    // Discard is no reason, nor is MP_UNREACH_NLRI alone; routes of a family that we do not speak are routes.
    let discarded = [unreach.clone(), attribute(0x40, 6, &[1])].concat();
    assert_eq!(class(&update_body(&[], &discarded, &[]), CONTEXT), Discard);
    assert_eq!(class(&update_body(&[], &unreach, &[]), CONTEXT), Fine);
    assert_eq!(class(&update_body(&[], &[unknown_reach, bad_med].concat(), &[]), CONTEXT), Withdraw);
}

#[test]
fn the_strongest_of_several_approaches_is_taken() {
    let discard = attribute(0x40, 6, &[1]);
    let withdraw = attribute(0x80, 4, &[1]);
    let disable = attribute(0x80, 14, &[0, 2, 1, 15]);
    let reset = attribute(0x40, 77, &[]);
    let all = [(&discard, Discard), (&withdraw, Withdraw), (&disable, Disable), (&reset, Reset(2))];
    for (i, (first, _)) in all.iter().enumerate() {
        for (j, (second, _)) in all.iter().enumerate().filter(|(j, _)| *j != i) {
            let body = with(&[first.as_slice(), second.as_slice()].concat());
            assert_eq!(class(&body, CONTEXT), all[i.max(j)].1, "{i} then {j}");
        }
    }
}

#[test]
fn damage_that_hides_routes_resets_the_session() {
    let cases = [
        ("withdrawn longer than the message", vec![0, 9, 0, 0], 1),
        ("attributes longer than the message", vec![0, 0, 0, 9], 1),
        ("NLRI longer than 32", update_body(&[], &mandatory().concat(), &[33, 1, 2, 3, 4, 5]), 10),
        ("NLRI cut off", update_body(&[], &mandatory().concat(), &[24, 1, 2]), 10),
        ("withdrawn longer than 32", update_body(&[33, 1, 2, 3, 4, 5], &[], &[]), 10),
        ("withdrawn cut off", update_body(&[24, 1], &[], &[]), 10),
        ("MP_REACH_NLRI twice", with(&attribute(0x80, 14, MP_REACH_V6).repeat(2)), 1),
        ("MP_UNREACH_NLRI twice", with(&[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1]), 1),
    ];
    for (name, body, subcode) in cases {
        assert_eq!(class(&body, CONTEXT), Reset(subcode), "{name}");
    }
}

#[test]
fn an_unknown_well_known_attribute_is_quoted_in_the_notification() {
    for flags in [0x00, 0x40] {
        let error = Update::parse(&with(&[flags, 77, 2, 8, 9]), CONTEXT).unwrap_err();
        assert_eq!((error.notification.code, error.notification.subcode), (3, 2));
        assert_eq!(error.notification.data, [flags, 77, 2, 8, 9]);
    }
}

#[test]
fn mp_next_hops_have_the_lengths_of_their_family() {
    let reach = |afi: u8, next_hop: &[u8], route: &[u8]| {
        let value = [&[0, afi, 1, next_hop.len() as u8], next_hop, &[0], route].concat();
        let attributes = [ORIGIN, AS_PATH, LOCAL_PREF, &attribute(0x80, 14, &value)].concat();
        update_body(&[], &attributes, &[])
    };
    let negotiated = UpdateContext { v4_over_v6: true, ..CONTEXT };
    for len in 0..=48 {
        let (next_hop, v6) = (vec![1; len], [64, 0xfd, 0, 0, 1, 0, 0, 0, 0]);
        let expected = if matches!(len, 16 | 32) { Fine } else { Disable };
        assert_eq!(class(&reach(2, &next_hop, &v6), negotiated), expected, "IPv6, {len} octets");
        let expected = if matches!(len, 4 | 16 | 32) { Fine } else { Disable };
        assert_eq!(class(&reach(1, &next_hop, NLRI), negotiated), expected, "IPv4, {len} octets");
        let expected = if len == 4 { Fine } else { Disable };
        assert_eq!(class(&reach(1, &next_hop, NLRI), CONTEXT), expected, "IPv4, RFC 8950 not negotiated");
    }
    for bad in [[0; 16], [0xff; 16]] {
        assert_eq!(class(&reach(2, &bad, &[0]), CONTEXT), Withdraw);
    }
}

#[test]
fn a_link_local_next_hop_is_found_wherever_it_stands() {
    let link_local: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    let global: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    let parse = |first: [u8; 16], second: [u8; 16]| {
        let value = [&[0, 2, 1, 32][..], &first, &second, &[0, 0]].concat();
        let attributes = [ORIGIN, AS_PATH, LOCAL_PREF, &attribute(0x80, 14, &value)].concat();
        let body = update_body(&[], &attributes, &[]);
        Update::parse(&body, CONTEXT).unwrap().mp_reach.unwrap().next_hop
    };
    let (l, g) = (link_local.octets(), global.octets());
    assert_eq!(parse(g, l), NextHop::V6(global, Some(link_local)));
    assert_eq!(parse(g, [0; 16]), NextHop::V6(global, None));
    assert_eq!(parse([0; 16], l), NextHop::V6(link_local, None));
    assert_eq!(parse(l, l), NextHop::V6(link_local, None));
}

#[test]
fn routes_with_path_identifiers_are_checked_with_them() {
    let context = UpdateContext { add_path: [true, true], ..CONTEXT };
    let body = |nlri: &[u8]| update_body(&[], &mandatory().concat(), nlri);
    assert_eq!(class(&body(&[0, 0, 0, 1, 26, 10, 0, 1, 0]), context), Fine);
    for cut in 1..9 {
        assert_eq!(class(&body(&[0, 0, 0, 1, 26, 10, 0, 1, 0][..cut]), context), Reset(10), "{cut} octets");
    }
    let unreach = |routes: &[u8]| update_body(&[], &attribute(0x80, 15, &[&[0, 2, 1], routes].concat()), &[]);
    assert_eq!(class(&unreach(&[0, 0, 0, 1, 8, 0xfd]), context), Fine);
    assert_eq!(class(&unreach(&[8, 0xfd]), context), Disable);
    assert_eq!(class(&unreach(&[8, 0xfd]), CONTEXT), Fine);
}

#[test]
fn the_table_says_the_same_to_whoever_asks() {
    for (code, _, _, _, bad) in KNOWN {
        let expected = match bad {
            Discard => Disposition::AttributeDiscard,
            Disable => Disposition::AfiSafiDisable,
            _ => Disposition::TreatAsWithdraw,
        };
        assert_eq!(disposition(code, Fault::Length), expected);
        assert_eq!(disposition(code, Fault::Flags), Disposition::TreatAsWithdraw);
    }
    assert_eq!(disposition(14, Fault::Unlocatable), Disposition::SessionReset);
    assert_eq!(disposition(0, Fault::Length), Disposition::TreatAsWithdraw);
    assert_eq!(disposition(200, Fault::Repeated), Disposition::AttributeDiscard);
}

#[test]
fn a_problem_is_told_in_words() {
    let body = with(&attribute(0xc0, 8, &[1]));
    let problem = Update::parse(&body, CONTEXT).unwrap().problem.unwrap();
    assert_eq!(
        problem.to_string(),
        "COMMUNITIES: length is no positive multiple of an entry (treat-as-withdraw)"
    );
}
