//! What we encode, read by the decoder of somebody else: `rustbgpd-wire`. It knows ADD-PATH, roles, long-lived
//! restart and RFC 7606, of all of which `bgp-rs` has not heard, and it must understand by each message what we
//! meant; both must also agree about what is wrong with a broken one.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::net::IpAddr;

use bgp_packet::*;
use bytes::Bytes;
use rustbgpd_wire as theirs;
use support::*;
use theirs::PathAttribute as Attribute;

const FAMILIES: [(theirs::Afi, theirs::Safi); 2] =
    [(theirs::Afi::Ipv4, theirs::Safi::Unicast), (theirs::Afi::Ipv6, theirs::Safi::Unicast)];

/// A message as one of two decoders read it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    attributes: Option<PathAttributes>,
    reach: Vec<(u32, Prefix)>,
    unreach: Vec<(u32, Prefix)>,
}

/// Reads a run of messages that share their attributes.
fn read(mut bytes: &[u8], context: UpdateContext, one: fn(&[u8], UpdateContext) -> Read) -> Read {
    let mut whole = Read::default();
    while let Some(found) = frame(bytes, MAX_EXTENDED_LEN).unwrap() {
        let (first, rest) = bytes.split_at(found.len);
        let part = one(first, context);
        assert!(whole.attributes.is_none() || whole.attributes == part.attributes);
        whole.attributes = part.attributes;
        whole.reach.extend(part.reach);
        whole.unreach.extend(part.unreach);
        bytes = rest;
    }
    assert!(bytes.is_empty());
    whole
}

fn ours(bytes: &[u8], context: UpdateContext) -> Read {
    let found = frame(bytes, MAX_EXTENDED_LEN).unwrap().unwrap();
    let Message::Update(update) = found.parse(context).unwrap() else { panic!("an UPDATE was expected") };
    assert_eq!(update.problem, None);
    let next_hop = update.mp_reach.map(|mp| mp.next_hop).or(update.attributes.next_hop.map(NextHop::V4));
    Read {
        attributes: next_hop.map(|next_hop| update.attributes.to_path(next_hop)),
        reach: update.mp_reach.map_or(update.nlri, |mp| mp.nlri).paths().collect(),
        unreach: update.mp_unreach.unwrap_or(update.withdrawn).paths().collect(),
    }
}

fn theirs(bytes: &[u8], context: UpdateContext) -> Read {
    let mut buffer = Bytes::copy_from_slice(bytes);
    let theirs::Message::Update(update) = theirs::decode_message(&mut buffer, u16::MAX).unwrap() else {
        panic!("an UPDATE was expected")
    };
    let [four, six] = context.add_path;
    let families = FAMILIES.iter().zip([four, six]).filter(|(_, on)| *on);
    let families: Vec<_> = families.map(|(family, _)| *family).collect();
    let parsed = update.parse_revised(context.as4, context.internal, four, &families).unwrap();
    assert_eq!(parsed.malformed, []);
    let mut read = Read::default();
    let classic = |entries: Vec<theirs::Ipv4NlriEntry>| -> Vec<(u32, Prefix)> {
        entries
            .iter()
            .map(|e| (e.path_id, Prefix::new(e.prefix.addr.into(), e.prefix.len).unwrap()))
            .collect()
    };
    read.reach = classic(parsed.update.announced);
    read.unreach = classic(parsed.update.withdrawn);
    let mut path = PathAttributes::new(NextHop::V4(std::net::Ipv4Addr::UNSPECIFIED));
    for attribute in parsed.update.attributes {
        match attribute {
            Attribute::MpUnreachNlri(mp) => read.unreach = routes(&mp.withdrawn),
            Attribute::MpReachNlri(mp) => {
                read.reach = routes(&mp.announced);
                path.next_hop = match mp.next_hop {
                    IpAddr::V4(a) => NextHop::V4(a),
                    IpAddr::V6(a) => NextHop::V6(a, mp.link_local_next_hop),
                };
            }
            other => take(&mut path, other),
        }
    }
    read.attributes = (!path.next_hop.is_unspecified()).then_some(path);
    read
}

fn routes(entries: &[theirs::NlriEntry]) -> Vec<(u32, Prefix)> {
    let prefix = |prefix| match prefix {
        theirs::Prefix::V4(p) => Prefix::new(p.addr.into(), p.len).unwrap(),
        theirs::Prefix::V6(p) => Prefix::new(p.addr.into(), p.len).unwrap(),
    };
    entries.iter().map(|e| (e.path_id, prefix(e.prefix))).collect()
}

/// Says an attribute of theirs in our words.
fn take(path: &mut PathAttributes, attribute: Attribute) {
    match attribute {
        Attribute::Origin(origin) => {
            path.origin = [Origin::Igp, Origin::Egp, Origin::Incomplete][origin as usize];
        }
        Attribute::AsPath(as_path) => {
            let sequence = |segment: &theirs::AsPathSegment| match segment {
                theirs::AsPathSegment::AsSequence(asns) => asns.clone(),
                theirs::AsPathSegment::AsSet(_) => panic!("no set was sent"),
            };
            path.as_path = AsPath::sequence(&as_path.segments.iter().flat_map(sequence).collect::<Vec<_>>());
        }
        Attribute::NextHop(a) => path.next_hop = NextHop::V4(a),
        Attribute::Med(med) => path.med = Some(med),
        Attribute::LocalPref(preference) => path.local_pref = Some(preference),
        Attribute::AtomicAggregate => path.atomic_aggregate = true,
        Attribute::Aggregator(a) => {
            path.aggregator = Some(Aggregator { asn: a.asn, address: a.router_id });
        }
        Attribute::Communities(all) => path.communities = all.into_iter().map(Community).collect(),
        Attribute::ExtendedCommunities(all) => {
            path.extended_communities = all.iter().map(|c| c.as_u64().to_be_bytes()).collect();
        }
        Attribute::LargeCommunities(all) => {
            let large = |c: &theirs::LargeCommunity| LargeCommunity {
                global: c.global_admin,
                local1: c.local_data1,
                local2: c.local_data2,
            };
            path.large_communities = all.iter().map(large).collect();
        }
        Attribute::OriginatorId(id) => path.originator_id = Some(id),
        Attribute::ClusterList(list) => path.cluster_list = list,
        Attribute::OnlyToCustomer(asn) => path.only_to_customer = Some(asn),
        Attribute::Unknown(raw) => {
            let flags = raw.flags & 0xe0;
            path.unknown.push(RawAttribute { flags, code: raw.type_code, value: raw.data[..].into() });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_update_is_read_as_it_was_meant() {
    let mut random = Random(0x0ca7_5eed);
    for _ in 0..1_000 {
        let family = Family::ALL[random.below(2)];
        let options = EncodeOptions {
            as4: !random.chance(4),
            extended: random.chance(4),
            add_path: [random.chance(3), random.chance(3)],
        };
        let context =
            UpdateContext { as4: options.as4, internal: true, add_path: options.add_path, v4_over_v6: false };
        let add_path = options.add_path[family.index()];
        let attributes = random.attributes(family);
        let most = [5, 20, 1500][random.below(3)];
        let count = 1 + random.below(most);
        let id = |random: &mut Random| if add_path { random.u32() } else { 0 };
        let routes: Vec<(u32, Prefix)> =
            (0..count).map(|_| (id(&mut random), random.prefix(family))).collect();

        let mut bytes = Vec::new();
        if encode_reach(&mut bytes, &attributes, &routes, options).is_err() {
            assert!(!options.extended && bytes.is_empty());
            continue;
        }

        let expected = Read { attributes: Some(attributes), reach: routes.clone(), unreach: Vec::new() };
        assert_eq!(read(&bytes, context, ours), expected);
        assert_eq!(read(&bytes, context, theirs), expected);
        let mut bytes = Vec::new();
        encode_unreach(&mut bytes, &routes, options);
        let expected = Read { unreach: routes, ..Read::default() };
        assert_eq!(read(&bytes, context, ours), expected);
        assert_eq!(read(&bytes, context, theirs), expected);
    }
}

#[test]
fn an_open_is_read_with_every_capability() {
    let (v4, v6) = (Family::Ipv4.into(), Family::Ipv6.into());
    let restart = GracefulRestart {
        restarting: true,
        notification: true,
        restart_time: 120,
        families: vec![(v4, true), (v6, false)],
    };
    let open = Open {
        asn: 4_200_000_000,
        hold_time: 90,
        router_id: "192.0.2.1".parse().unwrap(),
        capabilities: vec![
            Capability::Multiprotocol(v6),
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::ExtendedMessage,
            Capability::FourOctetAs(4_200_000_000),
            Capability::ExtendedNextHop(vec![(v4, 2)]),
            Capability::Role(Role::RouteServerClient),
            Capability::AddPath(vec![(v4, AddPathMode::Receive), (v6, AddPathMode::Both)]),
            Capability::GracefulRestart(restart),
            Capability::LongLivedGracefulRestart(vec![(v4, true, 86_400)]),
            Capability::Unknown { code: 240, value: vec![7; 250] },
        ],
    };
    let mut bytes = Vec::new();
    open.encode(&mut bytes);

    let mut buffer = Bytes::from(bytes);
    let theirs::Message::Open(read) = theirs::decode_message(&mut buffer, 4096).unwrap() else {
        panic!("an OPEN was expected")
    };

    assert_eq!((read.my_as, read.hold_time, read.bgp_identifier), (23456, 90, open.router_id));
    let [four, six] = FAMILIES;
    let kept =
        |(afi, safi), forwarding_preserved| theirs::GracefulRestartFamily { afi, safi, forwarding_preserved };
    let mode = |(afi, safi), send_receive| theirs::AddPathFamily { afi, safi, send_receive };
    let expected = [
        theirs::Capability::MultiProtocol { afi: six.0, safi: six.1 },
        theirs::Capability::RouteRefresh,
        theirs::Capability::EnhancedRouteRefresh,
        theirs::Capability::ExtendedMessage,
        theirs::Capability::FourOctetAs { asn: 4_200_000_000 },
        theirs::Capability::ExtendedNextHop(vec![theirs::ExtendedNextHopFamily {
            nlri_afi: four.0,
            nlri_safi: four.1,
            next_hop_afi: six.0,
        }]),
        theirs::Capability::Role { role: theirs::BgpRole::RouteServerClient },
        theirs::Capability::AddPath(vec![
            mode(four, theirs::AddPathMode::Receive),
            mode(six, theirs::AddPathMode::Both),
        ]),
        theirs::Capability::GracefulRestart {
            restart_state: true,
            notification: true,
            restart_time: 120,
            families: vec![kept(four, true), kept(six, false)],
        },
        theirs::Capability::LongLivedGracefulRestart(vec![theirs::LlgrFamily {
            afi: four.0,
            safi: four.1,
            forwarding_preserved: true,
            stale_time: 86_400,
        }]),
        theirs::Capability::Unknown { code: 240, data: Bytes::from(vec![7; 250]) },
    ];
    assert_eq!(read.capabilities, expected);
}

#[test]
fn the_small_messages_are_read() {
    let mut bytes = Vec::new();
    encode_keepalive(&mut bytes);
    RouteRefresh { family: Family::Ipv6.into(), subtype: RouteRefresh::BEGIN }.encode(&mut bytes);
    Notification::cease_with_text(Cease::AdministrativeShutdown, "bye").encode(&mut bytes);
    encode_end_of_rib(&mut bytes, Family::Ipv4);
    encode_end_of_rib(&mut bytes, Family::Ipv6);

    let mut buffer = Bytes::from(bytes.clone());
    let mut next = || theirs::decode_message(&mut buffer, 4096).unwrap();

    assert_eq!(next(), theirs::Message::Keepalive);
    let theirs::Message::RouteRefresh(refresh) = next() else { panic!("a ROUTE-REFRESH was expected") };
    assert_eq!((refresh.afi(), refresh.subtype()), (Some(FAMILIES[1].0), theirs::RouteRefreshSubtype::BoRR));
    let theirs::Message::Notification(n) = next() else { panic!("a NOTIFICATION was expected") };
    assert_eq!((n.code, n.subcode, &n.data[..]), (theirs::NotificationCode::Cease, 2, &b"\x03bye"[..]));
    let start = bytes.len() - 23 - 29;
    assert_eq!(theirs(&bytes[start..start + 23], CONTEXT), Read::default());
    assert_eq!(theirs(&bytes[start + 23..], CONTEXT), Read::default());
}

/// Attributes of one route, each in turn with every length: both decoders take the message, or treat it the same.
#[test]
fn both_agree_about_attributes_of_wrong_lengths() {
    let contexts =
        [CONTEXT, UpdateContext { internal: false, ..CONTEXT }, UpdateContext { as4: false, ..CONTEXT }];
    let flags = [
        (1, 0x40),
        (2, 0x40),
        (3, 0x40),
        (4, 0x80),
        (5, 0x40),
        (6, 0x40),
        (7, 0xc0),
        (8, 0xc0),
        (9, 0x80),
        (10, 0x80),
        (16, 0xc0),
        (17, 0xc0),
        (18, 0xc0),
        (25, 0xc0),
        (32, 0xc0),
        (35, 0xc0),
        (200, 0xc0),
    ];
    for context in contexts {
        for (code, flags) in flags {
            for len in 0..=40 {
                let mut attributes = mandatory();
                if !context.as4 {
                    attributes[1] = attribute(0x40, 2, &[2, 1, 0xfc, 1]);
                }
                attributes.retain(|a| a[1] != code && (context.internal || a[1] != 5));
                // A value of twos: where that is a path, it is one of sequences, and no set. Sets they refuse.
                let value = if code == 1 { vec![1; len] } else { vec![2; len] };
                attributes.push(attribute(flags, code, &value));
                let body = update_body(&[], &attributes.concat(), NLRI);

                let ours = Update::parse(&body, context).unwrap();
                let ours = ours.problem.map(|p| p.disposition);

                let mut buffer = Bytes::from(message(2, &body));
                let theirs::Message::Update(update) = theirs::decode_message(&mut buffer, 4096).unwrap()
                else {
                    panic!("an UPDATE was expected")
                };
                let parsed = update.parse_revised(context.as4, context.internal, false, &[]).unwrap();
                let theirs = parsed.malformed.iter().map(|m| m.disposition).max_by_key(|d| *d as u8);
                let theirs = theirs.map(|d| match d {
                    theirs::ErrorDisposition::AttributeDiscard => Disposition::AttributeDiscard,
                    theirs::ErrorDisposition::TreatAsWithdraw => Disposition::TreatAsWithdraw,
                    theirs::ErrorDisposition::SessionReset => Disposition::SessionReset,
                });
                // They drop what an external peer must not send, and AS4 attributes of a new speaker, silently.
                let silent = matches!((code, context.internal), (5 | 9 | 10, false))
                    || (matches!(code, 17 | 18) && context.as4);
                let theirs = theirs.or(silent.then_some(Disposition::AttributeDiscard));
                assert_eq!(ours, theirs, "{context:?}, attribute {code}, {len} octets");
            }
        }
    }
}
