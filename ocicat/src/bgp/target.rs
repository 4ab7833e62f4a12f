//! Which speakers are asked.

use std::path::{Path, PathBuf};

use clap::Args;

use super::AGENT;
use crate::client::CallError;
use crate::sockets::{LABS, find};

/// Where a node's speaker and a route reflector listen unless told otherwise.
const PLACES: [&str; 2] = ["/var/run/calico/bird-lite.sock", "/run/route-reflector.sock"];
const SOCKET: &str = "bird-lite.sock";

/// Who is asked: every speaker of this machine unless one is named; a summary tells of other nodes of the cluster, too.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// Unix socket of the one speaker to ask
    #[arg(long, env = "OCICAT_BGP_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Only the speaker of this node
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    node: Option<String>,
    /// Only speakers of this machine: the cluster is not asked
    #[arg(long)]
    local: bool,
}

impl Target {
    /// One speaker was named by its socket: its answer is not put into a list.
    pub(crate) fn is_single(&self) -> bool {
        self.socket.is_some()
    }

    /// The cluster is not to be asked.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// Name of the node that is asked about.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The sockets to ask, in order of their paths.
    pub(crate) fn sockets(&self) -> Result<Vec<PathBuf>, CallError> {
        if let Some(socket) = &self.socket {
            return Ok(vec![socket.clone()]);
        }
        let found = find(PLACES.iter().map(Path::new), Path::new(LABS), SOCKET);
        if found.is_empty() {
            let tried = PLACES.iter().map(|p| (*p).to_owned());
            let tried = tried.chain([format!("{LABS}/*/*/{SOCKET}")]).collect();
            return Err(CallError::Nowhere { agent: AGENT, tried });
        }
        Ok(found)
    }
}
