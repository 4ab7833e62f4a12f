//! `ocicat bgp`: asks speakers, and puts together what they answer.

mod ask;
mod cluster;
mod neighbor;
mod replay;
mod routes;
mod steer;
mod summary;
mod target;

use std::path::PathBuf;

use clap::Subcommand;
use proto::speaker::Summary;
use proto::speaker::request::{self, Action};
use serde_json::{Value, json};

use crate::client::CallError;
use crate::{Format, OutputOptions, Report};
use ask::{Told, summaries};
use cluster::{NodeStatus, node_statuses, statuses_table};
use neighbor::{neighbor_json, neighbor_text};
use routes::{best_table, route_json, routes_table};
use steer::{Steer, record, steer as steer_session};
use summary::{is_well, summary_json, summary_table};
use target::Target;

#[derive(Subcommand)]
pub(crate) enum BgpCommand {
    /// Peers with state, uptime, prefixes, and why one is down; of nodes that do not answer what they last told the cluster
    Summary {
        /// Exit with 1 unless every peer is Established and nothing is pending or wrong
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// One peer: what was negotiated, timers, counters, and what its sessions went through
    #[command(visible_alias = "neighbour")]
    Neighbor {
        /// Address of the peer; without it, the summary
        peer: Option<String>,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Paths of the table, the best ones marked with '*'
    Routes {
        /// Only paths to this prefix, such as 10.65.0.0/26, or to the longest one that holds this address
        prefix: Option<String>,
        /// Only paths from this peer
        #[arg(long)]
        peer: Option<String>,
        /// Only what this peer (its address) has from us
        #[arg(long, value_name = "PEER", conflicts_with = "peer")]
        advertised_to: Option<String>,
        /// Only paths that are not used, with what rejected them
        #[arg(long)]
        rejected: bool,
        /// Only the best paths, with the step that made them the best
        #[arg(long, conflicts_with = "rejected")]
        best_why: bool,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// What a peer has from us
    Advertised {
        /// Address of the peer
        peer: String,
        /// Only this prefix, or the longest that holds this address
        prefix: Option<String>,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// What a peer sent, as it was received, with what is not used of it and why
    Received {
        /// Address of the peer
        peer: String,
        /// Only this prefix, or the longest that holds this address
        prefix: Option<String>,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Ends a peer's session so that a new one begins
    Reset(Steer),
    /// Asks a peer for its routes again and sends it ours, without ending the session
    Softreset {
        /// Only ask
        #[arg(long = "in", conflicts_with = "out")]
        inward: bool,
        /// Only send
        #[arg(long)]
        out: bool,
        #[command(flatten)]
        steer: Steer,
    },
    /// Allows a peer sessions again after `disable` or after too many prefixes
    Enable(Steer),
    /// Ends a peer's session and allows no other until `enable` or until the speaker starts anew
    Disable(Steer),
    /// Begins a recording of all that the speaker is told, or ends it; passwords are not in it
    Record {
        /// Absolute path of a new file, where the speaker runs; without it, the recording ends
        file: Option<String>,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        output: OutputOptions,
    },
    /// Plays a recording to a speaker on the desk, and compares what it wants done with what was recorded
    Replay {
        /// File that `record` or `--record` of a speaker wrote
        file: PathBuf,
        /// Show every step, not only those that differ
        #[arg(long)]
        steps: bool,
        /// Stop after this line of the recording
        #[arg(long, value_name = "LINE")]
        until: Option<usize>,
        #[command(flatten)]
        output: OutputOptions,
    },
}

/// Runs one command.
pub(crate) fn run(command: BgpCommand) -> Result<Report, CallError> {
    match command {
        BgpCommand::Summary { check, target, output } => summary(&target, output.output, check),
        BgpCommand::Neighbor { peer: None, target, output } => summary(&target, output.output, false),
        BgpCommand::Neighbor { peer: Some(peer), target, output } => neighbor(&target, output.output, &peer),
        BgpCommand::Routes { prefix, peer, advertised_to, rejected, best_why, target, output } => {
            let wanted = request::Routes {
                prefix: prefix.unwrap_or_default(),
                advertised_to: advertised_to.unwrap_or_default(),
                received_from: peer.unwrap_or_default(),
                rejected,
            };
            routes(&target, output.output, &wanted, best_why)
        }
        BgpCommand::Advertised { peer, prefix, target, output } => {
            let prefix = prefix.unwrap_or_default();
            let wanted = request::Routes { prefix, advertised_to: peer, ..Default::default() };
            routes(&target, output.output, &wanted, false)
        }
        BgpCommand::Received { peer, prefix, target, output } => {
            let prefix = prefix.unwrap_or_default();
            let wanted = request::Routes { prefix, received_from: peer, ..Default::default() };
            routes(&target, output.output, &wanted, false)
        }
        BgpCommand::Reset(steer) => steer_session(&steer, Action::Reset),
        BgpCommand::Softreset { inward: true, steer, .. } => steer_session(&steer, Action::SoftResetIn),
        BgpCommand::Softreset { out: true, steer, .. } => steer_session(&steer, Action::SoftResetOut),
        BgpCommand::Softreset { steer, .. } => steer_session(&steer, Action::SoftReset),
        BgpCommand::Enable(steer) => steer_session(&steer, Action::Enable),
        BgpCommand::Disable(steer) => steer_session(&steer, Action::Disable),
        BgpCommand::Record { file, target, output } => record(&target, output.output, file),
        BgpCommand::Replay { file, steps, until, output } => {
            replay::run(&file, output.output, steps, until.unwrap_or(usize::MAX))
        }
    }
}

/// Every speaker live, and those that did not answer as they last told the cluster.
fn summary(target: &Target, format: Format, check: bool) -> Result<Report, CallError> {
    let answers = summaries(target, "");
    let live = answers.as_ref().map_or(&[][..], |answers| &answers.given);
    let others = others(target, live);
    let (answers, is_complete) = match answers {
        // Who asks from outside of the cluster may have no speaker at hand.
        Err(_) if !others.is_empty() => (Vec::new(), true),
        answers => answers.map(|answers| (answers.given, answers.is_complete))?,
    };
    let summaries: Vec<&Summary> = answers.iter().map(|(_, summary)| summary).collect();
    let text = match format {
        Format::Table => {
            let mut tables: Vec<String> = summaries.iter().map(|summary| summary_table(summary)).collect();
            if !others.is_empty() {
                tables.push(statuses_table(&others));
            } else if let ([_], false, None) = (summaries.as_slice(), target.is_single(), target.node()) {
                let hint = "This is the only speaker of this machine, and kubectl tells of no other nodes.\n";
                tables.push(hint.to_owned());
            }
            tables.join("\n")
        }
        Format::Json => {
            let live = summaries.iter().map(|summary| summary_json(summary));
            json_text(target, live.chain(others.iter().map(NodeStatus::json)))
        }
    };
    let all_well = summaries.iter().all(|summary| is_well(summary)) && others.iter().all(NodeStatus::is_well);
    Ok(Report::new(text, is_complete && (!check || all_well)))
}

/// Nodes of the cluster whose speakers did not answer live.
fn others(target: &Target, answers: &[Told<Summary>]) -> Vec<NodeStatus> {
    let live = |node: &str| answers.iter().any(|(_, summary)| summary.node == node);
    if target.is_single() || target.is_local() || target.node().is_some_and(live) {
        return Vec::new();
    }
    let mut statuses = node_statuses(&target.kubectl());
    statuses.retain(|s| !live(&s.node) && target.node().is_none_or(|node| s.node == node));
    statuses
}

/// One value when one speaker was named by its socket, else a list.
fn json_text(target: &Target, values: impl Iterator<Item = Value>) -> String {
    let mut values: Vec<Value> = values.collect();
    match values.pop() {
        Some(only) if target.is_single() && values.is_empty() => format!("{only:#}\n"),
        last => format!("{:#}\n", Value::from_iter(values.into_iter().chain(last))),
    }
}

fn neighbor(target: &Target, format: Format, peer: &str) -> Result<Report, CallError> {
    let answers = summaries(target, peer)?;
    let given = answers.given.iter().map(|(_, summary)| summary);
    let found = given.flat_map(|summary| summary.peers.iter().map(move |peer| (&summary.node, peer)));
    let text = match format {
        Format::Table => found.map(|(node, peer)| neighbor_text(node, peer)).collect::<Vec<_>>().join("\n"),
        Format::Json => {
            let value = |(node, peer): (&String, _)| with_node(node, neighbor_json(peer));
            json_text(target, found.map(value))
        }
    };
    Ok(Report::new(text, answers.is_complete))
}

fn routes(
    target: &Target,
    format: Format,
    wanted: &request::Routes,
    best_why: bool,
) -> Result<Report, CallError> {
    let peer = format!("{}{}", wanted.received_from, wanted.advertised_to);
    let answers = ask::routes(target, wanted, &peer)?;
    let text = match format {
        Format::Table if best_why => best_table(&answers.given),
        Format::Table => routes_table(&answers.given),
        Format::Json => {
            let all = answers.given.iter().flat_map(|(node, routes)| {
                let shown = routes.iter().filter(|route| route.best || !best_why);
                shown.map(move |route| with_node(node, route_json(route)))
            });
            format!("{:#}\n", Value::from_iter(all))
        }
    };
    Ok(Report::new(text, answers.is_complete))
}

fn with_node(node: &str, mut value: Value) -> Value {
    value["node"] = json!(node);
    value
}
