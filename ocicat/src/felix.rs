//! Asking node agents: which are meant, one question to one, one question to all.

use std::path::PathBuf;

use clap::Args;
use proto::felix::request::Call;
use proto::felix::response::Answer;
use proto::felix::{Request, Response};

use crate::client::{Answers, CallError, call, call_many, each};
use crate::cluster::ClusterOptions;
use crate::reach::{Agent, Kind, Reach};

/// Who is asked: the node agent of every node unless one is named.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct FelixTarget {
    /// Operator's socket (felix-api.sock) of the one agent to ask
    #[arg(long, env = "OCICAT_FELIX_API_SOCKET", value_name = "PATH", conflicts_with = "node")]
    socket: Option<PathBuf>,
    /// Only the agent of this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

impl FelixTarget {
    /// The cluster that the agents are of.
    pub(crate) fn cluster(&self) -> &ClusterOptions {
        &self.reach.cluster
    }

    /// Where agents are looked for.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// The agents to ask. One whose node is not known yet is asked who it is.
    pub(crate) fn agents(&self) -> Result<Vec<Agent>, CallError> {
        if let Some(socket) = &self.socket {
            return Ok(vec![Agent::at(Kind::Felix, socket)]);
        }
        let mut agents = self.reach.places().agents(Kind::Felix)?;
        if let Some(node) = &self.node {
            let count = agents.len();
            agents.retain(|agent| agent.node.as_ref().is_none_or(|own| own == node));
            if agents.is_empty() {
                let reason =
                    format!("none of the {count} node agents that can be asked is that of node {node}");
                return Err(CallError::Question { reason });
            }
        }
        Ok(agents)
    }

    /// Asks each for one answer, of which `take` makes something with the name of the node.
    pub(crate) fn ask_each<T: Send>(
        &self,
        question: &Call,
        take: impl Fn(Answer) -> Option<(String, T)> + Sync,
    ) -> Result<Answers<T>, CallError> {
        let results = each(&self.agents()?, |agent| {
            let (node, answer) = ask(agent, question.clone())
                .and_then(|answer| take(answer).ok_or_else(|| CallError::other_version(agent)))?;
            match &self.node {
                Some(wanted) if *wanted != node => {
                    let reason = format!("it is that of node {node}, and no other can be asked from here");
                    Err(CallError::Refused { agent: agent.to_string(), reason })
                }
                _ => Ok(answer),
            }
        });
        Answers::of(results)
    }
}

/// Asks one agent once.
pub(crate) fn ask(agent: &Agent, question: Call) -> Result<Answer, CallError> {
    let response: Response = call(agent, &Request { call: Some(question) })?;
    answer(agent, response)
}

/// Asks one agent for several answers: `take` gets each, and says whether another follows.
pub(crate) fn ask_many(
    agent: &Agent,
    question: Call,
    mut take: impl FnMut(Answer) -> bool,
) -> Result<(), CallError> {
    let mut refused = None;
    call_many(agent, &Request { call: Some(question) }, |response: Response| {
        match answer(agent, response) {
            Ok(answer) => take(answer),
            Err(error) => {
                refused = Some(error);
                false
            }
        }
    })?;
    refused.map_or(Ok(()), Err)
}

fn answer(agent: &Agent, response: Response) -> Result<Answer, CallError> {
    match response.answer {
        Some(Answer::Error(reason)) => Err(CallError::Refused { agent: agent.to_string(), reason }),
        Some(answer) => Ok(answer),
        None => Err(CallError::other_version(agent)),
    }
}
