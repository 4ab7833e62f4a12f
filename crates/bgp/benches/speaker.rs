//! Measures a speaker without sockets: bytes in, bytes out, on the shapes that clusters have.
//!
//! Run with `cargo bench -p bgp --bench speaker [part of a shape's name]`; medians of five, processor time for each
//! route that goes out.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and may stop"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::{Config, ConnId, DynamicNeighbours, Output, PeerConfig, Speaker, Start};
use bgp_packet::{
    AfiSafi, Capability, EncodeOptions, Family, NextHop, Open, PathAttributes, Prefix, encode_keepalive,
    encode_reach, encode_unreach,
};

const OPTIONS: EncodeOptions = EncodeOptions { as4: true, extended: false, add_path: [false; 2] };
/// As much as the transport reads at a time.
const READ: usize = 64 * 1024;
/// How many peers the transport serves before it takes outputs.
const TURN: usize = 64;

struct Bench {
    speaker: Speaker,
    now: Instant,
    conns: Vec<ConnId>,
    sent_octets: usize,
    sent_parts: usize,
}

fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0001 + n as u32)
}

fn open(n: usize) -> Vec<u8> {
    let families = [Capability::Multiprotocol(AfiSafi::from(Family::Ipv4)), Capability::FourOctetAs(64512)];
    let open = Open { asn: 64512, hold_time: 90, router_id: address(n), capabilities: families.to_vec() };
    let mut bytes = Vec::new();
    open.encode(&mut bytes);
    encode_keepalive(&mut bytes);
    bytes
}

impl Bench {
    /// A reflector that takes any client.
    fn new() -> Self {
        let mut config = Config::new(64512, Ipv4Addr::new(192, 0, 2, 1));
        config.cluster_id = Some(config.router_id);
        let client = PeerConfig { reflector_client: true, restart_time: 0, ..PeerConfig::new(64512) };
        config.dynamic = vec![DynamicNeighbours::new("10.0.0.0/8".parse().unwrap(), client)];
        let now = Instant::now();
        let speaker = Speaker::new(config, Start::default(), now);
        Self { speaker, now, conns: Vec::new(), sent_octets: 0, sent_parts: 0 }
    }

    fn with_peers(count: usize) -> Self {
        let mut bench = Self::new();
        for _ in 0..count {
            bench.connect();
        }
        bench.drain();
        bench
    }

    fn connect(&mut self) -> usize {
        let n = self.conns.len();
        let remote = SocketAddr::new(IpAddr::V4(address(n)), 40000);
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 179);
        let conn = self.speaker.handle_incoming(remote, local, self.now).unwrap();
        self.conns.push(conn);
        self.feed(n, &open(n));
        n
    }

    fn feed(&mut self, peer: usize, bytes: &[u8]) {
        let used = self.speaker.handle_data(self.conns[peer], bytes, self.now);
        assert_eq!(used, bytes.len(), "whole messages");
    }

    /// Feeds messages as the transport would, and takes what comes out.
    fn stream(&mut self, peer: usize, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = &rest[..rest.len().min(READ)];
            let used = self.speaker.handle_data(self.conns[peer], part, self.now);
            rest = &rest[used..];
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            if let Output::Send { conn, bytes } = output {
                self.sent_octets += bytes.len();
                self.sent_parts += 1;
                self.speaker.handle_sent(conn, bytes.len());
            }
        }
    }
}

fn prefixes(count: usize) -> Vec<Prefix> {
    let address = |n: usize| IpAddr::V4(Ipv4Addr::from_bits(0x1400_0000 + ((n as u32) << 8)));
    (0..count).map(|n| Prefix::new(address(n), 24).unwrap()).collect()
}

fn attributes(n: usize) -> PathAttributes {
    let mut a = PathAttributes::new(NextHop::V4(address(n)));
    a.local_pref = Some(100);
    a.med = Some(n as u32);
    a
}

fn announcements(prefixes: &[Prefix], per_set: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (n, part) in prefixes.chunks(per_set).enumerate() {
        encode_reach(&mut bytes, &attributes(n), part, OPTIONS).unwrap();
    }
    bytes
}

/// What a phase took and made.
struct Phase {
    took: Duration,
    octets: usize,
    parts: usize,
}

fn measure(bench: &mut Bench, run: impl FnOnce(&mut Bench)) -> Phase {
    (bench.sent_octets, bench.sent_parts) = (0, 0);
    let start = processor_time();
    run(bench);
    Phase { took: processor_time() - start, octets: bench.sent_octets, parts: bench.sent_parts }
}

/// Time that this thread has run, so that other work on the machine matters less.
fn processor_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap())
}

/// Resident memory in octets.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn report(shape: &str, routes: usize, run: impl Fn() -> Vec<(&'static str, Phase)>) {
    let runs: Vec<_> = (0..5).map(|_| run()).collect();
    for at in 0..runs[0].len() {
        let mut took: Vec<Duration> = runs.iter().map(|run| run[at].1.took).collect();
        took.sort();
        let (name, phase) = &runs[0][at];
        println!(
            "{shape:40} {name:9} {:>9.2} ms {:>7.1} ns/route {:>11} octets {:>8} parts",
            took[2].as_secs_f64() * 1e3,
            took[2].as_nanos() as f64 / routes as f64,
            phase.octets,
            phase.parts,
        );
    }
}

fn one_to_many(receivers: usize, routes: usize, per_set: usize) -> Vec<(&'static str, Phase)> {
    let prefixes = prefixes(routes);
    let announced = announcements(&prefixes, per_set);
    let mut withdrawn = Vec::new();
    encode_unreach(&mut withdrawn, &prefixes, OPTIONS);
    let mut bench = Bench::with_peers(receivers + 1);
    let before = resident();
    let announce = measure(&mut bench, |bench| bench.stream(0, &announced));
    assert_eq!(bench.speaker.routes_count(), routes);
    if std::env::var_os("MEMORY").is_some() {
        println!("{} octets of memory for each route", (resident() - before) / routes);
    }
    let withdraw = measure(&mut bench, |bench| bench.stream(0, &withdrawn));
    assert_eq!(bench.speaker.routes_count(), 0);
    vec![("announce", announce), ("withdraw", withdraw)]
}

/// What client `n` announces.
fn blocks(n: usize, each: usize) -> Vec<u8> {
    let all = prefixes((n + 1) * each);
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &attributes(n), &all[n * each..], OPTIONS).unwrap();
    bytes
}

fn reflector(clients: usize, each: usize) -> Vec<(&'static str, Phase)> {
    let blocks: Vec<Vec<u8>> = (0..=clients).map(|n| blocks(n, each)).collect();
    let mut bench = Bench::with_peers(clients);
    let announce = measure(&mut bench, |bench| {
        for (n, block) in blocks[..clients].iter().enumerate() {
            bench.feed(n, block);
            if n % TURN == 0 {
                bench.drain();
            }
        }
        bench.drain();
    });
    let join = measure(&mut bench, |bench| {
        let n = bench.connect();
        bench.feed(n, &blocks[n]);
        bench.drain();
    });
    vec![("announce", announce), ("join", join)]
}

fn cold(clients: usize, each: usize) -> Vec<(&'static str, Phase)> {
    let blocks: Vec<Vec<u8>> = (0..clients).map(|n| blocks(n, each)).collect();
    let mut bench = Bench::new();
    let cold = measure(&mut bench, |bench| {
        for (n, block) in blocks.iter().enumerate() {
            bench.connect();
            bench.feed(n, block);
            if n % TURN == 0 {
                bench.drain();
            }
        }
        bench.drain();
    });
    let leave = measure(&mut bench, |bench| {
        for n in 0..clients / 2 {
            let (conn, now) = (bench.conns[n], bench.now);
            bench.speaker.handle_closed(conn, bgp::Closed::Eof, now);
            if n % TURN == 0 {
                bench.drain();
            }
        }
        bench.drain();
    });
    vec![("cold", cold), ("leave", leave)]
}

/// One run of a shape: its phases by name.
type Run = Box<dyn Fn() -> Vec<(&'static str, Phase)>>;

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let shapes: [(&str, usize, Run); 6] = [
        ("500000 routes to one", 500_000, Box::new(|| one_to_many(1, 500_000, 500_000))),
        ("500000 routes in 20000 sets to one", 500_000, Box::new(|| one_to_many(1, 500_000, 25))),
        ("100000 routes, 5 in a message", 100_000, Box::new(|| one_to_many(1, 100_000, 5))),
        ("10000 routes to 199", 10_000 * 199, Box::new(|| one_to_many(199, 10_000, 10_000))),
        ("reflector, 200 clients with 5", 200 * 1000, Box::new(|| reflector(200, 5))),
        ("5000 clients with 1", 5000 * 5000, Box::new(|| cold(5000, 1))),
    ];
    for (shape, routes, run) in shapes.iter().filter(|(shape, ..)| shape.contains(&only)) {
        report(shape, *routes, run);
    }
}
