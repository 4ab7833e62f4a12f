//! The node agents of this machine: where they listen for operators, and asking all of them.

use std::path::{Path, PathBuf};

use clap::Args;
use proto::felix::request::Call;
use proto::felix::response::Answer;
use proto::felix::{Request, Response, SOCKET};

use crate::client::{CallError, call, call_many};
use crate::sockets::{self, LABS};

/// How messages call the one who is asked.
pub(crate) const AGENT: &str = "the node agent (felix)";
/// Where the agent of a cluster's node listens.
pub(crate) const PLACE: &str = "/var/run/calico";

/// Who is asked: every node agent of this machine unless one is named. On a cluster that is this node's.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct AgentTarget {
    /// Operator's socket (felix-api.sock) of the one agent to ask
    #[arg(long, env = "OCICAT_FELIX_API_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Only the agent of this node
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    pub(crate) node: Option<String>,
    /// Only agents of this lab
    #[arg(long, env = "OCICAT_LAB", value_name = "NAME")]
    pub(crate) lab: Option<String>,
}

impl AgentTarget {
    /// The sockets to ask, in order of their paths.
    pub(crate) fn sockets(&self) -> Result<Vec<PathBuf>, CallError> {
        if let Some(socket) = &self.socket {
            return Ok(vec![socket.clone()]);
        }
        let place = Path::new(PLACE).join(SOCKET);
        let of_lab = |socket: &PathBuf| {
            let lab = socket.ancestors().nth(2).and_then(Path::file_name);
            self.lab.as_deref().is_none_or(|name| lab.is_some_and(|lab| lab == name))
        };
        // In a lab the directory is the node's name; on a node there is one agent, which is asked who it is.
        let of_node = |socket: &PathBuf| {
            let directory = socket.parent().and_then(Path::file_name);
            socket == &place
                || self.node.as_deref().is_none_or(|name| directory.is_some_and(|node| node == name))
        };
        let found = sockets::find([place.as_path()].into_iter(), Path::new(LABS), SOCKET);
        let found: Vec<_> = found.into_iter().filter(of_lab).filter(of_node).collect();
        if found.is_empty() {
            let tried = vec![place.display().to_string(), format!("{LABS}/*/*/{SOCKET}")];
            return Err(CallError::Nowhere { agent: AGENT, tried });
        }
        Ok(found)
    }
}

/// Asks one agent once.
pub(crate) fn ask(socket: &Path, question: Call) -> Result<Answer, CallError> {
    let response: Response = call(AGENT, socket, &Request { call: Some(question) })?;
    answer(response)
}

/// Asks one agent for several answers: `take` gets each, and says whether another follows.
pub(crate) fn ask_many(
    socket: &Path,
    question: Call,
    mut take: impl FnMut(Answer) -> bool,
) -> Result<(), CallError> {
    let mut refused = None;
    call_many(AGENT, socket, &Request { call: Some(question) }, |response: Response| {
        match answer(response) {
            Ok(answer) => take(answer),
            Err(error) => {
                refused = Some(error);
                false
            }
        }
    })?;
    refused.map_or(Ok(()), Err)
}

fn answer(response: Response) -> Result<Answer, CallError> {
    match response.answer {
        Some(Answer::Error(reason)) => Err(CallError::Refused { agent: AGENT, reason }),
        Some(answer) => Ok(answer),
        None => Err(other_version()),
    }
}

/// The agent answers something else than what was asked.
pub(crate) fn other_version() -> CallError {
    CallError::Refused { agent: AGENT, reason: "the answer is of another version".to_owned() }
}
