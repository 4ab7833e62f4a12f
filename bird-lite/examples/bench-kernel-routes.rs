//! A hundred thousand routes from a table of the speaker into the kernel and out again: this node's path against
//! BIRD's kernel protocol, in one run. Then a pool of a thousand routes that turns to the tunnel and back, with nexthop
//! objects and without.
//!
//! Needs root and `bird2`; works in a network namespace of its own.
//! `cargo run --release -p bird-lite --example bench-kernel-routes`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bgp::RouteSource;
use bgp_packet::{NextHop, PathAttributes, Prefix};
use bird_lite::cluster::Cluster;
use bird_lite::fib::Fib;
use bird_lite::kernel_routes::Context;
use bird_lite::nexthop_objects::NexthopObjects;
use bird_lite::route_table::RouteTable;
use kernel::PROTO_BIRD;
use kernel_linux::{NexthopDriver, RouteDriver, RouteOwner, Rtnl};
use model::{AllowedUse, AssignmentMode, EncapMode, IpPool, Node, NodeAddress, NodeName, Selector, Update};

const ROUTES: usize = 100_000;
const ROUNDS: usize = 5;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Nobody takes longer than this.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    // SAFETY: no other thread is running yet.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .context("make a network namespace (root is needed)")?;
    for line in [
        "link add eth0 type veth peer name p0",
        "link set p0 up",
        "link set eth0 up",
        "addr add 192.0.2.1/24 dev eth0",
    ] {
        ensure!(Command::new("ip").args(line.split(' ')).status()?.success(), "ip {line}");
    }
    let dir = std::env::temp_dir().join(format!("bench-kernel-routes-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let mut times: Vec<(&str, Vec<[f64; 2]>)> = Vec::new();
    let mut note = |name, cost| match times.iter_mut().find(|(n, _)| *n == name) {
        Some((_, costs)) => costs.push(cost),
        None => times.push((name, vec![cost])),
    };
    for _ in 0..ROUNDS {
        let [add, delete] = ours(true)?;
        note("add, bird-lite", add);
        note("delete, bird-lite", delete);
        let [add, delete] = ours(false)?;
        note("add, plain", add);
        note("delete, plain", delete);
        let [add, delete] = bird(&dir)?;
        note("add, bird2", add);
        note("delete, bird2", delete);
    }
    fs::remove_dir_all(&dir)?;
    turn()?;
    for (name, mut costs) in times {
        let mut median = |column: usize| {
            costs.sort_by(|a, b| a[column].total_cmp(&b[column]));
            costs[ROUNDS / 2][column]
        };
        println!(
            "{name:18} {:.3} s, {:.3} CPU s ({ROUTES} routes, medians of {ROUNDS})",
            median(0),
            median(1)
        );
    }
    Ok(())
}

fn prefix(i: usize) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i as u32)), 32).expect("32 bits are a host")
}

/// Time and CPU time of adding and deleting all: verdicts, differences and netlink, as in the running speaker.
fn ours(nexthop_objects: bool) -> anyhow::Result<[[f64; 2]; 2]> {
    let fib = Fib::new(Rtnl::open()?.all_routes()?);
    let cluster = Cluster::new(NodeName::from("n1"));
    let context = Context { cluster: &cluster, fib: &fib, tunnel_up: false };
    let route = bgp::Route {
        source: RouteSource::Peer(IpAddr::V4(GATEWAY).into()),
        attributes: PathAttributes::new(NextHop::from(IpAddr::V4(GATEWAY))).into(),
        next_hops: vec![IpAddr::V4(GATEWAY).into()],
        external: false,
        stale: false,
    };
    let mut table = table(nexthop_objects)?;
    let mut measure = |wanted: Option<&bgp::Route>, routes: usize| -> anyhow::Result<[f64; 2]> {
        let (start, before) = (Instant::now(), cpu("/proc/thread-self/schedstat")?);
        (0..ROUTES).for_each(|i| table.learn(context, prefix(i), wanted.cloned()));
        let applied = table.apply(true, start);
        let cost = [start.elapsed().as_secs_f64(), cpu("/proc/thread-self/schedstat")? - before];
        ensure!(
            applied.routes.failed.is_empty() && kernel_routes()? / ROUTES == routes / ROUTES,
            "not all are written"
        );
        Ok(cost)
    };
    Ok([measure(Some(&route), ROUTES)?, measure(None, 0)?])
}

fn table(nexthop_objects: bool) -> io::Result<RouteTable<RouteDriver, NexthopDriver>> {
    let driver = RouteDriver::new(vec![RouteOwner::Protocol(PROTO_BIRD)])?;
    RouteTable::adopt(driver, NexthopObjects::adopt(NexthopDriver::new(PROTO_BIRD)?, nexthop_objects)?)
}

/// How long a thousand routes take from the pool's new mode to the kernel, by how many next hops they share. The
/// tunnel is a veth of its name: the kernel of a test machine may have no IPIP, and sending is not measured.
fn turn() -> anyhow::Result<()> {
    for line in ["link add tunl0 type veth peer name t0", "link set t0 up", "link set tunl0 up"] {
        ensure!(Command::new("ip").args(line.split(' ')).status()?.success(), "ip {line}");
    }
    for next_hops in [1_u8, 10, 100, 200] {
        for nexthop_objects in [false, true] {
            let mut costs = turns(next_hops, nexthop_objects)?;
            costs.sort_by(|a, b| a[0].total_cmp(&b[0]));
            let [time, cpu] = costs[costs.len() / 2];
            println!(
                "a pool turns, 1000 routes by {next_hops} next hops, {}: {:.2} ms, {:.2} CPU ms",
                if nexthop_objects { "nexthop objects" } else { "plain" },
                time * 1e3,
                cpu * 1e3
            );
        }
    }
    Ok(())
}

fn turns(next_hops: u8, nexthop_objects: bool) -> anyhow::Result<Vec<[f64; 2]>> {
    let name = NodeName::from("n1");
    let mut cluster = Cluster::new(name.clone());
    let own = NodeAddress { address: [192, 0, 2, 1].into(), length: 24 };
    let node = Node { ipv4: Some(own), internal_ips: vec![own.address], ..Node::named(name.clone()) };
    cluster.apply(Update::Node(name, Some(node)));
    cluster.apply(pool(EncapMode::Never));
    let fib = Fib::new(Rtnl::open()?.all_routes()?);
    let mut table = table(nexthop_objects)?;
    for i in 0..1000_u32 {
        let hop = IpAddr::from([192, 0, 2, 2 + u8::try_from(i % u32::from(next_hops))?]);
        let route = bgp::Route {
            source: RouteSource::Peer(hop.into()),
            attributes: PathAttributes::new(NextHop::from(hop)).into(),
            next_hops: vec![hop.into()],
            external: false,
            stale: false,
        };
        table.learn(with_tunnel(&cluster, &fib), block(i)?, Some(route));
    }
    ensure!(table.apply(true, Instant::now()).routes.failed.is_empty(), "not all are written");
    let mut costs = Vec::new();
    for round in 0..20 {
        let mode = if round % 2 == 0 { EncapMode::Always } else { EncapMode::Never };
        let (start, before) = (Instant::now(), cpu("/proc/thread-self/schedstat")?);
        cluster.apply(pool(mode));
        table.ways_changed(with_tunnel(&cluster, &fib));
        let written = table.apply(true, start);
        costs.push([start.elapsed().as_secs_f64(), cpu("/proc/thread-self/schedstat")? - before]);
        let turned = if nexthop_objects { written.nexthops.written } else { written.routes.written };
        let expected = if nexthop_objects { usize::from(next_hops) } else { 1000 };
        ensure!(turned == expected, "{turned} messages in place of {expected}");
    }
    for i in 0..1000 {
        table.learn(with_tunnel(&cluster, &fib), block(i)?, None);
    }
    ensure!(table.apply(true, Instant::now()).routes.failed.is_empty(), "not all are gone");
    Ok(costs)
}

fn with_tunnel<'a>(cluster: &'a Cluster, fib: &'a Fib) -> Context<'a> {
    Context { cluster, fib, tunnel_up: true }
}

fn block(i: u32) -> anyhow::Result<Prefix> {
    Ok(Prefix::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + (i << 6))), 26)?)
}

fn pool(ipip_mode: EncapMode) -> Update {
    let pool = IpPool {
        name: "pool".to_owned(),
        cidr: "10.0.0.0/8".parse().expect("a prefix"),
        ipip_mode,
        vxlan_mode: EncapMode::Never,
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        block_size: 26,
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: vec![AllowedUse::Workload],
        assignment_mode: AssignmentMode::Automatic,
        deleting: false,
        created: 0,
    };
    Update::Pool(pool.name.clone(), Some(pool))
}

/// The same of BIRD: a table of static routes is switched on and off.
fn bird(dir: &Path) -> anyhow::Result<[[f64; 2]; 2]> {
    let mut config = String::from(
        "router id 192.0.2.1;\nprotocol device { }\nprotocol kernel { scan time 3600; ipv4 { export all; }; }\n\
         protocol static all_routes { disabled; ipv4;\n",
    );
    for i in 0..ROUTES {
        let _ = writeln!(config, "route {} via {GATEWAY};", prefix(i));
    }
    config.push_str("}\n");
    let (file, socket) = (dir.join("bird.conf"), dir.join("bird.ctl"));
    fs::write(&file, config)?;
    let birdc = |words: &[&str]| {
        let output = Command::new("birdc").arg("-s").arg(&socket).args(words).output();
        output.is_ok_and(|output| output.status.success())
    };
    let mut bird = Bird(
        Command::new("bird")
            .arg("-f")
            .arg("-c")
            .arg(&file)
            .arg("-s")
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()?,
    );
    let path = format!("/proc/{}/schedstat", bird.0.id());
    let start = Instant::now();
    while !birdc(&["show", "status"]) {
        ensure!(start.elapsed() < LIMIT && bird.0.try_wait()?.is_none(), "bird does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let measure = |verb: &str, routes: usize| -> anyhow::Result<[f64; 2]> {
        let (start, before) = (Instant::now(), cpu(&path)?);
        ensure!(birdc(&[verb, "all_routes"]), "birdc {verb}");
        while kernel_routes()? / ROUTES != routes / ROUTES || (routes == 0 && kernel_routes()? > 1000) {
            ensure!(start.elapsed() < LIMIT, "bird does not {verb} all");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok([start.elapsed().as_secs_f64(), cpu(&path)? - before])
    };
    Ok([measure("enable", ROUTES)?, measure("disable", 0)?])
}

struct Bird(Child);

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time of a task in seconds.
fn cpu(schedstat: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(schedstat)?;
    let nanoseconds: f64 = text.split(' ').next().context("schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}

/// How many IPv4 prefixes the kernel's tables hold.
fn kernel_routes() -> io::Result<usize> {
    let text = fs::read_to_string("/proc/thread-self/net/fib_triestat")?;
    let counts = text.lines().filter_map(|line| line.trim().strip_prefix("Prefixes:")?.trim().parse().ok());
    Ok(counts.max().unwrap_or(0))
}
