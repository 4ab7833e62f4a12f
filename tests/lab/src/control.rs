//! The words between the `lab` commands and the lab's daemon: one JSON value a line over a unix socket.
//! Pure data and the client's half; what a request does is in `daemon`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use crate::names::LabName;
use crate::status::LabStatus;

/// What a command asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Request {
    /// Report progress until every node is Ready or the start has failed.
    Wait,
    /// Say what there is; see [`LabStatus`].
    Status,
    /// Interfere with a process.
    Fault {
        /// What to do.
        action: FaultAction,
        /// A node's name, `tor`, `controllers` or `apiserver`.
        target: String,
        /// One program of the target; all when absent.
        component: Option<String>,
    },
    /// Add a node.
    NodeAdd {
        /// Its subnet; the rule of the first nodes when absent.
        subnet: Option<u32>,
    },
    /// Remove a node with its pods.
    NodeRemove {
        /// Its name.
        name: String,
    },
    /// Pull or plug a node's cable.
    Link {
        /// The node's name.
        node: String,
        /// Whether to plug it.
        up: bool,
    },
    /// Remove everything and end.
    Down,
}

/// The faults that `lab kill|stop|start` can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultAction {
    /// SIGKILL; the supervisor starts it again, as on a cluster.
    Kill,
    /// SIGTERM; it stays down until it is started.
    Stop,
    /// Start what was stopped.
    Start,
}

/// One line of the daemon's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// What is being done just now; more lines follow.
    Progress(String),
    /// The request is done; its result, or null.
    Result(serde_json::Value),
    /// The request failed.
    Error(Failure),
}

/// A failure with the exit status that it deserves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What went wrong and what to do about it.
    pub message: String,
    /// Exit status of the command: 1 failed, 2 wrong use.
    pub exit: u8,
}

impl Failure {
    /// Something went wrong while doing what was asked.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: 1 }
    }

    /// What was asked cannot be done as asked.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: 2 }
    }

    /// A name that is not known, with the names that are.
    pub fn unknown<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let candidates = if known.is_empty() { "there is none".to_owned() } else { known.join(", ") };
        Self::usage(format!("no {kind} {name:?}; known: {candidates}"))
    }
}

/// Sends one request and waits for its end; `progress` sees the lines in between.
pub fn ask(
    lab: &LabName,
    request: &Request,
    mut progress: impl FnMut(&str),
) -> Result<serde_json::Value, Failure> {
    let socket = lab.control_socket();
    let stream = UnixStream::connect(&socket).map_err(|_| no_such_lab(lab))?;
    let gone =
        |e: std::io::Error| Failure::failed(format!("lab {lab}'s daemon went away: {e}; see {}", log(lab)));
    let mut line = serde_json::to_string(request).expect("requests are plain data");
    line.push('\n');
    (&stream).write_all(line.as_bytes()).map_err(gone)?;
    for line in BufReader::new(&stream).lines() {
        let line = line.map_err(gone)?;
        match serde_json::from_str(&line) {
            Ok(Reply::Progress(text)) => progress(&text),
            Ok(Reply::Result(value)) => return Ok(value),
            Ok(Reply::Error(failure)) => return Err(failure),
            Err(e) => return Err(Failure::failed(format!("the daemon answered {line:?}: {e}"))),
        }
    }
    Err(Failure::failed(format!("lab {lab}'s daemon ended without an answer; see {}", log(lab))))
}

/// Asks for the status.
pub fn status(lab: &LabName) -> Result<LabStatus, Failure> {
    let value = ask(lab, &Request::Status, |_| ())?;
    serde_json::from_value(value)
        .map_err(|e| Failure::failed(format!("the daemon's status cannot be read: {e}")))
}

/// The failure for a lab that is not up, naming those that are.
pub fn no_such_lab(lab: &LabName) -> Failure {
    let up = running_labs();
    if up.is_empty() {
        return Failure::usage(format!("lab {:?} is not up; `lab up --name {lab}` starts it", lab.as_str()));
    }
    let names = up.iter().map(LabName::as_str).collect::<Vec<_>>().join(", ");
    Failure::usage(format!("lab {:?} is not up; up are: {names} (choose with --name)", lab.as_str()))
}

/// The labs whose daemon answers.
pub fn running_labs() -> Vec<LabName> {
    let Ok(entries) = std::fs::read_dir(crate::names::STATE_ROOT) else { return Vec::new() };
    let mut labs: Vec<LabName> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|lab: &LabName| UnixStream::connect(lab.control_socket()).is_ok())
        .collect();
    labs.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    labs
}

fn log(lab: &LabName) -> String {
    lab.state_dir().join("daemon.log").display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_their_words() {
        let request = Request::Fault {
            action: FaultAction::Kill,
            target: "n1".into(),
            component: Some("felix".into()),
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"op":"fault","action":"kill","target":"n1","component":"felix"}"#
        );
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"op":"nodeAdd","subnet":1}"#).unwrap(),
            Request::NodeAdd { subnet: Some(1) }
        );
    }

    #[test]
    fn unknown_names_come_with_candidates() {
        let failure = Failure::unknown("node", "n9", ["n1", "n2"]);
        assert_eq!(failure.message, r#"no node "n9"; known: n1, n2"#);
        assert_eq!(failure.exit, 2);
    }
}
