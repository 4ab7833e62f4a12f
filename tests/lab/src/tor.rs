//! The top-of-rack router's programs: which to run, with what configuration, all inside the router namespace.
//! Each kind has a file of its own; supervising is `agents`' business.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinHandle;

use crate::agents::{Agent, AgentSpec};
use crate::names::{Family, LabName, netns_path};
use crate::options::TorKind;
use crate::status::TorStatus;
use crate::topology::ROUTER;

mod bird;
mod frr;
mod gobgp;
mod gobgp_routes;

/// How long the nodes' routes stay after a node's speaker went away without a goodbye, in seconds.
const RESTART_SECONDS: u32 = 120;

/// What the router's programs need to know.
pub(crate) struct TorContext<'a> {
    pub(crate) lab: &'a LabName,
    pub(crate) family: Family,
    /// Where configuration, sockets and logs go.
    pub(crate) dir: PathBuf,
}

/// A running router.
pub struct Tor {
    kind: TorKind,
    netns: PathBuf,
    agents: Vec<Arc<Agent>>,
    upkeep: Option<JoinHandle<()>>,
}

impl Tor {
    /// Checks that the programs are there; the error names the Debian package.
    pub fn check_installed(kind: TorKind) -> Result<(), String> {
        match kind {
            TorKind::Bird => find_program("bird", &["/usr/sbin/bird"], "bird2").map(|_| ()),
            TorKind::Gobgp => {
                find_program("gobgpd", &["/usr/bin/gobgpd"], "gobgpd")?;
                find_program("gobgp", &["/usr/bin/gobgp"], "gobgpd").map(|_| ())
            }
            TorKind::Frr => frr::find("bgpd").map(|_| ()),
            TorKind::None => Ok(()),
        }
    }

    /// Writes the configuration and starts the programs.
    pub fn start(lab: &LabName, kind: TorKind, family: Family) -> anyhow::Result<Self> {
        let dir = lab.state_dir().join(ROUTER);
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let netns = netns_path(&lab.netns(ROUTER));
        let context = TorContext { lab, family, dir };
        let specs = match kind {
            TorKind::Bird => bird::prepare(&context)?,
            TorKind::Gobgp => gobgp::prepare(&context)?,
            TorKind::Frr => frr::prepare(&context)?,
            TorKind::None => Vec::new(),
        };
        let agents = specs.into_iter().map(Agent::start).collect();
        let upkeep = (kind == TorKind::Gobgp).then(|| tokio::spawn(gobgp_routes::follow(netns.clone())));
        Ok(Self { kind, netns, agents, upkeep })
    }

    /// What status shows.
    pub fn status(&self) -> TorStatus {
        TorStatus {
            kind: self.kind.as_str().to_owned(),
            netns: self.netns.clone(),
            agents: self.agents.iter().map(|a| a.status()).collect(),
        }
    }

    /// The supervised programs.
    pub fn agents(&self) -> &[Arc<Agent>] {
        &self.agents
    }

    /// Ends the programs; their routes go with the namespace.
    pub async fn end(&self) {
        if let Some(task) = &self.upkeep {
            task.abort();
        }
        for agent in &self.agents {
            agent.end().await;
        }
    }
}

impl TorContext<'_> {
    /// A program of the router in its namespace.
    pub(crate) fn spec(&self, name: &str, command: Vec<String>) -> AgentSpec {
        AgentSpec {
            name: name.to_owned(),
            command,
            environment: Vec::new(),
            netns: netns_path(&self.lab.netns(ROUTER)),
            log: self.dir.join(format!("{name}.log")),
            readiness: None,
            confinement: None,
        }
    }

    /// Writes a file of the router and returns its path.
    pub(crate) fn write(&self, file: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.dir.join(file);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

/// Finds a program at one of its usual places or on the PATH.
pub(crate) fn find_program(name: &str, usual: &[&str], package: &str) -> Result<PathBuf, String> {
    let on_path = std::env::var("PATH").unwrap_or_default();
    let on_path = on_path.split(':').filter(|d| !d.is_empty()).map(|d| Path::new(d).join(name));
    usual
        .iter()
        .map(PathBuf::from)
        .chain(on_path)
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed; on Debian: apt-get install {package}"))
}

#[cfg(test)]
pub(crate) fn test_context(lab: &LabName, family: Family) -> TorContext<'_> {
    TorContext { lab, family, dir: PathBuf::from("/nowhere") }
}
