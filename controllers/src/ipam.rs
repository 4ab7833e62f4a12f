//! Addresses of the whole cluster: what nodes that are gone leave behind, blocks and handles that nobody owns, and
//! how full the pools are.
//!
//! Carries watches to the rules of `ipam::gc` and what follows to the API server. Addresses of living nodes are
//! those nodes' business: only they know what they use. No list of all Pods is ever made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use datastore::{Datastore, Interest, IpamClient, Kind, NodeEvent, timestamp};
use ipam::Version;
use ipam::gc::{self, GoneNodes, Suspects, Turn};
use model::{Block, BlockAffinity, Cidr, Handle, IpPool, IpamConfiguration, NodeName, Update};
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::metrics::{Metrics, Pool};

/// How long things must seem unused.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Before a node that no list has is believed to be gone; it is asked in the meantime. Zero: never.
    pub node: Duration,
    /// Before handles and blocks that nobody owns are deleted. Zero: never.
    pub leak: Duration,
}

/// Nodes and blocks that are dealt with in one pass; the others wait for the next.
const BATCH: usize = 64;
/// Handles are listed as rarely as this many grace periods: there is one for each pod.
const HANDLES_EVERY: u32 = 2;
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Pools as full as this are warned of, in percent, until they are as empty as the other.
const NEARLY_FULL: f64 = 80.0;
const ROOMY: f64 = 75.0;

/// Looks while this replica leads; never ends.
pub async fn run(
    datastore: Datastore,
    mut leads: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    patience: Patience,
) {
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let mut resigned = leads.clone();
        let collector = Collector::new(datastore.clone(), metrics.clone(), patience);
        tokio::select! {
            () = collector.run() => {}
            _ = resigned.wait_for(|leads| !*leads) => {}
        }
    }
}

/// What the watches say.
#[derive(Default)]
struct View {
    in_sync: bool,
    nodes: BTreeSet<NodeName>,
    blocks: BTreeMap<Cidr, Block>,
    claims: BTreeMap<(NodeName, Cidr), BlockAffinity>,
    pools: BTreeMap<String, IpPool>,
    configuration: IpamConfiguration,
}

impl View {
    fn apply(&mut self, update: Update) {
        match update {
            Update::InSync => self.in_sync = true,
            Update::Node(name, Some(_)) => _ = self.nodes.insert(name),
            Update::Node(name, None) => _ = self.nodes.remove(&name),
            Update::Block(cidr, Some(block)) => _ = self.blocks.insert(cidr, *block),
            Update::Block(cidr, None) => _ = self.blocks.remove(&cidr),
            Update::BlockAffinity(node, cidr, Some(claim)) => _ = self.claims.insert((node, cidr), claim),
            Update::BlockAffinity(node, cidr, None) => _ = self.claims.remove(&(node, cidr)),
            Update::Pool(name, Some(pool)) => _ = self.pools.insert(name, pool),
            Update::Pool(name, None) => _ = self.pools.remove(&name),
            Update::IpamConfiguration(configuration) => {
                self.configuration = configuration.unwrap_or_default();
            }
            _ => {}
        }
    }
}

struct Collector {
    datastore: Datastore,
    metrics: Arc<Metrics>,
    patience: Patience,
    view: View,
    gone: GoneNodes,
    unowned: Suspects<Cidr, u64>,
    handles: Suspects<String, Handle>,
    handles_at: Option<Instant>,
    nearly_full: BTreeSet<String>,
}

impl Collector {
    fn new(datastore: Datastore, metrics: Arc<Metrics>, patience: Patience) -> Self {
        Self {
            datastore,
            metrics,
            patience,
            view: View::default(),
            gone: GoneNodes::new(patience.node),
            unowned: Suspects::new(patience.leak),
            handles: Suspects::new(patience.leak),
            handles_at: None,
            nearly_full: BTreeSet::new(),
        }
    }

    async fn run(mut self) {
        let kinds =
            vec![Kind::Node, Kind::IpamBlock, Kind::BlockAffinity, Kind::IpPool, Kind::IpamConfiguration];
        let interest = Interest { kinds, ..Interest::felix(NodeName::from("controllers")) };
        let mut updates = self.datastore.watch(interest);
        let pause = (self.patience.node.min(self.patience.leak) / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let mut at = now();
        loop {
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { return };
                    self.view.apply(update);
                }
                () = sleep_until(at.into()) => {
                    if self.view.in_sync && let Err(error) = self.pass(now()).await {
                        tracing::warn!(%error, "garbage collection of addresses is tried again");
                    }
                    at = now() + pause;
                }
            }
        }
    }

    /// One look at everything, and what follows from it.
    async fn pass(&mut self, now: Instant) -> anyhow::Result<()> {
        self.figures().await;
        let holders = gc::holders(self.view.blocks.values(), self.view.claims.values());
        let turns = self.gone.look(now, &self.view.nodes, &holders);
        self.metrics.ipam_gone.set(count(self.gone.waiting().count()));
        let cooldown = self.view.configuration.cooldown;
        let is_idle = |block: &Block| gc::is_idle(block, nanoseconds(), cooldown);
        let unowned = gc::unowned_blocks(self.view.blocks.values(), is_idle);
        let unowned = self.unowned.look(now, unowned.iter().map(|spare| (spare.cidr, spare.sequence_number)));
        let lists_handles = !self.patience.leak.is_zero() && self.handles_at.is_none_or(|at| now >= at);
        if turns.is_empty() && unowned.is_empty() && !lists_handles {
            return Ok(());
        }
        if !self.datastore.is_ready().await? {
            tracing::info!("the datastore is not ready (datastoreReady); nothing is taken back");
            return Ok(());
        }
        for turn in turns.into_iter().take(BATCH) {
            match turn {
                Turn::Ask(node) => self.ask(&node).await?,
                Turn::Withdraw(node) => self.client(&node).answer().await?,
                Turn::Release(node, version) => self.release(&node, &version).await?,
            }
        }
        for (cidr, _) in unowned.into_iter().take(BATCH) {
            self.client(&NodeName::from("")).drop_unowned(cidr).await?;
            self.unowned.clear(&cidr);
            tracing::info!(block = %cidr, "empty block of nobody deleted");
        }
        if lists_handles {
            self.handles_at = Some(now + HANDLES_EVERY * self.patience.leak);
            self.settle_handles(now).await?;
        }
        Ok(())
    }

    /// Acts for a node that cannot.
    fn client(&self, node: &NodeName) -> IpamClient {
        let client = IpamClient::new(&self.datastore, node.clone());
        client.observe(&Update::IpamConfiguration(Some(self.view.configuration.clone())), node);
        client.observe(&Update::InSync, node);
        client
    }

    async fn ask(&mut self, node: &NodeName) -> anyhow::Result<()> {
        let version = self.client(node).ask().await?;
        tracing::info!(%node, "no Node has this name, but it holds addresses: asked whether it lives");
        self.gone.asked(node, version, now());
        Ok(())
    }

    /// Nobody has answered: once more, by compare-and-swap and not by a list, and then all that it had goes.
    async fn release(&mut self, node: &NodeName, version: &Version) -> anyhow::Result<()> {
        let client = self.client(node);
        let Some(version) = client.is_unanswered(version).await? else {
            tracing::warn!(%node, "no Node has this name, but its agent says that it lives");
            self.gone.answered(node, now());
            return Ok(());
        };
        // What is left after this is tried again, no sooner than the node would have answered.
        self.gone.asked(node, version, now());
        if self.datastore.has_node(node).await? {
            self.gone.answered(node, now());
            client.answer().await?;
            return Ok(());
        }
        let pods = self.datastore.pod_answers(Some(node)).await?;
        let plan = gc::plan(node, self.view.blocks.values(), self.view.claims.values(), &pods);
        let freed = client.clean_up(&plan).await?;
        self.metrics.ipam_reclaimed.inc_by(freed as u64);
        tracing::info!(%node, addresses = freed, blocks = plan.claims.len(), "node is gone; what it had is freed");
        if plan.is_whole() {
            client.answer().await?;
        } else {
            tracing::warn!(%node, blocks = ?plan.kept, "blocks of a node that is gone stay: they have addresses \
                that a Pod uses or of which nobody knows who has them");
        }
        Ok(())
    }

    /// Handles that count what no block says.
    async fn settle_handles(&mut self, now: Instant) -> anyhow::Result<()> {
        let mut held: BTreeSet<&str> = BTreeSet::new();
        for block in self.view.blocks.values() {
            held.extend(block.attributes.iter().filter_map(|attributes| attributes.handle.as_deref()));
        }
        let nodes = &self.view.nodes;
        // A node that lives keeps the handle of its reserve at hand.
        let is_reserve =
            |id: &str| ipam::names::node_of_reserve(id).is_some_and(|node| nodes.contains(&node));
        let mut empty = Vec::new();
        self.datastore
            .each_handle(|handle| {
                if !held.contains(handle.id.as_str()) && !is_reserve(&handle.id) {
                    empty.push((handle.id.clone(), handle));
                }
            })
            .await?;
        let confirmed = self.handles.look(now, empty);
        self.metrics.ipam_candidates.set(count(self.handles.len() + self.unowned.len()));
        for (id, _) in confirmed.into_iter().take(10 * BATCH) {
            self.client(&NodeName::from("")).settle_handle(&id).await?;
            self.handles.clear(&id);
            tracing::info!(handle = id, "handle of nothing deleted");
        }
        Ok(())
    }

    async fn figures(&mut self) {
        let pools: Vec<IpPool> = self.view.pools.values().cloned().collect();
        let metrics = self.metrics.clone();
        let families = [
            &metrics.ipam_size,
            &metrics.ipam_in_use,
            &metrics.ipam_reserved,
            &metrics.ipam_resting,
            &metrics.ipam_borrowed,
            &metrics.ipam_blocks,
        ];
        // A pool that is deleted is shown no more.
        families.iter().for_each(|family| family.clear());
        for pool in gc::usage(&pools, self.view.blocks.values()) {
            let name = pool.pool.as_ref().map_or_else(|| NO_POOL.to_owned(), |(name, _)| name.clone());
            let usage = &pool.usage;
            let values = [
                usage.total,
                usage.in_use,
                usage.reserved,
                usage.resting,
                usage.borrowed,
                usage.blocks as u128,
            ];
            for (family, value) in families.iter().zip(values) {
                family.get_or_create(&Pool { ippool: name.clone() }).set(count(value));
            }
            if pool.pool.is_some() {
                self.warn(&name, usage).await;
            }
        }
    }

    /// Once when a pool becomes nearly full.
    async fn warn(&mut self, pool: &str, usage: &gc::Usage) {
        let percent = usage.percent_used();
        if percent < ROOMY {
            self.nearly_full.remove(pool);
        }
        if percent < NEARLY_FULL || !self.nearly_full.insert(pool.to_owned()) {
            return;
        }
        let message = format!(
            "{percent:.0}% of the addresses are taken: {} in use, {} kept ready by nodes, {} resting, {} free",
            usage.in_use,
            usage.reserved,
            usage.resting,
            usage.free()
        );
        tracing::warn!(pool, message, "pool is nearly full");
        let event = NodeEvent { is_warning: true, reason: "PoolNearlyFull".to_owned(), message };
        if let Err(error) = self.datastore.publish_about_pool(pool, &event, &timestamp()).await {
            tracing::warn!(pool, %error, "the Event cannot be written");
        }
    }
}

/// Label of blocks that no pool covers.
const NO_POOL: &str = "";

fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
