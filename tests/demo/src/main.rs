//! `make demo`: a cluster on one machine, told as a story in which every step is checked.
//!
//! Drives the lab by its command line and the cluster by plain `kubectl`, as a user would. Decides nothing
//! that a user could not decide by looking at the same output.

mod cluster;
mod command;
mod encapsulation;
mod leftovers;
mod matrix;
mod policy;
mod restart;
mod stage;
mod tor;

use std::process::ExitCode;

use cluster::Cluster;
use stage::Stage;

const HELP: &str = "\
Plays the demo: three nodes in two subnets, BGP, a top-of-rack router, NetworkPolicy, IPIP, restarts.

Usage: demo [--act ACT]

  --act cluster         only what needs no IPIP: nodes, pods, BGP, policy, restart
  --act encapsulation   only the switch of the pool's mode (this kernel must have IPIP)
  -h, --help            this text

Without --act both are played; the second one inside a small virtual machine where the kernel has no IPIP.
Exit status: 0 when every step held, 1 when one did not, 2 for wrong arguments.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut stage = Stage::new();
    match arguments.as_slice() {
        [] => {
            cluster_act(&mut stage);
            encapsulation::play_wherever_possible(&mut stage);
        }
        ["--act", "cluster"] => cluster_act(&mut stage),
        ["--act", "encapsulation"] => encapsulation::play_here(&mut stage),
        ["-h" | "--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("demo: cannot make sense of {other:?}\n\n{HELP}");
            return ExitCode::from(2);
        }
    }
    stage.curtain()
}

/// Nodes, pods, BGP, policy and a restart, on the kernel that runs this.
fn cluster_act(stage: &mut Stage) {
    let before = leftovers::Snapshot::take();
    stage.act("A cluster on one machine");
    if let Some(cluster) = Cluster::up(stage, "Never") {
        let pods = cluster.create_pods(stage);
        let _ = cluster.show_matrix(stage, "Everybody reaches everybody", |_, _| true);
        tor::learns_the_blocks(stage, &cluster);
        policy::holds(stage, &cluster);
        if let Some(pods) = pods {
            restart::loses_nothing(stage, &cluster, &pods);
        }
        cluster.down(stage);
    }
    leftovers::check(stage, &before);
}
