//! Golden bytes, round trips, and what random damage may do at most.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use bgp_packet::*;
use support::*;

fn full() -> PathAttributes {
    let mut a = PathAttributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    a.origin = Origin::Egp;
    a.as_path = AsPath::sequence(&[64513, 4_200_000_000]);
    a.med = Some(7);
    a.local_pref = Some(2_147_482_623);
    a.atomic_aggregate = true;
    a.aggregator = Some(Aggregator { asn: 4_200_000_000, address: Ipv4Addr::new(192, 0, 2, 9) });
    a.communities = vec![Community::NO_EXPORT, "64512:100".parse().unwrap()];
    a.extended_communities = vec![[0, 2, 0, 1, 0, 0, 0, 5]];
    a.large_communities = vec!["4200000000:1:2".parse().unwrap()];
    a.originator_id = Some(Ipv4Addr::new(192, 0, 2, 7));
    a.cluster_list = vec![Ipv4Addr::new(244, 0, 0, 1), Ipv4Addr::new(244, 0, 0, 2)];
    a.unknown = vec![RawAttribute { flags: 0xe0, code: 99, value: vec![1; 300].into() }];
    a
}

/// All routes of a run of UPDATEs with their attributes.
fn decode_all(mut bytes: &[u8], context: UpdateContext) -> Vec<(Prefix, PathAttributes)> {
    let mut routes = Vec::new();
    while let Some(found) = frame(bytes, MAX_LEN).unwrap() {
        let Message::Update(update) = found.parse(context).unwrap() else { panic!("an UPDATE was expected") };
        assert_eq!(update.problem, None);
        if let Some(next_hop) = update.attributes.next_hop {
            let attributes = update.attributes.to_path(NextHop::V4(next_hop));
            routes.extend(update.nlri.iter().map(|p| (p, attributes.clone())));
        }
        if let Some(mp) = update.mp_reach {
            let attributes = update.attributes.to_path(mp.next_hop);
            routes.extend(mp.nlri.iter().map(|p| (p, attributes.clone())));
        }
        bytes = &bytes[found.len..];
    }
    assert!(bytes.is_empty());
    routes
}

#[test]
fn an_update_stands_as_the_rfc_says() {
    let mut attributes = PathAttributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    attributes.as_path = AsPath::sequence(&[64513]);
    attributes.local_pref = Some(100);
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &attributes, &[p("10.0.1.0/26")], OPTIONS).unwrap();
    assert_eq!(bytes, message(2, &with(&[])));
}

#[test]
fn ipv6_routes_go_into_mp_reach_first() {
    let next_hop = NextHop::V6("2001:db8::1".parse().unwrap(), None);
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &PathAttributes::new(next_hop), &[p("fd00:1::/64")], OPTIONS).unwrap();
    let attributes = [
        &[0x90, 14, 0, 30, 0, 2, 1, 16][..],
        &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[64, 0xfd, 0, 0, 1, 0, 0, 0, 0],
        ORIGIN,
        &[0x40, 2, 0],
    ]
    .concat();
    assert_eq!(bytes, message(2, &update_body(&[], &attributes, &[])));
}

#[test]
fn end_of_rib_is_known_in_both_families() {
    for family in Family::ALL {
        let mut bytes = Vec::new();
        encode_end_of_rib(&mut bytes, family);
        let update = Update::parse(&bytes[19..], CONTEXT).unwrap();
        assert_eq!(update.end_of_rib(), Some(family));
    }
    let mut bytes = Vec::new();
    encode_end_of_rib(&mut bytes, Family::Ipv6);
    assert_eq!(bytes, message(2, &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]));
    assert_eq!(Update::parse(&with(&[]), CONTEXT).unwrap().end_of_rib(), None);
    // One that carries more is none.
    let more = update_body(&[], &[&[0x80, 15, 3, 0, 2, 1], ORIGIN].concat(), &[]);
    assert_eq!(Update::parse(&more, CONTEXT).unwrap().end_of_rib(), None);
}

#[test]
fn every_attribute_survives_the_way_there_and_back() {
    for (as4, v6) in [(true, false), (false, false), (true, true)] {
        let mut attributes = full();
        let mut prefix = p("10.0.1.0/26");
        if v6 {
            let link_local = Some("fe80::1".parse().unwrap());
            attributes.next_hop = NextHop::V6("2001:db8::1".parse().unwrap(), link_local);
            prefix = p("fd00::/8");
        }
        let mut bytes = Vec::new();
        let options = EncodeOptions { as4, ..OPTIONS };
        encode_reach(&mut bytes, &attributes, &[prefix], options).unwrap();
        let decoded = decode_all(&bytes, UpdateContext { as4, ..CONTEXT });
        assert_eq!(decoded, [(prefix, attributes)], "as4 {as4}");
    }
}

#[test]
fn many_prefixes_are_spread_over_messages_of_the_right_size() {
    let prefixes: Vec<Prefix> =
        (0..5000_u32).map(|i| Prefix::new(IpAddr::V4((0x0a00_0000 | i << 6).into()), 26).unwrap()).collect();
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &full(), &prefixes, OPTIONS).unwrap();
    let decoded = decode_all(&bytes, CONTEXT);
    assert_eq!(decoded.iter().map(|(p, _)| *p).collect::<Vec<_>>(), prefixes);

    let mut bytes = Vec::new();
    encode_unreach(&mut bytes, &prefixes, OPTIONS);
    let mut withdrawn = Vec::new();
    let mut rest = &bytes[..];
    while let Some(found) = frame(rest, MAX_LEN).unwrap() {
        withdrawn.extend(Update::parse(found.body, CONTEXT).unwrap().withdrawn);
        rest = &rest[found.len..];
    }
    assert_eq!(withdrawn, prefixes);
}

#[test]
fn attributes_that_fill_a_message_are_refused_not_cut() {
    let mut attributes = full();
    attributes.as_path = AsPath::sequence(&[64512; 2000]);
    let mut bytes = Vec::new();
    assert!(encode_reach(&mut bytes, &attributes, &[p("10.0.0.0/8")], OPTIONS).is_err());
    assert!(bytes.is_empty());
    let options = EncodeOptions { extended: true, ..OPTIONS };
    encode_reach(&mut bytes, &attributes, &[p("10.0.0.0/8")], options).unwrap();
    assert!(frame(&bytes, MAX_LEN).is_err());
    assert!(frame(&bytes, MAX_EXTENDED_LEN).unwrap().is_some());
}

#[test]
fn unknown_transitive_attributes_pass_marked_partial_and_others_end_here() {
    let body = with(&[0xc0, 99, 2, 1, 2, 0x80, 98, 1, 0]);
    let update = Update::parse(&body, CONTEXT).unwrap();
    let path = update.attributes.to_path(NextHop::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(path.unknown, [RawAttribute { flags: 0xe0, code: 99, value: [1, 2].into() }]);
}

#[test]
fn headers_are_judged_as_soon_as_they_show() {
    let mut bad_marker = message(4, &[]);
    bad_marker[3] = 0;
    let cases: [(&[u8], u8); 5] = [
        (&bad_marker[..4], 1),
        (&message(2, &[0; 3]), 2),
        (&message(4, &[0]), 2),
        (&message(9, &[]), 3),
        (&[&[0xff; 16][..], &[0xff, 0xff, 2]].concat(), 2),
    ];
    for (bytes, subcode) in cases {
        let error = frame(bytes, MAX_LEN).unwrap_err();
        assert_eq!((error.notification.code, error.notification.subcode), (1, subcode));
    }
    for n in 0..19 {
        assert_eq!(frame(&message(4, &[])[..n], MAX_LEN).unwrap(), None);
    }
}

#[test]
fn no_damage_makes_the_decoder_panic_and_what_it_takes_can_be_sent_on() {
    let mut seeds = Vec::new();
    for v6 in [false, true] {
        let mut attributes = full();
        if v6 {
            attributes.next_hop = NextHop::V6("2001:db8::1".parse().unwrap(), None);
        }
        let prefixes =
            if v6 { [p("fd00::/8"), p("fd00:1::/122")] } else { [p("10.0.1.0/26"), p("0.0.0.0/0")] };
        let mut bytes = Vec::new();
        encode_reach(&mut bytes, &attributes, &prefixes, OPTIONS).unwrap();
        seeds.push(bytes);
        let mut bytes = Vec::new();
        encode_unreach(&mut bytes, &prefixes, OPTIONS);
        seeds.push(bytes);
    }
    seeds.push(message(1, &[4, 0, 1, 0, 90, 1, 1, 1, 1, 10, 2, 8, 64, 6, 0xc0, 120, 0, 2, 1, 0x80]));
    let mut notification = Vec::new();
    Notification::cease_with_text(Cease::AdministrativeShutdown, "bye").encode(&mut notification);
    seeds.push(notification);
    let mut random = Random(0x5eed);
    for round in 0..60_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            let at = if random.below(8) == 0 {
                random.below(bytes.len())
            } else {
                18 + random.below(bytes.len() - 18)
            };
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at.max(19)),
                _ => bytes.insert(at, random.below(256) as u8),
            }
        }
        if random.below(4) > 0 {
            let len = (bytes.len() as u16).to_be_bytes();
            bytes[16..18].copy_from_slice(&len);
            bytes[..16].fill(0xff);
        }
        let context = UpdateContext {
            as4: random.below(2) == 0,
            internal: random.below(2) == 0,
            add_path: [random.below(4) == 0, random.below(4) == 0],
            v4_over_v6: random.below(2) == 0,
        };
        let Ok(Some(found)) = frame(&bytes, MAX_LEN) else { continue };
        match found.parse(context) {
            Ok(Message::Update(update)) if !update.is_treat_as_withdraw() => pass_on(&update),
            Ok(Message::Notification(n)) => assert!(!n.to_string().is_empty()),
            _ => {}
        }
    }
}

/// What was taken must be encodable, and decode to the same.
fn pass_on(update: &Update<'_>) {
    let Some(mp) = update.mp_reach else { return };
    let attributes = update.attributes.to_path(mp.next_hop);
    let prefixes: Vec<Prefix> = mp.nlri.iter().collect();
    let mut bytes = Vec::new();
    if encode_reach(&mut bytes, &attributes, &prefixes, OPTIONS).is_err() || prefixes.is_empty() {
        return;
    }
    let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
    let again = Update::parse(found.body, CONTEXT).unwrap();
    let problem = again.problem.filter(|p| p.code != 5);
    assert_eq!(problem, None);
    assert_eq!(again.attributes.to_path(again.mp_reach.unwrap().next_hop), attributes);
}

#[test]
fn path_identifiers_stand_before_each_prefix_where_negotiated() {
    let options = EncodeOptions { add_path: [true, false], ..OPTIONS };
    let context = UpdateContext { add_path: [true, false], ..CONTEXT };
    let routes = [(1, p("10.0.1.0/26")), (7, p("10.0.1.0/26"))];
    let mut bytes = Vec::new();
    let mut attributes = PathAttributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    attributes.as_path = AsPath::sequence(&[64513]);
    attributes.local_pref = Some(100);

    encode_reach(&mut bytes, &attributes, &routes, options).unwrap();
    let reach = bytes.len();
    encode_unreach(&mut bytes, &routes[1..], options);

    let mandatory = [ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF].concat();
    let nlri = [0, 0, 0, 1, 26, 10, 0, 1, 0, 0, 0, 0, 7, 26, 10, 0, 1, 0];
    assert_eq!(bytes[..reach], message(2, &update_body(&[], &mandatory, &nlri)));
    assert_eq!(bytes[reach..], message(2, &update_body(&[0, 0, 0, 7, 26, 10, 0, 1, 0], &[], &[])));
    let update = Update::parse(&bytes[HEADER_LEN..reach], context).unwrap();
    assert_eq!(update.nlri.paths().collect::<Vec<_>>(), routes);
    assert_eq!(update.nlri.iter().collect::<Vec<_>>(), [routes[0].1, routes[1].1]);
}

#[test]
fn the_partial_bit_of_a_known_attribute_stays_on_what_is_passed_on() {
    for (code, value) in [
        (7, &[0, 0, 0xfc, 1, 192, 0, 2, 9][..]),
        (8, &[0, 1, 0, 2]),
        (16, &[0; 8]),
        (32, &[0; 12]),
        (35, &[0, 0, 0, 1]),
    ] {
        let bytes = message(2, &with(&attribute(0xe0, code, value)));
        let [(prefix, attributes)] = &decode_all(&bytes, CONTEXT)[..] else {
            panic!("one route was expected")
        };
        assert!(attributes.partial.contains(code));

        let mut again = Vec::new();
        encode_reach(&mut again, attributes, &[*prefix], OPTIONS).unwrap();

        assert_eq!(again, bytes, "attribute {code}");
    }
}

#[test]
fn as4_attributes_give_way_to_an_aggregator_that_came_after_them() {
    let old = UpdateContext { as4: false, ..CONTEXT };
    let path = attribute(0x40, 2, &[2, 2, 0x5b, 0xa0, 0, 9]);
    let as4_path = attribute(0xc0, 17, &[2, 1, 0, 1, 0, 0, 3, 1, 0, 0, 0, 7]);
    let aggregator = |asn: [u8; 2]| attribute(0xc0, 7, &[&asn[..], &[192, 0, 2, 9]].concat());
    let as4_aggregator = attribute(0xc0, 18, &[0, 1, 0, 0, 192, 0, 2, 8]);
    let trans = [0x5b, 0xa0];
    let long = Aggregator { asn: 65536, address: Ipv4Addr::new(192, 0, 2, 8) };
    let short = |asn| Aggregator { asn, address: Ipv4Addr::new(192, 0, 2, 9) };
    // RFC 6793 §4.2.3. The confederation's part of AS4_PATH is passed over (§6).
    let cases = [
        (vec![as4_path.clone()], "23456 65536", None),
        (vec![as4_path.clone(), aggregator([0, 5])], "23456 65536", Some(short(5))),
        (vec![as4_path.clone(), aggregator(trans), as4_aggregator.clone()], "23456 65536", Some(long)),
        (vec![as4_path.clone(), aggregator([0, 5]), as4_aggregator.clone()], "23456 9", Some(short(5))),
        (vec![as4_path, as4_aggregator], "23456 65536", None),
        (vec![aggregator(trans)], "23456 9", Some(short(AS_TRANS))),
    ];
    for (extra, expected, aggregated) in cases {
        let attributes = [&[ORIGIN, &path, NEXT_HOP, LOCAL_PREF].concat()[..], &extra.concat()].concat();
        let body = update_body(&[], &attributes, NLRI);
        let update = Update::parse(&body, old).unwrap();
        let path = update.attributes.to_path(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!((update.problem, path.as_path.to_string().as_str()), (None, expected));
        assert_eq!(path.aggregator, aggregated);
    }
}

#[test]
fn a_two_octet_speaker_gets_as_trans_and_the_rest_beside_it() {
    let mut attributes = PathAttributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    attributes.as_path = AsPath::sequence(&[64513, 65536]);
    attributes.local_pref = Some(100);
    attributes.aggregator = Some(Aggregator { asn: 65536, address: Ipv4Addr::new(192, 0, 2, 9) });
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &attributes, &[p("10.0.1.0/26")], EncodeOptions { as4: false, ..OPTIONS })
        .unwrap();
    let expected = [
        ORIGIN,
        &attribute(0x40, 2, &[2, 2, 0xfc, 1, 0x5b, 0xa0]),
        NEXT_HOP,
        LOCAL_PREF,
        &attribute(0xc0, 7, &[0x5b, 0xa0, 192, 0, 2, 9]),
        &attribute(0xc0, 17, &[2, 2, 0, 0, 0xfc, 1, 0, 1, 0, 0]),
        &attribute(0xc0, 18, &[0, 1, 0, 0, 192, 0, 2, 9]),
    ];
    assert_eq!(bytes, message(2, &update_body(&[], &expected.concat(), NLRI)));
}

#[test]
fn ipv4_routes_over_an_ipv6_next_hop_go_into_mp_reach() {
    let next_hop: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    let mut bytes = Vec::new();
    let attributes = PathAttributes::new(NextHop::V6(next_hop, None));
    encode_reach(&mut bytes, &attributes, &[p("10.0.1.0/26")], OPTIONS).unwrap();
    let value = [&[0, 1, 1, 16][..], &next_hop.octets(), &[0], NLRI].concat();
    // The length of MP_REACH_NLRI always takes two octets.
    let mp = [&[0x90, 14, 0, value.len() as u8], &value[..]].concat();
    let expected = [&mp[..], ORIGIN, &[0x40, 2, 0]].concat();
    assert_eq!(bytes, message(2, &update_body(&[], &expected, &[])));
    let context = UpdateContext { v4_over_v6: true, internal: false, ..CONTEXT };
    let read = decode_all(&bytes, context);
    assert_eq!(read, [(p("10.0.1.0/26"), attributes)]);
}

#[test]
fn equal_keys_are_equal_attributes_whatever_the_routes() {
    let mut random = Random(0xbeef);
    let mut known: std::collections::HashMap<Vec<u8>, PathAttributes> = Default::default();
    let (mut scratch, mut hits) = (Vec::new(), 0);
    let sets: Vec<_> = (0..40).map(|i| (Family::ALL[i % 2], random.attributes(Family::ALL[i % 2]))).collect();
    for _ in 0..400 {
        let (family, attributes) = &sets[random.below(sets.len())];
        let routes: Vec<Prefix> = (0..=random.below(9)).map(|_| random.prefix(*family)).collect();
        let mut bytes = Vec::new();
        let extended = EncodeOptions { extended: true, ..OPTIONS };
        encode_reach(&mut bytes, attributes, &routes, extended).unwrap();
        let update = Update::parse(&bytes[HEADER_LEN..], CONTEXT).unwrap();
        let next_hop = attributes.next_hop;

        let key = update.attributes.key(next_hop, &mut scratch).to_vec();

        let path = update.attributes.to_path(next_hop);
        hits += usize::from(known.insert(key, path.clone()).is_some_and(|old| {
            assert_eq!(old, path);
            true
        }));
    }
    assert_eq!(known.len(), 40);
    assert_eq!(hits, 360);
}

#[test]
fn a_key_knows_the_next_hop_of_its_routes_and_no_prefix() {
    let reach = [&[0, 2, 1, 16][..], &[0x20; 16], &[0, 16, 0xfd, 0]].concat();
    let unreach = [0, 2, 1, 16, 0xfd, 1];
    let list = |parts: &[&[u8]]| update_body(&[], &parts.concat(), NLRI);
    let (reach, unreach) = (attribute(0x80, 14, &reach), attribute(0x80, 15, &unreach));
    let rest = mandatory().concat();
    let bodies = [
        list(&[&reach, &unreach, &rest]),
        list(&[&unreach, &rest, &reach]),
        list(&[&rest[..4], &unreach, &rest[4..], &reach]),
        list(&[&reach, &rest]),
    ];
    let (v4, v6) = (NextHop::V4([192, 0, 2, 1].into()), NextHop::V6([0x20; 16].into(), None));
    for body in &bodies {
        let update = Update::parse(body, CONTEXT).unwrap();
        assert_eq!(update.mp_reach.unwrap().next_hop, v6);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let key = update.attributes.key(v6, &mut one);
        assert_eq!(key, [&rest[..], &[0x80, 14, 16], &[0x20; 16]].concat());
        assert_eq!(update.attributes.key(v4, &mut two), [&rest[..], &[0x80, 14, 4, 192, 0, 2, 1]].concat());
    }
    // Without MP attributes it is the list itself, and nothing is copied.
    let body = list(&[&rest]);
    let update = Update::parse(&body, CONTEXT).unwrap();
    let mut scratch = Vec::new();
    assert_eq!(update.attributes.key(v4, &mut scratch), rest);
    assert_eq!(scratch.capacity(), 0);
}

#[test]
fn what_stands_among_the_unknown_goes_out_only_when_it_is_unknown() {
    let mut attributes = PathAttributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let raw = |flags, code| RawAttribute { flags, code, value: [1, 2].into() };
    // As an operator may ask for by the control socket.
    attributes.unknown =
        vec![raw(0, 0), raw(0x40, 1), raw(0x80, 14), raw(0xc0, 35), raw(0xff, 99), raw(0, 255)];
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &attributes, &[p("10.0.1.0/26")], OPTIONS).unwrap();
    let expected = [ORIGIN, &[0x40, 2, 0], NEXT_HOP, &[0xe0, 99, 2, 1, 2], &[0xc0, 255, 2, 1, 2]].concat();
    assert_eq!(bytes, message(2, &update_body(&[], &expected, NLRI)));
}

#[test]
fn repeated_large_communities_are_taken_once() {
    for (count, distinct) in [(3_u8, 2), (40, 7)] {
        let value: Vec<u8> =
            (0..count).flat_map(|i| [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, i % distinct]).collect();
        let body = with(&attribute(0xc0, 32, &value));
        let path =
            Update::parse(&body, CONTEXT).unwrap().attributes.to_path(NextHop::V4([192, 0, 2, 1].into()));
        let expected: Vec<_> =
            (0..u32::from(distinct)).map(|local2| LargeCommunity { global: 1, local1: 2, local2 }).collect();
        assert_eq!(path.large_communities, expected);
    }
}

/// Attributes that were encoded before make the same messages, and are read again as they were.
#[test]
fn attributes_that_are_kept_as_octets_make_the_same_messages() {
    let v6 = NextHop::V6("2001:db8::1".parse().unwrap(), Some("fe80::1".parse().unwrap()));
    let routes: [Vec<Prefix>; 2] = [
        (0..3000_u32).map(|n| Prefix::v4(0x0a00_0000 + (n << 6), 26)).collect(),
        (0..700_u128).map(|n| Prefix::v6((0x2001_0db8 << 96) + (n << 64), 64)).collect(),
    ];
    for options in [OPTIONS, EncodeOptions { as4: false, add_path: [true; 2], ..OPTIONS }] {
        for (routes, next_hop) in [(&routes[0], full().next_hop), (&routes[0], v6), (&routes[1], v6)] {
            let attributes = PathAttributes { next_hop, ..full() };
            let (mut plain, mut kept, mut octets) = (Vec::new(), Vec::new(), Vec::new());
            encode_reach(&mut plain, &attributes, routes, options).unwrap();

            let family = routes[0].family();
            let wire = WireAttributes::write(&mut octets, &attributes, family, options).unwrap();
            encode_reach_wire(&mut kept, wire, routes, options);

            assert_eq!(plain, kept);
            assert_eq!(wire.to_path(options, true), Some(attributes));
        }
    }
    let endless = PathAttributes { communities: vec![Community(1); 2000], ..full() };
    let mut octets = Vec::new();
    assert!(WireAttributes::write(&mut octets, &endless, Family::Ipv4, OPTIONS).is_err());
    let mut none = Vec::new();
    encode_reach_wire::<Prefix>(&mut none, WireAttributes::of(&[0]), &[], OPTIONS);
    assert!(none.is_empty() && WireAttributes::of(&[9, 1]).to_path(OPTIONS, true).is_none());
}
