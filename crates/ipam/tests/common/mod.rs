//! A datastore in memory, and helpers to speak with it.
#![allow(dead_code, reason = "each test uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;

use ipam::{
    AssignError, Key, Object, Read, Request, Reserve, Settled, Snapshot, Step, Version, Write, assign, upkeep,
};
use model::{AllowedUse, AssignmentMode, Block, EncapMode, IpPool, Selector};

/// Objects with versions, written by compare-and-swap.
#[derive(Clone, Default)]
pub struct Store {
    objects: BTreeMap<Key, (Object, u64)>,
    revision: u64,
    pub writes: Vec<Write>,
    pub reads: usize,
}

impl Store {
    pub fn get(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key).map(|(object, _)| object)
    }

    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values().map(|(object, _)| object)
    }

    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.objects().filter_map(|object| match object {
            Object::Block(block) => Some(block),
            _ => None,
        })
    }

    pub fn put(&mut self, object: Object) {
        self.revision += 1;
        self.objects.insert(object.key(), (object, self.revision));
    }

    /// Does what a step says and tells the snapshot; a write that fails makes it look again.
    pub fn execute<T: std::fmt::Debug, E: std::fmt::Debug>(
        &mut self,
        snapshot: &mut Snapshot,
        step: &Step<T, E>,
    ) {
        match step {
            Step::Read(Read::One(key)) => self.read(snapshot, key),
            Step::Read(Read::All) => {
                self.reads += 1;
                let is_handle = |object: &Object| matches!(object, Object::Handle(_));
                let all = self.objects.values().filter(|(object, _)| !is_handle(object));
                snapshot.observed_all(all.map(|(object, revision)| (object.clone(), version(*revision))));
            }
            Step::Write(write) => {
                self.writes.push(write.clone());
                match self.write(write) {
                    Ok(version) => snapshot.written(write, version),
                    Err(()) => self.read(snapshot, &write.key()),
                }
            }
            other => panic!("nothing to execute: {other:?}"),
        }
    }

    /// What a node reads when it starts: its claims and their blocks.
    pub fn load_own(&mut self, snapshot: &mut Snapshot) {
        let of_node = |key: &&Key| matches!(key, Key::Affinity(node, _) if *node == snapshot.node);
        let claims: Vec<Key> = self.objects.keys().filter(of_node).cloned().collect();
        for key in claims {
            self.read(snapshot, &key);
            if let Key::Affinity(_, cidr) = key {
                self.read(snapshot, &Key::Block(cidr));
            }
        }
    }

    /// Runs the upkeep of a node to its end.
    pub fn keep_up(&mut self, snapshot: &mut Snapshot, reserve: &mut Reserve, now: u64) -> Settled {
        self.keep_up_by(upkeep, snapshot, reserve, now)
    }

    /// Runs the upkeep of a node to its end, or a part of it.
    pub fn keep_up_by(
        &mut self,
        next: fn(&mut Reserve, &Snapshot, u64) -> Step<Settled, Infallible>,
        snapshot: &mut Snapshot,
        reserve: &mut Reserve,
        now: u64,
    ) -> Settled {
        snapshot.begin();
        let mut first = true;
        for _ in 0..2000 {
            snapshot.blocks().filter(|b| b.is_fresh || first).for_each(|block| reserve.saw(&block.value));
            first = false;
            match next(reserve, snapshot, now) {
                Step::Done(settled) => return settled,
                step => self.execute(snapshot, &step),
            }
        }
        panic!("the upkeep never ends: {:#?}", &self.writes[self.writes.len() - 4..]);
    }

    pub fn read(&mut self, snapshot: &mut Snapshot, key: &Key) {
        self.reads += 1;
        let found = self.objects.get(key).map(|(object, revision)| (object.clone(), version(*revision)));
        snapshot.observed(key.clone(), found);
    }

    pub fn write(&mut self, write: &Write) -> Result<Option<Version>, ()> {
        let key = write.key();
        let present = self.objects.get(&key).map(|(_, revision)| version(*revision));
        self.revision += 1;
        match (write, present) {
            (Write::Create(object), None) => {
                self.objects.insert(key, (object.clone(), self.revision));
                Ok(Some(version(self.revision)))
            }
            (Write::Update(object, expected), Some(present)) if present == *expected => {
                self.objects.insert(key, (object.clone(), self.revision));
                Ok(Some(version(self.revision)))
            }
            (Write::Delete(_, expected), Some(present)) if present == *expected => {
                self.objects.remove(&key);
                Ok(None)
            }
            _ => Err(()),
        }
    }
}

fn version(revision: u64) -> Version {
    Version(revision.to_string())
}

/// Runs a request to its end.
pub fn finish(
    store: &mut Store,
    snapshot: &mut Snapshot,
    request: &Request,
    now: u64,
) -> Result<Vec<IpAddr>, AssignError> {
    for _ in 0..200 {
        match assign(request, snapshot, now) {
            Step::Done(addresses) => return Ok(addresses),
            Step::Failed(error) => return Err(error),
            step => store.execute(snapshot, &step),
        }
    }
    panic!("the request never ends: {request:?}");
}

/// Takes back what a handle holds.
pub fn give_back(store: &mut Store, snapshot: &mut Snapshot, handle: &str) {
    snapshot.begin();
    for _ in 0..200 {
        match ipam::release(handle, snapshot, NOW) {
            Step::Done(()) => return,
            step => store.execute(snapshot, &step),
        }
    }
    panic!("the release never ends: {handle}");
}

/// 2026-01-01, in nanoseconds.
pub const NOW: u64 = 1_767_225_600_000_000_000;

/// Without a cool-down: stories about it set one.
pub fn snapshot(node: &str, pools: &[IpPool]) -> Snapshot {
    let mut snapshot = Snapshot::new(node.into());
    snapshot.settings.pools = pools.to_vec();
    snapshot.settings.configuration.cooldown = 0;
    snapshot
}

/// One IPv4 address for a pod.
pub fn request(handle: &str) -> Request {
    Request { ipv4: 1, ..Request::new(handle, AllowedUse::Workload) }
}

pub fn pool(name: &str, cidr: &str, block_size: u8) -> IpPool {
    IpPool {
        name: name.to_owned(),
        cidr: cidr.parse().unwrap(),
        ipip_mode: EncapMode::Never,
        vxlan_mode: EncapMode::Never,
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        block_size,
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: vec![AllowedUse::Workload, AllowedUse::Tunnel],
        assignment_mode: AssignmentMode::Automatic,
        deleting: false,
        created: 0,
    }
}

/// The same throws for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555_5555)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        // xorshift64*
        self.0 |= 1;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}
