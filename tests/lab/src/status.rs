//! What `lab status` shows: the JSON that scripts read, and the table that people read.
//! Pure data; collecting it is the daemon's work.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::Family;

/// A lab as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabStatus {
    /// The lab's name.
    pub name: String,
    /// `starting`, `ready`, `failed` or `stopping`; nodes that become unready later show in `nodes`.
    pub phase: String,
    /// Kubeconfig for the host.
    pub kubeconfig: PathBuf,
    /// The directory with sockets and logs.
    pub state_dir: PathBuf,
    /// Address families.
    pub family: Family,
    /// Pods' IPv4 pool as the lab created it.
    pub pod_cidr: String,
    /// Encapsulation as the lab set it at the start.
    pub encap: String,
    /// The API server.
    pub apiserver: ApiServerStatus,
    /// `controllers`; absent in a lab without it.
    pub controllers: Option<AgentStatus>,
    /// The router.
    pub tor: TorStatus,
    /// The nodes by number.
    pub nodes: Vec<NodeStatus>,
    /// The pods on them by name.
    pub pods: Vec<PodStatus>,
}

/// The API server of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiServerStatus {
    /// Its URL for the host.
    pub url: String,
    /// `running` or `stopped`.
    pub state: String,
    /// Whether it lives in the daemon.
    pub embedded: bool,
}

/// The top-of-rack router of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TorStatus {
    /// `bird`, `gobgp`, `frr` or `none`.
    pub kind: String,
    /// Its namespace.
    pub netns: PathBuf,
    /// Its processes.
    pub agents: Vec<AgentStatus>,
}

/// A supervised process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// `felix`, `bird-lite`, `bird`, ….
    pub name: String,
    /// `running`, `backoff`, `stopped`.
    pub state: String,
    /// Process id while running.
    pub pid: Option<u32>,
    /// How often it was started again after an end that nobody asked for.
    pub restarts: u32,
    /// How the last run ended.
    pub last_exit: Option<String>,
    /// Whether /readiness answered 200 when last asked; absent for what has none.
    pub ready: Option<bool>,
    /// Its log.
    pub log: PathBuf,
}

/// A node of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its subnet's number.
    pub subnet: u32,
    /// Whether the Node object says Ready.
    pub ready: bool,
    /// `up` or `down`.
    pub link: String,
    /// Its namespace.
    pub netns: PathBuf,
    /// felix and bird-lite.
    pub agents: Vec<AgentStatus>,
}

/// A pod on a node of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `namespace/pod`.
    pub name: String,
    /// The node's name.
    pub node: String,
    /// Its addresses; empty until it is wired.
    pub addresses: Vec<IpAddr>,
    /// Whether it is Ready.
    pub ready: bool,
    /// `creating`, `running`, `terminating`.
    pub phase: String,
    /// Whether it uses the node's network.
    pub host_network: bool,
    /// The namespace that it is in.
    pub netns: PathBuf,
    /// Why it is not ready.
    pub message: Option<String>,
}

impl LabStatus {
    /// The table for people.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let api = if self.apiserver.embedded { "embedded" } else { "external" };
        writeln!(out, "lab {} is {} (encap {}, family {})", self.name, self.phase, self.encap, self.family)
            .ok();
        writeln!(out, "kubeconfig {}", self.kubeconfig.display()).ok();
        writeln!(out, "apiserver  {} {} ({api})", self.apiserver.url, self.apiserver.state).ok();
        if let Some(controllers) = &self.controllers {
            writeln!(out, "webhook    {}", controllers.render()).ok();
        }
        let tor: Vec<String> = self.tor.agents.iter().map(AgentStatus::render).collect();
        writeln!(out, "tor        {} {}", self.tor.kind, tor.join(", ")).ok();
        let mut rows = vec![row(["NODE", "READY", "SUBNET", "LINK", "ADDRESSES", "AGENTS"])];
        for node in &self.nodes {
            let agents: Vec<String> = node.agents.iter().map(AgentStatus::render).collect();
            rows.push(vec![
                node.name.clone(),
                yes_no(node.ready),
                node.subnet.to_string(),
                node.link.clone(),
                join(&node.addresses),
                agents.join(", "),
            ]);
        }
        out.push('\n');
        out.push_str(&columns(&rows));
        if !self.pods.is_empty() {
            let mut rows = vec![row(["POD", "READY", "PHASE", "NODE", "ADDRESSES", "MESSAGE"])];
            for pod in &self.pods {
                rows.push(vec![
                    pod.name.clone(),
                    yes_no(pod.ready),
                    pod.phase.clone(),
                    pod.node.clone(),
                    join(&pod.addresses),
                    pod.message.clone().unwrap_or_default(),
                ]);
            }
            out.push('\n');
            out.push_str(&columns(&rows));
        }
        out
    }
}

impl AgentStatus {
    fn render(&self) -> String {
        let mut text = format!("{} {}", self.name, self.state);
        if self.state == "running" && self.ready == Some(false) {
            text.push_str(" unready");
        }
        if self.restarts > 0 {
            write!(text, " ({} restarts)", self.restarts).ok();
        }
        text
    }
}

/// Lays rows out in columns of equal width.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: String = row.iter().zip(&widths).map(|(cell, &w)| format!("{cell:<w$}  ")).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn yes_no(yes: bool) -> String {
    (if yes { "yes" } else { "no" }).to_owned()
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_do_not_trail_blanks() {
        let rows = vec![row(["a", "bb", ""]), row(["ccc", "d", "e"])];
        assert_eq!(columns(&rows), "a    bb\nccc  d   e\n");
    }

    #[test]
    fn status_keeps_its_keys() {
        let agent = AgentStatus {
            name: "felix".into(),
            state: "running".into(),
            pid: Some(7),
            restarts: 1,
            last_exit: None,
            ready: Some(true),
            log: "/x".into(),
        };
        assert_eq!(
            serde_json::to_value(&agent).unwrap(),
            serde_json::json!({"name": "felix", "state": "running", "pid": 7, "restarts": 1, "lastExit": null,
                "ready": true, "log": "/x"})
        );
        assert_eq!(agent.render(), "felix running (1 restarts)");
    }
}
