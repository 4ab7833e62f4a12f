//! Random clusters, clients that are slow, that lose their connection, that come back, and servers that start anew:
//! in the end every client knows what the server knows, never having gone back in time.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests; one start of time")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fanout::{ClientId, Event, Follower, Limits, Name, ProtocolError, Server};
use prost::Message as _;
use proto::typha::{FromClient, FromServer, from_client, from_server};

const KINDS: [&str; 3] = ["Node", "Pod", "Tier"];
const FIELDS: u32 = 1;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn limits() -> Limits {
    Limits { keep_gone: 8, ..Limits::default() }
}

type Objects = BTreeMap<Name, u64>;

/// What a client's program does with events: a list replaces, a change changes.
#[derive(Default)]
struct Known {
    objects: Objects,
    listing: Option<BTreeSet<Name>>,
    is_listed: bool,
    lists: usize,
}

impl Known {
    fn take(&mut self, event: Event, may_go_back: bool) {
        match event {
            Event::ListBegins => {
                self.listing = Some(BTreeSet::new());
                self.lists += 1;
            }
            Event::Put(name, content) => {
                let version: u64 =
                    std::str::from_utf8(&content).unwrap().trim_end_matches('.').parse().unwrap();
                if let Some(listing) = &mut self.listing {
                    listing.insert(name.clone());
                }
                let before = self.objects.insert(name, version);
                assert!(may_go_back || before.is_none_or(|before| before <= version), "went back in time");
            }
            Event::Gone(name) => drop(self.objects.remove(&name)),
            Event::Listed => {
                if let Some(listing) = self.listing.take() {
                    self.objects.retain(|name, _| listing.contains(name));
                    self.is_listed = true;
                }
            }
            Event::Missing => {}
        }
    }
}

struct Peer {
    follower: Follower,
    known: BTreeMap<&'static str, Known>,
    connection: Option<ClientId>,
    /// Out of a hundred turns, in so many it reads.
    speed: u64,
}

impl Peer {
    fn new(kinds: &[&'static str], speed: u64) -> Self {
        let mut follower = Follower::new("n1", "felix", "1", FIELDS);
        kinds.iter().for_each(|kind| follower.subscribe(kind));
        let known = kinds.iter().map(|kind| (*kind, Known::default())).collect();
        Self { follower, known, connection: None, speed }
    }

    fn connect(&mut self, server: &mut Server, now: Instant) {
        let id = server.connect(now);
        server.handle_message(id, self.follower.connected(), now);
        self.connection = Some(id);
    }

    fn disconnect(&mut self, server: &mut Server) {
        if let Some(id) = self.connection.take() {
            server.disconnect(id);
        }
    }

    /// Reads one message; false when there is none.
    fn read(&mut self, server: &mut Server, now: Instant) -> bool {
        let Some(id) = self.connection else { return false };
        let Some(frame) = server.poll_output(id) else { return false };
        match self.follower.handle(decode(&frame)) {
            Ok(events) => {
                for (kind, event) in events {
                    self.known.get_mut(kind.as_str()).unwrap().take(event, false);
                }
                for answer in self.follower.take_answers() {
                    server.handle_message(id, answer, now);
                }
            }
            Err(error) => panic!("{error}"),
        }
        true
    }
}

fn decode(frame: &[u8]) -> FromServer {
    FromServer::decode(&frame[4..]).unwrap()
}

/// The API server, and what the watch of it tells.
struct Cluster {
    truth: BTreeMap<&'static str, Objects>,
    version: u64,
}

impl Cluster {
    fn content(version: u64) -> bytes::Bytes {
        format!("{version}{}", ".".repeat(200)).into()
    }

    /// A change that the watch tells, or one that it sleeps through.
    fn change(&mut self, random: &mut Random, server: Option<&mut Server>, now: Instant) {
        let kind = KINDS[random.below(3) as usize];
        let name = Name::new("d", &format!("o{}", random.below(60)));
        let objects = self.truth.entry(kind).or_default();
        self.version += 1;
        let event = if random.below(3) == 0 {
            objects.remove(&name);
            Event::Gone(name)
        } else {
            // Now and then nothing is new.
            let version = match objects.get(&name) {
                Some(version) if random.below(4) == 0 => *version,
                _ => self.version,
            };
            objects.insert(name.clone(), version);
            Event::Put(name, Self::content(version))
        };
        if let Some(server) = server {
            server.handle_event(kind, event, now);
        }
    }

    fn list(&self, kind: &'static str, server: &mut Server, now: Instant) {
        server.handle_event(kind, Event::ListBegins, now);
        for (name, version) in self.truth.get(kind).into_iter().flatten() {
            server.handle_event(kind, Event::Put(name.clone(), Self::content(*version)), now);
        }
        server.handle_event(kind, Event::Listed, now);
    }

    fn server(&self, instance: u64, now: Instant) -> Server {
        let mut server = Server::new(instance, FIELDS, "1", KINDS, limits());
        for kind in KINDS {
            server.want(kind);
            self.list(kind, &mut server, now);
        }
        server
    }
}

fn drain(peer: &mut Peer, server: &mut Server, now: Instant) {
    server.handle_timeout(now + Duration::from_secs(1));
    if peer.connection.is_none() {
        peer.connect(server, now);
    }
    while peer.read(server, now) {}
}

fn play(seed: u64, steps: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut now = Instant::now();
    let mut cluster = Cluster { truth: BTreeMap::new(), version: 0 };
    let mut server = cluster.server(1, now);
    let mut peers = [
        Peer::new(&KINDS, 100),
        Peer::new(&KINDS, 3),
        Peer::new(&["Pod"], 30),
        Peer::new(&["Node", "Tier"], 60),
    ];
    for step in 0..steps {
        now += Duration::from_millis(random.below(30));
        cluster.change(&mut random, Some(&mut server), now);
        server.handle_timeout(now);
        match random.below(400) {
            // The watch was away, and lists anew.
            0..4 => {
                (0..random.below(30)).for_each(|_| cluster.change(&mut random, None, now));
                KINDS.iter().for_each(|kind| cluster.list(kind, &mut server, now));
            }
            4 => {
                server = cluster.server(step + 2, now);
                peers.iter_mut().for_each(|peer| peer.connection = None);
            }
            5..12 => peers[random.below(4) as usize].disconnect(&mut server),
            _ => {}
        }
        for peer in &mut peers {
            if random.below(100) < peer.speed {
                if peer.connection.is_none() {
                    peer.connect(&mut server, now);
                }
                (0..random.below(6)).for_each(|_| _ = peer.read(&mut server, now));
            }
        }
        for (kind, objects, entries, _) in server.sizes() {
            // What is gone is remembered up to as many as there are, and the dead up to half of that, more or less.
            assert!(
                entries <= 3 * objects + 3 * 8 + 512 + 200,
                "{kind}: {entries} entries for {objects} objects"
            );
        }
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        drain(peer, &mut server, now);
        for (kind, known) in &peer.known {
            assert!(known.is_listed);
            let truth = cluster.truth.get(kind).cloned().unwrap_or_default();
            assert_eq!(known.objects, truth, "seed {seed}, client {number}, {kind}");
        }
    }
}

#[test]
fn every_client_ends_with_what_the_server_knows() {
    for seed in 1..=30 {
        play(seed, 1_500);
    }
}

fn put(name: &str, version: u64) -> Event {
    Event::Put(Name::new("d", name), Cluster::content(version))
}

/// A server with three pods, and a client that knows them.
fn small() -> (Server, Peer, Instant) {
    let now = Instant::now();
    let mut cluster = Cluster { truth: BTreeMap::new(), version: 0 };
    cluster.truth.insert("Pod", (1..=3).map(|n| (Name::new("d", &format!("p{n}")), n)).collect());
    let mut server = cluster.server(7, now);
    let mut peer = Peer::new(&["Pod"], 100);
    drain(&mut peer, &mut server, now);
    assert_eq!(peer.known["Pod"].objects.len(), 3);
    (server, peer, now)
}

#[test]
fn who_comes_back_gets_what_changed_and_no_list() {
    let (mut server, mut peer, now) = small();
    peer.disconnect(&mut server);
    server.handle_event("Pod", put("p1", 10), now);
    server.handle_event("Pod", Event::Gone(Name::new("d", "p2")), now);

    drain(&mut peer, &mut server, now);

    let known = &peer.known["Pod"];
    assert_eq!(known.objects.get(&Name::new("d", "p1")), Some(&10));
    assert_eq!((known.objects.len(), known.lists, server.counters().resumed), (2, 1, 1));
}

#[test]
fn another_instance_begins_with_a_list() {
    let (_, mut peer, now) = small();
    let mut cluster = Cluster { truth: BTreeMap::new(), version: 0 };
    cluster.truth.insert("Pod", BTreeMap::from([(Name::new("d", "p1"), 1)]));
    let mut other = cluster.server(8, now);
    peer.connection = None;

    drain(&mut peer, &mut other, now);

    assert_eq!((peer.known["Pod"].objects.len(), peer.known["Pod"].lists), (1, 2));
}

#[test]
fn what_changes_many_times_reaches_a_slow_client_once() {
    let (mut server, mut peer, mut now) = small();
    for version in 10..5_000 {
        now += Duration::from_millis(5);
        server.handle_event("Pod", put("p1", version), now);
        server.handle_timeout(now + Duration::from_millis(20));
    }
    let before = server.counters();

    drain(&mut peer, &mut server, now);

    assert_eq!(peer.known["Pod"].objects[&Name::new("d", "p1")], 4_999);
    assert!(server.counters().chunks - before.chunks <= 2, "{:?}", server.counters());
    let (_, _, entries, octets) = server.sizes().find(|(kind, ..)| *kind == "Pod").unwrap();
    assert!(entries < 1_000 && octets < 200_000, "{entries} entries, {octets} octets");
}

#[test]
fn who_has_missed_that_objects_went_gets_a_list_again() {
    let (mut server, mut peer, now) = small();
    for number in 0..4_000 {
        let name = format!("x{number}");
        server.handle_event("Pod", put(&name, 1), now);
        server.handle_timeout(now + Duration::from_secs(1));
        server.handle_event("Pod", Event::Gone(Name::new("d", &name)), now);
        server.handle_timeout(now + Duration::from_secs(1));
    }
    server.handle_event("Pod", Event::Gone(Name::new("d", "p3")), now);

    drain(&mut peer, &mut server, now);

    assert_eq!(peer.known["Pod"].objects.len(), 2);
    assert_eq!((peer.known["Pod"].lists, server.counters().lists_again), (2, 1));
}

#[test]
fn equal_objects_are_told_once() {
    let (mut server, peer, now) = small();
    let id = peer.connection.unwrap();
    server.handle_event("Pod", put("p1", 1), now);
    server.handle_event("Pod", put("p2", 9), now);
    server.handle_event("Pod", put("p2", 2), now);

    server.handle_timeout(now + Duration::from_secs(1));

    assert_eq!(server.poll_output(id), None);
}

#[test]
fn clients_share_the_same_memory() {
    let (mut server, peer, now) = small();
    let mut other = Peer::new(&["Pod", "Node"], 100);
    drain(&mut other, &mut server, now);
    server.handle_event("Pod", put("p1", 10), now);
    server.handle_timeout(now + Duration::from_secs(1));

    let [one, two] = [&peer, &other].map(|peer| server.poll_output(peer.connection.unwrap()).unwrap());

    assert_eq!(one.as_ptr(), two.as_ptr());
}

#[test]
fn a_client_that_is_silent_or_behind_is_dropped_and_told_why() {
    let reason = |server: &mut Server, id: ClientId| loop {
        let frame = server.poll_output(id).expect("it is told why");
        if let Some(from_server::Message::Goodbye(goodbye)) = decode(&frame).message {
            assert!(server.is_over(id));
            return goodbye.reason;
        }
    };
    let (mut server, peer, now) = small();
    let id = peer.connection.unwrap();
    let mute = server.connect(now);
    for seconds in [5, 11, 12, 60] {
        server.handle_timeout(now + Duration::from_secs(seconds));
    }
    assert_eq!(reason(&mut server, mute), "no Hello came in time");
    assert!(!server.is_over(id));
    server.handle_timeout(now + Duration::from_secs(90));
    assert_eq!(reason(&mut server, id), "a ping was not answered");

    let (mut server, peer, mut now) = small();
    let id = peer.connection.unwrap();
    server.handle_event("Pod", put("p1", 10), now);
    for number in 1..=40 {
        now += Duration::from_secs(10);
        let pong = from_client::Message::Pong(proto::typha::Pong { number });
        server.handle_message(id, FromClient { message: Some(pong) }, now);
        server.handle_timeout(now);
    }
    assert!(reason(&mut server, id).starts_with("too slow"));
    assert_eq!(server.counters().dropped, 1);
}

#[test]
fn kinds_are_watched_once_somebody_asks() {
    let now = Instant::now();
    let mut server = Server::new(1, FIELDS, "1", KINDS, limits());
    server.want("Node");
    assert_eq!(server.take_asked(), ["Node".into()]);
    let mut peer = Peer::new(&["Node", "Pod"], 100);
    peer.connect(&mut server, now);

    assert_eq!(server.take_asked(), ["Pod".into()]);
    server.handle_event("Pod", Event::Missing, now);
    let unknown = server.connect(now);
    let mut other = Follower::new("n2", "felix", "1", FIELDS);
    other.subscribe("Secret");
    server.handle_message(unknown, other.connected(), now);
    assert_eq!(server.take_asked(), []);
    server.poll_output(unknown);
    let answer = decode(&server.poll_output(unknown).unwrap()).message;
    assert!(matches!(answer, Some(from_server::Message::Missing(missing)) if missing.kind == "Secret"));
}

#[test]
fn an_older_server_is_refused() {
    let now = Instant::now();
    let mut server = Server::new(1, FIELDS, "1", KINDS, limits());
    let mut follower = Follower::new("n1", "felix", "2", FIELDS + 1);
    let id = server.connect(now);
    server.handle_message(id, follower.connected(), now);

    let refused = follower.handle(decode(&server.poll_output(id).unwrap()));

    assert_eq!(refused, Err(ProtocolError::Older { server: FIELDS, client: FIELDS + 1 }));
}

#[test]
fn nonsense_from_a_server_is_an_error_and_no_panic() {
    let (mut server, peer, now) = small();
    let mut frames = Vec::new();
    let id = server.connect(now);
    server.handle_message(id, Peer::new(&["Pod"], 1).follower.connected(), now);
    while let Some(frame) = server.poll_output(id) {
        frames.push(frame[4..].to_vec());
    }
    let mut random = Random(99);
    for _ in 0..20_000 {
        let mut follower = Follower::new("n1", "felix", "1", FIELDS);
        follower.subscribe("Pod");
        for frame in &frames {
            let mut mutated = frame.clone();
            let at = random.below(mutated.len() as u64) as usize;
            mutated[at] ^= 1 << random.below(8);
            if let Ok(message) = FromServer::decode(mutated.as_slice()) {
                let _ = follower.handle(message);
            }
        }
    }
    drop(peer);
}
