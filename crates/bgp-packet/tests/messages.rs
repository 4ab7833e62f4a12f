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
fn an_open_stands_as_the_rfcs_say() {
    let open = Open {
        asn: 4_200_000_000,
        hold_time: 90,
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        capabilities: vec![
            Capability::Multiprotocol(Family::Ipv4.into()),
            Capability::RouteRefresh,
            Capability::FourOctetAs(4_200_000_000),
            Capability::GracefulRestart(GracefulRestart {
                restarting: true,
                notification: true,
                restart_time: 120,
                families: vec![(Family::Ipv6.into(), true)],
            }),
        ],
    };
    let mut bytes = Vec::new();
    open.encode(&mut bytes);
    let body = [
        4, 0x5b, 0xa0, 0, 90, 192, 0, 2, 1, 24, 2,
        22, // version, AS_TRANS, hold time, identifier, parameters
        1, 4, 0, 1, 0, 1, // multiprotocol
        2, 0, // route refresh
        65, 4, 0xfa, 0x56, 0xea, 0x00, // four-octet AS
        64, 6, 0xc0, 120, 0, 2, 1, 0x80, // graceful restart
    ];
    assert_eq!(bytes, message(1, &body));
    let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
    let Message::Open(decoded) = found.parse(CONTEXT).unwrap() else { panic!("an OPEN was expected") };
    assert_eq!(decoded, open);
}

#[test]
fn many_capabilities_take_the_extended_form() {
    let unknown = |code| Capability::Unknown { code, value: vec![code; 200] };
    let open = Open {
        asn: 64512,
        hold_time: 0,
        router_id: Ipv4Addr::new(1, 1, 1, 1),
        capabilities: (200..203).map(unknown).collect(),
    };
    let mut bytes = Vec::new();
    open.encode(&mut bytes);
    let body = frame(&bytes, MAX_LEN).unwrap().unwrap().body;
    assert_eq!(Open::parse(body).unwrap(), open);
}

#[test]
fn an_open_that_cannot_be_is_refused_with_the_right_subcode() {
    let cases: [(&[u8], u8); 6] = [
        (&[3, 0, 1, 0, 90, 1, 1, 1, 1, 0], 1),
        (&[4, 0, 0, 0, 90, 1, 1, 1, 1, 0], 2),
        (&[4, 0, 1, 0, 90, 0, 0, 0, 0, 0], 3),
        (&[4, 0, 1, 0, 90, 1, 1, 1, 1, 2, 1, 0], 4),
        (&[4, 0, 1, 0, 2, 1, 1, 1, 1, 0], 6),
        (&[4, 0, 1, 0, 90, 1, 1, 1, 1, 9, 2, 200], 0),
    ];
    for (body, subcode) in cases {
        let error = Open::parse(body).unwrap_err();
        assert_eq!((error.notification.code, error.notification.subcode), (2, subcode), "{error}");
    }
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
fn capabilities_stand_as_their_rfcs_say() {
    let v4 = Family::Ipv4.into();
    let cases: [(Capability, &[u8]); 5] = [
        (Capability::AddPath(vec![(v4, AddPathMode::Both)]), &[69, 4, 0, 1, 1, 3]),
        (Capability::ExtendedNextHop(vec![(v4, 2)]), &[5, 6, 0, 1, 0, 1, 0, 2]),
        (Capability::Role(Role::Customer), &[9, 1, 3]),
        (
            Capability::LongLivedGracefulRestart(vec![(v4, true, 86400)]),
            &[71, 7, 0, 1, 1, 0x80, 1, 0x51, 0x80],
        ),
        (Capability::EnhancedRouteRefresh, &[70, 0]),
    ];
    for (capability, expected) in cases {
        let open = Open {
            asn: 64512,
            hold_time: 90,
            router_id: Ipv4Addr::new(1, 1, 1, 1),
            capabilities: vec![capability],
        };
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        assert_eq!(&bytes[HEADER_LEN + 12..], expected);
        assert_eq!(Open::parse(&bytes[HEADER_LEN..]).unwrap(), open);
    }
}
