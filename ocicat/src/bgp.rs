//! `ocicat bgp`: asks speakers, and puts together what they answer.

mod cluster;
mod neighbor;
mod replay;
mod routes;
mod summary;
mod target;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use proto::speaker::request::{self, Action, Call};
use proto::speaker::response::Answer;
use proto::speaker::{Request, Response, Route, Summary};
use serde_json::{Value, json};

use crate::client::{CallError, call, call_many};
use crate::table::plain;
use crate::{Format, OutputOptions, Report};
use cluster::{NodeStatus, node_statuses, statuses_table};
use neighbor::{neighbor_json, neighbor_text};
use routes::{best_table, route_json, routes_table};
use summary::{is_well, summary_json, summary_table};
use target::Target;

const AGENT: &str = "the BGP speaker";

#[derive(Subcommand)]
pub(crate) enum BgpCommand {
    /// Peers with state, uptime, prefixes, and why one is down; of other nodes what they last told the cluster
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

#[derive(clap::Args)]
pub(crate) struct Steer {
    /// Address of the peer
    peer: String,
    /// Shown to the operator of the peer (RFC 9003)
    #[arg(long, default_value_t)]
    text: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: OutputOptions,
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
        BgpCommand::Reset(steer) => self::steer(&steer, Action::Reset),
        BgpCommand::Softreset { inward: true, steer, .. } => self::steer(&steer, Action::SoftResetIn),
        BgpCommand::Softreset { out: true, steer, .. } => self::steer(&steer, Action::SoftResetOut),
        BgpCommand::Softreset { steer, .. } => self::steer(&steer, Action::SoftReset),
        BgpCommand::Enable(steer) => self::steer(&steer, Action::Enable),
        BgpCommand::Disable(steer) => self::steer(&steer, Action::Disable),
        BgpCommand::Record { file, target, output } => record(&target, output.output, file),
        BgpCommand::Replay { file, steps, until, output } => {
            replay::run(&file, output.output, steps, until.unwrap_or(usize::MAX))
        }
    }
}

/// What each speaker that is asked answers to a summary, with its socket. One that gives no answer is told of;
/// when none does, that is an error.
fn ask_each(target: &Target, peer: &str) -> Result<Vec<(PathBuf, Summary)>, CallError> {
    let (mut answers, mut errors) = (Vec::new(), Vec::new());
    for socket in target.sockets()? {
        match ask(&socket, Call::Summary(request::Summary { peer: peer.to_owned() })) {
            Ok(Answer::Summary(summary)) => answers.push((socket, summary)),
            Ok(other) => errors.push(unexpected(other)),
            Err(error) => errors.push(error),
        }
    }
    let others = answers.len() + errors.len();
    if let Some(node) = target.node() {
        answers.retain(|(_, summary)| summary.node == node);
        if answers.is_empty() && errors.is_empty() {
            let reason = format!("none of the {others} speakers of this machine is that of node {node}");
            return Err(CallError::Refused { agent: AGENT, reason });
        }
    }
    match errors.into_iter().next() {
        Some(error) if answers.is_empty() => Err(error),
        // A peer is rarely known to every speaker.
        Some(error) if peer.is_empty() => {
            eprintln!("ocicat: {error}");
            Ok(answers)
        }
        _ => Ok(answers),
    }
}

/// Speakers of this machine live, those of other nodes as they last told the cluster.
fn summary(target: &Target, format: Format, check: bool) -> Result<Report, CallError> {
    let answers = ask_each(target, "");
    let others = others(target, answers.as_deref().unwrap_or_default());
    let answers = match answers {
        // Who asks from outside of the cluster has no speaker at hand.
        Err(_) if !others.is_empty() => Vec::new(),
        answers => answers?,
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
    Ok(Report::new(text, !check || all_well))
}

/// Nodes of the cluster whose speakers did not answer live.
fn others(target: &Target, answers: &[(PathBuf, Summary)]) -> Vec<NodeStatus> {
    let live = |node: &str| answers.iter().any(|(_, summary)| summary.node == node);
    if target.is_single() || target.is_local() || target.node().is_some_and(live) {
        return Vec::new();
    }
    let mut statuses = node_statuses();
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
    let answers = ask_each(target, peer)?;
    let several = answers.len() > 1;
    let found = answers.iter().flat_map(|(_, summary)| summary.peers.iter().map(move |p| (summary, p)));
    let text = match format {
        Format::Table => {
            let tell = |(summary, peer): (&Summary, _)| match several {
                true => format!("at {}\n{}", summary.node, neighbor_text(peer)),
                false => neighbor_text(peer),
            };
            found.map(tell).collect::<Vec<_>>().join("\n")
        }
        Format::Json => {
            let value = |(summary, peer): (&Summary, _)| {
                let mut value = neighbor_json(peer);
                value["node"] = json!(summary.node);
                value
            };
            json_text(target, found.map(value))
        }
    };
    Ok(Report::new(text, true))
}

fn routes(
    target: &Target,
    format: Format,
    wanted: &request::Routes,
    best_why: bool,
) -> Result<Report, CallError> {
    let peer = format!("{}{}", wanted.received_from, wanted.advertised_to);
    let speakers = ask_each(target, &peer)?;
    let several = speakers.len() > 1;
    let (mut tables, mut values) = (Vec::new(), Vec::new());
    for (socket, summary) in &speakers {
        let mut routes = ask_routes(socket, wanted)?;
        match format {
            Format::Table => {
                let head = if several { format!("{}\n", summary.node) } else { String::new() };
                let table = if best_why { best_table(&routes) } else { routes_table(&routes) };
                tables.push(format!("{head}{table}"));
            }
            Format::Json => {
                routes.retain(|route| route.best || !best_why);
                values.extend(routes.iter().map(|route| {
                    let mut value = route_json(route);
                    value["node"] = json!(summary.node);
                    value
                }));
            }
        }
    }
    let text = match format {
        Format::Table => tables.join("\n"),
        Format::Json => format!("{:#}\n", Value::from(values)),
    };
    Ok(Report::new(text, true))
}

/// Puts the portions together in which routes come.
fn ask_routes(socket: &Path, wanted: &request::Routes) -> Result<Vec<Route>, CallError> {
    let mut all = Vec::new();
    let mut refused = None;
    let request = Request { call: Some(Call::Routes(wanted.clone())) };
    call_many(AGENT, socket, &request, |response: Response| match response.answer {
        Some(Answer::Routes(portion)) => {
            all.extend(portion.routes);
            portion.more
        }
        other => {
            refused = Some(other.unwrap_or_else(|| Answer::Error("the answer is empty".to_owned())));
            false
        }
    })?;
    refused.map_or(Ok(all), |other| Err(unexpected(other)))
}

/// Does something to a session of the one speaker that has the peer.
fn steer(steer: &Steer, action: Action) -> Result<Report, CallError> {
    let Steer { peer, text, target, output } = steer;
    let socket = match target.sockets()?.as_slice() {
        // A peer that was switched off may be unknown until it is enabled.
        [only] => only.clone(),
        _ => match ask_each(target, peer)?.as_slice() {
            [(socket, _)] => socket.clone(),
            several => {
                let nodes: Vec<&str> = several.iter().map(|(_, summary)| summary.node.as_str()).collect();
                let reason = format!("{peer} is a peer of {}: choose one by --node", nodes.join(", "));
                return Err(CallError::Refused { agent: AGENT, reason });
            }
        },
    };
    let call = request::Steer { peer: peer.clone(), action: action.into(), text: text.clone() };
    match ask(&socket, Call::Steer(call))? {
        Answer::Done(_) => {
            let (name, words) = match action {
                Action::Reset => ("reset", "the session begins anew"),
                Action::SoftReset => ("softReset", "routes are asked for and sent again"),
                Action::SoftResetIn => ("softResetIn", "routes are asked for again"),
                Action::SoftResetOut => ("softResetOut", "routes are sent again"),
                Action::Enable => ("enable", "sessions are allowed"),
                Action::Disable => ("disable", "sessions are not allowed any more"),
            };
            let text = match output.output {
                Format::Table => format!("{peer}: {words}\n"),
                Format::Json => format!("{:#}\n", json!({ "peer": peer, "action": name })),
            };
            Ok(Report::new(text, true))
        }
        other => Err(unexpected(other)),
    }
}

/// Begins or ends a recording of the one speaker of this machine, or of the one that was named.
fn record(target: &Target, format: Format, file: Option<String>) -> Result<Report, CallError> {
    let speakers = ask_each(target, "")?;
    let [(socket, _)] = speakers.as_slice() else {
        let nodes: Vec<&str> = speakers.iter().map(|(_, summary)| summary.node.as_str()).collect();
        let reason = format!("{} speakers run here: choose one by --node: {}", nodes.len(), nodes.join(", "));
        return Err(CallError::Refused { agent: AGENT, reason });
    };
    let call = request::Record { file: file.clone().unwrap_or_default() };
    match ask(socket, Call::Record(call))? {
        Answer::Done(_) => {
            let text = match (format, &file) {
                (Format::Json, _) => format!("{:#}\n", json!({ "recording": file })),
                (Format::Table, Some(file)) => format!("recording into {file}\n"),
                (Format::Table, None) => "the recording has ended\n".to_owned(),
            };
            Ok(Report::new(text, true))
        }
        other => Err(unexpected(other)),
    }
}

fn ask(socket: &Path, request: Call) -> Result<Answer, CallError> {
    let response: Response = call(AGENT, socket, &Request { call: Some(request) })?;
    response
        .answer
        .ok_or_else(|| CallError::Refused { agent: AGENT, reason: "the answer is empty".to_owned() })
}

fn unexpected(answer: Answer) -> CallError {
    let reason = match answer {
        Answer::Error(reason) => plain(&reason),
        _ => "the answer is of another version".to_owned(),
    };
    CallError::Refused { agent: AGENT, reason }
}
