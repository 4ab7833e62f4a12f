//! Two systems joined by a wire with latency and loss, and a wire that we hold ourselves.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests are tests")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bfd::{Arrival, Bfd, Diagnostic, Discarded, Event, Failure, Packet, Path, Settings, State};

const LATENCY: Duration = Duration::from_millis(2);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn address(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, n).into()
}

fn path(own: u8, other: u8) -> Path {
    Path { local: address(own), remote: address(other), interface: 0, multihop: false }
}

fn settings(interval: u64) -> Settings {
    Settings { min_tx: ms(interval), min_rx: ms(interval), detect_multiplier: 3 }
}

fn from(n: u8) -> Arrival {
    Arrival { remote: address(n), interface: 2, multihop: false, ttl: 255 }
}

/// Systems 1 and 2. Time jumps from one thing that happens to the next.
struct Pair {
    now: Instant,
    systems: [Bfd; 2],
    wire: Vec<(Instant, usize, [u8; 24])>,
    /// Packets to this system are lost.
    lost_to: [bool; 2],
    events: [Vec<Event>; 2],
    sent: [usize; 2],
}

impl Pair {
    fn new(intervals: [u64; 2]) -> Self {
        let now = Instant::now();
        let mut systems = [Bfd::default(), Bfd::default()];
        systems[0].add(path(1, 2), settings(intervals[0]), 0x1111_2222_3333_4444, now);
        systems[1].add(path(2, 1), settings(intervals[1]), 0x5555_6666_7777_8888, now);
        Self { now, systems, wire: vec![], lost_to: [false; 2], events: [vec![], vec![]], sent: [0; 2] }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for i in 0..2 {
                while let Some((_, bytes)) = self.systems[i].poll_packet() {
                    self.sent[i] += 1;
                    if !self.lost_to[1 - i] {
                        self.wire.push((self.now + LATENCY, 1 - i, bytes));
                    }
                }
                while let Some(event) = self.systems[i].poll_event() {
                    self.events[i].push(event);
                }
            }
            let arrivals = self.wire.iter().map(|(at, ..)| *at);
            let timers = self.systems.iter().filter_map(Bfd::poll_timeout);
            let next = arrivals.chain(timers).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            let now = self.now;
            let due: Vec<_> = self.wire.extract_if(.., |(at, ..)| *at <= now).collect();
            for (_, to, bytes) in due {
                self.systems[to].handle_packet(from(2 - to as u8), &bytes, now).unwrap();
            }
            self.systems.iter_mut().for_each(|s| s.handle_timeout(now));
        }
        self.now = end;
    }

    fn states(&self) -> [Option<State>; 2] {
        [self.systems[0].state(&path(1, 2)), self.systems[1].state(&path(2, 1))]
    }

    fn up(intervals: [u64; 2]) -> Self {
        let mut pair = Self::new(intervals);
        pair.run(ms(5000));
        assert_eq!(pair.states(), [Some(State::Up); 2]);
        pair.events.iter_mut().for_each(Vec::clear);
        pair.sent = [0; 2];
        pair
    }
}

#[test]
fn both_come_up_and_send_at_the_slower_pace_of_the_two() {
    let mut pair = Pair::up([100, 300]);

    pair.run(ms(30_000));

    // 300 ms less up to a quarter of jitter.
    for sent in pair.sent {
        assert!((100..=134).contains(&sent), "{sent} packets in 30 s");
    }
    assert!(pair.events.iter().all(Vec::is_empty));
}

#[test]
fn silence_is_noticed_after_the_detection_time_and_told_to_the_other_side() {
    let mut pair = Pair::up([50, 50]);
    pair.lost_to[0] = true;
    let cut = pair.now;

    // The last packet came up to an interval before.
    pair.run(ms(90));
    assert!(pair.events[0].is_empty(), "{:?} too early", pair.now - cut);
    pair.run(ms(110));

    let [event] = &pair.events[0][..] else { panic!("{:?}", pair.events[0]) };
    assert_eq!((event.change.from, event.change.to), (State::Up, State::Down));
    assert_eq!(event.change.failure, Some(Failure::DetectionTimeExpired(ms(150))));
    let told = &pair.events[1][0].change;
    let diagnostic = Diagnostic::DETECTION_TIME_EXPIRED;
    assert_eq!(told.failure, Some(Failure::NeighbourSignaledDown(diagnostic)));

    pair.lost_to[0] = false;
    pair.run(ms(5000));
    assert_eq!(pair.states(), [Some(State::Up); 2], "a healed path comes back");
}

#[test]
fn a_session_that_is_not_up_is_slow() {
    let mut pair = Pair::new([50, 50]);
    pair.lost_to = [true; 2];

    pair.run(ms(20_000));

    for sent in pair.sent {
        assert!((20..=28).contains(&sent), "{sent} packets in 20 s");
    }
}

#[test]
fn one_who_is_switched_off_says_so_and_is_then_forgotten() {
    let mut pair = Pair::up([50, 50]);

    let now = pair.now;
    pair.systems[0].remove(path(1, 2), now);
    pair.run(ms(100));

    let failure = pair.events[1][0].change.failure;
    assert_eq!(failure, Some(Failure::NeighbourAdminDown));
    assert_eq!(pair.states(), [None, Some(State::Down)]);
    pair.lost_to[0] = true;
    pair.run(ms(10_000));
    assert!(pair.systems[0].is_forgotten(&path(1, 2)));
    assert_eq!(pair.systems[0].poll_timeout(), None);
}

#[test]
fn other_intervals_are_negotiated_without_going_down() {
    let mut pair = Pair::up([50, 50]);

    let now = pair.now;
    pair.systems[0].add(path(1, 2), settings(500), 1, now);
    pair.run(ms(2000));
    pair.sent = [0; 2];
    pair.run(ms(20_000));

    assert!(pair.events.iter().all(Vec::is_empty), "{:?}", pair.events);
    for sent in pair.sent {
        assert!((40..=56).contains(&sent), "{sent} packets in 20 s");
    }
}

#[test]
fn a_poll_is_answered_at_once() {
    let mut bfd = Bfd::default();
    let now = Instant::now();
    bfd.add(path(1, 2), settings(50), 0x1111_2222_3333_4444, now);
    let poll = Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: true,
        r#final: false,
        control_plane_independent: true,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 0,
        desired_min_tx: ms(50),
        required_min_rx: ms(50),
    };

    bfd.handle_packet(from(2), &poll.encode(), now).unwrap();

    let answer = Packet::parse(&bfd.poll_packet().unwrap().1).unwrap();
    assert_eq!((answer.r#final, answer.poll), (true, false));
    assert_eq!((answer.my_discriminator, answer.your_discriminator), (0x1111_2222, 9));
    assert_eq!(answer.state, State::Init);
    assert!(bfd.poll_event().unwrap().change.control_plane_independent);
}

#[test]
fn strangers_and_packets_from_afar_are_not_heard() {
    let mut bfd = Bfd::default();
    let now = Instant::now();
    bfd.add(path(1, 2), settings(50), 0x1111_2222_3333_4444, now);
    let mut pair = Pair::new([50, 50]);
    pair.systems[1].handle_timeout(pair.now);
    let (_, bytes) = pair.systems[1].poll_packet().unwrap();
    let named = |discriminator: u32| {
        let mut bytes = bytes;
        bytes[8..12].copy_from_slice(&discriminator.to_be_bytes());
        bytes
    };
    let cases = [
        (Arrival { ttl: 254, ..from(2) }, bytes, Discarded::Ttl),
        (from(3), bytes, Discarded::Stranger),
        (Arrival { multihop: true, ..from(2) }, bytes, Discarded::Stranger),
        (from(3), named(0x1111_2222), Discarded::Stranger),
        (from(2), named(77), Discarded::Discriminator),
    ];

    for (arrival, bytes, why) in cases {
        assert_eq!(bfd.handle_packet(arrival, &bytes, now), Err(why));
    }

    assert_eq!(bfd.poll_event(), None);
    assert_eq!(bfd.handle_packet(from(2), &named(0x1111_2222), now), Ok(()));
}

#[test]
fn no_bytes_can_panic() {
    let mut bfd = Bfd::default();
    let now = Instant::now();
    bfd.add(path(1, 2), settings(50), 0x1111_2222_3333_4444, now);
    let mut seed = 1_u64;
    for _ in 0..200_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes =
            [0x20, (seed >> 56) as u8, (seed >> 48) as u8, 24, 0, 0, 0, 9, 0x11, 0x11, 0x22, 0x22, 0, 0]
                .to_vec();
        bytes.extend((0..10).map(|i| (seed >> (i * 5)) as u8));
        bytes[(seed >> 33) as usize % 24] = (seed >> 24) as u8;
        let _ = bfd.handle_packet(from(2), &bytes, now);
        bfd.handle_timeout(now + Duration::from_secs(seed >> 52));
        while bfd.poll_packet().is_some() || bfd.poll_event().is_some() {}
    }
}
