//! Random pairs of configurations: going from one to the other begins exactly those sessions anew whose own
//! transport, AS or capabilities differ.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::{
    BfdConfig, Change, Config, DynamicNeighbours, MaxPrefix, NextHopMode, Password, PeerChanges, PeerConfig,
    PeerKey, PeerState, Policy,
};
use bgp_packet::{Family, Role};
use net::*;

/// Peers are the nodes 2 to 7; their own settings take whatever node 1 says.
const PEERS: std::ops::RangeInclusive<u8> = 2..=7;
const PAIRS: u64 = 150;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    /// Mostly `usual`.
    fn pick<T: Clone>(&mut self, usual: T, others: &[T]) -> T {
        if self.roll(4) > 0 { usual } else { others[self.roll(others.len() as u64) as usize].clone() }
    }

    /// Nearly always `usual`: what needs a new session.
    fn rarely<T: Clone>(&mut self, usual: T, others: &[T]) -> T {
        if self.roll(30) > 0 { usual } else { others[self.roll(others.len() as u64) as usize].clone() }
    }

    fn seldom(&mut self) -> bool {
        self.roll(5) == 0
    }
}

/// What a session is made of: a difference here needs a new one. Written down a second time on purpose.
fn essence(config: &Config, peer: &PeerConfig) -> impl PartialEq + use<> {
    let transport = (peer.port, peer.local_address, peer.ttl_security, peer.password.clone());
    let identity = (config.router_id, peer.local_asn.unwrap_or(config.asn), peer.asn);
    let families = Family::ALL.map(|f| peer.families.contains(&f));
    let restart = (peer.restart_time > 0, peer.long_lived_stale_time.is_some());
    let messages = (peer.extended_messages, peer.extended_next_hop, peer.hold_time);
    let paths = (peer.add_path_receive, peer.add_path_send_max.is_some());
    (transport, identity, families, restart, messages, paths, (peer.role, peer.strict_role))
}

fn random_peer(dice: &mut Dice) -> PeerConfig {
    let mut peer = peer(1, 64512);
    // The peers of these tests are in AS 64512 whatever we are.
    peer.families = dice
        .rarely(vec![Family::Ipv4, Family::Ipv6], &[vec![Family::Ipv4], vec![Family::Ipv6, Family::Ipv4]]);
    peer.local_asn = dice.rarely(None, &[Some(65010)]);
    peer.hold_time = dice.rarely(90, &[30, 240]);
    peer.restart_time = dice.rarely(120, &[60, 0]);
    peer.long_lived_stale_time = dice.rarely(None, &[Some(100), Some(200)]);
    peer.extended_messages = !dice.rarely(false, &[true]);
    peer.extended_next_hop = dice.rarely(false, &[true]);
    peer.add_path_receive = dice.rarely(false, &[true]);
    peer.add_path_send_max = dice.rarely(None, &[Some(2), Some(4)]);
    peer.role = dice.rarely(None, &[Some(Role::Peer)]);
    peer.ttl_security = dice.rarely(None, &[Some(1)]);
    peer.password = dice.rarely(None, &[Some(Password::new("secret".into()))]);
    // From here on nothing needs a new session.
    peer.description = dice.pick(String::new(), &["renamed".into()]);
    peer.passive = dice.seldom();
    peer.keepalive_interval = dice.pick(None, &[Some(10)]);
    peer.send_hold_time = dice.pick(None, &[Some(Duration::from_secs(600))]);
    peer.connect_retry = dice.pick(Duration::from_secs(5), &[Duration::from_secs(2)]);
    peer.graceful_shutdown = dice.seldom();
    peer.max_prefix = dice.pick([None; 2], &[[Some(MaxPrefix::new(1000)), None]]);
    peer.reflector_client = dice.seldom();
    peer.next_hop = dice.pick(NextHopMode::Auto, &[NextHopMode::SelfAddress, NextHopMode::Keep]);
    peer.allow_own_as = dice.pick(0, &[2]);
    peer.import = Arc::new(dice.pick(Policy::accept(), &[Policy::reject()]));
    peer.export = Arc::new(dice.pick(Policy::accept(), &[Policy::reject()]));
    peer.bfd = dice.pick(None, &[Some(BfdConfig::default())]);
    peer
}

fn random_config(dice: &mut Dice) -> Config {
    let mut config = config(1);
    if dice.roll(20) == 0 {
        config.router_id = Ipv4Addr::new(192, 0, 2, 100);
    }
    config.cluster_id = dice.pick(None, &[Some(Ipv4Addr::new(244, 0, 0, 1))]);
    config.client_to_client = !dice.seldom();
    config.default_local_pref = dice.pick(100, &[200]);
    config.max_paths = dice.pick(1, &[4]);
    config.graceful_shutdown = dice.seldom();
    config.ebgp_requires_policy = dice.seldom();
    for n in PEERS {
        if dice.roll(6) > 0 {
            config.peers.insert(key(n), random_peer(dice));
        }
    }
    if dice.seldom() {
        let template = PeerConfig { local_address: Some(ip(1)), ..PeerConfig::new(64512) };
        config.dynamic = vec![DynamicNeighbours::new(prefix("192.0.2.0/24"), template)];
    }
    config
}

/// The settings that a peer has in a configuration, by itself or out of a range.
fn settings(config: &Config, n: u8) -> Option<PeerConfig> {
    let range = config.dynamic.first().map(|d| PeerConfig { passive: true, ..d.template.clone() });
    config.peers.get(&key(n)).cloned().or(range)
}

/// Sessions so far and since when they are as they are, seen from node 1 and from the peer.
fn seen(net: &mut Net) -> BTreeMap<u8, (u64, Instant, u64)> {
    let mut all = BTreeMap::new();
    for n in PEERS {
        let theirs = net.speaker(n).peer_at(ip(1)).unwrap().sessions;
        if let Some(ours) = net.speaker(1).peer_at(ip(n)).filter(|p| p.state == PeerState::Established) {
            all.insert(n, (ours.sessions, ours.since, theirs));
        }
    }
    all
}

fn expected_up(net: &mut Net, config: &Config) -> bool {
    PEERS.filter(|n| settings(config, *n).is_some()).all(|n| net.state(1, n) == PeerState::Established)
}

/// From `old` to a configuration that has some peers of `other` in the place of its own.
fn some_of(dice: &mut Dice, old: &Config, other: &Config) -> PeerChanges {
    let mut changes = PeerChanges::default();
    for n in PEERS.filter(|_| dice.roll(2) == 0) {
        changes.peers.insert(key(n), other.peers.get(&key(n)).cloned());
        let retires = other.retire.contains(&key(n));
        if retires != old.retire.contains(&key(n)) {
            changes.retire.insert(key(n), retires);
        }
    }
    changes
}

#[test]
fn changes_of_some_peers_do_what_the_whole_configuration_would() {
    let mut changed = 0;
    for seed in 0..PAIRS {
        let mut dice = Dice(seed);
        let (mut old, mut other) = (random_config(&mut dice), random_config(&mut dice));
        for config in [&mut old, &mut other] {
            config.retire = PEERS.filter(|_| dice.roll(2) == 0).map(key).collect();
        }
        let (first, second) = (some_of(&mut dice, &old, &other), some_of(&mut dice, &old, &old));
        let ends = [false, true].map(|whole| {
            let mut net = Net::new(5);
            for n in PEERS {
                let mut config = config(n);
                config.peers.insert(key(1), PeerConfig { asn: None, ..peer(n, 64512) });
                net.start(n, config, false);
            }
            net.start(1, old.clone(), false);
            net.run(20);
            let (now, mut config, mut log) = (net.now, old.clone(), Vec::new());
            for changes in [&first, &second] {
                changes.apply_to(&mut config);
                let done = match whole {
                    true => net.speaker(1).reconfigure(config.clone(), now),
                    false => net.speaker(1).reconfigure_peers(changes.clone(), now),
                };
                let peers = net.speaker(1).peers().into_iter().map(|p| (p.peer, p.state, p.cause));
                log.push(format!("{done:?} {:?}", peers.collect::<Vec<_>>()));
                changed += done.len();
            }
            net.run(20);
            log.push(format!("{:?}", PEERS.map(|n| net.state(1, n)).collect::<Vec<_>>()));
            log
        });
        assert_eq!(ends[0], ends[1], "seed {seed}");
    }
    assert!(changed > 100, "{changed}");
}

#[test]
fn exactly_those_sessions_begin_anew_whose_transport_as_or_capabilities_changed() {
    let (mut kept, mut reset) = (0, 0);
    for seed in 0..PAIRS {
        let mut dice = Dice(seed);
        let (old, new) = (random_config(&mut dice), random_config(&mut dice));
        let mut net = Net::new(5);
        for n in PEERS {
            let mut config = config(n);
            config.peers.insert(key(1), PeerConfig { asn: None, ..peer(n, 64512) });
            net.start(n, config, false);
        }
        net.start(1, old.clone(), false);
        net.until("the first configuration", 120, |net| expected_up(net, &old));
        net.run(10);
        let before = seen(&mut net);

        let now = net.now;
        let changes = net.speaker(1).reconfigure(new.clone(), now);
        net.until("the second configuration", 120, |net| expected_up(net, &new));
        net.run(60);

        let after = seen(&mut net);
        for n in PEERS {
            let (from, to) = (settings(&old, n), settings(&new, n));
            let (Some(from), Some(to)) = (&from, &to) else {
                assert_eq!(after.contains_key(&n), to.is_some(), "seed {seed}, peer {n}");
                continue;
            };
            let same = essence(&old, from) == essence(&new, to);
            let untouched = before[&n] == after[&n];
            // A peer that leaves its range's or its own entry and is wanted by the other stays the same peer.
            assert_eq!(untouched, same, "seed {seed}, peer {n}: {changes:?}\n{from:?}\n{to:?}");
            *(if same { &mut kept } else { &mut reset }) += 1;
        }
        check_changes(&old, &new, &changes, seed);
    }
    assert!(kept > 100 && reset > 100, "{kept} kept, {reset} reset");
}

/// The typed difference names what happened, and nothing else.
fn check_changes(old: &Config, new: &Config, changes: &[Change], seed: u64) {
    let named: Vec<PeerKey> = changes
        .iter()
        .filter_map(|change| match change {
            Change::PeerAdded(k) | Change::PeerRemoved(k) | Change::PeerRetiring(k) => Some(*k),
            Change::PeerReset(k) | Change::PeerUpdated(k) => Some(*k),
            Change::SpeakerReset | Change::SpeakerUpdated => None,
        })
        .collect();
    for k in PEERS.map(key) {
        let (from, to) = (old.peers.get(&k), new.peers.get(&k));
        if from == to && from.is_some() {
            assert!(!named.contains(&k), "seed {seed}: {k} is the same, {changes:?}");
        }
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            let reset = changes.contains(&Change::PeerReset(k));
            assert_eq!(reset, from.needs_reset(to), "seed {seed}: {k}, {changes:?}");
            assert!(reset || changes.contains(&Change::PeerUpdated(k)), "seed {seed}: {k}, {changes:?}");
        }
    }
}

#[test]
fn the_same_configuration_again_is_no_change() {
    for seed in 0..PAIRS {
        let config = random_config(&mut Dice(seed));
        let mut net = Net::new(5);
        net.start(1, config.clone(), false);
        let now = net.now;
        assert_eq!(net.speaker(1).reconfigure(config, now), []);
    }
}
