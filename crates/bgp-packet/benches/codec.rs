//! How long one message takes. `make bench-codec` prints the table: medians of many short runs, the fastest of
//! them (what a machine without other work gives), and how often memory was allocated for one message.

#![allow(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]
#![allow(clippy::disallowed_methods, reason = "measuring time is all that this does")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bgp_packet::*;

/// The system's allocator, with a counter.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const OPTIONS: EncodeOptions = EncodeOptions { as4: true, extended: false, add_path: [false; 2] };
const CONTEXT: UpdateContext =
    UpdateContext { as4: true, internal: true, add_path: [false; 2], v4_over_v6: false };

fn main() {
    println!(
        "{:<48} {:>6} {:>10} {:>11} {:>12}",
        "message", "octets", "median ns", "fastest ns", "allocations"
    );
    for (name, count, v6) in [
        ("UPDATE, 5 IPv4 prefixes", 5, false),
        ("UPDATE, 800 IPv4 prefixes", 800, false),
        ("UPDATE, 5 IPv6 prefixes", 5, true),
        ("UPDATE, 400 IPv6 prefixes", 400, true),
    ] {
        bench_update(name, count, v6);
    }
    let mut open = Vec::new();
    self::open().encode(&mut open);
    line("OPEN, decode", open.len(), || {
        let found = frame(black_box(&open), MAX_LEN).unwrap().unwrap();
        drop(black_box(found.parse(CONTEXT)));
    });
}

fn bench_update(name: &str, count: u32, v6: bool) {
    let (attributes, prefixes) = routes(count, v6);
    let mut bytes = Vec::new();
    encode_reach(&mut bytes, &attributes, &prefixes, OPTIONS).unwrap();
    let octets = bytes.len();
    line(&format!("{name}: parse"), octets, || {
        let found = frame(black_box(&bytes), MAX_LEN).unwrap().unwrap();
        black_box(&Update::parse(found.body, CONTEXT).unwrap());
    });
    line(&format!("{name}: parse, every prefix"), octets, || {
        black_box(decode(&bytes));
    });
    let mut scratch = Vec::with_capacity(4096);
    line(&format!("{name}: key of the attributes"), octets, {
        let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
        let (update, next_hop) = (Update::parse(found.body, CONTEXT).unwrap(), attributes_next_hop(v6));
        move || {
            black_box(update.attributes.key(black_box(next_hop), &mut scratch));
        }
    });
    line(&format!("{name}: copy the attributes"), octets, {
        let found = frame(&bytes, MAX_LEN).unwrap().unwrap();
        let update = Update::parse(found.body, CONTEXT).unwrap();
        move || drop(black_box(update.attributes.to_path(attributes_next_hop(v6))))
    });
    bench_others(name, &bytes);
    let mut out = Vec::with_capacity(8192);
    line(&format!("{name}: encode"), octets, || {
        out.clear();
        encode_reach(&mut out, black_box(&attributes), black_box(&prefixes), OPTIONS).unwrap();
        black_box(&out);
    });
    line(&format!("{name}: withdraw, encode"), octets, || {
        out.clear();
        encode_unreach(&mut out, black_box(&prefixes), OPTIONS);
        black_box(&out);
    });
}

/// The same messages through the decoders that judge ours in tests.
fn bench_others(name: &str, bytes: &[u8]) {
    let shared = bytes::Bytes::copy_from_slice(bytes);
    line(&format!("{name}: rustbgpd-wire decodes"), bytes.len(), || {
        let read = rustbgpd_wire::decode_message(&mut black_box(shared.clone()), 4096).unwrap();
        let rustbgpd_wire::Message::Update(update) = read else { panic!("an UPDATE was expected") };
        drop(black_box(update.parse_revised(true, true, false, &[])));
    });
    line(&format!("{name}: bgp-rs decodes"), bytes.len(), || {
        let capabilities = bgp_rs::Capabilities { FOUR_OCTET_ASN_SUPPORT: true, ..Default::default() };
        let mut reader = bgp_rs::Reader { stream: black_box(bytes), capabilities };
        drop(black_box(reader.read().unwrap()));
    });
}

/// Frames, parses, and looks at every prefix.
fn decode(bytes: &[u8]) -> usize {
    let found = frame(black_box(bytes), MAX_LEN).unwrap().unwrap();
    let update = Update::parse(found.body, CONTEXT).unwrap();
    let mut seen = 0;
    for prefix in update.nlri {
        seen += usize::from(black_box(prefix).len());
    }
    if let Some(mp) = update.mp_reach {
        for prefix in mp.nlri {
            seen += usize::from(black_box(prefix).len());
        }
    }
    seen
}

fn attributes_next_hop(v6: bool) -> NextHop {
    match v6 {
        true => NextHop::V6("2001:db8::1".parse().unwrap(), None),
        false => NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)),
    }
}

fn routes(count: u32, v6: bool) -> (PathAttributes, Vec<Prefix>) {
    let mut attributes = PathAttributes::new(attributes_next_hop(v6));
    attributes.as_path = AsPath::sequence(&[64513]);
    attributes.local_pref = Some(100);
    attributes.communities = vec!["64512:100".parse().unwrap()];
    let prefix = |i: u32| match v6 {
        true => Prefix::new(std::net::Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(i) << 64).into(), 64),
        false => Prefix::new(Ipv4Addr::from(0x0a00_0000 | i << 6).into(), 26),
    };
    (attributes, (0..count).map(|i| prefix(i).unwrap()).collect())
}

fn open() -> Open {
    Open {
        asn: 64512,
        hold_time: 90,
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        capabilities: vec![
            Capability::Multiprotocol(Family::Ipv4.into()),
            Capability::RouteRefresh,
            Capability::FourOctetAs(64512),
        ],
    }
}

/// Times `work` in runs of about a millisecond and prints the median.
fn line(name: &str, octets: usize, mut work: impl FnMut()) {
    let mut rounds = 1;
    while time(rounds, &mut work) < Duration::from_millis(1) {
        rounds *= 2;
    }
    let mut runs: Vec<f64> =
        (0..101).map(|_| time(rounds, &mut work).as_nanos() as f64 / f64::from(rounds)).collect();
    runs.sort_by(f64::total_cmp);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let (median, fastest) = (runs[runs.len() / 2], runs[0]);
    println!("{name:<48} {octets:>6} {median:>10.1} {fastest:>11.1} {allocations:>12}");
}

fn time(rounds: u32, work: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..rounds).for_each(|_| work());
    start.elapsed()
}
