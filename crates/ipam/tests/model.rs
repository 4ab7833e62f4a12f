//! Several nodes that work at once, die between any two writes and look at old views: never one address with
//! two owners, none given again before it rested, and nothing that a later release cannot clean.
//!
//! A node has a reserve, from which pods draw without a word with the store; what it drew stands in a journal
//! that outlives it, as does its queue of containers that are gone.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::{Dice, NOW, Store, pool, request};
use ipam::names::reserve_handle;
use ipam::{
    Draw, Key, Object, Request, Reserve, Returned, Snapshot, Step, assign, release, rest_from, upkeep,
};
use model::{Cidr, IpPool};

/// A node with at most one request under way.
struct Writer {
    snapshot: Snapshot,
    reserve: Reserve,
    task: Option<Task>,
    /// Handles whose addresses this node was told of and has not given back.
    held: BTreeMap<String, Vec<IpAddr>>,
    started: u32,
    /// On disk: draws that blocks may not show yet.
    journal: BTreeMap<String, Draw>,
    /// On disk: containers that are gone and hold something still.
    queue: BTreeSet<String>,
}

enum Task {
    Assign(Box<Request>),
    Release(String),
    Upkeep,
}

struct World {
    store: Store,
    pools: Vec<IpPool>,
    cooldown: u64,
    writers: Vec<Writer>,
    /// Who was told that it has an address.
    owners: BTreeMap<IpAddr, String>,
    /// When the last owner of an address ceased to use it.
    left: BTreeMap<IpAddr, u64>,
    handles: BTreeSet<String>,
    now: u64,
    granted: usize,
    drawn: usize,
    refused: usize,
}

impl World {
    fn new(pools: Vec<IpPool>, nodes: usize, cooldown: u64) -> Self {
        let mut world = Self {
            store: Store::default(),
            writers: Vec::new(),
            pools,
            cooldown,
            owners: BTreeMap::new(),
            left: BTreeMap::new(),
            handles: BTreeSet::new(),
            now: NOW,
            granted: 0,
            drawn: 0,
            refused: 0,
        };
        for index in 0..nodes {
            let name = format!("node-{index}");
            world.writers.push(Writer {
                snapshot: world.snapshot(&name),
                reserve: Reserve::new(name.as_str().into()),
                task: None,
                held: BTreeMap::new(),
                started: 0,
                journal: BTreeMap::new(),
                queue: BTreeSet::new(),
            });
        }
        world
    }

    fn snapshot(&self, name: &str) -> Snapshot {
        let mut snapshot = common::snapshot(name, &self.pools);
        snapshot.settings.configuration.cooldown = self.cooldown;
        snapshot
    }

    /// One step of one writer, or its death.
    fn turn(&mut self, dice: &mut Dice) {
        self.now += 1_000_000_000 * dice.below(20) as u64;
        let index = dice.below(self.writers.len());
        if dice.below(25) == 0 {
            self.crash(index);
        }
        let now = self.now;
        let writer = &mut self.writers[index];
        match &writer.task {
            None => self.start(index, dice),
            Some(Task::Assign(request)) => match assign(request, &writer.snapshot, now) {
                Step::Done(addresses) => {
                    let handle = request.handle.clone();
                    writer.task = None;
                    assert_eq!(addresses.len(), 1, "{handle}");
                    self.grant(index, handle, addresses);
                }
                Step::Failed(_) => {
                    writer.task = Some(Task::Release(request.handle.clone()));
                    writer.snapshot.begin();
                    self.refused += 1;
                }
                step => self.store.execute(&mut writer.snapshot, &step),
            },
            Some(Task::Release(handle)) => match release(handle, &writer.snapshot, now) {
                Step::Done(()) => {
                    writer.queue.remove(handle);
                    writer.task = None;
                }
                step => self.store.execute(&mut writer.snapshot, &step),
            },
            Some(Task::Upkeep) => match upkeep(&mut writer.reserve, &writer.snapshot, now) {
                Step::Done(settled) => {
                    assert_eq!(settled.lost, []);
                    writer.task = None;
                    // The process may die before the file is gone.
                    if dice.below(4) > 0 {
                        settled.draws.iter().for_each(|draw| drop(writer.journal.remove(&draw.handle)));
                    } else {
                        self.crash(index);
                    }
                }
                step => self.store.execute(&mut writer.snapshot, &step),
            },
        }
        let writer = &mut self.writers[index];
        writer.snapshot.blocks().for_each(|block| writer.reserve.saw(&block.value));
    }

    fn start(&mut self, index: usize, dice: &mut Dice) {
        let now = self.now;
        let writer = &mut self.writers[index];
        let held: Vec<String> = writer.held.keys().cloned().collect();
        match dice.below(6) {
            0 | 1 if !held.is_empty() => {
                let handle = held[dice.below(held.len())].clone();
                for address in writer.held.remove(&handle).unwrap_or_default() {
                    self.owners.remove(&address);
                    self.left.insert(address, now);
                }
                writer.queue.insert(handle);
            }
            2 if !writer.queue.is_empty() => {
                let handle = writer.queue.first().unwrap().clone();
                match writer.reserve.release(&handle, rest_from(now, 1).unwrap()) {
                    Returned::Draw(draw) if dice.below(8) > 0 => {
                        writer.journal.insert(handle.clone(), draw);
                        writer.queue.remove(&handle);
                    }
                    Returned::Draw(_) => self.crash(index),
                    Returned::Elsewhere => {
                        writer.snapshot.begin();
                        writer.task = Some(Task::Release(handle));
                    }
                }
            }
            3 | 4 => {
                writer.snapshot.begin();
                writer.task = Some(Task::Upkeep);
            }
            _ => self.add(index, &held, dice),
        }
    }

    /// ADD of a container, new or seen before.
    fn add(&mut self, index: usize, held: &[String], dice: &mut Dice) {
        let writer = &mut self.writers[index];
        let handle = if !held.is_empty() && dice.below(4) == 0 {
            held[dice.below(held.len())].clone()
        } else {
            writer.started += 1;
            format!("net.{index}-{}", writer.started)
        };
        let is_new = self.handles.insert(handle.clone());
        let mut request = request(&handle);
        request.attributes.insert("node".to_owned(), writer.snapshot.node.to_string());
        if is_new && dice.below(6) == 0 {
            let pool: Cidr = self.pools[dice.below(self.pools.len())].cidr;
            let size = 1_usize << (32 - pool.length());
            request.ipv4 = 0;
            request.addresses = vec![pool.nth(dice.below(size) as u128).unwrap()];
        }
        match writer.reserve.draw(&request, &writer.snapshot.settings) {
            // It dies before the file is there, and nobody hears of the address.
            Some(_) if is_new && dice.below(8) == 0 => self.crash(index),
            Some(draw) => {
                writer.journal.insert(handle.clone(), draw.clone());
                writer.reserve.stored(&handle);
                self.drawn += 1;
                // It dies before the answer; the runtime deletes the container.
                if is_new && dice.below(8) == 0 {
                    for address in &draw.addresses {
                        self.left.insert(*address, self.now);
                    }
                    self.writers[index].queue.insert(handle);
                    self.crash(index);
                } else {
                    self.grant(index, handle, draw.addresses);
                }
            }
            None => {
                if writer.reserve.withdraw(&handle, &request.addresses).is_ok() {
                    writer.snapshot.begin();
                    writer.task = Some(Task::Assign(Box::new(request)));
                }
            }
        }
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
            let rested = self.left.remove(address).map(|left| self.now - left);
            assert!(
                rested.is_none_or(|rested| rested >= self.cooldown * 1_000_000_000),
                "{address} rested {rested:?} ns"
            );
        }
        self.granted += 1;
        self.writers[index].held.insert(handle, addresses);
    }

    /// The process dies; another takes its place, which knows nothing but what is on disk and in the store.
    fn crash(&mut self, index: usize) {
        let name = self.writers[index].snapshot.node.to_string();
        let mut snapshot = self.snapshot(&name);
        self.store.load_own(&mut snapshot);
        let writer = &mut self.writers[index];
        writer.reserve = Reserve::new(snapshot.node.clone());
        writer.reserve.restore(writer.journal.values().cloned());
        // Its watch tells it of all blocks before it gives anything out.
        self.store.blocks().for_each(|block| writer.reserve.saw(block));
        writer.snapshot = snapshot;
        // An ADD that was under way is followed by a DEL.
        if let Some(Task::Assign(request)) = writer.task.take()
            && !writer.held.contains_key(&request.handle)
        {
            writer.queue.insert(request.handle);
        }
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
        for writer in &self.writers {
            let reserve = reserve_handle(&writer.snapshot.node);
            for (handle, addresses) in &writer.held {
                for address in addresses {
                    let holder = stored.get(address);
                    let is_drawn = holder == Some(&reserve)
                        && writer.journal.get(handle).is_some_and(|draw| draw.addresses.contains(address));
                    assert!(holder == Some(handle) || is_drawn, "{address} of {handle} is {holder:?}'s");
                }
            }
            for address in writer.reserve.ready_addresses() {
                assert_eq!(stored.get(&address), Some(&reserve), "{address} is ready");
                assert_eq!(self.owners.get(&address), None, "{address} is ready");
            }
        }
    }

    /// Every container ends and every pool is closed; then nothing may be left.
    fn clean_up(&mut self) {
        for index in 0..self.writers.len() {
            self.crash(index);
        }
        for writer in &mut self.writers {
            writer.snapshot.settings.pools.iter_mut().for_each(|pool| pool.disabled = true);
            for handle in &self.handles {
                let released = writer.reserve.release(handle, rest_from(self.now, 1).unwrap());
                if released == Returned::Elsewhere {
                    writer.snapshot.begin();
                    for steps in 0.. {
                        assert!(steps < 100, "release of {handle} never ends");
                        match release(handle, &writer.snapshot, self.now) {
                            Step::Done(()) => break,
                            step => self.store.execute(&mut writer.snapshot, &step),
                        }
                    }
                }
            }
            self.store.keep_up(&mut writer.snapshot, &mut writer.reserve, self.now);
            assert_eq!((writer.reserve.ready(), writer.reserve.draws().count()), (0, 0));
        }
        assert!(self.store.blocks().all(|block| block.allocated().next().is_none()), "an address is left");
        let left: Vec<_> =
            self.store.objects().filter(|object| matches!(object, Object::Handle(_))).collect();
        assert!(left.is_empty(), "a handle is left: {left:?}");
    }

    /// From whatever state, one node alone gets every address of the pools.
    fn fill(&mut self, capacity: usize) {
        self.now += 120_000_000_000;
        let mut snapshot = self.snapshot("filler");
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
    let (mut granted, mut drawn, mut refused) = (0, 0, 0);
    for seed in 0..250 {
        let mut dice = Dice::new(seed);
        // Few blocks for up to three nodes: they fight, borrow, fill and take blocks from one another.
        let pools = match seed % 4 {
            0 => vec![pool("a", "10.0.0.0/29", 30)],
            1 => vec![pool("a", "10.0.0.0/28", 30)],
            2 => vec![pool("a", "10.0.0.0/27", 29)],
            _ => vec![pool("a", "10.0.0.0/30", 31), pool("b", "10.1.0.0/30", 32)],
        };
        let capacity = pools.iter().map(|pool| 1_usize << (32 - pool.cidr.length())).sum();
        let cooldown = if seed % 5 == 0 { 0 } else { 60 };
        let mut world = World::new(pools, 2 + usize::try_from(seed % 2).unwrap(), cooldown);
        for _ in 0..800 {
            world.turn(&mut dice);
            world.check();
        }
        granted += world.granted;
        drawn += world.drawn;
        refused += world.refused;
        world.clean_up();
        world.fill(capacity);
    }
    // The story is about something only when all of it happens often.
    assert!(
        granted > 5_000 && drawn > 1_000 && refused > 500,
        "{granted} granted, {drawn} of them drawn, {refused} refused"
    );
}
