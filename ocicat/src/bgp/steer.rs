//! What changes a speaker: sessions that begin anew, end or may not be, and recordings.

use proto::speaker::Summary;
use proto::speaker::request::{self, Action, Call};
use proto::speaker::response::Answer;
use serde_json::json;

use super::ask::{Told, ask, summaries, unexpected};
use super::target::Target;
use crate::client::CallError;
use crate::{Format, OutputOptions, Report};

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

/// Does something to a session of the one speaker that has the peer.
pub(super) fn steer(steer: &Steer, action: Action) -> Result<Report, CallError> {
    let Steer { peer, text, target, output } = steer;
    let agent = match target.agents()?.as_slice() {
        // A peer that was switched off may be unknown until it is enabled.
        [only] => only.clone(),
        _ => {
            let told = summaries(target, peer)?;
            match told.given.as_slice() {
                [(agent, _)] if told.is_complete => agent.clone(),
                several => {
                    let nodes = nodes(several);
                    let reason = format!("{peer} is a peer of {nodes} at least: choose one by --node");
                    return Err(CallError::Question { reason });
                }
            }
        }
    };
    let call = request::Steer { peer: peer.clone(), action: action.into(), text: text.clone() };
    match ask(&agent, Call::Steer(call))? {
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
        other => Err(unexpected(&agent, other)),
    }
}

/// Begins or ends a recording of the one speaker of this machine, or of the one that was named.
pub(super) fn record(target: &Target, format: Format, file: Option<String>) -> Result<Report, CallError> {
    let agents = target.agents()?;
    let [agent] = agents.as_slice() else {
        let reason = format!("there are {} speakers: choose one by --node", agents.len());
        return Err(CallError::Question { reason });
    };
    let call = request::Record { file: file.clone().unwrap_or_default() };
    match ask(agent, Call::Record(call))? {
        Answer::Done(_) => {
            let text = match (format, &file) {
                (Format::Json, _) => format!("{:#}\n", json!({ "recording": file })),
                (Format::Table, Some(file)) => format!("recording into {file}\n"),
                (Format::Table, None) => "the recording has ended\n".to_owned(),
            };
            Ok(Report::new(text, true))
        }
        other => Err(unexpected(agent, other)),
    }
}

fn nodes(told: &[Told<Summary>]) -> String {
    told.iter().map(|(_, summary)| summary.node.as_str()).collect::<Vec<_>>().join(", ")
}
