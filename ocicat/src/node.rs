//! `ocicat node`.

use std::path::Path;

use proto::felix as api;
use proto::node::reply::Outcome;
use proto::node::request::{Call, Status};
use proto::node::{Reply, Request};
use proto::speaker::Peer;
use serde_json::{Value, json};

use crate::client::{CallError, call};
use crate::felix::FelixTarget;
use crate::node_status::{peers_beside, peers_json, tables};
use crate::reach::{Agent, Kind};
use crate::table::{or_dash, plain, table};
use crate::{Format, Report};

/// Can the agent serve an ADD now?
pub(crate) fn status(socket: &Path, format: Format) -> Result<Report, CallError> {
    let request = Request { call: Some(Call::Status(Status {})) };
    let agent = Agent::at(Kind::Felix, socket);
    let reply: Reply = call(&agent, &request)?;
    let peers = peers_beside(socket);
    match reply.outcome {
        Some(Outcome::Done(_)) => Ok(report(format, None, &peers)),
        Some(Outcome::Failed(failed)) => Ok(report(format, Some(&failed.message), &peers)),
        _ => Err(CallError::other_version(&agent)),
    }
}

/// What the sessions do is shown, and no part of the verdict: `bgp summary --check` judges them.
fn report(format: Format, reason: Option<&str>, peers: &Result<Vec<Peer>, String>) -> Report {
    let sessions = match peers {
        Ok(peers) => tables(peers),
        Err(reason) => format!("\nBGP status is not known: {}\n", plain(reason)),
    };
    let text = match (format, reason) {
        (Format::Json, _) => {
            let (ready, why) = (reason.is_none(), reason.unwrap_or_default());
            let peers = peers.as_ref().map(|peers| peers_json(peers));
            format!("{:#}\n", json!({ "ready": ready, "reason": why, "peers": peers.ok() }))
        }
        (Format::Table, None) => format!("ready: pods of this node can be connected\n{sessions}"),
        (Format::Table, Some(reason)) => format!("not ready: {}\n{sessions}", plain(reason)),
    };
    Report::new(text, reason.is_none())
}

/// The settings of every agent; what is ignored is no failure, but said.
pub(crate) fn config(target: &FelixTarget, format: Format) -> Result<Report, CallError> {
    let question = api::request::Call::Configuration(api::request::Configuration {});
    let answers = target.ask_each(&question, |answer| match answer {
        api::response::Answer::Configuration(told) => Some((told.node.clone(), told)),
        _ => None,
    })?;
    let nodes = &answers.given;
    let text = match format {
        Format::Json => format!("{:#}\n", Value::Array(nodes.iter().map(config_json).collect())),
        Format::Table => nodes.iter().map(config_text).collect::<Vec<_>>().join("\n"),
    };
    Ok(Report::new(text, answers.is_complete))
}

fn config_text(node: &api::Configuration) -> String {
    let rows = node.settings.iter().map(|setting| {
        let reason = plain(&setting.ignored);
        let value = or_dash(&plain(&setting.value));
        let value = if reason.is_empty() { value } else { format!("{value}: {reason}") };
        vec![setting.source.clone(), setting.name.clone(), value]
    });
    let rows: Vec<_> = rows.collect();
    format!("node {}\n{}", node.node, table(&["FROM", "SETTING", "VALUE"], &rows))
}

fn config_json(node: &api::Configuration) -> Value {
    let settings = node.settings.iter().map(|setting| {
        json!({
            "name": setting.name,
            "value": setting.value,
            "source": setting.source,
            "ignored": setting.ignored,
        })
    });
    json!({ "node": node.node, "settings": settings.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_why_not() {
        let report =
            report(Format::Table, Some("not in sync with\nthe API server"), &Err("it is gone".into()));

        assert_eq!(report.status, crate::UNWELL);
        let expected = "not ready: not in sync with the API server\n\nBGP status is not known: it is gone\n";
        assert_eq!(report.text, expected);
    }
}
