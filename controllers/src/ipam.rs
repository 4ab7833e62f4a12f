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
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use crate::metrics::{Metrics, Pool, PoolNode, PoolState};
use crate::settings::{Decided, Settings};
use crate::{leader, load_balancer};

/// Nodes and blocks that are dealt with in one pass; the others wait for the next.
const BATCH: usize = 64;
/// Handles are listed as rarely as this many grace periods: there is one for each pod.
const HANDLES_EVERY: u32 = 2;
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Pools as full as this are warned of, in percent, until they are as empty as the other.
const NEARLY_FULL: f64 = 80.0;
const ROOMY: f64 = 75.0;

/// Updates that wait for one who goes by them.
const CHANNEL: usize = 256;

/// Looks while this replica leads, and gives Services addresses; never ends. A node that no list has, and that is
/// asked in the meantime, is believed to be gone after `node_grace`; zero: never.
pub async fn run(
    datastore: Datastore,
    leads: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    settings: Settings,
    node_grace: Duration,
) {
    leader::while_leading(leads, || lead(&datastore, &metrics, &settings, node_grace)).await;
}

/// One watch for both.
async fn lead(datastore: &Datastore, metrics: &Arc<Metrics>, settings: &Settings, node_grace: Duration) {
    let kinds = vec![
        Kind::NodeName,
        Kind::IpamBlock,
        Kind::BlockAffinity,
        Kind::IpPool,
        Kind::IpamConfiguration,
        Kind::IpReservation,
    ];
    let interest = Interest { kinds, ..Interest::felix(NodeName::from("controllers")) };
    let mut updates = datastore.watch(interest);
    let (to_collector, for_collector) = mpsc::channel(CHANNEL);
    let (to_balancer, mut for_balancer) = mpsc::channel(CHANNEL);
    let hand_on = async {
        while let Some(update) = updates.recv().await {
            let is_for_balancer = !matches!(update, Update::Node(..) | Update::BlockAffinity(..));
            if is_for_balancer && to_balancer.send(update.clone()).await.is_err() {
                return;
            }
            if to_collector.send(update).await.is_err() {
                return;
            }
        }
    };
    let collector = Collector::new(datastore.clone(), metrics.clone(), settings.clone(), node_grace);
    tokio::select! {
        () = hand_on => {}
        () = collector.run(for_collector) => {}
        () = load_balancer::writer::write(datastore, &mut for_balancer, settings.clone(), metrics) => {}
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
    reservations: BTreeMap<String, Vec<Cidr>>,
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
            Update::IpReservation(name, Some(ranges)) => _ = self.reservations.insert(name, ranges),
            Update::IpReservation(name, None) => _ = self.reservations.remove(&name),
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
    settings: Settings,
    /// Before a node that no list has is believed to be gone.
    node_grace: Duration,
    /// Before handles and blocks that nobody owns are deleted; zero: never.
    leak_grace: Duration,
    view: View,
    gone: GoneNodes,
    unowned: Suspects<Cidr, u64>,
    handles: Suspects<String, Handle>,
    handles_at: Option<Instant>,
    nearly_full: BTreeSet<String>,
}

impl Collector {
    fn new(datastore: Datastore, metrics: Arc<Metrics>, settings: Settings, node_grace: Duration) -> Self {
        let leak_grace = Decided::LEAK_GRACE_PERIOD;
        Self {
            datastore,
            metrics,
            settings,
            node_grace,
            leak_grace,
            view: View::default(),
            gone: GoneNodes::new(node_grace),
            unowned: Suspects::new(leak_grace),
            handles: Suspects::new(leak_grace),
            handles_at: None,
            nearly_full: BTreeSet::new(),
        }
    }

    async fn run(mut self, mut updates: mpsc::Receiver<Update>) {
        if self.settings.wait_for(Option::is_some).await.is_err() {
            return;
        }
        self.settings.mark_changed();
        let mut at = now();
        loop {
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { return };
                    self.view.apply(update);
                }
                changed = self.settings.changed() => {
                    if changed.is_err() { return }
                    self.take_settings();
                    at = now();
                }
                () = sleep_until(at.into()) => {
                    if self.view.in_sync && let Err(error) = self.pass(now()).await {
                        tracing::warn!(%error, "garbage collection of addresses is tried again");
                    }
                    let soonest = self.node_grace.min(self.leak_grace) / 4;
                    at = now() + soonest.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
                }
            }
        }
    }

    fn take_settings(&mut self) {
        let settings = self.settings.borrow_and_update();
        let grace = settings.as_ref().and_then(|settings| settings.leak_grace_period);
        self.leak_grace = grace.unwrap_or(Decided::LEAK_GRACE_PERIOD);
        self.unowned.set_grace(self.leak_grace);
        self.handles.set_grace(self.leak_grace);
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
        let lists_handles = !self.leak_grace.is_zero() && self.handles_at.is_none_or(|at| now >= at);
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
            self.handles_at = Some(now + HANDLES_EVERY * self.leak_grace);
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
        metrics.ipam_ips.clear();
        let reservations: Vec<Cidr> = self.view.reservations.values().flatten().copied().collect();
        let mut usages = gc::usage(&pools, self.view.blocks.values());
        gc::withhold(&mut usages, &reservations, self.view.blocks.values());
        let leaked = self.figures_by_node(&pools);
        for pool in usages {
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
            let leaked = leaked.get(&name).copied().unwrap_or_default();
            let states = [
                ("allocated", usage.in_use.saturating_sub(leaked)),
                ("leaked", leaked),
                ("ready", usage.reserved),
                ("resting", usage.resting),
                ("withheld", usage.withheld),
                ("free", usage.free()),
            ];
            for (state, value) in states {
                metrics.ipam_ips.get_or_create(&PoolState { ippool: name.clone(), state }).set(count(value));
            }
            if pool.pool.is_some() {
                self.warn(&name, usage).await;
            }
        }
    }

    /// What each node has; returns by pool how many addresses are in use by nodes that seem gone.
    fn figures_by_node(&self, pools: &[IpPool]) -> BTreeMap<String, u128> {
        let metrics = &self.metrics;
        let families =
            [&metrics.node_in_use, &metrics.node_reserved, &metrics.node_borrowed, &metrics.node_blocks];
        families.iter().for_each(|family| family.clear());
        let waiting: BTreeSet<&NodeName> = self.gone.waiting().map(|(node, _)| node).collect();
        let mut leaked: BTreeMap<String, u128> = BTreeMap::new();
        for ((ippool, node), usage) in gc::usage_by_node(pools, self.view.blocks.values()) {
            if waiting.contains(&NodeName::from(node.as_str())) {
                *leaked.entry(ippool.clone()).or_default() += usage.in_use;
            }
            let values = [usage.in_use, usage.reserved, usage.borrowed, usage.blocks as u128];
            for (family, value) in families.iter().zip(values) {
                let labels = PoolNode { ippool: ippool.clone(), node: node.clone() };
                family.get_or_create(&labels).set(count(value));
            }
        }
        leaked
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
