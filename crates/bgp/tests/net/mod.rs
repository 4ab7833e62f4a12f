//! A net of speakers joined by queues with latency, on a clock that jumps: no socket, no sleep.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::{
    Closed, Config, ConnId, ConnectFailure, Event, Output, PeerConfig, PeerKey, PeerState, Speaker, Start,
};
use bgp_packet::{NextHop, PathAttributes, Prefix};

/// One way of a connection: bytes arrive after the latency, in order.
#[derive(Debug)]
enum Arrival {
    Accept { from: (IpAddr, ConnId) },
    Connected { conn: ConnId, peer: (IpAddr, ConnId) },
    Refused { conn: ConnId },
    Bytes { conn: ConnId, bytes: Vec<u8> },
    Eof { conn: ConnId },
}

struct Node {
    speaker: Speaker,
    /// Which connection of which node is at the other end.
    ends: BTreeMap<ConnId, (IpAddr, ConnId)>,
    partial: BTreeMap<ConnId, Vec<u8>>,
    events: Vec<Event>,
    alive: bool,
}

/// The net.
pub struct Net {
    pub now: Instant,
    latency: Duration,
    nodes: BTreeMap<IpAddr, Node>,
    arrivals: BTreeMap<(Instant, u64), (IpAddr, Arrival)>,
    count: u64,
    /// Pairs whose latency is another one, by direction.
    lags: BTreeMap<(IpAddr, IpAddr), Duration>,
    /// When the last thing that is under way arrives, by direction.
    last: BTreeMap<(IpAddr, IpAddr), Instant>,
    /// Pairs that cannot hear one another.
    cut: BTreeSet<(IpAddr, IpAddr)>,
}

pub fn ip(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

pub fn key(n: u8) -> PeerKey {
    ip(n).into()
}

pub fn prefix(s: &str) -> Prefix {
    s.parse().unwrap()
}

/// Node `n` in AS 64512.
pub fn config(n: u8) -> Config {
    config_in(n, 64512)
}

pub fn config_in(n: u8, asn: u32) -> Config {
    let IpAddr::V4(id) = ip(n) else { unreachable!("ip() gives IPv4") };
    let mut config = Config::new(asn, id);
    config.next_hop_v6 = Some(format!("2001:db8::{n:x}").parse().unwrap());
    config
}

/// A peer setting for node `n` towards an AS.
pub fn peer(n: u8, asn: u32) -> PeerConfig {
    PeerConfig { local_address: Some(ip(n)), ..PeerConfig::new(asn) }
}

/// Configuration of node `n` in a mesh of `size`.
pub fn mesh(n: u8, size: u8) -> Config {
    let mut config = config(n);
    config.peers = (1..=size).filter(|m| *m != n).map(|m| (key(m), peer(n, 64512))).collect();
    config
}

pub fn local() -> PathAttributes {
    PathAttributes::new(NextHop::V4(Ipv4Addr::UNSPECIFIED))
}

impl Net {
    #[allow(clippy::disallowed_methods)]
    pub fn new(latency_ms: u64) -> Self {
        Self {
            now: Instant::now(),
            latency: Duration::from_millis(latency_ms),
            nodes: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            count: 0,
            lags: BTreeMap::new(),
            last: BTreeMap::new(),
            cut: BTreeSet::new(),
        }
    }

    /// Starts node `n`.
    pub fn start(&mut self, n: u8, config: Config, forwarding_kept: bool) {
        self.start_as(n, config, Start { forwarding_kept, ..Start::default() });
    }

    /// Starts node `n`; its seed is its own.
    pub fn start_as(&mut self, n: u8, config: Config, start: Start) {
        let start = Start { seed: u64::from(n) * 7919, ..start };
        let speaker = Speaker::new(config, start, self.now);
        let node = Node {
            speaker,
            ends: BTreeMap::new(),
            partial: BTreeMap::new(),
            events: Vec::new(),
            alive: true,
        };
        self.nodes.insert(ip(n), node);
    }

    pub fn speaker(&mut self, n: u8) -> &mut Speaker {
        &mut self.nodes.get_mut(&ip(n)).unwrap().speaker
    }

    pub fn take_events(&mut self, n: u8) -> Vec<Event> {
        std::mem::take(&mut self.nodes.get_mut(&ip(n)).unwrap().events)
    }

    /// Ends node `n` without a word; its kernel closes the connections.
    pub fn kill(&mut self, n: u8) {
        let node = self.nodes.get_mut(&ip(n)).unwrap();
        node.alive = false;
        for (peer, conn) in std::mem::take(&mut node.ends).into_values() {
            self.arrive(ip(n), peer, Arrival::Eof { conn });
        }
    }

    /// Lets two nodes no longer hear one another, without either being told.
    pub fn cut(&mut self, a: u8, b: u8) {
        self.cut.extend([(ip(a), ip(b)), (ip(b), ip(a))]);
    }

    /// Lets `b` no longer hear `a`, without either being told.
    pub fn cut_one_way(&mut self, a: u8, b: u8) {
        self.cut.insert((ip(a), ip(b)));
    }

    /// What `a` says takes another time to come to `b`.
    pub fn lag(&mut self, a: u8, b: u8, latency_ms: u64) {
        self.lags.insert((ip(a), ip(b)), Duration::from_millis(latency_ms));
    }

    /// Breaks all connections between two nodes: both are told at once, and what is under way is lost.
    pub fn break_between(&mut self, a: u8, b: u8) {
        let now = self.now;
        for (near, far) in [(ip(a), ip(b)), (ip(b), ip(a))] {
            let Some(node) = self.nodes.get_mut(&near).filter(|n| n.alive) else { continue };
            let broken: Vec<ConnId> =
                node.ends.iter().filter(|(_, (to, _))| *to == far).map(|(conn, _)| *conn).collect();
            for conn in broken {
                node.ends.remove(&conn);
                node.partial.remove(&conn);
                node.speaker.handle_closed(conn, Closed::Error("connection reset".into()), now);
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn has(&mut self, n: u8, route: &str) -> bool {
        self.speaker(n).route(&prefix(route)).is_some()
    }

    pub fn state(&mut self, n: u8, other: u8) -> PeerState {
        self.speaker(n).peer_at(ip(other)).map_or(PeerState::Idle, |p| p.state)
    }

    pub fn all_up(&mut self) -> bool {
        let alive = self.nodes.values().filter(|n| n.alive);
        alive.flat_map(|n| n.speaker.peers()).all(|p| p.state == PeerState::Established)
    }

    /// Runs until `done`; fails when that takes longer than `limit` seconds of the net's clock.
    pub fn until(&mut self, what: &str, limit: u64, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + Duration::from_secs(limit);
        loop {
            self.perform();
            if done(self) {
                return;
            }
            assert!(self.step(end), "{what} did not come within {limit} s:\n{}", self.describe());
        }
    }

    /// Runs until a time of the net's clock, and calls `check` after everything that happens.
    pub fn run_until(&mut self, end: Instant, mut check: impl FnMut(&mut Self)) {
        loop {
            self.perform();
            check(self);
            if !self.step(end) {
                break;
            }
        }
        self.now = end;
    }

    /// Runs for some seconds of the net's clock.
    pub fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        self.perform();
        while self.step(end) {
            self.perform();
        }
        self.now = end;
    }

    /// Goes to the next thing that happens; gives back whether that is before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
        let timers = self.nodes.values().filter(|n| n.alive).filter_map(|n| n.speaker.poll_timeout());
        let Some(next) = timers.chain(arrival).min().filter(|next| *next <= end) else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.arrivals.first_entry().filter(|e| e.key().0 <= self.now) {
            let (to, arrival) = entry.remove();
            self.deliver(to, arrival);
        }
        let now = self.now;
        for node in self.nodes.values_mut().filter(|n| n.alive) {
            node.speaker.handle_timeout(now);
        }
        true
    }

    fn arrive(&mut self, from: IpAddr, to: IpAddr, arrival: Arrival) {
        self.count += 1;
        let latency = self.lags.get(&(from, to)).copied().unwrap_or(self.latency);
        // What was said first comes first, whatever the latency is now.
        let last = self.last.entry((from, to)).or_insert(self.now);
        *last = (*last).max(self.now + latency);
        self.arrivals.insert((*last, self.count), (to, arrival));
    }

    fn deliver(&mut self, to: IpAddr, arrival: Arrival) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&to).filter(|n| n.alive) else {
            if let Arrival::Accept { from } = arrival {
                self.arrive(to, from.0, Arrival::Refused { conn: from.1 });
            }
            return;
        };
        match arrival {
            Arrival::Accept { from } => {
                let (remote, local) = (SocketAddr::new(from.0, 40000), SocketAddr::new(to, 179));
                match node.speaker.handle_incoming(remote, local, now) {
                    Ok(conn) => {
                        node.ends.insert(conn, from);
                        self.arrive(to, from.0, Arrival::Connected { conn: from.1, peer: (to, conn) });
                    }
                    Err(_) => self.arrive(to, from.0, Arrival::Refused { conn: from.1 }),
                }
            }
            // The peer's end was named when it accepted; ours is known only now.
            Arrival::Connected { conn, peer } => match node.ends.get_mut(&conn) {
                Some(end) => {
                    end.1 = peer.1;
                    node.speaker.handle_connected(conn, SocketAddr::new(to, 40000), now);
                }
                None => self.arrive(to, peer.0, Arrival::Eof { conn: peer.1 }),
            },
            Arrival::Refused { conn } => {
                node.ends.remove(&conn);
                node.speaker.handle_connect_failed(conn, ConnectFailure::Refused, now);
            }
            Arrival::Bytes { conn, bytes } => {
                let buffer = node.partial.entry(conn).or_default();
                buffer.extend(bytes);
                let used = node.speaker.handle_data(conn, buffer, now);
                buffer.drain(..used);
            }
            Arrival::Eof { conn } => {
                node.ends.remove(&conn);
                node.speaker.handle_closed(conn, Closed::Eof, now);
            }
        }
    }

    /// Does what the speakers want done.
    fn perform(&mut self) {
        let addresses: Vec<IpAddr> = self.nodes.iter().filter(|(_, n)| n.alive).map(|(a, _)| *a).collect();
        for address in addresses {
            let mut sent = VecDeque::new();
            let node = self.nodes.get_mut(&address).unwrap();
            while let Some(output) = node.speaker.poll_output() {
                match output {
                    Output::Connect { conn, remote, .. } => {
                        node.ends.insert(conn, (remote.ip(), ConnId(0)));
                        sent.push_back((remote.ip(), Arrival::Accept { from: (address, conn) }));
                    }
                    Output::Send { conn, bytes } => {
                        node.speaker.handle_sent(conn, bytes.len());
                        if let Some((to, peer_conn)) = node.ends.get(&conn) {
                            sent.push_back((*to, Arrival::Bytes { conn: *peer_conn, bytes: bytes.to_vec() }));
                        }
                    }
                    Output::Close { conn } => {
                        if let Some((to, peer_conn)) = node.ends.remove(&conn) {
                            sent.push_back((to, Arrival::Eof { conn: peer_conn }));
                        }
                    }
                    Output::ListenPassword { .. } | Output::ListenTtlSecurity { .. } | Output::Bfd { .. } => {
                    }
                }
            }
            while let Some(event) = node.speaker.poll_event() {
                node.events.push(event);
            }
            for (to, arrival) in sent {
                if !self.cut.contains(&(address, to)) {
                    self.arrive(address, to, arrival);
                }
            }
        }
    }

    fn describe(&self) -> String {
        let peers = self.nodes.iter().filter(|(_, n)| n.alive).flat_map(|(address, node)| {
            node.speaker
                .peers()
                .into_iter()
                .map(move |p| format!("{address} -> {}: {:?}, {}\n", p.peer, p.state, p.cause))
        });
        peers.collect()
    }
}
