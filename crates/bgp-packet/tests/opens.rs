//! OPEN, NOTIFICATION and ROUTE-REFRESH: golden bytes, and what each error is answered with.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::net::Ipv4Addr;

use bgp_packet::*;
use support::*;

/// Version 4, AS 64512, hold time 90, identifier 192.0.2.1.
const HEAD: [u8; 9] = [4, 0xfc, 0, 0, 90, 192, 0, 2, 1];

fn open_with(capabilities: Vec<Capability>) -> Open {
    Open { asn: 64512, hold_time: 90, router_id: Ipv4Addr::new(192, 0, 2, 1), capabilities }
}

fn parse(parameters: &[u8]) -> Result<Open, DecodeError> {
    Open::parse(&[&HEAD[..], parameters].concat())
}

fn encoded(open: &Open) -> Vec<u8> {
    let mut bytes = Vec::new();
    open.encode(&mut bytes);
    bytes
}

#[test]
fn an_open_stands_as_the_rfcs_say() {
    let open = Open {
        asn: 4_200_000_000,
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
        ..open_with(vec![])
    };
    let body = [
        4, 0x5b, 0xa0, 0, 90, 192, 0, 2, 1, 24, 2,
        22, // version, AS_TRANS, hold time, identifier, parameters
        1, 4, 0, 1, 0, 1, // multiprotocol
        2, 0, // route refresh
        65, 4, 0xfa, 0x56, 0xea, 0x00, // four-octet AS
        64, 6, 0xc0, 120, 0, 2, 1, 0x80, // graceful restart
    ];
    let bytes = encoded(&open);
    assert_eq!(bytes, message(1, &body));
    let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
    let Message::Open(decoded) = found.parse(CONTEXT).unwrap() else { panic!("an OPEN was expected") };
    assert_eq!(decoded, open);
}

#[test]
fn capabilities_stand_as_their_rfcs_say() {
    let (v4, v6) = (Family::Ipv4.into(), Family::Ipv6.into());
    let cases: [(Capability, &[u8]); 8] = [
        (
            Capability::AddPath(vec![(v4, AddPathMode::Both), (v6, AddPathMode::Send)]),
            &[69, 8, 0, 1, 1, 3, 0, 2, 1, 2],
        ),
        (Capability::ExtendedNextHop(vec![(v4, 2)]), &[5, 6, 0, 1, 0, 1, 0, 2]),
        (Capability::Role(Role::Customer), &[9, 1, 3]),
        (
            Capability::LongLivedGracefulRestart(vec![(v4, true, 86400)]),
            &[71, 7, 0, 1, 1, 0x80, 1, 0x51, 0x80],
        ),
        (Capability::EnhancedRouteRefresh, &[70, 0]),
        (Capability::ExtendedMessage, &[6, 0]),
        (Capability::RouteRefresh, &[2, 0]),
        (Capability::Unknown { code: 73, value: b"node".to_vec() }, &[73, 4, b'n', b'o', b'd', b'e']),
    ];
    for (capability, expected) in cases {
        let open = open_with(vec![capability]);
        let bytes = encoded(&open);
        assert_eq!(&bytes[HEADER_LEN + 12..], expected);
        assert_eq!(Open::parse(&bytes[HEADER_LEN..]).unwrap(), open);
    }
}

#[test]
fn capabilities_of_a_wrong_length_or_value_are_kept_unread() {
    let cases: [&[u8]; 14] = [
        &[1, 3, 0, 1, 0],
        &[1, 5, 0, 1, 0, 1, 0],
        &[2, 1, 0],
        &[5, 5, 0, 1, 0, 1, 0],
        &[6, 1, 0],
        &[9, 2, 0, 0],
        &[9, 1, 5],
        &[64, 1, 0],
        &[64, 5, 0, 120, 0, 1, 1],
        &[65, 3, 0, 0, 1],
        &[69, 4, 0, 1, 1, 0],
        &[69, 8, 0, 1, 1, 3, 0, 2, 1, 4],
        &[70, 1, 0],
        &[71, 6, 0, 1, 1, 0, 0, 0],
    ];
    for bytes in cases {
        let n = bytes.len() as u8;
        let open = parse(&[&[n + 2, 2, n], bytes].concat()).unwrap();
        let kept = Capability::Unknown { code: bytes[0], value: bytes[2..].to_vec() };
        assert_eq!(open.capabilities, [kept], "{bytes:?}");
        assert_eq!(encoded(&open)[HEADER_LEN + 12..], *bytes);
    }
}

#[test]
fn capabilities_may_come_in_several_parameters_and_more_than_once() {
    let open = parse(&[
        22, 2, 2, 2, 0, // route refresh
        2, 2, 2, 0, // again
        2, 4, 64, 2, 0, 60, // graceful restart
        2, 4, 64, 2, 0, 120, // and another: the last counts
        2, 0, // nothing
    ]);
    // The lengths above are 1 + (2 + 2) + (2 + 2) + (2 + 4) * 2 + 2.
    let open = open.unwrap();
    assert!(open.has(&Capability::RouteRefresh));
    assert_eq!(open.graceful_restart().map(|gr| gr.restart_time), Some(120));
    assert!(open.speaks(Family::Ipv4) && !open.speaks(Family::Ipv6) && !open.is_as4());
}

#[test]
fn what_was_announced_can_be_asked_for() {
    let (v4, v6) = (Family::Ipv4.into(), Family::Ipv6.into());
    let open = open_with(vec![
        Capability::Multiprotocol(v6),
        Capability::AddPath(vec![(v6, AddPathMode::Send)]),
        Capability::ExtendedNextHop(vec![(v4, 2)]),
        Capability::LongLivedGracefulRestart(vec![(v4, false, 1), (v6, true, 2)]),
        Capability::Role(Role::Peer),
        Capability::Role(Role::Peer),
    ]);
    assert!(open.speaks(Family::Ipv6) && !open.speaks(Family::Ipv4));
    assert_eq!((open.add_path(Family::Ipv4), open.add_path(Family::Ipv6)), (None, Some(AddPathMode::Send)));
    assert!(AddPathMode::Send.sends() && !AddPathMode::Send.receives());
    assert!(open.takes_v4_over_v6());
    assert_eq!(open.long_lived(Family::Ipv6), Some((true, 2)));
    assert_eq!(open.role(), Ok(Some(Role::Peer)));
    assert_eq!(open_with(vec![]).role(), Ok(None));
}

#[test]
fn two_roles_or_an_unknown_one_are_a_mismatch() {
    let conflicts = [
        vec![Capability::Role(Role::Peer), Capability::Role(Role::Customer)],
        vec![Capability::Unknown { code: 9, value: vec![200] }],
        vec![Capability::Unknown { code: 9, value: vec![] }],
    ];
    for capabilities in conflicts {
        let error = open_with(capabilities).role().unwrap_err();
        assert_eq!((error.notification.code, error.notification.subcode), (2, 11));
        assert_eq!(error.notification.to_string(), "OPEN Message Error: Role Mismatch [2/11]");
    }
    let pairs = [(Role::Provider, Role::Customer), (Role::RouteServer, Role::RouteServerClient)];
    for (a, b) in pairs {
        assert_eq!((a.counterpart(), b.counterpart()), (b, a));
    }
}

#[test]
fn many_capabilities_take_the_extended_form() {
    let unknown = |code| Capability::Unknown { code, value: vec![code; 200] };
    let open = open_with((200..203).map(unknown).collect());
    let bytes = encoded(&open);
    // RFC 9072 §2: lengths 255 and 255, then 16 bits; a parameter's length has 16 bits too.
    assert_eq!(bytes[HEADER_LEN + 9..HEADER_LEN + 16], [255, 255, 2, 97, 2, 2, 94]);
    assert_eq!(Open::parse(&bytes[HEADER_LEN..]).unwrap(), open);
}

#[test]
fn the_extended_form_is_known_by_its_mark_whatever_its_size() {
    // RFC 9072 §2: the first length is to be ignored, but for 0.
    for first in [1, 5, 254, 255] {
        let open = parse(&[first, 255, 0, 5, 2, 0, 2, 2, 0]).unwrap();
        assert_eq!(open.capabilities, [Capability::RouteRefresh], "{first}");
    }
    assert!(parse(&[0, 255, 0, 5, 2, 0, 2, 2, 0]).is_err());
    assert_eq!(parse(&[0]).unwrap().capabilities, []);
    // Exactly 255 octets in the plain form are not the extended one.
    let plain = [&[255, 2, 253, 200, 251][..], &[7; 251]].concat();
    assert_eq!(parse(&plain).unwrap().capabilities, [Capability::Unknown { code: 200, value: vec![7; 251] }]);
}

#[test]
fn an_open_never_takes_more_than_4096_octets() {
    let unknown = |code| Capability::Unknown { code, value: vec![code; 255] };
    let open = open_with((100..200).map(unknown).collect());
    let bytes = encoded(&open);
    assert!(bytes.len() <= MAX_LEN);
    let read = Open::parse(&bytes[HEADER_LEN..]).unwrap();
    assert_eq!(read.capabilities, open.capabilities[..read.capabilities.len()]);
    // RFC 8654 §4: it may not be received longer either, and neither may a KEEPALIVE.
    for kind in [1, 4] {
        let long = message(kind, &[0; MAX_LEN]);
        assert_eq!(frame(&long, MAX_EXTENDED_LEN).unwrap_err().notification.subcode, 2);
    }
    assert!(frame(&message(3, &[0; MAX_LEN]), MAX_EXTENDED_LEN).unwrap().is_some());
}

#[test]
fn an_open_that_cannot_be_is_refused_with_the_right_subcode() {
    let cases: [(&[u8], u8); 10] = [
        (&[3, 0, 1, 0, 90, 1, 1, 1, 1, 0], 1),
        (&[4, 0, 0, 0, 90, 1, 1, 1, 1, 0], 2),
        (&[4, 0x5b, 0xa0, 0, 90, 1, 1, 1, 1, 0], 2),
        (&[4, 0x5b, 0xa0, 0, 90, 1, 1, 1, 1, 8, 2, 6, 65, 4, 0, 0, 0, 0], 2),
        (&[4, 0, 1, 0, 90, 0, 0, 0, 0, 0], 3),
        (&[4, 0, 1, 0, 90, 1, 1, 1, 1, 2, 1, 0], 4),
        (&[4, 0, 1, 0, 1, 1, 1, 1, 1, 0], 6),
        (&[4, 0, 1, 0, 2, 1, 1, 1, 1, 0], 6),
        (&[4, 0, 1, 0, 90, 1, 1, 1, 1, 9, 2, 200], 0),
        (&[4, 0, 1, 0, 90, 1, 1, 1, 1, 0, 2], 0),
    ];
    for (body, subcode) in cases {
        let error = Open::parse(body).unwrap_err();
        assert_eq!((error.notification.code, error.notification.subcode), (2, subcode), "{error}");
    }
    // The version that we speak (RFC 4271 §6.2).
    assert_eq!(Open::parse(cases[0].0).unwrap_err().notification.data, [0, 4]);
    for hold_time in [0, 3, 65535] {
        assert!(Open { hold_time, ..open_with(vec![]) }.validate().is_ok());
    }
    assert!(Open { hold_time: 2, ..open_with(vec![]) }.validate().is_err());
}

#[test]
fn a_notification_stands_as_the_rfcs_say() {
    let shutdown = Notification::cease_with_text(Cease::AdministrativeShutdown, "bye");
    let cases: [(Notification, &[u8]); 5] = [
        (shutdown.clone(), &[6, 2, 3, b'b', b'y', b'e']),
        (shutdown.hard_reset(), &[6, 9, 6, 2, 3, b'b', b'y', b'e']),
        (Notification::max_prefixes(Family::Ipv4.into(), 1000), &[6, 1, 0, 1, 1, 0, 0, 3, 0xe8]),
        (Notification::new(code::FSM, 3), &[5, 3]),
        (Notification::new(code::HOLD_TIMER, 0), &[4, 0]),
    ];
    for (notification, body) in cases {
        let mut bytes = Vec::new();
        notification.encode(&mut bytes);
        assert_eq!(bytes, message(3, body));
        let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
        let Message::Notification(read) = found.parse(CONTEXT).unwrap() else { panic!("a NOTIFICATION") };
        assert_eq!(read, notification);
    }
    let names = [
        (Notification::new(5, 1), "Finite State Machine Error: Unexpected Message in OpenSent State [5/1]"),
        (Notification::new(6, 8), "Cease: Out of Resources [6/8]"),
        (Notification::new(6, 10), "Cease: BFD Down [6/10]"),
        (Notification::new(7, 1), "ROUTE-REFRESH Message Error: Invalid Message Length [7/1]"),
        (Notification::new(8, 0), "Send Hold Timer Expired [8/0]"),
    ];
    for (notification, name) in names {
        assert_eq!(notification.to_string(), name);
    }
}

#[test]
fn shutdown_text_is_what_rfc_9003_allows() {
    let text = "é".repeat(127) + "x";
    let whole = Notification::cease_with_text(Cease::AdministrativeReset, &text);
    assert_eq!((whole.data[0], whole.text()), (255, Some(text.as_str())));
    for (data, read) in [
        (&[][..], None),
        (&[0][..], None),
        (&[2, 0xc3, 0x28][..], None),
        (&[5, b'a'][..], None),
        (&[1, b'a', b'b'][..], Some("a")),
    ] {
        let notification = Notification { code: 6, subcode: 2, data: data.to_vec() };
        assert_eq!(notification.text(), read, "{data:?}");
    }
    // Other subcodes carry no text.
    assert_eq!(Notification { code: 6, subcode: 1, data: vec![1, b'a'] }.text(), None);
}

#[test]
fn a_route_refresh_stands_as_rfc_7313_says() {
    for subtype in [RouteRefresh::REQUEST, RouteRefresh::BEGIN, RouteRefresh::END, 200] {
        let refresh = RouteRefresh { family: Family::Ipv6.into(), subtype };
        let mut bytes = Vec::new();
        refresh.encode(&mut bytes);
        assert_eq!(bytes, message(5, &[0, 2, subtype, 1]));
        let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
        assert!(matches!(found.parse(CONTEXT), Ok(Message::RouteRefresh(read)) if read == refresh));
    }
}

#[test]
fn a_route_refresh_of_a_wrong_length_is_sent_back() {
    for body in [&[][..], &[0, 2, 1], &[0, 2, 1, 1, 0], &[0, 2, 2, 1, 0], &[0, 2, 0, 1, 0]] {
        let bytes = message(5, body);
        let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
        let error = found.parse(CONTEXT).unwrap_err();
        assert_eq!((error.notification.code, error.notification.subcode), (7, 1));
        assert_eq!(error.notification.data, bytes);
    }
    // A subtype that nobody knows is to be ignored, not to be judged (RFC 7313 §5).
    let bytes = message(5, &[0, 2, 9, 1, 0, 0]);
    assert!(frame(&bytes, MAX_LEN).unwrap().unwrap().parse(CONTEXT).is_ok());
}
