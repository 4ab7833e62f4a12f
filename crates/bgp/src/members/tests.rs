//! Whatever happens in whatever order, and however slowly members take what they are to get: in the end each
//! has what a slow walk over the table says that it should have.

use std::collections::{BTreeMap, BTreeSet};

use bgp_packet::{
    AsPath, Community, EncodeOptions, MAX_LEN, Message, NextHop, Origin, PathAttributes, Prefix,
    UpdateContext, frame,
};

use super::*;
use crate::export::Exporter;
use crate::path::{Path, Source};
use crate::random::Random;
use crate::rib::PeerInfo;
use crate::{Action, Condition, NextHopMode, Operation, Policy, PrefixMatch, PrefixSet, Rule, Start};

const PEERS: u32 = 8;
const PREFIXES: u8 = 24;

/// What a member has been told.
#[derive(Default)]
struct Receiver {
    key: Option<GroupKey>,
    routes: BTreeMap<(u32, Prefix), PathAttributes>,
    end_of_rib: bool,
    /// Routes that came after the begin of a refresh.
    refreshed: Option<(Family, BTreeSet<(u32, Prefix)>)>,
}

struct World {
    rib: Rib,
    members: Members,
    config: Config,
    random: Random,
    receivers: Vec<Receiver>,
    deferring: bool,
    /// Routes that peers announce, by source, path identifier and prefix.
    announced: BTreeSet<(u32, u32, Prefix)>,
}

fn router_id(peer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc000_0200 + peer)
}

fn prefix(n: u8) -> Prefix {
    let text = if n.is_multiple_of(4) { format!("2001:db8:{n:x}::/48") } else { format!("10.0.{n}.0/24") };
    text.parse().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let start = Start { seed, report_routes: false, ..Start::default() };
        let mut config = Config::new(64512, Ipv4Addr::new(192, 0, 2, 99));
        config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
        config.next_hop_v6 = Some("2001:db8::99".parse().unwrap());
        let mut world = Self {
            rib: Rib::new(start),
            members: Members::default(),
            config,
            random: Random::new(seed),
            receivers: (0..PEERS).map(|_| Receiver::default()).collect(),
            deferring: false,
            announced: BTreeSet::new(),
        };
        for peer in 0..PEERS {
            world.set_peer(peer);
        }
        world
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.next() % n
    }

    fn set_peer(&mut self, peer: u32) {
        let info = PeerInfo {
            key: std::net::IpAddr::V4(router_id(peer)).into(),
            router_id: router_id(peer),
            external: peer % 4 == 3,
            client: peer.is_multiple_of(2),
            only_here: false,
        };
        self.rib.set_peer(peer, info);
    }

    /// Peers 0 and 1 share settings mostly; 6 and 7 get several paths.
    fn key(&mut self, peer: u32) -> GroupKey {
        let policy = match self.below(5) {
            0 => Policy::reject(),
            1 => policy(Condition::Prefix(PrefixSet::new([PrefixMatch::exact(prefix(3))])), Action::Reject),
            2 => {
                let tag = Action::Modify(vec![Operation::AddCommunity(Community(7))]);
                policy(Condition::Family(Family::Ipv4), tag)
            }
            _ => Policy::accept(),
        };
        let add_path = peer >= 6;
        GroupKey {
            internal: peer % 4 != 3,
            client: peer.is_multiple_of(2),
            local_asn: 64512,
            local: "192.0.2.99".parse().unwrap(),
            next_hop: NextHopMode::Auto,
            role: None,
            long_lived: true,
            graceful_shutdown: false,
            v4_over_v6: false,
            families: [true, peer != 5],
            options: EncodeOptions { as4: true, extended: false, add_path: [add_path, peer == 7] },
            add_path_max: 2 + self.below(2) as usize,
            policy: Arc::new(policy),
        }
    }

    fn attributes(&mut self) -> PathAttributes {
        let mut a = PathAttributes::new(NextHop::V4(Ipv4Addr::new(198, 51, 100, 1)));
        a.local_pref = (self.below(2) == 0).then(|| 100 + self.random.next() as u32 % 3);
        a.med = (self.below(3) == 0).then_some(5);
        a.as_path = AsPath::sequence(&[65001, 65002][..self.below(3) as usize]);
        a.origin = if self.below(4) == 0 { Origin::Incomplete } else { Origin::Igp };
        if self.below(8) == 0 {
            a.communities.push(Community::NO_EXPORT);
        }
        if self.below(6) == 0 {
            a.originator_id = Some(router_id(self.random.next() as u32 % PEERS));
        }
        a
    }

    fn announce(&mut self) {
        let (n, id) = (self.below(PREFIXES.into()) as u8, self.below(2) as u32);
        let mut attributes = self.attributes();
        let prefix = prefix(n);
        if prefix.family() == Family::Ipv6 {
            attributes.next_hop = NextHop::V6("2001:db8::1".parse().unwrap(), None);
        }
        let attributes = self.rib.attributes.intern(attributes);
        let peer = self.below(u64::from(PEERS) + 1) as u32;
        if peer == PEERS {
            self.rib.insert(&prefix, Path::new(Source::LOCAL, attributes));
            self.announced.insert((peer, 0, prefix));
        } else {
            self.rib.insert(&prefix, Path { id, ..Path::new(Source::peer(peer), attributes) });
            self.announced.insert((peer, id, prefix));
        }
    }

    fn withdraw(&mut self) {
        let at = self.below(self.announced.len().max(1) as u64) as usize;
        let Some((peer, id, prefix)) = self.announced.iter().nth(at).copied() else { return };
        self.announced.remove(&(peer, id, prefix));
        let source = if peer == PEERS { Source::LOCAL } else { Source::peer(peer) };
        self.rib.remove(&prefix, source, id);
    }

    /// Something happens.
    fn step(&mut self) {
        let peer = self.below(PEERS.into()) as u32;
        match self.below(20) {
            0..8 => self.announce(),
            8..12 => self.withdraw(),
            12 => {
                self.members.leave(peer);
                self.receivers[peer as usize] = Receiver::default();
            }
            13 | 14 => {
                let key = self.key(peer);
                self.receivers[peer as usize] = Receiver { key: Some(key.clone()), ..Receiver::default() };
                self.members.join(peer, router_id(peer), key);
            }
            15 if self.receivers[peer as usize].key.is_some() => {
                let key = self.key(peer);
                self.receivers[peer as usize].key = Some(key.clone());
                self.members.look_again(peer, key);
            }
            16 if self.receivers[peer as usize].key.is_some() => {
                self.members.refresh(peer, Family::Ipv4, true);
            }
            17 => self.deferring = self.below(4) == 0 && self.deferring,
            _ => {
                self.evaluate();
                for _ in 0..self.random.next() % 4 {
                    self.pull(peer);
                }
            }
        }
    }

    fn evaluate(&mut self) {
        self.members.evaluate(&mut self.rib, &self.config, self.deferring);
        let members = &mut self.members;
        self.rib.sweep_now(|marks| members.mark(marks));
        members.collect(&mut self.rib);
    }

    /// A member takes the next piece. Gives back whether there was one.
    fn pull(&mut self, peer: u32) -> bool {
        let Some(next) = self.members.next(&self.rib, peer) else { return false };
        let receiver = &mut self.receivers[peer as usize];
        match next {
            Next::Routes(parts) => parts.iter().for_each(|bytes| receiver.take(bytes)),
            Next::EndOfRib(_) => receiver.end_of_rib = true,
            Next::BeginRefresh(family) => receiver.refreshed = Some((family, BTreeSet::new())),
            Next::EndRefresh(family) => {
                let (begun, seen) = receiver.refreshed.take().expect("an answer that ends has begun");
                assert_eq!(begun, family);
                // RFC 7313 §4.2: what was not repeated goes.
                receiver.routes.retain(|(id, p), _| p.family() != family || seen.contains(&(*id, *p)));
            }
        }
        true
    }

    fn drain(&mut self) {
        self.deferring = false;
        self.evaluate();
        for peer in 0..PEERS {
            while self.pull(peer) {}
        }
        self.evaluate();
    }

    /// What a member should have, worked out route by route.
    fn expected(&self, peer: u32, key: &GroupKey) -> Vec<(Prefix, PathAttributes)> {
        let exporter = Exporter { config: &self.config, key };
        let mut expected = Vec::new();
        for slot in self.rib.used_slots() {
            let prefix = self.rib.prefix(slot);
            let family = prefix.family().index();
            let limit = if key.options.add_path[family] { key.add_path_max } else { 1 };
            for path in self.rib.preferred(slot, limit) {
                let Ok(attributes) = exporter.explain(&self.rib, &prefix, path) else { continue };
                let own = key.internal && attributes.originator_id == Some(router_id(peer));
                if key.families[family] && path.source != Source::peer(peer) && !own {
                    expected.push((prefix, attributes));
                }
            }
        }
        expected.sort_by_cached_key(|(prefix, a)| (*prefix, format!("{a:?}")));
        expected
    }

    fn check(&self, seed: u64) {
        for (peer, receiver) in (0..).zip(&self.receivers) {
            let Some(key) = &receiver.key else { continue };
            assert!(receiver.end_of_rib, "seed {seed}: no End-of-RIB for {peer}");
            assert!(receiver.refreshed.is_none(), "seed {seed}: a refresh of {peer} has not ended");
            let mut got: Vec<_> = receiver.routes.iter().map(|((_, p), a)| (*p, a.clone())).collect();
            got.sort_by_cached_key(|(prefix, a)| (*prefix, format!("{a:?}")));
            assert_eq!(&self.members.group(peer).unwrap().0.key, key, "seed {seed}: group of {peer}");
            let expected = self.expected(peer, key);
            let extra: Vec<_> = got.iter().filter(|route| !expected.contains(route)).collect();
            let missing: Vec<_> = expected.iter().filter(|route| !got.contains(route)).collect();
            assert!(
                extra.is_empty() && missing.is_empty(),
                "seed {seed}, {peer}: {extra:#?} not {missing:#?}"
            );
            assert_eq!(got.len(), expected.len(), "seed {seed}: routes of member {peer}");
            let (group, id) = self.members.group(peer).unwrap();
            let advertised = group.adverts_for(&self.rib, peer, id).count();
            assert_eq!(advertised, got.len(), "seed {seed}: what is shown of member {peer}");
        }
    }
}

impl Receiver {
    fn take(&mut self, mut bytes: &[u8]) {
        let key = self.key.as_ref().expect("only members get routes");
        let context = UpdateContext {
            as4: true,
            internal: key.internal,
            add_path: key.options.add_path,
            ..UpdateContext::default()
        };
        while let Some(found) = frame(bytes, MAX_LEN).unwrap() {
            let Message::Update(update) = found.parse(context).unwrap() else { panic!("no UPDATE") };
            assert_eq!(update.problem, None);
            for nlri in [Some(update.withdrawn), update.mp_unreach].into_iter().flatten() {
                nlri.paths().for_each(|route| drop(self.routes.remove(&route)));
            }
            let classic = update.attributes.next_hop.map(|a| (NextHop::V4(a), update.nlri));
            let mp = update.mp_reach.map(|mp| (mp.next_hop, mp.nlri));
            for (next_hop, nlri) in [classic, mp].into_iter().flatten() {
                for route in nlri.paths() {
                    self.routes.insert(route, update.attributes.to_path(next_hop));
                    if let Some((_, seen)) = &mut self.refreshed {
                        seen.insert(route);
                    }
                }
            }
            bytes = &bytes[found.len..];
        }
        assert!(bytes.is_empty(), "a part ends inside a message");
    }
}

fn policy(when: Condition, then: Action) -> Policy {
    Policy::new(vec![Rule { name: "rule".into(), when: vec![when], then }], true)
}

#[test]
fn members_end_with_what_a_slow_walk_says() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        world.deferring = seed % 5 == 0;
        for round in 0..6 {
            for _ in 0..60 {
                world.step();
            }
            if round % 2 == 1 {
                world.drain();
                world.check(seed);
            }
        }
    }
}

#[test]
fn a_table_that_was_emptied_leaves_nothing_behind() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
        while !world.announced.is_empty() {
            world.withdraw();
        }

        world.drain();

        assert_eq!(world.rib.used_slots().count(), 0);
        assert!(world.rib.gone.is_empty(), "seed {seed}: entries wait to be dropped");
        assert!(world.receivers.iter().all(|r| r.routes.is_empty()));
        let prefixes = (0..PREFIXES).map(prefix).filter(|p| world.rib.slot(p).is_some());
        assert_eq!(prefixes.count(), 0, "seed {seed}");
        assert_eq!(world.rib.attributes.len(), 0, "seed {seed}: attributes stay");
    }
}

#[test]
fn members_at_one_place_share_the_same_memory() {
    let mut world = World::new(1);
    let key = GroupKey { policy: Arc::new(Policy::accept()), ..world.key(0) };
    for peer in [0, 2, 4] {
        world.members.join(peer, router_id(peer), key.clone());
    }
    let attributes = world.rib.attributes.intern(PathAttributes::new(NextHop::V4(router_id(77))));
    for n in 1..4 {
        world.rib.insert(&prefix(n), Path::new(Source::LOCAL, attributes));
    }
    world.rib.insert(&prefix(5), Path::new(Source::peer(2), attributes));
    world.evaluate();

    let parts: Vec<_> = [0, 2, 4].map(|peer| world.members.next(&world.rib, peer)).into();

    let [Some(Next::Routes(a)), Some(Next::Routes(b)), Some(Next::Routes(c))] = &parts[..] else {
        panic!("{parts:?}")
    };
    assert_eq!((a.len(), a[0].as_ptr(), a), (1, c[0].as_ptr(), c));
    assert_eq!(b[0].as_ptr(), a[0].as_ptr());
    assert!(b[0].len() < a[0].len(), "the source of a route does not get it back");
}
