//! `ocicat ipam`: who has which address, whether that is all right, and what an operator may do about it.
//!
//! Owns the commands and how answers look; what is wrong and what is safe to mend is `ipam::gc`'s.

mod ages;
mod change;
mod check;
mod show;

pub(crate) use show::number;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use datastore::{Datastore, Interest, Kind};
use ipam::gc::{Allocation, Inventory, allocations};
use ipam::names::LOAD_BALANCER;
use model::{IpamConfiguration, NodeName, Update};

use crate::client::CallError;
use crate::cluster::{ClusterOptions, PATIENCE, away, connect, runtime};
use crate::reach::Reach;
use crate::{OutputOptions, Report};

/// What to do.
#[derive(Subcommand)]
pub(crate) enum IpamCommand {
    /// How full the pools are; who has an address
    Show(ShowOptions),
    /// Compares all that IPAM keeps with itself, with pods and with nodes; exit status 1 when something is wrong
    Check(CheckOptions),
    /// Takes addresses back by hand; those that a Pod uses only by force
    Release(ReleaseOptions),
    /// Replaces a pool by equal parts of it; addresses and blocks stay as they are
    Split(SplitOptions),
    /// Changes settings of IPAM
    Configure(ConfigureOptions),
}

#[derive(Args)]
pub(crate) struct ShowOptions {
    /// Blocks, too
    #[arg(long)]
    show_blocks: bool,
    /// Addresses in use by another node than their block's owner
    #[arg(long, conflicts_with_all = ["show_blocks", "ip"])]
    show_borrowed: bool,
    /// Settings
    #[arg(long, conflicts_with_all = ["show_blocks", "show_borrowed", "ip"])]
    show_configuration: bool,
    /// Who has this address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    #[command(flatten)]
    cluster: ClusterOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Args)]
pub(crate) struct CheckOptions {
    /// One line for each thing that is wrong
    #[arg(long)]
    show_problem_ips: bool,
    /// Mends what is safe to mend: handles, blocks of nobody, and what nodes that are gone left. Addresses on a node
    /// that lives are taken back by that node
    #[arg(long)]
    fix: bool,
    /// With --fix: how many seconds something must be wrong, and a node has to say that it lives
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..))]
    wait: u64,
    /// Asks the agents of the nodes for how long they have found each address that is not in use to be so, and lists all
    #[arg(long)]
    ages: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Args)]
pub(crate) struct ReleaseOptions {
    /// This address, with all others of its handle
    #[arg(long, value_name = "ADDRESS", required_unless_present = "from_report")]
    ip: Option<IpAddr>,
    /// What a report of `check -o json` says is not in use, and is not now either
    #[arg(long, value_name = "FILE", conflicts_with = "ip")]
    from_report: Option<PathBuf>,
    /// Also when a Pod uses it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: ClusterOptions,
}

#[derive(Args)]
pub(crate) struct SplitOptions {
    /// Name or CIDR of the pool
    pool: String,
    /// Into how many parts: a power of two
    parts: u32,
    #[command(flatten)]
    cluster: ClusterOptions,
}

#[derive(Args)]
pub(crate) struct ConfigureOptions {
    #[command(flatten)]
    settings: IpamSettings,
    #[command(flatten)]
    cluster: ClusterOptions,
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct IpamSettings {
    /// Nodes take addresses from their own blocks only
    #[arg(long, value_name = "true|false", visible_alias = "strictaffinity")]
    strict_affinity: Option<bool>,
    /// How many blocks of a family a node may have; 0 for 20
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    max_blocks_per_host: Option<u32>,
    /// How many seconds a released address rests before it is given out again
    #[arg(long, value_name = "SECONDS", visible_alias = "ip-cooldown-seconds",
        value_parser = clap::value_parser!(u32).range(..=1200))]
    cooldown: Option<u32>,
}

pub(crate) fn run(command: &IpamCommand) -> Result<Report, CallError> {
    runtime()?.block_on(async {
        match command {
            IpamCommand::Show(options) => show::run(options, &connect(&options.cluster).await?).await,
            IpamCommand::Check(options) => check::run(options, &connect(&options.reach.cluster).await?).await,
            IpamCommand::Release(options) => {
                change::release(options, &connect(&options.cluster).await?).await
            }
            IpamCommand::Split(options) => change::split(options, &connect(&options.cluster).await?).await,
            IpamCommand::Configure(options) => change::configure(options).await,
        }
    })
}

fn failed(error: datastore::IpamError) -> CallError {
    match error {
        datastore::IpamError::Datastore(error) => away(error),
        error => CallError::Question { reason: error.to_string() },
    }
}

/// Blocks, claims, pools, nodes and settings; no handles and no pods.
pub(crate) async fn read(datastore: &Datastore) -> Result<(Inventory, IpamConfiguration), CallError> {
    let kinds = vec![
        Kind::Node,
        Kind::IpamBlock,
        Kind::BlockAffinity,
        Kind::IpPool,
        Kind::IpamConfiguration,
        Kind::IpReservation,
    ];
    let interest = Interest { kinds, node: NodeName::from(""), overrides: BTreeMap::new() };
    let updates = datastore.snapshot(interest, PATIENCE).await.map_err(away)?;
    let (mut inventory, mut configuration) = (Inventory::default(), IpamConfiguration::default());
    for update in updates {
        match update {
            Update::Node(name, Some(node)) => {
                inventory.nodes.insert(name, node.tunnels);
            }
            Update::Block(_, Some(block)) => inventory.blocks.push(*block),
            Update::BlockAffinity(_, _, Some(claim)) => inventory.affinities.push(claim),
            Update::IpReservation(_, Some(ranges)) => inventory.reservations.extend(ranges),
            Update::Pool(_, Some(pool)) => inventory.pools.push(pool),
            Update::IpamConfiguration(Some(found)) => configuration = found,
            _ => {}
        }
    }
    inventory.blocks.sort_by_key(|block| block.cidr);
    inventory.pools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((inventory, configuration))
}

/// Handles and pods besides.
async fn read_all(datastore: &Datastore) -> Result<(Inventory, IpamConfiguration), CallError> {
    let (mut inventory, configuration) = read(datastore).await?;
    datastore.each_handle(|handle| inventory.handles.push(handle)).await.map_err(away)?;
    // Last of all: what came meanwhile is then seen as in use rather than as a leak.
    inventory.pods = datastore.pod_answers(None).await.map_err(away)?;
    let gives = |block: &model::Block| block.affinity.as_ref().is_some_and(|o| o.as_str() == LOAD_BALANCER);
    if inventory.blocks.iter().any(gives) {
        inventory.services = Some(datastore.load_balancer_handles().await.map_err(away)?);
    }
    Ok((inventory, configuration))
}

fn all(inventory: &Inventory) -> Vec<Allocation> {
    inventory.blocks.iter().flat_map(allocations).collect()
}
