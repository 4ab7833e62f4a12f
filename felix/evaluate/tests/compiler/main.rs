//! The compiler (calc and renderer, their rules walked packet by packet) against the reference evaluator: on
//! random policies, labels and changes both must give one answer for every packet.
//!
//! A failing seed prints the fewest objects that still fail. `OCICAT_SEEDS=first..last` tries others.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "clippy exempts only the test functions")]

#[path = "../../../render/tests/policy/dataplane.rs"]
#[allow(dead_code, reason = "shared with the renderer's own tests")]
mod dataplane;
mod generate;
#[path = "../../../render/tests/policy/nftables.rs"]
mod nftables;
#[path = "../../../render/tests/policy/node.rs"]
#[allow(dead_code, reason = "shared with the renderer's own tests")]
mod node;
#[path = "../../../render/tests/policy/random.rs"]
mod random;
mod shrink;
#[allow(dead_code, reason = "shared with the scenarios")]
mod world;

use std::ops::Range;

use random::Random;
use world::World;

/// The updates of a seed, in the order in which they come.
fn check_seed(seed: u64) -> Result<[usize; 2], String> {
    let mut random = Random::new(seed);
    let history = generate::history(&mut random);
    let packets = generate::packets(&mut random, &history, 60);
    match World::compare(&history, &packets) {
        Ok(counts) => Ok(counts),
        Err(_) => Err(format!("seed {seed}\n{}", shrink::minimal(history, packets))),
    }
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("OCICAT_SEEDS") else { return 0..1_500 };
    let (first, last) = text.split_once("..").expect("OCICAT_SEEDS is first..last");
    first.parse().unwrap()..last.parse().unwrap()
}

#[test]
fn compiled_rules_and_evaluator_give_one_answer() {
    let seeds = seeds();
    let halves = [0, 1].map(|half| {
        let mine = seeds.clone().filter(move |seed| seed % 2 == half);
        std::thread::spawn(move || {
            let mut counts = [0, 0];
            for seed in mine {
                let [allowed, denied] = check_seed(seed).unwrap_or_else(|failure| panic!("{failure}"));
                counts = [counts[0] + allowed, counts[1] + denied];
            }
            counts
        })
    });
    let [a, b] = halves.map(|half| half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    let (allowed, denied) = (a[0] + b[0], a[1] + b[1]);

    let each = (seeds.end - seeds.start) as usize * 60 / 10;
    assert!(allowed > each && denied > each, "{allowed} allowed, {denied} denied: one side is hardly tried");
}
