//! Races, reservations, rests and pools that go away, one story each.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::{NOW, Store, finish, give_back, pool, request, snapshot};
use ipam::{
    AssignError, Key, NotReleased, Object, Request, Reserve, Snapshot, Step, assign, held_by,
    release_address, release_affinity,
};
use model::{Block, Cidr, IpPool};

const SECOND: u64 = 1_000_000_000;

fn ask(store: &mut Store, snapshot: &mut Snapshot, request: &Request) -> Result<Vec<IpAddr>, AssignError> {
    snapshot.begin();
    finish(store, snapshot, request, NOW)
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn block_of(store: &Store, address: IpAddr) -> &Block {
    store.blocks().find(|block| block.cidr.contains(address)).unwrap()
}

fn exact(handle: &str, address: &str) -> Request {
    Request { addresses: vec![address.parse().unwrap()], ipv4: 0, ..request(handle) }
}

#[test]
fn a_node_that_a_pool_no_longer_selects_gives_its_empty_block_up() {
    let mut pools = vec![pool("a", "10.0.0.0/24", 26), pool("b", "10.1.0.0/24", 26)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    let first = ask(&mut store, &mut node, &request("x")).unwrap()[0];
    let block = block_of(&store, first).cidr;
    pools[0].node_selector = "rack == 'r1'".parse().unwrap();
    node.settings.pools.clone_from(&pools);
    let mut reserve = Reserve::new("n1".into());

    store.keep_up(&mut node, &mut reserve, NOW);
    assert!(store.get(&Key::Block(block)).is_some(), "an address is in use");
    give_back(&mut store, &mut node, "x");
    store.keep_up(&mut node, &mut reserve, NOW);

    assert_eq!(store.get(&Key::Block(block)), None);
    assert_eq!(store.get(&Key::Affinity("n1".into(), block)), None);
    let next = ask(&mut store, &mut node, &request("y")).unwrap()[0];
    assert!(pools[1].cidr.contains(next));
}

#[test]
fn reserved_addresses_are_given_only_to_who_asks_for_them() {
    let pools = [pool("a", "10.0.0.0/28", 28)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    node.settings.reservations = vec![cidr("10.0.0.0/29")];

    let all = ask(&mut store, &mut node, &Request { ipv4: 8, ..request("x") }).unwrap();
    let error = ask(&mut store, &mut node, &request("y")).unwrap_err();

    assert!(all.iter().all(|address| cidr("10.0.0.8/29").contains(*address)), "{all:?}");
    assert_eq!(error.to_string(), "no IPv4 address for y: pool a has no free address");
    assert_eq!(ask(&mut store, &mut node, &exact("z", "10.0.0.3")).unwrap().len(), 1);
}

#[test]
fn a_block_that_is_all_reserved_is_never_claimed() {
    let pools = [pool("a", "10.0.0.0/28", 30)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    node.settings.reservations = vec![cidr("10.0.0.0/30"), cidr("10.0.0.4/31"), cidr("10.0.0.6/31")];

    let found = ask(&mut store, &mut node, &Request { ipv4: 8, ..request("x") }).unwrap();

    assert!(found.iter().all(|address| cidr("10.0.0.8/29").contains(*address)), "{found:?}");
    assert_eq!(store.blocks().count(), 2);
}

#[test]
fn releases_that_speak_of_an_earlier_owner_change_nothing() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &[pool("a", "10.0.0.0/30", 30)]));
    let first = ask(&mut store, &mut node, &request("x")).unwrap()[0];
    let number = |store: &Store| block_of(store, first).sequence_number_for_allocation[&0];
    let old = number(&store);
    give_back(&mut store, &mut node, "x");
    ask(&mut store, &mut node, &exact("x", &first.to_string())).unwrap();

    let block = block_of(&store, first);
    assert_ne!(number(&store), old);
    assert_eq!(
        release_address(block, first, Some("x"), Some(old), None),
        Err(NotReleased::OtherSequenceNumber)
    );
    assert!(release_address(block, first, Some("x"), Some(number(&store)), None).is_ok());
    let free: IpAddr = "10.0.0.3".parse().unwrap();
    assert_eq!(release_address(block, free, None, None, None), Err(NotReleased::Free));
}

#[test]
fn an_address_rests_for_its_time_even_when_it_is_the_only_one() {
    let (mut store, mut node) = (Store::default(), snapshot("n1", &[pool("a", "10.0.0.7/32", 32)]));
    node.settings.configuration.cooldown = 60;
    let only = ask(&mut store, &mut node, &request("x")).unwrap();
    give_back(&mut store, &mut node, "x");

    node.begin();
    assert!(finish(&mut store, &mut node, &request("y"), NOW + 59 * SECOND).is_err());
    let asked = Request { addresses: only.clone(), ipv4: 0, ..request("z") };
    node.begin();
    let error = finish(&mut store, &mut node, &asked, NOW + 59 * SECOND).unwrap_err().to_string();
    assert_eq!(error, "address 10.0.0.7 is in use by nobody, but rests after its release by handle x");
    node.begin();

    assert_eq!(finish(&mut store, &mut node, &request("y"), NOW + 60 * SECOND).unwrap(), only);
}

#[test]
fn two_processes_of_one_node_claim_at_once_without_harm() {
    let pools = [pool("a", "10.0.0.0/24", 26)];
    let mut store = Store::default();
    let mut both = [snapshot("n1", &pools), snapshot("n1", &pools)];
    let mut given = [None, None];
    // In lock step, so that each write meets the other's.
    for _ in 0..60 {
        for (index, (node, handle)) in both.iter_mut().zip(["x", "y"]).enumerate() {
            match assign(&request(handle), node, NOW) {
                Step::Done(addresses) => given[index] = Some(addresses[0]),
                Step::Failed(error) => panic!("{error}"),
                step => store.execute(node, &step),
            }
        }
    }

    assert!(given[0].is_some() && given[1].is_some() && given[0] != given[1], "{given:?}");
    let pending = |object: &&Object| matches!(object, Object::Affinity(a) if a.state != Default::default());
    assert_eq!(store.objects().find(pending), None);
}

#[test]
fn a_claim_given_up_while_an_address_is_taken_keeps_the_block() {
    let pools = [pool("a", "10.0.0.0/26", 26)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    ask(&mut store, &mut node, &request("x")).unwrap();
    give_back(&mut store, &mut node, "x");
    let mut other = snapshot("n1", &pools);
    store.load_own(&mut other);
    let block = cidr("10.0.0.0/26");
    // One process has decided to give the claim up and written so; the other takes an address then.
    let step = release_affinity(&other, block, true);
    store.execute(&mut other, &step);
    let address = ask(&mut store, &mut node, &request("y")).unwrap();

    let end = loop {
        match release_affinity(&other, block, true) {
            Step::Done(()) => break Ok(()),
            Step::Failed(error) => break Err(error),
            step => store.execute(&mut other, &step),
        }
    };

    assert_eq!(end, Err(ipam::BlockInUse(block)));
    assert_eq!(held_by(block_of(&store, address[0]), "y"), address);
}

#[test]
fn a_handle_counts_what_its_owner_has_whatever_was_tried_before() {
    let pools = [pool("a", "10.0.0.0/29", 30)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    ask(&mut store, &mut node, &request("first")).unwrap();
    // The handle is written; then the block fills up under it, and the address comes from another one.
    node.begin();
    let step = assign(&request("x"), &node, NOW);
    store.execute(&mut node, &step);
    let mut other = snapshot("n1", &pools);
    store.load_own(&mut other);
    ask(&mut store, &mut other, &Request { ipv4: 3, ..request("others") }).unwrap();

    let found = finish(&mut store, &mut node, &request("x"), NOW).unwrap();

    let Some(Object::Handle(handle)) = store.get(&Key::Handle("x".to_owned())) else { panic!("no handle") };
    let counted: Vec<(Cidr, u32)> = handle.blocks.iter().map(|(cidr, count)| (*cidr, *count)).collect();
    assert_eq!(counted, [(block_of(&store, found[0]).cidr, 1)]);
}

#[test]
fn a_pool_that_overlaps_an_older_one_gives_nothing_and_says_why() {
    let mut pools = [pool("a", "10.0.0.0/24", 26), pool("b", "10.0.0.0/16", 26)];
    pools[0].created = 20;
    pools[1].created = 10;
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));

    let asked = Request { ipv4_pools: vec!["a".to_owned()], ..request("x") };
    let error = ask(&mut store, &mut node, &asked).unwrap_err().to_string();

    assert_eq!(error, "no IPv4 address for x: pool a overlaps the older pool b: delete one of the two");
    assert!(ask(&mut store, &mut node, &request("y")).is_ok());
}

#[test]
fn a_pool_that_is_being_deleted_gives_nothing() {
    let mut pools = [pool("a", "10.0.0.0/24", 26)];
    pools[0].deleting = true;
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));

    let error = ask(&mut store, &mut node, &request("x")).unwrap_err().to_string();

    assert_eq!(error, "no IPv4 address for x: pool a is being deleted");
}

#[test]
fn blocks_of_a_deleted_pool_can_still_be_given_up() {
    let pools: [IpPool; 1] = [pool("a", "10.0.0.0/26", 26)];
    let (mut store, mut node) = (Store::default(), snapshot("n1", &pools));
    let address = ask(&mut store, &mut node, &request("x")).unwrap()[0];
    node.settings.pools.clear();

    let usage = ipam::gc::usage(&[], store.blocks());
    loop {
        match release_affinity(&node, cidr("10.0.0.0/26"), false) {
            Step::Done(()) => break,
            Step::Failed(error) => panic!("{error}"),
            step => store.execute(&mut node, &step),
        }
    }

    assert_eq!(block_of(&store, address).affinity, None);
    assert!(!usage.is_empty(), "orphaned blocks are shown");
}

#[test]
fn a_thousand_nodes_claim_their_first_blocks_from_one_store_without_a_storm() {
    let names: Vec<String> = (0..1000).map(|i| format!("node-{i:04}.example.internal")).collect();
    // Sixteen times as many blocks as nodes, and hardly more than nodes.
    for (pool_cidr, mean, most) in [("10.0.0.0/12", 7.0, 20), ("10.0.0.0/16", 12.0, 60)] {
        let pools = [pool("a", pool_cidr, 26)];
        let mut store = Store::default();
        let mut nodes: Vec<Snapshot> = names.iter().map(|name| snapshot(name, &pools)).collect();
        let mut calls = vec![0_usize; nodes.len()];
        let mut addresses = BTreeSet::new();
        let mut waiting: Vec<usize> = (0..nodes.len()).collect();
        // All at once, each one call a turn: nobody ever has a view that is not old.
        while !waiting.is_empty() {
            waiting.retain(|index| {
                let node = &mut nodes[*index];
                match assign(&request(&format!("net.{index}")), node, NOW) {
                    Step::Done(found) => assert!(addresses.insert(found[0])),
                    Step::Failed(error) => panic!("{error}"),
                    step => {
                        let before = (store.reads, store.writes.len());
                        store.execute(node, &step);
                        calls[*index] += store.reads - before.0 + store.writes.len() - before.1;
                        store.writes.clear();
                        return true;
                    }
                }
                false
            });
        }

        let worst = calls.iter().max().copied().unwrap_or_default();
        let average = calls.iter().sum::<usize>() as f64 / calls.len() as f64;
        println!("{pool_cidr}: {average:.1} calls a node, {worst} at most");
        assert_eq!(store.blocks().count(), 1000);
        assert!(average <= mean && worst <= most, "{pool_cidr}: {average} calls a node, {worst} at most");
    }
}
