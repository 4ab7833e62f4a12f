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
    #[allow(clippy::disallowed_methods)]
    fn new(families: &[Family]) -> Self {
        let now = Instant::now();
        let mut config = net::config(1);
        config.peers.insert(net::key(2), net::peer(1, 64512));
        let start = Start { seed: 1, ..Start::default() };
        let mut speaker = Speaker::new(config, start, now);
        let (local, remote) = (SocketAddr::new(net::ip(1), 179), SocketAddr::new(net::ip(2), 40000));
        let conn = speaker.handle_incoming(remote, local, now).unwrap();
        let mut capabilities = vec![Capability::FourOctetAs(64512)];
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
