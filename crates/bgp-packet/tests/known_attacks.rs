//! What crashed or confused other speakers, as regression tests: one each, named after the advisory. What
//! concerns a whole session is tested in `crates/bgp`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::net::Ipv4Addr;

use bgp_packet::*;
use support::*;

const EXTERNAL: UpdateContext = UpdateContext { internal: false, ..CONTEXT };
const OLD: UpdateContext = UpdateContext { as4: false, ..CONTEXT };

/// Reads a body in every context, and everything that came out of it.
fn read_all(body: &[u8]) {
    for bits in 0..32 {
        let on = |bit: u32| bits >> bit & 1 == 1;
        let context =
            UpdateContext { as4: on(0), internal: on(1), add_path: [on(2), on(3)], v4_over_v6: on(4) };
        let Ok(update) = Update::parse(body, context) else { continue };
        let path = update.attributes.to_path(NextHop::V4(Ipv4Addr::LOCALHOST));
        assert!(path.as_path.asns().count() <= body.len());
        for nlri in
            [Some(update.withdrawn), Some(update.nlri), update.mp_unreach, update.mp_reach.map(|m| m.nlri)]
        {
            assert!(nlri.map_or(0, |nlri| nlri.paths().count()) <= body.len());
        }
        let mut scratch = Vec::new();
        assert!(update.attributes.key(path.next_hop, &mut scratch).len() <= body.len() + 37);
        let _ = (update.end_of_rib(), format!("{:?} {path:?}", update.problem));
    }
}

/// One of each attribute that is known, and one that is not.
fn all_attributes() -> Vec<Vec<u8>> {
    let mut all = mandatory();
    all.extend([
        attribute(0x80, 4, &[0, 0, 0, 1]),
        attribute(0x40, 6, &[]),
        attribute(0xc0, 7, &[0, 0, 0xfc, 1, 192, 0, 2, 1]),
        attribute(0xc0, 8, &[0, 1, 0, 2]),
        attribute(0x80, 9, &[192, 0, 2, 1]),
        attribute(0x80, 10, &[192, 0, 2, 1]),
        attribute(0x80, 14, &[&[0, 2, 1, 16][..], &[0x20; 16], &[0, 64, 0xfd, 0, 0, 1, 0, 0, 0, 0]].concat()),
        attribute(0x80, 15, &[0, 2, 1, 64, 0xfd, 0, 0, 2, 0, 0, 0, 0]),
        attribute(0xc0, 16, &[0, 2, 0, 1, 0, 0, 0, 5]),
        attribute(0xc0, 17, &[2, 1, 0, 1, 0, 0]),
        attribute(0xc0, 18, &[0, 1, 0, 0, 192, 0, 2, 1]),
        attribute(0xc0, 25, &[7; 20]),
        attribute(0xc0, 32, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]),
        attribute(0xc0, 35, &[0, 0, 0xfc, 1]),
        attribute(0xc0, 200, &[1, 2, 3]),
    ]);
    all
}

#[test]
fn cve_2026_37462_lengths_of_the_update_that_underflow() {
    let body = update_body(NLRI, &mandatory().concat(), NLRI);
    let len = body.len() as u16;
    for at in [0, 2 + NLRI.len()] {
        let right = u16::from_be_bytes([body[at], body[at + 1]]);
        for wrong in [0, 1, right - 1, right + 1, len - 4, len - 3, len, len + 1, 0x7fff, 0xffff] {
            let mut body = body.clone();
            body[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
            read_all(&body);
            if usize::from(wrong) > body.len() - at - 2 {
                let error = Update::parse(&body, CONTEXT).unwrap_err();
                assert_eq!((error.notification.code, error.notification.subcode), (3, 1));
            }
        }
    }
    for len in 0..4 {
        assert!(Update::parse(&body[..len], CONTEXT).is_err());
    }
}

#[test]
fn cve_2026_37461_every_attribute_cut_at_every_octet() {
    for whole in all_attributes() {
        for cut in 0..whole.len() {
            // Cut with the list, and cut in its own length.
            read_all(&with(&whole[..cut]));
            let mut shorter = whole[..cut.max(3)].to_vec();
            shorter[2] = (shorter.len() - 3) as u8;
            read_all(&with(&shorter));
            read_all(&update_body(&[], &[&shorter, &mandatory().concat()[..]].concat(), NLRI));
        }
    }
}

#[test]
fn cve_2026_41643_attributes_in_any_order_with_a_malformed_one() {
    let as4_path = attribute(0xc0, 17, &[2, 1, 0, 1, 0, 0]);
    let broken = [attribute(0xc0, 17, &[9]), attribute(0xc0, 8, &[1]), attribute(0x40, 6, &[1])];
    for malformed in broken {
        let mut all = mandatory();
        all[1] = attribute(0x40, 2, &[2, 2, 0x5b, 0xa0, 0x5b, 0xa0]);
        all.push(malformed.clone());
        if malformed[1] != 17 {
            all.push(as4_path.clone());
        }
        let in_order = update_body(&[], &all.concat(), NLRI);
        let expected = Update::parse(&in_order, OLD).unwrap();
        let next_hop = NextHop::V4(Ipv4Addr::new(192, 0, 2, 1));
        for round in 0..120_usize {
            let (mut rest, mut order, mut seed) = (all.clone(), Vec::new(), round);
            while !rest.is_empty() {
                let at = seed % rest.len();
                seed /= rest.len().max(2);
                order.push(rest.remove(at));
            }
            let body = update_body(&[], &order.concat(), NLRI);
            let update = Update::parse(&body, OLD).unwrap();
            assert_eq!(update.problem.map(|p| p.code), Some(malformed[1]));
            assert_eq!(update.attributes.to_path(next_hop), expected.attributes.to_path(next_hop));
        }
    }
}

#[test]
fn cve_2026_41642_unknown_types_with_all_flags() {
    let known: Vec<u8> = all_attributes().iter().map(|a| a[1]).filter(|code| *code != 200).collect();
    for code in (0..=255).filter(|code| !known.contains(code)) {
        for flags in (0..=0xf0).step_by(0x10) {
            let mut bytes = vec![flags, code];
            bytes.extend(if flags & 0x10 != 0 { vec![0, 2, 8, 9] } else { vec![2, 8, 9] });
            for nlri in [NLRI, &[]] {
                let body = update_body(&[], &[&mandatory().concat()[..], &bytes].concat(), nlri);
                read_all(&body);
                match (flags & 0x80 != 0, Update::parse(&body, CONTEXT)) {
                    (true, update) => assert_eq!(update.unwrap().problem, None),
                    (false, error) => assert_eq!(error.unwrap_err().notification.data, bytes),
                }
            }
        }
    }
}

#[test]
fn ghsa_frrj_87jh_2772_an_empty_path_has_no_first_as() {
    for context in [CONTEXT, EXTERNAL, OLD] {
        let mut attributes = mandatory();
        attributes[1] = attribute(0x40, 2, &[]);
        let body = update_body(&[], &attributes.concat(), NLRI);
        let update = Update::parse(&body, context).unwrap();
        let path = update.attributes.as_path();
        assert_eq!((path.first(), path.hops(), path.is_empty()), (None, 0, true));
        assert_eq!(path.prepended(64512).first(), Some(64512));
    }
}

#[test]
fn cve_2026_30405_next_hops_of_every_length() {
    for len in 0..=255 {
        for value in [vec![0; len], vec![0xff; len], vec![0x7f; len]] {
            let mut attributes = mandatory();
            attributes[2] = attribute(0x40, 3, &value);
            let body = update_body(&[], &attributes.concat(), NLRI);
            read_all(&body);
            let update = Update::parse(&body, CONTEXT).unwrap();
            let is_host = len == 4 && value[0] == 0x7f;
            assert_eq!(update.is_treat_as_withdraw(), !is_host);
            let mut reach = vec![0, 2, 1, len as u8];
            reach.extend(value);
            reach.extend([0, 0]);
            read_all(&with(&attribute(0x80, 14, &reach)));
        }
    }
}

#[test]
fn cve_2022_40302_cve_2022_43681_parameters_of_an_open_cut_at_every_octet() {
    let capabilities = [1, 4, 0, 1, 0, 1, 65, 4, 0, 0, 0xfc, 0, 64, 6, 0xc0, 120, 0, 2, 1, 0x80];
    let n = capabilities.len() as u8;
    let head = [4, 0xfc, 0, 0, 90, 192, 0, 2, 1];
    let plain = [&head[..], &[n + 2, 2, n], &capabilities].concat();
    let extended = [&head[..], &[255, 255, 0, n + 3, 2, 0, n], &capabilities].concat();
    for whole in [&plain, &extended] {
        assert_eq!(Open::parse(whole).unwrap().capabilities.len(), 3);
        for cut in 0..whole.len() {
            let error = Open::parse(&whole[..cut]).unwrap_err();
            assert_eq!(error.notification.code, code::OPEN, "{cut} octets");
        }
        // Every octet of lengths and types, with values that lie.
        for at in head.len()..whole.len() {
            for value in [0, 1, 2, 127, 128, 254, 255] {
                let mut body = whole.clone();
                body[at] = value;
                let _ = Open::parse(&body).map(|open| open.role());
            }
        }
    }
}

#[test]
fn cve_2022_40318_an_extended_length_of_one_octet() {
    // The extended form is announced, and the message ends inside its length.
    for tail in [&[255, 255][..], &[255, 255, 0], &[1, 255, 0, 0, 0], &[255, 255, 0xff, 0xff], &[255, 2]] {
        let body = [&[4, 0xfc, 0, 0, 90, 192, 0, 2, 1][..], tail].concat();
        assert!(Open::parse(&body).is_err(), "{tail:?}");
    }
}

#[test]
fn cve_2023_46752_and_46753_malformed_mp_reach_without_mandatory_attributes() {
    let reach =
        attribute(0x80, 14, &[&[0, 2, 1, 16][..], &[0x20; 16], &[0, 64, 0xfd, 0, 0, 1, 0, 0, 0, 0]].concat());
    for len in 3..reach.len() {
        let mut cut = reach[..len].to_vec();
        cut[2] = (len - 3) as u8;
        read_all(&update_body(&[], &cut, &[]));
    }
    for subset in 0..16 {
        let some = mandatory().into_iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1);
        let attributes = [some.flat_map(|(_, a)| a).collect::<Vec<u8>>(), reach.clone()].concat();
        for nlri in [NLRI, &[]] {
            let body = update_body(&[], &attributes, nlri);
            read_all(&body);
            let update = Update::parse(&body, CONTEXT).unwrap();
            let complete = subset & 0b1011 == 0b1011 && (nlri.is_empty() || subset & 0b100 != 0);
            assert_eq!(update.is_treat_as_withdraw(), !complete);
        }
    }
}

#[test]
fn cve_2019_5892_attribute_255_passes_on() {
    for code in [128, 240, 254, 255] {
        let body = with(&attribute(0xc0, code, &[7; 300]));
        let update = Update::parse(&body, CONTEXT).unwrap();
        assert_eq!(update.problem, None);
        let path = update.attributes.to_path(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(path.unknown, [RawAttribute { flags: 0xe0, code, value: [7; 300].into() }]);
        let mut bytes = Vec::new();
        encode_reach(&mut bytes, &path, &[p("10.0.1.0/26")], OPTIONS).unwrap();
        let again = Update::parse(&bytes[HEADER_LEN..], CONTEXT).unwrap();
        assert_eq!(again.attributes.to_path(path.next_hop), path);
    }
}

#[test]
fn cve_2024_44070_lengths_inside_an_attribute_that_is_not_read() {
    // Tunnel encapsulation: we never look inside, and pass on what came, octet by octet.
    for value in [&[0, 15, 0xff, 0xff][..], &[0, 8, 0, 4, 1, 200, 1, 1], &[0]] {
        let body = with(&attribute(0xc0, 23, value));
        read_all(&body);
        let update = Update::parse(&body, CONTEXT).unwrap();
        let path = update.attributes.to_path(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(&*path.unknown[0].value, value);
    }
}

#[test]
fn cve_2026_49943_a_path_of_16_000_hops() {
    let path = AsPath::sequence(&(1..=16_000).collect::<Vec<u32>>());
    let mut attributes = PathAttributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    attributes.as_path = path.clone();
    let mut bytes = Vec::new();
    let extended = EncodeOptions { extended: true, ..OPTIONS };
    encode_reach(&mut bytes, &attributes, &[p("10.0.1.0/26")], extended).unwrap();
    let found = frame(&bytes, MAX_EXTENDED_LEN).unwrap().unwrap();
    let Message::Update(update) = found.parse(EXTERNAL).unwrap() else { panic!("an UPDATE was expected") };
    let read = update.attributes.as_path();
    assert_eq!((read.hops(), read.count(15_999), read.first()), (16_000, 1, Some(1)));
    assert_eq!(read, path);
    // One more hop, and it fits no message; without RFC 8654 it never did.
    assert!(!read.prepended(64512).is_empty());
    assert!(encode_reach(&mut Vec::new(), &attributes, &[p("10.0.1.0/26")], OPTIONS).is_err());
    assert!(frame(&bytes, MAX_LEN).is_err());
}

#[test]
fn inex_2025_what_is_passed_on_has_the_lengths_that_it_says() {
    let mut random = Random(0x1ee7);
    for _ in 0..300 {
        let all = all_attributes();
        let some: Vec<u8> = all.into_iter().filter(|_| !random.chance(4)).flatten().collect();
        let body = update_body(&[], &some, NLRI);
        let Ok(update) = Update::parse(&body, CONTEXT) else { continue };
        let (Some(next_hop), false) = (update.attributes.next_hop, update.is_treat_as_withdraw()) else {
            continue;
        };
        let path = update.attributes.to_path(NextHop::V4(next_hop));
        let mut bytes = Vec::new();
        encode_reach(&mut bytes, &path, &update.nlri.iter().collect::<Vec<_>>(), OPTIONS).unwrap();
        let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
        assert_eq!(found.len, bytes.len());
        let again = Update::parse(found.body, CONTEXT).unwrap();
        assert_eq!(again.problem, None);
        assert_eq!(again.attributes.to_path(path.next_hop), path);
    }
}
