//! Measures packets between pods of two nodes beside plain kernel routing with hand-made links and routes, in one run:
//! throughput of one TCP connection, and latency of one UDP packet there and back.
//!
//! `make bench-dataplane` runs it with optimised programs; docs/benchmarks.md keeps method and figures.

mod flow;
mod hand;

use e2e::{Cluster, Options};

use flow::{Ends, latency, throughput};
use hand::Hand;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Each subject is measured so often, in turn with the other.
const ROUNDS: usize = 7;

fn main() -> Outcome<()> {
    let cluster = Cluster::up("dp", &Options { nodes: 2, subnets: 1, ..Options::default() });
    cluster.pod("p1", "n1");
    cluster.pod("p2", "n2");
    cluster.pods_ready();
    cluster.expect_probe("default/p1", "default/p2", 80, "allowed");
    let hand = Hand::build(cluster.name())?;
    let netns = |place: &str| format!("{}-{place}", cluster.name());
    let address = cluster.address("p2").parse()?;
    let ours = Ends { from: netns("default-p1"), to: netns("default-p2"), address };

    compare("direct", &ours, &hand.ends())
}

/// Prints both subjects' medians and the median of the ratios of pairs.
fn compare(mode: &str, ours: &Ends, hand: &Ends) -> Outcome<()> {
    for (what, unit, measure) in [
        ("TCP throughput", "Gbit/s", throughput as fn(&Ends) -> Outcome<f64>),
        ("UDP there and back", "µs", latency),
    ] {
        let (mut of_ours, mut of_hand, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        // The first pair warms neighbours, caches and the processor's clock.
        for round in 0..=ROUNDS {
            let (one, other) = match round % 2 {
                0 => (measure(ours)?, measure(hand)?),
                _ => {
                    let other = measure(hand)?;
                    (measure(ours)?, other)
                }
            };
            if round > 0 {
                of_ours.push(one);
                of_hand.push(other);
                ratios.push(one / other);
            }
        }
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "{mode}, {what}: {:.2} {unit}, made by hand {:.2} {unit}: {:.3} × ({least:.3} to {most:.3})",
            median(of_ours),
            median(of_hand),
            median(ratios)
        );
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
