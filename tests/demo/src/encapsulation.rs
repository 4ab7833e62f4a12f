//! The pool's mode is switched while a ping runs, and the packets are seen to move.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ping::{RunningPing, Tally};

use crate::cluster::{Cluster, Pod};
use crate::command::{beside, run, until};
use crate::leftovers;
use crate::stage::{PLAIN, Stage, can_rewrite};

/// One turn of the dial: the mode, and whether packets to each of the other nodes go through the tunnel.
struct Turn {
    mode: &'static str,
    same_subnet: bool,
    other_subnet: bool,
}

const TURNS: [Turn; 4] = [
    Turn { mode: "CrossSubnet", same_subnet: false, other_subnet: true },
    Turn { mode: "Always", same_subnet: true, other_subnet: true },
    Turn { mode: "CrossSubnet", same_subnet: false, other_subnet: true },
    Turn { mode: "Never", same_subnet: false, other_subnet: false },
];

/// Plays here when this kernel has IPIP, otherwise in a virtual machine.
pub fn play_wherever_possible(stage: &mut Stage) {
    if kernel_has_ipip() {
        play_here(stage);
        return;
    }
    stage.act("Encapsulation");
    stage.say(
        "This kernel has no IPIP. The same lab runs in a small virtual machine with a stock Debian kernel.",
    );
    stage.typed("lab vm -- demo --act encapsulation");
    let mut command = Command::new(beside("lab"));
    command.args(["vm", "--"]).arg(beside("demo")).args(["--act", "encapsulation"]);
    if !can_rewrite() {
        command.env(PLAIN, "1");
    }
    match command.status() {
        Ok(status) => stage.adopt("the act in the virtual machine", status.success()),
        Err(error) => {
            stage.check("a virtual machine starts", false, error);
        }
    }
}

/// Plays on this kernel.
pub fn play_here(stage: &mut Stage) {
    let before = leftovers::Snapshot::take();
    stage.act("Encapsulation: Never → CrossSubnet → Always and back, live");
    if let Some(cluster) = Cluster::up(stage, "Never") {
        if let Some(pods) = cluster.create_pods(stage) {
            turn_the_dial(stage, &cluster, &pods);
        }
        cluster.down(stage);
    }
    leftovers::check(stage, &before);
}

fn turn_the_dial(stage: &mut Stage, cluster: &Cluster, pods: &[Pod]) {
    let find = |suffix: &str| pods.iter().find(|pod| pod.name.ends_with(suffix));
    let (Some(from), Some(near), Some(far)) = (find("client-1"), find("web-2"), find("web-3")) else {
        stage.check("there is a pod on each node", false, "they are missing");
        return;
    };
    for turn in &TURNS {
        stage.say(format!(
            "The pool's mode becomes {}, while client-1 pings a pod in its own and one in the other subnet.",
            turn.mode
        ));
        let outcome = stage.progress("switching", || play_turn(cluster, turn, from, near, far));
        let Some(seen) = stage.attempt(&format!("the mode becomes {}", turn.mode), outcome) else { continue };
        stage.typed(format!(
            "kubectl patch ippool default-ipv4-ippool --type merge -p '{}'",
            patch(turn.mode)
        ));
        for route in &seen.routes {
            stage.show(route);
        }
        stage.check(
            &format!("{}: each packet takes the way that the mode asks for", turn.mode),
            seen.as_wanted,
            seen.routes.join("; "),
        );
        stage.check(
            &format!("{}: no packet is lost by the switch", turn.mode),
            seen.tallies.iter().all(|tally| tally.lost() == 0),
            seen.tallies.each_ref().map(Tally::to_string).join(" and "),
        );
        stage.check(
            &format!(
                "{}: tunl0 {}",
                turn.mode,
                if turn.other_subnet { "carries packets" } else { "is quiet" }
            ),
            (seen.tunnel_packets > 0) == turn.other_subnet,
            format!("{} packets in a burst of ten", seen.tunnel_packets),
        );
    }
}

/// What was seen while the mode changed.
struct Seen {
    as_wanted: bool,
    routes: Vec<String>,
    tallies: [Tally; 2],
    tunnel_packets: u64,
}

fn play_turn(cluster: &Cluster, turn: &Turn, from: &Pod, near: &Pod, far: &Pod) -> Result<Seen> {
    // What is lost before the new pods' routes have come says nothing about the switch.
    for to in [near, far] {
        let (answers, _) = until(Duration::from_secs(240), || (answers(cluster, from, to), ()));
        ensure!(answers, "{} does not reach {} before the switch", from.name, to.name);
    }
    let [near_ping, far_ping] =
        [near, far].map(|to| RunningPing::start(cluster.ping(&from.name, &to.address)));
    let (near_ping, far_ping) = (near_ping?, far_ping?);
    std::thread::sleep(Duration::from_millis(500));
    let patched = cluster.quiet_kubectl(&[
        "patch",
        "ippool",
        "default-ipv4-ippool",
        "--type",
        "merge",
        "-p",
        &patch(turn.mode),
    ]);
    let (as_wanted, routes) = until(Duration::from_secs(120), || {
        let routes: Vec<String> =
            [near, far].iter().map(|pod| route(cluster, &pod.address).unwrap_or_default()).collect();
        let tunnelled: Vec<bool> = routes.iter().map(|route| route.contains("dev tunl0")).collect();
        (patched.is_ok() && tunnelled == [turn.same_subnet, turn.other_subnet], routes)
    });
    // Packets that the old way would still have lost show within this time.
    std::thread::sleep(Duration::from_millis(1500));
    let tallies = [near_ping.stop()?, far_ping.stop()?];
    patched.context("patch the pool")?;
    let before = tunnel_packets(cluster)?;
    run(&mut cluster.lab(&[
        "exec",
        &from.name,
        "--",
        "ping",
        "-n",
        "-q",
        "-c",
        "10",
        "-i",
        "0.05",
        &far.address,
    ]))?;
    Ok(Seen { as_wanted, routes, tallies, tunnel_packets: tunnel_packets(cluster)? - before })
}

/// Whether one ping is answered.
fn answers(cluster: &Cluster, from: &Pod, to: &Pod) -> bool {
    run(&mut cluster.lab(&["exec", &from.name, "--", "ping", "-n", "-q", "-c", "1", "-W", "1", &to.address]))
        .is_ok()
}

fn patch(mode: &str) -> String {
    format!(r#"{{"spec":{{"ipipMode":"{mode}"}}}}"#)
}

fn route(cluster: &Cluster, address: &str) -> Result<String> {
    let text = run(&mut cluster.lab(&["exec", "n1", "--", "ip", "-4", "route", "get", address]))?;
    let line = text.lines().next().unwrap_or_default();
    Ok(line.split(" src ").next().unwrap_or_default().trim().to_owned())
}

/// Packets that left through the first node's tunnel; none when there is no tunnel yet.
fn tunnel_packets(cluster: &Cluster) -> Result<u64> {
    let text = run(&mut cluster.lab(&["exec", "n1", "--", "cat", "/proc/net/dev"]))?;
    let Some(line) = text.lines().find(|line| line.trim_start().starts_with("tunl0:")) else { return Ok(0) };
    line.split_whitespace().nth(10).and_then(|count| count.parse().ok()).context("read /proc/net/dev")
}

/// Tries in a fresh network namespace, so that nothing is left behind.
fn kernel_has_ipip() -> bool {
    Command::new("unshare")
        .args(["--net", "ip", "link", "add", "probe0", "type", "ipip", "remote", "192.0.2.1"])
        .output()
        .is_ok_and(|output| output.status.success())
}
