//! For how long nodes have found addresses to be unused. Owns asking their agents; judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use ipam::gc::{Finding, Problem};
use proto::felix::request::{self, Call};
use proto::felix::response::Answer;
use proto::felix::{Suspect, Suspects};

use crate::client::{Answers, CallError, each};
use crate::felix::ask;
use crate::reach::{Kind, Reach};
use crate::table::duration;

/// What the agents said.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// By node, address and handle.
    known: BTreeMap<(String, String, String), Age>,
    /// Everybody answered who was asked.
    pub(super) is_complete: bool,
}

/// How long an address has been found to be unused, in seconds, and at which age it is taken back; 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    pub(super) seconds: u64,
    pub(super) grace: u64,
}

impl Ages {
    /// Asks the agents of these nodes. One that is silent is told of on standard error.
    pub(super) fn ask(reach: &Reach, nodes: &BTreeSet<String>) -> Result<Self, CallError> {
        if nodes.is_empty() {
            return Ok(Self::told(Vec::new(), true));
        }
        let mut agents = reach.places().agents(Kind::Felix)?;
        // One whose node is not known before it is asked says which it is.
        agents.retain(|agent| agent.node.as_ref().is_none_or(|node| nodes.contains(node)));
        let answers =
            Answers::of(each(&agents, |agent| match ask(agent, Call::Suspects(request::Suspects {}))? {
                Answer::Suspects(suspects) => Ok(suspects),
                _ => Err(CallError::other_version(agent)),
            }))?;
        Ok(Self::told(answers.given, answers.is_complete))
    }

    /// What these said.
    pub(super) fn told(said: Vec<Suspects>, is_complete: bool) -> Self {
        let known = said.into_iter().flat_map(|Suspects { node, grace_seconds, addresses }| {
            addresses.into_iter().map(move |Suspect { address, handle, seconds }| {
                ((node.clone(), address, handle), Age { seconds, grace: grace_seconds })
            })
        });
        Self { known: known.collect(), is_complete }
    }

    /// Of an address that is not in use, when its node says so, too.
    pub(super) fn of(&self, finding: &Finding) -> Option<Age> {
        if !matches!(finding.problem, Problem::NotInUse(_)) {
            return None;
        }
        let (node, address) = (finding.node.as_ref()?.to_string(), finding.address?.to_string());
        self.known.get(&(node, address, finding.handle.clone().unwrap_or_default())).copied()
    }

    /// The same in words; empty when it is not known.
    pub(super) fn text(&self, finding: &Finding) -> String {
        match self.of(finding) {
            None => String::new(),
            Some(Age { seconds, grace: 0 }) => format!("{}, never freed", duration(seconds)),
            Some(Age { seconds, grace }) => format!("{} of {}", duration(seconds), duration(grace)),
        }
    }
}
