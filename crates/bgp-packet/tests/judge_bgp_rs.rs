//! What we encode, read by the decoder of somebody else: `bgp-rs`, which is linked into nothing but this test.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::io::Cursor;
use std::net::Ipv4Addr;

use bgp_packet::*;
use bgp_rs::{Message as Theirs, NLRIEncoding, PathAttribute, Reader, Segment};
use support::OPTIONS;

fn read(bytes: Vec<u8>) -> Vec<Theirs> {
    let end = bytes.len() as u64;
    let capabilities = bgp_rs::Capabilities { FOUR_OCTET_ASN_SUPPORT: true, ..Default::default() };
    let mut reader = Reader { stream: Cursor::new(bytes), capabilities };
    let mut messages = Vec::new();
    while reader.stream.position() < end {
        messages.push(reader.read().unwrap().1);
    }
    messages
}

fn updates(bytes: Vec<u8>) -> Vec<bgp_rs::Update> {
    let update = |message| if let Theirs::Update(update) = message { Some(update) } else { None };
    read(bytes).into_iter().map(|m| update(m).expect("an UPDATE")).collect()
}

fn prefixes(routes: &[NLRIEncoding]) -> Vec<String> {
    let text = |route: &NLRIEncoding| match route {
        NLRIEncoding::IP(prefix) => prefix.to_string(),
        _ => "not a plain prefix".to_owned(),
    };
    routes.iter().map(text).collect()
}

#[test]
fn an_open_is_read_with_its_capabilities() {
    let restart = GracefulRestart { restart_time: 120, ..GracefulRestart::default() };
    let capabilities = vec![
        Capability::Multiprotocol(Family::Ipv4.into()),
        Capability::Multiprotocol(Family::Ipv6.into()),
        Capability::RouteRefresh,
        Capability::FourOctetAs(4_200_000_000),
        Capability::GracefulRestart(restart),
    ];
    let router_id = Ipv4Addr::new(192, 0, 2, 1);
    let mut bytes = Vec::new();
    Open { asn: 4_200_000_000, hold_time: 90, router_id, capabilities }.encode(&mut bytes);

    let [Theirs::Open(open)] = &read(bytes)[..] else { panic!("one OPEN was expected") };

    assert_eq!((open.version, open.peer_asn, open.hold_timer), (4, 23456, 90));
    assert_eq!(open.identifier, u32::from(router_id));
    let understood = bgp_rs::Capabilities::from_parameters(open.parameters.clone());
    assert!(understood.FOUR_OCTET_ASN_SUPPORT && understood.ROUTE_REFRESH_SUPPORT);
    assert_eq!(understood.MP_BGP_SUPPORT.len(), 2);
}

#[test]
fn ipv4_routes_are_read_with_their_attributes() {
    let mut attributes = PathAttributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    attributes.as_path = AsPath::sequence(&[64513, 4_200_000_000]);
    attributes.med = Some(7);
    attributes.local_pref = Some(2_147_482_623);
    attributes.communities = vec!["64512:100".parse().unwrap()];
    attributes.large_communities = vec!["4200000000:1:2".parse().unwrap()];
    attributes.originator_id = Some(Ipv4Addr::new(192, 0, 2, 7));
    attributes.cluster_list = vec![Ipv4Addr::new(244, 0, 0, 1)];
    let routes: Vec<Prefix> = (0..2000_u32)
        .map(|i| Prefix::new(Ipv4Addr::from(0x0a00_0000 | i << 6).into(), 26).unwrap())
        .chain(["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32"].map(|s| s.parse().unwrap()))
        .collect();
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &attributes, &routes, OPTIONS).unwrap();

    let updates = updates(bytes);

    let read: Vec<_> = updates.iter().flat_map(|u| prefixes(&u.announced_routes)).collect();
    assert_eq!(read, routes.iter().map(ToString::to_string).collect::<Vec<_>>());
    for update in &updates {
        for attribute in &update.attributes {
            match attribute {
                PathAttribute::ORIGIN(origin) => assert!(matches!(origin, bgp_rs::Origin::IGP)),
                PathAttribute::AS_PATH(path) => {
                    let [Segment::AS_SEQUENCE(path)] = &path.segments[..] else { panic!("{path:?}") };
                    assert_eq!(*path, [64513, 4_200_000_000]);
                }
                PathAttribute::NEXT_HOP(hop) => assert_eq!(hop.to_string(), "192.0.2.1"),
                PathAttribute::MULTI_EXIT_DISC(med) => assert_eq!(*med, 7),
                PathAttribute::LOCAL_PREF(preference) => assert_eq!(*preference, 2_147_482_623),
                PathAttribute::COMMUNITY(communities) => assert_eq!(*communities, [64512 << 16 | 100]),
                PathAttribute::ORIGINATOR_ID(id) => assert_eq!(*id, 0xc000_0207),
                PathAttribute::CLUSTER_LIST(list) => assert_eq!(*list, [0xf400_0001]),
                PathAttribute::LARGE_COMMUNITY(large) => assert_eq!(*large, [(4_200_000_000, 1, 2)]),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(update.attributes.len(), 9);
    }
}

#[test]
fn ipv6_routes_and_withdrawals_are_read() {
    let attributes = PathAttributes::new(NextHop::V6("2001:db8::1".parse().unwrap(), None));
    let six: Vec<Prefix> = ["fd00:1::/122", "fd00:1::7/128"].map(|s| s.parse().unwrap()).to_vec();
    let four: Vec<Prefix> = ["10.0.1.0/26", "10.0.2.9/32"].map(|s| s.parse().unwrap()).to_vec();
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &attributes, &six, OPTIONS).unwrap();
    encode_unreach(&mut bytes, &four, OPTIONS);
    encode_unreach(&mut bytes, &six, OPTIONS);

    let [reach, gone_four, gone_six] = &updates(bytes)[..] else { panic!("three UPDATEs were expected") };

    let reached = reach.attributes.iter().find_map(|a| match a {
        PathAttribute::MP_REACH_NLRI(mp) => Some((prefixes(&mp.announced_routes), mp.next_hop.clone())),
        _ => None,
    });
    let next_hop = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    assert_eq!(reached, Some((vec!["fd00:1::/122".to_owned(), "fd00:1::7/128".to_owned()], next_hop)));
    assert_eq!(prefixes(&gone_four.withdrawn_routes), ["10.0.1.0/26", "10.0.2.9/32"]);
    let [PathAttribute::MP_UNREACH_NLRI(gone)] = &gone_six.attributes[..] else {
        panic!("{:?}", gone_six.attributes)
    };
    assert_eq!(prefixes(&gone.withdrawn_routes), ["fd00:1::/122", "fd00:1::7/128"]);
}
