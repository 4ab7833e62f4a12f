//! What a session makes of malformed UPDATEs (RFC 7606), with a peer that is written by hand.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use bgp::{ConnId, Output, PeerState, Speaker, Start};
use bgp_packet::*;

const OPTIONS: EncodeOptions = EncodeOptions { as4: true, extended: false, add_path: [false; 2] };

/// A speaker with one internal peer, which the test speaks for.
struct Pair {
    speaker: Speaker,
    conn: ConnId,
    now: Instant,
}

impl Pair {
    /// The session is up; the peer speaks `families`.
    fn new(families: &[Family]) -> Self {
        Self::with(families, Vec::new())
    }

    /// The session is up, and the peer announced more capabilities.
    #[allow(clippy::disallowed_methods)]
    fn with(families: &[Family], more: Vec<Capability>) -> Self {
        let now = Instant::now();
        let mut config = net::config(1);
        config.peers.insert(net::key(2), net::peer(1, 64512));
        let start = Start { seed: 1, ..Start::default() };
        let mut speaker = Speaker::new(config, start, now);
        let (local, remote) = (SocketAddr::new(net::ip(1), 179), SocketAddr::new(net::ip(2), 40000));
        let conn = speaker.handle_incoming(remote, local, now).unwrap();
        let mut capabilities = more;
        capabilities.push(Capability::FourOctetAs(64512));
        capabilities.extend(families.iter().map(|f| Capability::Multiprotocol((*f).into())));
        let mut bytes = Vec::new();
        let router_id = Ipv4Addr::new(192, 0, 2, 2);
        Open { asn: 64512, hold_time: 90, router_id, capabilities }.encode(&mut bytes);
        encode_keepalive(&mut bytes);
        let mut pair = Self { speaker, conn, now };
        pair.hear(&bytes);
        assert_eq!(pair.state(), PeerState::Established);
        pair
    }

    fn hear(&mut self, bytes: &[u8]) {
        assert_eq!(self.speaker.handle_data(self.conn, bytes, self.now), bytes.len());
    }

    /// The peer announces a prefix, with one octet of `at` after its end changed.
    fn announce(&mut self, prefix: &str, damage: impl Fn(&mut [u8])) {
        let prefix: Prefix = prefix.parse().unwrap();
        let next_hop = match prefix.family() {
            Family::Ipv4 => NextHop::V4(Ipv4Addr::new(192, 0, 2, 2)),
            Family::Ipv6 => NextHop::V6("2001:db8::2".parse().unwrap(), None),
        };
        let mut attributes = PathAttributes::new(next_hop);
        attributes.local_pref = Some(100);
        let mut bytes = Vec::new();
        encode_reach(&mut bytes, &attributes, &[prefix], OPTIONS).unwrap();
        damage(&mut bytes);
        self.hear(&bytes);
    }

    fn has(&self, prefix: &str) -> bool {
        self.speaker.route(&prefix.parse().unwrap()).is_some()
    }

    fn state(&self) -> PeerState {
        self.speaker.peer_at(net::key(2)).unwrap().state
    }

    fn notified(&mut self) -> Option<Notification> {
        let outputs = std::iter::from_fn(|| self.speaker.poll_output());
        let sent = outputs.filter_map(|o| match o {
            Output::Send { bytes, .. } => Some(bytes.to_vec()),
            _ => None,
        });
        let bytes: Vec<u8> = sent.flatten().collect();
        let mut rest = &bytes[..];
        while let Some(found) = frame(rest, MAX_LEN).unwrap() {
            if let Message::Notification(n) = found.parse(UpdateContext::default()).unwrap() {
                return Some(n);
            }
            rest = &rest[found.len..];
        }
        None
    }
}

/// Says 15 octets of the next hop where there are 16.
fn damage_next_hop(bytes: &mut [u8]) {
    assert_eq!(bytes[30], 16);
    bytes[30] = 15;
}

#[test]
fn a_broken_mp_reach_disables_its_family_and_leaves_the_other() {
    let mut pair = Pair::new(&Family::ALL);
    pair.announce("10.0.1.0/26", |_| {});
    pair.announce("fd00:1::/64", |_| {});
    assert!(pair.has("10.0.1.0/26") && pair.has("fd00:1::/64"));

    pair.announce("fd00:2::/64", damage_next_hop);

    assert_eq!(pair.state(), PeerState::Established);
    assert!(pair.has("10.0.1.0/26") && !pair.has("fd00:1::/64"));
    pair.announce("fd00:3::/64", |_| {});
    pair.announce("10.0.2.0/26", |_| {});
    assert!(pair.has("10.0.2.0/26") && !pair.has("fd00:3::/64"));
}

#[test]
fn a_broken_mp_reach_of_the_only_family_resets_the_session() {
    let mut pair = Pair::new(&[Family::Ipv6]);
    pair.announce("fd00:1::/64", |_| {});

    pair.announce("fd00:2::/64", damage_next_hop);

    assert_ne!(pair.state(), PeerState::Established);
    assert!(!pair.has("fd00:1::/64"));
    assert_eq!(pair.notified().map(|n| (n.code, n.subcode)), Some((3, 9)));
}

#[test]
fn a_malformed_replacement_takes_the_old_route_away() {
    let mut pair = Pair::new(&Family::ALL);
    pair.announce("10.0.1.0/26", |_| {});

    // The value of ORIGIN.
    pair.announce("10.0.1.0/26", |bytes| bytes[26] = 9);

    assert_eq!(pair.state(), PeerState::Established);
    assert!(!pair.has("10.0.1.0/26"));
    pair.announce("10.0.1.0/26", |_| {});
    assert!(pair.has("10.0.1.0/26"));
}

/// The mandatory attributes of a route of an internal peer, one by one.
const MANDATORY: [&[u8]; 4] =
    [&[0x40, 1, 1, 0], &[0x40, 2, 0], &[0x40, 3, 4, 192, 0, 2, 2], &[0x40, 5, 4, 0, 0, 0, 100]];

/// An UPDATE that announces 10.0.1.0/26.
fn update(attributes: &[u8]) -> Vec<u8> {
    let nlri = [26, 10, 0, 1, 0];
    let len = (23 + attributes.len() + nlri.len()) as u16;
    let attributes_len = (attributes.len() as u16).to_be_bytes();
    [&[0xff; 16][..], &len.to_be_bytes(), &[2, 0, 0], &attributes_len, attributes, &nlri].concat()
}

fn withdrawal() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_unreach(&mut bytes, &["10.0.1.0/26".parse::<Prefix>().unwrap()], OPTIONS);
    bytes
}

#[test]
fn cve_2026_42285_a_malformed_route_then_a_good_one_then_none() {
    let good = update(&MANDATORY.concat());
    let broken: [&[u8]; 6] =
        [&[0x40, 1, 1, 9], &[0xc0, 8, 1, 0], &[0x80, 4, 1, 0], &[0xc0, 32, 0], &[0xc0, 35, 1, 0], &[0x40]];
    for attribute in broken {
        let kept = MANDATORY.iter().filter(|a| a[1] != attribute[1..].first().copied().unwrap_or(0));
        let bad = update(&[&kept.copied().collect::<Vec<_>>().concat()[..], attribute].concat());
        let mut pair = Pair::new(&Family::ALL);
        for message in
            [&bad, &good, &bad, &bad, &good, &withdrawal(), &withdrawal(), &bad, &withdrawal(), &good]
        {
            pair.hear(message);
            assert_eq!(pair.state(), PeerState::Established);
            let is_good = *message == good;
            assert_eq!(pair.has("10.0.1.0/26"), is_good, "{attribute:?}");
        }
    }
}

#[test]
fn frr_d8482bf_missing_attributes_with_every_set_of_capabilities() {
    let families = Family::ALL.map(AfiSafi::from);
    let restart = GracefulRestart {
        restart_time: 120,
        families: families.iter().map(|f| (*f, true)).collect(),
        ..GracefulRestart::default()
    };
    let all = [
        Capability::GracefulRestart(restart),
        Capability::LongLivedGracefulRestart(families.iter().map(|f| (*f, true, 60)).collect()),
        Capability::EnhancedRouteRefresh,
        Capability::ExtendedMessage,
    ];
    for set in 0..16 {
        let some = all.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, c)| c.clone());
        let mut pair = Pair::with(&Family::ALL, some.collect());
        for missing in 0..16 {
            let kept = MANDATORY.iter().enumerate().filter(|(i, _)| missing >> i & 1 == 0);
            pair.hear(&update(&kept.map(|(_, a)| *a).collect::<Vec<_>>().concat()));
            assert_eq!(pair.state(), PeerState::Established);
            assert_eq!(pair.has("10.0.1.0/26"), missing == 0, "capabilities {set:b}, missing {missing:b}");
        }
    }
}

#[test]
fn cert_vu_347067_no_malformed_attribute_ends_the_session_or_keeps_an_old_route() {
    let codes = [(4, 0x80), (8, 0xc0), (9, 0x80), (10, 0x80), (16, 0xc0), (25, 0xc0), (32, 0xc0), (35, 0xc0)];
    let mut pair = Pair::new(&Family::ALL);
    for (code, flags) in codes {
        for (flags, value) in
            [(flags, &[1][..]), (flags ^ 0x40, &[0, 0, 0, 1]), (flags ^ 0x80, &[]), (0xff, &[])]
        {
            pair.hear(&update(&MANDATORY.concat()));
            assert!(pair.has("10.0.1.0/26"));
            let mut attribute = vec![flags, code];
            attribute.extend(if flags & 0x10 != 0 { vec![0xff, 0xff] } else { vec![value.len() as u8] });
            attribute.extend(value);

            pair.hear(&update(&[&MANDATORY.concat()[..], &attribute].concat()));

            assert_eq!(pair.state(), PeerState::Established, "{attribute:?}");
            assert!(!pair.has("10.0.1.0/26"), "{attribute:?}");
        }
    }
    assert_eq!(pair.speaker.peer_at(net::key(2)).unwrap().sessions, 1);
}
