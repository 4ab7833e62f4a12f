//! Measures packets between pods of two nodes beside plain kernel routing with hand-made links and routes, in one run:
//! throughput of one TCP connection, and latency of one UDP packet there and back. Then a pool of a thousand remote
//! blocks that turns to another encapsulation.
//!
//! `make bench-dataplane` runs it with optimised programs; docs/benchmarks.md keeps method and figures. `PARTS` takes
//! only some of `direct`, `vxlan`, `ipip` (where the kernel has it), `toggle`; `RULES` one of `nftables`, `iptables`.

mod flow;
mod hand;
mod toggle;

use std::process::Command;

use e2e::{Cluster, Options, within};
use serde_json::json;

use flow::{Ends, latency, throughput};
use hand::{Hand, Mode};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Each subject is measured so often, in turn with the others.
const ROUNDS: usize = 21;
const POOL: &str = "default-ipv4-ippool";

fn main() -> Outcome<()> {
    let parts = chosen("PARTS", "direct,vxlan,ipip,toggle");
    for rules in chosen("RULES", "nftables,iptables") {
        let mode = if rules == "nftables" { "Enabled" } else { "Disabled" };
        // A node that once had policy in iptables keeps empty chains, which cost packets something.
        let environment = [("FELIX_NFTABLESMODE", mode)];
        let options = Options { nodes: 2, subnets: 1, environment: &environment, ..Options::default() };
        let cluster = Cluster::up("dp", &options);
        cluster.pod("p1", "n1");
        cluster.pod("p2", "n2");
        cluster.pods_ready();
        cluster.expect_probe("default/p1", "default/p2", 80, "allowed");
        for (name, mode) in [("direct", Mode::Direct), ("vxlan", Mode::Vxlan), ("ipip", Mode::Ipip)] {
            if parts.iter().any(|part| part == name) && (mode != Mode::Ipip || has_ipip()) {
                packets(&cluster, &format!("{name}, policy in {rules}"), mode)?;
            }
        }
        if parts.iter().any(|part| part == "toggle") {
            toggle::measure(&cluster)?;
        }
    }
    Ok(())
}

fn chosen(variable: &str, all: &str) -> Vec<String> {
    let text = std::env::var(variable).unwrap_or_else(|_| all.to_owned());
    text.split(',').map(str::to_owned).collect()
}

fn has_ipip() -> bool {
    let make = |words: &str| Command::new("ip").args(words.split(' ')).output();
    let made =
        make("link add bench-ipip type ipip local 192.0.2.99").is_ok_and(|output| output.status.success());
    let _ = make("link delete bench-ipip");
    made
}

fn packets(cluster: &Cluster, name: &str, mode: Mode) -> Outcome<()> {
    let (ipip, vxlan, mtu) = match mode {
        Mode::Direct => ("Never", "Never", 1500),
        Mode::Vxlan => ("Never", "Always", 1450),
        Mode::Ipip => ("Always", "Never", 1480),
    };
    patch(cluster, "ippool", POOL, &json!({"spec": {"ipipMode": ipip, "vxlanMode": vxlan}}));
    let address = cluster.address("p2");
    let link = match mode {
        Mode::Direct => "dev eth",
        Mode::Vxlan => "dev vxlan.calico",
        Mode::Ipip => "dev tunl0",
    };
    let way = || cluster.exec("n1", &["ip", "route", "get", &address]);
    within(60, "the way follows the pool", way, |way| way.contains(link));
    for pod in ["p1", "p2"] {
        let pod = format!("default/{pod}");
        let look = || cluster.exec(&pod, &["ip", "-o", "link", "show", "eth0"]);
        within(60, "the pod's MTU follows the pool", look, |link| link.contains(&format!("mtu {mtu} ")));
    }
    let bare = Hand::build(&format!("{}-bare", cluster.name()), mode, false)?;
    let proxied = Hand::build(&format!("{}-kube", cluster.name()), mode, true)?;
    let netns = |place: &str| format!("{}-{place}", cluster.name());
    let ours = Ends { from: netns("default-p1"), to: netns("default-p2"), address: address.parse()? };
    compare(name, &ours, [&bare.ends(), &proxied.ends()])
}

pub(crate) fn patch(cluster: &Cluster, kind: &str, name: &str, patch: &serde_json::Value) {
    cluster.kubectl_ok(&["patch", kind, name, "--type", "merge", "-p", &patch.to_string()]);
}

/// Prints the subjects' medians and the medians of the ratios of triples.
fn compare(mode: &str, ours: &Ends, [bare, proxied]: [&Ends; 2]) -> Outcome<()> {
    for (what, unit, measure) in [
        ("TCP throughput", "Gbit/s", throughput as fn(&Ends) -> Outcome<f64>),
        ("UDP there and back", "µs", latency),
    ] {
        let subjects = [ours, bare, proxied];
        let mut values = [const { Vec::new() }; 3];
        // The first round warms neighbours, caches and the processor's clock.
        for round in 0..=ROUNDS {
            for turn in 0..3 {
                let at = (turn + round) % 3;
                let value = measure(subjects[at])?;
                if round > 0 {
                    values[at].push(value);
                }
            }
        }
        let [of_ours, of_bare, of_proxied] = values.clone().map(median);
        println!("{mode}, {what}: {of_ours:.2} {unit}");
        for (name, peer, of_peer) in
            [("no rule anywhere", &values[1], of_bare), ("hooks of kube-proxy", &values[2], of_proxied)]
        {
            let ratios: Vec<f64> = values[0].iter().zip(peer).map(|(one, other)| one / other).collect();
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            println!(
                "  made by hand, {name}: {of_peer:.2} {unit}: {:.3} × ({least:.3} to {most:.3})",
                median(ratios)
            );
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
