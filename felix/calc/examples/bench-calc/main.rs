//! What the calculation costs: time and memory of an initial sync, and of single changes in that state.
//!
//! `cargo run --release -p felix-calc --example bench-calc [pods [policies]]`

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and its own memory")]

mod cluster;

use std::time::{Duration, Instant};

use cluster::{Random, Size};
use felix_calc::{Calc, Change};
use model::{NodeName, Update};

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let size = Size {
        pods: arguments.first().copied().unwrap_or(100_000),
        policies: arguments.get(1).copied().unwrap_or(5_000),
        namespaces: 500,
        local_pods: 500,
        hosts: 1000,
    };
    let Size { pods, policies, namespaces, hosts, local_pods } = size;
    println!(
        "pods {pods}, {local_pods} of them local, host endpoints {hosts}, policies {policies}, namespaces {namespaces}"
    );
    let mut calc = Calc::new(NodeName::from("node-1"));
    initial_sync(&mut calc, size);
    change_labels(&mut calc, size, "label change of any pod", 20_000, |random| random.below(size.pods));
    change_labels(&mut calc, size, "label change of a local pod", 2_000, |random| {
        size.local_pod(random.below(size.local_pods))
    });
    many_at_once(&mut calc, size);
    println!("memory at the end: {}", memory());
}

/// The watch caches say everything once; only the calculation's time counts.
fn initial_sync(calc: &mut Calc, size: Size) {
    let mut applying = Duration::ZERO;
    let mut apply = |calc: &mut Calc, update: Update| {
        let start = Instant::now();
        calc.apply(update);
        applying += start.elapsed();
    };
    println!("memory before: {}", memory());
    size.namespaces().chain(size.service_accounts()).chain(size.tiers()).for_each(|u| apply(calc, u));
    for pod in 0..size.pods {
        apply(calc, Update::Pod(size.pod_key(pod), Some(size.pod(pod))));
    }
    size.hosts_and_sets().for_each(|update| apply(calc, update));
    println!("memory with endpoints: {}", memory());
    (0..size.policies).for_each(|number| apply(calc, size.policy(number)));
    for number in 0..size.local_pods {
        let endpoint = size.local_endpoint(size.local_pod(number));
        calc.set_local_endpoint(endpoint.interface.clone(), Some(endpoint));
    }
    apply(calc, Update::InSync);
    let start = Instant::now();
    let changes = calc.flush();
    let flushing = start.elapsed();
    let policies = changes.iter().filter(|change| matches!(change, Change::Policy(..))).count();
    let sets = changes.iter().filter_map(|change| match change {
        Change::IpSet(_, Some(set)) => Some(set.members.len()),
        _ => None,
    });
    let (sets, members) = sets.fold((0, 0), |(sets, members), more| (sets + 1, members + more));
    println!("active: policies {policies}, sets {sets}, members {members}");
    println!("initial sync: {:?} (updates {applying:?}, flush {flushing:?})", applying + flushing);
    println!("processor, with making the updates up: {:?}", processor_time());
    println!("memory after: {}", memory());
}

/// One pod gets another version, tier or app; then a flush.
fn change_labels(
    calc: &mut Calc,
    size: Size,
    what: &str,
    count: usize,
    mut pick: impl FnMut(&mut Random) -> usize,
) {
    let random = &mut Random(7);
    let mut times = Vec::with_capacity(count);
    let mut changes = 0;
    for step in 0..count {
        let update = changed(size, pick(random), step, random);
        let start = Instant::now();
        calc.apply(update);
        changes += calc.flush().len();
        times.push(start.elapsed());
    }
    let total: Duration = times.iter().sum();
    times.sort_unstable();
    let percentile = |p: usize| times[(times.len() - 1) * p / 100];
    println!(
        "{what}: median {:?}, p99 {:?}, max {:?}; {:.0} a second, {:.1} changes each",
        percentile(50),
        percentile(99),
        percentile(100),
        count as f64 / total.as_secs_f64(),
        changes as f64 / count as f64,
    );
}

/// A second's worth of changes, flushed every ten milliseconds.
fn many_at_once(calc: &mut Calc, size: Size) {
    let random = &mut Random(11);
    let updates: Vec<Update> =
        (0..10_000).map(|step| changed(size, random.below(size.pods), step, random)).collect();
    let start = Instant::now();
    for (number, update) in updates.into_iter().enumerate() {
        calc.apply(update);
        if number % 100 == 99 {
            calc.flush();
        }
    }
    println!("10000 label changes, flushed by the hundred: {:?}", start.elapsed());
}

fn changed(size: Size, number: usize, step: usize, random: &mut Random) -> Update {
    let mut pod = size.pod(number);
    let (key, value) = match step % 4 {
        0 => ("version", format!("v{}", random.below(20))),
        1 => ("tier", ["frontend", "backend", "db", "cache"][random.below(4)].to_owned()),
        2 => ("app", format!("app-{}", random.below(300))),
        _ => ("quarantine", "true".to_owned()),
    };
    pod.labels.insert(key.to_owned(), value);
    Update::Pod(pod.key.clone(), Some(pod))
}

/// What this process has run so far: no matter who else does.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// Resident now and at most so far.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        let kilobytes = line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
        kilobytes.map_or_else(|| "unknown".to_owned(), |kb| format!("{} MB", kb / 1024))
    };
    format!("{} resident, {} at most", field("VmRSS"), field("VmHWM"))
}
