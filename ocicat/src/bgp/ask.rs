//! Asking speakers, and who of them has an answer.

use proto::speaker::request::{self, Call};
use proto::speaker::response::Answer;
use proto::speaker::{Request, Response, Route, Summary};

use super::target::Target;
use crate::client::{Answers, CallError, call, call_many, each};
use crate::reach::Agent;
use crate::table::plain;

/// A speaker and what it said.
pub(super) type Told<T> = (Agent, T);

/// What each speaker that is asked answers to a summary, with only `peer` in it unless that is empty. Speakers that do
/// not know the peer are left out; those that do not answer are told of.
pub(super) fn summaries(target: &Target, peer: &str) -> Result<Answers<Told<Summary>>, CallError> {
    let agents = target.agents()?;
    let results =
        each(&agents, |agent| match ask(agent, Call::Summary(request::Summary { peer: peer.to_owned() }))? {
            Answer::Summary(summary) => Ok((agent.clone(), summary)),
            other => Err(unexpected(agent, other)),
        });
    // A peer is rarely known to every speaker.
    let is_unknown =
        |result: &Result<_, CallError>| !peer.is_empty() && matches!(result, Err(CallError::Refused { .. }));
    let (unknown, known): (Vec<_>, Vec<_>) = results.into_iter().partition(is_unknown);
    let mut answers = Answers::of(if known.is_empty() { unknown } else { known })?;
    if let Some(node) = target.node() {
        answers.given.retain(|(_, summary)| summary.node == node);
        if answers.given.is_empty() && answers.is_complete {
            let reason = format!("none of the speakers that answered is that of node {node}");
            return Err(CallError::Question { reason });
        }
    }
    Ok(answers)
}

/// The routes of every speaker that knows `peer`, or of all when that is empty; the name of a reflector is a dash.
pub(super) fn routes(
    target: &Target,
    wanted: &request::Routes,
    peer: &str,
) -> Result<Answers<(String, Vec<Route>)>, CallError> {
    let speakers = summaries(target, peer)?;
    let agents: Vec<Agent> = speakers.given.iter().map(|(agent, _)| agent.clone()).collect();
    let mut answers = Answers::of(each(&agents, |agent| Ok((agent.clone(), ask_routes(agent, wanted)?))))?;
    answers.is_complete &= speakers.is_complete;
    let name = |agent: &Agent| {
        let summary = speakers.given.iter().find(|(other, _)| other == agent);
        summary.map(|(_, summary)| summary.node.clone()).unwrap_or_default()
    };
    let given = answers.given.into_iter().map(|(agent, routes)| (name(&agent), routes));
    let mut given: Vec<_> = given.collect();
    given.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Answers { given, is_complete: answers.is_complete })
}

/// Puts the portions together in which routes come.
fn ask_routes(agent: &Agent, wanted: &request::Routes) -> Result<Vec<Route>, CallError> {
    let mut all = Vec::new();
    let mut refused = None;
    let request = Request { call: Some(Call::Routes(wanted.clone())) };
    call_many(agent, &request, |response: Response| match response.answer {
        Some(Answer::Routes(portion)) => {
            all.extend(portion.routes);
            portion.more
        }
        other => {
            refused = Some(other.unwrap_or_else(|| Answer::Error("the answer is empty".to_owned())));
            false
        }
    })?;
    refused.map_or(Ok(all), |other| Err(unexpected(agent, other)))
}

pub(super) fn ask(agent: &Agent, request: Call) -> Result<Answer, CallError> {
    let response: Response = call(agent, &Request { call: Some(request) })?;
    response.answer.ok_or_else(|| CallError::other_version(agent))
}

pub(super) fn unexpected(agent: &Agent, answer: Answer) -> CallError {
    let reason = match answer {
        Answer::Error(reason) => plain(&reason),
        _ => "the answer is of another version".to_owned(),
    };
    CallError::Refused { agent: agent.to_string(), reason }
}
