//! Ten thousand /32 routes added, listed and deleted: this crate against `ip -batch`, in one run.
//!
//! Needs root; works in a network namespace of its own. `cargo run --release -p kernel-linux --example
//! bench-routes`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kernel::{Driver, NextHop, PROTO_BIRD, Route, RouteKey, RouteKind};
use kernel_linux::{Netns, RouteDriver, RouteOwner};
use model::Cidr;

const ROUTES: u32 = 10_000;
const ROUNDS: usize = 5;

fn main() -> io::Result<()> {
    let netns = std::thread::spawn(|| {
        // SAFETY: plain system call that changes this short-lived thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Netns::current()
    });
    let netns = netns.join().map_err(|_| io::Error::other("no network namespace"))??;
    netns.run(bench)
}

fn bench() -> io::Result<()> {
    ip("link add cali1 type veth peer name p1\nlink set cali1 up\n")?;
    let destinations: Vec<Ipv4Addr> = (0..ROUTES).map(|i| Ipv4Addr::from(0x0a00_0000 + i)).collect();
    let through = NextHop { gateway: None, interface: Some("cali1".to_owned()), onlink: false };
    let kind = RouteKind::Unicast(vec![through]);
    let route = Route { kind, protocol: PROTO_BIRD, source: None, mtu: None };
    let key = |address: &Ipv4Addr| RouteKey::new(Cidr::host(IpAddr::V4(*address)), 1024);
    let puts: Vec<_> = destinations.iter().map(|address| (key(address), route.clone())).collect();
    let keys: Vec<_> = puts.iter().map(|(key, _)| *key).collect();
    let script = |verb: &str| -> String {
        let line = |a: &Ipv4Addr| format!("route {verb} {a} dev cali1 proto bird scope link metric 1024\n");
        destinations.iter().map(line).collect()
    };
    let (add, delete) = (script("replace"), script("del"));
    let mut driver = RouteDriver::new(vec![RouteOwner::Protocol(PROTO_BIRD)])?;

    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut time = |name, elapsed| times.entry(name).or_default().push(elapsed);
    for _ in 0..ROUNDS {
        time("add, ip -batch", measure(|| ip(&add))?);
        time("delete, ip -batch", measure(|| ip(&delete))?);
        time("add, kernel-linux", measure(|| all(driver.apply(&puts, &[])))?);
        time("list, kernel-linux", measure(|| driver.list().map(|_| ()))?);
        time("delete, kernel-linux", measure(|| all(driver.apply(&[], &keys)))?);
    }
    for (name, mut values) in times {
        values.sort();
        let each = values[ROUNDS / 2].as_secs_f64() * 1e6 / f64::from(ROUTES);
        println!("{name:22} {each:6.2} µs a route (median of {ROUNDS})");
    }
    Ok(())
}

fn measure(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn all(failures: kernel::Failures<RouteKey>) -> io::Result<()> {
    failures.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

fn ip(script: &str) -> io::Result<()> {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip -batch: {status}"))) }
}
