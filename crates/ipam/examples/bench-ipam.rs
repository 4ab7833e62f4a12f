//! How long IPAM thinks, and how often it calls the API server: a store in memory counts.
#![allow(clippy::unwrap_used, reason = "a bench stops at the first thing that is wrong")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::time::Instant;

use common::{NOW, Store, finish, pool, request, snapshot};
use ipam::Reserve;

const ADDRESSES: usize = 10_000;

fn main() {
    let pools = [pool("a", "10.0.0.0/16", 26)];
    let calls = |store: &Store| store.reads + store.writes.len();

    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    node.settings.configuration.max_blocks_per_host = 1_000;
    let start = Instant::now();
    for index in 0..ADDRESSES {
        node.begin();
        finish(&mut store, &mut node, &request(&format!("net.{index}")), NOW).unwrap();
    }
    println!("{ADDRESSES} by request: {:?}, {} calls", start.elapsed(), calls(&store));

    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    node.settings.configuration.max_blocks_per_host = 1_000;
    let mut reserve = Reserve::new("n1".into());
    finish(&mut store, &mut node, &request("first"), NOW).unwrap();
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    let (mut slowest, mut upkeeps) = (0, 0);
    while seen.len() < ADDRESSES {
        let begun = Instant::now();
        let drawn = reserve.draw(&request(&format!("net.{}", seen.len())), &node.settings);
        slowest = slowest.max(begun.elapsed().as_nanos());
        match drawn {
            Some(draw) => {
                reserve.stored(&draw.handle);
                assert!(seen.insert(draw.addresses[0]));
            }
            None => {
                store.keep_up(&mut node, &mut reserve, NOW);
                node.blocks().for_each(|block| reserve.saw(&block.value));
                upkeeps += 1;
            }
        }
    }
    println!(
        "{ADDRESSES} drawn: {:?}, {} calls behind them in {upkeeps} rounds, slowest draw {slowest} ns",
        start.elapsed(),
        calls(&store)
    );
}
