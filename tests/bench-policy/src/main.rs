//! Measures how policy reaches the kernel and what it costs there, beside the fixed programs that do the same:
//! `nft -f`, `iptables-restore`, a bare netlink loop, and Calico's tree of chains written by hand.
//!
//! Everything runs in network namespaces without a name, which end with this process. Subjects take turns, so
//! that a change of the machine meets all; figures are medians of the rounds.

mod agent;
mod apply;
mod calico_tree;
mod cluster;
mod cold;
mod cost;
#[path = "../../../felix/src/drivers.rs"]
mod drivers;
mod packets;
mod probe;
mod report;
mod sets;

use clap::{Parser, ValueEnum};

use report::Report;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// A policy change reaching the kernel with 10 000 rules present
    Apply,
    /// One member of a set, and many
    Sets,
    /// 110 pods with 400 policies on a node that has nothing yet
    Cold,
    /// What a packet pays, with 500 pods on the node
    Packets,
}

/// Measures policy in the kernel.
#[derive(Debug, Parser)]
#[command(name = "bench-policy")]
struct Arguments {
    /// Sections; all unless given
    #[arg(long = "section", value_delimiter = ',')]
    sections: Vec<Section>,
    /// Rounds, of which medians are taken
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let sections = match arguments.sections.as_slice() {
        [] => Section::value_variants(),
        given => given,
    };
    let mut report = Report::default();
    for section in sections {
        match section {
            Section::Apply => apply::measure(arguments.rounds, &mut report)?,
            Section::Sets => sets::measure(arguments.rounds, &mut report)?,
            Section::Cold => cold::measure(arguments.rounds.min(5), &mut report)?,
            Section::Packets => packets::measure(arguments.rounds.min(7), &mut report)?,
        }
    }
    print!("{}", report.table());
    Ok(())
}
