//! Garbage collection while the API server lies: lists that are empty, old or lack entries, wrong UIDs, requests
//! that fail. No living pod ever loses its address, and once the lies end every leak is gone within some rounds.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::disallowed_methods, reason = "a beginning of time for tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{Dice, Store, pool, snapshot};
use ipam::gc::{
    Allocation, GoneNodes, Leak, OwnTruth, PodAnswer, Suspects, Turn, allocations, drop_unowned, end_claim,
    holders, is_idle, is_question, is_used_by, own_suspects, plan, question, release_spare, settle_handle,
    spare_blocks, take_back, unowned_blocks,
};
use ipam::{Key, Object, Request, Snapshot, Step, Version, Write, assign, release};
use model::{AllowedUse, BlockAffinity, Handle, IpPool, NodeName, PodKey};

const GRACE: Duration = Duration::from_secs(60);
const NODES: usize = 3;

/// A pod that runs: it has an interface on its node.
#[derive(Clone, Debug)]
struct Running {
    handle: String,
    addresses: Vec<IpAddr>,
    pod: PodKey,
}

struct Machine {
    name: NodeName,
    /// Its containers, which nobody can lie to it about.
    running: Vec<Running>,
    is_alive: bool,
    /// The agent is away until then.
    agent_from: Instant,
    suspects: Suspects<String, Vec<Leak>>,
    spare: Suspects<model::Cidr, u64>,
}

/// What the API server would say if it were honest.
#[derive(Clone, Default)]
struct Api {
    store: Store,
    nodes: BTreeSet<NodeName>,
    pods: BTreeMap<PodKey, PodAnswer>,
}

struct World {
    api: Api,
    /// Earlier states, for stale answers.
    history: Vec<Api>,
    machines: Vec<Machine>,
    pools: Vec<IpPool>,
    gone: GoneNodes,
    unowned: Suspects<model::Cidr, u64>,
    orphans: Suspects<String, Handle>,
    now: Instant,
    nanoseconds: u64,
    started: usize,
    is_lying: bool,
    /// A node that no answer has for as long as this stands: an API server that fell behind, and stays so.
    hidden: Option<NodeName>,
    freed: usize,
    lies: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let machine = |index: usize| Machine {
            name: NodeName::from(format!("n{index}").as_str()),
            running: Vec::new(),
            is_alive: true,
            agent_from: now,
            suspects: Suspects::new(GRACE),
            spare: Suspects::new(GRACE),
        };
        let machines: Vec<Machine> = (0..NODES).map(machine).collect();
        let nodes = machines.iter().map(|machine| machine.name.clone()).collect();
        Self {
            api: Api { nodes, ..Api::default() },
            history: Vec::new(),
            machines,
            pools: vec![pool("a", "10.0.0.0/27", 30)],
            gone: GoneNodes::new(GRACE),
            unowned: Suspects::new(GRACE),
            orphans: Suspects::new(GRACE),
            now,
            nanoseconds: 1_000_000_000,
            started: 0,
            is_lying: true,
            hidden: None,
            freed: 0,
            lies: 0,
        }
    }

    /// What the API server says this time; `None`: it does not answer.
    fn answer(&mut self, dice: &mut Dice) -> Option<Api> {
        let mut said = self.api.clone();
        if !self.is_lying {
            return Some(said);
        }
        if let Some(hidden) = &self.hidden {
            said.nodes.remove(hidden);
            let is_elsewhere = |answer: &PodAnswer| !matches!(answer, PodAnswer::Present { node: Some(node), .. } if node == hidden);
            said.pods.retain(|_, answer| is_elsewhere(answer));
            return Some(said);
        }
        self.lies += 1;
        match dice.below(8) {
            0 => return None,
            1 => said = Api::default(),
            2 if !self.history.is_empty() => said = self.history[dice.below(self.history.len())].clone(),
            3 => said.pods.retain(|_, _| dice.below(2) == 0),
            4 => said.nodes.retain(|_| dice.below(2) == 0),
            5 => said.nodes.clear(),
            6 => {
                for answer in said.pods.values_mut() {
                    if let PodAnswer::Present { uid, addresses, .. } = answer {
                        uid.push('x');
                        addresses.clear();
                    }
                }
            }
            _ => self.lies -= 1,
        }
        Some(said)
    }

    /// Runs steps; what is read may be a lie, a write never overwrites what it does not know.
    fn run<E: std::fmt::Debug>(
        &mut self,
        dice: &mut Dice,
        snapshot: &mut Snapshot,
        next: impl Fn(&Snapshot) -> Step<(), E>,
    ) {
        for _ in 0..40 {
            match next(snapshot) {
                Step::Done(()) | Step::Failed(_) => return,
                Step::Read(ipam::Read::One(key)) => {
                    let Some(mut said) = self.answer(dice) else { return };
                    said.store.read(snapshot, &key);
                }
                Step::Write(write) => {
                    // The process may end between any two writes.
                    if self.is_lying && dice.below(10) == 0 {
                        return;
                    }
                    let before =
                        self.api.store.blocks().map(|block| allocations(block).count()).sum::<usize>();
                    match self.api.store.write(&write) {
                        Ok(version) => snapshot.written(&write, version),
                        Err(()) => self.api.store.clone().read(snapshot, &write.key()),
                    }
                    let after =
                        self.api.store.blocks().map(|block| allocations(block).count()).sum::<usize>();
                    self.freed += before.saturating_sub(after);
                }
                Step::Read(read) => panic!("nobody needs {read:?}"),
            }
        }
    }

    fn start_pod(&mut self, dice: &mut Dice, index: usize) {
        let machine = &self.machines[index];
        if !machine.is_alive || machine.agent_from > self.now || machine.running.len() > 3 {
            return;
        }
        self.started += 1;
        let pod = PodKey::new("default", &format!("p{}", dice.below(6)));
        if self.api.pods.contains_key(&pod) {
            return;
        }
        let (node, uid) = (machine.name.clone(), format!("u{}", self.started));
        let handle = format!("net.{}", self.started);
        let mut request =
            Request { ipv4: 1 + dice.below(2) as u32, ..Request::new(&handle, AllowedUse::Workload) };
        let attributes =
            [("node", node.as_str()), ("namespace", "default"), ("pod", &pod.name), ("uid", uid.as_str())];
        request.attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let mut view = snapshot(node.as_str(), &self.pools);
        let dies_after = if dice.below(5) == 0 { dice.below(4) } else { 60 };
        for _ in 0..dies_after {
            match assign(&request, &view, self.nanoseconds) {
                Step::Done(addresses) => {
                    let answer = PodAnswer::Present {
                        uid,
                        node: Some(node),
                        addresses: if dice.below(3) == 0 { Vec::new() } else { addresses.clone() },
                        is_finished: false,
                    };
                    self.api.pods.insert(pod.clone(), answer);
                    self.machines[index].running.push(Running { handle, addresses, pod });
                    return;
                }
                Step::Failed(_) => return,
                step => self.api.store.execute(&mut view, &step),
            }
        }
    }

    /// A pod ends; `properly`: and its addresses are released.
    fn end_pod(&mut self, dice: &mut Dice, index: usize, properly: bool) {
        let machine = &mut self.machines[index];
        if machine.running.is_empty() {
            return;
        }
        let ended = machine.running.swap_remove(dice.below(machine.running.len()));
        self.api.pods.remove(&ended.pod);
        let mut view = snapshot(machine.name.as_str(), &self.pools);
        if !properly {
            return;
        }
        loop {
            match release(&ended.handle, &view, self.nanoseconds) {
                Step::Done(()) => return,
                step => self.api.store.execute(&mut view, &step),
            }
        }
    }

    /// A machine is lost with all that ran on it, or comes back empty under the same name.
    fn lose_or_restore(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        machine.is_alive = !machine.is_alive;
        if machine.is_alive {
            self.api.nodes.insert(machine.name.clone());
            machine.suspects.clear_all();
            return;
        }
        self.api.nodes.remove(&machine.name);
        for ended in std::mem::take(&mut machine.running) {
            self.api.pods.remove(&ended.pod);
        }
    }

    /// Living nodes that are asked say so: agents watch their own claims, and that is answered at once.
    fn answer_questions(&mut self) {
        for machine in self.machines.iter().filter(|m| m.is_alive && m.agent_from <= self.now) {
            if let Some(version) = version_of(&self.api, &machine.name) {
                let key = Key::Affinity(machine.name.clone(), question(&machine.name).cidr);
                self.api.store.write(&Write::Delete(key, version)).unwrap();
            }
        }
    }

    /// A living node looks after its own addresses.
    fn own_turn(&mut self, dice: &mut Dice, index: usize) {
        let now = self.nanoseconds;
        let machine = &self.machines[index];
        if !machine.is_alive || machine.agent_from > self.now {
            return;
        }
        let name = machine.name.clone();
        let Some(said) = self.answer(dice) else { return };
        let own = said.store.blocks().flat_map(allocations).filter(|a| a.node.as_ref() == Some(&name));
        let machine = &mut self.machines[index];
        let truth = OwnTruth {
            handles: machine.running.iter().map(|running| running.handle.clone()).collect(),
            ..OwnTruth::default()
        };
        let suspects = own_suspects(own.collect::<Vec<_>>(), &truth, |_| false);
        let confirmed = machine.suspects.look(self.now, suspects);
        let spare = spare_blocks(&name, said.store.blocks(), &self.pools, |b| is_idle(b, now, 60));
        let spare = machine.spare.look(self.now, spare.iter().map(|s| (s.cidr, s.sequence_number)));
        for (handle, leaks) in confirmed {
            let Some(said) = self.answer(dice) else { continue };
            let uses = |a: &Allocation| {
                let model = match &a.user {
                    ipam::gc::User::Pod { key, .. } => key,
                    _ => return false,
                };
                is_used_by(a, said.pods.get(model).unwrap_or(&PodAnswer::Absent)).is_ok()
            };
            let is_leak = |a: &Allocation| leaks.iter().any(|leak| leak.address == a.address);
            if said.store.blocks().flat_map(allocations).filter(is_leak).any(|a| uses(&a)) {
                continue;
            }
            let mut view = snapshot(name.as_str(), &self.pools);
            self.run(dice, &mut view, |view| take_back(&leaks, view, None));
            self.run(dice, &mut view, |view| settle_handle(&handle, view));
            self.machines[index].suspects.clear(&handle);
        }
        for (cidr, _) in spare {
            let mut view = snapshot(name.as_str(), &self.pools);
            self.run(dice, &mut view, |view| release_spare(view, cidr, now));
        }
    }

    /// The controllers look after nodes that are gone and what nobody owns.
    fn cluster_turn(&mut self, dice: &mut Dice) {
        let now = self.nanoseconds;
        let Some(said) = self.answer(dice) else { return };
        let affinities: Vec<BlockAffinity> = affinities(&said.store).cloned().collect();
        let all = holders(said.store.blocks(), &affinities);
        for turn in self.gone.look(self.now, &said.nodes, &all) {
            match turn {
                Turn::Ask(node) => self.ask(dice, &node),
                Turn::Release(node, version) => self.release_node(dice, &node, version),
                Turn::Withdraw(node) => self.withdraw(&node),
            }
        }
        let unowned = unowned_blocks(said.store.blocks(), |block| is_idle(block, now, 60));
        let unowned = self.unowned.look(self.now, unowned.iter().map(|s| (s.cidr, s.sequence_number)));
        for (cidr, _) in unowned {
            let mut view = snapshot("", &[]);
            self.run(dice, &mut view, |view| drop_unowned(view, cidr, now));
        }
        let Some(said) = self.answer(dice) else { return };
        let held: BTreeSet<String> =
            said.store.blocks().flat_map(allocations).filter_map(|a| a.handle).collect();
        let empty = said.store.objects().filter_map(|object| match object {
            Object::Handle(handle) if !held.contains(&handle.id) => Some((handle.id.clone(), handle.clone())),
            _ => None,
        });
        for (id, _) in self.orphans.look(self.now, empty.collect::<Vec<_>>()) {
            let mut view = snapshot("", &[]);
            self.run(dice, &mut view, |view| settle_handle(&id, view));
        }
    }

    fn ask(&mut self, dice: &mut Dice, node: &NodeName) {
        let create = Write::Create(Object::Affinity(question(node)));
        let version = match self.api.store.write(&create) {
            Ok(version) => version,
            Err(()) => self.answer(dice).and_then(|said| version_of(&said, node)),
        };
        if let Some(version) = version {
            self.gone.asked(node, version, self.now);
        }
    }

    fn release_node(&mut self, dice: &mut Dice, node: &NodeName, version: Version) {
        let now = self.nanoseconds;
        let confirm = Write::Update(Object::Affinity(question(node)), version);
        let Ok(version) = self.api.store.write(&confirm) else {
            return self.gone.answered(node, self.now);
        };
        self.gone.asked(node, version.unwrap(), self.now);
        let Some(said) = self.answer(dice) else { return };
        if said.nodes.contains(node) {
            return self.gone.answered(node, self.now);
        }
        let affinities: Vec<BlockAffinity> = affinities(&said.store).cloned().collect();
        let plan = plan(node, said.store.blocks(), &affinities, &said.pods);
        let mut view = snapshot(node.as_str(), &[]);
        self.run(dice, &mut view, |view| take_back(&plan.leaks, view, None));
        for handle in plan.leaks.iter().filter_map(|leak| leak.handle.clone()).collect::<BTreeSet<_>>() {
            let mut view = snapshot(node.as_str(), &[]);
            self.run(dice, &mut view, |view| settle_handle(&handle, view));
        }
        for cidr in &plan.claims {
            let mut view = snapshot(node.as_str(), &[]);
            self.run(dice, &mut view, |view| end_claim(view, *cidr, now));
        }
        let left = holders(self.api.store.blocks(), affinities_but_questions(&self.api.store));
        if !left.contains(node) {
            self.withdraw(node);
        }
    }

    fn withdraw(&mut self, node: &NodeName) {
        if let Some(version) = version_of(&self.api, node) {
            let _ = self
                .api
                .store
                .write(&Write::Delete(Key::Affinity(node.clone(), question(node).cidr), version));
        }
    }

    fn turn(&mut self, dice: &mut Dice) {
        self.pass(Duration::from_secs(dice.below(15) as u64));
        let index = dice.below(NODES);
        match dice.below(12) {
            0..3 => self.start_pod(dice, index),
            3 => self.end_pod(dice, index, true),
            4 => self.end_pod(dice, index, false),
            5 if dice.below(6) == 0 => self.lose_or_restore(index),
            // An agent is never away for as long as a node is waited for.
            6 if self.machines[index].agent_from + GRACE / 2 < self.now => {
                self.machines[index].agent_from = self.now + GRACE / 4;
            }
            7 => match dice.below(8) {
                0 => self.hidden = Some(self.machines[index].name.clone()),
                1 => self.hidden = None,
                _ => self.history.push(self.api.clone()),
            },
            8 | 9 => self.cluster_turn(dice),
            _ => {
                for index in 0..NODES {
                    self.own_turn(dice, index);
                }
            }
        }
        self.check();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.nanoseconds += u64::try_from(time.as_nanos()).unwrap();
        self.answer_questions();
    }

    /// Every pod that runs has what it was given.
    fn check(&self) {
        let mut held = BTreeMap::new();
        for allocation in self.api.store.blocks().flat_map(allocations) {
            held.insert(allocation.address, allocation.handle.unwrap());
        }
        for running in self.machines.iter().flat_map(|machine| &machine.running) {
            for address in &running.addresses {
                assert_eq!(held.get(address), Some(&running.handle), "{running:?} has lost {address}");
            }
        }
    }

    /// With an honest API server: nothing is left but what is in use.
    fn settle(&mut self, dice: &mut Dice) {
        self.is_lying = false;
        if self.api.nodes.is_empty() {
            // A list without any node proves nothing, for ever.
            self.lose_or_restore(0);
        }
        for _ in 0..24 {
            self.pass(GRACE / 3);
            for index in 0..NODES {
                self.own_turn(dice, index);
            }
            self.cluster_turn(dice);
            self.check();
        }
        let used: BTreeSet<&String> = self
            .machines
            .iter()
            .flat_map(|machine| &machine.running)
            .map(|running| &running.handle)
            .collect();
        for allocation in self.api.store.blocks().flat_map(allocations) {
            assert!(used.contains(&allocation.handle.clone().unwrap()), "{allocation:?} is left");
        }
        for object in self.api.store.objects() {
            match object {
                Object::Handle(handle) => assert!(used.contains(&handle.id), "{handle:?} is left"),
                Object::Affinity(affinity) => assert!(
                    self.api.nodes.contains(&affinity.node) && !is_question(affinity.cidr),
                    "{affinity:?} is left"
                ),
                Object::Block(block) => {
                    assert!(block.affinity.is_some() || !ipam::is_empty(block), "{block:?} is left");
                }
            }
        }
    }
}

fn affinities(store: &Store) -> impl Iterator<Item = &BlockAffinity> {
    store.objects().filter_map(|object| match object {
        Object::Affinity(affinity) => Some(affinity),
        _ => None,
    })
}

fn affinities_but_questions(store: &Store) -> impl Iterator<Item = &BlockAffinity> {
    affinities(store).filter(|affinity| !is_question(affinity.cidr))
}

fn version_of(said: &Api, node: &NodeName) -> Option<Version> {
    let mut view = snapshot(node.as_str(), &[]);
    said.store.clone().read(&mut view, &Key::Affinity(node.clone(), question(node).cidr));
    view.own_affinity(question(node).cidr).map(|found| found.version.clone())
}

#[test]
fn a_lying_api_server_costs_no_pod_its_address_and_every_leak_ends() {
    let (mut freed, mut lies) = (0, 0);
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut world = World::new();
        for _ in 0..300 {
            world.turn(&mut dice);
        }
        world.settle(&mut dice);
        freed += world.freed;
        lies += world.lies;
    }
    // The story is about something only when there was much to free, and much that was not true.
    assert!(freed > 500 && lies > 5_000, "{freed} freed, {lies} lies");
}
