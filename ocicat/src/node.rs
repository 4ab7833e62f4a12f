//! `ocicat node`.

use std::path::Path;

use proto::node::reply::Outcome;
use proto::node::request::{Call, Status};
use proto::node::{Reply, Request};
use serde_json::json;

use crate::client::{CallError, call};
use crate::table::plain;
use crate::{Format, Report};

const AGENT: &str = "the node agent (felix)";

/// Can the agent serve an ADD now?
pub(crate) fn status(socket: &Path, format: Format) -> Result<Report, CallError> {
    let request = Request { call: Some(Call::Status(Status {})) };
    let reply: Reply = call(AGENT, socket, &request)?;
    match reply.outcome {
        Some(Outcome::Done(_)) => Ok(report(format, None)),
        Some(Outcome::Failed(failed)) => Ok(report(format, Some(&failed.message))),
        _ => Err(CallError::Refused { agent: AGENT, reason: "the answer is of another version".to_owned() }),
    }
}

fn report(format: Format, reason: Option<&str>) -> Report {
    let text = match (format, reason) {
        (Format::Json, _) => {
            format!("{:#}\n", json!({ "ready": reason.is_none(), "reason": reason.unwrap_or_default() }))
        }
        (Format::Table, None) => "ready: pods of this node can be connected\n".to_owned(),
        (Format::Table, Some(reason)) => format!("not ready: {}\n", plain(reason)),
    };
    Report { text, is_well: reason.is_none() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_why_not() {
        let report = report(Format::Table, Some("not in sync with\nthe API server"));

        assert!(!report.is_well);
        assert_eq!(report.text, "not ready: not in sync with the API server\n");
    }
}
