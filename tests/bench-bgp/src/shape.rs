//! The shapes of load. Owns who takes part in each, what they announce, and when a phase has ended.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use crate::session::{Goal, Role};
use crate::subject::{ADDRESS, ASN, Neighbour, PORT, Running, Subject};
use crate::usage;
use crate::wire;
use crate::world::World;

/// AS of the router outside of the mesh.
const OUTSIDE: u32 = 65001;
/// Blocks of addresses that a node announces.
const BLOCKS: u32 = 5;
/// Time between two connections of a cold start: with all at once the kernel's SYN timers are measured.
const PACE: Duration = Duration::from_millis(2);

/// A shape of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// 500 000 routes in, out to one receiver; then all withdrawn
    Full,
    /// 100 000 routes in messages of 5 whose attributes differ; then all withdrawn
    Small,
    /// One sends 10 000 routes, 199 clients receive all; then all withdrawn
    Fanout,
    /// 200 connected clients each announce 5 blocks, all receive all; then a node joins
    Reflector,
    /// 200 clients connect and converge; then a node joins
    Cold,
    /// 5 000 clients with a block each connect and converge
    Clients5000,
    /// A mesh of 500 with 5 blocks each as one node sees it, and a router outside; then a node joins
    Mesh,
    /// 200 clients with 5 blocks each, and nothing happens
    Idle,
}

/// What a phase cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// Seconds until the last receiver knew all.
    pub(crate) wall: f64,
    /// CPU seconds of the subject, including what it did after that within [`AFTER`].
    pub(crate) cpu: f64,
    /// Peak memory in MB.
    pub(crate) peak: f64,
}

/// Work that goes on after the last receiver is served counts as well.
const AFTER: Duration = Duration::from_millis(200);

/// The cost of a phase, or why there is none.
pub(crate) type Outcome = Result<Cost, String>;

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For each phase.
    pub(crate) phase: Duration,
    /// How long idleness is watched.
    pub(crate) idle: Duration,
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "500 000 routes to one receiver",
            Self::Small => "100 000 routes in messages of 5",
            Self::Fanout => "10 000 routes to 199 clients",
            Self::Reflector => "reflector, 200 clients x 5 blocks",
            Self::Cold => "the same cold",
            Self::Clients5000 => "5 000 clients x 1 block, cold",
            Self::Mesh => "mesh of 500 from one node's view",
            Self::Idle => "200 peers, idle",
        }
    }

    /// Phases in their order.
    pub(crate) fn phases(self) -> &'static [&'static str] {
        match self {
            Self::Full | Self::Small | Self::Fanout => &["announce", "withdraw"],
            Self::Reflector => &["announce", "join"],
            Self::Cold | Self::Mesh => &["cold", "join"],
            Self::Clients5000 => &["cold"],
            Self::Idle => &["idle"],
        }
    }

    fn plan(self) -> Plan {
        match self {
            Self::Full => Plan { clients: 2, sent: 500_000, ..Plan::NONE },
            Self::Small => Plan { clients: 2, sent: 100_000, per_message: 5, ..Plan::NONE },
            Self::Fanout => Plan { clients: 200, sent: 10_000, ..Plan::NONE },
            Self::Reflector | Self::Cold | Self::Idle => Plan { clients: 200, blocks: BLOCKS, ..Plan::NONE },
            Self::Clients5000 => Plan { clients: 5000, blocks: 1, ..Plan::NONE },
            Self::Mesh => Plan { clients: 499, blocks: BLOCKS, mesh: true, ..Plan::NONE },
        }
    }

    /// Runs all phases against a fresh subject.
    pub(crate) fn run(
        self,
        subject: Subject,
        program: &Path,
        dir: &Path,
        limits: Limits,
    ) -> anyhow::Result<Vec<Outcome>> {
        let plan = self.plan();
        let running = subject.start(program, &plan.neighbours(), dir)?;
        let world = World::new(SocketAddrV4::new(ADDRESS, PORT))?;
        let mut stage = Stage { plan, running, world, limits };
        let outcomes = stage.play(self);
        outcomes.with_context(|| format!("the subject's log:\n{}", stage.running.log_tail()))
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Clients, or nodes of the mesh, without the one that joins later.
    clients: u32,
    /// Blocks that each of them announces.
    blocks: u32,
    /// Prefixes that the first client alone announces.
    sent: u32,
    per_message: usize,
    mesh: bool,
}

impl Plan {
    const NONE: Self = Self { clients: 0, blocks: 0, sent: 0, per_message: usize::MAX, mesh: false };

    /// One more than take part from the start: the node that joins.
    fn neighbours(self) -> Vec<Neighbour> {
        let nodes = (0..=self.clients).map(|i| Neighbour { address: node(i), asn: ASN, client: !self.mesh });
        let outside = Neighbour { address: node(self.clients + 1), asn: OUTSIDE, client: false };
        nodes.chain(self.mesh.then_some(outside)).collect()
    }

    fn own(self, i: u32) -> Range<u32> {
        match self.sent {
            0 => i * self.blocks..(i + 1) * self.blocks,
            sent if i == 0 => 0..sent,
            _ => 0..0,
        }
    }

    /// All prefixes with those of the node that joins.
    fn prefixes(self) -> u32 {
        self.sent + self.blocks * (self.clients + 1)
    }

    fn announcement(self, i: u32) -> Rc<[u8]> {
        wire::announce(self.own(i), self.per_message, node(i), self.per_message != usize::MAX).into()
    }
}

fn node(i: u32) -> Ipv4Addr {
    let [.., high, low] = (i + 256).to_be_bytes();
    Ipv4Addr::new(10, 201, high, low)
}

/// A subject with its load around it.
struct Stage {
    plan: Plan,
    running: Running,
    world: World,
    limits: Limits,
}

impl Stage {
    fn play(&mut self, shape: Shape) -> anyhow::Result<Vec<Outcome>> {
        let warm = !matches!(shape, Shape::Cold | Shape::Clients5000 | Shape::Mesh);
        let plan = self.plan;
        for i in 0..plan.clients {
            let first = (!warm || shape == Shape::Idle).then(|| plan.announcement(i));
            self.world.add(Role { address: node(i), asn: ASN, own: plan.own(i), first }, plan.prefixes());
        }
        if plan.mesh {
            let role = Role { address: node(plan.clients + 1), asn: OUTSIDE, own: 0..0, first: None };
            self.world.add(role, plan.prefixes());
        }
        if warm && let Err(outcome) = self.warm_up(shape)? {
            return Ok(vec![Err(outcome)]);
        }
        let mut outcomes = Vec::new();
        for phase in shape.phases() {
            let outcome = match *phase {
                "announce" => self.measure(Self::announce)?,
                "withdraw" => self.measure(Self::withdraw)?,
                "cold" => self.measure(|stage| {
                    stage.expect_all();
                    stage.world.connect(if shape == Shape::Clients5000 { Duration::ZERO } else { PACE });
                    Ok(())
                })?,
                "join" => self.measure(Self::join)?,
                _ => self.idle()?,
            };
            let failed = outcome.is_err();
            outcomes.push(outcome);
            if failed {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Everybody connects, and the subject comes to rest.
    fn warm_up(&mut self, shape: Shape) -> anyhow::Result<Result<(), String>> {
        if shape == Shape::Idle {
            self.expect_all();
        }
        self.world.connect(PACE);
        if !self.world.run(self.limits.phase)? {
            return Ok(Err(format!("warm-up: {}", self.world.missing())));
        }
        for _ in 0..50 {
            let before = usage::cpu(self.running.group());
            self.world.idle(Duration::from_millis(200))?;
            if usage::cpu(self.running.group()) - before < Duration::from_millis(4) {
                break;
            }
        }
        Ok(Ok(()))
    }

    fn measure(&mut self, begin: impl FnOnce(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<Outcome> {
        let cpu = usage::cpu(self.running.group());
        let start = Instant::now();
        begin(self)?;
        if !self.world.run(self.limits.phase)? {
            return Ok(Err(format!("more than {} s: {}", self.limits.phase.as_secs(), self.world.missing())));
        }
        let wall = start.elapsed();
        self.world.idle(AFTER)?;
        if self.world.retries > 0 {
            eprintln!("{} connections were refused or closed and tried again", self.world.retries);
        }
        Ok(Ok(self.cost(wall, cpu)))
    }

    fn cost(&self, wall: Duration, before: Duration) -> Cost {
        let cpu = usage::cpu(self.running.group()) - before;
        let peak = usage::peak(self.running.group()) as f64 / 1e6;
        Cost { wall: wall.as_secs_f64(), cpu: cpu.as_secs_f64(), peak }
    }

    /// Everybody is to know all that the others of the start announce.
    fn expect_all(&mut self) {
        let all = self.plan.sent + self.plan.blocks * self.plan.clients;
        for i in 0..self.world.sessions.len() {
            // Nodes of a mesh hear the others' routes from the others.
            let is_node = i < self.plan.clients as usize;
            let own = if is_node { self.plan.own(i as u32).len() } else { 0 };
            let known = if self.plan.mesh && is_node { 0 } else { all as usize - own };
            self.world.expect(i, Goal::Knows(known));
        }
    }

    fn announce(&mut self) -> anyhow::Result<()> {
        self.expect_all();
        let senders = if self.plan.sent > 0 { 1 } else { self.plan.clients };
        (0..senders).try_for_each(|i| self.world.send(i as usize, self.plan.announcement(i)))
    }

    fn withdraw(&mut self) -> anyhow::Result<()> {
        (1..self.world.sessions.len()).for_each(|i| self.world.expect(i, Goal::Forgets(0)));
        self.world.send(0, wire::withdraw(self.plan.own(0)).into())
    }

    fn join(&mut self) -> anyhow::Result<()> {
        let (plan, i) = (self.plan, self.plan.clients);
        for at in 0..self.world.sessions.len() {
            if let Goal::Knows(n) = self.world.sessions[at].goal
                && n > 0
            {
                self.world.expect(at, Goal::Knows(n + plan.blocks as usize));
            }
        }
        let first = Some(plan.announcement(i));
        let new =
            self.world.add(Role { address: node(i), asn: ASN, own: plan.own(i), first }, plan.prefixes());
        let known = if plan.mesh { 0 } else { plan.clients * plan.blocks };
        self.world.expect(new, Goal::Knows(known as usize));
        self.world.connect(Duration::ZERO);
        Ok(())
    }

    fn idle(&mut self) -> anyhow::Result<Outcome> {
        let cpu = usage::cpu(self.running.group());
        self.world.idle(self.limits.idle)?;
        Ok(Ok(self.cost(self.limits.idle, cpu)))
    }
}
