//! Several nodes that work at once, die between any two writes and look at old views: never one address with
//! two owners, and nothing that a later release cannot clean.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::{Dice, Store, pool, request};
use ipam::{Key, Object, Snapshot, Step, assign, release};
use model::IpPool;

/// A node with at most one request under way.
struct Writer {
    snapshot: Snapshot,
    task: Option<Task>,
    /// Handles whose addresses this node was told of and has not given back.
    held: BTreeMap<String, Vec<IpAddr>>,
    started: u32,
}

enum Task {
    Assign(String),
    Release(String),
}

struct World {
    store: Store,
    pools: Vec<IpPool>,
    writers: Vec<Writer>,
    /// Who was told that it has an address.
    owners: BTreeMap<IpAddr, String>,
    handles: BTreeSet<String>,
    now: u64,
    granted: usize,
    refused: usize,
}

impl World {
    fn new(pools: Vec<IpPool>, nodes: usize) -> Self {
        let writers = (0..nodes).map(|index| Writer {
            snapshot: common::snapshot(&format!("node-{index}"), &pools),
            task: None,
            held: BTreeMap::new(),
            started: 0,
        });
        Self {
            store: Store::default(),
            writers: writers.collect(),
            pools,
            owners: BTreeMap::new(),
            handles: BTreeSet::new(),
            now: 1_000_000_000,
            granted: 0,
            refused: 0,
        }
    }

    /// One step of one writer, or its death.
    fn turn(&mut self, dice: &mut Dice) {
        self.now += 1_000_000_000 * dice.below(20) as u64;
        let index = dice.below(self.writers.len());
        if dice.below(25) == 0 {
            self.crash(index);
        }
        let writer = &mut self.writers[index];
        let Some(task) = &writer.task else {
            self.start(index, dice);
            return;
        };
        match task {
            Task::Assign(handle) => {
                let handle = handle.clone();
                let step = assign(&request(&handle), &writer.snapshot, self.now);
                match step {
                    Step::Done(addresses) => {
                        writer.task = None;
                        assert_eq!(addresses.len(), 1, "{handle}");
                        self.grant(index, handle, addresses);
                    }
                    Step::Failed(_) => {
                        writer.task = Some(Task::Release(handle));
                        writer.snapshot.begin();
                        self.refused += 1;
                    }
                    step => self.store.execute(&mut writer.snapshot, &step),
                }
            }
            Task::Release(handle) => match release(handle, &writer.snapshot, self.now) {
                Step::Done(()) => writer.task = None,
                step => self.store.execute(&mut writer.snapshot, &step),
            },
        }
    }

    fn start(&mut self, index: usize, dice: &mut Dice) {
        let writer = &mut self.writers[index];
        writer.snapshot.begin();
        let held: Vec<String> = writer.held.keys().cloned().collect();
        writer.task = Some(match dice.below(3) {
            0 if !held.is_empty() => {
                let handle = held[dice.below(held.len())].clone();
                for address in writer.held.remove(&handle).unwrap_or_default() {
                    self.owners.remove(&address);
                }
                Task::Release(handle)
            }
            1 if !held.is_empty() => Task::Assign(held[dice.below(held.len())].clone()),
            _ => {
                writer.started += 1;
                let handle = format!("net.{index}-{}", writer.started);
                self.handles.insert(handle.clone());
                Task::Assign(handle)
            }
        });
    }

    fn grant(&mut self, index: usize, handle: String, addresses: Vec<IpAddr>) {
        if let Some(earlier) = self.writers[index].held.get(&handle) {
            assert_eq!(*earlier, addresses, "{handle} asked again and got another address");
        }
        for address in &addresses {
            let owner = self.owners.insert(*address, handle.clone());
            assert!(
                owner.as_ref().is_none_or(|owner| *owner == handle),
                "{address} of {owner:?} given to {handle}"
            );
        }
        self.granted += 1;
        self.writers[index].held.insert(handle, addresses);
    }

    /// The process dies; another takes its place, which knows nothing but what pods there are.
    fn crash(&mut self, index: usize) {
        let name = self.writers[index].snapshot.node.to_string();
        self.writers[index].snapshot = common::snapshot(&name, &self.pools);
        self.writers[index].task = None;
    }

    /// What must hold at every moment.
    fn check(&self) {
        let mut stored = BTreeMap::new();
        for block in self.store.blocks() {
            let free: BTreeSet<usize> = block.unallocated.iter().copied().collect();
            assert_eq!(free.len(), block.unallocated.len(), "{block:?}");
            for (ordinal, entry) in block.allocations.iter().enumerate() {
                assert_eq!(entry.is_none(), free.contains(&ordinal), "{block:?}");
                assert!(entry.is_none_or(|index| index < block.attributes.len()), "{block:?}");
            }
            for (address, attributes) in block.allocated() {
                let handle = attributes.handle.clone().unwrap();
                let key = Key::Handle(handle.clone());
                let handle_object = self.store.get(&key);
                assert!(handle_object.is_some(), "{address} of {handle} cannot be found by its handle");
                stored.insert(address, handle);
            }
        }
        for (address, owner) in &self.owners {
            assert_eq!(stored.get(address), Some(owner), "{address}");
        }
    }

    /// Everybody dies; then every handle that there ever was is released, and nothing may be left.
    fn clean_up(&mut self) {
        let mut snapshot = common::snapshot("cleaner", &self.pools);
        for handle in &self.handles {
            snapshot.begin();
            let mut steps = 0;
            loop {
                match release(handle, &snapshot, self.now) {
                    Step::Done(()) => break,
                    step => self.store.execute(&mut snapshot, &step),
                }
                steps += 1;
                assert!(steps < 100, "release of {handle} never ends");
            }
        }
        assert!(self.store.blocks().all(ipam::is_empty), "an address is left");
        let left = self.store.objects().filter(|object| matches!(object, Object::Handle(_))).count();
        assert_eq!(left, 0, "a handle is left");
    }

    /// From whatever state, one node alone gets every address of the pools.
    fn fill(&mut self, capacity: usize) {
        self.now += 120_000_000_000;
        let mut snapshot = common::snapshot("filler", &self.pools);
        let mut seen = BTreeSet::new();
        for index in 0..capacity {
            snapshot.begin();
            let handle = format!("fill.{index}");
            let addresses = common::finish(&mut self.store, &mut snapshot, &request(&handle), self.now)
                .unwrap_or_else(|error| panic!("{index} of {capacity}: {error}"));
            assert!(seen.insert(addresses[0]), "{} was given twice", addresses[0]);
        }
    }
}

#[test]
fn nobody_ever_shares_an_address_and_everything_can_be_cleaned() {
    let mut granted = 0;
    let mut refused = 0;
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        // Two blocks of four for up to three nodes: they fight, borrow, fill and take blocks from one another.
        let pools = match seed % 3 {
            0 => vec![pool("a", "10.0.0.0/29", 30)],
            1 => vec![pool("a", "10.0.0.0/28", 30)],
            _ => vec![pool("a", "10.0.0.0/30", 31), pool("b", "10.1.0.0/30", 32)],
        };
        let capacity = pools.iter().map(|pool| 1_usize << (32 - pool.cidr.length())).sum();
        let mut world = World::new(pools, 2 + usize::try_from(seed % 2).unwrap());
        for _ in 0..600 {
            world.turn(&mut dice);
            world.check();
        }
        granted += world.granted;
        refused += world.refused;
        world.clean_up();
        world.fill(capacity);
    }
    // The story is about something only when both happen often.
    assert!(granted > 5_000 && refused > 500, "{granted} granted, {refused} refused");
}
