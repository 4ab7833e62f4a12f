//! Random policies in the real kernel: every packet arrives, or does not, as the reference evaluator says, through
//! iptables of both backends and through nftables. Needs root, and the Debian packages iproute2 and iptables.
//!
//! Raw packets of every protocol cross a node that is a network namespace of the test's own. A failing state prints
//! its seed, the policies and the packet.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests are tests")]

#[path = "../../src/agent.rs"]
#[allow(dead_code, reason = "shared with the benchmark")]
mod agent;
mod cluster;
#[path = "../../src/cost.rs"]
#[allow(dead_code, reason = "shared with the benchmark")]
mod cost;
#[path = "../../../../felix/src/drivers.rs"]
mod drivers;
#[path = "../../../../felix/evaluate/tests/compiler/generate.rs"]
#[allow(dead_code, reason = "shared with the tests of the pure layer")]
mod generate;
#[path = "../../../../felix/render/tests/policy/random.rs"]
#[allow(dead_code, reason = "shared with the tests of the pure layer")]
mod random;
mod topology;
mod wire;
mod world;

use std::process::Command;
use std::time::{Duration, Instant};

use felix_evaluate::{Packet, State, evaluate};
use kernel_linux::Backend;
use model::{Family, Update};

use agent::{Agent, Way, new_netns};
use random::Random;
use topology::Topology;

/// States of one dataplane; each is a change of the one before it.
const STATES: u64 = 100;
const PACKETS: usize = 40;
/// How long an allowed packet may take; a loaded machine is no fault.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn iptables_legacy_lets_through_what_the_evaluator_allows() {
    run(Way::Iptables(Backend::Legacy));
}

#[test]
fn iptables_nft_lets_through_what_the_evaluator_allows() {
    run(Way::Iptables(Backend::Nft));
}

#[test]
fn nftables_lets_through_what_the_evaluator_allows() {
    run(Way::Nftables);
}

/// Programs are found by the search path alone, so an empty one is a node on which nothing is installed.
#[test]
fn nftables_needs_no_program_at_all() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pods_get_policy_without_any_program", "--ignored", "--nocapture"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
#[ignore = "started by the test before it"]
fn pods_get_policy_without_any_program() {
    assert!(Backend::detect().is_err());
    let mut agent = Agent::new(new_netns().unwrap(), Way::Nftables).unwrap();
    agent.write().unwrap();
    let chains = agent.netns().run(|| kernel_linux::nft_chains(Family::V4, "calico")).unwrap();
    assert!(chains > 0);

    assert!(Agent::new(new_netns().unwrap(), Way::Iptables(Backend::Nft)).is_err());
}

fn run(way: Way) {
    let mut topology = Topology::new(way);
    let mut state = State::default();
    Topology::links(&mut state);
    let mut counts = [0, 0];
    let first: Vec<Update> = topology.first_updates();
    tell(&mut topology, &mut state, first);
    for seed in 0..STATES {
        let mut random = Random::new(seed);
        let changes = topology.changes(&mut random);
        tell(&mut topology, &mut state, changes);
        let packets = topology.packets(&mut random, PACKETS);
        let verdicts: Vec<bool> = packets.iter().map(|packet| evaluate(&state, packet).allowed).collect();
        check(&mut topology, &packets, &verdicts, &format!("{way:?}, seed {seed}"), &state);
        verdicts.iter().for_each(|allowed| counts[usize::from(!allowed)] += 1);
    }
    let [allowed, denied] = counts;
    assert!(allowed > 200 && denied > 200, "{allowed} allowed, {denied} denied: one side is hardly tried");
}

fn tell(topology: &mut Topology, state: &mut State, updates: Vec<Update>) {
    updates.iter().for_each(|update| state.apply(update.clone()));
    topology.agent.apply(updates);
    topology.agent.write().unwrap();
    topology.forget_connections();
}

/// Sends all, then waits for those that must arrive.
fn check(topology: &mut Topology, packets: &[Packet], verdicts: &[bool], what: &str, state: &State) {
    topology.send(packets);
    let deadline = Instant::now() + PATIENCE;
    let missing = loop {
        let seen = topology.arrived();
        let missing = (0..packets.len()).find(|id| verdicts[*id] && !seen.contains(id));
        if missing.is_none() || Instant::now() > deadline {
            break missing;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let too_many = topology.arrived().iter().copied().find(|id| !verdicts[*id]);
    if let Some(id) = missing.or(too_many) {
        let verdict = evaluate(state, &packets[id]);
        let steps: Vec<String> = verdict.steps.iter().map(ToString::to_string).collect();
        let kernel = if missing.is_some() { "drops" } else { "lets through" };
        let policies: Vec<_> = state.policies().collect();
        panic!("{what}: the kernel {kernel} {:#?}\n{steps:#?}\n{policies:#?}", packets[id]);
    }
    topology.clear();
}
