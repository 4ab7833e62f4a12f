//! Which speakers are asked.

use std::path::PathBuf;

use clap::Args;

use crate::client::CallError;
use crate::kubectl::Kubectl;
use crate::reach::{Agent, Kind, Reach};

/// Who is asked: the speaker of every node unless one is named.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// Unix socket of the one speaker to ask
    #[arg(long, env = "OCICAT_BGP_SOCKET", value_name = "PATH", conflicts_with = "node")]
    socket: Option<PathBuf>,
    /// Only the speaker of this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

impl Target {
    /// One speaker was named by its socket: its answer is not put into a list.
    pub(crate) fn is_single(&self) -> bool {
        self.socket.is_some()
    }

    /// The cluster is not to be asked.
    pub(crate) fn is_local(&self) -> bool {
        self.reach.is_local()
    }

    /// `kubectl` for the cluster that is meant.
    pub(crate) fn kubectl(&self) -> Kubectl {
        self.reach.kubectl()
    }

    /// Name of the node that is asked about.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The speakers to ask; of some the node is not known before they are asked.
    pub(crate) fn agents(&self) -> Result<Vec<Agent>, CallError> {
        if let Some(socket) = &self.socket {
            return Ok(vec![Agent::at(Kind::BirdLite, socket)]);
        }
        let mut agents = self.reach.places().agents(Kind::BirdLite)?;
        if let Some(node) = self.node() {
            let count = agents.len();
            agents.retain(|agent| agent.node.as_ref().is_none_or(|own| own == node));
            if agents.is_empty() {
                let reason = format!("none of the {count} speakers that can be asked is that of node {node}");
                return Err(CallError::Question { reason });
            }
        }
        Ok(agents)
    }
}
