//! `ocicat migrate`: from Calico to us and back, node by node.
//!
//! Owns reading and writing the cluster's objects; what becomes of each, whose blocks count and which node comes next are
//! the crate `migrate`'s. Only `apply` and `back` write, and only with the rights of whoever runs them.

mod api;
mod apply;
mod copy;
mod plan;
mod verify;

use std::time::Duration;

use clap::{Args, Subcommand};
use migrate::Direction;

use crate::client::CallError;
use crate::cluster::{ClusterOptions, connect, runtime};
use crate::felix::FelixTarget;
use crate::{Format, OutputOptions, Report};
use api::Api;
use apply::{Orders, say};

/// What to do.
#[derive(Subcommand)]
pub(crate) enum MigrateCommand {
    /// What would go over, what is ignored and why, what differs and what blocks; exit status 1 when something blocks
    Plan(PlanOptions),
    /// Copies objects, then lets nodes change hands one after the other; stops when one is not well, and goes on when run
    /// again
    Apply(MoveOptions),
    /// Compares objects, addresses of pods and the kernel of each node, and sends packets to pods of other nodes; exit
    /// status 1 when something is wrong
    Verify(VerifyOptions),
    /// Lets nodes go back to Calico, with the addresses that pods have by now
    Back(MoveOptions),
}

#[derive(Args)]
pub(crate) struct PlanOptions {
    #[command(flatten)]
    cluster: ClusterOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Args)]
pub(crate) struct MoveOptions {
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Objects only: no node changes hands
    #[arg(long, conflicts_with = "nodes")]
    objects: bool,
    /// Only this node, also when it is not Ready; may be given several times
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// How many seconds an agent may take to leave a node, and the other to be ready there
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(5..=86400))]
    wait: u64,
    #[command(flatten)]
    cluster: ClusterOptions,
}

#[derive(Args)]
pub(crate) struct VerifyOptions {
    #[command(flatten)]
    target: FelixTarget,
    #[command(flatten)]
    output: OutputOptions,
}

pub(crate) fn run(command: &MigrateCommand) -> Result<Report, CallError> {
    match command {
        MigrateCommand::Plan(options) => runtime()?.block_on(plan(options)),
        MigrateCommand::Apply(options) => runtime()?.block_on(go(options, Direction::Over)),
        MigrateCommand::Back(options) => runtime()?.block_on(go(options, Direction::Back)),
        MigrateCommand::Verify(options) => verify(options),
    }
}

async fn connected(options: &ClusterOptions) -> Result<Api, CallError> {
    Ok(Api::new(connect(options).await?))
}

async fn plan(options: &PlanOptions) -> Result<Report, CallError> {
    let plan = plan::read(&connected(&options.cluster).await?).await?;
    let text = match options.output.output {
        Format::Json => format!("{:#}\n", plan.json()),
        Format::Table => plan.text(),
    };
    Ok(Report::new(text, !plan.is_blocked()))
}

async fn go(options: &MoveOptions, direction: Direction) -> Result<Report, CallError> {
    let api = connected(&options.cluster).await?;
    let plan = plan::read(&api).await?;
    let orders = Orders {
        dry_run: options.dry_run,
        objects_only: options.objects,
        nodes: options.nodes.clone(),
        patience: Duration::from_secs(options.wait),
    };
    match direction {
        // What blocks concerns who comes, and may never keep anybody from leaving.
        Direction::Over if plan.is_blocked() => {
            return Ok(Report::new(format!("{}Nothing was written.\n", plan.text()), false));
        }
        Direction::Over => apply::objects(&api, &plan, &orders).await?,
        Direction::Back => {
            if !orders.dry_run {
                apply::strict(&api, &plan, true).await?;
            }
            apply::objects_back(&api, &plan, &orders).await?;
        }
    }
    if orders.objects_only {
        return Ok(Report::new(String::new(), true));
    }
    let is_done = apply::move_nodes(&api, &plan, direction, &orders).await?;
    if is_done && !orders.dry_run {
        let nodes = plan::nodes(&api).await?;
        if nodes.iter().all(|node| node.agent == direction.target()) {
            if direction == Direction::Over {
                apply::strict(&api, &plan, false).await?;
            }
            say(&format!("all {} nodes are {}'s", nodes.len(), direction.target().name()));
        }
    }
    Ok(Report::new(String::new(), is_done))
}

fn verify(options: &VerifyOptions) -> Result<Report, CallError> {
    let (plan, mut findings, pods) = runtime()?.block_on(async {
        let api = connected(options.target.cluster()).await?;
        let plan = plan::read(&api).await?;
        let (findings, pods) = verify::findings(&api, &plan).await?;
        Ok::<_, CallError>((plan, findings, pods))
    })?;
    findings.extend(verify::kernels(&options.target, &plan));
    findings.extend(verify::paths(options.target.reach(), &plan.nodes, &pods));
    let is_well = !findings.iter().any(verify::Finding::is_wrong);
    let text = match options.output.output {
        Format::Json => format!("{:#}\n", verify::json(&findings)),
        Format::Table => verify::text(&findings),
    };
    Ok(Report::new(text, is_well))
}
