//! What speakers know of one another's routes: several paths to a prefix, next hops that come and go, what policy
//! makes of routes, and random changes after which everybody agrees with a slow walk over the tables.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod net;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bgp::{
    Action, Condition, Config, NextHopInterest, Operation, PeerConfig, Policy, PrefixMatch, PrefixSet,
    Reason, Rejection, RouteSource, Rule, Start, Withheld,
};
use bgp_packet::{Community, PathAttributes, Prefix};
use net::*;

fn only(name: &str, when: Vec<Condition>, then: Action) -> Arc<Policy> {
    Arc::new(Policy::new(vec![Rule { name: name.into(), when, then }], true))
}

fn within(text: &str) -> Condition {
    Condition::Prefix(PrefixSet::new([PrefixMatch::within(prefix(text))]))
}

/// What node `n` was told by node `from`.
fn adj_rib_in(net: &mut Net, n: u8, from: u8) -> BTreeMap<(Prefix, u32), PathAttributes> {
    let routes = net.speaker(n).routes().into_iter();
    let told = routes.filter(|r| r.source == RouteSource::Peer(key(from)));
    told.map(|r| ((r.prefix, r.path_id), (*r.received).clone())).collect()
}

/// Node 1 reflects for 2, 3 and 4, which announce one prefix; node 5 wants several paths to it.
fn several_paths(net: &mut Net, max: u8) {
    let mut reflector = config(1);
    reflector.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
    for n in 2..=4 {
        reflector.peers.insert(key(n), PeerConfig { reflector_client: true, ..peer(1, 64512) });
        let mut client = config(n);
        client.peers.insert(key(1), peer(n, 64512));
        net.start(n, client, false);
        net.speaker(n).originate(prefix("10.96.0.0/12"), local());
    }
    reflector.peers.insert(key(5), PeerConfig { add_path_send_max: Some(max), ..peer(1, 64512) });
    let mut reader = config(5);
    reader.peers.insert(key(1), PeerConfig { add_path_receive: true, ..peer(5, 64512) });
    net.start(1, reflector, false);
    net.start(5, reader, false);
}

#[test]
fn a_peer_with_add_path_gets_all_paths_and_a_change_of_one_touches_no_other() {
    let mut net = Net::new(5);
    several_paths(&mut net, 8);
    net.until("three paths", 20, |net| adj_rib_in(net, 5, 1).len() == 3);
    let before = adj_rib_in(&mut net, 5, 1);
    let hops: Vec<IpAddr> = before.values().map(|a| a.next_hop.address()).collect();
    assert!([2, 3, 4].iter().all(|n| hops.contains(&ip(*n))), "{hops:?}");

    net.speaker(2).withdraw(prefix("10.96.0.0/12"));
    net.until("two paths", 5, |net| adj_rib_in(net, 5, 1).len() == 2);

    let after = adj_rib_in(&mut net, 5, 1);
    assert!(after.iter().all(|(id, a)| before.get(id) == Some(a)), "{after:?}");
    net.speaker(2).originate(prefix("10.96.0.0/12"), local());
    net.until("the same three", 5, |net| adj_rib_in(net, 5, 1) == before);
}

#[test]
fn no_more_paths_go_out_than_are_wanted_and_they_are_the_best() {
    let mut net = Net::new(5);
    several_paths(&mut net, 2);
    net.until("two paths", 20, |net| net.all_up() && adj_rib_in(net, 5, 1).len() == 2);
    net.run(2);

    let hops = adj_rib_in(&mut net, 5, 1).into_values().map(|a| a.next_hop.address());

    assert!(hops.into_iter().all(|hop| hop != ip(4)), "the highest identifier is the last choice");
}

#[test]
fn a_path_counts_only_while_its_next_hop_can_be_reached_and_the_nearer_one_wins() {
    let mut net = Net::new(5);
    let start = Start { track_next_hops: true, report_routes: true, ..Start::default() };
    net.start_as(1, mesh(1, 3), start);
    for n in [2, 3] {
        net.start(n, mesh(n, 3), false);
        net.speaker(n).originate(prefix("10.96.0.0/12"), local());
    }
    net.until("paths", 5, |net| net.speaker(1).routes_to(&prefix("10.96.0.0/12")).len() == 2);
    let speaker = net.speaker(1);
    let mut asked: Vec<_> = std::iter::from_fn(|| speaker.poll_next_hop()).collect();
    asked.sort_by_key(|interest| format!("{interest:?}"));
    assert_eq!(asked, [NextHopInterest::Watch(ip(2)), NextHopInterest::Watch(ip(3))]);
    let rejections = |net: &mut Net| -> Vec<_> {
        net.speaker(1).routes_to(&prefix("10.96.0.0/12")).iter().map(|r| r.rejection).collect()
    };
    assert_eq!(rejections(&mut net), [Some(Rejection::NextHopUnreachable); 2]);
    assert!(!net.has(1, "10.96.0.0/12"));

    net.speaker(1).handle_next_hop(ip(2), Some(20));
    net.speaker(1).handle_next_hop(ip(3), Some(10));

    let reported = std::iter::from_fn(|| net.speaker(1).poll_route()).last().unwrap();
    assert_eq!(reported.1.unwrap().next_hops, [key(3)]);
    let best = net.speaker(1).routes_to(&prefix("10.96.0.0/12")).into_iter().find_map(|r| r.best);
    assert_eq!(best, Some(Reason::InteriorCost));

    net.speaker(1).handle_next_hop(ip(3), None);
    let reported = std::iter::from_fn(|| net.speaker(1).poll_route()).last().unwrap();
    assert_eq!(reported.1.unwrap().next_hops, [key(2)]);
    assert_eq!(rejections(&mut net).iter().flatten().count(), 1);
}

#[test]
fn what_policy_made_of_a_route_and_which_rule_refused_it_can_be_seen() {
    let mut net = Net::new(5);
    let mut taking = mesh(1, 2);
    let import = vec![
        Rule { name: "no tests".into(), when: vec![within("192.0.2.0/24")], then: Action::Reject },
        Rule {
            name: "prefer".into(),
            when: vec![],
            then: Action::Modify(vec![Operation::SetLocalPref(300)]),
        },
    ];
    taking.peers.get_mut(&key(2)).unwrap().import = Arc::new(Policy::new(import, true));
    let mut giving = mesh(2, 2);
    let community = vec![Condition::Community(Community(7))];
    giving.peers.get_mut(&key(1)).unwrap().export = only("keep sevens", community, Action::Reject);
    net.start(1, taking, false);
    net.start(2, giving, false);
    for text in ["10.0.2.0/26", "192.0.2.128/25"] {
        net.speaker(2).originate(prefix(text), local());
    }
    let seven = PathAttributes { communities: vec![Community(7)], ..local() };
    net.speaker(2).originate(prefix("10.7.0.0/16"), seven);
    net.until("routes", 5, |net| adj_rib_in(net, 1, 2).len() == 2);

    let taken = net.speaker(1).routes_to(&prefix("10.0.2.0/26")).remove(0);
    assert_eq!((taken.received.local_pref, taken.attributes.local_pref), (Some(100), Some(300)));
    let refused = net.speaker(1).routes_to(&prefix("192.0.2.128/25")).remove(0);
    assert_eq!(refused.rejection, Some(Rejection::Policy(Some(0))));
    assert_eq!(refused.rejected_by.as_deref(), Some("no tests"));

    let why = |net: &mut Net, n: u8, to: u8, text: &str| net.speaker(n).advertisement(key(to), &prefix(text));
    assert_eq!(why(&mut net, 2, 1, "10.7.0.0/16"), Err(Withheld::Policy(Some(0))));
    assert_eq!(why(&mut net, 1, 2, "10.0.2.0/26"), Err(Withheld::OwnRoute));
    assert_eq!(why(&mut net, 1, 2, "203.0.113.0/24"), Err(Withheld::NoRoute));
    assert!(why(&mut net, 2, 1, "10.0.2.0/26").is_ok());
}

/// Repeatable choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

/// Pairs with a session: 1 reflects for 2 and 3, 4 is another router of the AS, 5 and 6 are outside.
const PAIRS: [(u8, u8); 7] = [(1, 2), (1, 3), (1, 4), (4, 5), (1, 5), (2, 5), (3, 6)];
const NODES: u8 = 6;
const PREFER: u64 = 7;
const AVOID: u64 = 8;
const WITHOUT_PREFERENCES: u64 = 7;
const WITH_PREFERENCES: u64 = 9;

struct World {
    net: Net,
    dice: Dice,
    /// How many policies there are to choose from.
    choices: u64,
    /// Import and export policy by node and peer.
    policies: BTreeMap<(u8, u8), (u64, u64)>,
    originated: BTreeMap<(u8, Prefix), PathAttributes>,
}

fn asn(n: u8) -> u32 {
    if n < 5 { 64512 } else { 65000 + u32::from(n) }
}

/// Only the last two prefer routes: such preferences may conflict.
fn policy(choice: u64) -> Arc<Policy> {
    let tag = Action::Modify(vec![Operation::AddCommunity(Community(choice as u32))]);
    let tag_all = Action::AcceptWith(vec![Operation::AddCommunity(Community(choice as u32))]);
    match choice {
        0 => Arc::new(Policy::reject()),
        1 => only("not these", vec![within("10.0.0.0/13")], Action::Reject),
        2 => only("tag", vec![within("10.8.0.0/13")], tag),
        3 => only("tag all", vec![], tag_all),
        PREFER => only("prefer", vec![], Action::AcceptWith(vec![Operation::SetLocalPref(200)])),
        AVOID => only("avoid", vec![], Action::AcceptWith(vec![Operation::SetLocalPref(50)])),
        _ => Arc::new(Policy::accept()),
    }
}

impl World {
    fn new(seed: u64, choices: u64) -> Self {
        let mut world = Self {
            net: Net::new(5),
            dice: Dice(seed),
            choices,
            policies: BTreeMap::new(),
            originated: BTreeMap::new(),
        };
        for n in 1..=NODES {
            world.start(n);
        }
        world
    }

    fn config(&self, n: u8) -> Config {
        let mut config = config_in(n, asn(n));
        config.cluster_id = (n == 1).then_some(Ipv4Addr::new(244, 0, 0, 1));
        for (a, b) in PAIRS {
            let Some(other) = [(a, b), (b, a)].into_iter().find(|p| p.0 == n).map(|p| p.1) else { continue };
            let (import, export) = self.policies.get(&(n, other)).copied().unwrap_or((9, 9));
            let settings = PeerConfig {
                import: policy(import),
                export: policy(export),
                reflector_client: n == 1 && (2..=3).contains(&other),
                add_path_send_max: ((n, other) == (3, 6)).then_some(2),
                add_path_receive: n == 6,
                restart_time: 0,
                ..peer(n, asn(other))
            };
            config.peers.insert(key(other), settings);
        }
        config
    }

    fn start(&mut self, n: u8) {
        let config = self.config(n);
        self.net.start(n, config, false);
        for ((_, prefix), attributes) in self.originated.iter().filter(|((owner, _), _)| *owner == n) {
            self.net.speaker(n).originate(*prefix, attributes.clone());
        }
    }

    /// Something happens, and some of what follows from it.
    fn step(&mut self) {
        let n = self.dice.roll(NODES.into()) as u8 + 1;
        let prefix = prefix(&format!("10.{}.0.0/16", self.dice.roll(16)));
        match self.dice.roll(12) {
            0..5 => {
                let med = (self.dice.roll(2) == 0).then_some(5);
                let communities =
                    [vec![], vec![], vec![Community::NO_EXPORT]][self.dice.roll(3) as usize].clone();
                let attributes = PathAttributes { med, communities, ..local() };
                self.net.speaker(n).originate(prefix, attributes.clone());
                self.originated.insert((n, prefix), attributes);
            }
            5..7 => {
                self.net.speaker(n).withdraw(prefix);
                self.originated.remove(&(n, prefix));
            }
            7..10 => {
                let (a, b) = PAIRS[self.dice.roll(PAIRS.len() as u64) as usize];
                let choices = (self.dice.roll(self.choices), self.dice.roll(self.choices));
                self.policies.insert((a, b), choices);
                let (config, now) = (self.config(a), self.net.now);
                self.net.speaker(a).reconfigure(config, now);
            }
            10 => {
                let (a, b) = PAIRS[self.dice.roll(PAIRS.len() as u64) as usize];
                let now = self.net.now;
                match self.dice.roll(3) {
                    0 => self.net.speaker(a).reset(key(b), "", now),
                    1 => self.net.speaker(a).refresh_out(key(b)),
                    _ => drop(self.net.speaker(a).refresh_in(key(b))),
                }
            }
            _ => {
                self.net.kill(n);
                self.start(n);
            }
        }
        if self.dice.roll(3) == 0 {
            self.net.run(self.dice.roll(2));
        }
    }

    /// Do tables change while nobody does anything?
    fn turns(&mut self) -> bool {
        let (mut tables, mut turns) = (BTreeMap::new(), false);
        let end = self.net.now + Duration::from_secs(1);
        self.net.run_until(end, |net| {
            for n in 1..=NODES {
                let best = net.speaker(n).routes().into_iter().filter(|route| route.best.is_some());
                let best: Vec<_> = best.map(|route| (route.prefix, route.source)).collect();
                turns |= tables.get(&n).is_some_and(|old| *old != best);
                tables.insert(n, best);
            }
        });
        turns
    }

    /// For some seconds every way takes another time again and again, as in a real network.
    fn jitter(&mut self) {
        for _ in 0..500 {
            for (a, b) in PAIRS.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
                self.net.lag(a, b, 1 + self.dice.roll(40));
            }
            let end = self.net.now + Duration::from_millis(13);
            self.net.run_until(end, |_| {});
        }
        self.net.run(5);
    }

    /// Everybody has from everybody what a walk over the other's table says.
    fn check(&mut self, seed: u64) {
        self.net.until("sessions", 300, Net::all_up);
        self.net.run(5);
        for (a, b) in PAIRS.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
            let has = adj_rib_in(&mut self.net, b, a);
            let shown = self.net.speaker(a).advertised(key(b)).into_iter();
            let shown: BTreeMap<_, _> =
                shown.map(|r| ((r.prefix, r.path_id), (*r.attributes).clone())).collect();
            let extra: Vec<_> = has.iter().filter(|route| shown.get(route.0) != Some(route.1)).collect();
            let missing: Vec<_> = shown.iter().filter(|route| has.get(route.0) != Some(route.1)).collect();
            assert!(
                extra.is_empty() && missing.is_empty(),
                "seed {seed}, {a} to {b}: {extra:?} not {missing:?}"
            );
            if (a, b) == (3, 6) {
                continue;
            }
            let speaker = self.net.speaker(a);
            let prefixes: Vec<Prefix> = speaker.prefixes().collect();
            let should: BTreeMap<_, _> = prefixes
                .into_iter()
                .filter_map(|prefix| Some(((prefix, 0), speaker.advertisement(key(b), &prefix).ok()?)))
                .collect();
            assert_eq!(should, has, "seed {seed}: what {b} should have from {a}");
        }
        for n in 1..=NODES {
            let speaker = self.net.speaker(n);
            for route in speaker.routes().into_iter().filter(|r| r.best.is_some()) {
                assert_eq!(speaker.route(&route.prefix).unwrap().attributes, route.attributes);
            }
            let own = self.originated.keys().filter(|(owner, _)| *owner == n).count();
            let shown = speaker.routes().iter().filter(|r| r.source == RouteSource::Local).count();
            assert_eq!(shown, own, "seed {seed}: what {n} originates");
        }
    }
}

#[test]
fn after_random_changes_everybody_has_what_the_others_tables_say() {
    for seed in 1..=40 {
        let mut world = World::new(seed, WITHOUT_PREFERENCES);
        world.check(seed);
        for _ in 0..5 {
            for _ in 0..12 {
                world.step();
            }
            world.check(seed);
        }
    }
}

/// Two routers that each prefer the other's route over their own (RFC 4264 §2) have two states to rest in. Where all
/// ways take exactly the same time they change their minds together, for ever; in a real network they come to rest.
#[test]
fn preferences_that_conflict_turn_in_lock_step_only() {
    let mut locked = 0;
    for seed in 1..=40 {
        let mut world = World::new(seed, WITH_PREFERENCES);
        for _ in 0..5 {
            for _ in 0..12 {
                world.step();
            }
            world.net.until("sessions", 300, Net::all_up);
            world.net.run(5);
            if world.turns() {
                locked += 1;
                world.jitter();
                assert!(!world.turns(), "seed {seed} turns without lock step");
            }
            world.check(seed);
        }
    }
    assert!(locked > 0, "no two agreed to disagree");
}
