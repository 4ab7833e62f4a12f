//! What a change of the cluster costs a node's speaker, without sockets and kernel: 5 000 nodes with a block each,
//! all in one mesh. Run with `cargo run --release -p bird-lite --example bench-changes`.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp::{Speaker, Start};
use bird_lite::cluster::Cluster;
use bird_lite::origin::Origins;
use bird_lite::peers::Planner;
use model::{
    AffinityState, AllocationAttributes, Block, BlockAffinity, Cidr, IpPool, Node, NodeAddress, NodeName,
    Selector, Update,
};

const NODES: u32 = 5_000;
const ROUNDS: u32 = 200;

fn name(n: u32) -> NodeName {
    NodeName::from(format!("node-{n}").as_str())
}

fn node(n: u32, rack: &str) -> Update {
    at(n, n, rack)
}

fn at(n: u32, place: u32, rack: &str) -> Update {
    let address = IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + place));
    let node = Node {
        labels: BTreeMap::from([("rack".to_owned(), rack.to_owned())]),
        ipv4: Some(NodeAddress { address, length: 16 }),
        internal_ips: vec![address],
        ..Node::named(name(n))
    };
    Update::Node(name(n), Some(node))
}

fn cidr(n: u32) -> Cidr {
    Cidr::truncated(IpAddr::V4(Ipv4Addr::from(0x0a41_0000 + (n << 6))), 26).unwrap()
}

/// The block of node `n` with one address given to an endpoint of `holder`.
fn block(n: u32, sequence_number: u64, holder: u32) -> Update {
    let secondary = BTreeMap::from([
        ("node".to_owned(), name(holder).to_string()),
        ("namespace".to_owned(), "default".to_owned()),
        ("pod".to_owned(), "web".to_owned()),
    ]);
    let mut allocations = vec![None; 64];
    allocations[usize::try_from(sequence_number % 64).unwrap()] = Some(0);
    let block = Block {
        cidr: cidr(n),
        affinity: Some(name(n)),
        allocations,
        unallocated: Vec::new(),
        attributes: vec![AllocationAttributes { handle: None, secondary, released_at: None }],
        sequence_number,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    };
    Update::Block(cidr(n), Some(Box::new(block)))
}

fn pool() -> Update {
    let pool = IpPool {
        name: "pool".to_owned(),
        cidr: "10.64.0.0/10".parse().unwrap(),
        ipip_mode: Default::default(),
        vxlan_mode: Default::default(),
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        block_size: 26,
        node_selector: Selector::all(),
        namespace_selector: Selector::all(),
        allowed_uses: vec![model::AllowedUse::Workload],
        assignment_mode: Default::default(),
        deleting: false,
        created: 0,
    };
    Update::Pool(pool.name.clone(), Some(pool))
}

struct World {
    cluster: Cluster,
    planner: Planner,
    origins: Origins,
    speaker: Speaker,
}

impl World {
    #[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
    fn new() -> Self {
        let mut cluster = Cluster::new(name(0));
        (0..NODES).for_each(|n| cluster.apply(node(n, "a")));
        cluster.apply(pool());
        (0..NODES).for_each(|n| cluster.apply(block(n, 0, n)));
        let own =
            BlockAffinity { node: name(0), cidr: cidr(0), state: AffinityState::Confirmed, deleted: false };
        cluster.apply(Update::BlockAffinity(name(0), cidr(0), Some(own)));
        cluster.apply(Update::InSync);
        cluster.take_changes();
        let mut planner = Planner::default();
        let config = planner.plan(&cluster).unwrap().config;
        let mut origins = Origins::default();
        origins.update(&cluster, &BTreeSet::new(), true);
        Self { cluster, planner, origins, speaker: Speaker::new(config, Start::default(), Instant::now()) }
    }

    /// All that the speaker's process does about an update, but for sockets and kernel.
    #[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
    fn take(&mut self, update: Update) -> Duration {
        let begin = Instant::now();
        self.cluster.apply(update);
        let changes = self.cluster.take_changes();
        let some = match changes.peers || changes.nodes.is_empty() {
            false => self.planner.changes(&self.cluster, &changes.nodes),
            true => None,
        };
        if let Some(some) = some {
            self.speaker.reconfigure_peers(some, begin);
        } else if changes.peers || !changes.nodes.is_empty() {
            let plan = self.planner.plan(&self.cluster).unwrap();
            self.speaker.reconfigure(plan.config, begin);
        }
        for (prefix, origin) in self.origins.update(&self.cluster, &changes.prefixes, changes.all_routes) {
            match origin {
                Some(origin) => self.speaker.originate(prefix, origin),
                None => self.speaker.withdraw(prefix),
            }
        }
        begin.elapsed()
    }

    fn measure(&mut self, what: &str, update: impl Fn(u32) -> Update) {
        let mut times: Vec<Duration> = (1..=ROUNDS).map(|round| self.take(update(round))).collect();
        times.sort();
        let at = |percent: usize| times[times.len() * percent / 100];
        println!("{what:<52} median {:>9.1?}  p99 {:>9.1?}", at(50), at(99));
    }
}

fn main() {
    println!("{NODES} nodes in one mesh, {NODES} blocks, as node 0 sees it; {ROUNDS} rounds");
    let mut world = World::new();
    world.measure("a pod starts on another node", |round| block(7, u64::from(round), 7));
    world.measure("a pod starts here, in our own block", |round| block(0, u64::from(round), 0));
    world.measure("a pod starts here with a borrowed address", |round| block(9, u64::from(round), 0));
    world.measure("a node changes its labels", |round| node(11, if round % 2 == 0 { "a" } else { "b" }));
    world.measure("a node joins", |round| node(NODES + round, "a"));
    world.measure("a node changes its address", |round| at(NODES + round, 20_000 + round, "a"));
    world.measure("a node goes", |round| Update::Node(name(NODES + round), None));
    world.measure("a whole plan, as for a change of BGPConfiguration", |round| {
        let own = model::BgpConfiguration { maximum_paths: 8 + (round as usize % 2), ..Default::default() };
        Update::BgpConfiguration(Some(Box::new(own)))
    });
}
